"""`maqd data`: what a recording of an event camera holds; to another format; to a picture."""

import argparse
from pathlib import Path
from typing import Any

from maqd_snn.commands.common import Command, Options, write_json
from maqd_snn.errors import MaqdError


def _add_options(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    info = actions.add_parser("info", help="format, number of events, time, sensor, damage")
    convert = actions.add_parser("convert", help="write as .h5, .npz, .npy, .csv or 5-byte .bin")
    view = actions.add_parser("view", help="draw a contact sheet (.png) or an animation (.gif)")
    for action in (info, convert, view):
        action.add_argument("file", type=Path, metavar="FILE", help="a recording")
        action.add_argument("--format", dest="event_format", help="of the file (default: found from content and name)")
        action.add_argument("--sensor", help="WIDTHxHEIGHT that pixels must lie in (default: what the file states)")
        action.add_argument("--skip-damaged", action="store_true", help="leave out damaged parts, and count them")
        action.add_argument("--unordered", action="store_true", help="keep events whose time runs backwards")
    info.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON, too")
    convert.add_argument("out", type=Path, metavar="OUT", help="file to write; its suffix tells the format")
    view.add_argument("--out", type=Path, help="picture to write (default: FILE's name with .png, in this folder)")
    view.add_argument("--windows", type=int, default=12, help="equal parts of the time (default: 12)")


def _run(options: Options) -> int:
    return _ACTIONS[options.action](options)


def _read(options: Options) -> Any:
    from maqd_snn.datasets.events import read_recording

    sensor = None
    if options.sensor is not None:
        sides = options.sensor.lower().split("x")
        if len(sides) != 2 or not all(side.isdecimal() and len(side) <= 5 for side in sides):
            raise MaqdError(f"--sensor expects WIDTHxHEIGHT such as 128x128, got {options.sensor!r}")
        sensor = (int(sides[0]), int(sides[1]))
    return read_recording(
        options.file,
        format=options.event_format,
        sensor=sensor,
        skip_damaged=options.skip_damaged,
        unordered=options.unordered,
    )


def _info(options: Options) -> int:
    recording = _read(options)
    events = recording.events
    result: dict[str, Any] = {
        "file": str(options.file),
        "format": recording.format,
        "events": len(events),
        "sensor": recording.sensor,
        "skipped_bytes": recording.skipped_bytes,
        "skipped_events": recording.skipped_events,
    }
    if len(events):
        first, last = int(events["t"].min()), int(events["t"].max())
        result |= {"first_us": first, "last_us": last, "duration_us": last - first}
        result |= {"largest_x": int(events["x"].max()), "largest_y": int(events["y"].max())}
        result |= {"brighter": int(events["p"].sum(dtype=int))}
    for name, value in result.items():
        print(f"{name.replace('_', ' '):16s}{'x'.join(map(str, value)) if isinstance(value, tuple) else value}")
    write_json(options, result)
    return 0


def _convert(options: Options) -> int:
    from maqd_snn.datasets.events.writing import WRITERS, write_events

    if options.out.suffix.lower() not in WRITERS:  # before the work, not after it
        raise MaqdError(f"cannot write {str(options.out)!r}: expected a suffix of: {', '.join(WRITERS)}")
    recording = _read(options)
    write_events(options.out, recording.events)
    skipped = recording.skipped_bytes or recording.skipped_events
    left_out = f"; left out: {recording.skipped_bytes} bytes, {recording.skipped_events} events" if skipped else ""
    print(f"{options.out}: {len(recording.events)} events{left_out}")
    return 0


def _view(options: Options) -> int:
    from maqd_snn.commands.common import positive
    from maqd_snn.datasets.events.picture import save_picture

    if positive(options.windows, "--windows") > 1000:
        raise MaqdError(f"--windows must be at most 1000, got {options.windows}")
    out = options.out or Path(f"{options.file.stem}.png")
    recording = _read(options)
    save_picture(out, recording.events, recording.sensor, options.windows)
    print(f"{out}: {len(recording.events)} events in {options.windows} windows")
    return 0


_ACTIONS = {"info": _info, "convert": _convert, "view": _view}
COMMAND = Command("look into, convert or draw a recording of an event camera", _add_options, _run)
