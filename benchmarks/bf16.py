"""Accuracy of training in bf16-mixed and in fp32, over seeds.

    maqd bench bf16 [--recipe cifar10-small] [--seeds 3] [--folder DIR] [--out FILE] [--quick] [-- OPTIONS]

OPTIONS are further ones of `maqd train`. Validation accuracy of the best epoch: the test set is not touched. On a CPU
without bfloat16 instructions the numbers are rounded as bfloat16 would round them. With --folder the runs are kept, and
those that were stopped go on.
"""

from collections.abc import Sequence

from maqd_snn.benchmarks.local_stats import compare, options_of
from maqd_snn.training.precision import cpu_has_bfloat16


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_of(__doc__, "cifar10-small").parse_args(arguments)
    how = "this CPU's instructions" if cpu_has_bfloat16() else "rounded without such instructions"
    kinds = {
        "`--precision fp32`": ["--precision", "fp32"],
        f"`--precision bf16-mixed`, {how}": ["--precision", "bf16-mixed"],
    }
    compare("bfloat16 and float32", "bf16", kinds, options)
    return 0
