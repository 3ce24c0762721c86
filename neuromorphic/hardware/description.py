"""A placed network as a file: each core's weights, thresholds and routing, in JSON, sealed by a digest.

The object has `format`, `version`, `sha256` (of the canonical JSON of `body`) and `body`:

* `chip`, `encoding` (`levels`, or `thermometer`: one binary spike per level), `input` (shape, zero_point, low, high);
* `cores`: in an order in which every core comes after those that send to it. Each has `id`, `slot` (null on the host),
  `chip` and `tile` (null where unknown), `stage`, `receives` (the boxes of travelling values that its program reads),
  `program` (steps), `emits` (a box of the stage's output; of scores, the class scores), `levels` (low, number) and
  `sends_to` (ids of cores);
* `arrays`: integer tensors by name, deflated, in base64; equal ones are stored once.

A step names its op, its inputs with the box that is cut out of each, the zeros (or minus infinities) to pad with, and
its tensors. Boxes are [[first, beyond] for channels, rows, columns], in the coordinates of the whole value.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from maqd_snn.errors import MaqdError
from maqd_snn.files import write_text
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.integer.ops import Op, Pair
from maqd_snn.neuromorphic.hardware.needs import Piece, sources_mask
from maqd_snn.neuromorphic.hardware.placing import Placement
from maqd_snn.neuromorphic.hardware.stages import Box, Stage, box_read, cut, image, union, whole

FORMAT = "maqd-snn chip description"
VERSION = 1
LARGEST_FILE = 1 << 31  # bytes
LARGEST_RATIO = 1100  # deflate shrinks no more than about 1030 times
DTYPES = ("int8", "int16", "int32", "int64")
HOST = "host"


class _Arrays:
    """Integer tensors by name; equal ones once."""

    def __init__(self) -> None:
        self.stored: dict[str, dict[str, Any]] = {}

    def add(self, values: NDArray[np.int64]) -> str:
        """Store values and return their name."""
        dtype = next(kind for kind in DTYPES if _fits(values, np.iinfo(kind)))
        data = np.ascontiguousarray(values.astype(np.dtype(dtype).newbyteorder("<"))).tobytes()
        name = hashlib.sha256(repr((dtype, values.shape)).encode() + data).hexdigest()[:24]
        if name not in self.stored:
            text = base64.b64encode(zlib.compress(data, 9)).decode()
            self.stored[name] = {"dtype": dtype, "shape": list(values.shape), "data": text}
        return name


def _fits(values: NDArray[np.int64], info: "np.iinfo[Any]") -> bool:
    return not values.size or (int(values.min()) >= info.min and int(values.max()) <= info.max)


def describe(placement: Placement) -> dict[str, Any]:
    """Return the description of a placed network as plain values."""
    plan = placement.plan
    job, net = plan.job, plan.job.net
    arrays = _Arrays()
    cores: list[dict[str, Any]] = []
    pieces: list[tuple[Piece, int | None]] = []
    slot = dict(zip(map(id, plan.pieces), placement.slots, strict=True))
    for stage in job.stages:
        if stage.name in job.host:
            pieces.append((job.piece(stage, cut(stage.shape, (1, 1, 1))[0]), None))
        else:
            pieces += [(piece, slot[id(piece)]) for piece in job.pieces[stage.name]]
    for number, (piece, place) in enumerate(pieces):
        stage = piece.stage
        targets = [
            index
            for index, (other, _) in enumerate(pieces)
            if stage.name in other.stage.sources and _meets(sources_mask(other, stage.name), piece.box)
        ]
        boxes = boxes_of(net, stage, piece.box)
        cores.append(
            {
                "id": number,
                **_where(placement, place),
                "stage": stage.name,
                "receives": [{"value": name, "box": boxes[name]} for name in stage.sources],
                "program": [_step(net, op, boxes, arrays) for op in stage.steps],
                "emits": piece.box,
                "levels": [stage.low, stage.levels] if stage.spiking else None,
                "sends_to": targets,
            }
        )
    body = {
        "chip": plan.chip.name,
        "encoding": "thermometer" if job.thermometer else "levels",
        "input": {
            "name": net.input.name,
            "shape": net.input.shape,
            "zero_point": net.input.zero_point,
            "low": net.input.low,
            "high": net.input.high,
        },
        "values": {stage.name: stage.shape for stage in job.stages},
        "scores": job.stages[-1].name,
        "cores": cores,
        "arrays": arrays.stored,
    }
    plain: dict[str, Any] = json.loads(json.dumps(body))
    return plain


def _meets(mask: NDArray[np.bool_], box: Box) -> bool:
    (c0, c1), (r0, r1), (x0, x1) = box
    return bool(mask[c0:c1, r0:r1, x0:x1].any())


def _where(placement: Placement, slot: int | None) -> dict[str, Any]:
    if slot is None:
        return {"slot": None, "chip": HOST, "tile": None}
    tile = None
    if placement.mesh is not None:
        x, y = placement.mesh.tiles(np.array([slot]))
        tile = [int(x[0]), int(y[0])]
    return {"slot": slot, "chip": slot // placement.plan.chip.value("cores"), "tile": tile}


def boxes_of(net: IntegerNetwork, stage: Stage, box: Box) -> dict[str, Box]:
    """Return the box of every op of a stage, and of every arriving value, that a box of its output needs."""
    boxes = {stage.name: box}
    for op in reversed(stage.steps):
        for name in op.inputs:
            read = box_read(op, boxes[op.name], net.shapes[name])
            boxes[name] = union(boxes[name], read) if name in boxes else read
    return boxes


def _step(net: IntegerNetwork, op: Op, boxes: Mapping[str, Box], arrays: _Arrays) -> dict[str, Any]:
    box = boxes[op.name]
    (c0, c1), rows, columns = box
    step: dict[str, Any] = {"op": type(op).__name__, "name": op.name, "box": box}
    step["inputs"] = [{"name": n, "box": box_read(op, box, net.shapes[n])} for n in op.inputs]
    if isinstance(op, ops.Conv2d):
        kernel = (op.weight.shape[2], op.weight.shape[3])
        step["weight"] = arrays.add(_dense(op, box, step["inputs"][0]["box"][0]))
        step["stride"], step["dilation"] = op.stride, op.dilation
        step["pad"] = _pads((rows, columns), step["inputs"][0]["box"], kernel, op.stride, op.padding, op.dilation)
    elif isinstance(op, ops.MaxPool2d | ops.SumPool2d):
        step["kernel"], step["stride"] = op.kernel, op.stride
        step["pad"] = _pads((rows, columns), step["inputs"][0]["box"], op.kernel, op.stride, op.padding, (1, 1))
    elif isinstance(op, ops.Linear):
        step["weight"] = arrays.add(op.weight.numpy()[c0:c1])
    elif isinstance(op, ops.Threshold):
        step["thresholds"] = arrays.add(op.thresholds.numpy()[c0:c1])
        step["direction"] = arrays.add(op.direction.numpy()[c0:c1])
        step["low"] = op.low
    elif isinstance(op, ops.Readout):
        step["bias"] = arrays.add(op.bias.numpy()[c0:c1])
    elif not isinstance(op, ops.Add | ops.Flatten):
        raise MaqdError(f"{op.name}: a {type(op).__name__} cannot be described for a core")
    return step


def _dense(op: ops.Conv2d, box: Box, channels: tuple[int, int]) -> NDArray[np.int64]:
    """Return the weights of a box of outputs for these input channels, without groups: what is outside them is 0."""
    weight = op.weight.numpy()
    (c0, c1), (i0, i1) = box[0], channels
    if op.groups == 1:
        return weight[c0:c1, i0:i1]
    per_out, per_in = weight.shape[0] // op.groups, weight.shape[1]
    dense = np.zeros((c1 - c0, i1 - i0, *weight.shape[2:]), np.int64)
    for o in range(c0, c1):
        first = o // per_out * per_in - i0
        dense[o - c0, first : first + per_in] = weight[o]
    return dense


def _pads(spans: tuple[Pair, Pair], into: Box, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> list[int]:
    """Return [above, below, left, right]: what the windows read outside the box that is cut out."""
    pads = []
    for axis, (first, beyond) in enumerate(spans):
        low = first * stride[axis] - padding[axis]
        high = (beyond - 1) * stride[axis] - padding[axis] + dilation[axis] * (kernel[axis] - 1) + 1
        start, end = into[1 + axis]
        # A negative pad drops what no window reads: a cut may be one wider where windows lie in padding alone.
        pads += [start - low, high - end]
    return pads


def canonical(body: Mapping[str, Any]) -> str:
    """Return the one JSON text of a body that its digest is taken of."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)


def write_description(placement: Placement, path: str | Path) -> None:
    """Write the description of a placed network as JSON, atomically; `read_description` reads it back."""
    body = describe(placement)
    digest = hashlib.sha256(canonical(body).encode()).hexdigest()
    write_text(path, json.dumps({"format": FORMAT, "version": VERSION, "sha256": digest, "body": body}))


def read_description(path: str | Path) -> dict[str, Any]:
    """Return the body of a description file, its digest and schema checked.

    Raises:
        MaqdError: no such file, no JSON, another format, a newer version, a digest or a schema that does not hold.
    """
    source = Path(path)
    if not source.is_file():
        raise MaqdError(f"there is no description {str(source)!r}; write it with: maqd export RUN --format chip-json")
    if source.stat().st_size > LARGEST_FILE:
        raise MaqdError(f"{str(source)!r} is larger than {LARGEST_FILE} bytes, which no description is")
    try:
        values = json.loads(source.read_text(encoding="utf-8"), parse_constant=_no_json)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise MaqdError(f"expected the format {FORMAT!r}")
        version = values.get("version")
        if type(version) is not int or version < 1:
            raise MaqdError(f"the version {version!r} is none")
        if version > VERSION:
            raise MaqdError(f"version {version} is newer than {VERSION}; update maqd-snn")
        body = values.get("body")
        if not isinstance(body, dict) or hashlib.sha256(canonical(body).encode()).hexdigest() != values.get("sha256"):
            raise MaqdError("it is damaged or was changed, its digest does not match")
        check_body(body)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, MaqdError) else f"it is no JSON text ({error})"
        raise MaqdError(f"{str(source)!r} is not a usable chip description: {reason}") from error
    return body


def _no_json(constant: str) -> NoReturn:
    raise MaqdError(f"it holds {constant}, which is no JSON")


# The fields of a step, besides op, name, box and inputs, by op: what each must be.
STEPS: Mapping[str, tuple[str, ...]] = {
    "Conv2d": ("weight", "stride", "dilation", "pad"),
    "Linear": ("weight",),
    "Threshold": ("thresholds", "direction", "low"),
    "MaxPool2d": ("kernel", "stride", "pad"),
    "SumPool2d": ("kernel", "stride", "pad"),
    "Add": (),
    "Flatten": (),
    "Readout": ("bias",),
}
_TENSORS = {"weight": None, "thresholds": 2, "direction": 1, "bias": 1}


def check_body(body: Mapping[str, Any]) -> None:
    """Raise MaqdError where a body does not hold to the schema: names, types, boxes, routing and sizes of tensors."""
    _keys("the body", body, ("chip", "encoding", "input", "values", "scores", "cores", "arrays"))
    if body["encoding"] not in ("levels", "thermometer"):
        raise MaqdError(f"the encoding must be levels or thermometer, got {body['encoding']!r}")
    entry = body["input"]
    _keys("input", entry, ("name", "shape", "zero_point", "low", "high"))
    if not (_whole_numbers(entry["shape"], 1) and len(entry["shape"]) in (1, 3)):
        raise MaqdError(f"input: the shape must be one or three sizes, got {entry['shape']!r}")
    if not _whole_numbers([entry[key] for key in ("zero_point", "low", "high")]) or entry["low"] > entry["high"]:
        raise MaqdError("input: zero_point, low and high must be whole numbers, low at most high")
    shapes: dict[str, tuple[int, int, int]] = {str(entry["name"]): image(tuple(entry["shape"]))}
    if not isinstance(body["values"], dict):
        raise MaqdError("values must be an object of shapes")
    for name, shape in body["values"].items():
        if not (_whole_numbers(shape, 1) and len(shape) == 3) or np.prod([float(n) for n in shape]) > 2**31:
            raise MaqdError(f"the shape of {name!r} must be three sizes, got {shape!r}")
        shapes[name] = (shape[0], shape[1], shape[2])
    if body["scores"] not in body["values"]:
        raise MaqdError(f"the scores {str(body['scores'])[:80]!r} are no value of the description")
    sizes = _check_arrays(body["arrays"])
    if not isinstance(body["cores"], list) or not body["cores"]:
        raise MaqdError("there are no cores")
    for number, core in enumerate(body["cores"]):
        _check_core(number, core, len(body["cores"]), shapes, sizes)


def _keys(what: str, values: Any, keys: tuple[str, ...]) -> None:
    if not isinstance(values, dict) or sorted(values) != sorted(keys):
        got = sorted(values) if isinstance(values, dict) else type(values).__name__
        raise MaqdError(f"{what} must have the fields {', '.join(sorted(keys))}, got {str(got)[:200]}")


def _whole_numbers(values: Any, least: int | None = None) -> bool:
    if not isinstance(values, list):
        return False
    return all(type(v) is int and (least is None or v >= least) and abs(v) < 1 << 62 for v in values)


def _check_arrays(arrays: Any) -> dict[str, tuple[int, ...]]:
    if not isinstance(arrays, dict):
        raise MaqdError("arrays must be an object")
    sizes = {}
    for name, entry in arrays.items():
        _keys(f"array {name[:40]!r}", entry, ("dtype", "shape", "data"))
        if entry["dtype"] not in DTYPES or not _whole_numbers(entry["shape"], 1) or not isinstance(entry["data"], str):
            raise MaqdError(f"array {name[:40]!r} must have a dtype of {', '.join(DTYPES)}, a shape and data")
        claimed = np.dtype(entry["dtype"]).itemsize
        for n in entry["shape"]:
            claimed *= n
        if claimed > LARGEST_RATIO * (len(entry["data"]) + 64):
            raise MaqdError(f"array {name[:40]!r} claims {claimed} bytes, more than its data can hold")
        sizes[name] = tuple(entry["shape"])
    return sizes


def read_array(entry: Mapping[str, Any], name: str) -> NDArray[np.int64]:
    """Return a stored tensor; no more memory is taken than its shape claims.

    Raises:
        MaqdError: data that is no base64, no deflated data, or not of the claimed size.
    """
    claimed = int(np.prod(entry["shape"])) * np.dtype(entry["dtype"]).itemsize
    try:
        inflate = zlib.decompressobj()
        data = inflate.decompress(base64.b64decode(entry["data"], validate=True), claimed + 1)
    except (ValueError, zlib.error) as error:
        raise MaqdError(f"array {name[:40]!r} is damaged: {error}") from error
    if len(data) != claimed or not inflate.eof:
        raise MaqdError(f"array {name[:40]!r} does not hold the {claimed} bytes that its shape claims")
    values = np.frombuffer(data, np.dtype(entry["dtype"]).newbyteorder("<"))
    return values.reshape(entry["shape"]).astype(np.int64)


def _check_core(
    number: int, core: Any, cores: int, shapes: Mapping[str, tuple[int, int, int]], sizes: Mapping[str, Any]
) -> None:
    what = f"core {number}"
    fields = ("id", "slot", "chip", "tile", "stage", "receives", "program", "emits", "levels", "sends_to")
    _keys(what, core, fields)
    if core["id"] != number:
        raise MaqdError(f"{what}: the id must be its place, got {core['id']!r}")
    if core["stage"] not in shapes:
        raise MaqdError(f"{what}: the stage {str(core['stage'])[:80]!r} is no value of the description")
    _check_box(f"{what}: emits", core["emits"], shapes[core["stage"]])
    if core["levels"] is not None and not (_whole_numbers(core["levels"]) and len(core["levels"]) == 2):
        raise MaqdError(f"{what}: levels must be null or two whole numbers, got {core['levels']!r}")
    targets = core["sends_to"]
    if not _whole_numbers(targets, 0) or len(set(targets)) < len(targets):
        raise MaqdError(f"{what}: sends_to must be a list of different core ids, got {str(targets)[:80]}")
    if any(not number < target < cores for target in targets):
        raise MaqdError(
            f"{what}: sends to {str(targets)[:80]}, but there are {cores} cores and only later ones can read"
        )
    if not isinstance(core["receives"], list) or not isinstance(core["program"], list) or not core["program"]:
        raise MaqdError(f"{what}: receives and program must be lists, the program not empty")
    known: dict[str, Any] = {}
    for value in core["receives"]:
        _keys(f"{what}: receives", value, ("value", "box"))
        if not isinstance(value["value"], str) or value["value"] not in shapes:
            raise MaqdError(f"{what}: receives {str(value['value'])[:80]!r}, which is no value of the description")
        _check_box(f"{what}: receives", value["box"], shapes[value["value"]])
        known[value["value"]] = value["box"]
    for step in core["program"]:
        _check_step(what, step, known, sizes)
        known[step["name"]] = step["box"]
    if core["program"][-1]["box"] != core["emits"]:
        raise MaqdError(f"{what}: the program ends with another box than it emits")


def _check_box(what: str, box: Any, inside: Any) -> None:
    """Raise MaqdError unless a box lies within a shape (three sizes), or within another box."""
    good = isinstance(box, list) and len(box) == 3 and all(_whole_numbers(span, 0) and len(span) == 2 for span in box)
    spans = whole(inside) if isinstance(inside, tuple) else inside
    if not good or any(not low <= a < b <= high for (a, b), (low, high) in zip(box, spans, strict=True)):
        raise MaqdError(f"{what} the box {str(box)[:80]}, which does not lie in {str(spans)[:80]}")


def _check_step(what: str, step: Any, known: Mapping[str, Any], sizes: Mapping[str, tuple[int, ...]]) -> None:
    kind = step.get("op") if isinstance(step, dict) else None
    if not isinstance(kind, str) or kind not in STEPS:
        raise MaqdError(f"{what}: the step {str(kind)[:80]!r} is none of {', '.join(STEPS)}")
    _keys(f"{what}: a {kind}", step, ("op", "name", "box", "inputs", *STEPS[kind]))
    if not isinstance(step["name"], str) or not isinstance(step["inputs"], list) or not step["inputs"]:
        raise MaqdError(f"{what}: a {kind} must have a name and inputs")
    if len(step["inputs"]) > 1 and kind != "Add":
        raise MaqdError(f"{what}: a {kind} takes one input, got {len(step['inputs'])}")
    for entry in step["inputs"]:
        _keys(f"{what}: an input of {step['name'][:80]}", entry, ("name", "box"))
        if not isinstance(entry["name"], str) or entry["name"] not in known:
            raise MaqdError(f"{what}: {step['name'][:80]} reads {str(entry['name'])[:80]!r}, which is not there")
        _check_box(f"{what}: {step['name'][:80]} reads", entry["box"], known[entry["name"]])
    box = step["box"]
    if not (
        isinstance(box, list)
        and len(box) == 3
        and all(_whole_numbers(s, 0) and len(s) == 2 and s[0] < s[1] for s in box)
    ):
        raise MaqdError(f"{what}: {step['name'][:80]} has the box {str(box)[:80]}, which is none")
    for field in STEPS[kind]:
        value = step[field]
        if field in _TENSORS:
            if not isinstance(value, str) or value not in sizes:
                raise MaqdError(f"{what}: {step['name'][:80]}: the {field} {str(value)[:40]!r} is not stored")
            if len(sizes[value]) != (_TENSORS[field] or (4 if kind == "Conv2d" else 2)):
                raise MaqdError(f"{what}: {step['name'][:80]}: the {field} has the shape {sizes[value]}")
        elif field in ("kernel", "stride", "dilation"):
            if not _whole_numbers(value, 1) or len(value) != 2:
                raise MaqdError(
                    f"{what}: {step['name'][:80]}: {field} must be two whole numbers above 0, got {value!r}"
                )
        elif field == "pad":
            if not _whole_numbers(value) or len(value) != 4 or any(abs(n) > 1 << 20 for n in value):
                raise MaqdError(f"{what}: {step['name'][:80]}: pad must be four whole numbers, got {str(value)[:80]}")
        elif field == "low" and type(value) is not int:
            raise MaqdError(f"{what}: {step['name'][:80]}: low must be a whole number, got {value!r}")
