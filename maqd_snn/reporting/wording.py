"""Numbers as the page writes them: bound to their units, with signs."""

import math
from collections.abc import Mapping
from typing import Any

from maqd_snn.reporting.units import energy_text, quantity

Values = Mapping[str, Any]

NO_VALUE = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"


def keep(text: str) -> str:
    """Bind a number to its unit, which must not stand on the next line."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def number(value: float) -> str:
    """Return a number with three digits and a prefix."""
    return keep(quantity(value))


def pj(energy_pj: float | None) -> str:
    """Return an energy with its unit.

    >>> pj(2.5e6) == "2.50\N{NO-BREAK SPACE}\N{MICRO SIGN}J"
    True
    """
    return keep(energy_text(energy_pj).replace(" uJ", " \N{MICRO SIGN}J"))


def share(value: float | None, digits: int = 1) -> str:
    """Return a share of 1 as percent.

    >>> share(0.8917) == "89.2\N{NO-BREAK SPACE}%", share(None) == NO_VALUE
    (True, True)
    """
    return NO_VALUE if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def part(value: float) -> str:
    """Return a share of a whole as percent; a small part is not nothing.

    >>> part(0.0002) == "<\N{NO-BREAK SPACE}0.1\N{NO-BREAK SPACE}%", part(0.0) == share(0.0)
    (True, True)
    """
    return f"<\N{NO-BREAK SPACE}{share(0.001)}" if 0 < value < 0.0005 else share(value)


def ratio_text(ours: float, theirs: float) -> tuple[str, str]:
    """Return how far `ours` lies below or above `theirs`, in words, and `good`, `even` or `bad`.

    >>> ratio_text(10.0, 182.0)
    ('18.2 × below', 'good')
    >>> ratio_text(13.1, 10.0)
    ('1.31 × above', 'bad')
    >>> ratio_text(10.0, 10.01)
    ('equal to', 'even')
    """
    ratio = theirs / ours
    if abs(ratio - 1) < 0.005:
        return "equal to", "even"
    factor, word, mood = (ratio, "below", "good") if ratio > 1 else (1 / ratio, "above", "bad")
    written = f"{factor:,.0f}" if factor >= 99.95 else f"{factor:.1f}" if factor >= 9.995 else f"{factor:.2f}"
    return f"{written} {TIMES} {word}", mood


def wilson_interval(value: float, samples: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share seen in a number of samples (E. B. Wilson, JASA 22, 1927).

    >>> low, high = wilson_interval(0.5, 100)
    >>> round(low, 3), round(high, 3)
    (0.404, 0.596)
    """
    z = 1.959964
    middle = (value + z * z / (2 * samples)) / (1 + z * z / samples)
    half = z / (1 + z * z / samples) * math.sqrt(value * (1 - value) / samples + z * z / (4 * samples * samples))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def deviation(counts: Values, name: str) -> str:
    """Return the standard deviation of a count over the samples, or nothing where the report has none."""
    spread = (counts.get("per_sample") or {}).get(name)
    return "" if spread is None else number(spread["deviation"])
