"""The integer network, its ops, its two executors and its file format."""

from maqd_snn.integer.network import IntegerNetwork
from maqd_snn.integer.storage import load

__all__ = ["IntegerNetwork", "load"]
