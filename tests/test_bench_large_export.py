"""`maqd bench large-export`: its network, and what a row says where a file agrees, differs, or is not written."""

from types import SimpleNamespace

import pytest
import torch

from maqd_snn.benchmarks import large_export as bench


@pytest.fixture(scope="module")
def splits():
    codes = torch.randint(0, 256, (300, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return SimpleNamespace(train=SimpleNamespace(codes=codes), test=SimpleNamespace(codes=codes[:20]))


@pytest.fixture(scope="module")
def net(splits):
    return bench.large(bench.QUICK_PLAN, splits)


def test_the_network_is_not_constant(net, splits):
    scores = net.reference(splits.test.codes.long().numpy())
    assert (scores != scores[:1]).any()
    assert {op.weight.unique().numel() for op in net.ops[1:] if hasattr(op, "weight")} >= {3}


def test_a_row_says_what_agrees(net, splits, tmp_path):
    line, seconds, good = bench.row(net, "json", splits.test.codes[:2], tmp_path)
    assert good
    assert seconds > 0
    assert line.startswith("| json | ")
    assert "| 0 of " in line


def test_a_row_counts_every_file_that_was_written(net, splits, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(bench, "size_of", lambda path: seen.append(path) or 1_000_000)
    line, _, _ = bench.row(net, "hex", splits.test.codes[:2], tmp_path)
    assert "| 2.0 |" in line
    assert sorted(seen) == sorted(tmp_path.iterdir())


def test_a_row_says_what_differs_and_what_is_not_written(net, splits, tmp_path, monkeypatch):
    wrong = SimpleNamespace(ok=False, mismatches=3, scores=20, compared="values", runtime="a runtime")
    monkeypatch.setattr(bench, "verify", lambda *_: wrong)
    line, _, good = bench.row(net, "json", splits.test.codes[:2], tmp_path)
    assert not good
    assert "| 3 of 20 values in a runtime |" in line
    line, seconds, good = bench.row(net, "netx", splits.test.codes[:2], tmp_path)
    assert (seconds, good) == (0.0, True)
    assert "not written: spike1: its accumulators can reach" in line
