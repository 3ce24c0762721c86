"""Shared by all tests: small models with awkward gains, random codes, a problem that every network can learn."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import settings
from torch import Tensor

import maqd_snn
from maqd_snn import IntegerNetwork, SpikingNetwork
from maqd_snn.datasets import ImageDataset, Splits, load_splits
from maqd_snn.training import fit
from maqd_snn.training.loop import Training

# The time of one example says nothing where the cores are shared.
settings.register_profile("maqd", deadline=None)
settings.load_profile("maqd")

# The tensors of the tests are small: a second thread only waits for the first, and for whoever shares the cores.
torch.set_num_threads(1)

MakeModel = Callable[..., SpikingNetwork]

SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"input_shape": (1, 5, 4), "plan": "24-16"},
    "vgg": {"input_shape": (3, 8, 8), "plan": "8-8-M-16-S"},
    "resnet": {"input_shape": (3, 8, 8), "plan": "8-8-16"},
}


def _codes(of: SpikingNetwork | IntegerNetwork, batch: int, seed: int) -> Tensor:
    spec = of.input if isinstance(of, IntegerNetwork) else of.input_spec
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(spec.low, spec.high + 1, (batch, *spec.shape), generator=generator)
    if batch > 1:  # the ends of the range are where bounds and overflows show
        codes[0], codes[1] = spec.low, spec.high
    return codes


@pytest.fixture(scope="session")
def random_codes() -> Callable[..., Tensor]:
    """`random_codes(model_or_network, batch=8, seed=0)`: int64 codes in its range.

    The first two samples are the ends of the range.
    """

    def make(of: SpikingNetwork | IntegerNetwork, batch: int = 8, seed: int = 0) -> Tensor:
        return _codes(of, batch, seed)

    return make


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """`make_model(family, act_states, weight_states, norm="lbn", signed=False, *, seed=0, **options)`.

    A small model of the family in eval mode that has seen two training batches. In every layer the first gain is zero,
    the second negative, the third positive and the rest random; biases are random. Options are those of `build`.
    """

    def make(
        family: str,
        act_states: int | None,
        weight_states: int | None,
        norm: str = "lbn",
        signed: bool = False,
        *,
        seed: int = 0,
        **options: Any,
    ) -> SpikingNetwork:
        given = {"classes": 5, "zero_point": 100, **SMALL[family], **options}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = maqd_snn.build(
                family, act_states=act_states, weight_states=weight_states, norm=norm, signed=signed, **given
            )
            model.train()
            with torch.no_grad():
                for batch in range(2):
                    model(_codes(model, 16, seed + batch))
                for name in model.spiking_names():
                    of = model.part(name).norm
                    of.gain.normal_()
                    of.gain[0] = 0
                    of.gain[1:2] = -of.gain[1:2].abs() - 0.1
                    of.gain[2:3] = of.gain[2:3].abs() + 0.1
                    of.bias.normal_()
                for name in model.names:
                    log_scale = getattr(model.part(name), "log_scale", None)
                    if log_scale is not None:
                        log_scale.normal_(0, 0.3)
                readout = model.readout
                readout.bias.copy_(torch.randn_like(readout.bias) * readout.unit * 5)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def toy_losses() -> Callable[..., tuple[float, float]]:
    """`toy_losses(model, batch, epochs, lr)`: (first, last) mean loss of training on a small separable problem.

    Two classes of 64 images each, dark above and bright below or the other way round, with noise. The losses are means
    over the first and the last 32 samples shown.
    """

    def train(model: SpikingNetwork, batch: int = 16, epochs: int = 4, lr: float = 0.01) -> tuple[float, float]:
        generator = torch.Generator().manual_seed(7)
        channels, height, width = model.input_spec.shape
        labels = torch.arange(128) % 2
        bright = (torch.arange(height) >= height // 2).long()
        pattern = torch.stack([bright, 1 - bright])[labels].view(128, 1, height, 1) * 120
        noise = torch.randint(0, 60, (128, channels, height, width), generator=generator)
        codes = pattern + noise
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        losses: list[Tensor] = []
        model.train()
        for _ in range(epochs):
            for chosen in torch.randperm(128, generator=generator).split(batch):
                loss = F.cross_entropy(model(codes[chosen]), labels[chosen], reduction="none")
                optimizer.zero_grad()
                loss.mean().backward()
                optimizer.step()
                losses.append(loss.detach())
        shown = torch.cat(losses)
        return float(shown[:32].mean()), float(shown[-32:].mean())

    return train


@pytest.fixture(scope="session")
def few_digits() -> Splits:
    """A quarter of the digits, for tests that do not ask for accuracy: five steps of 64 an epoch."""
    splits = load_splits("digits")

    def first(part: ImageDataset, count: int) -> ImageDataset:
        return replace(part, codes=part.codes[:count], labels=part.labels[:count])

    return replace(
        splits, train=first(splits.train, 320), validation=first(splits.validation, 90), test=first(splits.test, 90)
    )


class _Ended(Exception):  # noqa: N818
    """Stands for the end of a process."""


@pytest.fixture
def fit_until(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`fit_until(step, ...)`: `fit(...)` that ends before that step, counted from 0 over all epochs."""

    def run(step: int, *arguments: Any, **options: Any) -> None:
        take = Training._train_step

        def take_or_end(training: Training, *batch: Any) -> Any:
            if training.taken >= step:
                raise _Ended
            return take(training, *batch)

        with monkeypatch.context() as patch:
            patch.setattr(Training, "_train_step", take_or_end)
            with pytest.raises(_Ended):
                fit(*arguments, **options)

    return run


@pytest.fixture(params=["compiled", "numpy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Event files are decoded by machine code, and by NumPy."""
    if request.param == "numpy":
        monkeypatch.setenv("MAQD_NO_NUMBA", "1")
    else:
        pytest.importorskip("numba")
        monkeypatch.delenv("MAQD_NO_NUMBA", raising=False)
