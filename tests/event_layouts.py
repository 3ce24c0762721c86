"""Writers of event datasets in their original layouts and formats, for tests; written from the format descriptions."""

from pathlib import Path

import numpy as np

from maqd_snn.datasets.events import read_events
from maqd_snn.datasets.events.recording import EVENT_DTYPE
from maqd_snn.datasets.root import data_root


def moving_bar(seed, count=4000, span_us=200_000, side=128):
    """Events of a bar that moves across the sensor, with noise: what stands in for the clips where they are not."""
    generator = np.random.default_rng(seed)
    events = np.zeros(count, EVENT_DTYPE)
    events["t"] = np.sort(generator.integers(0, span_us, count))
    along = events["t"] * side // span_us
    across = generator.integers(0, side, count)
    noise = generator.integers(-3, 4, count)
    moving = np.clip((along if seed % 2 else side - 1 - along) + noise, 0, side - 1)
    events["x"], events["y"] = (moving, across) if seed % 4 < 2 else (across, moving)
    events["p"] = generator.integers(0, 2, count)
    return events


def gesture_clips(span_us=200_000):
    """The beginnings of the ten DVS128 Gesture clips of the data root, from time 0; moving bars where they are not."""
    folder = data_root() / "events" / "dvs128_gesture_clips"
    if not folder.is_dir():
        return [moving_bar(seed, span_us=span_us) for seed in range(10)]
    clips = []
    for number in range(1, 11):
        events = read_events(folder / f"clip{number}.bin")
        events["t"] -= events["t"][0]
        clips.append(events[events["t"] < span_us].copy())
    return clips


def write_five_byte(path: Path, events) -> None:
    data = np.zeros((len(events), 5), np.uint8)
    data[:, 0], data[:, 1] = events["x"], events["y"]
    word = events["p"].astype(np.uint32) << 23 | events["t"].astype(np.uint32)
    for byte in range(3):
        data[:, 2 + byte] = word >> (16 - 8 * byte) & 255
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.tobytes())


def write_aedat2(path: Path, events) -> None:
    """What jAER writes of a DVS128: address and time, 32 bits each, big endian, behind lines that begin with '#'.

    The address counts rows from the bottom and columns from the right, and has 1 for OFF.
    """
    data = np.zeros((len(events), 2), ">u4")
    row, column = 127 - events["y"].astype(np.uint32), 127 - events["x"].astype(np.uint32)
    data[:, 0] = row << 8 | column << 1 | (1 - events["p"])
    data[:, 1] = events["t"]
    path.parent.mkdir(parents=True, exist_ok=True)
    header = b"#!AER-DAT2.0\r\n# This is a raw AE data file\r\n# AEChip: ch.unizh.ini.jaer.chip.retina.DVS128\r\n"
    path.write_bytes(header + data.tobytes())


def write_aedat31(path: Path, events, per_packet=4096) -> None:
    """Packets of polarity events: 28 bytes of header, then (x << 17 | y << 2 | p << 1 | valid, time), little endian."""
    parts = [b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n"]
    for begin in range(0, len(events), per_packet):
        chosen = events[begin : begin + per_packet]
        parts.append(np.array([1 << 16 | 1], "<u4").tobytes())  # type 1, source 1
        parts.append(np.array([8, 4, 0, len(chosen), len(chosen), len(chosen)], "<i4").tobytes())
        data = np.zeros((len(chosen), 2), "<u4")
        data[:, 0] = chosen["x"].astype(np.uint32) << 17 | chosen["y"].astype(np.uint32) << 2 | chosen["p"] << 1 | 1
        data[:, 1] = chosen["t"]
        parts.append(data.tobytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(parts))


def write_dat(path: Path, events) -> None:
    """Prophesee DAT, version 2: type 12, 8 bytes an event: time, then x | y << 14 | p << 28."""
    data = np.zeros((len(events), 2), "<u4")
    data[:, 0] = events["t"]
    data[:, 1] = (
        events["x"].astype(np.uint32) | events["y"].astype(np.uint32) << 14 | events["p"].astype(np.uint32) << 28
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"% Data file containing CD events.\n% Version 2\n" + bytes([12, 8]) + data.tobytes())


def write_gesture(folder: Path, users, span_us=200_000, clips=None):
    """A DVS128 Gesture of few users: {user: (part, labels)}, a gesture every half second from second 80 on.

    Returns {(user, label): events, with the times of the file}.
    """
    clips = clips or gesture_clips(span_us)
    lists = {"train": [], "test": []}
    gestures = {}
    for user, (part, labels) in users.items():
        name = f"user{user:02d}_led"
        lists[part].append(f"{name}.aedat")
        pieces, rows = [], ["class,startTime_usec,endTime_usec"]
        for number, label in enumerate(labels):
            events = clips[(label + user) % len(clips)].copy()
            begin = 80_000_000 + 500_000 * number
            events["t"] += begin
            pieces += [events, between(begin + span_us, user)]
            gestures[user, label] = events
            rows.append(f"{label},{begin},{begin + span_us}")
        write_aedat31(folder / f"{name}.aedat", np.concatenate(pieces))
        (folder / f"{name}_labels.csv").write_text("\n".join([*rows, ""]))
    for part, names in lists.items():
        (folder / f"trials_to_{part}.txt").write_text("\n".join([*names, ""]))
    return gestures


def between(begin, seed):
    """Events between two gestures, which no label names."""
    events = moving_bar(seed, count=50, span_us=1000)
    events["t"] += begin
    return events
