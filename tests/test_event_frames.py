"""Events to frames: against a loop that follows the definition word by word; compiled and NumPy alike."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maqd_snn.datasets.events import frames
from maqd_snn.datasets.events.compiled import NO_NUMBA, compiled, numba_found
from maqd_snn.datasets.events.frames import FrameScheme, slice_by_count, slice_by_time, to_frames
from maqd_snn.datasets.events.recording import EVENT_DTYPE
from maqd_snn.errors import MaqdError

needs_numba = pytest.mark.skipif(not numba_found(), reason="numba is not installed")


@pytest.fixture(params=["numpy", *(pytest.param(name, marks=needs_numba) for name in ("numba", "numba in parts"))])
def counter(request, monkeypatch):
    """Run the test with the one and the other counter, the compiled one also in three threads, however few events."""
    if request.param == "numpy":
        monkeypatch.setenv(NO_NUMBA, "1")
    monkeypatch.setattr(frames, "_parts", lambda *_: 3 if request.param == "numba in parts" else 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    yield request.param
    torch.set_num_threads(threads)


def random_events(count, sensor=(12, 9), span=1000, seed=0, ordered=True, first=0):
    generator = np.random.default_rng(seed)
    events = np.zeros(count, EVENT_DTYPE)
    times = generator.integers(first, first + span, count)
    events["t"] = np.sort(times) if ordered else times
    events["x"], events["y"] = generator.integers(0, sensor[0], count), generator.integers(0, sensor[1], count)
    events["p"] = generator.integers(0, 2, count)
    return events


def slow(events, sensor, slices, largest, downsample, number_of):
    """The definition, an event at a time, in Python's integers."""
    out = np.zeros((slices, 2, -(-sensor[1] // downsample), -(-sensor[0] // downsample)), np.uint8)
    for index, (t, x, y, p) in enumerate(events.tolist()):
        number = number_of(index, t)
        if number is not None:
            cell = number, p, y // downsample, x // downsample
            out[cell] = min(int(out[cell]) + 1, largest)
    return out


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("slices", [1, 3, 8])
@pytest.mark.parametrize(("largest", "downsample"), [(255, 1), (1, 1), (3, 2), (2, 5)])
def test_by_time_and_by_count_are_the_definition(counter, ordered, slices, largest, downsample):
    events = random_events(700, ordered=ordered, first=-300, seed=slices)
    before = events.copy()
    first, last = int(events["t"].min()), int(events["t"].max())
    expected = slow(
        events, (12, 9), slices, largest, downsample, lambda _, t: (t - first) * slices // (last + 1 - first)
    )
    found = slice_by_time(events, (12, 9), slices, largest=largest, downsample=downsample)
    np.testing.assert_array_equal(found, expected)
    expected = slow(events, (12, 9), slices, largest, downsample, lambda i, _: i * slices // len(events))
    np.testing.assert_array_equal(
        slice_by_count(events, (12, 9), slices, largest=largest, downsample=downsample), expected
    )
    np.testing.assert_array_equal(events, before)
    events.flags.writeable = False
    every_other = events[::2]
    np.testing.assert_array_equal(
        slice_by_count(every_other, (12, 9), slices), slice_by_count(every_other.copy(), (12, 9), slices)
    )


@pytest.mark.parametrize("span", [(0, 1000), (100, 107), (-50, 400), (999, 5000), (5000, 6000)])
def test_a_span_leaves_out_what_is_outside(counter, span):
    events = random_events(500, ordered=False)
    begin, end = span

    def number(_, t):
        return (t - begin) * 4 // (end - begin) if begin <= t < end else None

    np.testing.assert_array_equal(
        slice_by_time(events, (12, 9), 4, span=span), slow(events, (12, 9), 4, 255, 1, number)
    )


@needs_numba
@given(
    st.lists(st.tuples(st.integers(-(2**60), 2**60), st.integers(0, 7), st.integers(0, 5), st.integers(0, 1))),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 255),
    st.booleans(),
)
def test_compiled_and_numpy_agree_on_any_times(rows, slices, downsample, largest, by_count):
    events = np.array(rows, EVENT_DTYPE)
    if by_count:
        begin, span = 0, 0
    else:
        times = events["t"][np.abs(events["t"]) < 2**58]
        begin = int(times.min()) if len(times) else 0
        span = (int(times.max()) if len(times) else 0) - begin + 1
        span = min(span, 2**62 // slices)
    size = (-(-6 // downsample), -(-8 // downsample))
    ours, theirs = (np.zeros(slices * 2 * size[0] * size[1], np.uint8) for _ in range(2))
    arguments = (events, 0, 8, 6, begin, span, largest, downsample, slices, *size)
    kernel = compiled(frames.count_kernel, "iieiiiiiiiiiib")
    assert kernel(0, len(events), *arguments, ours) == frames.count_numpy(*arguments, theirs) == -1
    np.testing.assert_array_equal(ours, theirs)


def test_parts_are_worth_a_thread_and_their_cells():
    assert [frames._parts(events) for events in (0, 2**18 - 1, 2**18, 2**20)] == [1, 1, 2, 8]
    assert [frames._parts(2**20, cells) for cells in (1, 2**19, 2**20, 2**28)] == [8, 2, 1, 1]


def test_a_hot_pixel_saturates_and_never_wraps(counter):
    events = np.zeros(1000, EVENT_DTYPE)
    assert slice_by_count(events, (1, 1), 1).ravel().tolist() == [255, 0]
    assert slice_by_count(events, (1, 1), 3, largest=7).ravel().tolist() == [7, 0] * 3


def test_no_events_and_fewer_events_than_slices(counter):
    nothing = np.zeros(0, EVENT_DTYPE)
    for found in (slice_by_time(nothing, (3, 2), 4), slice_by_count(nothing, (3, 2), 4)):
        assert found.shape == (4, 2, 2, 3)
        assert found.sum() == 0
    assert slice_by_count(np.zeros(2, EVENT_DTYPE), (1, 1), 5).sum(axis=(1, 2, 3)).tolist() == [1, 0, 1, 0, 0]
    assert slice_by_time(np.zeros(2, EVENT_DTYPE), (1, 1), 5).sum() == 2


@pytest.mark.parametrize("event", [(0, 3, 0, 0), (0, 0, 2, 1), (0, 65535, 0, 0), (0, 0, 0, 2)])
def test_events_outside_the_sensor_are_named(counter, event):
    events = np.array([(0, 2, 1, 1), (1, 0, 0, 0), event, event], EVENT_DTYPE)
    for function in (slice_by_time, slice_by_count):
        with pytest.raises(MaqdError, match=r"event 2 is \(t=0, x=\d+, y=\d, p=\d\), outside the sensor of 3 x 2"):
            function(events, (3, 2), 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"events": [1, 2]}, "expected a one-dimensional array of EVENT_DTYPE .* got list"),
        ({"events": np.zeros((2, 2), EVENT_DTYPE)}, r"EVENT_DTYPE .* got \[.*\(2, 2\)"),
        ({"events": np.zeros(3)}, "EVENT_DTYPE .* got float64"),
        ({"slices": 0}, r"slices must lie in 1..1024, got 0"),
        ({"largest": 256}, "largest must lie in 1..255, got 256"),
        ({"downsample": 0}, "downsample must lie in 1..65536, got 0"),
        ({"sensor": (0, 3)}, "sensor width must lie in 1..65536, got 0"),
        ({"sensor": (65536, 65536)}, "more than 268435456 cells; use fewer slices"),
        ({"span": (5, 5)}, r"begin < end, got \(5, 5\)"),
        ({"span": (0, 2**62)}, "is no recording"),
    ],
)
def test_wrong_arguments(change, message):
    values = {"events": np.zeros(3, EVENT_DTYPE), "sensor": (3, 3), "slices": 2, **change}
    events, sensor, slices = (values.pop(name) for name in ("events", "sensor", "slices"))
    with pytest.raises(MaqdError, match=message):
        slice_by_time(events, sensor, slices, **values)


def test_a_scheme_is_its_functions(counter):
    events = random_events(400, sensor=(10, 10), span=900, first=50)
    sensor = (10, 10)
    by_time = to_frames(events, sensor, FrameScheme(slices=3, largest=2, downsample=2))
    assert by_time.shape == FrameScheme(slices=3, downsample=2).shape(sensor) == (6, 5, 5)
    expected = slice_by_time(events, sensor, 3, largest=2, downsample=2)
    np.testing.assert_array_equal(by_time.reshape(3, 2, 5, 5), expected)
    stream = to_frames(events, sensor, FrameScheme(slices=3, layout="stream", by="count"))
    np.testing.assert_array_equal(stream, slice_by_count(events, sensor, 3, largest=1))
    first = int(events["t"][0])
    windows = to_frames(events, sensor, FrameScheme(slices=2, by="window", window_us=100, layout="stream", largest=9))
    for number, window in enumerate(windows):
        begin = first + 100 * number
        inside = events[(events["t"] >= begin) & (events["t"] < begin + 100)]
        np.testing.assert_array_equal(window, slice_by_count(inside, sensor, largest=9)[0])


def test_a_scheme_does_not_remember_samples(counter):
    scheme = FrameScheme(slices=2, by="count", largest=200)
    one, other = random_events(300, seed=1), random_events(500, seed=2)
    before = to_frames(one, (12, 9), scheme)
    to_frames(other, (12, 9), scheme)
    np.testing.assert_array_equal(to_frames(one, (12, 9), scheme), before)


@pytest.mark.parametrize(
    "scheme",
    [
        FrameScheme(),
        FrameScheme(slices=8, by="count", largest=7, downsample=4, layout="stream", kind="analog", denoise_us=5000),
        FrameScheme(by="window", window_us=20_000),
    ],
)
def test_the_text_of_a_scheme_is_read_back(scheme):
    assert FrameScheme.parse(str(scheme)) == scheme


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slice=3", "unknown field 'slice=3', did you mean 'slices=...'"),
        ("slices", "unknown field 'slices'"),
        ("slices=3,slices=4", "slices is given twice"),
        ("slices=x", "slices expects a whole number, got 'x'"),
        ("slices=0", "slices must be a whole number in 1..1024, got 0"),
        ("slices=" + "9" * 30, "slices expects a whole number"),
        ("largest=256", "largest must be a whole number in 1..255"),
        ("by=times", "unknown by 'times', did you mean 'time'"),
        ("layout=frames", "unknown layout 'frames'"),
        ("kind=spikes", "unknown kind 'spikes'"),
        ("by=window", "by=window and window_us above 0 go together"),
        ("window_us=5", "by=window and window_us above 0 go together"),
    ],
)
def test_a_wrong_scheme_says_what_is_wrong(text, message):
    with pytest.raises(MaqdError, match=message):
        FrameScheme.parse(text)
