"""A finished trial's files against what was noted of it: the same network, the same figures, to the bit."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maqd_snn.datasets import Splits
from maqd_snn.errors import MissingExtraError
from maqd_snn.folding import fold
from maqd_snn.integer.reorder import spikes_before_pools
from maqd_snn.integer.storage import fingerprint
from maqd_snn.neuromorphic import export, verify
from maqd_snn.runs import check_folding, count_right, read_model, read_network, read_recipe
from maqd_snn.sweeps.space import Spec
from maqd_snn.sweeps.trial import measure

VERIFIED_IMAGES = 100
FORMAT = "onnx"


@dataclass(frozen=True)
class Checked:
    """Whether all is as it was noted, and in words what was compared."""

    ok: bool
    text: str


def accuracy_on_test(run: Path, splits: Splits) -> float:
    """Return the share of the test images that the run's network classifies right."""
    return count_right(run, read_recipe(run), splits, splits.test) / len(splits.test)


def check_network(run: Path, noted: Mapping[str, Any], spec: Spec, splits: Splits) -> Checked:
    """Fold the run's model anew, compare it with the run's network file, verify an export, count and price again."""
    net = read_network(run)
    model = read_model(run, splits)
    again = spikes_before_pools(fold(model))
    folds = fingerprint(again) == fingerprint(net) == noted["network"]
    check = check_folding(model, net, splits)
    found = measure(net, splits.validation, spec.profile, spec.chip)
    differ = [name for name, value in found.items() if noted.get(name) != value]
    verified, words = _verified(net, splits)
    words = (
        f"folded anew: {'the same network' if folds else 'ANOTHER NETWORK'}; {check.mismatches} of {check.values:,} "
        f"values differ from the model; {words}; figures: {'DIFFER: ' + ', '.join(differ) if differ else 'identical'}"
    )
    return Checked(folds and check.mismatches == 0 and verified and not differ, words)


def _verified(net: Any, splits: Splits) -> tuple[bool, str]:
    codes = splits.validation.codes[:VERIFIED_IMAGES]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "network.onnx"
        try:
            export(net, target, FORMAT)
            check = verify(target, net, codes)
        except MissingExtraError as error:
            return True, f"not verified ({error})"
    return check.ok, f"{FORMAT} export {'verified' if check.ok else 'DIFFERS'} on {len(codes)} images"
