"""Charts as SVG text for an HTML page: values in, text out, the same text for the same values.

Positions along x are percentages and sizes of letters are pixels: a chart fills any width and its letters keep their
size. Colours are not in the charts: every shape has a class, which the page's style sheet paints for light and dark.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

LABELLED_LEVELS = 5  # up to here every level of a histogram carries its share, beyond only the most frequent one
DRAWN_LEVELS = 32  # beyond, the bars of a histogram are one shape
DRAWN_CLASSES = 128  # beyond, neighbouring classes of a heat map share a cell
SHADES = 8
DRAWN_CELLS = 1024  # beyond, neighbouring channels share a cell
TITLED_CELLS = 256  # beyond, cells of one shade are one shape


@dataclass(frozen=True)
class Part:
    """One bar of a row: its length, the class that paints it and what it says when pointed at."""

    value: float
    style: str
    title: str


@dataclass(frozen=True)
class Row:
    """A row of `bars`: label on the left, note on the right, and bars drawn over one another, the longest first."""

    label: str
    note: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Dot:
    """A row of `log_dots`.

    Attributes:
        label, note: on the left and on the right. value: where the dot stands. style: the class that paints it.
        at_least: the value is only a lower bound, drawn open with an arrow.
    """

    label: str
    note: str
    value: float
    style: str
    at_least: bool = False


@dataclass(frozen=True)
class Line:
    """A line of `lines`: its name, the class that paints it and its values; a value that is not finite is a gap."""

    name: str
    style: str
    values: tuple[float, ...]


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if math.isfinite(value) else "0"


def _percent(share: float) -> str:
    return _number(100 * share) + "%"


def _tag(name: str, *children: str, **attributes: str | float) -> str:
    """Return an element; attribute values are escaped here, children are elements or come from `_words`."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value if isinstance(value, str) else _number(value))}"'
        for key, value in attributes.items()
    )
    return f"<{name}{written}>{''.join(children)}</{name}>"


def _words(text: str, x: str, y: str | float, style: str, anchor: str = "start") -> str:
    return _tag("text", escape(text), x=x, y=y, class_=style, text_anchor=anchor)


def _title(text: str) -> list[str]:
    return [_tag("title", escape(text))] if text else []


def _line(x1: str, y1: str | float, x2: str, y2: str | float, style: str) -> str:
    return _tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=style)


def _chart(label: str, height: float, children: Iterable[str]) -> str:
    return _tag("svg", *children, class_="chart", role="img", aria_label=label, width="100%", height=height)


def bars(rows: Sequence[Row], label: str) -> str:
    """Return horizontal bars from zero on a linear scale that all rows share.

    Args:
        rows: from the top. label: what the chart shows, for those who cannot see it.

    >>> print(bars([Row("conv1", "50", (Part(50.0, "dense", ""),))], "work"))
    <svg class="chart" role="img" aria-label="work" width="100%" height="36"><text x="0" y="14" class="name" \
text-anchor="start">conv1</text><text x="100%" y="14" class="note" text-anchor="end">50</text><rect x="0" y="20" \
width="100%" height="10" rx="2" class="dense"></rect></svg>
    """
    step = 36
    longest = max((part.value for row in rows for part in row.parts), default=0.0)
    drawn: list[str] = []
    for index, row in enumerate(rows):
        top = index * step
        drawn += [_words(row.label, "0", top + 14, "name"), _words(row.note, "100%", top + 14, "note", "end")]
        for part in row.parts:
            share = part.value / longest if longest else 0.0
            if share > 0:
                width = _percent(share) if share > 0.005 else "2"  # a hair stays visible
                body = _title(part.title)
                drawn.append(_tag("rect", *body, x="0", y=top + 20, width=width, height=10, rx=2, class_=part.style))
    return _chart(label, step * len(rows), drawn)


def meter(
    parts: Sequence[Part], label: str, interval: tuple[float, float] | None = None, mark: float | None = None
) -> str:
    """Return shares of 1 as bars over one another on a track, with an interval and a mark.

    Args:
        parts: shares, the longest first. label: what the chart shows. interval: its low and high end. mark: a share.
    """
    drawn = [_tag("rect", x="0", y=3, width="100%", height=8, rx=4, class_="dense")]
    for part in parts:
        width = _percent(min(part.value, 1.0))
        drawn.append(_tag("rect", *_title(part.title), x="0", y=3, width=width, height=8, rx=4, class_=part.style))
    if interval:
        low, high = (_percent(share) for share in interval)
        drawn += [
            _line(low, 7, high, 7, "whisker"),
            _line(low, 3, low, 11, "whisker"),
            _line(high, 3, high, 11, "whisker"),
        ]
    if mark is not None:
        drawn.append(_line(_percent(mark), 0, _percent(mark), 14, "mark"))
    return _chart(label, 14, drawn)


def log_dots(groups: Mapping[str, Sequence[Dot]], label: str, tick: Callable[[float], str]) -> str:
    """Return one dot per row on a logarithmic scale, with a line at every power of ten.

    A logarithmic scale has no zero, so lengths would mean nothing: the values are dots and not bars. A row whose value
    is not above zero keeps its words and has no dot.

    Args:
        groups: rows from the top, by heading. label: what the chart shows. tick: writes the value of a power of ten.
    """
    values = [row.value for rows in groups.values() for row in rows if row.value > 0 and math.isfinite(row.value)]
    low = math.floor(math.log10(min(values))) if values else 0
    high = max(math.ceil(math.log10(max(values))) if values else 1, low + 1)
    step, heading_step, first, width = 36, 30, 0.02, 0.96
    bottom = sum(heading_step + step * len(rows) for rows in groups.values()) + 6

    def place(value: float) -> str:
        return _percent(first + width * (math.log10(value) - low) / (high - low))

    drawn = []
    every = math.ceil((high - low) / 4)
    for power in range(low, high + 1):
        drawn.append(_line(place(10.0**power), 0, place(10.0**power), bottom, "grid"))
        if (power - low) % every == 0:
            anchor = "start" if power == low else "end" if power == high else "middle"
            drawn.append(_words(tick(10.0**power), place(10.0**power), bottom + 15, "tick", anchor))
    top = 0
    for heading, rows in groups.items():
        drawn.append(_words(heading, "0", top + 18, "heading halo"))
        top += heading_step
        for row in rows:
            drawn += _dot_row(row, top, place)
            top += step
    return _chart(label, bottom + 20, drawn)


def _dot_row(row: Dot, top: int, place: Callable[[float], str]) -> list[str]:
    middle = top + 25
    drawn = [
        _words(row.label, "0", top + 14, "name halo"),
        _words(row.note, "100%", top + 14, "note halo", "end"),
        _line("0", middle, "100%", middle, "rail"),
    ]
    if not (row.value > 0 and math.isfinite(row.value)):
        return drawn
    x = place(row.value)
    if row.at_least:
        tip = _tag("path", d="M-7 -4 L0 0 L-7 4", class_=f"{row.style} arrow")
        drawn.append(_line(x, middle, "100%", middle, f"{row.style} arrow"))
        drawn.append(_tag("svg", tip, x="100%", y=middle, overflow="visible"))
    style = f"{row.style} open" if row.at_least else row.style
    return [*drawn, _tag("circle", *_title(f"{row.label}: {row.note}"), cx=x, cy=middle, r=6, class_=style)]


def histogram(counts: Sequence[int], lowest: int, label: str) -> str:
    """Return the share of every level as vertical bars; the bar of level 0, which is no spike, has its own class.

    Args:
        counts: how often each level was emitted, from the lowest up. lowest: the lowest level. label: what it shows.
    """
    height, base, top, total, size = 128, 108, 18, sum(counts), max(len(counts), 1)
    tallest = max(counts, default=0)
    gap = 0.16 / size
    drawn, outline = [_line("0", base, "100%", base, "axis")], ""
    for index, number in enumerate(counts):
        level, share = lowest + index, number / total if total else 0.0
        tall = (base - top) * number / tallest if tallest else 0.0
        if size > DRAWN_LEVELS:
            outline += f"M{index} {_number(base)}v-{_number(tall)}h1v{_number(tall)}z"
        else:
            words = _title(f"level {level}: {number:,} times, {100 * share:.2f} %")
            x, style = _percent(index / size + gap / 2), "silent" if level == 0 else "synops"
            width = _percent(1 / size - gap)
            drawn.append(_tag("rect", *words, x=x, y=base - tall, width=width, height=tall, class_=style))
        if size <= LABELLED_LEVELS or index == counts.index(tallest):
            at = (index + 0.5) / size
            anchor = "middle" if size <= LABELLED_LEVELS or 0.1 < at < 0.9 else "start" if at < 0.5 else "end"
            x = _percent(at if anchor == "middle" else index / size if anchor == "start" else (index + 1) / size)
            drawn.append(_words(f"{100 * share:.1f}%", x, base - tall - 5, "tick", anchor))
    if outline:
        view = f"0 0 {size} {height}"
        shape = _tag("path", d=outline, class_="synops")
        drawn.append(_tag("svg", shape, width="100%", height=height, viewBox=view, preserveAspectRatio="none"))
    every = max(1, *(int(step) for step in ticks(0, size, 4 if size > 100 else 8)[1:2]))
    for index in range(-lowest % every, len(counts), every):
        drawn.append(_words(str(lowest + index), _percent((index + 0.5) / size), base + 14, "tick", "middle"))
    return _chart(label, height, drawn)


def ticks(low: float, high: float, number: int = 4) -> list[float]:
    """Return round values that cover low..high, at steps of 1, 2 or 5 times a power of ten.

    >>> ticks(0.12, 0.89)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> ticks(3.0, 3.0)
    [2.0, 2.5, 3.0, 3.5, 4.0]
    """
    if not high > low:
        low, high = low - max(abs(low), 1.0) / 3, high + max(abs(high), 1.0) / 3
    raw = (high - low) / number
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def lines(
    x: Sequence[int],
    series: Sequence[Line],
    label: str,
    tick: Callable[[float], str],
    mark: int | None = None,
    from_zero: bool = False,
) -> str:
    """Return lines over whole numbers such as epochs.

    Args:
        x: increasing. series: lines with one value per x. label: what the chart shows. tick: writes a value of the
        vertical axis. mark: the x to be marked as the best. from_zero: whether the vertical axis must begin at zero.
    """
    left, width, top, tall = 0.11, 0.87, 18, 150
    values = [value for line in series for value in line.values if math.isfinite(value)] or [0.0, 1.0]
    scale = ticks(0.0 if from_zero else min(values), max(values))
    low, high = scale[0], scale[-1]
    span = max(x[-1] - x[0], 1) if x else 1

    def across(value: float) -> float:
        return (value - x[0]) / span if len(x) > 1 else 0.5

    def down(value: float) -> float:
        return top + tall * (high - value) / (high - low)

    drawn = []
    for value in scale:
        drawn += [
            _line(_percent(left), down(value), _percent(left + width), down(value), "grid"),
            _words(tick(value), _percent(left - 0.02), down(value) + 4, "tick", "end"),
        ]
    whole = (
        [value for value in ticks(x[0], x[-1]) if value == int(value) and x[0] <= value <= x[-1]] if len(x) > 1 else x
    )
    for value in whole:
        drawn.append(_words(f"{value:g}", _percent(left + width * across(value)), top + tall + 18, "tick", "middle"))
    if mark is not None and x and x[0] <= mark <= x[-1]:
        at = across(mark)
        drawn.append(_line(_percent(left + width * at), top - 4, _percent(left + width * at), top + tall, "mark"))
        anchor = "end" if at > 0.5 else "start"
        drawn.append(_words(f"best: epoch {mark}", _percent(left + width * at), top - 8, "tick strong", anchor))
    for line in series:
        drawn += _stroke(x, line, across, down, (_percent(left), _percent(width)), top + tall)
    return _chart(label, top + tall + 26, drawn)


def _stroke(
    x: Sequence[int],
    line: Line,
    across: Callable[[float], float],
    down: Callable[[float], float],
    place: tuple[str, str],
    bottom: float,
) -> list[str]:
    """Return the path of a line, broken at gaps, and its points where they are few."""
    path, pen = "", "M"
    points = []
    for at, value in zip(x, line.values, strict=True):
        if not math.isfinite(value):
            pen = "M"
            continue
        path += f"{pen}{_number(1000 * across(at))} {_number(down(value))}"
        pen = "L"
        words = _title(f"{line.name}, epoch {at}: {value:.4g}")
        points.append(
            _tag("circle", *words, cx=_percent(across(at)), cy=down(value), r=3, class_=f"{line.style} point")
        )
    box: dict[str, str | float] = {"x": place[0], "width": place[1], "height": bottom, "overflow": "visible"}
    stroke = _tag("path", d=path, class_=f"{line.style} line", vector_effect="non-scaling-stroke")
    drawn = [_tag("svg", stroke, **box, viewBox=f"0 0 1000 {_number(bottom)}", preserveAspectRatio="none")]
    if len(points) <= 40:
        drawn.append(_tag("svg", *points, **box))
    return drawn


def cells(rates: Sequence[float], label: str) -> str:
    """Return one shaded cell per rate in 0..1, in rows: spike rates of channels. The shade grows with the square root.

    Args:
        rates: shares of 1. label: what the chart shows.

    >>> cells([0.0, 1.0], "rates").count("<path")
    2
    """
    block = math.ceil(len(rates) / DRAWN_CELLS) or 1
    means = [sum(rates[at : at + block]) / len(rates[at : at + block]) for at in range(0, len(rates), block)]
    across = min(len(means), max(8, math.ceil(math.sqrt(len(means) * 4)))) or 1
    down = math.ceil(len(means) / across)
    drawn = []
    shapes: dict[str, str] = {}
    for index, rate in enumerate(means):
        row, column = divmod(index, across)
        shade = math.ceil(math.sqrt(min(max(rate, 0.0), 1.0)) * SHADES)
        place = f"M{column} {row}h.92v.92h-.92z"
        if len(means) <= TITLED_CELLS:
            first = index * block
            name = f"channel {first}" if block == 1 else f"channels {first} to {min(first + block, len(rates)) - 1}"
            title = _tag("title", escape(f"{name}: {100 * rate:.2f} %"))
            drawn.append(_tag("path", title, d=place, class_=_shade_class(shade)))
        else:
            shapes[_shade_class(shade)] = shapes.get(_shade_class(shade), "") + place
    drawn += [_tag("path", d=shapes[style], class_=style) for style in sorted(shapes)]
    return _tag(
        "svg",
        *drawn,
        class_="chart cells",
        role="img",
        aria_label=label,
        viewBox=f"0 0 {across} {down}",
        style=f"max-width:{across * 22}px",
    )


def _shade_class(shade: int) -> str:
    return f"right shade{shade}" if shade else "frame"


def heat_map(matrix: Sequence[Sequence[int]], label: str) -> tuple[str, int]:
    """Return a square of shaded cells for a confusion matrix, and how many neighbouring classes share a cell (1: none).

    Each cell's shade is its share of its row: correct cells and mistakes have their own classes, with `SHADES` shades
    each, so that the size of the picture is that of the cells that are not empty.

    Args:
        matrix: square; rows are labels, columns predictions. label: what it shows.
    """
    block = math.ceil(len(matrix) / DRAWN_CLASSES)
    size = math.ceil(len(matrix) / block) if block else 0
    cells = [[0] * size for _ in range(size)]
    for row, numbers in enumerate(matrix):
        for column, number in enumerate(numbers):
            cells[row // block][column // block] += number
    shapes: dict[str, str] = {}
    for row, numbers in enumerate(cells):
        total = sum(numbers)
        for column, number in enumerate(numbers):
            if number:
                # Mistakes are spread thin over many classes: the square root keeps the rare ones visible.
                shade = math.ceil(math.sqrt(number / total) * SHADES)
                style = f"{'right' if row == column else 'wrong'} shade{shade}"
                shapes[style] = shapes.get(style, "") + f"M{column} {row}h1v1h-1z"
    paths = [_tag("path", d=shapes[style], class_=style) for style in sorted(shapes)]
    frame = _tag("rect", width=size, height=size, class_="frame", vector_effect="non-scaling-stroke")
    view = f"0 0 {size} {size}"
    first, rest = 0.06, 0.93
    grid = _tag(
        "svg", frame, *paths, x=_percent(first), y=_percent(first), width=_percent(rest), height=_percent(rest),
        viewBox=view, preserveAspectRatio="none", shape_rendering="crispEdges",
    )  # fmt: skip
    words = []
    for value in ticks(0, max(len(matrix) - 1, 1), 5):
        if value <= len(matrix) - 1 and value == int(value):
            at = first + rest * (value + 0.5) / (size * block)
            words += [
                _words(f"{value:g}", _percent(at), _percent(first - 0.015), "tick", "middle"),
                _tag(
                    "text",
                    f"{value:g}",
                    x=_percent(first - 0.012),
                    y=_percent(at),
                    dy=4,
                    class_="tick",
                    text_anchor="end",
                ),
            ]
    svg = _tag("svg", grid, *words, class_="chart square", role="img", aria_label=label)
    return svg, block
