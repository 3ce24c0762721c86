"""`maqd bench simulate`: the twin it compares with, its table, and what it asks for."""

import pytest
import torch

from maqd_snn import fold
from maqd_snn.benchmarks import simulate as bench
from maqd_snn.integer import ops


@pytest.mark.parametrize(("family", "plan"), [("vgg", "8-M-8"), ("resnet", "8-16"), ("mlp", "16-8")])
def test_the_twin_has_the_shape_of_the_network(make_model, random_codes, family, plan) -> None:
    model = make_model(family, 2, 3, input_shape=(1, 8, 8), plan=plan)
    net, codes = fold(model), random_codes(model)
    twin = bench.float_twin(net)
    assert twin(codes).shape == net(codes).shape
    kinds = {type(op): type(part) for op, part in zip(twin.graph, twin.parts, strict=True)}
    assert kinds[ops.Threshold] is torch.nn.Sequential
    weights = {name: tuple(p.shape) for name, p in twin.named_parameters() if name.endswith("weight") and p.ndim > 1}
    assert sorted(weights.values()) == sorted(
        tuple(op.weight.shape) for op in net.ops if isinstance(op, ops.Conv2d | ops.Linear)
    )


def test_ratios_are_medians_and_costs_are_taken_round_by_round() -> None:
    found = {bench.TWIN: [10.0, 11.0, 30.0], bench.EXECUTOR: [44.0, 20.0, 50.0], bench.COUNTED: [40.0, 16.0, 50.0]}
    lines, times, adds = bench.table("net", found)
    assert times == 4.0
    assert adds == pytest.approx(0.1)  # of 10 %, 25 % and 0 %
    assert lines[0] == f"| net | {bench.TWIN} | 11 | 1.00 |  |"
    assert lines[2] == f"|  | {bench.COUNTED} | 40 | 3.64 | +10.0% |"


def test_every_row_runs_on_its_share_of_the_images() -> None:
    seen: dict[str, list[int]] = {"all": [], "part": []}
    rows = [
        bench.Item("all", lambda batches: seen["all"].append(sum(map(len, batches)))),
        bench.Item("part", lambda batches: seen["part"].append(sum(map(len, batches))), 1 / 4),
    ]
    found = bench.rates(rows, torch.zeros(8 * bench.BATCH, 1), rounds=2, name="net")
    assert seen == {"all": [8 * bench.BATCH] * 3, "part": [2 * bench.BATCH] * 3}
    assert {name: len(speeds) for name, speeds in found.items()} == {"all": 2, "part": 2}
