"""Muon: orthogonal steps, weights whose scale it may choose, and a state that checkpoints carry."""

import pytest
import torch

from maqd_snn import build, fold
from maqd_snn.training.checkpoint import load_optimizer, optimizer_tensors
from maqd_snn.training.muon import Muon, orthogonalized
from maqd_snn.training.optimize import make_optimizer


@pytest.mark.parametrize("shape", [(8, 8), (5, 40), (40, 5), (6, 2, 3, 3)])
def test_singular_vectors_stay_and_singular_values_become_about_one(shape):
    update = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    turned = orthogonalized(update)
    assert turned.shape == update.shape
    u, _, v = torch.linalg.svd(update.flatten(1), full_matrices=False)
    values = u.T @ turned.flatten(1) @ v.T
    assert torch.allclose(values, torch.diag(values.diagonal()), atol=1e-3)
    assert values.diagonal().min() > 0.5
    assert values.diagonal().max() < 1.4
    assert torch.allclose(orthogonalized(100 * update), turned, atol=1e-4)
    assert torch.equal(orthogonalized(torch.zeros(shape)), torch.zeros(shape))


def test_a_step_is_the_formula():
    torch.manual_seed(0)
    weight, bias = torch.nn.Parameter(torch.randn(4, 3, 2, 2)), torch.nn.Parameter(torch.randn(4))
    start = weight.detach().clone(), bias.detach().clone()
    groups = [{"params": [weight], "orthogonal": True}, {"params": [bias], "orthogonal": False}]
    optimizer = Muon(groups, lr=0.1, momentum=0.5, scalar_rate=0.2)
    gradients = [torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)]
    for gradient in gradients:
        weight.grad, bias.grad = gradient, torch.tensor([1.0, -2.0, 3.0, 0.0])
        optimizer.step()
    momentum, expected = torch.zeros_like(start[0]), start[0]
    for gradient in gradients:
        momentum = 0.5 * momentum + gradient
        expected = 2 * expected / expected.norm() - 0.1 * orthogonalized(gradient + 0.5 * momentum)
    assert torch.allclose(weight, expected, atol=1e-5)
    # Of equal gradients Adam makes steps of the rate.
    assert torch.allclose(bias, start[1] - 2 * 0.02 * torch.tensor([1.0, -1.0, 1.0, 0.0]), atol=1e-5)


def test_the_scale_of_the_weights_changes_nothing():
    """Of a standardized layer: the same codes whatever the weights were multiplied by."""
    found = []
    for factor in (1.0, 37.0):
        torch.manual_seed(0)
        model = build("vgg", input_shape=(3, 8, 8), classes=4, plan="8-M-8", norm="lbn-channel-mean")
        with torch.no_grad():
            for name in ("conv1", "conv2", "classifier"):
                model.part(name).weight.mul_(factor)
        optimizer = make_optimizer(model.train(), "muon", 0.1, 0.0, 0.0)
        generator = torch.Generator().manual_seed(1)
        for _ in range(3):
            codes = torch.randint(0, 256, (16, 3, 8, 8), generator=generator)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(codes), torch.arange(16) % 4).backward()
            optimizer.step()
        found.append(fold(model))
    one, other = (op.weight for net in found for op in net.ops if op.name == "conv2")
    assert float((one != other).float().mean()) < 0.01  # rounding, where a weight stood at a threshold


def test_a_checkpoint_carries_its_state():
    def run(steps, state=None):
        torch.manual_seed(0)
        model = build("mlp", input_shape=(1, 2, 2), classes=3, plan="4")
        optimizer = make_optimizer(model, "muon", 0.1, 0.0, 0.6)
        if state is not None:
            model.load_state_dict(state[0])
            load_optimizer(optimizer, state[1], "here")
        for step in steps:
            for number, parameter in enumerate(model.parameters()):
                parameter.grad = torch.randn(
                    parameter.shape, generator=torch.Generator().manual_seed(10 * step + number)
                )
            optimizer.step()
        return model, optimizer

    model, optimizer = run([0, 1])
    saved = {name: tensor.clone() for name, tensor in model.state_dict().items()}, optimizer_tensors(optimizer)
    through, resumed = run([0, 1, 2, 3])[0], run([2, 3], saved)[0]
    for one, other in zip(through.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
