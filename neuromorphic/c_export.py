"""C99 of an integer network: no dependency but <stdint.h>, static buffers only, a dense and an event-driven form.

Three files: `NAME.h` (sizes, the two functions, and the report of flash and RAM), `NAME.c` (weights, thresholds and
loops, one pair of functions a layer), and `NAME_main.c`, a host program that checks two built-in samples or runs what
it reads. Every value has the smallest C type that holds its worst case, so nothing can overflow.

- dense: one output channel at a time; each weight is unpacked once and multiplies a row of inputs; a weight of zero is
  skipped. Its accumulators are one channel's.
- event-driven: for every input channel the nonzero values are listed; each reaches the accumulators of all output
  channels of its layer through the weights that exist. It counts events and effective SynOps as `maqd_snn.simulate`
  does. Layers that are not spiking (pixels, accumulators) run dense in it, as they are charged.

`-DNAME_EVENTS=0` or `-DNAME_DENSE=0` leaves one form out, with its buffers.

Axis letters: O output channels, I input channels, C channels, H height, W width, P = H*W, n thresholds.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maqd_snn._version import __version__
from maqd_snn.counting import Values, flowing_values
from maqd_snn.errors import MaqdError
from maqd_snn.files import write_texts
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.integer.ops import Op
from maqd_snn.neuromorphic.packing import pack

TYPES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "uint8_t": (0, 2**8 - 1),
        "int8_t": (-(2**7), 2**7 - 1),
        "uint16_t": (0, 2**16 - 1),
        "int16_t": (-(2**15), 2**15 - 1),
        "int32_t": (-(2**31), 2**31 - 1),
        "int64_t": (-(2**63), 2**63 - 1),
    }
)
SIGNED = ("int16_t", "int32_t", "int64_t")  # of accumulators
GOLDEN_SAMPLES = 2
NUMBERS_A_LINE = 24

# C99's keywords, what <stdint.h> and the generated files declare, and `main`.
RESERVED = frozenset(
    [
        "auto",
        "break",
        "case",
        "char",
        "const",
        "continue",
        "default",
        "do",
        "double",
        "else",
        "enum",
        "extern",
        "float",
        "for",
        "goto",
        "if",
        "inline",
        "int",
        "long",
        "register",
        "restrict",
        "return",
        "short",
        "signed",
        "sizeof",
        "static",
        "struct",
        "switch",
        "typedef",
        "union",
        "unsigned",
        "void",
        "volatile",
        "while",
        "main",
    ]
)


def width(c_type: str) -> int:
    """Return the bytes of a C type of `TYPES`."""
    return int(re.sub(r"\D", "", c_type)) // 8


def type_for(low: int, high: int, among: Iterable[str] = TYPES) -> str:
    """Return the smallest C type that holds low..high.

    >>> type_for(0, 3), type_for(-128, 127), type_for(-9, 200), type_for(0, 3, among=SIGNED)
    ('uint8_t', 'int8_t', 'int16_t', 'int16_t')
    """
    return next(name for name in among if TYPES[name][0] <= low and high <= TYPES[name][1])


@dataclass(frozen=True)
class Sizes:
    """Bytes of constants and of static buffers, as exported; code and stack come on top.

    Attributes:
        weights, thresholds: bytes of constants (flash). values: of the buffers between layers. dense, events: of the
        accumulators of each form, and the list of events. shared: whether the event-driven form needs those of the
        dense one, too, for layers that are not spiking.
    """

    weights: int
    thresholds: int
    values: int
    dense: int
    events: int
    shared: bool

    @property
    def flash(self) -> int:
        """Bytes of all constants."""
        return self.weights + self.thresholds

    def to_dict(self) -> dict[str, int]:
        """Return flash and RAM in bytes, by form."""
        return {
            "flash_weights": self.weights,
            "flash_thresholds": self.thresholds,
            "ram_dense": self.values + self.dense,
            "ram_events": self.values + self.events + (self.dense if self.shared else 0),
            "ram_both": self.values + self.dense + self.events,
        }


@dataclass(frozen=True)
class Source:
    """The three files as text, by suffix of the stem: `.h`, `.c`, `_main.c`; and their sizes."""

    files: Mapping[str, str]
    sizes: Sizes


def identifier(text: str) -> str:
    """Return `text` as a C identifier.

    >>> identifier("network-2.b"), identifier("2nd"), identifier("double")
    ('network_2_b', 'net_2nd', 'net_double')
    """
    plain = re.sub(r"[^A-Za-z0-9_]", "_", text, flags=re.ASCII)
    return f"net_{plain}" if not re.match(r"[A-Za-z]", plain) or plain in RESERVED else plain


@dataclass
class _Buffer:
    """A value's place: its C type, its elements, its offset in the arena of that type, and the step of its last use."""

    c_type: str
    size: int
    born: int
    dies: int
    offset: int = 0


@dataclass
class _Writer:
    """What the rows collect while they write layer after layer."""

    net: IntegerNetwork
    name: str
    flow: Mapping[str, Values]
    constants: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    calls: dict[str, list[str]] = field(default_factory=lambda: {"dense": [], "events": []})
    scratch: dict[str, dict[str, int]] = field(default_factory=lambda: {"dense": {}, "events": {}})
    listed: int = 0
    weights: int = 0
    thresholds: int = 0
    labels: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    counted: list[str] = field(default_factory=list)

    def array(self, name: str, c_type: str, values: NDArray[Any], kind: str, guard: str = "") -> None:
        """Add a constant array; `kind` is `weights` or `thresholds`, for the report; a guard as in `function`."""
        flat = values.reshape(-1).tolist()
        wide = c_type == "int64_t"
        words = [f"INT64_C({value})" if wide else str(value) for value in flat]
        rows = [", ".join(words[i : i + NUMBERS_A_LINE]) for i in range(0, len(words), NUMBERS_A_LINE)]
        text = f"static const {c_type} {name}[{len(flat)}] = {{\n    " + ",\n    ".join(rows) + "};\n"
        self.constants.append(f"#if {guard}\n{text}#endif\n" if guard else text)
        setattr(self, kind, getattr(self, kind) + len(flat) * width(c_type))

    def weight(self, op: ops.Conv2d | ops.Linear) -> None:
        """Add the packed weights of a product and the function LABEL_weight that unpacks number i."""
        label, values = self.labels[op.name], op.weight.numpy()
        packed = pack(values)
        head = f"static int32_t {label}_weight(int32_t i)"
        if packed is None:
            c_type = type_for(int(values.min()), int(values.max()), ("int16_t", "int32_t", "int64_t"))
            self.array(f"{label}_codes", c_type, values, "weights")
            head = f"static {c_type} {label}_weight(int32_t i)"
            code = f"{label}_codes[i]"
        else:
            self.array(f"{label}_codes", "uint8_t", packed.data, "weights")
            shift = {1: 3, 2: 2, 4: 1, 8: 0}[packed.bits]
            byte = f"{label}_codes[i >> {shift}]" if shift else f"{label}_codes[i]"
            code = f"(({byte} >> ((i & {8 // packed.bits - 1}) * {packed.bits})) & {2**packed.bits - 1})"
            code = byte if packed.bits == 8 else code
            code = f"{f'{packed.step} * ' if packed.step > 1 else ''}(int32_t){code} - {-packed.offset}"
        self.constants.append(f"{head}\n{{\n    return {code};\n}}\n")

    def reserve(self, form: str, c_type: str, size: int) -> str:
        """Reserve elements of the scratch accumulators of a form; return their name."""
        sizes = self.scratch[form]
        sizes[c_type] = max(sizes.get(c_type, 0), size)
        return f"{form}_{c_type.removesuffix('_t')}"

    def level(self, op: ops.Threshold, accumulator: str, out_type: str, z: str) -> list[str]:
        """Return the lines that turn accumulator `z` of channel c into element `out` of the output; adds thresholds."""
        label = self.labels[op.name]
        bound = self.net.bounds[op.inputs[0]] + 1
        direction = op.direction.numpy()
        theta = op.thresholds.numpy().clip(-bound, bound) * direction[:, None]
        self.array(f"{label}_theta", type_for(-bound, bound, ("int8_t", *SIGNED)), theta, "thresholds")
        lines = [f"const {accumulator} z = {z};"]
        if (direction < 0).any():
            self.array(f"{label}_falls", "uint8_t", (direction < 0).astype(np.uint8), "thresholds")
            lines = [f"const {accumulator} z = ({accumulator})({label}_falls[c] ? -{z} : {z});"]
        if op.levels == 1:
            lines.append(f"const int32_t level = z >= {label}_theta[c];")
        else:
            lines += [
                "int32_t level = 0;",
                "int32_t j;",
                f"for (j = 0; j < {op.levels}; j++)",
                f"    level += z >= {label}_theta[c * {op.levels} + j];",
            ]
        low = f" + {op.low}" if op.low > 0 else f" - {-op.low}" if op.low else ""
        return [*lines, f"out[i] = ({out_type})(level{low});"]

    def guard(self, op: Op, form: str) -> str:
        """Return the macro without which a form of a product is left out; one that is not spiking is in both."""
        return f"{self.name.upper()}_{form}" if self.flow[op.inputs[0]].spiking else ""

    def function(self, name: str, arguments: str, body: Iterable[str], guard: str = "") -> None:
        """Add a static function; with a guard it is compiled only where that macro is nonzero."""
        lines = [f"static void {name}({arguments})", "{", *(f"    {line}" if line else "" for line in body), "}", ""]
        if guard:
            lines = [f"#if {guard}", *lines[:-1], "#endif", ""]
        self.functions.append("\n".join(lines))


def c_source(net: IntegerNetwork, stem: str = "network") -> Source:
    """Return the C files of a network.

    Args:
        net: the integer network.
        stem: of the file names; as an identifier it begins every public name.

    Raises:
        MaqdError: a stem that is no plain file name; an op without a row; a layer too large for C's indices.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", stem, flags=re.ASCII):
        raise MaqdError(f"a C file needs a name of plain letters, digits, '_', '-' and '.', got {stem!r}")
    for op in net.ops:
        if type(op) not in ROWS:
            known = ", ".join(kind.__name__ for kind in ROWS)
            raise MaqdError(f"{op.name}: a {type(op).__name__} cannot be written as C; use only: {known}")
        sizes = [prod(net.shapes[op.name]), *(value.numel() for value in vars(op).values() if torch.is_tensor(value))]
        if max(sizes) >= 2**31:
            raise MaqdError(f"{op.name}: it has {max(sizes)} values, more than a 32-bit index of C reaches")
        if max(net.shapes[op.name][1:], default=0) >= 2**16:
            raise MaqdError(f"{op.name}: images of {net.shapes[op.name]} are larger than 16-bit coordinates of C reach")
    w = _Writer(net, identifier(stem), flowing_values(net))
    for index, op in enumerate(net.ops):
        w.labels[op.name] = f"l{index:02d}_" + re.sub(r"[^A-Za-z0-9_]", "_", op.name, flags=re.ASCII)
        flow = w.flow[op.name]
        w.types[op.name] = type_for(flow.low, flow.high)
    fused = _fused(net)
    buffers = _buffers(net, w, fused)
    for op in net.ops:
        if op.name in fused:
            continue  # written with the threshold that takes it
        ROWS[type(op)](w, op, fused)
    return _files(w, stem, _place(buffers), buffers)


def _fused(net: IntegerNetwork) -> dict[str, str]:
    """Return the products whose only reader is a threshold: product name -> threshold name."""
    found = {}
    for op in net.ops:
        if isinstance(op, ops.Threshold):
            (source,) = (other for other in net.ops if other.name == op.inputs[0])
            if isinstance(source, ops.Conv2d | ops.Linear) and len(net.consumers(source.name)) == 1:
                found[source.name] = op.name
    return found


def _root(net: IntegerNetwork, name: str) -> str:
    """Return the op whose buffer holds the values of `name`: a Flatten has none of its own."""
    by_name = {op.name: op for op in net.ops}
    while isinstance(by_name[name], ops.Flatten):
        name = by_name[name].inputs[0]
    return name


def _buffers(net: IntegerNetwork, w: _Writer, fused: Mapping[str, str]) -> dict[str, _Buffer]:
    buffers: dict[str, _Buffer] = {}
    product_of = {threshold: product for product, threshold in fused.items()}
    for step, op in enumerate(net.ops):
        if op.name in fused:
            continue
        taken = next(o for o in net.ops if o.name == product_of[op.name]).inputs if op.name in product_of else op.inputs
        for name in taken:
            buffers[_root(net, name)].dies = step
        if not isinstance(op, ops.Flatten):
            buffers[op.name] = _Buffer(w.types[op.name], prod(net.shapes[op.name]), step, step)
    buffers[_root(net, net.ops[-1].name)].dies = len(net.ops)
    return buffers


def _place(buffers: Mapping[str, _Buffer]) -> dict[str, int]:
    """Give every buffer the first gap of its type's arena that is free while it lives; return the arenas' elements."""
    arenas: dict[str, int] = {}
    placed: list[_Buffer] = []
    for buffer in sorted(buffers.values(), key=lambda b: (-b.size, b.born)):
        beside = sorted(
            (b for b in placed if b.c_type == buffer.c_type and b.born <= buffer.dies and buffer.born <= b.dies),
            key=lambda b: b.offset,
        )
        at = 0
        for other in beside:
            if at + buffer.size <= other.offset:
                break
            at = max(at, other.offset + other.size)
        buffer.offset = at
        placed.append(buffer)
        arenas[buffer.c_type] = max(arenas.get(buffer.c_type, 0), at + buffer.size)
    return arenas


def _arguments(w: _Writer, op: Op, source: str) -> str:
    return f"const {w.types[_root(w.net, source)]} *restrict in, {w.types[op.name]} *restrict out"


def _add_call(w: _Writer, function: str, sources: Iterable[str], out: str, form: str = "") -> None:
    names = [f"@{_root(w.net, source)}@" for source in sources]
    for each in [form] if form else ["dense", "events"]:
        w.calls[each].append(f"{function}({', '.join([*names, f'@{out}@'])});")


def _input(w: _Writer, op: ops.Input, fused: Mapping[str, str]) -> None:
    tests = []
    if op.low > TYPES[code_type(op)][0]:
        tests.append(f"codes[i] < {op.low}")
    if op.high < TYPES[code_type(op)][1]:
        tests.append(f"codes[i] > {op.high}")
    zero = f" - {op.zero_point}" if op.zero_point > 0 else f" + {-op.zero_point}" if op.zero_point else ""
    size, out = prod(op.shape), w.types[op.name]
    wide = type_for(min(op.low, op.low - op.zero_point), max(op.high, op.high - op.zero_point), ("int32_t", "int64_t"))
    body = [
        f"static int {w.labels[op.name]}(const {w.name}_code *codes, {out} *out)",
        "{",
        "    int32_t i;",
        f"    for (i = 0; i < {size}; i++) {{",
        *([f"        if ({' || '.join(tests)})", "            return 1;"] if tests else []),
        f"        out[i] = ({out})(({wide})codes[i]{zero});",
        "    }",
        "    return 0;",
        "}",
        "",
    ]
    w.functions.append("\n".join(body))
    for form in ("dense", "events"):
        w.calls[form].append(f"if ({w.labels[op.name]}(codes, @{op.name}@))\n        return 1;")


def code_type(op: ops.Input) -> str:
    """Return the C type of input codes."""
    return type_for(op.low, op.high)


@dataclass(frozen=True)
class _Product:
    """What both forms of a product write into: `sum`, of type `accumulator`, then levels where it is fused."""

    op: Any
    threshold: ops.Threshold | None
    accumulator: str
    out: Op


def _product(w: _Writer, op: ops.Conv2d | ops.Linear, fused: Mapping[str, str]) -> _Product:
    if op.name not in fused:
        return _Product(op, None, w.types[op.name], op)
    threshold = next(o for o in w.net.ops if o.name == fused[op.name])
    assert isinstance(threshold, ops.Threshold)
    bound = w.net.bounds[op.name]
    return _Product(op, threshold, type_for(-bound, bound, SIGNED), threshold)


def _write_product(w: _Writer, op: ops.Conv2d | ops.Linear, fused: Mapping[str, str]) -> None:
    p = _product(w, op, fused)
    w.weight(op)
    label, source = w.labels[op.name], op.inputs[0]
    out, (size, positions) = w.types[p.out.name], (prod(w.net.shapes[op.name]), prod(w.net.shapes[op.name][1:]))
    spiking = w.flow[source].spiking
    dense, events = (_conv_forms if isinstance(op, ops.Conv2d) else _linear_forms)(w, p)
    level: list[str] = [] if p.threshold is None else w.level(p.threshold, p.accumulator, out, "sum[i - at]")
    # Dense: channel after channel, through one channel's accumulators where a threshold follows.
    channels = w.net.shapes[op.name][0]
    if p.threshold is None:
        head = [f"{p.accumulator} *restrict sum = out + c * {positions};"]
        tail: list[str] = []
    else:
        accumulators = w.reserve("dense", p.accumulator, positions)
        head = [f"const int32_t at = c * {positions};", f"{p.accumulator} *restrict sum = {accumulators};"]
        tail = [
            f"for (i = at; i < at + {positions}; i++) {{",
            *(f"    {line}" for line in level),
            "}",
        ]
    body = [
        "int32_t c, i;",
        f"for (c = 0; c < {channels}; c++) {{",
        *(f"    {line}" for line in head),
        f"    for (i = 0; i < {positions}; i++)",
        "        sum[i] = 0;",
        *(f"    {line}" for line in dense),
        *(f"    {line}" for line in tail),
        "}",
    ]
    w.function(f"{label}_dense", _arguments(w, p.out, source), body, w.guard(op, "DENSE"))
    _add_call(w, f"{label}_dense", [source], p.out.name, "dense")
    if not spiking:
        _add_call(w, f"{label}_dense", [source], p.out.name, "events")
        return
    number = len(w.counted)
    w.counted.append(op.name)
    sums = "out" if p.threshold is None else w.reserve("events", p.accumulator, size)
    body = [
        "uint64_t effective = 0;",
        "int32_t i;",
        f"{p.accumulator} *restrict sums = {sums};",
        f"for (i = 0; i < {size}; i++)",
        "    sums[i] = 0;",
        *events,
        f"counters->effective_synops[{number}] += effective;",
    ]
    if p.threshold is not None:
        tail = [line.replace("sum[i - at]", "sums[i]") for line in level]
        body += [
            "{",
            "    int32_t c;",
            f"    for (c = 0; c < {channels}; c++)",
            f"        for (i = c * {positions}; i < (c + 1) * {positions}; i++) {{",
            *(f"            {line}" for line in tail),
            "        }",
            "}",
        ]
    body = [line.replace("@number@", str(number)) for line in body]
    counters = f"{w.name}_counters *counters"
    w.function(f"{label}_events", f"{_arguments(w, p.out, source)}, {counters}", body, w.guard(op, "EVENTS"))
    _add_call(w, f"{label}_events", [source], p.out.name, "events")
    w.calls["events"][-1] = w.calls["events"][-1].replace(");", ", counters);")


def _conv_forms(w: _Writer, p: _Product) -> tuple[list[str], list[str]]:
    op, label = p.op, w.labels[p.op.name]
    outs, per_group, kh, kw = op.weight.shape
    _, height, wide = w.net.shapes[op.inputs[0]]
    _, out_h, out_w = w.net.shapes[op.name]
    (sy, sx), (py, px), (dy, dx) = op.stride, op.padding, op.dilation
    for axis, kernel, size, out, stride, pad, step in (
        ("rows", kh, height, out_h, sy, py, dy),
        ("columns", kw, wide, out_w, sx, px, dx),
    ):
        limits = [_outputs_of_tap(size, out, stride, pad, t * step) for t in range(kernel)]
        name = f"{label}_{axis}"
        kind = type_for(0, out, ("uint8_t", "uint16_t", "int32_t"))
        w.array(name, kind, np.array(limits, np.int64), "thresholds", w.guard(op, "DENSE"))
    group_out = outs // op.groups
    channel = "i" if op.groups == 1 else f"(c / {group_out}) * {per_group} + i"
    taps = kh * kw
    weight = f"{label}_weight((c * {per_group} + i) * {taps} + ky * {kw} + kx)"
    factor_type = "int64_t" if p.accumulator == "int64_t" else "int32_t"

    def read(name: str, stride: int, tap: str, dilation: int, pad: int) -> str:
        at = name if stride == 1 else f"{name} * {stride}"
        at += f" + {tap}" if dilation == 1 else f" + {tap} * {dilation}"
        return at + (f" - {pad}" if pad else "")

    read_y, read_x = read("y", sy, "ky", dy, py), read("x", sx, "kx", dx, px)
    dense = [
        f"for (i = 0; i < {per_group}; i++) {{",
        "    int32_t ky, kx;",
        f"    for (ky = 0; ky < {kh}; ky++)",
        f"        for (kx = 0; kx < {kw}; kx++) {{",
        f"            const {factor_type} w = {weight};",
        "            int32_t y, x;",
        "            if (w == 0)",
        "                continue;",
        f"            for (y = {label}_rows[2 * ky]; y < {label}_rows[2 * ky + 1]; y++) {{",
        f"                const int32_t from = ({channel}) * {height * wide} + ({read_y}) * {wide};",
        f"                {p.accumulator} *restrict row = sum + y * {out_w};",
        f"                for (x = {label}_columns[2 * kx]; x < {label}_columns[2 * kx + 1]; x++)",
        f"                    row[x] = ({p.accumulator})(row[x] + w * in[from + {read_x}]);",
        "            }",
        "        }",
        "}",
    ]
    if w.flow[op.inputs[0]].spiking:
        w.listed = max(w.listed, height * wide)

    def target(name: str, where: str, pad: int, tap: str, dilation: int, stride: int) -> list[str]:
        back = tap if dilation == 1 else f"{tap} * {dilation}"
        lines = [f"int32_t {name} = {where}[e]{f' + {pad}' if pad else ''} - {back};"]
        if stride == 1:
            return lines
        return [*lines, f"if ({name} < 0 || {name} % {stride} != 0)", "    continue;", f"{name} /= {stride};"]

    body = [
        *target("y", "event_y", py, "ky", dy, sy),
        *target("x", "event_x", px, "kx", dx, sx),
        f"if (y < 0 || y >= {out_h} || x < 0 || x >= {out_w})",
        "    continue;",
        f"sum[y * {out_w} + x] = ({p.accumulator})(sum[y * {out_w} + x] + "
        f"w * channel[event_y[e] * {wide} + event_x[e]]);",
        "effective++;",
    ]
    positions = out_h * out_w
    first = "0" if op.groups == 1 else f"(ch / {per_group}) * {group_out}"
    own = "ch" if op.groups == 1 else f"(ch % {per_group})"
    weight = f"{label}_weight((c * {per_group} + {own}) * {taps} + ky * {kw} + kx)"
    source_type = w.types[_root(w.net, op.inputs[0])]
    events = [
        "{",
        "    int32_t ch, c, row, column, ky, kx, e;",
        f"    for (ch = 0; ch < {per_group * op.groups}; ch++) {{",
        f"        const {source_type} *channel = in + ch * {height * wide};",
        "        int32_t count = 0;",
        f"        for (row = 0; row < {height}; row++)",
        f"            for (column = 0; column < {wide}; column++)",
        f"                if (channel[row * {wide} + column] != 0) {{",
        "                    event_y[count] = (uint16_t)row;",
        "                    event_x[count] = (uint16_t)column;",
        "                    count++;",
        "                }",
        "        if (count == 0)",
        "            continue;",
        "        counters->events[@number@] += (uint64_t)count;",
        f"        for (c = {first}; c < {first} + {group_out}; c++) {{",
        f"            {p.accumulator} *restrict sum = sums + c * {positions};",
        f"            for (ky = 0; ky < {kh}; ky++)",
        f"                for (kx = 0; kx < {kw}; kx++) {{",
        f"                    const {factor_type} w = {weight};",
        "                    if (w == 0)",
        "                        continue;",
        "                    for (e = 0; e < count; e++) {",
        *(f"                        {line}" for line in body),
        "                    }",
        "                }",
        "        }",
        "    }",
        "}",
    ]
    return dense, events


def _outputs_of_tap(size: int, out: int, stride: int, pad: int, reach: int) -> tuple[int, int]:
    """Return the outputs first..last+1 whose tap at `reach` reads inside 0..size-1.

    >>> [_outputs_of_tap(5, 3, 2, 1, t) for t in range(3)]
    [(1, 3), (0, 3), (0, 2)]
    """
    inside = [o for o in range(out) if 0 <= o * stride - pad + reach < size]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def _linear_forms(w: _Writer, p: _Product) -> tuple[list[str], list[str]]:
    op, label = p.op, w.labels[p.op.name]
    outs, features = op.weight.shape
    factor_type = "int64_t" if p.accumulator == "int64_t" else "int32_t"
    dense = [
        f"for (i = 0; i < {features}; i++)",
        f"    sum[0] = ({p.accumulator})(sum[0] + ({factor_type}){label}_weight(c * {features} + i) * in[i]);",
    ]
    events = [
        f"for (i = 0; i < {features}; i++) {{",
        "    int32_t c;",
        "    if (in[i] == 0)",
        "        continue;",
        "    counters->events[@number@]++;",
        f"    for (c = 0; c < {outs}; c++) {{",
        f"        const {factor_type} w = {label}_weight(c * {features} + i);",
        "        if (w == 0)",
        "            continue;",
        f"        sums[c] = ({p.accumulator})(sums[c] + w * in[i]);",
        "        effective++;",
        "    }",
        "}",
    ]
    return dense, events


def _threshold(w: _Writer, op: ops.Threshold, fused: Mapping[str, str]) -> None:
    if op.name in fused.values():
        product = next(o for o in w.net.ops if fused.get(o.name) == op.name)
        assert isinstance(product, ops.Conv2d | ops.Linear)
        _write_product(w, product, fused)
        return
    source, bound = op.inputs[0], w.net.bounds[op.inputs[0]]
    positions = prod(w.net.shapes[op.name][1:])
    level = w.level(op, type_for(-bound, bound, SIGNED), w.types[op.name], "in[i]")
    body = [
        "int32_t c, i;",
        f"for (c = 0; c < {w.net.shapes[op.name][0]}; c++)",
        f"    for (i = c * {positions}; i < (c + 1) * {positions}; i++) {{",
        *(f"        {line}" for line in level),
        "    }",
    ]
    w.function(w.labels[op.name], _arguments(w, op, source), body)
    _add_call(w, w.labels[op.name], [source], op.name)


def _pool(w: _Writer, op: ops.MaxPool2d | ops.SumPool2d, fused: Mapping[str, str]) -> None:
    (channels, height, wide), (_, out_h, out_w) = w.net.shapes[op.inputs[0]], w.net.shapes[op.name]
    out = w.types[op.name]
    wide_type = "int64_t" if out == "int64_t" else "int32_t"
    largest = isinstance(op, ops.MaxPool2d)
    start = [f"{wide_type} value = 0;", *(["int32_t seen = 0;"] if largest else [])]
    take = (
        ["if (!seen || in[from] > value)", "    value = in[from];", "seen = 1;"] if largest else ["value += in[from];"]
    )

    def outside(at: str, limit: int, pad: int, kernel: int, stride: int, out: int) -> str:
        tests = ([f"{at} < 0"] if pad else []) + (
            [f"{at} >= {limit}"] if (out - 1) * stride - pad + kernel > limit else []
        )
        return " || ".join(tests)

    tests = [
        text
        for text in (
            outside("row", height, op.padding[0], op.kernel[0], op.stride[0], out_h),
            outside("column", wide, op.padding[1], op.kernel[1], op.stride[1], out_w),
        )
        if text
    ]
    body = [
        "int32_t c, y, x, ky, kx;",
        f"for (c = 0; c < {channels}; c++)",
        f"    for (y = 0; y < {out_h}; y++)",
        f"        for (x = 0; x < {out_w}; x++) {{",
        *(f"            {line}" for line in start),
        f"            for (ky = 0; ky < {op.kernel[0]}; ky++)",
        f"                for (kx = 0; kx < {op.kernel[1]}; kx++) {{",
        f"                    const int32_t row = y * {op.stride[0]} + ky - {op.padding[0]};",
        f"                    const int32_t column = x * {op.stride[1]} + kx - {op.padding[1]};",
        f"                    const int32_t from = (c * {height} + row) * {wide} + column;",
        *([f"                    if ({' || '.join(tests)})", "                        continue;"] if tests else []),
        *(f"                    {line}" for line in take),
        "                }",
        f"            out[(c * {out_h} + y) * {out_w} + x] = ({out})value;",
        "        }",
    ]
    w.function(w.labels[op.name], _arguments(w, op, op.inputs[0]), body)
    _add_call(w, w.labels[op.name], [op.inputs[0]], op.name)


def _add(w: _Writer, op: ops.Add, fused: Mapping[str, str]) -> None:
    out = w.types[op.name]
    sources = [_root(w.net, name) for name in op.inputs]
    # Without `restrict`: a residual sum may take one value twice.
    arguments = ", ".join(f"const {w.types[source]} *in{i}" for i, source in enumerate(sources))
    wide = "int64_t" if out == "int64_t" else "int32_t"
    total = " + ".join(f"({wide})in{i}[i]" for i in range(len(sources)))
    body = ["int32_t i;", f"for (i = 0; i < {prod(w.net.shapes[op.name])}; i++)", f"    out[i] = ({out})({total});"]
    w.function(w.labels[op.name], f"{arguments}, {out} *out", body)
    _add_call(w, w.labels[op.name], op.inputs, op.name)


def _readout(w: _Writer, op: ops.Readout, fused: Mapping[str, str]) -> None:
    label, out, bias = w.labels[op.name], w.types[op.name], op.bias.numpy()
    w.array(f"{label}_bias", type_for(int(bias.min()), int(bias.max()), SIGNED), bias, "thresholds")
    wide = "int64_t" if out == "int64_t" else "int32_t"
    body = [
        "int32_t i;",
        f"for (i = 0; i < {len(bias)}; i++)",
        f"    out[i] = ({out})(({wide})in[i] + {label}_bias[i]);",
    ]
    w.function(label, _arguments(w, op, op.inputs[0]), body)
    _add_call(w, label, op.inputs, op.name)


ROWS: Mapping[type[Op], Callable[[_Writer, Any, Mapping[str, str]], None]] = MappingProxyType(
    {
        ops.Input: _input,
        ops.Conv2d: _write_product,
        ops.Linear: _write_product,
        ops.Threshold: _threshold,
        ops.MaxPool2d: _pool,
        ops.SumPool2d: _pool,
        ops.Add: _add,
        ops.Flatten: lambda w, op, fused: None,  # the same values in the same order
        ops.Readout: _readout,
    }
)


def _files(w: _Writer, stem: str, arenas: Mapping[str, int], buffers: Mapping[str, _Buffer]) -> Source:
    net, name = w.net, w.name
    upper = name.upper()

    def scratch(form: str) -> int:
        return sum(size * width(c_type) for c_type, size in w.scratch[form].items())

    shared = any(isinstance(op, ops.Conv2d | ops.Linear) and op.name not in w.counted for op in net.ops)
    values = sum(size * width(c_type) for c_type, size in arenas.items())
    events = scratch("events") + 2 * w.listed * width("uint16_t")
    sizes = Sizes(w.weights, w.thresholds, values, scratch("dense"), events, shared)
    bound = net.bounds[net.ops[-1].name]
    score, code = type_for(-bound, bound, ("int32_t", "int64_t")), code_type(net.input)
    classes = prod(net.shapes[net.ops[-1].name])
    place = {op: f"values_{buffer.c_type.removesuffix('_t')} + {buffer.offset}" for op, buffer in buffers.items()}

    def body(form: str) -> list[str]:
        calls = [re.sub("@([^@]*)@", lambda found: place[found.group(1)], call) for call in w.calls[form]]
        last = place[_root(net, net.ops[-1].name)]
        return [
            *(f"    {call}" for call in calls),
            f"    for (i = 0; i < {classes}; i++)",
            f"        scores[i] = ({score})({last})[i];",
            "    return 0;",
        ]

    layers, ram = max(1, len(w.counted)), sizes.to_dict()
    header = f"""/* {stem}.h: an integer network, written by maqd-snn {__version__}.
 *
 * Input: {prod(net.input.shape)} codes {net.input.low}..{net.input.high} of shape {net.input.shape}.
 * Output: {classes} class scores.
 *
 * Bytes, without code and stack (the program that this library verifies with measures the code, too):
 *   flash: {sizes.weights} of weights, {sizes.thresholds} of thresholds and tables
 *   RAM: {ram["ram_dense"]} dense only, {ram["ram_events"]} event-driven only, {ram["ram_both"]} both
 * Leave a form out with -D{upper}_DENSE=0 or -D{upper}_EVENTS=0.
 */
#ifndef {upper}_H
#define {upper}_H

#include <stdint.h>

#ifndef {upper}_DENSE
#define {upper}_DENSE 1
#endif
#ifndef {upper}_EVENTS
#define {upper}_EVENTS 1
#endif

#define {upper}_INPUTS {prod(net.input.shape)}
#define {upper}_CLASSES {classes}
#define {upper}_COUNTED {len(w.counted)} /* spiking layers, whose events and SynOps are counted */

typedef {code} {name}_code;
typedef {score} {name}_score;

/* Both are added to, never cleared. effective_synops: events times connections of nonzero weight. */
typedef struct {{
    uint64_t events[{layers}];
    uint64_t effective_synops[{layers}];
}} {name}_counters;

extern const char *const {name}_counted[{layers}]; /* names of the counted layers */

/* Each returns 0, or 1 (and no scores) where a code is out of range. The static buffers make them not reentrant. */
#if {upper}_DENSE
int {name}_dense(const {name}_code codes[{upper}_INPUTS], {name}_score scores[{upper}_CLASSES]);
#endif
#if {upper}_EVENTS
int {name}_events(const {name}_code codes[{upper}_INPUTS], {name}_score scores[{upper}_CLASSES],
    {name}_counters *counters);
#endif

#endif
"""
    labels = ", ".join(f'"{_c_text(op)}"' for op in w.counted) or '""'
    statics = [f"static {t} values_{t.removesuffix('_t')}[{size}];" for t, size in sorted(arenas.items())]
    for form in ("dense", "events"):
        lines = [f"static {t} {form}_{t.removesuffix('_t')}[{n}];" for t, n in sorted(w.scratch[form].items())]
        if form == "events" and w.listed:
            lines += [f"static uint16_t event_y[{w.listed}];", f"static uint16_t event_x[{w.listed}];"]
        # A layer that is not spiking runs dense in the event-driven form, too: its accumulators are always there.
        guard = f"{upper}_{form.upper()}"
        if form == "dense":
            guard += f" || {upper}_EVENTS" if shared else ""
        statics += [f"#if {guard}", *lines, "#endif"] if lines else []
    source = "\n".join(
        [
            f"/* {stem}.c: an integer network, written by maqd-snn {__version__}; see {stem}.h. */",
            f'#include "{stem}.h"',
            "",
            f"const char *const {name}_counted[{layers}] = {{{labels}}};",
            "",
            *statics,
            "",
            *w.constants,
            *w.functions,
            f"#if {upper}_DENSE",
            f"int {name}_dense(const {name}_code codes[{upper}_INPUTS], {name}_score scores[{upper}_CLASSES])",
            "{",
            "    int32_t i;",
            *body("dense"),
            "}",
            "#endif",
            "",
            f"#if {upper}_EVENTS",
            f"int {name}_events(const {name}_code codes[{upper}_INPUTS], {name}_score scores[{upper}_CLASSES],",
            f"    {name}_counters *counters)",
            "{",
            "    int32_t i;",
            *([] if w.counted else ["    (void)counters;"]),
            *body("events"),
            "}",
            "#endif",
            "",
        ]
    )
    return Source(MappingProxyType({".h": header, ".c": source, "_main.c": _main(net, stem, name)}), sizes)


def _c_text(text: str) -> str:
    """Return `text` as the inside of a C string: everything but plain characters as octal bytes.

    >>> print(_c_text('a"b'))
    a\\042b
    """
    return "".join(
        chr(byte) if chr(byte).isalnum() or chr(byte) in "_.-" else f"\\{byte:03o}" for byte in text.encode()
    )


def _main(net: IntegerNetwork, stem: str, name: str) -> str:
    """Return the host program: without arguments it checks built-in samples, else it runs what it reads."""
    upper, size = name.upper(), prod(net.input.shape)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(net.input.low, net.input.high + 1, (GOLDEN_SAMPLES, *net.input.shape), generator=generator)
    expected = net(codes)
    rows = ["{" + ", ".join(map(str, row)) + "}" for row in codes.flatten(1).tolist()]
    scores = ["{" + ", ".join(map(str, row)) + "}" for row in expected.flatten(1).tolist()]
    joined = ",\n    "
    return f"""/* {stem}_main.c: runs the network of {stem}.c on this machine; written by maqd-snn {__version__}.
 *
 *   cc -std=c99 -O2 {stem}.c {stem}_main.c -o {stem}
 *   ./{stem}                    checks {GOLDEN_SAMPLES} built-in samples in both forms; exit code 0 where all agree
 *   ./{stem} dense < CODES      CODES: samples of {size} {code_type(net.input)} each, in this machine's byte order;
 *   ./{stem} events < CODES     prints the class scores of a sample in a line; then, of the event-driven form,
 *                          "# layer events effective_synops" of every counted layer
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "{stem}.h"

static const {name}_code golden_codes[{GOLDEN_SAMPLES}][{upper}_INPUTS] = {{
    {joined.join(rows)}}};
static const {name}_score golden_scores[{GOLDEN_SAMPLES}][{upper}_CLASSES] = {{
    {joined.join(scores)}}};

static {name}_counters counters;
static {name}_code codes[{upper}_INPUTS];
static {name}_score scores[{upper}_CLASSES];

static int run(int events, const {name}_code *input)
{{
    memset(scores, 0, sizeof scores);
#if {upper}_EVENTS
    if (events)
        return {name}_events(input, scores, &counters);
#endif
#if {upper}_DENSE
    if (!events)
        return {name}_dense(input, scores);
#endif
    fprintf(stderr, "this form is not compiled in\\n");
    return 2;
}}

static int check(void)
{{
    int events, sample, failed = 0;
    for (events = 1 - {upper}_DENSE; events <= {upper}_EVENTS; events++)
        for (sample = 0; sample < {GOLDEN_SAMPLES}; sample++) {{
            const int code = run(events, golden_codes[sample]);
            const int same = code == 0 && memcmp(scores, golden_scores[sample], sizeof scores) == 0;
            printf("%s, sample %d: %s\\n", events ? "event-driven" : "dense", sample, same ? "ok" : "WRONG");
            failed |= !same;
        }}
    return failed;
}}

int main(int argc, char **argv)
{{
    int events, layer;
    if (argc < 2)
        return check();
    events = strcmp(argv[1], "events") == 0;
    if (argc > 2 || (!events && strcmp(argv[1], "dense") != 0)) {{
        fprintf(stderr, "usage: %s [dense|events] < CODES\\n", argv[0]);
        return 2;
    }}
    for (;;) {{
        const size_t got = fread(codes, sizeof codes[0], {upper}_INPUTS, stdin);
        int code, i;
        if (got == 0)
            break;
        if (got != {upper}_INPUTS) {{
            fprintf(stderr, "the input ends within a sample\\n");
            return 2;
        }}
        code = run(events, codes);
        if (code == 1)
            fprintf(stderr, "a code is outside {net.input.low}..{net.input.high}\\n");
        if (code != 0)
            return 2;
        for (i = 0; i < {upper}_CLASSES; i++)
            printf("%" PRId64 "%c", (int64_t)scores[i], i + 1 < {upper}_CLASSES ? ' ' : '\\n');
    }}
    for (layer = 0; events && layer < {upper}_COUNTED; layer++)
        printf("# %s %" PRIu64 " %" PRIu64 "\\n", {name}_counted[layer], counters.events[layer],
            counters.effective_synops[layer]);
    return 0;
}}
"""


def paths(path: Path) -> tuple[Path, ...]:
    """Return the files that an export to `path` writes, the one of that name last."""
    return (path.with_suffix(".h"), path.with_name(f"{path.stem}_main.c"), path)


def write_c(net: IntegerNetwork, path: Path) -> None:
    """Write `c_source(net)` as NAME.c, with NAME.h and NAME_main.c beside it: all three or, on an error, none.

    Raises:
        MaqdError: as `c_source`; an unwritable path.
    """
    files = c_source(net, path.stem).files
    write_texts({target: files[suffix] for target, suffix in zip(paths(path), (".h", "_main.c", ".c"), strict=True)})


def c_sizes(net: IntegerNetwork) -> dict[str, int]:
    """Return flash and RAM of the C form in bytes: constants and static buffers, without code and stack."""
    return c_source(net).sizes.to_dict()
