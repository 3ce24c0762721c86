"""Numbers for people."""


def quantity(value: float, unit: str = "") -> str:
    """Return a number with three significant digits and an SI prefix; whole numbers below 1000 stand as they are.

    >>> quantity(1234567), quantity(0), quantity(950), quantity(12.0, "pJ"), quantity(0.00123)
    ('1.23 M', '0', '950', '12.0 pJ', '0.00123')
    """
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor * 0.9995:
            return f"{_three(value / factor)} {prefix}{unit}"
    text = f"{value:g}" if value == int(value) and not unit else _three(value)
    return f"{text} {unit}".rstrip()


def _three(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) < 0.995:
        return f"{value:.3g}"
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


def energy_text(energy_pj: float | None) -> str:
    """Return an energy given in picojoules with a fitting prefix; None has no published price.

    >>> energy_text(0.25), energy_text(1500), energy_text(2.5e6), energy_text(None)
    ('0.25 pJ', '1.50 nJ', '2.50 uJ', 'no total')
    """
    if energy_pj is None:
        return "no total"
    for factor, unit in ((1e9, "mJ"), (1e6, "uJ"), (1e3, "nJ")):
        if abs(energy_pj) >= factor * 0.9995:
            return f"{_three(energy_pj / factor)} {unit}"
    return f"{_three(energy_pj)} pJ"
