"""Chip descriptions: TOML files of figures, each with its source and tag, checked by one schema.

A figure that no source states has the value "unknown": what depends on it "cannot be told", it is never guessed.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from math import inf
from pathlib import Path
from types import MappingProxyType
from typing import Any

from maqd_snn.errors import MaqdError, unknown_name

SCHEMA = 1
LARGEST_FILE = 1 << 20  # bytes
LARGEST_COUNT = 1 << 50
LARGEST_CORES = 1 << 16
UNKNOWN = "unknown"

TAGS: Mapping[str, str] = MappingProxyType(
    {
        "stated": "the named source states it",
        "second-hand": "a secondary source states it, quoting the primary",
        "derived": "follows from stated figures, or is this mapper's own rule; the source says how",
        "parameter": "no product: a parameter of a generic target, to be set",
        "unknown": "no source states it",
    }
)


@dataclass(frozen=True)
class Key:
    """What a figure may hold.

    Attributes:
        kind: `count` (whole number of at least `least`), `counts` (one for each core), `sizes` (a list of allowed
        counts), `choice` (one of `choices`) or `price` (a number of at least 0). text: what it means, with its unit.
    """

    kind: str
    text: str
    least: int = 1
    choices: tuple[str, ...] = ()


def _choice(text: str, *choices: str) -> Key:
    return Key("choice", text, choices=choices)


# Everything that a chip description can say. `fit` has a rule for every limit; the rest says how the chip is used.
KEYS: Mapping[str, Key] = MappingProxyType(
    {
        # how the chip is used
        "topology": _choice("cores joined as", "mesh", "switch", "single"),
        "spikes": _choice("what a message carries, one bit or a level", "binary", "graded"),
        "input": _choice("pixel codes reach the cores as", "codes", "unit-events", "none"),
        "scores": _choice("class scores (accumulators) can be read from the cores", "yes", "no"),
        "max_pool": _choice(
            "max-pools by the core, or by neurons that fire where an input does", "core", "neurons", "no"
        ),
        "weight_sharing": _choice("a convolution's weights are stored once in a core", "yes", "no"),
        "convolution": _choice("convolutions and pools are mapped", "yes", "no"),
        "signed_weights": _choice("one synapse can hold either sign", "yes", "no"),
        "own_thresholds": _choice("thresholds of a neuron with several levels", "free", "even"),
        "many_chips": _choice("the mesh goes on over chips", "yes", "no"),
        # the mesh
        "cores": Key("count", "cores of a chip"),
        "mesh_width": Key("count", "tiles of the mesh, west to east"),
        "mesh_height": Key("count", "tiles of the mesh, north to south"),
        "cores_per_tile": Key("count", "cores that share a router"),
        # limits of a core
        "neurons": Key("count", "neurons of a core"),
        "in_axons": Key("count", "input axons of a core"),
        "out_axons": Key("count", "output axon entries of a core"),
        "synapse_bits": Key("count", "bits of synapse memory of a core, in blocks as Loihi 1 packs them"),
        "threshold_groups": Key("count", "threshold settings of a core, each reaching as far as the bias does"),
        "crossbar_axons": Key("count", "axons (rows) of a core's binary crossbar"),
        "crossbar_neurons": Key("count", "neurons (columns) of a core's binary crossbar"),
        "memory_bytes": Key("count", "bytes of a core for weights, thresholds and accumulators"),
        "weight_memory_bits": Key("count", "bits of a core for weights"),
        "state_memory_bits": Key("count", "bits of a core for accumulators"),
        "kernel_words": Key("counts", "words of kernel memory, of each core"),
        "neuron_words": Key("counts", "words of neuron memory, of each core"),
        "bias_words": Key("counts", "words of bias memory, of each core"),
        # limits of a layer
        "weight_bits": Key("count", "bits of a weight, sign included"),
        "accumulator_bits": Key("count", "bits of an accumulator, sign included"),
        "threshold_magnitude": Key("count", "largest magnitude of a threshold"),
        "payload_bits": Key("count", "bits of the level that a message carries"),
        "events_per_step": Key("count", "largest level that a neuron emits in one step"),
        "axon_types": Key("count", "axon types of a crossbar: bits of a weight by as many axons of one source"),
        "fan_in": Key("count", "synapses of one neuron"),
        "fan_out": Key("count", "synapses that one neuron drives"),
        "mean_fan_out": Key("count", "synapses that the neurons drive, on average"),
        "kernel": Key("count", "height and width of a kernel"),
        "strides": Key("sizes", "strides"),
        "padding": Key("count", "rows or columns of padding", least=0),
        "input_size": Key("count", "height and width of a layer's input"),
        "output_size": Key("count", "height and width of a layer's output, before pooling"),
        "channels": Key("count", "channels of a layer"),
        "pool_sizes": Key("sizes", "sum-pool sizes"),
        "destinations": Key("count", "layers that a layer sends to"),
        # limits of the network
        "classes": Key("count", "classes"),
        "input_channels": Key("count", "input channels"),
        "input_events": Key("count", "events of an input channel in one step"),
        "hidden_neurons": Key("count", "neurons that are no outputs"),
        "output_neurons": Key("count", "output neurons"),
        "synapses": Key("count", "synapses of a chip"),
        "flash_bytes": Key("count", "bytes of flash for weights and thresholds"),
        "ram_bytes": Key("count", "bytes of RAM for levels and accumulators"),
        # bytes of a number in memory
        "state_bits": Key("count", "bits of a stored accumulator"),
        # prices
        "hop_x_pj": Key("price", "energy of one message over one link, east-west, in pJ"),
        "hop_y_pj": Key("price", "energy of one message over one link, north-south, in pJ"),
        "local_pj": Key("price", "energy of one message within a tile, in pJ"),
        "chip_hop_pj": Key("price", "energy of one message from chip to chip, in pJ"),
        "synop_ns": Key("price", "time of one synaptic operation in a core, in ns"),
        "hop_ns": Key("price", "time of one message over one link, in ns; told, in no sum"),
    }
)
ALWAYS = ("topology", "spikes", "input", "scores", "cores", "max_pool", "convolution")
MESH = ("mesh_width", "mesh_height", "cores_per_tile", "many_chips")


@dataclass(frozen=True)
class Figure:
    """One figure of a chip: its value (or None for unknown), tag and source."""

    value: Any
    tag: str
    source: str


@dataclass(frozen=True)
class Chip:
    """A chip description.

    Attributes:
        name, title: for lists. figures: by the names of `KEYS`. caveats: where the chip does not compute what the
        integer network computes, or where this mapper's reading of it ends.
    """

    name: str
    title: str
    figures: Mapping[str, Figure]
    caveats: tuple[str, ...] = ()

    def has(self, key: str) -> bool:
        """Whether the description has this figure, known or not."""
        return key in self.figures

    def value(self, key: str) -> Any:
        """Return the figure's value, None where it is unknown or absent."""
        return self.figures[key].value if key in self.figures else None

    def with_parameters(self, values: Mapping[str, Any]) -> "Chip":
        """Return the chip with other values of figures that are parameters (tag `parameter`).

        Raises:
            MaqdError: an unknown name, a figure that is published and no parameter, or a value that does not fit.
        """
        changed = dict(self.figures)
        settable = [key for key, figure in self.figures.items() if figure.tag == "parameter"]
        for key, value in values.items():
            if key not in settable:
                if key in self.figures:
                    raise MaqdError(
                        f"{self.name}: {key} is no parameter but a published figure; copy the chip's file to change it"
                    )
                raise unknown_name(f"parameter of {self.name}", key, settable)
            changed[key] = replace(changed[key], value=_check_value(f"{self.name}: {key}", KEYS[key], value))
        _check_whole(self.name, changed)
        return replace(self, figures=changed)


def parse_chip(text: str, where: str) -> Chip:
    """Return the chip that a TOML text describes.

    The text holds `schema`, `name`, `title`, optionally `caveats` (a list of texts), and a table `figures.KEY` with
    `value`, `tag`, `source` for every figure; KEY is one of `KEYS`, the tag one of `TAGS`.

    Args:
        text: TOML. where: its file, for errors.

    Raises:
        MaqdError: no TOML, another schema, a missing, unknown, negative or contradictory value.
    """
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise MaqdError(f"{where} is no TOML: {error}") from error
    if values.get("schema") != SCHEMA:
        raise MaqdError(f"{where}: expected schema = {SCHEMA}, got {values.get('schema')!r}")
    extra = sorted(set(values) - {"schema", "name", "title", "caveats", "figures"})
    if extra:
        raise MaqdError(f"{where}: unknown keys {', '.join(extra)}; expected schema, name, title, caveats, figures")
    name, title = (_text(values.get(key), f"{where}: {key}") for key in ("name", "title"))
    caveats = values.get("caveats", [])
    if not isinstance(caveats, list):
        raise MaqdError(f"{where}: caveats must be a list of texts, got {caveats!r}")
    table = values.get("figures")
    if not isinstance(table, dict):
        raise MaqdError(f"{where}: there are no figures; give tables [figures.cores] and so on")
    figures = {key: _figure(f"{where}: {key}", key, entry) for key, entry in table.items()}
    _check_whole(where, figures)
    return Chip(name, title, MappingProxyType(figures), tuple(_text(c, f"{where}: a caveat") for c in caveats))


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise MaqdError(f"{what} must be a text that is not empty, got {value!r}")
    return value


def _figure(where: str, key: str, entry: Any) -> Figure:
    if key not in KEYS:
        raise unknown_name(f"figure in {where.rpartition(': ')[0]}:", key, KEYS)
    if not isinstance(entry, dict) or sorted(entry) != ["source", "tag", "value"]:
        got = sorted(entry) if isinstance(entry, dict) else repr(entry)
        raise MaqdError(f"{where} must have value, tag and source and nothing else, got {got}")
    tag, source = _text(entry["tag"], f"{where}: tag"), _text(entry["source"], f"{where}: source")
    if tag not in TAGS:
        raise unknown_name(f"tag of {where}", tag, TAGS)
    if (entry["value"] == UNKNOWN) != (tag == "unknown"):
        raise MaqdError(
            f"{where}: the value 'unknown' and the tag 'unknown' go together, got {entry['value']!r}, {tag!r}"
        )
    return Figure(None if tag == "unknown" else _check_value(where, KEYS[key], entry["value"]), tag, source)


def _check_value(where: str, key: Key, value: Any) -> Any:
    if key.kind == "choice":
        if value not in key.choices:
            raise MaqdError(f"{where} must be one of {', '.join(key.choices)}, got {value!r}")
    elif key.kind == "price":
        if type(value) not in (int, float) or not 0 <= value < inf:
            raise MaqdError(f"{where} must be a number of at least 0, got {value!r}")
    elif key.kind == "count":
        if type(value) is not int or not key.least <= value <= LARGEST_COUNT:
            raise MaqdError(f"{where} must be a whole number of at least {key.least}, got {value!r}")
    else:
        if not isinstance(value, list | tuple) or not value:
            raise MaqdError(f"{where} must be a list of whole numbers, got {value!r}")
        if any(type(entry) is not int or not key.least <= entry <= LARGEST_COUNT for entry in value):
            raise MaqdError(f"{where} must hold whole numbers of at least {key.least}, got {value!r}")
        return tuple(value)
    return value


def _check_whole(where: str, figures: Mapping[str, Figure]) -> None:
    """Refuse what is missing, and figures that contradict each other."""
    value = {key: figure.value for key, figure in figures.items()}
    needed = ALWAYS + (MESH if value.get("topology") == "mesh" else ())
    missing = [key for key in needed if key not in figures]
    if missing:
        raise MaqdError(f'{where}: the figures {", ".join(missing)} are missing; give a value or "unknown"')
    for key in ("topology", "spikes"):
        if value[key] is None:
            raise MaqdError(f"{where}: {key} decides how to map and cannot be unknown")
    cores = value["cores"]
    if cores is None or cores > LARGEST_CORES:
        raise MaqdError(f"{where}: cores must be known and at most {LARGEST_CORES}, got {cores}")
    if value["topology"] == "mesh":
        sides = [value[key] for key in ("mesh_width", "mesh_height", "cores_per_tile")]
        if None not in sides and sides[0] * sides[1] * sides[2] != cores:
            raise MaqdError(
                f"{where}: {sides[0]} x {sides[1]} tiles of {sides[2]} cores are {sides[0] * sides[1] * sides[2]} "
                f"cores, but cores = {cores}; make them agree"
            )
        if (sides[0] is None) != (sides[1] is None):
            raise MaqdError(f"{where}: give both mesh_width and mesh_height, or neither")
    elif any(key in figures for key in MESH):
        raise MaqdError(f"{where}: {', '.join(MESH)} belong to topology = 'mesh', got {value['topology']!r}")
    if value["topology"] == "single" and cores != 1:
        raise MaqdError(f"{where}: topology = 'single' means one core, got cores = {cores}")
    for key, entry in value.items():
        if KEYS[key].kind == "counts" and entry is not None and len(entry) != cores:
            raise MaqdError(f"{where}: {key} holds {len(entry)} values for {cores} cores; give one for each core")
    if value["spikes"] == "binary" and (value.get("payload_bits") or 1) > 1:
        raise MaqdError(f"{where}: binary spikes carry one bit, but payload_bits = {value['payload_bits']}")
    for small, large in (("mean_fan_out", "fan_out"), ("fan_out", "synapses"), ("fan_in", "synapses")):
        low, high = value.get(small), value.get(large)
        if low is not None and high is not None and low > high:
            raise MaqdError(f"{where}: {small} = {low} is larger than {large} = {high}; one of them is wrong")
    if (bits := value.get("synapse_bits")) is not None and bits % 64:
        raise MaqdError(f"{where}: synapse_bits counts words of 64 bits, got {bits}")


def read_chip(path: str | Path) -> Chip:
    """Return the chip described by a TOML file; raises MaqdError as `parse_chip`, or where there is no such file."""
    source = Path(path)
    if not source.is_file():
        raise MaqdError(f"there is no chip file {str(source)!r}; the chips that need none are: {', '.join(CHIPS)}")
    if source.stat().st_size > LARGEST_FILE:
        raise MaqdError(f"{str(source)!r} is larger than {LARGEST_FILE} bytes, which no chip description is")
    try:
        text = source.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise MaqdError(f"{str(source)!r} is no text in UTF-8: {error}") from error
    return parse_chip(text, str(source))


# The descriptions that come with the library; `chips/NAME.toml` holds each.
CHIPS: tuple[str, ...] = (
    "loihi1",
    "loihi2",
    "truenorth",
    "speck2e",
    "speck2f",
    "spinnaker2",
    "xylo-audio2",
    "xylo-audio3",
    "xylo-imu",
    "brainscales2",
    "accelerator",
    "microcontroller",
)


@cache
def _shipped(name: str) -> Chip:
    text = (files("maqd_snn.neuromorphic.hardware") / "chips" / f"{name}.toml").read_text(encoding="utf-8")
    return parse_chip(text, f"{name}.toml")


def get_chip(name: "str | Path | Chip", parameters: Mapping[str, Any] | None = None) -> Chip:
    """Return a chip by its name in `CHIPS`, or by the path of a TOML file.

    Args:
        name: a name, a path that ends in .toml, or a chip, which is returned. parameters: values of figures that are
        parameters, see `Chip.with_parameters`.

    Raises:
        MaqdError: an unknown name (the choices are listed), or a file that is no chip description.

    >>> get_chip("loihi1").value("neurons")
    1024
    """
    if isinstance(name, Chip):
        chip = name
    elif str(name).endswith(".toml"):
        chip = read_chip(name)
    elif name in CHIPS:
        chip = _shipped(str(name))
    else:
        raise unknown_name("chip", str(name), [*CHIPS, "FILE.toml"])
    return chip.with_parameters(parameters) if parameters else chip


def parse_parameters(texts: Iterable[str]) -> dict[str, Any]:
    """Return the values in texts such as `cores=64`; raises MaqdError where one has no such form.

    >>> parse_parameters(["cores=64", "spikes=graded"])
    {'cores': 64, 'spikes': 'graded'}
    """
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals or not value:
            raise MaqdError(f"a parameter is set as NAME=VALUE, got {text!r}")
        try:
            values[key] = int(value)
        except ValueError:
            values[key] = value
    return values
