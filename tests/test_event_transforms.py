"""Transforms of events, each against its definition written as a loop; inputs stay as they were, chance is seeded."""

import numpy as np
import pytest

from maqd_snn.datasets.events import transforms
from maqd_snn.datasets.events.recording import EVENT_DTYPE
from maqd_snn.errors import MaqdError

SENSOR = (20, 15)


def random_events(count=600, seed=0, span=20_000):
    generator = np.random.default_rng(seed)
    events = np.zeros(count, EVENT_DTYPE)
    events["t"] = np.sort(generator.integers(100, 100 + span, count))
    events["x"], events["y"] = generator.integers(0, SENSOR[0], count), generator.integers(0, SENSOR[1], count)
    events["p"] = generator.integers(0, 2, count)
    return events


def rows(events):
    assert events.dtype == EVENT_DTYPE
    return events.tolist()


EVENTS = random_events()
PIXELS = np.zeros((15, 20), np.bool_)
PIXELS[3:6, 4:9] = True

# name -> (events, generator) -> events
CALLS = {
    "crop": lambda e, g: transforms.crop(e, 3, 2, 9, 8),
    "crop_time": lambda e, g: transforms.crop_time(e, 500, 9000),
    "downsample": lambda e, g: transforms.downsample(e, 3),
    "flip_left_right": lambda e, g: transforms.flip_left_right(e, SENSOR),
    "flip_up_down": lambda e, g: transforms.flip_up_down(e, SENSOR),
    "flip_polarity": lambda e, g: transforms.flip_polarity(e),
    "reverse_time": lambda e, g: transforms.reverse_time(e),
    "scale_time": lambda e, g: transforms.scale_time(e, 1.5),
    "random_shift": lambda e, g: transforms.random_shift(e, SENSOR, 4, g),
    "random_warp": lambda e, g: transforms.random_warp(e, SENSOR, 20, 0.2, g),
    "jitter_space": lambda e, g: transforms.jitter_space(e, SENSOR, 1.5, g),
    "jitter_time": lambda e, g: transforms.jitter_time(e, 300, g),
    "drop": lambda e, g: transforms.drop(e, 0.3, g),
    "drop_time": lambda e, g: transforms.drop_time(e, 0.3, g),
    "drop_area": lambda e, g: transforms.drop_area(e, SENSOR, 0.4, g),
    "without_pixels": lambda e, g: transforms.without_pixels(e, PIXELS),
    "denoise": lambda e, g: transforms.denoise(e, SENSOR, 400),
}
RANDOM = ("random_shift", "random_warp", "jitter_space", "jitter_time", "drop", "drop_time", "drop_area")


@pytest.mark.parametrize("name", CALLS)
def test_pure_deterministic_and_fit_for_no_events(name):
    before = EVENTS.copy()
    first = CALLS[name](EVENTS, np.random.default_rng(3))
    CALLS[name](random_events(50, seed=9), np.random.default_rng(4))  # nothing of it may stay
    second = CALLS[name](EVENTS, np.random.default_rng(3))
    assert rows(first) == rows(second)
    assert rows(first) != rows(EVENTS)
    assert not np.shares_memory(first, EVENTS)
    np.testing.assert_array_equal(EVENTS, before)
    assert rows(CALLS[name](EVENTS[:0], np.random.default_rng(3))) == []
    if name in RANDOM:
        assert rows(CALLS[name](EVENTS, np.random.default_rng(5))) != rows(first)
    with pytest.raises(MaqdError, match="EVENT_DTYPE"):
        CALLS[name](np.zeros(3), np.random.default_rng(3))


def test_geometry_is_the_definition():
    width, height = SENSOR
    loop = EVENTS.tolist()
    assert rows(CALLS["crop"](EVENTS, None)) == [
        (t, x - 3, y - 2, p) for t, x, y, p in loop if 3 <= x < 12 and 2 <= y < 10
    ]
    assert rows(CALLS["crop_time"](EVENTS, None)) == [e for e in loop if 500 <= e[0] < 9000]
    assert rows(CALLS["downsample"](EVENTS, None)) == [(t, x // 3, y // 3, p) for t, x, y, p in loop]
    assert rows(CALLS["flip_left_right"](EVENTS, None)) == [(t, width - 1 - x, y, p) for t, x, y, p in loop]
    assert rows(CALLS["flip_up_down"](EVENTS, None)) == [(t, x, height - 1 - y, p) for t, x, y, p in loop]
    assert rows(CALLS["flip_polarity"](EVENTS, None)) == [(t, x, y, 1 - p) for t, x, y, p in loop]
    assert rows(transforms.shift(EVENTS, SENSOR, -3, 5)) == [
        (t, x - 3, y + 5, p) for t, x, y, p in loop if x >= 3 and y + 5 < height
    ]
    assert rows(CALLS["without_pixels"](EVENTS, None)) == [e for e in loop if not PIXELS[e[2], e[1]]]


def test_warp_turns_around_the_middle():
    square = np.array([(0, 0, 0, 1), (1, 4, 0, 1), (2, 2, 2, 1), (3, 3, 2, 0)], EVENT_DTYPE)
    turned = transforms.warp(square, (5, 5), 90)
    assert turned[["x", "y"]].tolist() == [(4, 0), (4, 4), (2, 2), (2, 3)]  # clockwise: y points down
    assert rows(transforms.warp(square, (5, 5))) == rows(square)
    assert rows(transforms.warp(square, (5, 5), zoom=2)) == [(2, 2, 2, 1), (3, 4, 2, 0)]
    assert rows(transforms.warp(square, (5, 5), zoom=0.5))[0] == (0, 1, 1, 1)


def test_time_is_the_definition():
    loop = EVENTS.tolist()
    first, last = loop[0][0], loop[-1][0]
    assert rows(CALLS["reverse_time"](EVENTS, None)) == [(first + last - t, x, y, 1 - p) for t, x, y, p in loop[::-1]]
    assert rows(CALLS["scale_time"](EVENTS, None)) == [(first + (t - first) * 3 // 2, x, y, p) for t, x, y, p in loop]
    jittered = CALLS["jitter_time"](EVENTS, np.random.default_rng(0))
    assert (np.diff(jittered["t"]) >= 0).all()
    assert jittered["t"].min() >= first
    assert sorted(jittered[["x", "y", "p"]].tolist()) == sorted(EVENTS[["x", "y", "p"]].tolist())


def test_chance_has_the_size_that_was_asked_for():
    many, generator = random_events(20_000), np.random.default_rng(0)
    assert len(transforms.drop(many, 0.3, generator)) == pytest.approx(14_000, abs=300)
    assert len(transforms.drop_time(many, 0.25, generator)) == pytest.approx(15_000, abs=400)
    assert len(transforms.drop_area(many, SENSOR, 0.5, generator)) == pytest.approx(15_000, abs=1500)
    middle = many[(many["x"] == 10) & (many["y"] == 7)]
    moved = transforms.jitter_space(np.repeat(middle, 200), SENSOR, 1.0, generator)
    assert float(np.std(moved["x"].astype(float))) == pytest.approx((1 + 1 / 12) ** 0.5, abs=0.02)
    corners = {tuple(transforms.random_shift(middle[:1], SENSOR, 1, generator)[["x", "y"]].tolist()) for _ in range(99)}
    assert len(corners) == 9


def test_denoise_is_the_definition():
    loop, kept = EVENTS.tolist(), []
    for index, (t, x, y, p) in enumerate(loop):
        if any(max(abs(x - a), abs(y - b)) == 1 and t - s <= 400 for s, a, b, _ in loop[:index]):
            kept.append((t, x, y, p))
    assert 0 < len(kept) < len(loop)
    assert rows(CALLS["denoise"](EVENTS, None)) == kept
    with pytest.raises(MaqdError, match="times that do not run backwards"):
        transforms.denoise(EVENTS[::-1].copy(), SENSOR, 400)


def test_hot_pixels_are_found_and_left_out():
    noisy = np.concatenate([EVENTS, np.array([(0, 5, 6, 1)] * 300, EVENT_DTYPE)])
    hot = transforms.hot_pixels(noisy, SENSOR)
    assert np.argwhere(hot).tolist() == [[6, 5]]
    assert not transforms.hot_pixels(EVENTS, SENSOR).any()
    assert not transforms.hot_pixels(EVENTS[:0], SENSOR).any()
    expected = [e for e in EVENTS.tolist() if e[1:3] != (5, 6)]
    assert rows(transforms.without_pixels(noisy, hot)) == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e, g: transforms.crop(e, -1, 0, 2, 2), "window of at least one pixel"),
        (lambda e, g: transforms.crop_time(e, 2, 1), "begin <= end, got 2 and 1"),
        (lambda e, g: transforms.downsample(e, 0), "factor of at least 1, got 0"),
        (lambda e, g: transforms.scale_time(e, 0), "factor above 0"),
        (lambda e, g: transforms.flip_left_right(e, (10, 15)), "reach column 19 and row 14, outside the sensor of 10"),
        (lambda e, g: transforms.warp(e, SENSOR, zoom=0), "zoom above 0"),
        (lambda e, g: transforms.warp(e, SENSOR, zoom=float("inf")), "zoom above 0 and below 1e6, got inf"),
        (lambda e, g: transforms.warp(e, SENSOR, float("nan")), "finite number of degrees, got nan"),
        (lambda e, g: transforms.random_warp(e, SENSOR, float("inf"), 0.1, g), "finite number of degrees, got -?inf"),
        (lambda e, g: transforms.random_shift(e, SENSOR, -1, g), "largest shift of 0 to 65536 pixels, got -1"),
        (lambda e, g: transforms.jitter_space(e, SENSOR, -1, g), "deviation of at least 0, got -1"),
        (lambda e, g: transforms.drop(e, 1.1, g), "share in 0..1, got 1.1"),
        (lambda e, g: transforms.hot_pixels(e, SENSOR, 1), "factor above 1, got 1"),
        (lambda e, g: transforms.without_pixels(e, PIXELS * 1), "pixels as booleans"),
        (lambda e, g: transforms.denoise(e, SENSOR, 0), "within_us of at least 1"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(MaqdError, match=message):
        call(EVENTS, np.random.default_rng(0))


@pytest.mark.parametrize("first", [0, -(2**62), 2**62])
def test_scaled_times_fit_64_bits_or_are_refused(first):
    events = np.array([(first, 1, 2, 1), (first + 2**61, 3, 4, 0)], EVENT_DTYPE)
    if first + 2**63 < 2**63:
        assert transforms.scale_time(events, 4)["t"].tolist() == [first, first + 2**63]
    else:
        with pytest.raises(
            MaqdError, match=f"scaled times of 64 bits, got {first}..{first + 2**61} us times 4; take a"
        ):
            transforms.scale_time(events, 4)
    assert transforms.scale_time(events, 0.5)["t"].tolist() == [first, first + 2**60]
    events["t"] = -(2**62), 2**62
    with pytest.raises(MaqdError, match="scaled times of 64 bits"):
        transforms.scale_time(events, 0.25)
