"""Recipes for event cameras: input scheme, augmentation and network chosen for one step.

The scheme stands in the name of the dataset: slices of a recording become channels, counts are clipped to a few levels,
so that the first layer is fed graded spikes and is charged as a spiking one.
"""

from maqd_snn.training.config import Recipe


def nmnist() -> Recipe:
    """N-MNIST: a slice a saccade, up to 3 events a pixel of 2 x 2; minutes on two cores with 1,000 recordings."""
    return Recipe(
        name="nmnist",
        dataset="nmnist:slices=3,largest=3,downsample=2",
        plan="32-M-64-M-128",
        ema=0.995,  # 1.2 points on those two folds
        zero_point=0,
        epochs=100,
        batch_size=32,
        augment="event-warp",
    )


def dvs128_gesture() -> Recipe:
    """DVS128 Gesture: eight slices at 32 x 32; moved, turned and zoomed, never mirrored: left and right are classes."""
    return Recipe(
        name="dvs128-gesture",
        dataset="dvs128-gesture:slices=8,largest=3,downsample=4",
        plan="64-M-128-M-128-M-256",
        zero_point=0,
        epochs=100,
        batch_size=32,
        augment="event-warp",
    )


def cifar10_dvs() -> Recipe:
    """CIFAR10-DVS: eight slices at 64 x 64; moved, turned, zoomed and mirrored."""
    return Recipe(
        name="cifar10-dvs",
        dataset="cifar10-dvs:slices=8,largest=3,downsample=2",
        plan="64-M-128-M-256-M-256-M",
        zero_point=0,
        epochs=60,
        batch_size=64,
        augment="event-warp-flip",
    )
