"""Others' numbers side by side with ours, on the same network and the same samples, every difference explained."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from maqd_snn.errors import MaqdError, MissingExtraError
from maqd_snn.integer import IntegerNetwork
from maqd_snn.neuromorphic.peer_counters import neurobench_counts, spikingjelly_counts
from maqd_snn.pricing import energy
from maqd_snn.simulation import LayerReport, SimulationReport, simulate

Row = dict[str, Any]


def _row(metric: str, theirs: float, ours: float | None, name: str, agrees: bool | None, why: str) -> Row:
    return {"metric": metric, "theirs": theirs, "ours": ours, "name": name, "agrees": agrees, "why": why}


def _binary(layer: LayerReport) -> bool:
    """Whether a product is fed spikes that can only be -1, 0 or 1."""
    return layer.spiking and layer.largest_input == 1


def _products(report: SimulationReport) -> list[LayerReport]:
    return [layer for layer in report.layers if layer.weights]


def _equal(theirs: float, ours: float) -> bool:
    # Both are quotients of integers by the number of samples.
    return math.isclose(theirs, ours, rel_tol=1e-12, abs_tol=1e-12)


SWITCHED = (
    " It decides by the values of a batch: here a layer with levels or pixels held nothing but spikes of its kind. We "
    "decide by the graph."
)


def _neurobench(net: IntegerNetwork, codes: Tensor, report: SimulationReport) -> tuple[str, list[Row]]:
    theirs = neurobench_counts(net, codes)
    samples, products = report.samples, _products(report)
    dense = sum(layer.dense_macs for layer in products) / samples
    binary = [layer for layer in products if _binary(layer)]
    graded = [layer for layer in products if layer.spiking and not _binary(layer)]
    analog = [layer for layer in products if not layer.spiking]
    accumulations = sum(layer.effective_synops for layer in binary) / samples
    charged = sum(layer.macs for layer in analog)
    multiplications = (sum(layer.effective_synops for layer in graded) + charged) / samples
    same = _equal(theirs.effective_acs, accumulations)
    switched = bool(graded or analog) and not same
    rows = []
    rows.append(
        _row(
            "Dense",
            theirs.dense,
            dense,
            "dense_macs",
            _equal(theirs.dense, dense),
            "The same definition: connections, taps in padding left out.",
        )
    )
    rows.append(
        _row(
            "Effective_ACs",
            theirs.effective_acs,
            accumulations,
            "effective_synops of binary layers",
            None if switched else same,
            "The same definition: spikes over nonzero weights." + SWITCHED * switched,
        )
    )
    why = "Levels: the same definition, nonzero levels over nonzero weights; we call them graded SynOps."
    if analog:
        why += (
            " Layers that are fed no spikes: NeuroBench skips zero inputs and weights; we charge all connections, "
            "since a dense unit computes them all."
        )
    rows.append(
        _row(
            "Effective_MACs",
            theirs.effective_macs,
            multiplications,
            "effective_synops of graded layers, macs",
            None if analog or switched else _equal(theirs.effective_macs, multiplications),
            why + SWITCHED * switched,
        )
    )
    weights = sum(layer.weights for layer in products)
    sparsity = 1 - sum(layer.nonzero_weights for layer in products) / weights if weights else 0.0
    rows.append(
        _row(
            "connection_sparsity",
            theirs.connection_sparsity,
            sparsity,
            "1 - nonzero weights",
            abs(theirs.connection_sparsity - sparsity) <= 0.5e-4 + 1e-6,
            "The same definition; NeuroBench computes in float32 and rounds to 4 digits.",
        )
    )
    neurons = sum(layer.neurons for layer in report.layers) * samples
    silent = 1 - report.total.spikes / neurons if neurons else 0.0
    rows.append(
        _row(
            "activation_sparsity",
            theirs.activation_sparsity,
            silent,
            "1 - spike rate",
            math.isclose(theirs.activation_sparsity, silent, rel_tol=1e-9, abs_tol=1e-12),
            "The same definition, over all threshold layers.",
        )
    )
    rows.append(
        _row(
            "footprint",
            theirs.footprint,
            sum(layer.weights * layer.weight_bits for layer in products) / 8,
            "bytes of weights at their bit widths",
            None,
            "NeuroBench counts float32 parameters and buffers (weights, thresholds, biases); ours are packed codes.",
        )
    )
    return theirs.version, rows


def _spikingjelly(net: IntegerNetwork, codes: Tensor, report: SimulationReport) -> tuple[str, list[Row]]:
    theirs = spikingjelly_counts(net, codes)
    samples, products = report.samples, _products(report)
    binary = [layer for layer in products if layer.spiking and layer.input_bits == 1]
    others = [layer for layer in products if layer not in binary]
    synops = sum(layer.synops for layer in binary) / samples
    padded = float(sum(layer.weights * math.prod(layer.output_shape[1:]) for layer in others))
    dense = sum(layer.dense_macs for layer in others) / samples
    same = _equal(theirs.synops, synops)
    switched = bool(others) and not same
    rows = []
    rows.append(
        _row(
            "SynOp",
            theirs.synops,
            synops,
            "synops of layers that are fed 0 and 1",
            None if switched else same,
            "The same definition for spikes of 0 and 1; a layer with levels counts 0 there." + SWITCHED * switched,
        )
    )
    rows.append(
        _row(
            "MAC",
            theirs.macs,
            dense,
            "dense_macs of layers with levels or pixels",
            None if switched or not _equal(padded, dense) else _equal(theirs.macs, dense),
            "SpikingJelly charges layers with levels or pixels densely, taps in padding included "
            f"({padded:,.0f} by that definition); ours leaves them out; levels are SynOps." + SWITCHED * switched,
        )
    )
    rows.append(
        _row(
            "AC",
            theirs.acs,
            (report.total.synops + report.total.adds) / samples,
            "synops + adds",
            None,
            "SpikingJelly adds its own bookkeeping, comparisons and elementwise sums, and leaves levels out.",
        )
    )
    rows.append(
        _row(
            "simple_energy int8 (pJ)",
            theirs.simple_int8_pj,
            energy(report, "cmos45-int8").total_pj,
            "cmos45-int8, total",
            None,
            "The same prices of arithmetic; SpikingJelly adds 24.96 pJ per byte of float32 weights that are read.",
        )
    )
    return theirs.version, rows


TOOLS: Mapping[str, Callable[[IntegerNetwork, Tensor, SimulationReport], tuple[str, list[Row]]]] = MappingProxyType(
    {"NeuroBench": _neurobench, "SpikingJelly": _spikingjelly}
)


def compare(net: IntegerNetwork, codes: Tensor) -> dict[str, Any]:
    """Return what other tools count on the same samples, as plain values for `report["compare"]`.

    A tool that is not installed has no rows but a `problem`. `agrees` is None where the definitions differ.

    Args:
        net: the network. codes: (B, *input shape), at least one sample.
    """
    if len(codes) == 0:
        raise MaqdError("a comparison needs at least one sample")
    report = simulate(net, [codes])
    tools: list[dict[str, Any]] = []
    for name, count in TOOLS.items():
        try:
            version, rows = count(net, codes, report)
        except MissingExtraError as error:
            tools.append({"name": name, "version": "", "problem": str(error), "rows": []})
        else:
            tools.append({"name": name, "version": version, "problem": "", "rows": rows})
    return {"samples": len(codes), "tools": tools}
