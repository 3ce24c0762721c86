"""Will it fit: chip descriptions, a mapper, its traffic, and a description that runs core by core."""

from maqd_snn.neuromorphic.hardware.chip import CHIPS, Chip, get_chip
from maqd_snn.neuromorphic.hardware.costs import Traffic, activity, every_unit_once, flows, traffic
from maqd_snn.neuromorphic.hardware.description import read_description, write_description
from maqd_snn.neuromorphic.hardware.executor import run_cores
from maqd_snn.neuromorphic.hardware.fitting import Plan, fit
from maqd_snn.neuromorphic.hardware.placing import Placement, place

__all__ = [
    "CHIPS",
    "Chip",
    "Placement",
    "Plan",
    "Traffic",
    "activity",
    "every_unit_once",
    "fit",
    "flows",
    "get_chip",
    "place",
    "read_description",
    "run_cores",
    "traffic",
    "write_description",
]
