"""Event datasets: each in its original layout on disk, its split, its store, its codes; and what is wrong with them."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from event_layouts import (
    gesture_clips,
    moving_bar,
    write_aedat2,
    write_dat,
    write_five_byte,
    write_gesture,
)

import maqd_snn
from maqd_snn import datasets
from maqd_snn.cli import main
from maqd_snn.datasets import DATASETS, load, load_splits
from maqd_snn.datasets.events import sets
from maqd_snn.datasets.events.frames import FrameScheme, to_frames
from maqd_snn.datasets.events.recording import EventFileError
from maqd_snn.datasets.events.store import EventStore
from maqd_snn.errors import MaqdError
from maqd_snn.training import get_recipe

EVENT_SETS = ("nmnist", "dvs128-gesture", "cifar10-dvs", "ncaltech101", "ncars")
LABELS = (1, 2, 8, 11)
USERS = {
    1: ("train", LABELS),
    2: ("train", LABELS),
    3: ("train", LABELS[::-1]),
    4: ("train", LABELS),
    24: ("test", LABELS),
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Nothing may be written outside the test's folder, a root without write access included."""
    monkeypatch.setattr(sets.pooch, "os_cache", lambda name: tmp_path / "cache" / name)


def write_nmnist(root, train=3, test=1, digits=range(10)):
    written = {}
    for part, count in (("Train", train), ("Test", test)):
        for digit in digits:
            for index in range(count):
                events = moving_bar(digit + 10 * index, count=300, span_us=300_000, side=34)
                path = root / "nmnist" / part / str(digit) / f"{index + 1:05d}.bin"
                write_five_byte(path, events)
                written[path] = events
    return written


def write_cifar(root, each=10):
    for number, name in enumerate(DATASETS["cifar10-dvs"].card.classes):
        for index in range(each):
            events = moving_bar(number + index, count=200)
            write_aedat2(root / "CIFAR10DVS" / name / f"cifar10_{name}_{index}.aedat", events)


def test_nmnist_from_disk_to_codes(tmp_path):
    written = write_nmnist(tmp_path)
    parts = load_splits("nmnist:slices=2,by=count,largest=2", tmp_path)
    card = parts.test.card
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (27, 3, 10)
    assert card.title == "N-MNIST (30 of 60,000 training and 10 of 10,000 test recordings)"
    assert (card.shape, card.low, card.high, card.kind) == ((4, 34, 34), 0, 2, "events")
    scheme = FrameScheme(slices=2, by="count", largest=2)
    for path, events in written.items():
        if path.parts[-3] == "Test":
            row = int(path.parts[-2])
            expected = to_frames(events, (34, 34), scheme)
            np.testing.assert_array_equal(parts.test.codes[row].numpy(), expected)
            assert parts.test.labels[row] == row
    both, test = load("nmnist", tmp_path)
    assert (len(both), both.card.train, both.card.validation, len(test)) == (30, 27, 3, 10)
    again = load_splits("nmnist:slices=2,by=count,largest=2", tmp_path)
    assert torch.equal(again.train.codes, parts.train.codes)
    assert torch.equal(again.validation.labels, parts.validation.labels)


def test_the_store_is_made_once_and_again_where_files_change(tmp_path):
    write_nmnist(tmp_path)
    path = tmp_path / "stores" / "nmnist.h5"
    first = load("nmnist", tmp_path)[1]
    made = path.stat().st_mtime_ns
    load("nmnist:slices=5", tmp_path)
    assert path.stat().st_mtime_ns == made  # another scheme needs no other store
    write_five_byte(tmp_path / "nmnist" / "Test" / "0" / "00001.bin", moving_bar(7, count=400, side=34))
    second = load("nmnist", tmp_path)[1]
    assert path.stat().st_mtime_ns != made
    assert not torch.equal(first.codes[0], second.codes[0])
    assert torch.equal(first.codes[1:], second.codes[1:])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    assert torch.equal(load("nmnist", tmp_path)[1].codes, second.codes)  # a damaged one is made again
    with EventStore(path) as store:
        assert store.names[-1] == "nmnist/Test/9/00001.bin"
        assert store.facts["card"]["licence"] == "CC BY-SA 4.0"


def test_a_store_is_enough_where_the_recordings_are_gone(tmp_path):
    write_nmnist(tmp_path)
    before = load("nmnist", tmp_path)[1]
    shutil.rmtree(tmp_path / "nmnist")
    assert torch.equal(load("nmnist", tmp_path)[1].codes, before.codes)
    (tmp_path / "stores" / "nmnist.h5").write_bytes(b"no")
    with pytest.raises(MaqdError, match="nmnist.h5' is not a usable event store file"):
        load("nmnist", tmp_path)


def test_a_root_that_cannot_be_written_has_its_store_in_the_cache(tmp_path, monkeypatch):
    write_nmnist(tmp_path / "root")
    monkeypatch.setattr(os, "access", lambda *_: False)
    load("nmnist", tmp_path / "root")
    assert [path.name for path in (tmp_path / "cache").rglob("*.h5")] == ["nmnist.h5"]
    assert not (tmp_path / "root" / "stores").exists()


def test_one_damaged_file_is_named_or_left_out_and_counted(tmp_path, capsys):
    write_nmnist(tmp_path)
    (tmp_path / "nmnist" / "Train" / "4" / "00002.bin").write_bytes(b"1234567")
    write_five_byte(tmp_path / "nmnist" / "Train" / "5" / "00001.bin", moving_bar(0, count=0, side=34))
    with pytest.raises(EventFileError, match=r"4/00002.bin'.*load 'nmnist:damaged=skip' to leave such recordings out"):
        load("nmnist", tmp_path)
    assert not (tmp_path / "stores" / "nmnist.h5").exists()
    both, test = load("nmnist:slices=2,damaged=skip", tmp_path)
    assert (len(both), len(test)) == (28, 10)
    assert both.card.title.endswith("(28 of 60,000 training and 10 of 10,000 test recordings; 2 damaged left out)")
    assert (
        "left out 2 damaged recordings: nmnist/Train/4/00002.bin, nmnist/Train/5/00001.bin" in capsys.readouterr().err
    )


@pytest.mark.parametrize("gap", [2**31, 10**11])
def test_a_gap_in_time_is_damage(tmp_path, gap):
    for number, name in enumerate(("left", "right")):
        for index in range(5):
            (tmp_path / "g" / name).mkdir(parents=True, exist_ok=True)
            events = moving_bar(number + index, count=20, side=34)
            rows = [f"{t},{x},{y},{p}\n" for t, x, y, p in events.tolist()]
            (tmp_path / "g" / name / f"{index}.csv").write_text("".join(rows))
    file = tmp_path / "g" / "left" / "2.csv"
    file.write_text(f"0,1,1,1\n{gap},2,2,1\n")
    name = "folder:path=g,sensor=34x34"
    hint = rf"left/2.csv': neighbouring events are 2\^31 microseconds .* apart.*; load '{name},damaged=skip' to leave"
    with pytest.raises(EventFileError, match=hint):
        load(name, tmp_path)
    both, test = load(f"{name},damaged=skip", tmp_path)
    assert (len(both), len(test)) == (7, 2)
    assert both.card.title.endswith("1 damaged left out)")
    (tmp_path / "g" / ".cache").mkdir()  # hidden folders are no classes
    assert load(f"{name},damaged=skip", tmp_path)[0].card.classes == ("left", "right")


def test_what_does_not_fit_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    write_nmnist(tmp_path)
    monkeypatch.setattr(sets, "LARGEST_CODES", 40 * 6 * 34 * 34 - 1)
    with pytest.raises(MaqdError, match=r"40 recordings as codes of shape \(6, 34, 34\) are 0 GiB, beyond the limit"):
        load("nmnist", tmp_path)
    assert not (tmp_path / "stores").exists()
    monkeypatch.setattr(sets, "LARGEST_CODES", 40 * 6 * 34 * 34)
    load("nmnist", tmp_path)
    with pytest.raises(MaqdError, match=r"shape \(4, 2, 34, 34\)"):
        load("nmnist:layout=stream,slices=4", tmp_path)
    shutil.rmtree(tmp_path / "nmnist")
    with pytest.raises(MaqdError, match=r"40 recordings as codes of shape \(8, 34, 34\)"):
        load("nmnist:slices=4", tmp_path)


def test_a_store_is_of_one_sensor_and_of_these_readers(tmp_path, monkeypatch):
    for number, name in enumerate(("left", "right")):
        for index in range(5):
            write_five_byte(tmp_path / "g" / name / f"{index}.bin", moving_bar(number + index, count=90, side=32))
    wide, narrow = "folder:path=g,sensor=40x36", "folder:path=g,sensor=32x32"
    load(wide, tmp_path)
    (path,) = (tmp_path / "stores").iterdir()
    load(narrow, tmp_path)
    with EventStore(path) as store:
        assert store.sensor == (32, 32)
    made = path.stat().st_mtime_ns
    load(narrow, tmp_path)
    assert path.stat().st_mtime_ns == made
    with pytest.raises(EventFileError, match="outside the sensor of 20 x 20"):
        load("folder:path=g,sensor=20x20", tmp_path)
    monkeypatch.setattr(sets, "DECODING", sets.DECODING + 1)
    load(narrow, tmp_path)
    assert path.stat().st_mtime_ns != made
    for part in ("left", "right"):  # the recordings are gone, the classes are known
        shutil.rmtree(tmp_path / "g" / part)
        (tmp_path / "g" / part).mkdir()
    assert len(load(narrow, tmp_path)[0]) == 8
    with pytest.raises(MaqdError, match="was made for a sensor of 32 x 32 pixels, and the recordings .* are gone"):
        load(wide, tmp_path)
    monkeypatch.setattr(sets, "DECODING", sets.DECODING + 1)
    with pytest.raises(MaqdError, match="was made by an earlier version, whose readers gave other events"):
        load(narrow, tmp_path)


def test_the_hint_is_a_name_that_loads(tmp_path):
    write_nmnist(tmp_path)
    (tmp_path / "nmnist" / "Train" / "4" / "00002.bin").write_bytes(b"\xff" * 5)
    with pytest.raises(EventFileError) as raised:
        load("nmnist:slices=2", tmp_path)
    assert "'nmnist:slices=2,damaged=skip'" in str(raised.value)
    assert "skip_damaged" not in str(raised.value)  # no keyword of Python: there is none here
    assert len(load("nmnist:slices=2,damaged=skip", tmp_path)[0]) == 29


def test_events_outside_the_sensor_are_damage(tmp_path):
    write_nmnist(tmp_path)
    write_five_byte(tmp_path / "nmnist" / "Train" / "4" / "00002.bin", moving_bar(1, side=128))
    with pytest.raises(EventFileError, match="4/00002.bin"):
        load("nmnist", tmp_path)
    assert len(load("nmnist:damaged=skip", tmp_path)[0]) == 29


def test_gestures_are_cut_by_their_labels_and_people_stay_together(tmp_path):
    gestures = write_gesture(tmp_path / "DvsGesture", USERS)
    name = "dvs128-gesture:slices=2,largest=3,downsample=8"
    parts = load_splits(name, tmp_path)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (12, 4, 4)
    assert "(16 of 1,176 training and 4 of 288 test recordings)" in parts.test.card.title
    scheme = FrameScheme(slices=2, largest=3, downsample=8)
    for row, label in enumerate(LABELS):
        expected = to_frames(gestures[24, label], (128, 128), scheme)
        np.testing.assert_array_equal(parts.test.codes[row].numpy(), expected)
        assert parts.test.labels[row] == label - 1
    # The validation part is all of one person's gestures.
    codes = {user: to_frames(gestures[user, 8], (128, 128), scheme) for user in (1, 2, 3, 4)}

    def people(part):
        rolls = part.codes[part.labels == 7].numpy()
        return {user for user, expected in codes.items() if (rolls == expected).all((1, 2, 3)).any()}

    held, kept = people(parts.validation), people(parts.train)
    assert len(held) == 1
    assert held | kept == {1, 2, 3, 4}
    assert not held & kept
    assert sorted(parts.validation.labels.tolist()) == [0, 1, 7, 10]


def test_a_stream_of_frames_keeps_recordings_together(tmp_path):
    gestures = write_gesture(tmp_path / "DvsGesture", USERS)
    parts = load_splits("dvs128-gesture:by=window,window_us=20000,slices=10,layout=stream,downsample=8", tmp_path)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (120, 40, 40)
    assert parts.test.card.shape == (2, 16, 16)
    assert parts.test.labels.tolist() == [label - 1 for label in LABELS for _ in range(10)]
    events = gestures[24, LABELS[1]]
    first = events["t"][0]
    third = events[(events["t"] >= first + 40_000) & (events["t"] < first + 60_000)]
    expected = to_frames(third, (128, 128), FrameScheme(slices=1, largest=3, downsample=8))
    np.testing.assert_array_equal(parts.test.codes[10 + 2].numpy(), expected)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "3,80000000,999000000",
            "line 6 of user01_led_labels.csv names the times 80000000..999000000 us, but the rec",
        ),
        ("3,1000,2000", "names the times 1000..2000 us, but the recording has events in"),
        ("3,80300000,80300001", "which hold no events"),
        ("12,80000000,80100000", "line 6: expected a class in 1..11 and times begin < end, got '12,80000000,80100000'"),
        ("3,80100000,80000000", "line 6: expected a class in 1..11 and times begin < end"),
        ("3,80000000", "line 6: expected a class"),
        ("3;80000000;80100000", "line 6: expected a class"),
        ("three,80000000,80100000", "line 6: expected a class"),
        ("3,-5,80100000", "line 6: expected a class"),
    ],
)
def test_wrong_label_files(tmp_path, row, message):
    write_gesture(tmp_path / "DvsGesture", USERS)
    file = tmp_path / "DvsGesture" / "user01_led_labels.csv"
    file.write_text(file.read_text() + row + "\n")
    with pytest.raises(MaqdError, match=message):
        load("dvs128-gesture", tmp_path)
    both = load("dvs128-gesture:damaged=skip", tmp_path)[0]
    assert len(both) == 16
    assert both.card.title.endswith("1 damaged left out)")


def test_missing_parts_of_gestures_are_left_out_and_counted(tmp_path, capsys):
    folder = tmp_path / "DvsGesture"
    write_gesture(folder, USERS)
    (folder / "user02_led.aedat").unlink()
    (folder / "user03_led_labels.csv").write_bytes(b"\xff")
    with pytest.raises(MaqdError, match=r"user02_led.aedat', which is not beside it.*'dvs128-gesture:damaged=skip'"):
        load("dvs128-gesture", tmp_path)
    both, test = load("dvs128-gesture:damaged=skip", tmp_path)
    assert (len(both), len(test)) == (8, 4)
    assert both.card.title.endswith("2 damaged left out)")
    words = "left out 2 damaged recordings: DvsGesture/user02_led.aedat, DvsGesture/user03_led.aedat"
    assert words in capsys.readouterr().err
    file = folder / "user01_led_labels.csv"
    file.write_text(file.read_text() + "no\n")
    load("dvs128-gesture:damaged=skip", tmp_path)
    assert "DvsGesture/user01_led.aedat (line 6 of user01_led_labels.csv)" in capsys.readouterr().err
    write_gesture(folder, {user: USERS[user] for user in (1, 2, 4, 24)})
    (folder / "trials_to_train.txt").write_text("user03_led.aedat\nuser01_led.aedat\n")
    with pytest.raises(MaqdError, match="user03_led_labels.csv' is no text file.*damaged=skip"):
        load("dvs128-gesture", tmp_path)
    assert len(load("dvs128-gesture:damaged=skip", tmp_path)[0]) == 4  # what was missing is looked for again


@pytest.mark.parametrize("skip", ["", ":damaged=skip"])
def test_a_recording_is_listed_once(tmp_path, skip):
    """Else a network would be tested on what it was trained on, or trained on some recordings twice."""
    folder = tmp_path / "DvsGesture"
    write_gesture(folder, USERS)
    lists = {part: folder / f"trials_to_{part}.txt" for part in ("train", "test")}
    good = {part: file.read_text() for part, file in lists.items()}
    for part, row, message in (
        (
            "test",
            "user02_led.aedat",
            r"trials_to_test.txt' lists 'user02_led.aedat' as '.*trials_to_train.txt' does; a re",
        ),
        (
            "train",
            "user02_led.aedat",
            r"trials_to_train.txt' lists 'user02_led.aedat' twice; a recording belongs to one",
        ),
    ):
        lists[part].write_text(good[part] + row + "\n")
        with pytest.raises(MaqdError, match=message):
            load("dvs128-gesture" + skip, tmp_path)
        lists[part].write_text(good[part])


def test_wrong_lists_of_trials(tmp_path):
    folder = tmp_path / "DvsGesture"
    write_gesture(folder, USERS)
    good = (folder / "trials_to_test.txt").read_text()
    for text, message in (
        ("../../etc/passwd\n", r"lists '../../etc/passwd', expected names"),
        ("user09_led.aedat\n", r"lists 'user09_led.aedat', which is not beside it"),
        ("\xff", "is no text file"),
        ("a" * 2**21, "more than 1048576 bytes"),
    ):
        (folder / "trials_to_test.txt").write_bytes(text.encode("latin-1"))
        with pytest.raises(MaqdError, match=message):
            load("dvs128-gesture", tmp_path)
    (folder / "trials_to_test.txt").write_text(good)
    (folder / "user24_led_labels.csv").unlink()
    with pytest.raises(MaqdError, match=r"cannot read '.*user24_led_labels.csv': No such file"):
        load("dvs128-gesture", tmp_path)


def test_cifar10_dvs_has_a_fixed_split(tmp_path):
    write_cifar(tmp_path, each=11)
    both, test = load("cifar10-dvs:slices=1,downsample=8", tmp_path)
    assert (len(both), len(test)) == (100, 10)
    assert test.labels.tolist() == list(range(10))
    scheme = FrameScheme(slices=1, largest=3, downsample=8)
    expected = to_frames(moving_bar(10, count=200), (128, 128), scheme)
    np.testing.assert_array_equal(test.codes[0].numpy(), expected)  # cifar10_airplane_10, not _9: natural order


def test_ncaltech101_and_ncars(tmp_path):
    for number, name in enumerate(("airplanes", "yin_yang")):
        for index in range(20):
            events = moving_bar(number + index, count=100)
            write_five_byte(tmp_path / "Caltech101" / name / f"image_{index + 1:04d}.bin", events)
    both, test = load("ncaltech101:slices=1,downsample=20", tmp_path)
    assert (len(both), len(test), both.card.shape) == (36, 4, (2, 9, 12))
    assert test.labels.tolist() == [5, 5, 100, 100]
    for part, count in (("n-cars_train", 5), ("n-cars_test", 2)):
        for name in ("cars", "background"):
            for index in range(count):
                events = moving_bar(index, count=100, side=90)
                write_dat(tmp_path / "Prophesee_Dataset_n_cars" / part / name / f"obj_{index:06d}_td.dat", events)
    both, test = load("ncars", tmp_path)
    assert (len(both), len(test), both.card.shape) == (10, 4, (4, 50, 60))
    assert test.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("split", [True, False])
def test_any_folder_of_recordings_per_class(tmp_path, split):
    for number, name in enumerate(("left", "right")):
        for index in range(20):
            part = ("test" if index >= 15 else "train") if split else ""
            write_aedat2(tmp_path / "mine" / part / name / f"{index}.aedat", moving_bar(number, count=50 + index))
    parts = load_splits("folder:path=mine,sensor=128x128,slices=2,downsample=16", tmp_path)
    card = parts.test.card
    assert (card.title, card.classes, card.shape) == ("recordings in mine", ("left", "right"), (4, 8, 8))
    assert (len(parts.train), len(parts.validation), len(parts.test)) == ((27, 3, 10) if split else (32, 4, 4))
    recipe = get_recipe("nmnist")
    assert type(recipe)(name="mine", dataset="folder:path=mine,sensor=128x128").dataset.startswith("folder:")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nmnist:slices=0", "slices must be a whole number in 1..1024, got 0"),
        ("nmnist:slice=2", "unknown field 'slice=2', did you mean 'slices=...'"),
        ("cifar10:slices=2", "'cifar10' takes no options, got 'slices=2'"),
        ("nmnists:slices=2", "unknown dataset 'nmnists', did you mean 'nmnist'"),
        ("folder:", r"needs path=NAME.*as in 'folder:path=gestures,sensor=128x128,slices=4'; got ''"),
        ("folder:path=../up,sensor=2x2", "needs path=NAME"),
        ("folder:path=/etc,sensor=2x2", "needs path=NAME"),
        ("folder:path=a,sensor=2", "needs path=NAME"),
        ("folder:path=a,sensor=99999x99999", "a sensor has 1..65536 columns and 1..32768 rows, got 99999 x 99999"),
        ("folder:path=a,sensor=0x9", "a sensor has 1..65536 columns"),
        ("folder:path=none,sensor=2x2", "put two or more folders of recordings, one a class, in none/"),
    ],
)
def test_wrong_names(tmp_path, name, message):
    with pytest.raises(MaqdError, match=message):
        load(name, tmp_path)


@pytest.mark.parametrize("name", EVENT_SETS)
def test_what_is_not_there_says_what_to_put_where(tmp_path, name):
    entry = DATASETS[name]
    with pytest.raises(MaqdError) as raised:
        load(name, tmp_path)
    for words in (f"{name!r} is not under {str(tmp_path)!r}", entry.expected(), entry.card.url, "MAQD_DATA_ROOT"):
        assert words in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", EVENT_SETS)
def test_cards_agree_with_sensor_and_scheme(name):
    entry = DATASETS[name]
    assert entry.card.shape == entry.scheme.shape(entry.sensor)
    assert entry.card.high == entry.scheme.largest
    assert len(entry.card.classes) == {"nmnist": 10, "dvs128-gesture": 11, "cifar10-dvs": 10, "ncars": 2}.get(name, 101)
    changed = entry.configured("kind=analog,slices=7")
    assert (changed.card.kind, changed.card.shape[0], changed.base) == ("analog", 14, name)
    assert entry.configured("").card.shape == entry.card.shape


def test_run_without_data_says_what_to_put_where(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for recipe, words in (
        (
            "dvs128-gesture",
            ("DvsGesture.tar.gz", "userNN_LIGHT_labels.csv", "trials_to_train.txt", "trials_to_test.txt"),
        ),
        ("cifar10-dvs", ("CIFAR10DVS/airplane/cifar10_airplane_0.aedat",)),
        ("nmnist", ("nmnist/Train/0/*.bin",)),
    ):
        assert main(["run", recipe, "--data-root", str(tmp_path / "none")]) == 2
        error = capsys.readouterr().err
        assert all(word in error for word in words), error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("recipe", "dataset"),
    [
        ("dvs128-gesture", "dvs128-gesture:slices=2,largest=3,downsample=16"),
        ("cifar10-dvs", "cifar10-dvs:slices=2,largest=3,downsample=16"),
    ],
)
def test_the_whole_path(tmp_path, recipe, dataset, capsys):
    root, out = tmp_path / "root", tmp_path / "run"
    if recipe == "dvs128-gesture":
        write_gesture(root / "DvsGesture", USERS)
    else:
        clips = gesture_clips()
        for number, name in enumerate(DATASETS["cifar10-dvs"].card.classes):
            for index in range(4):
                file = root / "CIFAR10DVS" / name / f"cifar10_{name}_{index}.aedat"
                write_aedat2(file, clips[number][index * 700 : 4000 + index * 700])
    options = ["--dataset", dataset, "--plan", "8-M-8-M", "--epochs", "2", "--batch-size", "8", "--quiet"]
    command = ["run", recipe, "--data-root", str(root), "--out", str(out), "--format", "onnx", "--samples", "4"]
    assert main([*command, *options]) == 0
    assert "onnx   verified: 0 of" in capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    assert report["recipe"]["dataset"] == dataset
    assert report["provenance"]["fold_check"]["mismatches"] == 0
    first = next(layer for layer in report["simulation"]["layers"] if layer["name"] == "conv1")
    assert first["spiking"]
    assert first["input_kind"] == "spikes"
    # What arrives at the first layer is the events of the test set, counted by hand.
    _, test = datasets.load(dataset, root)
    assert first["events"] == int((test.codes > 0).sum())
    assert first["unit_spike_acs"] > first["synops"]  # some codes are above 1
    assert main(["eval", str(out), "--data-root", str(root)]) == 0


def test_recordings_of_several_steps_are_judged_by_their_sum(tmp_path, capsys):
    write_nmnist(tmp_path, train=6, test=2)
    options = ["--dataset", "nmnist:layout=stream,slices=3", "--plan", "8-M-8-M", "--epochs", "1", "--quiet"]
    where = ["--data-root", str(tmp_path)]
    assert main(["train", "nmnist", "--out", str(tmp_path / "run"), *where, *options]) == 0
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "run"), *where, "--json", str(tmp_path / "eval.json")]) == 0
    found = json.loads((tmp_path / "eval.json").read_text())
    _, test = datasets.load("nmnist:layout=stream,slices=3", tmp_path)
    scores = maqd_snn.load(tmp_path / "run" / "network.h5")(test.codes).reshape(20, 3, 10)
    right = int((scores.sum(1).argmax(1) == test.labels[::3]).sum())
    assert (found["samples"], found["recordings"], found["recordings_right"]) == (60, 20, right)
    assert f"by the sum of 3 steps: {right} of 20 recordings right" in capsys.readouterr().out


def test_an_analog_first_layer_is_charged_as_dense(tmp_path):
    write_nmnist(tmp_path)
    out = tmp_path / "run"
    options = ["--dataset", "nmnist:kind=analog,downsample=4", "--plan", "8-M", "--epochs", "1", "--batch-size", "8"]
    command = ["run", "nmnist", "--data-root", str(tmp_path), "--out", str(out), "--format", "onnx", "--samples", "4"]
    assert main([*command, *options, "--quiet"]) == 0
    report = json.loads((out / "report.json").read_text())
    first = next(layer for layer in report["simulation"]["layers"] if layer["name"] == "conv1")
    assert not first["spiking"]
    assert first["macs"] == first["dense_macs"] > 0 == first["synops"]
