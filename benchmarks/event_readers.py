"""Rows of `maqd bench events`: decoding files, beside tonic, expelliarmus and faery."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from maqd_snn.benchmarks.lines import Line, Row, Setting
from maqd_snn.datasets.events import read_events

OURS = "maqd-snn"
UNIT = "M events/s"


def _lines(what: str, setting: Setting, path: Path, peers: dict[str, Callable[[Path], Any]]) -> Iterator[Line]:
    events = len(read_events(path))
    note = f"{events / 1e6:.1f} M events, {path.stat().st_size / 1e6:.0f} MB"
    yield Line(what, OURS, events / setting.best(lambda: read_events(path)) / 1e6, UNIT, note)
    for who, read in peers.items():
        try:
            yield Line(what, who, events / setting.best(lambda read=read: read(path), 3) / 1e6, UNIT)  # type: ignore[misc]
        except ImportError:
            continue


def five_byte(setting: Setting) -> Iterable[Line]:
    """The 5-byte format of N-MNIST."""

    def tonic(path: Path) -> Any:
        from tonic.io import events_struct, read_mnist_file

        return read_mnist_file(str(path), dtype=events_struct)

    count = 10**5 if setting.quick else 3 * 10**7
    generator = np.random.default_rng(0)
    times = np.sort(generator.integers(0, 2**23, count)).astype(">u4")
    words = np.empty((count, 5), np.uint8)
    words[:, :2] = generator.integers(0, 34, (count, 2))
    words[:, 2:] = times.view(np.uint8).reshape(-1, 4)[:, 1:]
    words[:, 2] |= generator.integers(0, 2, count, dtype=np.uint8) << 7
    path = setting.folder / "five.bin"
    words.tofile(path)
    return _lines("5-byte", setting, path, {"tonic": tonic})


READER_ROWS: Mapping[str, Row] = MappingProxyType({"5-byte": five_byte})
