"""A recording window by window: each window against the network on frames made by hand; the command; wrong input."""

import csv
import json

import numpy as np
import pytest
import torch
from event_layouts import moving_bar, write_five_byte

from maqd_snn import fold, simulate
from maqd_snn.cli import main
from maqd_snn.commands.stream import window_us
from maqd_snn.datasets.events.frames import FrameScheme, to_frames
from maqd_snn.errors import MaqdError
from maqd_snn.integer import IntegerNetwork
from maqd_snn.reporting.stream_figure import save_stream_figure
from maqd_snn.windows import Window, classify_windows, stable_from

SIDE, WINDOW = 32, 10_000
SCHEME = FrameScheme(slices=1, largest=3, downsample=4, layout="stream")


@pytest.fixture(scope="module")
def networks(make_model):
    """Networks of one and of three slices."""
    options = {"plan": "8-M-8", "zero_point": 0, "input_range": (0, 3), "input_kind": "events"}
    return {t: fold(make_model("vgg", 2, 3, input_shape=(2 * t, 8, 8), **options)) for t in (1, 3)}


def recording():
    events = moving_bar(3, count=3000, span_us=200_000, side=SIDE)
    return events[(events["t"] < 50_000) | (events["t"] >= 75_000)]  # windows without events among them


def cut(events, window=WINDOW):
    begin, end = int(events["t"][0]), int(events["t"][-1])
    return [events[(events["t"] >= at) & (events["t"] < at + window)] for at in range(begin, end + 1, window)]


@pytest.mark.parametrize("slices", [1, 3])
def test_every_window_is_one_step_of_the_network(networks, slices):
    net, events = networks[slices], recording()
    parts = cut(events)
    assert len(parts) == 20
    assert not all(len(part) for part in parts)
    windows = list(classify_windows(net, iter(parts), (SIDE, SIDE), SCHEME, WINDOW, int(events["t"][0])))
    scheme = FrameScheme(slices=1, largest=3, downsample=4)
    frames = [np.zeros((2, 8, 8), np.uint8)] * (slices - 1) + [to_frames(part, (SIDE, SIDE), scheme) for part in parts]
    total = torch.zeros(5, dtype=torch.int64)
    for number, window in enumerate(windows):
        codes = torch.from_numpy(np.concatenate(frames[number : number + slices])[None])
        scores = torch.from_numpy(net.reference(codes.numpy())[0])
        total += scores
        counts = simulate(net, [codes]).total
        assert window == Window(
            begin_us=int(events["t"][0]) + WINDOW * number,
            end_us=int(events["t"][0]) + WINDOW * (number + 1),
            events=len(parts[number]),
            scores=tuple(scores.tolist()),
            winner=int(scores.argmax()),
            total=tuple(total.tolist()),
            total_winner=int(total.argmax()),
            spikes=counts.spikes,
            synops=counts.synops,
            effective_synops=counts.effective_synops,
            macs=0,
        )


def test_the_batch_of_windows_changes_no_number(networks, monkeypatch):
    parts = cut(recording())
    whole = list(classify_windows(networks[3], parts, (SIDE, SIDE), SCHEME, WINDOW, 0))
    monkeypatch.setattr("maqd_snn.windows.BATCH", 7)
    assert list(classify_windows(networks[3], parts, (SIDE, SIDE), SCHEME, WINDOW, 0)) == whole


@pytest.mark.parametrize(
    ("leaders", "expected"), [([], None), ([4], 0), ([1, 1], 0), ([0, 1, 1], 1), ([1, 0, 1], 2), ([1, 1, 0], 2)]
)
def test_an_answer_is_stable_from_its_last_change_on(leaders, expected):
    windows = [Window(0, 1, 0, (0,), 0, (0,), leader, 0, 0, 0, 0) for leader in leaders]
    assert stable_from(windows) == expected


@pytest.mark.parametrize(
    ("sensor", "scheme", "words"),
    [
        (
            (SIDE, SIDE),
            FrameScheme(largest=3, downsample=2),
            r"\(2, 8, 8\), but windows .* 32 x 32 pixels give 0..3 and",
        ),
        ((SIDE, SIDE), FrameScheme(largest=1, downsample=4), "takes codes 0..3 .* give 0..1"),
        ((64, SIDE), SCHEME, r"64 x 32 pixels give 0..3 and \(2T, 8, 16\)"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(networks, sensor, scheme, words):
    with pytest.raises(MaqdError, match=words):
        list(classify_windows(networks[1], cut(recording()), sensor, scheme, WINDOW, 0))


@pytest.fixture
def files(networks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for slices, net in networks.items():
        IntegerNetwork(net.ops, {"created": "in a test"}).save(tmp_path / f"net{slices}.h5")
    write_five_byte(tmp_path / "bar.bin", recording())
    return tmp_path


OPTIONS = ["--window", "10ms", "--sensor", "32x32", "--scheme", "largest=3,downsample=4"]


def test_the_command_writes_numbers_and_a_figure(files, networks, capsys):
    arguments = ["stream", "net3.h5", "bar.bin", *OPTIONS, "--json", "out.json", "--label", "class 1"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    rows = list(csv.DictReader((files / "bar-stream.csv").read_text().splitlines()))
    result = json.loads((files / "out.json").read_text())
    expected = list(classify_windows(networks[3], cut(recording()), (SIDE, SIDE), SCHEME, WINDOW, 0))
    assert len(rows) == len(result["windows"]) == 20
    for row, window in zip(rows, expected, strict=True):
        assert [int(row[f"score class {label}"]) for label in range(5)] == list(window.scores)
        assert [int(row[f"total class {label}"]) for label in range(5)] == list(window.total)
        assert (int(row["events"]), int(row["synops"]), int(row["spikes"])) == (
            window.events,
            window.synops,
            window.spikes,
        )
    answer = f"class {expected[-1].total_winner}"
    assert result["answer"] == answer
    assert result["latency_us"] == WINDOW * (stable_from(expected) + 1)
    right = sum(window.total_winner == 1 for window in expected) / 20
    assert result["accuracy_summed"] == right
    for words in (f"answer       {answer}", f"{100 * right:.1f} % summed", "20 windows of 10ms"):
        assert words in printed
    assert (files / "bar-stream.png").read_bytes().startswith(b"\x89PNG")
    assert main([*arguments, "--figure", "bar.svg"]) == 0
    drawn = (files / "bar.svg").read_text()
    assert "stable after" in drawn or "<svg" in drawn


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.h5", "bar.bin", *OPTIONS], "there is no network file 'none.h5'"),
        (["net1.h5", "none.bin", *OPTIONS], "none.bin"),
        (["net1.h5", "bar.bin"], "the network was not trained on event recordings; give --sensor and --scheme"),
        (
            ["net1.h5", "bar.bin", *OPTIONS, "--window", "20"],
            "--window expects whole microseconds, as 20ms",
        ),
        (["net1.h5", "bar.bin", *OPTIONS, "--window", "0ms"], "--window expects whole microseconds"),
        (["net1.h5", "bar.bin", *OPTIONS, "--sensor", "32"], "--sensor expects WIDTHxHEIGHT in pixels"),
        (["net1.h5", "bar.bin", *OPTIONS, "--sensor", "64x32"], "64x32|64 x 32"),
        (["net1.h5", "bar.bin", *OPTIONS, "--scheme", "slice=2"], "unknown field 'slice=2'"),
        (["net1.h5", "bar.bin", *OPTIONS, "--label", "cat"], "--label expects one of class 0, class 1"),
        (["net1.h5", "bar.bin", *OPTIONS, "--figure", "x.gif"], "a figure is written as .png, .svg or .pdf"),
        (["net1.h5", "empty.bin", *OPTIONS], "empty.bin': holds no events"),
    ],
)
def test_wrong_input_is_one_sentence_and_leaves_nothing(files, capsys, arguments, words):
    (files / "empty.bin").write_bytes(b"")
    before = {path.name for path in files.iterdir()}
    assert main(["stream", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert any(word in captured.err for word in words.split("|")), captured.err
    assert {path.name for path in files.iterdir()} == before


def test_durations():
    assert [window_us(text) for text in ("1us", "0.5ms", "20ms", "1s")] == [1, 500, 20_000, 1_000_000]


def test_a_figure_needs_windows(tmp_path):
    with pytest.raises(MaqdError, match="at least one window"):
        save_stream_figure([], ["a"], None, "", tmp_path / "x.png")
