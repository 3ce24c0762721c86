"""The price on spikes: its equation against the simulator's SynOps, its gradient against autograd, and what it does."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from maqd_snn import MaqdError, fold, layers, simulate
from maqd_snn.datasets import load_splits
from maqd_snn.graph import INPUT
from maqd_snn.penalty import taps
from maqd_snn.training import Execution, fit, get_recipe
from maqd_snn.training.precision import prepare


def fan_out(part, x):
    """By brute force: how many products each input value takes part in."""
    ones = torch.ones_like(x[:1]).detach().requires_grad_()
    if isinstance(part, layers.Linear):
        out = F.linear(ones, torch.ones_like(part.weight))
    else:
        out = F.conv2d(ones, torch.ones_like(part.weight), None, part.stride, part.padding, part.dilation, part.groups)
    return torch.autograd.grad(out.sum(), ones)[0]


def share(model, outputs):
    """S of the equation, differentiable, from every node's output."""
    spiking = {INPUT: False}
    total, dense = 0.0, 0.0
    largest = {}
    for name in model.names:
        part, source = model.part(name), model.inputs_of[name][0]
        passes = isinstance(part, layers.Pool2d | layers.Flatten)
        spiking[name] = isinstance(part, layers.NormSpike) or (passes and spiking[source])
        if isinstance(part, layers.NormSpike):
            largest[name] = part.n
        elif passes and spiking[source]:
            factor = part.kernel[0] * part.kernel[1] if isinstance(part, layers.SumPool2d) else 1
            largest[name] = largest[source] * factor
        elif isinstance(part, layers.QuantizedProduct) and spiking[source]:
            reach = fan_out(part, outputs[source])
            total = total + (outputs[source].abs() / largest[source] * reach).sum() / len(outputs[source])
            dense += float(reach.sum())
    return total / dense


CASES = {
    "vgg": ("vgg", 2, 3, {}),
    "graded": ("vgg", 4, 3, {}),
    "signed": ("resnet", 3, 3, {"signed": True}),
    "pool-first": ("vgg", 2, 3, {"pool_first": True, "plan": "8-M-8-M"}),
    "resnet": ("resnet", 2, 3, {}),
    "mlp": ("mlp", 2, 3, {}),
    "odd-image": ("vgg", 2, 3, {"input_shape": (3, 9, 7)}),
}


@pytest.mark.parametrize("of_share", [0.0, 0.999, 1.001])
@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_the_equation(make_model, random_codes, case, of_share):
    family, act_states, weight_states, options = CASES[case]
    model = make_model(family, act_states, weight_states, **options).train()
    plain, codes = copy.deepcopy(model), random_codes(model)
    labels = torch.arange(len(codes)) % 3
    outputs = {}
    loss = F.cross_entropy(plain(codes, outputs.__setitem__), labels)
    spent = share(plain, outputs)
    target = of_share * float(spent.detach())
    (loss + 5.0 * (spent - target).clamp_min(0)).backward()
    F.cross_entropy(prepare(model, penalty=5.0, target=target)(codes), labels).backward()
    without = copy.deepcopy(plain)
    without.zero_grad()
    F.cross_entropy(without(codes), labels).backward()
    moved = 0
    for (name, ours), theirs, other in zip(
        model.named_parameters(), plain.parameters(), without.parameters(), strict=True
    ):
        limit = 2e-5 * float(theirs.grad.abs().max()) + 1e-9
        assert float((ours.grad - theirs.grad).abs().max()) <= limit, name
        moved += float((theirs.grad - other.grad).abs().max()) > 10 * limit
    assert moved >= 2 or of_share > 1  # the penalty can be seen
    assert moved == 0 or of_share < 1  # and is not charged below its target


def test_with_two_states_it_is_the_share_of_synops(make_model, random_codes):
    model = make_model("vgg", 2, 3, plan="8-8-M-16-M", pool_first=False)
    codes = random_codes(model, 16)
    estimate = share(model, model.trace(codes)).detach()
    total = simulate(fold(model), [codes]).total
    assert float(estimate) == pytest.approx(total.synops / (total.dense_macs - total.macs), rel=1e-6)


def test_taps_by_brute_force():
    for size, kernel, stride, padding, dilation in ((7, 3, 2, 1, 1), (6, 2, 2, 0, 1), (9, 3, 1, 2, 2), (5, 3, 3, 0, 1)):
        out = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        x = torch.ones(1, 1, size, requires_grad=True)
        F.conv1d(x, torch.ones(1, 1, kernel), None, stride, padding, dilation).sum().backward()
        assert list(taps(size, out, kernel, stride, padding, dilation)) == x.grad[0, 0].int().tolist()


def test_a_higher_price_leaves_fewer_spikes(tmp_path):
    splits = load_splits("digits")
    base = replace(get_recipe("digits"), plan="8-M-16-M", epochs=4)
    rates = []
    for price in (0.0, 3.0):
        out = tmp_path / str(price)
        out.mkdir()
        result = fit(replace(base, synops_penalty=price), splits, out, execution=Execution(quiet=True))
        rates.append(result.history[-1].spike_rate)
        assert fold(result.model)
    assert rates[1] < 0.8 * rates[0]


def test_a_price_above_a_target_stops_there(tmp_path):
    splits = load_splits("digits")
    base = replace(get_recipe("digits"), plan="8-M-16-M", epochs=5, augment="none", synops_penalty=50.0)
    shares = []
    for target in (0.0, 0.2):
        out = tmp_path / str(target)
        out.mkdir()
        result = fit(replace(base, synops_target=target), splits, out, execution=Execution(quiet=True))
        total = simulate(fold(result.model), [splits.validation.codes]).total
        shares.append(total.synops / (total.dense_macs - total.macs))
    assert shares[0] < 0.1
    assert 0.17 < shares[1] < 0.23


def test_a_batch_in_parts_pays_the_same(tmp_path):
    splits = load_splits("digits")
    # Statistics of each sample alone: the parts of a batch do not change each other.
    base = replace(get_recipe("digits"), plan="8-M-16-M", norm="lbn-sample", optimizer="sgd", lr=0.5, max_steps=1)
    weights = []
    for price, parts in ((400.0, 1), (400.0, 2), (200.0, 1)):
        out = tmp_path / f"{price}-{parts}"
        out.mkdir()
        recipe = replace(base, synops_penalty=price, accumulate=parts)
        model = fit(recipe, splits, out, execution=Execution(quiet=True)).model
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert float((weights[1] - weights[0]).abs().max()) < 1e-5
    assert float((weights[2] - weights[0]).abs().max()) > 1e-3


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_it_traces_without_a_break(make_model, random_codes, monkeypatch):
    torch.compiler.reset()
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, fullgraph, **_: compile_(f, fullgraph=True, backend="aot_eager"))
    model = make_model("vgg", 2, 3, plan="4-M-4-M", pool_first=True).train()
    plain, codes = copy.deepcopy(model), random_codes(model)
    labels = torch.arange(len(codes)) % 3
    for network, compiled in ((model, True), (plain, False)):
        F.cross_entropy(prepare(network, compiled=compiled, penalty=5.0, target=0.01)(codes), labels).backward()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_wrong_prices_are_refused(make_model):
    with pytest.raises(MaqdError, match="synops_penalty must be a finite number from 0, got -1"):
        replace(get_recipe("digits"), synops_penalty=-1)
    with pytest.raises(MaqdError, match=r"synops_target must lie in \[0, 1\), got 1.0"):
        replace(get_recipe("digits"), synops_penalty=1.0, synops_target=1.0)
    with pytest.raises(MaqdError, match="synops_target 0.2 needs a synops_penalty above 0"):
        replace(get_recipe("digits"), synops_target=0.2)
    with pytest.raises(MaqdError, match="synops_penalty needs a normalization that folds, got groupnorm"):
        replace(get_recipe("digits"), synops_penalty=1.0, norm="groupnorm")
    with pytest.raises(MaqdError, match="group normalization has none"):
        prepare(make_model("vgg", 2, 3, norm="groupnorm").train(), penalty=1.0)
