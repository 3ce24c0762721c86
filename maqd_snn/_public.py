"""The public names of `maqd_snn`."""

from maqd_snn import datasets, neuromorphic
from maqd_snn.errors import MaqdError, MissingExtraError
from maqd_snn.folding import fold
from maqd_snn.graph import InputSpec, Node, SpikingNetwork
from maqd_snn.integer import IntegerNetwork
from maqd_snn.models import build
from maqd_snn.neuromorphic import export, load, verify
from maqd_snn.neuromorphic.hardware import fit
from maqd_snn.pricing import energy
from maqd_snn.simulation import simulate

__all__ = [
    "InputSpec",
    "IntegerNetwork",
    "MaqdError",
    "MissingExtraError",
    "Node",
    "SpikingNetwork",
    "build",
    "datasets",
    "energy",
    "export",
    "fit",
    "fold",
    "load",
    "neuromorphic",
    "simulate",
    "verify",
]
