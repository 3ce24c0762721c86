"""Exports of the integer network to neuromorphic and low-bit formats, verified in foreign runtimes."""

from maqd_snn.neuromorphic.check import Check, LayerCheck, Verification
from maqd_snn.neuromorphic.from_spikingjelly import from_spikingjelly
from maqd_snn.neuromorphic.loading import load
from maqd_snn.neuromorphic.registry import FORMATS, export, verify
from maqd_snn.neuromorphic.to_snntorch import to_snntorch
from maqd_snn.neuromorphic.to_spikingjelly import to_spikingjelly
from maqd_snn.neuromorphic.unit_spikes import schedule_errors

__all__ = [
    "FORMATS",
    "Check",
    "LayerCheck",
    "Verification",
    "export",
    "from_spikingjelly",
    "load",
    "schedule_errors",
    "to_snntorch",
    "to_spikingjelly",
    "verify",
]
