"""The record of a verification: on which inputs a file ran, what was compared, and that it is JSON."""

import hashlib
import json

import numpy as np
import pytest

import maqd_snn
from maqd_snn import fold
from maqd_snn.neuromorphic.check import compare, record


@pytest.fixture
def net(make_model):
    return fold(make_model("mlp", 2, 3))


def sha256(codes):
    return hashlib.sha256(codes.numpy().astype(np.int64).tobytes()).hexdigest()


def test_a_record_states_the_inputs_that_were_given(net, random_codes, tmp_path):
    codes = random_codes(net, 3)
    maqd_snn.export(net, tmp_path / "n.hex.json")
    found = maqd_snn.verify(tmp_path / "n.hex.json", net, codes).to_dict()
    assert (found["samples"], found["inputs"], found["compared"]) == (3, sha256(codes), "class scores")


def test_a_record_states_the_inputs_that_a_file_brings(net, random_codes, tmp_path):
    pytest.importorskip("nir")
    from maqd_snn.neuromorphic.nir_events import write_nir_events

    golden = random_codes(net, 5)
    write_nir_events(net, tmp_path / "n.nirdata", golden.numpy())
    found = maqd_snn.verify(tmp_path / "n.nirdata", net, random_codes(net, 3)).to_dict()
    assert (found["ok"], found["samples"], found["inputs"]) == (True, 5, sha256(golden))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_differences_and_the_record_is_json(value, net, random_codes, tmp_path):
    codes = random_codes(net, 2).numpy()
    expected = net.reference(codes)
    got = expected.astype(np.float64)
    got[1, 0] = value
    (tmp_path / "file").write_text("x")
    found = record(tmp_path / "file", net, codes, [compare("onnx", "a runtime", got, expected)])
    assert (found.ok, found.mismatches) == (False, 1)
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["largest_difference"] is plain["checks"][0]["largest_difference"] is None
