"""The placed network, run core by core from its file, against the integer network; its messages against a walk."""

import json

import numpy as np
import pytest
import torch

import maqd_snn
from maqd_snn import IntegerNetwork, MaqdError
from maqd_snn.integer import ops
from maqd_snn.neuromorphic.hardware import (
    CHIPS,
    activity,
    every_unit_once,
    flows,
    place,
    read_description,
    run_cores,
    traffic,
    write_description,
)
from maqd_snn.neuromorphic.hardware.description import canonical, describe
from maqd_snn.neuromorphic.hardware.matching import relaxed
from maqd_snn.neuromorphic.hardware.placing import random_traffic

# Plans of 8x8 digits; wide enough to be cut on several chips, small enough for the single ones.
PLANS = {
    "mlp": {"plan": "40-24"},
    "vgg": {"plan": "12-M-16-S-16"},
    "resnet": {"plan": "8-8-16"},
}
SMALL = {
    "mlp": {"plan": "12-10"},
    "vgg": {"plan": "3-M-4"},
}


@pytest.fixture(scope="module")
def digits():
    """The first 100 real test scans, (100, 1, 8, 8)."""
    _, test = maqd_snn.datasets.load("digits")
    return test.codes[:100]


@pytest.fixture(scope="module")
def networks(digits):
    """`networks(family, states, signed, plan)`: a folded network whose statistics are those of the digits."""
    made = {}

    def make(family, states=2, signed=False, plan=None):
        key = (family, states, signed, plan)
        if key not in made:
            torch.manual_seed(3)
            given = {"input_shape": (1, 8, 8), "classes": 10, "input_range": (0, 16), "zero_point": 0}
            model = maqd_snn.build(
                family, act_states=states, signed=signed, **given, **({"plan": plan} if plan else PLANS[family])
            )
            model.train()
            with torch.no_grad():
                for _ in range(3):
                    model(digits)
                for name in model.spiking_names():
                    model.part(name).norm.gain.normal_()  # also negative gains
            made[key] = maqd_snn.fold(model.eval())
        return made[key]

    return make


def placed(net, chip, codes):
    """The placement and its activity, or None where a limit fails."""
    plan = maqd_snn.fit(net, chip, advise=False)
    if plan.fits is False:
        return None
    sent = activity(plan, [codes])
    return place(plan, flows(plan, sent)), sent


def assert_exact(net, placement, path, codes):
    """Every value of every stage, from the written file, is the integer network's; and there is something to see."""
    write_description(placement, path)
    emitted = run_cores(read_description(path), codes.numpy())
    expected = net.trace(codes)
    assert len(emitted) == len(placement.plan.job.stages)
    for name, values in emitted.items():
        assert np.array_equal(values.reshape(len(codes), -1), expected[name].reshape(len(codes), -1).numpy()), name
        assert values.any()


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("family", list(PLANS))
def test_no_value_differs_wherever_a_network_fits(networks, digits, tmp_path, family, chip):
    fitted = 0
    for states, plan in ((2, None), (4, None), (2, SMALL.get(family, {}).get("plan"))):
        net = networks(family, states, plan=plan)
        made = placed(net, chip, digits)
        if made is not None:
            assert_exact(net, made[0], tmp_path / "x.json", digits)
            fitted += 1
    # Which families fit which chips at all; the other pairs are refused with a limit that fails.
    if chip in ("loihi1", "loihi2", "spinnaker2", "accelerator", "microcontroller"):
        assert fitted >= 2
    if (family, chip) == ("resnet", "speck2f") or chip.startswith("xylo"):
        assert fitted == 0


def test_which_small_chips_take_a_network(networks, digits, tmp_path):
    # 10 hidden neurons behind the host's layer of 12: 24 axons of 256, 10 neurons of 256 (and of 512).
    net = networks("mlp", plan="12-10")
    for chip in ("truenorth", "speck2f", "speck2e", "brainscales2"):
        made = placed(net, chip, digits)
        assert made is not None, chip
        assert_exact(net, made[0], tmp_path / "x.json", digits)
    # Xylo takes 16 channels of at most 15 events: the real scans, 4x4 pixels of every other row and column.
    codes = (digits[:, :, ::2, ::2].clamp(max=15)).contiguous()
    weight = torch.randint(-3, 4, (20, 16), generator=torch.Generator().manual_seed(0))
    out = torch.randint(-3, 4, (8, 20), generator=torch.Generator().manual_seed(1))
    xylo = IntegerNetwork(
        [
            ops.Input("input", shape=(1, 4, 4), high=15),
            ops.Flatten("flatten", ("input",)),
            ops.Linear("fc1", ("flatten",), weight),
            ops.Threshold("spike", ("fc1",), torch.tensor([[5, 15, 25]] * 20), torch.ones(20, dtype=torch.int64)),
            ops.Linear("fc2", ("spike",), out),
        ]
    )
    for chip in ("xylo-audio2", "xylo-audio3", "xylo-imu"):
        made = placed(xylo, chip, codes)
        assert made is not None, chip
        assert made[0].plan.fits is None  # whether scores can be read is unknown
        assert_exact(xylo, made[0], tmp_path / "x.json", codes)


@pytest.mark.parametrize("chip", ["loihi1", "loihi2", "accelerator"])
def test_signed_levels_strides_groups_and_padded_pools(networks, digits, tmp_path, chip):
    net = networks("vgg", 3, signed=True, plan="6-S-8")
    made = placed(net, chip, digits)
    assert made is not None
    assert_exact(net, made[0], tmp_path / "x.json", digits)
    generator = torch.Generator().manual_seed(5)

    def weights(*shape):
        return torch.randint(-2, 3, shape, generator=generator)

    theta = torch.tensor([[2]]), torch.tensor([1])
    odd = IntegerNetwork(
        [
            ops.Input("input", shape=(1, 8, 8), high=16),
            ops.Conv2d("c1", ("input",), weights(6, 1, 3, 3), (2, 1), (2, 1), (1, 1)),
            ops.Threshold("s1", ("c1",), theta[0].expand(6, 1), torch.tensor([1, -1] * 3)),
            ops.MaxPool2d("p1", ("s1",), (3, 2), (2, 1), (1, 1)),
            ops.Conv2d("c2", ("p1",), weights(9, 2, 3, 2), (1, 2), (1, 1), (1, 2), groups=3),
            ops.Threshold("s2", ("c2",), theta[0].expand(9, 1), theta[1].expand(9)),
            ops.SumPool2d("p2", ("s2",), (2, 2), (1, 1), (1, 1)),
            ops.Flatten("f", ("p2",)),
            ops.Linear("fc", ("f",), weights(5, 9 * 24)),
            ops.Readout("r", ("fc",), weights(5)),
        ]
    )
    plan = maqd_snn.fit(odd, chip, advise=False)
    assert plan.fits is not False
    # Cut finer than it needs, through channel groups and pool windows.
    from maqd_snn.neuromorphic.hardware.stages import cut

    for stage in plan.job.placed:
        parts = tuple(min(n, 3) for n in stage.shape)
        plan.job.pieces[stage.name] = [plan.job.piece(stage, box) for box in cut(stage.shape, parts)]
    object.__setattr__(plan, "cores", len(plan.pieces))
    sent = activity(plan, [digits])
    assert_exact(odd, place(plan, flows(plan, sent)), tmp_path / "odd.json", digits)


def test_a_wrong_route_or_weight_shows(networks, digits):
    net = networks("vgg", 2)
    placement, _ = placed(net, "loihi1", digits)
    expected = net.trace(digits)[net.ops[-1].name].numpy()
    body = describe(placement)
    senders = [core for core in body["cores"] if core["sends_to"]]
    assert np.array_equal(run_cores(body, digits.numpy())[body["scores"]][:, :, 0, 0], expected)
    senders[0]["sends_to"] = senders[0]["sends_to"][:-1]
    assert not np.array_equal(run_cores(body, digits.numpy())[body["scores"]][:, :, 0, 0], expected)


def walk(placement, net, codes):
    """Messages from core to core, links and hops, by a walk of every spike over every synapse of the description."""
    body = describe(placement)
    several = placement.plan.chip.value("spikes") == "binary"
    trace = {name: value.numpy() for name, value in net.trace(codes).items()}
    job = placement.plan.job
    pairs, links = {}, {}
    hops = 0
    by_id = {core["id"]: core for core in body["cores"]}
    for core in body["cores"]:
        if core["slot"] is None:
            continue
        (c0, c1), (r0, r1), (x0, x1) = core["emits"]
        levels = trace[core["stage"]].reshape(len(codes), *job.by_name[core["stage"]].shape)
        for target in (by_id[number] for number in core["sends_to"]):
            if target["slot"] is None:
                continue
            reader = job.by_name[target["stage"]]
            neurons = target["program"][-1 - len(reader.pools)]["box"]
            for sample in range(len(codes)):
                for c, r, x in np.argwhere(levels[sample, c0:c1, r0:r1, x0:x1]):
                    unit = (c + c0, r + r0, x + x0)
                    if not synapse(net, reader, core["stage"], unit, neurons):
                        continue
                    number = abs(int(levels[(sample, *unit)])) if several else 1
                    key = (core["slot"], target["slot"])
                    pairs[key] = pairs.get(key, 0) + number
                    if core["tile"] is None:
                        continue
                    (ax, ay), (bx, by) = core["tile"], target["tile"]
                    while (ax, ay) != (bx, by):  # along x first
                        nx, ny = (ax + np.sign(bx - ax), ay) if ax != bx else (ax, ay + np.sign(by - ay))
                        links[(ax, ay, nx, ny)] = links.get((ax, ay, nx, ny), 0) + number
                        hops += number
                        ax, ay = nx, ny
    return pairs, links, hops


def synapse(net, stage, value, unit, neurons, seen={}):  # noqa: B006
    """Whether a unit reaches a neuron of the box: a one at it alone goes through the ops, all weights one."""
    key = (id(net), stage.name, value, unit)
    if key not in seen:
        values = {name: np.zeros((1, *net.shapes[name]), np.int64) for name in stage.sources}
        values[value].reshape(1, *stage_shape(net, value))[(0, *unit)] = 1
        for op in stage.steps:
            if op is stage.neuron and stage.spiking:
                values[op.name] = values[op.inputs[0]]
                break
            into = [values[name] for name in op.inputs]
            if isinstance(op, ops.Conv2d | ops.Linear):
                import dataclasses

                op = dataclasses.replace(op, weight=torch.ones_like(op.weight))
            if isinstance(op, ops.Readout):
                values[op.name] = into[0]
            else:
                from maqd_snn.integer.reference import evaluate

                values[op.name] = evaluate(op, into)
        seen[key] = values[stage.neuron.name].reshape(stage.neuron_shape)
    (c0, c1), (r0, r1), (x0, x1) = neurons
    return bool(seen[key][c0:c1, r0:r1, x0:x1].any())


def stage_shape(net, value):
    shape = net.shapes[value]
    return shape if len(shape) == 3 else (shape[0], 1, 1)


@pytest.mark.parametrize(
    ("family", "states", "chip"), [("vgg", 3, "loihi1"), ("resnet", 2, "loihi1"), ("mlp", 4, "accelerator")]
)
def test_messages_are_those_of_a_walk_over_every_spike(networks, digits, family, states, chip):
    net = networks(family, states, plan={"vgg": "6-M-8", "resnet": "4-6", "mlp": "40-24"}[family])
    codes = digits[:4]
    plan = maqd_snn.fit(net, chip, advise=False)
    # Finer than it needs, so that there are routes.
    from maqd_snn.neuromorphic.hardware.stages import cut

    for stage in plan.job.placed:
        parts = (2, min(2, stage.shape[1]), 1)
        plan.job.pieces[stage.name] = [plan.job.piece(stage, box) for box in cut(stage.shape, parts)]
    object.__setattr__(plan, "cores", len(plan.pieces))
    sent = activity(plan, [codes])
    flow = flows(plan, sent)
    placement = place(plan, flow)
    cost = traffic(placement, sent, flow)
    pairs, links, hops = walk(placement, net, codes)
    between = {(placement.slots[i], placement.slots[j]): int(flow[i, j]) for i, j in np.argwhere(flow) if i != j}
    assert between == pairs
    assert sum(pairs.values()) > 0
    assert dict(cost.links) == links
    assert cost.hops == hops == placement.traffic
    prices = plan.chip
    if chip == "loihi1":
        x = sum(number for (x0, _, x1, _), number in links.items() if x0 != x1)
        y = sum(links.values()) - x
        stays = int(flow.sum()) - sum(
            number for (a, b), number in pairs.items() if placement.mesh.hops(np.array([a, b]))[0, 1]
        )
        assert cost.energy_pj == pytest.approx(1.7 * stays + 3.0 * x + 4.0 * y)
        assert cost.local == stays
    else:
        assert prices.value("hop_x_pj") is None
        assert cost.energy_pj is None


def test_what_each_core_holds_adds_up(networks, digits):
    # A core's weights, once for each kernel or synapse; a layer that is cut by channels alone holds each weight once.
    net = networks("mlp")
    made = placed(net, "loihi1", digits)
    cost = traffic(*made)
    held = {stage: sum(core.weights for core in cost.cores if core.stage == stage) for stage in ("spike2", "readout")}
    assert held == {"spike2": 40 * 24, "readout": 24 * 10}
    # Accumulators are stored in as many bits as their sums need where the chip names no width.
    (core,) = (core for core in cost.cores if core.stage == "spike2")
    assert core.state_bits == 24 * (net.bounds["fc2"].bit_length() + 1)
    assert (
        sum(core.messages_in for core in cost.cores) == sum(core.messages_out for core in cost.cores) == cost.messages
    )


def test_placements_are_the_same_twice_and_below_their_rivals(networks, digits):
    net = networks("resnet")
    plan = maqd_snn.fit(net, "loihi1", advise=False)
    flow = flows(plan, activity(plan, [digits]))
    first, second = place(plan, flow), place(plan, flow)
    assert first.slots == second.slots
    assert len(set(first.slots)) == len(plan.pieces)
    assert first.bound <= first.traffic <= first.in_order
    assert all(first.bound <= other for other in random_traffic(first, flow, 10, seed=0))
    assert first.traffic < sorted(random_traffic(first, flow, 20, seed=0))[10]


def test_the_bound_is_below_the_best_of_all_placements():
    from itertools import permutations

    from maqd_snn.neuromorphic.hardware.placing import Mesh, boundless_bound, cost, lower_bound

    mesh = Mesh(3, 2, 1, 1, 1)
    generator = np.random.default_rng(2)
    for _ in range(5):
        flow = np.triu(generator.integers(0, 9, (5, 5)), 1).astype(float)
        flow = flow + flow.T
        best = min(cost(flow, mesh.hops(np.array(slots))) for slots in permutations(range(6), 5))
        assert 0 < boundless_bound(flow, 1) <= lower_bound(flow, mesh.hops(np.arange(6))) <= best


def test_without_data_every_unit_sends_once(networks):
    plan = maqd_snn.fit(networks("mlp"), "loihi1", advise=False)
    sent = every_unit_once(plan)
    assert flows(plan, sent).sum() == 24  # spike2's neurons to the classifier; spike1 is on the host
    assert not sent.measured
    with pytest.raises(MaqdError, match="the traffic needs at least one sample"):
        activity(plan, [])


@pytest.fixture(scope="module")
def file(networks, digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("chip") / "x.json"
    write_description(placed(networks("vgg"), "loihi1", digits)[0], path)
    return path


def rewritten(file, tmp_path, change):
    """The file with its body changed, its digest made again."""
    import hashlib

    values = json.loads(file.read_text())
    change(values["body"])
    values["sha256"] = hashlib.sha256(canonical(values["body"]).encode()).hexdigest()
    target = tmp_path / "changed.json"
    target.write_text(json.dumps(values))
    return target


def test_a_tampered_file_is_refused(file, tmp_path):
    text = file.read_text()
    target = tmp_path / "x.json"
    for changed, message in (
        (text.replace('"slot": 0', '"slot": 1', 1), "damaged or was changed, its digest does not match"),
        (text[:-100], "is no JSON text"),
        (text.replace('"version": 1', '"version": 2', 1), "version 2 is newer than 1; update maqd-snn"),
        (text.replace("maqd-snn chip description", "other", 1), "expected the format"),
        ("[]", "expected the format"),
        ('{"format": NaN}', "holds NaN"),
    ):
        assert changed != text
        target.write_text(changed)
        with pytest.raises(MaqdError, match=message):
            read_description(target)
    with pytest.raises(MaqdError, match="there is no description"):
        read_description(tmp_path / "none.json")


def core(body, number):
    return body["cores"][number]


HOSTILE = {
    "sends_to": (lambda b: core(b, 1).update(sends_to=[0]), "only later ones can read"),
    "twice": (lambda b: core(b, 0).update(sends_to=[1, 1]), "different core ids"),
    "field": (lambda b: core(b, 1).pop("slot"), "must have the fields"),
    "stage": (lambda b: core(b, 1).update(stage="x"), "is no value of the description"),
    "box": (lambda b: core(b, 1).update(emits=[[0, 999], [0, 1], [0, 1]]), "does not lie in"),
    "negative": (lambda b: core(b, 1).update(emits=[[-1, 1], [0, 1], [0, 1]]), "does not lie in"),
    "op": (lambda b: core(b, 1)["program"][0].update(op="Exec"), "is none of Conv2d"),
    "reads": (lambda b: core(b, 1)["program"][0]["inputs"][0].update(name="x"), "which is not there"),
    "tensor": (lambda b: core(b, 1)["program"][0].update(weight="x"), "is not stored"),
    "pad": (lambda b: core(b, 1)["program"][0].update(pad=[1 << 40, 0, 0, 0]), "pad must be four whole numbers"),
    "stride": (lambda b: core(b, 1)["program"][0].update(stride=[0, 1]), "two whole numbers above 0"),
    "size": (lambda b: next(iter(b["arrays"].values())).update(shape=[1 << 40]), "more than its data can hold"),
    "scores": (lambda b: b.update(scores="x"), "are no value"),
    "encoding": (lambda b: b.update(encoding="x"), "levels or thermometer"),
    "value": (lambda b: b["values"].update(y=[1 << 20, 1 << 20, 2]), "must be three sizes"),
    "no cores": (lambda b: b.update(cores=[]), "there are no cores"),
    "input": (lambda b: b["input"].update(low=20), "low at most high"),
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_hostile_description_is_refused_by_its_schema(file, tmp_path, name):
    change, message = HOSTILE[name]
    with pytest.raises(MaqdError, match=message):
        read_description(rewritten(file, tmp_path, change))


def test_data_that_does_not_hold_its_shape_is_refused_before_it_runs(file, tmp_path, digits):
    def shorter(body):
        entry = next(e for e in body["arrays"].values() if len(e["shape"]) == 4)
        entry["shape"][0] -= 1

    body = read_description(rewritten(file, tmp_path, shorter))
    with pytest.raises(MaqdError, match="does not hold the .* bytes that its shape claims"):
        run_cores(body, digits.numpy())
    with pytest.raises(MaqdError, match="input codes must lie in 0..16"):
        run_cores(read_description(file), digits.numpy() + 1)
    with pytest.raises(MaqdError, match="expected integer codes"):
        run_cores(read_description(file), digits.numpy()[:, 0])


def test_a_placement_does_not_depend_on_the_global_generator():
    flow, apart = np.random.default_rng(1).random((2, 8, 8))
    before = relaxed(flow, apart)
    state = np.random.get_state()  # noqa: NPY002
    try:
        np.random.seed(5)  # noqa: NPY002
        assert relaxed(flow, apart).tolist() == before.tolist()
    finally:
        np.random.set_state(state)  # noqa: NPY002
