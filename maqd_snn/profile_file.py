"""Energy profiles from TOML files: the users' own prices, held to the same rules as the built-in ones.

    name = "mychip"
    title = "My chip"
    node = "22 nm"
    voltage = "0.8 V"
    graded = true
    includes = "synaptic operations and neuron updates"
    excludes = "routing, static power"

    [prices.synop_graded]
    value = 5.1
    unit = "pJ"
    basis = "measured"
    source = "our board, March 2026"

Optional: `free` (a list of operations), `scope`, `event_driven`, tables of `[listed.NAME]` (as prices, not charged),
and `[memories]` (access_bits, weight_bytes, accumulator_bytes, threshold_bytes, message_bytes, factor), which adds SRAM
accesses.
"""

import math
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from maqd_snn.errors import MaqdError, unknown_name
from maqd_snn.profiles import BASES, PRICED, SCOPES, UNITS, Price, Profile
from maqd_snn.sram import Memories

LARGEST_FILE = 1_000_000
REQUIRED = ("name", "title", "node", "voltage", "graded", "includes", "excludes", "prices")
OPTIONAL = ("free", "listed", "event_driven", "scope", "memories")
PRICE_KEYS = ("value", "unit", "basis", "source")
MEMORY_KEYS = ("access_bits", "weight_bytes", "accumulator_bytes", "threshold_bytes", "message_bytes", "factor")


def read_profile(path: str | os.PathLike[str]) -> Profile:
    """Return the profile that a TOML file holds.

    Raises:
        MaqdError: no such file; too large a file; no TOML; a missing, unknown or ill-typed key; a missing or negative
            price; an unknown unit, basis or operation. The message names the file and the field.
    """
    file = Path(path)
    if not file.is_file():
        raise MaqdError(f"there is no profile file {str(file)!r}; give the path of a TOML file, or a profile's name")
    if file.stat().st_size > LARGEST_FILE:
        raise MaqdError(f"{str(file)!r} is too large for an energy profile: more than {LARGEST_FILE:,} bytes")
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MaqdError(f"{str(file)!r} is no TOML file: {error}") from error
    try:
        return profile_from(values)
    except MaqdError as error:
        raise MaqdError(f"{file.name}: {error}") from error


def profile_from(values: Mapping[str, Any]) -> Profile:
    """Return the profile of these plain values (the keys of a profile file).

    >>> made = profile_from({
    ...     "name": "mine", "title": "Mine", "node": "", "voltage": "", "graded": False, "includes": "", "excludes": "",
    ...     "prices": {"synop_binary": {"value": 0.5, "unit": "nJ", "basis": "measured", "source": "our lab"}},
    ... })
    >>> made.prices["synop_binary"].energy_pj
    500.0
    """
    _keys(values, "profile", REQUIRED, OPTIONAL)
    texts = {name: _text(values, name) for name in ("name", "title", "node", "voltage", "includes", "excludes")}
    if not texts["name"]:
        raise MaqdError("name must not be empty")
    prices = _table(values, "prices")
    for name in prices:
        if name not in PRICED:
            raise unknown_name("operation in prices", name, PRICED)
    scope = _text(values, "scope") if "scope" in values else "chip"
    if scope not in SCOPES:
        raise unknown_name("scope", scope, SCOPES)
    memories = _memories(_table(values, "memories")) if "memories" in values else None
    return Profile(
        **texts,
        graded=_boolean(values, "graded"),
        event_driven=_boolean(values, "event_driven") if "event_driven" in values else True,
        prices=MappingProxyType({name: _price(value, f"prices.{name}") for name, value in prices.items()}),
        listed=MappingProxyType(
            {name: _price(value, f"listed.{name}") for name, value in _table(values, "listed").items()}
            if "listed" in values
            else {}
        ),
        free=_free(values.get("free", [])),
        scope=scope,
        model="prices" if memories is None else "event-core",
        memories=memories,
    )


def _keys(values: Mapping[str, Any], where: str, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
    for name in values:
        if name not in (*required, *optional):
            raise unknown_name(f"key in {where}", name, (*required, *optional))
    for name in required:
        if name not in values:
            raise MaqdError(f"{where} lacks {name!r}; it needs: {', '.join(required)}")


def _text(values: Mapping[str, Any], name: str) -> str:
    if not isinstance(values[name], str):
        raise MaqdError(f"{name} must be a text, got {values[name]!r}")
    return str(values[name])


def _boolean(values: Mapping[str, Any], name: str) -> bool:
    if not isinstance(values[name], bool):
        raise MaqdError(f"{name} must be true or false, got {values[name]!r}")
    return bool(values[name])


def _table(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if not isinstance(values[name], dict):
        raise MaqdError(f"{name} must be a table, got {values[name]!r}")
    return dict(values[name])


def _price(value: object, where: str) -> Price:
    if not isinstance(value, dict):
        raise MaqdError(f"{where} must be a table of {', '.join(PRICE_KEYS)}, got {value!r}")
    _keys(value, where, PRICE_KEYS)
    number, unit = value["value"], value["unit"]
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number) or number < 0:
        raise MaqdError(f"{where}.value must be a finite number, 0 or more, got {number!r}")
    if unit not in UNITS:
        raise unknown_name(f"unit in {where}", unit, UNITS)
    if value["basis"] not in BASES:
        raise unknown_name(f"basis in {where}", value["basis"], BASES)
    if not isinstance(value["source"], str) or not value["source"].strip():
        raise MaqdError(f"{where}.source must say where the figure stands, got {value['source']!r}")
    # Written through decimal text, so that 0.45 nJ is 450 pJ and not 450.00000000000006.
    return Price(float(f"{number * UNITS[unit]:.12g}"), value["basis"], value["source"])


def _free(names: object) -> frozenset[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MaqdError(f"free must be a list of operations, got {names!r}")
    for name in names:
        if name not in PRICED:
            raise unknown_name("operation in free", name, PRICED)
    return frozenset(names)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _memories(values: Mapping[str, Any]) -> Memories:
    _keys(values, "memories", (), MEMORY_KEYS)
    for name, value in values.items():
        check: Callable[[object], bool] = _real if name == "factor" else _whole
        if not check(value):
            raise MaqdError(
                f"memories.{name} must be a {'number' if name == 'factor' else 'whole number'}, got {value!r}"
            )
    return Memories(**values)
