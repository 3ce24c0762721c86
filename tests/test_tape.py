"""The training step written out, against the plain forward of the parts and autograd."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maqd_snn import MaqdError, SpikingNetwork, layers
from maqd_snn.diagnosis import GROUPS, members, switched
from maqd_snn.graph import InputSpec, Node
from maqd_snn.normalization import LayerBatchNorm
from maqd_snn.surrogate import SURROGATES, Rectangle
from maqd_snn.tape import QUANTIZED, Operands, Stage, tape_of
from maqd_snn.training.precision import prepare
from maqd_snn.winograd import weight_gradient

CASES = {
    "vgg": ("vgg", 2, 3, {}),
    "vgg-4-2": ("vgg", 4, 2, {}),
    "vgg-8-bit": ("vgg", 256, 255, {}),
    "resnet": ("resnet", 2, 3, {}),
    "resnet-4-4": ("resnet", 4, 4, {}),
    "mlp": ("mlp", 3, 3, {}),
    "signed": ("resnet", 3, 3, {"signed": True}),
    "signed-8-bit": ("vgg", 256, 3, {"signed": True}),
    "pool-first": ("vgg", 2, 3, {"pool_first": True}),
    "per-sample": ("resnet", 2, 3, {"norm": "lbn-sample"}),
    "channel-mean": ("vgg", 4, 3, {"norm": "lbn-channel-mean"}),
    "batchnorm": ("resnet", 2, 3, {"norm": "batchnorm"}),
    "learned-steps": ("vgg", 2, 3, {"learned_step": "channel"}),
    "learned-step": ("resnet", 4, 4, {"learned_step": "layer", "weight_step": 0.7}),
    "zero-sum": ("resnet", 2, 3, {"zero_sum": True}),
    "zero-sum-learned": ("vgg", 2, 4, {"zero_sum": True, "learned_step": "channel"}),
    "float-activations": ("vgg", None, 3, {}),
    "float-weights": ("resnet", 4, None, {}),
    "float-twin": ("vgg", None, None, {"norm": "batchnorm"}),
    "odd-image": ("vgg", 2, 3, {"input_shape": (3, 9, 7)}),
}


def gradients(model: SpikingNetwork, logits: Tensor, seed: int = 3) -> dict[str, Tensor]:
    labels = torch.randint(0, logits.shape[1], (len(logits),), generator=torch.Generator().manual_seed(seed))
    model.zero_grad()
    F.cross_entropy(logits, labels).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_same_step(model: SpikingNetwork, codes: Tensor, precision: str = "fp32") -> None:
    """The logits, every gradient and the running statistics; the tolerance is that of sums in another order."""
    plain, model = copy.deepcopy(model).train(), model.train()
    expected, found = plain(codes), prepare(model, precision)(codes)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    ours, theirs = gradients(model, found), gradients(plain, expected)
    for name, theirs_of in theirs.items():
        limit = 2e-5 * float(theirs_of.abs().max()) + 1e-9
        assert float((ours[name] - theirs_of).abs().max()) <= limit, name
    buffers = dict(plain.named_buffers())
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, buffers[name], rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("precision", ["fp32", "fp32-float"])
@pytest.mark.parametrize("case", CASES)
def test_a_step_equals_the_plain_one(make_model, random_codes, case: str, precision: str) -> None:
    family, act_states, weight_states, options = CASES[case]
    model = make_model(family, act_states, weight_states, **options)
    assert_same_step(model, random_codes(model), precision)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("states", [2, 5])
@pytest.mark.parametrize("surrogate", [*SURROGATES, Rectangle(0.5)], ids=str)
def test_every_surrogate(make_model, random_codes, surrogate, states: int, signed: bool) -> None:
    model = make_model("vgg", states, 3, signed=signed, surrogate=surrogate)
    assert_same_step(model, random_codes(model))


STAGES = {
    "acts": (Stage(float_acts=True), ("activations",)),
    "weights": (Stage(float_weights=True), ("weights", "first", "last")),
    "both": (Stage(True, True), tuple(GROUPS)),
}


@pytest.mark.parametrize("precision", ["fp32", "fp32-float"])
@pytest.mark.parametrize(
    "case", ["vgg", "vgg-4-2", "signed", "pool-first", "learned-steps", "float-activations", "float-weights"]
)
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_the_network_with_those_parts_in_float(
    make_model, random_codes, stage: str, case: str, precision: str
) -> None:
    family, act_states, weight_states, options = CASES[case]
    model = make_model(family, act_states, weight_states, **options).train()
    what, groups = STAGES[stage]
    plain = switched(model, [name for group in groups for name in members(model, group)]).train()
    codes, forward = random_codes(model), prepare(model, precision)
    with torch.no_grad():
        forward(codes)  # a step of another stage before
    model.load_state_dict(dict(zip(model.state_dict(), plain.state_dict().values(), strict=True)))
    forward.stage = what
    expected, found = plain(codes), forward(codes)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    theirs = gradients(plain, expected).values()
    for (name, ours), of in zip(gradients(model, found).items(), theirs, strict=True):
        assert float((ours - of).abs().max()) <= 5e-5 * float(of.abs().max()) + 1e-8, name
    for (name, buffer), of in zip(model.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(buffer, of, rtol=1e-5, atol=1e-5, msg=name)
    forward.stage = QUANTIZED
    whole = copy.deepcopy(model)
    torch.testing.assert_close(forward(codes), whole(codes), rtol=1e-5, atol=1e-5)


class Finer(layers.NormSpike):
    """The levels of more states, on the scale of fewer."""

    def __init__(self, part: layers.NormSpike, states: int) -> None:
        super().__init__(part.norm, states, part.signed, part.surrogate)
        self.scale = part.n / (states - 1)

    def forward(self, *values: Tensor) -> Tensor:
        return super().forward(*values) * self.scale


@pytest.mark.parametrize("surrogate", ["rectangle", "triangle"])
@pytest.mark.parametrize(("states", "first"), [(2, 16), (3, 4), (4, 16)])
@pytest.mark.parametrize("signed", [False, True])
def test_a_stage_of_more_states_is_the_network_with_these(
    make_model, random_codes, signed: bool, states: int, first: int, surrogate: str
) -> None:
    model = make_model("vgg", states, 3, signed=signed, surrogate=surrogate).train()
    copied, nodes = copy.deepcopy(model), []
    for name in copied.names:
        part = copied.part(name)
        finer = Finer(part, first) if isinstance(part, layers.NormSpike) else part
        nodes.append(Node(name, finer, copied.inputs_of[name]))
    plain = SpikingNetwork(copied.input_spec, nodes).train()
    codes, forward = random_codes(model), prepare(model, "fp32")
    forward.stage = Stage(float_acts=True, states=first)
    expected, found = plain(codes), forward(codes)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    theirs = gradients(plain, expected)
    for name, ours in gradients(model, found).items():
        assert float((ours - theirs[name]).abs().max()) <= 5e-5 * float(theirs[name].abs().max()) + 1e-8, name
    assert float((expected - copy.deepcopy(model).train()(codes)).detach().abs().max()) > 1e-2


def test_a_batch_that_does_not_fill_bytes(make_model, random_codes) -> None:
    model = make_model("vgg", 2, 3)
    assert_same_step(model, random_codes(model, batch=5))


def _network(*pools: layers.Part) -> SpikingNetwork:
    torch.manual_seed(5)
    nodes = [Node("conv", layers.Conv2d(2, 4, 3, stride=1, padding=1, states=3), ("input",))]
    nodes.append(Node("spike", layers.NormSpike(LayerBatchNorm(4), 3), ("conv",)))
    for index, pool in enumerate(pools):
        nodes.append(Node(f"pool{index}", pool, (nodes[-1].name,)))
    nodes.append(Node("conv2", layers.Conv2d(4, 6, 3, (2, 1), 2, dilation=2, groups=2, states=4), (nodes[-1].name,)))
    nodes.append(Node("spike2", layers.NormSpike(LayerBatchNorm(6), 3), ("conv2",)))
    nodes.append(Node("flatten", layers.Flatten(), ("spike2",)))
    with torch.no_grad():
        probe = SpikingNetwork(InputSpec((2, 9, 8), 3, 0, 9), [*nodes]).eval()
        inputs = probe.trace(torch.zeros(1, 2, 9, 8))["flatten"].shape[1]
    nodes.append(Node("classifier", layers.Linear(inputs, 3, states=15), ("flatten",)))
    nodes.append(Node("readout", layers.Readout(3, 0.01), ("classifier",)))
    return SpikingNetwork(InputSpec((2, 9, 8), 3, 0, 9), nodes)


@pytest.mark.parametrize(
    "pools",
    [
        [layers.MaxPool2d(3, stride=2, padding=1)],
        [layers.MaxPool2d((3, 1))],
        [layers.SumPool2d(3, stride=2, padding=1)],
        [layers.SumPool2d((1, 3)), layers.MaxPool2d(2, stride=1)],
    ],
    ids=lambda pools: "-".join(f"{type(pool).__name__}{pool.kernel}" for pool in pools),
)
def test_pools_that_overlap_or_are_padded_strides_dilation_and_groups(random_codes, pools) -> None:
    model = _network(*pools)
    assert_same_step(model, random_codes(model))


def test_ties_in_a_window_go_to_the_first() -> None:
    """Levels tie all the time: every window of this image holds one level."""
    model = _network(layers.MaxPool2d(2))
    assert_same_step(model, torch.full((8, 2, 9, 8), 7))


def test_statistics_of_several_processes(make_model, random_codes) -> None:
    """Two halves of a batch, each of which is told the sums of the other, have the gradients of the whole."""
    model = make_model("vgg", 3, 3).train()
    codes = random_codes(model, batch=8)
    whole = copy.deepcopy(model)
    expected = gradients(whole, whole(codes))
    labels = torch.randint(0, 5, (8,), generator=torch.Generator().manual_seed(3))
    # Runs one half up to every sum, so that both know all of them: each sum is that of the two at the same place.
    told: list[list[Tensor]] = [[], []]

    def summing(rank: int):
        calls = iter(range(10_000))

        def total(mine: Tensor) -> Tensor:
            index = next(calls)
            told[rank][index:] = [mine.detach().clone()]
            other = told[1 - rank]
            return mine + (other[index] if index < len(other) else mine)

        return total

    def run(rank: int) -> dict[str, Tensor]:
        half = copy.deepcopy(model)
        sum_of = summing(rank)
        for name in half.spiking_names():
            half.part(name).norm.sum_over_processes = sum_of
        mine = slice(4 * rank, 4 * rank + 4)
        half.zero_grad()
        F.cross_entropy(prepare(half, "fp32")(codes[mine]), labels[mine]).backward()
        return {name: parameter.grad for name, parameter in half.named_parameters()}

    for _ in range(12):  # each round settles at least one more sum
        halves = [run(0), run(1)]
    for name, gradient in expected.items():
        torch.testing.assert_close((halves[0][name] + halves[1][name]) / 2, gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_what_is_kept(make_model, random_codes) -> None:
    """Levels and places in bits, accumulators in bytes or int16, the first layer's not at all."""
    model = make_model("vgg", 2, 3, plan="8-16-M-32-S").train()
    tape = tape_of(model, Operands())
    codes = random_codes(model, batch=16)
    _, kept, extras = tape.forward(model.centred(codes), tape.operands(list(model.parameters())))
    names = ["input", *model.names]
    sizes = {names[value]: (t.dtype, t.numel()) for value, t in zip(tape.kept, kept, strict=True)}
    assert [names[value] for value in tape.repeated] == ["conv1"]
    assert sizes == {
        "input": (torch.uint8, 16 * 3 * 8 * 8),
        "spike1": (torch.uint8, 16 * 8 * 8 * 8 // 8),
        "conv2": (torch.uint8, 16 * 16 * 8 * 8),  # -72..72
        "pool2": (torch.uint8, 16 * 16 * 4 * 4 // 8),
        "conv3": (torch.int16, 16 * 32 * 4 * 4),  # -144..144
        "flatten": (torch.uint8, 16 * 32 * 2 * 2 // 2),  # 0..4 in half a byte
        "classifier": (torch.float32, 16 * 5),
    }
    (places,) = extras[model.names.index("pool2")]
    assert places.numel() == 16 * 16 * 4 * 4 // 4  # 0..3 in two bits


def test_a_part_without_a_step_is_named() -> None:
    class Doubled(layers.Flatten):
        pass

    nodes = [
        Node("twice", Doubled(), ("input",)),
        Node("classifier", layers.Linear(4, 3), ("twice",)),
        Node("readout", layers.Readout(3, 0.1), ("classifier",)),
    ]
    with pytest.raises(MaqdError, match="twice: a Doubled has no training step"):
        prepare(SpikingNetwork(InputSpec((1, 2, 2)), nodes))


def test_a_weight_that_is_not_finite_shows_in_the_logits(make_model, random_codes) -> None:
    model = make_model("vgg", 2, 3).train()
    forward, codes = prepare(model), random_codes(model)
    assert bool(forward(codes).isfinite().all())
    with torch.no_grad():
        model.part("conv2").weight[0, 0, 0, 0] = float("nan")
    assert not bool(forward(codes).isfinite().any())


def test_codes_are_computed_once_for_the_same_weights(make_model, random_codes, monkeypatch) -> None:
    model = make_model("vgg", 2, 3).train()
    forward, codes = prepare(model), random_codes(model)
    calls: list[int] = []
    standardize = layers.standardize
    monkeypatch.setattr("maqd_snn.tape.standardize", lambda w: (calls.append(1), standardize(w))[1])
    products = sum(isinstance(model.part(name), layers.QuantizedProduct) for name in model.names)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.no_grad():
        for _ in range(3):
            forward(codes)
    assert len(calls) == products
    gradients(model, forward(codes))
    calls.clear()
    optimizer.step()
    first = forward(codes)
    assert len(calls) == products
    assert torch.equal(first, prepare(model)(codes))


def test_parameters_that_do_not_train_get_no_gradient(make_model, random_codes) -> None:
    model = make_model("vgg", 2, 3).train()
    model.part("conv2").weight.requires_grad_(False)
    prepare(model)(random_codes(model)).sum().backward()
    assert model.part("conv2").weight.grad is None
    assert isinstance(model.part("conv1").weight.grad, Tensor)


@pytest.mark.parametrize("weight_states", [3, None], ids=str)
def test_a_weight_gradient_by_winograd(make_model, random_codes, weight_states: int | None, monkeypatch) -> None:
    calls = []

    def counted(x: Tensor, grad: Tensor, padding: tuple[int, int]) -> Tensor:
        calls.append(x.shape)
        return weight_gradient(x, grad, padding)

    monkeypatch.setattr("maqd_snn.tape.weight_gradient", counted)
    model = make_model("vgg", 2, weight_states, plan="32-32-M-40", input_shape=(3, 9, 7))
    assert_same_step(model, random_codes(model))
    assert [shape[1] for shape in calls] == [32, 32]
