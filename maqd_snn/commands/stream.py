"""`maqd stream`: a recording classified window by window, as it would arrive."""

import argparse
import re
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maqd_snn.commands.common import Command, Options, json_option, write_json
from maqd_snn.commands.recordings import advice_in_options, chosen_limit, chosen_sensor, left_out, reading_options
from maqd_snn.errors import MaqdError

if TYPE_CHECKING:
    from maqd_snn.datasets.events.frames import FrameScheme
    from maqd_snn.integer import IntegerNetwork

UNITS_US = {"us": 1, "ms": 1000, "s": 10**6}
LARGEST_WINDOW_US = 3600 * 10**6
LARGEST_WINDOWS = 100_000  # of a recording; their scores are kept
DEFAULT_WINDOW = "20ms"


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", type=Path, metavar="NETWORK", help="folder of a run, or a network.h5")
    parser.add_argument("file", type=Path, metavar="FILE", help="a recording in any known format")
    parser.add_argument(
        "--window",
        help="duration of a window, as 20ms, 5000us or 1s (default: that of the network's slices, where it is fixed, "
        f"else {DEFAULT_WINDOW})",
    )
    parser.add_argument("--sensor", help="WIDTHxHEIGHT in pixels (default: that of the network's dataset)")
    parser.add_argument("--scheme", default="", help="changes to the network's input scheme, as downsample=4")
    parser.add_argument(
        "--label",
        metavar="CLASS",
        help="the true class: prints the share of windows that are right, adds `correct` to the CSV and the figure",
    )
    parser.add_argument("--csv", type=Path, help="file for the numbers of every window (default: FILE's name in .)")
    parser.add_argument("--figure", type=Path, help=".png, .svg or .pdf (default: FILE's name in ., .png)")
    reading_options(parser)
    json_option(parser)
    parser.epilog = (
        "The scores of all windows add up; the answer is the class that leads. A network of several slices sees the\n"
        "last windows as its slices: give the window the duration of a slice. One of two channels sees one window."
    )


def window_us(text: str) -> int:
    """Return the microseconds of a duration such as `20ms`.

    >>> window_us("20ms"), window_us("0.5s"), window_us("1.001ms")
    (20000, 500000, 1001)
    """
    match = re.fullmatch(r"([0-9]{1,10}(?:\.[0-9]{1,6})?)(us|ms|s)", text)
    value = Fraction(match[1]) * UNITS_US[match[2]] if match else Fraction(0)
    if not 1 <= value <= LARGEST_WINDOW_US or value.denominator != 1:
        raise MaqdError(f"--window expects whole microseconds, as 20ms, 5000us or 1s, up to an hour; got {text!r}")
    return int(value)


def _run(options: Options) -> int:
    from maqd_snn.datasets.events import Skipped, stream_events
    from maqd_snn.files import write_text
    from maqd_snn.reporting.stream_figure import check_figure_name, save_stream_figure
    from maqd_snn.runs import read_network
    from maqd_snn.windows import check_scheme, classify_windows, stable_from, windows_csv

    net = read_network(options.network)
    sensor, scheme, known = _scheme(options, net)
    shown = options.window or (f"{scheme.window_us}us" if scheme.by == "window" else DEFAULT_WINDOW)
    duration = window_us(shown)
    check_scheme(net, sensor, scheme, duration)
    names = _class_names(net, known)
    if options.label is not None and options.label not in names:
        raise MaqdError(f"--label expects one of {', '.join(names)}; got {options.label!r}")
    label = None if options.label is None else names.index(options.label)
    csv_file = options.csv or Path(f"{options.file.stem}-stream.csv")
    figure = options.figure or Path(f"{options.file.stem}-stream.png")
    check_figure_name(figure)
    reading: dict[str, Any] = {
        "format": options.event_format,
        "sensor": sensor,
        "skip_damaged": options.skip_damaged,
        "max_bytes": chosen_limit(options),
    }
    skipped = Skipped()
    with advice_in_options(unordered=False):
        begin = _begin(options, {**reading, "skipped": skipped}, duration, shown)
        arriving = stream_events(options.file, duration, **reading)
        windows = list(classify_windows(net, arriving, sensor, scheme, duration, begin))
    stable = stable_from(windows)
    assert stable is not None  # there is a window
    answer = names[windows[-1].total_winner]
    latency_ms = (windows[stable].end_us - begin) / 1000
    lines = [
        f"{options.file.name}: {len(windows)} windows of {shown}, {sum(w.events for w in windows)} events"
        f"{left_out(skipped.bytes, skipped.events)}",
        f"  answer       {answer}, stable after {latency_ms:g} ms (window {stable + 1})",
        f"  a window     {sum(w.synops for w in windows) / len(windows):,.0f} SynOps, "
        f"{sum(w.spikes for w in windows) / len(windows):,.0f} spikes, {windows[0].macs:,} dense MACs",
    ]
    result: dict[str, object] = {
        "file": str(options.file),
        "skipped_bytes": skipped.bytes,
        "skipped_events": skipped.events,
        "window_us": duration,
        "answer": answer,
        "stable_window": stable,
        "latency_us": windows[stable].end_us - begin,
        "windows": [asdict(window) for window in windows],
    }
    if label is not None:
        correct = [window.total_winner == label for window in windows]
        alone, summed = sum(w.winner == label for w in windows) / len(windows), sum(correct) / len(windows)
        lines.append(f"  {options.label!r} is right: {100 * alone:.1f} % of windows alone, {100 * summed:.1f} % summed")
        result |= {"label": options.label, "accuracy_alone": alone, "accuracy_summed": summed, "correct": correct}
    title = f"{options.file.name}, windows of {shown}: {answer}"
    save_stream_figure(windows, names, stable, title, figure, label)
    write_text(csv_file, windows_csv(windows, names, label))
    write_json(options, result)
    print("\n".join([*lines, f"  wrote        {csv_file}, {figure}"]))
    return 0


def _begin(options: Options, reading: dict[str, Any], duration: int, shown: str) -> int:
    """Return the time of the first event; refuse a recording of no events, or of too many windows."""
    from maqd_snn.datasets.events.registry import recording_extent

    extent = recording_extent(options.file, **reading)
    if extent is None:
        raise MaqdError(f"{str(options.file)!r} holds no events")
    count = (extent.last_us - extent.first_us) // duration + 1
    if count > LARGEST_WINDOWS:
        before, behind = extent.gap_us
        raise MaqdError(
            f"{str(options.file)!r} lasts {count:,} windows of {shown}, more than {LARGEST_WINDOWS:,}; its longest gap "
            f"without events is from {before} to {behind} us ({(behind - before) / 1e6:,.6g} s); give a longer "
            "--window, or cut the recording there"
        )
    return extent.first_us


def _scheme(options: Options, net: "IntegerNetwork") -> tuple[tuple[int, int], "FrameScheme", list[str]]:
    """Return sensor, input scheme and class names: of what the network was trained on, changed by the options."""
    sensor = chosen_sensor(options)
    recipe = net.provenance.get("recipe")
    name = recipe.get("dataset") if isinstance(recipe, dict) else None
    try:
        trained = _trained_on(name) if isinstance(name, str) else None
    except MaqdError:  # a dataset of another version, say
        if sensor is None:
            raise
        trained = None
    if trained is None:
        if sensor is None:
            raise MaqdError("the network was not trained on event recordings; give --sensor and --scheme")
        return sensor, _scheme_of_input(net).updated(options.scheme), []
    classes = _reported_classes(options.network, recipe) or trained[2]
    return sensor or trained[0], trained[1].updated(options.scheme), classes


def _trained_on(name: str) -> tuple[tuple[int, int], "FrameScheme", list[str]] | None:
    """Return sensor, scheme and classes (none if unknown) of a dataset of recordings, which need not be there."""
    from maqd_snn.datasets import data_root
    from maqd_snn.datasets.events.folder import FOLDER, folder_set
    from maqd_snn.datasets.events.sets import EventSet
    from maqd_snn.datasets.registry import find_entry

    base, _, own = name.partition(":")
    root = data_root()
    if base == FOLDER:
        alone = folder_set(own, None)
        try:
            classes = list(folder_set(own, root).card.classes)
        except MaqdError:
            classes = []
        return alone.sensor, alone.scheme, classes
    entry = find_entry(name, root)
    return (entry.sensor, entry.scheme, list(entry.card.classes)) if isinstance(entry, EventSet) else None


def _scheme_of_input(net: "IntegerNetwork") -> "FrameScheme":
    """Return the scheme of a network that does not say what it was trained on, as far as its input tells."""
    from maqd_snn.datasets.events.frames import LARGEST_SLICES, FrameScheme

    return FrameScheme(
        slices=min(max(net.input.shape[0] // 2, 1), LARGEST_SLICES),
        largest=min(max(net.input.high, 1), 255),
        kind="events" if net.input.kind == "events" else "analog",
    )


def _reported_classes(network: Path, recipe: object) -> list[str]:
    """Return the class names in the report of the network's run, where there is one; else none."""
    from maqd_snn.runs import read_report

    try:
        report = read_report(network if network.is_dir() else network.parent)
    except MaqdError:
        return []
    card = report.get("dataset")
    classes = card.get("classes") if isinstance(card, dict) and report.get("recipe") == recipe else None
    return [str(name) for name in classes] if isinstance(classes, list) else []


def _class_names(net: "IntegerNetwork", known: list[str]) -> list[str]:
    """Return a name for each class of the network: the known ones, where their number is right."""
    import torch

    count = net(torch.zeros((1, *net.input.shape), dtype=torch.uint8)).shape[1]
    return known if len(known) == count else [f"class {number}" for number in range(count)]


COMMAND = Command("classify a recording window by window, as it would arrive", _add_options, _run)
