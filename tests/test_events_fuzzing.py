"""Fuzzing of the readers: Hypothesis on the structure of sound files, and the driver of tests/fuzzing.py itself.

What a reading may do is in `fuzzing.check`; here it is also shown that the check sees what it looks for.
"""

import contextlib
import gc
import itertools
import json
import os
import warnings
from dataclasses import replace
from pathlib import Path

import fuzzing
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maqd_snn.compiled import NO_NUMBA
from maqd_snn.datasets.events import (
    EVENT_DTYPE,
    FORMATS,
    EventFileError,
    Recording,
    Skipped,
    foreign,
    read_recording,
    stream_events,
)

FEW = {name: isinstance(entry, foreign.ForeignFormat) for name, entry in FORMATS.items()}
EDGES = [b"\0", b"\xff", b"\x7f", b"\x80", b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0" * 8, b"\n", b"-", b"9" * 9]
EDIT = st.tuples(
    st.sampled_from(["replace", "insert", "cut", "repeat"]),
    st.floats(0, 1),
    st.sampled_from(EDGES) | st.binary(max_size=12),
)


@pytest.fixture(autouse=True)
def _as_in_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NO_NUMBA, "")  # put back behind the test, which sets it both ways
    monkeypatch.setattr(foreign, "subprocess", fuzzing.FORKING)


def edited(data: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    """The file with a few edits, each at a share of its length."""
    for kind, where, what in edits:
        at = int(where * len(data))
        if kind == "replace":
            data = data[:at] + what + data[at + len(what) :]
        elif kind == "insert":
            data = data[:at] + what + data[at:]
        elif kind == "cut":
            data = data[:at] + data[at + len(what) :]
        else:
            data = data[:at] + data[at : at + 8 * len(what)] * 2 + data[at + 8 * len(what) :]
    return data


@pytest.mark.parametrize("name", FORMATS)
def test_edited_files_are_refused_or_read_alike_in_all_ways(name: str, tmp_path: Path) -> None:
    if FEW[name]:
        pytest.importorskip(FORMATS[name].package)  # type: ignore[attr-defined]
    path = tmp_path / f"a{fuzzing.suffix_of(name)}"
    sound = fuzzing.seeds(name)
    for data in sound:
        path.write_bytes(data)
        assert len(read_recording(path, format=name).events) >= 1
    os.environ[NO_NUMBA] = "1"
    read_recording(path, format=name)  # imports are no peak of a reading

    @settings(max_examples=15 if FEW[name] else 60)
    @given(which=st.integers(0, len(sound) - 1), edits=st.lists(EDIT, min_size=1, max_size=4))
    def check(which: int, edits: list[tuple[str, float, bytes]]) -> None:
        path.write_bytes(edited(sound[which], edits))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fuzzing.check(name, path)
        compare_counts(name, path)

    check()


def compare_counts(name: str, path: Path) -> None:
    """What is left out is counted alike, in the whole file and block by block; what the whole refuses, they do."""
    skipped, whole, windows = Skipped(), None, None
    with contextlib.suppress(EventFileError):
        whole = read_recording(path, format=name, skip_damaged=True)
    with contextlib.suppress(EventFileError):
        parts = itertools.islice(stream_events(path, 2**40, format=name, skip_damaged=True, skipped=skipped), 10_000)
        windows = sum(1 for _ in parts)
    if windows != 10_000:
        assert (whole is None) == (windows is None)
    if whole is not None and windows != 10_000:
        assert (skipped.bytes, skipped.events) == (whole.skipped_bytes, whole.skipped_events)


EVENTS = np.array([(1, 2, 3, 1), (5, 3, 4, 0)], EVENT_DTYPE)


def test_the_check_finds_what_it_looks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(fuzzing.files.five_bytes([(1, 2, 3, 1), (5, 3, 4, 0)]))
    sound = read_recording(path)  # imports are no peak of a reading
    assert fuzzing.check("5-byte", path) < fuzzing.SPARE

    def reading(what):
        monkeypatch.setattr(fuzzing, "read_recording", lambda *_, **__: what())

    def recording(events) -> Recording:
        return replace(sound, events=events)

    def hungry() -> Recording:
        np.ones(fuzzing.SPARE + 512 * 2**20, np.uint8).sum()  # far beyond what is freed meanwhile
        return sound

    reading(hungry)
    gc.collect()  # what other tests left is not to be freed during the reading
    with pytest.raises(fuzzing.FindingError, match="bytes beyond twice the 2 events"):
        fuzzing.check("5-byte", path)
    reading(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        fuzzing.check("5-byte", path)
    reading(lambda: recording(EVENTS[: 1 if os.environ[NO_NUMBA] else 2]))
    with pytest.raises(fuzzing.FindingError, match="machine code and NumPy differ"):
        fuzzing.check("5-byte", path)
    reading(lambda: recording(EVENTS[:1]))
    with pytest.raises(fuzzing.FindingError, match="windows together are not the whole"):
        fuzzing.check("5-byte", path)
    changed = EVENTS.copy()
    changed["x"] += 1
    reading(lambda: recording(changed))
    monkeypatch.setattr(fuzzing, "stream_events", lambda *_, **__: iter([changed]))
    with pytest.raises(fuzzing.FindingError, match="the plain decoder differs"):
        fuzzing.check("5-byte", path)


def test_the_driver_keeps_a_corpus_and_a_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("atheris")
    document = tmp_path / "table.md"
    document.write_text(f"# Fuzzing\n\n{fuzzing.BEGIN}\n{fuzzing.END}\n")
    options = ["5-byte", "--seconds", "2", "--corpus", str(tmp_path / "kept")]
    assert fuzzing.main(options) == 0
    once = json.loads((tmp_path / "kept" / "ledger.json").read_text())["5-byte"]
    assert once["executions"] > 10
    assert once["seconds"] > 1
    assert once["findings"] == 0
    assert len(list((tmp_path / "kept" / "5-byte").iterdir())) > len(fuzzing.seeds("5-byte"))
    assert fuzzing.main([*options, "--table", str(document)]) == 0
    twice = json.loads((tmp_path / "kept" / "ledger.json").read_text())["5-byte"]
    assert twice["executions"] > once["executions"]
    assert f"| {twice['executions']:,} | 0 |" in document.read_text()
    assert "0 findings" in capsys.readouterr().out
