"""Exports of the integer network to neuromorphic and low-bit formats, verified in foreign runtimes."""

from maqd_snn.neuromorphic.check import Check, LayerCheck, Verification
from maqd_snn.neuromorphic.registry import FORMATS, export, verify

__all__ = ["FORMATS", "Check", "LayerCheck", "Verification", "export", "verify"]
