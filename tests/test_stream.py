"""A recording window by window: each window against the network on frames made by hand; the command; wrong input."""

import csv
import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from event_layouts import moving_bar, write_five_byte
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from maqd_snn import fold, simulate
from maqd_snn.cli import main
from maqd_snn.commands.stream import window_us
from maqd_snn.datasets.events.frames import FrameScheme, to_frames
from maqd_snn.datasets.events.recording import EVENT_DTYPE
from maqd_snn.datasets.events.transforms import denoise
from maqd_snn.errors import MaqdError
from maqd_snn.integer import IntegerNetwork
from maqd_snn.reporting.stream_figure import save_stream_figure
from maqd_snn.windows import (
    Window,
    _Denoiser,
    classify_windows,
    count_recordings_right,
    stable_from,
    windows_csv,
)

SIDE, WINDOW = 32, 10_000
SCHEME = FrameScheme(slices=1, largest=3, downsample=4, layout="stream")
SCHEMES = {1: SCHEME, 3: FrameScheme(slices=3, largest=3, downsample=4)}


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
    windows = list(classify_windows(net, iter(parts), (SIDE, SIDE), SCHEMES[slices], WINDOW, int(events["t"][0])))
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


def test_recordings_are_right_by_the_sum_of_their_frames(networks):
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 4, (70 * 3, 2, 8, 8), generator=generator, dtype=torch.uint8)
    scores = networks[1](codes).reshape(70, 3, 5)
    winners = scores.sum(1).argmax(1)
    assert (scores.argmax(2) != winners[:, None]).any()
    labels = winners.clone()
    labels[:20] = (labels[:20] + 1) % 5
    assert count_recordings_right(networks[1], codes, labels.repeat_interleave(3), 3) == 50
    with pytest.raises(MaqdError, match="expected recordings of 4 frames each, got 210 frames"):
        count_recordings_right(networks[1], codes, labels, 4)


def test_the_batch_of_windows_changes_no_number(networks, monkeypatch):
    parts = cut(recording())
    whole = list(classify_windows(networks[3], parts, (SIDE, SIDE), SCHEMES[3], WINDOW, 0))
    monkeypatch.setattr("maqd_snn.windows.BATCH", 7)
    assert list(classify_windows(networks[3], parts, (SIDE, SIDE), SCHEMES[3], WINDOW, 0)) == whole


def test_denoising_sees_earlier_windows(networks):
    """What the network is shown is cut from the recording denoised as a whole, as in training."""
    events, within = moving_bar(3, count=6000, span_us=200_000, side=SIDE), 1500
    events = events[(events["t"] < 50_000) | (events["t"] >= 75_000)]
    clean = denoise(events, (SIDE, SIDE), within)
    assert 0.2 * len(events) < len(clean) < 0.8 * len(events)
    alone = sum(len(denoise(part, (SIDE, SIDE), within)) for part in cut(events))
    assert alone < len(clean)  # so windows denoised by themselves would be seen here
    begin, end = int(events["t"][0]), int(events["t"][-1])
    parts = [clean[(clean["t"] >= at) & (clean["t"] < at + WINDOW)] for at in range(begin, end + 1, WINDOW)]
    noisy = replace(SCHEME, denoise_us=within)
    found = list(classify_windows(networks[1], cut(events), (SIDE, SIDE), noisy, WINDOW, begin))
    expected = list(classify_windows(networks[1], parts, (SIDE, SIDE), SCHEME, WINDOW, begin))
    assert [window.total for window in found] == [window.total for window in expected]
    assert sum(window.events for window in found) == len(events)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 3), st.integers(0, 1)), max_size=40),
    st.lists(st.integers(0, 40), max_size=6),
    st.integers(1, 12),
)
def test_denoising_in_parts_is_denoising(rows, cuts, within):
    events = np.array(rows, EVENT_DTYPE)
    events["t"] = np.cumsum(events["t"])
    edges = [0, *sorted(min(at, len(events)) for at in cuts), len(events)]
    denoiser = _Denoiser((4, 4), within)
    parts = [denoiser.of(events[start:stop]) for start, stop in pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(parts), denoise(events, (4, 4), within))


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
        (
            (SIDE, SIDE),
            SCHEMES[3],
            r"takes 2 channels, 1 slices, but the input scheme \(slices=3, layout=channels\) giv",
        ),
        (
            (SIDE, SIDE),
            replace(SCHEME, kind="analog"),
            "input is of kind=events, but the input scheme says kind=analog",
        ),
        ((SIDE, SIDE), replace(SCHEME, slices=4, by="count"), r"equally many events \(by=count\), which no window"),
        (
            (SIDE, SIDE),
            replace(SCHEME, by="window", window_us=20_000),
            r"slices last 20000 us \(by=window\), but the window 10000 us; give a window of 20000 us",
        ),
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
    expected = list(classify_windows(networks[3], cut(recording()), (SIDE, SIDE), SCHEMES[3], WINDOW, 0))
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
    assert [int(row["correct"]) for row in rows] == [int(window.total_winner == 1) for window in expected]
    assert [window.total_winner == 1 for window in expected] == result["correct"]
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


def test_correct_follows_the_sum(files, networks):
    begin = int(recording()["t"][0])
    windows = list(classify_windows(networks[3], cut(recording()), (SIDE, SIDE), SCHEMES[3], WINDOW, begin))
    leaders = [number // 3 % 5 for number in range(len(windows))]
    windows = [replace(window, total_winner=leader) for window, leader in zip(windows, leaders, strict=True)]
    rows = list(csv.DictReader(windows_csv(windows, list("abcde"), leaders[-1]).splitlines()))
    assert [row["correct"] == "1" for row in rows] == [leader == leaders[-1] for leader in leaders]
    assert "correct" not in windows_csv(windows, list("abcde"))
    for label in (None, leaders[-1]):
        save_stream_figure(windows, list("abcde"), 0, "it", files / f"{label}.png", label)
    with Image.open(files / "None.png") as without, Image.open(files / f"{leaders[-1]}.png") as drawn:
        assert drawn.size[1] > without.size[1]  # a strip and a curve more


def test_durations():
    assert [window_us(text) for text in ("1us", "0.5ms", "20ms", "1s")] == [1, 500, 20_000, 1_000_000]
    assert [window_us(f"{us // 1000}.{us % 1000:03d}ms") for us in range(1, 5000)] == list(range(1, 5000))
    for text in ("1.0001ms", "0.5us", "3600.000001s"):
        with pytest.raises(MaqdError, match="--window expects whole microseconds"):
            window_us(text)


def test_a_gap_is_refused_before_it_is_streamed(files, capsys, monkeypatch):
    (files / "gap.csv").write_text("t,x,y,p\n0,1,1,1\n5,1,1,1\n100000000000,2,2,1\n")
    with monkeypatch.context() as patch:
        patch.setattr("maqd_snn.windows.classify_windows", lambda *_: pytest.fail("it would not end"))
        assert main(["stream", "net1.h5", "gap.csv", *OPTIONS]) == 2
    words = (
        "'gap.csv' lasts 10,000,001 windows of 10ms, more than 100,000; its longest gap without events is from 5 to "
        "100000000000 us (100,000 s); give a longer --window"
    )
    assert words in capsys.readouterr().err
    assert not list(files.glob("gap-stream*"))
    monkeypatch.setattr("maqd_snn.commands.stream.LARGEST_WINDOWS", 20)  # as many as the recording lasts
    assert main(["stream", "net1.h5", "bar.bin", *OPTIONS]) == 0
    monkeypatch.setattr("maqd_snn.commands.stream.LARGEST_WINDOWS", 19)
    assert main(["stream", "net1.h5", "bar.bin", *OPTIONS]) == 2


def keep(network, path, dataset):
    IntegerNetwork(network.ops, {"recipe": {"dataset": dataset}}).save(path)


def test_the_window_is_that_of_the_slices(files, networks, capsys):
    keep(
        networks[1], files / "own.h5", "dvs128-gesture:largest=3,by=window,window_us=10000,layout=stream,downsample=16"
    )
    arguments = ["stream", "own.h5", "bar.bin"]
    assert main(arguments) == 0
    assert "bar.bin: 20 windows of 10000us" in capsys.readouterr().out
    assert main([*arguments, "--window", "20ms"]) == 2
    assert "slices last 10000 us (by=window), but the window 20000 us" in capsys.readouterr().err
    assert main([*arguments, "--window", "20ms", "--scheme", "window_us=20000"]) == 0


def test_the_training_folder_is_not_needed(files, networks, capsys):
    dataset = "folder:path=gone,sensor=32x32,layout=stream,largest=3,downsample=4"
    (files / "run").mkdir()
    keep(networks[1], files / "run" / "network.h5", dataset)
    assert main(["stream", "run", "bar.bin"]) == 0
    assert "answer       class " in capsys.readouterr().out
    card = {"classes": [f"sign {number}" for number in range(5)]}
    report = {"schema": 1, "recipe": {"dataset": dataset}, "dataset": card}
    (files / "run" / "report.json").write_text(json.dumps(report))
    for network in ("run", "run/network.h5"):
        assert main(["stream", network, "bar.bin"]) == 0
        assert "answer       sign " in capsys.readouterr().out
    (files / "run" / "report.json").write_text(json.dumps(report | {"recipe": {}}))  # of another network
    assert main(["stream", "run", "bar.bin"]) == 0
    assert "answer       class " in capsys.readouterr().out
    keep(networks[1], files / "other.h5", "a dataset of another version")
    assert main(["stream", "other.h5", "bar.bin"]) == 2
    assert main(["stream", "other.h5", "bar.bin", "--sensor", "32x32", "--scheme", "downsample=4"]) == 0


def test_messages_name_the_options_of_the_command(files, capsys):
    (files / "back.csv").write_text("t,x,y,p\n5,1,1,1\n3,1,1,1\n60000,2,2,1\n")
    assert main(["stream", "net1.h5", "back.csv", *OPTIONS]) == 2
    error = capsys.readouterr().err
    assert "; --skip-damaged drops such events\n" in error
    assert "unordered" not in error
    assert main(["stream", "net1.h5", "back.csv", *OPTIONS, "--skip-damaged"]) == 0
    assert "6 windows of 10ms, 2 events; left out: 0 bytes, 1 events\n" in capsys.readouterr().out
    (files / "back.csv").write_text("t,x,y,p\n5,1,1,1\nabc\n60000,2,2,1\n")
    result = files / "result.json"
    assert main(["stream", "net1.h5", "back.csv", *OPTIONS, "--skip-damaged", "--json", str(result)]) == 0
    assert "2 events; left out: 4 bytes, 0 events\n" in capsys.readouterr().out
    assert (json.loads(result.read_text())["skipped_bytes"], json.loads(result.read_text())["skipped_events"]) == (4, 0)
    assert main(["stream", "net1.h5", "bar.bin", *OPTIONS, "--max-gb", "0.000001"]) == 2
    assert "raise --max-gb" in capsys.readouterr().err


def test_a_figure_needs_windows(tmp_path):
    with pytest.raises(MaqdError, match="at least one window"):
        save_stream_figure([], ["a"], None, "", tmp_path / "x.png")
