"""The pictures of the sample browser: right pixels, valid PNG files, small."""

import base64
import io
import json
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch

from maqd_snn import fold
from maqd_snn.integer import IntegerNetwork, ops
from maqd_snn.reporting.png import png
from maqd_snn.reporting.samples import CHANNELS, PIXELS, SAMPLE_BYTES, SAMPLES, sample_records, spike_map


def pixels(picture: dict[str, Any]) -> np.ndarray:
    """Decode a picture by another library: (H, W, 4) in 0..1."""
    data = base64.b64decode(picture["png"])
    image = matplotlib.image.imread(io.BytesIO(data), format="png")
    assert image.shape[:2] == (picture["height"], picture["width"])
    if image.shape[2] == 3:
        image = np.concatenate([image, np.ones((*image.shape[:2], 1))], 2)
    return image


def test_png_pixel_by_pixel():
    colours = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3) * 4
    image = matplotlib.image.imread(io.BytesIO(png(colours)), format="png")
    assert np.array_equal((image * 255).round().astype(np.uint8), colours)
    palette = [(255, 0, 0, 255), (0, 255, 0, 128)]
    image = matplotlib.image.imread(io.BytesIO(png(np.array([[0, 1], [1, 0]], np.uint8), palette)), format="png")
    assert np.allclose(image[0, 1], [0, 1, 0, 128 / 255])
    assert np.allclose(image[0, 0], [1, 0, 0, 1])


def test_a_spike_map_shows_level_and_place():
    levels = np.zeros((2, 3, 3), np.int64)
    levels[0, 0, 2], levels[1, 2, 0], levels[1, 1, 1] = 1, 3, -3
    image = pixels(spike_map(levels, -3, 3))
    assert image.shape[:2] == (3, 7) or image.shape[:2] == (7, 3)
    if image.shape[0] == 7:  # one tile below the other
        first, second, gap = image[:3], image[4:], image[3]
    else:
        first, second, gap = image[:, :3], image[:, 4:], image[:, 3]
    assert (gap[:, 3] == 0).all()
    silent = image[..., 3].min(where=image[..., 3] > 0, initial=1)
    opaque = np.argwhere(first[..., 3] > silent + 0.01)
    assert opaque.tolist() == [[0, 2]]
    assert np.argwhere(second[..., 3] > silent + 0.01).tolist() == [[1, 1], [2, 0]]
    assert second[2, 0, 3] > first[0, 2, 3]  # a higher level is darker
    assert second[1, 1, 0] > 0.7 > 0.3 > second[2, 0, 0]  # negative levels are orange


@pytest.mark.parametrize("shape", [(7,), (1,), (1000,), (200, 4, 4), (3, 300, 300), (1, 1, 1), (64, 1, 9)])
def test_maps_of_any_shape_are_small(shape):
    levels = np.random.default_rng(0).integers(0, 3, shape)
    picture = spike_map(levels, 0, 2)
    assert pixels(picture).shape[0] * picture["width"] <= 2 * PIXELS + 4000
    assert len(picture["png"]) < 40_000


def test_neurons_without_a_place_fill_a_square_in_order():
    image = pixels(spike_map(np.array([1, 0, 0, 1, 1]), 0, 1))
    assert image.shape[:2] == (2, 3)
    on = image[..., 3] > 0.5
    assert on.tolist() == [[True, False, False], [True, True, False]]
    assert image[1, 2, 3] == 0  # a hole, not a silent neuron


def network() -> IntegerNetwork:
    one = torch.ones(1, dtype=torch.int64)
    return IntegerNetwork(
        [
            ops.Input("input", shape=(1, 2, 2), high=4),
            ops.Conv2d("conv", ("input",), one.view(1, 1, 1, 1)),
            ops.Threshold("spike", ("conv",), torch.tensor([[1, 3]]), one),
            ops.Flatten("flatten", ("spike",)),
            ops.Linear("fc", ("flatten",), torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]])),
            ops.Readout("readout", ("fc",), torch.tensor([0, 0])),
        ]
    )


def test_records_say_what_the_network_did():
    codes = torch.tensor([[[[4, 1], [0, 0]]], [[[0, 0], [3, 0]]], [[[4, 4], [0, 0]]]])
    records = sample_records(network(), codes, torch.tensor([0, 1, 1]))
    assert [(r["index"], r["label"], r["prediction"]) for r in records] == [(0, 0, 0), (1, 1, 1), (2, 1, 0)]
    assert records[0]["scores"] == [3, 0]
    (layer,) = records[0]["layers"]
    assert (layer["name"], layer["shape"], layer["rate"], layer["channels"]) == ("spike", [1, 2, 2], 0.5, 1)
    grey = pixels(records[0]["input"])[..., 0]
    assert np.allclose(grey, [[1, 63 / 253], [0, 0]], atol=0.005)
    json.dumps(records)


def test_wrong_ones_are_among_them_and_classes_differ():
    codes = torch.zeros(40, 1, 2, 2, dtype=torch.int64)
    codes[::2, 0, 0] = 4
    codes[1::2, 0, 1] = 4
    labels = torch.arange(40) % 2
    labels[30] = labels[31] = -1  # never right
    labels[30], labels[31] = 1, 0
    records = sample_records(network(), codes, labels)
    assert len(records) == SAMPLES
    wrong = [record["index"] for record in records if record["label"] != record["prediction"]]
    assert wrong == [30, 31]
    assert {record["label"] for record in records} == {0, 1}


def test_without_labels_and_without_samples():
    codes = torch.ones(3, 1, 2, 2, dtype=torch.int64)
    assert [record["label"] for record in sample_records(network(), codes, None)] == [None] * 3
    assert sample_records(network(), codes[:0], None) == []


def test_colour_images_and_large_networks(make_model):
    net = fold(make_model("vgg", 4, 3))
    codes = torch.randint(0, 256, (9, 3, 8, 8))
    record = sample_records(net, codes, None)[0]
    expected = (codes[0].permute(1, 2, 0) / 255).numpy()
    assert np.allclose(pixels(record["input"])[..., :3], expected, atol=0.003)
    assert sum(len(layer["picture"]["png"]) for layer in record["layers"]) < SAMPLE_BYTES
    assert all(layer["channels"] <= CHANNELS for layer in record["layers"])
