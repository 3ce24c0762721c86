"""The networks that `maqd bench train` compares: one shape, in this library, as its float twin, and in its peers.

Axis letters: B batch, C channels, H height, W width. T is the number of time steps of a peer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maqd_snn.models import build
from maqd_snn.training.precision import PRECISIONS, cpu_has_bfloat16, prepare

ZERO_POINT = 128


@dataclass(frozen=True)
class Setting:
    """The shape of the networks and of their batch: images (3, size, size) in ten classes."""

    plan: str
    size: int
    batch: int
    device: str

    def codes(self) -> Tensor:
        """Return a batch of random pixels, (B, 3, H, W) in uint8."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(0, 256, (self.batch, 3, self.size, self.size), generator=generator, dtype=torch.uint8)

    def labels(self) -> Tensor:
        """Return as many random labels."""
        return torch.randint(0, 10, (self.batch,), generator=torch.Generator().manual_seed(1))


@dataclass(frozen=True)
class Ready:
    """A network that can be trained: `forward` maps `inputs` to logits, `module` holds the parameters."""

    module: nn.Module
    forward: Callable[[Tensor], Tensor]
    inputs: Tensor


@dataclass(frozen=True)
class Network:
    """One row: `make` builds it; `missing` says why it cannot be run here, or is None; `timed` alone: no memory."""

    text: str
    make: Callable[[Setting], Ready]
    missing: Callable[[Setting], str | None] = lambda setting: None
    ours: bool = False
    timed: bool = False


def _ours(precision: str, compiled: bool) -> Network:
    def make(setting: Setting) -> Ready:
        model = build(
            "vgg",
            input_shape=(3, setting.size, setting.size),
            classes=10,
            act_states=2,
            weight_states=3,
            plan=setting.plan,
            zero_point=ZERO_POINT,
        )
        model = model.to(setting.device).train()
        return Ready(model, prepare(model, precision, compiled), setting.codes().to(setting.device))

    def missing(setting: Setting) -> str | None:
        operands = PRECISIONS[precision].operands
        if precision == "fp32-float" and setting.device != "cpu":
            return "not run: the same as fp32 there, whose 8-bit convolution is one of the CPU"
        if operands.dtype == torch.bfloat16 and setting.device == "cpu" and not cpu_has_bfloat16():
            return "not run: this CPU has no bfloat16 instructions"
        return None

    how = "compiled" if compiled else "eager"
    return Network(f"maqd-snn `{precision}`, {how}", make, missing, ours=True)


def _pixels(setting: Setting, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    centred = (setting.codes().float() - ZERO_POINT) / 64
    return centred.to(setting.device).contiguous(memory_format=layout)


def _stack(setting: Setting, conv: Callable[[int, int], nn.Module], act: Callable[[int], list[nn.Module]]) -> nn.Module:
    """Return the plan as a module; `conv` takes the channels, `act` the channels it normalizes."""
    modules: list[nn.Module] = []
    channels, size = 3, setting.size
    for step in setting.plan.split("-"):
        if step == "M":
            modules.append(nn.MaxPool2d(2))
            size //= 2
        else:
            modules += [conv(channels, int(step)), *act(int(step))]
            channels = int(step)
    return nn.Sequential(*modules, nn.Flatten(), nn.Linear(channels * size * size, 10))


def _plain_conv(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


def _twin(compiled: bool, layout: torch.memory_format, dtype: torch.dtype | None = None) -> Network:
    def make(setting: Setting) -> Ready:
        module = _stack(setting, _plain_conv, lambda channels: [nn.BatchNorm2d(channels), nn.ReLU()])
        module = module.to(setting.device).to(memory_format=layout)  # type: ignore[call-overload]
        run = torch.compile(module, dynamic=False) if compiled else module

        def forward(x: Tensor) -> Tensor:
            with torch.autocast(setting.device, dtype or torch.bfloat16, enabled=dtype is not None):
                logits: Tensor = run(x)
            return logits.float()

        return Ready(module, forward if dtype is not None else run, _pixels(setting, layout))

    def missing(setting: Setting) -> str | None:
        if dtype is not None and setting.device == "cpu" and not cpu_has_bfloat16():
            return "not run: this CPU has no bfloat16 instructions"
        return None

    where = "channels last" if layout == torch.channels_last else "default layout"
    kind = "bfloat16 autocast, " if dtype is not None else ""
    return Network(f"float twin, {kind}{'compiled' if compiled else 'eager'}, {where}", make, missing)


def _needs(package: str) -> Callable[[Setting], str | None]:
    return lambda setting: None if find_spec(package) else f"not installed: {package}"


class _Products(torch.autograd.Function):
    """The convolutions of fixed inputs, forward, and backward with fixed gradients of their sums; logits are zeros."""

    @staticmethod
    def forward(ctx, inputs, grads, *weights):  # type: ignore[no-untyped-def]
        for x, weight in zip(inputs, weights, strict=True):
            F.conv2d(x, weight, padding=1)
        ctx.inputs, ctx.grads, ctx.weights = inputs, grads, weights
        return weights[0].new_zeros(len(inputs[0]), 10)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        geometry = ((1, 1), (1, 1), (1, 1), False, (0, 0), 1)
        each = zip(ctx.grads, ctx.inputs, ctx.weights, strict=True)
        found = [
            torch.ops.aten.convolution_backward(of_z, x, weight, None, *geometry, (index > 0, True, False))[1]
            for index, (of_z, x, weight) in enumerate(each)
        ]
        return None, None, *found


def _products(setting: Setting) -> Ready:
    stack = _stack(setting, _plain_conv, lambda channels: [])
    parts = [part for part in stack.modules() if isinstance(part, nn.Conv2d | nn.MaxPool2d)]
    module = nn.ModuleList(part for part in parts if isinstance(part, nn.Conv2d))
    module = module.to(setting.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x, inputs, grads = _pixels(setting, torch.channels_last), list[Tensor](), list[Tensor]()
    for part in parts:
        if isinstance(part, nn.Conv2d):
            inputs.append(x)
            x = (torch.rand(setting.batch, part.out_channels, *x.shape[2:]) < 0.25).float().to(setting.device)
            x = x.contiguous(memory_format=torch.channels_last)
            grads.append(torch.randn_like(x))
        else:
            x = part(x)
    return Ready(module, lambda x: _Products.apply(inputs, grads, *module.parameters()), x)  # type: ignore[no-untyped-call]


def _brevitas(setting: Setting) -> Ready:
    from brevitas.nn import QuantConv2d, QuantReLU

    def conv(inputs: int, outputs: int) -> nn.Module:
        bits = 8 if inputs == 3 else 2  # narrow range: two bits are three weight states
        module: nn.Module = QuantConv2d(inputs, outputs, 3, padding=1, bias=False, weight_bit_width=bits)
        return module

    module = _stack(setting, conv, lambda channels: [nn.BatchNorm2d(channels), QuantReLU(bit_width=1)])
    return Ready(module.to(setting.device), module, _pixels(setting))


def _snntorch(steps: int) -> Callable[[Setting], Ready]:
    def make(setting: Setting) -> Ready:
        import snntorch
        from snntorch import surrogate, utils

        def act(channels: int) -> list[nn.Module]:
            leaky = snntorch.Leaky(beta=0.9, spike_grad=surrogate.atan(), init_hidden=True)
            return [nn.BatchNorm2d(channels), leaky]

        module = _stack(setting, _plain_conv, act).to(setting.device)

        def forward(x: Tensor) -> Tensor:
            utils.reset(module)
            total: Tensor = module(x)
            for _ in range(steps - 1):
                total = total + module(x)
            return total / steps

        return Ready(module, forward, _pixels(setting))

    return make


def _spikingjelly(steps: int) -> Callable[[Setting], Ready]:
    def make(setting: Setting) -> Ready:
        from spikingjelly.activation_based import functional, layer, neuron, surrogate

        def conv(inputs: int, outputs: int) -> nn.Module:
            module: nn.Module = layer.Conv2d(inputs, outputs, 3, padding=1, bias=False)
            return module

        def act(channels: int) -> list[nn.Module]:
            return [layer.BatchNorm2d(channels), neuron.LIFNode(surrogate_function=surrogate.ATan())]

        plain = _stack(setting, conv, act)
        own: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
            nn.MaxPool2d: lambda m: layer.MaxPool2d(2),
            nn.Flatten: lambda m: layer.Flatten(),
            nn.Linear: lambda m: layer.Linear(m.in_features, m.out_features),
        }
        module = nn.Sequential(*(own[type(m)](m) if type(m) in own else m for m in plain.children()))
        module = module.to(setting.device)
        functional.set_step_mode(module, "m")

        def forward(x: Tensor) -> Tensor:
            functional.reset_net(module)
            logits: Tensor = module(x.unsqueeze(0).expand(steps, *x.shape))
            return logits.mean(0)

        return Ready(module, forward, _pixels(setting))

    return make


NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        "fp32": _ours("fp32", False),
        "fp32-compiled": _ours("fp32", True),
        "fp32-float": _ours("fp32-float", False),
        "fp32-float-compiled": _ours("fp32-float", True),
        "bf16-compiled": _ours("bf16-mixed", True),
        "twin": _twin(False, torch.contiguous_format),
        "twin-last": _twin(False, torch.channels_last),
        "twin-compiled": _twin(True, torch.contiguous_format),
        "twin-last-compiled": _twin(True, torch.channels_last),
        "twin-bf16-compiled": _twin(True, torch.channels_last, torch.bfloat16),
        "products": Network("the twin's convolutions alone, channels last", _products, timed=True),
        "brevitas": Network("Brevitas, 1-bit activations, 2-bit weights", _brevitas, _needs("brevitas")),
        "snntorch-1": Network("snnTorch LIF, T = 1", _snntorch(1), _needs("snntorch")),
        "snntorch-4": Network("snnTorch LIF, T = 4", _snntorch(4), _needs("snntorch")),
        "spikingjelly-1": Network("SpikingJelly LIF, T = 1", _spikingjelly(1), _needs("spikingjelly")),
        "spikingjelly-4": Network("SpikingJelly LIF, T = 4", _spikingjelly(4), _needs("spikingjelly")),
    }
)
