"""`maqd data`: what a recording of an event camera holds; to another format; to a picture."""

import argparse
from pathlib import Path
from typing import Any

from maqd_snn.commands.common import Command, Options, json_option, write_json
from maqd_snn.commands.recordings import advice_in_options, chosen_limit, chosen_sensor, left_out, reading_options
from maqd_snn.errors import MaqdError


def _add_options(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    info = actions.add_parser("info", help="format, number of events, time, sensor, damage")
    convert = actions.add_parser("convert", help="write as .h5, .npz, .npy, .csv or 5-byte .bin")
    view = actions.add_parser("view", help="draw a contact sheet (.png), an animation (.gif) or a page (.html)")
    for action in (info, convert, view):
        action.add_argument("file", type=Path, metavar="FILE", help="a recording")
        action.add_argument("--sensor", help="WIDTHxHEIGHT that pixels must lie in (default: what the file states)")
        reading_options(action)
        action.add_argument("--unordered", action="store_true", help="keep events whose time runs backwards")
    json_option(info)
    convert.add_argument("out", type=Path, metavar="OUT", help="file to write; its suffix tells the format")
    view.add_argument("--out", type=Path, help="picture to write (default: FILE's name with .png, in this folder)")
    view.add_argument("--windows", type=int, default=12, help="equal parts of the time (default: 12)")


def _run(options: Options) -> int:
    with advice_in_options(unordered=True):
        return _ACTIONS[options.action](options)


def _read(options: Options) -> Any:
    from maqd_snn.datasets.events import read_recording

    return read_recording(
        options.file,
        format=options.event_format,
        sensor=chosen_sensor(options),
        skip_damaged=options.skip_damaged,
        unordered=options.unordered,
        max_bytes=chosen_limit(options),
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
    write_events(options.out, recording.events, recording.sensor)
    print(f"{options.out}: {len(recording.events)} events{left_out(recording.skipped_bytes, recording.skipped_events)}")
    return 0


def _view(options: Options) -> int:
    from maqd_snn.commands.common import positive
    from maqd_snn.datasets.events.picture import check_picture_name, save_picture

    if positive(options.windows, "--windows") > 1000:
        raise MaqdError(f"--windows must be at most 1000, got {options.windows}")
    out = options.out or Path(f"{options.file.stem}.png")
    check_picture_name(out)  # before the work, not after it
    recording = _read(options)
    save_picture(out, recording.events, recording.sensor, options.windows, options.file.name)
    left = left_out(recording.skipped_bytes, recording.skipped_events)
    print(f"{out}: {len(recording.events)} events in {options.windows} windows{left}")
    return 0


_ACTIONS = {"info": _info, "convert": _convert, "view": _view}
COMMAND = Command("look into, convert or draw a recording of an event camera", _add_options, _run)
