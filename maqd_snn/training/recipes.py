"""Named recipes: each a function that returns a frozen, validated configuration."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from maqd_snn.errors import unknown_name
from maqd_snn.training import event_recipes
from maqd_snn.training.config import Recipe


def digits() -> Recipe:
    """scikit-learn's 8x8 scans; a minute on two cores; docs/accuracy.md has why parameters are averaged."""
    return Recipe(
        name="digits",
        dataset="digits",
        plan="32-64-M-128",
        epochs=40,
        batch_size=32,
        ema=0.99,
        augment="warp",
    )


def mnist() -> Recipe:
    """MNIST, a small convolutional network."""
    return Recipe(name="mnist", dataset="mnist", plan="16-M-32-32-M-64-M", epochs=6, augment="shift2")


def mnist10k() -> Recipe:
    """MNIST's 10,000 test images alone, 8,000 of them to train on; two minutes on two cores."""
    return Recipe(
        name="mnist10k",
        dataset="mnist10k",
        plan="16-M-32-32-M-64-M",
        epochs=20,
        batch_size=64,
        augment="warp",
    )


def cifar10_small() -> Recipe:
    """CIFAR-10, 0.3 M weights, a quarter of an hour on two CPU cores; docs/accuracy.md has what was compared."""
    return Recipe(
        name="cifar10-small",
        dataset="cifar10",
        plan="64-M-64-M-128-128-M",
        epochs=10,
        lr=0.04,
        warmup=0.15,
        augment="crop2-flip",
        compile=True,
    )


def cifar10_vgg() -> Recipe:
    """CIFAR-10, 0.3 M weights, a minute or two an epoch on two cores."""
    return Recipe(
        name="cifar10-vgg",
        dataset="cifar10",
        plan="32-M-64-64-M-128-128-M",
        epochs=20,
        lr=0.04,
        warmup=0.15,
        augment="crop-flip",
    )


def cifar10_resnet() -> Recipe:
    """CIFAR-10, pre-activation ResNet-20."""
    return Recipe(
        name="cifar10-resnet",
        dataset="cifar10",
        model="resnet",
        plan="16-16-16-32-32-32-64-64-64",
        epochs=40,
        augment="crop-flip",
    )


RESNET18 = "64-64-128-128-256-256-512-512"


def cifar10_resnet18() -> Recipe:
    """CIFAR-10, pre-activation ResNet-18, 11 M weights; for a GPU."""
    return Recipe(
        name="cifar10-resnet18",
        dataset="cifar10",
        model="resnet",
        plan=RESNET18,
        epochs=100,
        batch_size=256,
        precision="bf16-mixed",
        augment="crop-flip-cutout",
    )


def cifar100_resnet18() -> Recipe:
    """CIFAR-100, pre-activation ResNet-18, 11 M weights; for a GPU."""
    return replace(cifar10_resnet18(), name="cifar100-resnet18", dataset="cifar100", epochs=150)


def cifar10_speed() -> Recipe:
    """CIFAR-10, as few seconds as possible to 94 % on one GPU; not yet measured there."""
    return Recipe(
        name="cifar10-speed",
        dataset="cifar10",
        plan="128-M-256-256-M-512-512-M",  # the rate of 0.1 for batches four times those of cifar10-small
        epochs=30,
        batch_size=512,
        precision="bf16-mixed",
        compile=True,
        deterministic=False,
        augment="crop-flip-cutout",
    )


RECIPES: Mapping[str, Callable[[], Recipe]] = MappingProxyType(
    {
        "digits": digits,
        "mnist": mnist,
        "mnist10k": mnist10k,
        "cifar10-small": cifar10_small,
        "cifar10-vgg": cifar10_vgg,
        "cifar10-resnet": cifar10_resnet,
        "cifar10-resnet18": cifar10_resnet18,
        "cifar100-resnet18": cifar100_resnet18,
        "cifar10-speed": cifar10_speed,
        "nmnist": event_recipes.nmnist,
        "dvs128-gesture": event_recipes.dvs128_gesture,
        "cifar10-dvs": event_recipes.cifar10_dvs,
    }
)


def get_recipe(name: str) -> Recipe:
    """Return the recipe of this name; unknown names list the choices."""
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]()
