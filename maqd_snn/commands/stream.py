"""`maqd stream`: a recording classified window by window, as it would arrive."""

import argparse
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from maqd_snn.commands.common import Command, Options, json_option, write_json
from maqd_snn.errors import MaqdError

if TYPE_CHECKING:
    from maqd_snn.datasets.events.frames import FrameScheme

UNITS_US = {"us": 1, "ms": 1000, "s": 10**6}
LARGEST_WINDOW_US = 3600 * 10**6


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", type=Path, metavar="NETWORK", help="folder of a run, or a network.h5")
    parser.add_argument("file", type=Path, metavar="FILE", help="a recording in any known format")
    parser.add_argument("--window", default="20ms", help="duration of a window, as 20ms, 5000us or 1s (default: 20ms)")
    parser.add_argument("--sensor", help="WIDTHxHEIGHT in pixels (default: that of the network's dataset)")
    parser.add_argument("--scheme", default="", help="changes to the network's input scheme, as downsample=4")
    parser.add_argument("--label", help="the true class: prints from when on the answer is right")
    parser.add_argument("--csv", type=Path, help="file for the numbers of every window (default: FILE's name in .)")
    parser.add_argument("--figure", type=Path, help=".png, .svg or .pdf (default: FILE's name in ., .png)")
    json_option(parser)
    parser.epilog = (
        "The scores of all windows add up; the answer is the class that leads. A network of several slices sees the\n"
        "last windows as its slices: give the window the duration of a slice. One of two channels sees one window."
    )


def window_us(text: str) -> int:
    """Return the microseconds of a duration such as `20ms`.

    >>> window_us("20ms"), window_us("0.5s"), window_us("7us")
    (20000, 500000, 7)
    """
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)(us|ms|s)", text)
    value = float(match[1]) * UNITS_US[match[2]] if match else 0.0
    if not 1 <= value <= LARGEST_WINDOW_US or value != int(value):
        raise MaqdError(f"--window expects whole microseconds, as 20ms, 5000us or 1s, got {text!r}")
    return int(value)


def _run(options: Options) -> int:
    from maqd_snn.datasets.events import stream_events
    from maqd_snn.files import write_text
    from maqd_snn.reporting.stream_figure import save_stream_figure
    from maqd_snn.runs import read_network
    from maqd_snn.windows import classify_windows, stable_from, windows_csv

    duration = window_us(options.window)
    net = read_network(options.network)
    sensor, scheme, classes = _scheme(options, net.provenance.get("recipe"))
    csv_file = options.csv or Path(f"{options.file.stem}-stream.csv")
    figure = options.figure or Path(f"{options.file.stem}-stream.png")
    first = next(iter(stream_events(options.file, duration, sensor=sensor)), None)
    if first is None:
        raise MaqdError(f"{str(options.file)!r} holds no events")
    begin = int(first["t"][0])
    arriving = stream_events(options.file, duration, sensor=sensor)
    windows = list(classify_windows(net, arriving, sensor, scheme, duration, begin))
    names = classes or [f"class {number}" for number in range(len(windows[0].scores))]
    if len(names) != len(windows[0].scores):
        names = [f"class {number}" for number in range(len(windows[0].scores))]
    if options.label is not None and options.label not in names:
        raise MaqdError(f"--label expects one of {', '.join(names)}; got {options.label!r}")
    stable = stable_from(windows)
    assert stable is not None  # there is a window
    answer = names[windows[-1].total_winner]
    latency_ms = (windows[stable].end_us - begin) / 1000
    lines = [
        f"{options.file.name}: {len(windows)} windows of {options.window}, {sum(w.events for w in windows)} events",
        f"  answer       {answer}, stable after {latency_ms:g} ms (window {stable + 1})",
        f"  a window     {sum(w.synops for w in windows) / len(windows):,.0f} SynOps, "
        f"{sum(w.spikes for w in windows) / len(windows):,.0f} spikes, {windows[0].macs:,} dense MACs",
    ]
    result: dict[str, object] = {
        "file": str(options.file),
        "window_us": duration,
        "answer": answer,
        "stable_window": stable,
        "latency_us": windows[stable].end_us - begin,
        "windows": [asdict(window) for window in windows],
    }
    if options.label is not None:
        alone = sum(names[w.winner] == options.label for w in windows) / len(windows)
        summed = sum(names[w.total_winner] == options.label for w in windows) / len(windows)
        lines.append(f"  {options.label!r} is right: {100 * alone:.1f} % of windows alone, {100 * summed:.1f} % summed")
        result["accuracy_alone"], result["accuracy_summed"] = alone, summed
    title = f"{options.file.name}, windows of {options.window}: {answer}"
    save_stream_figure(windows, names, stable, title, figure)
    write_text(csv_file, windows_csv(windows, names))
    write_json(options, result)
    print("\n".join([*lines, f"  wrote        {csv_file}, {figure}"]))
    return 0


def _scheme(options: Options, recipe: object) -> tuple[tuple[int, int], "FrameScheme", list[str]]:
    """Return sensor, input scheme and class names: of the network's dataset, changed by the options."""
    from maqd_snn.datasets import data_root
    from maqd_snn.datasets.events.frames import FrameScheme
    from maqd_snn.datasets.events.sets import EventSet
    from maqd_snn.datasets.registry import find_entry

    sensor: tuple[int, int] | None = None
    scheme, classes = FrameScheme(), list[str]()
    name = recipe.get("dataset") if isinstance(recipe, dict) else None
    if isinstance(name, str):
        entry = find_entry(name, data_root())
        if isinstance(entry, EventSet):
            sensor, scheme, classes = entry.sensor, entry.scheme, list(entry.card.classes)
    if options.sensor is not None:
        match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", options.sensor)
        if match is None:
            raise MaqdError(f"--sensor expects WIDTHxHEIGHT in pixels, as 128x128, got {options.sensor!r}")
        sensor = int(match[1]), int(match[2])
    if sensor is None:
        raise MaqdError("the network was not trained on event recordings; give --sensor and --scheme")
    return sensor, scheme.updated(options.scheme), classes


COMMAND = Command("classify a recording window by window, as it would arrive", _add_options, _run)
