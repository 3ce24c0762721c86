"""The table of benchmarks that `maqd bench NAME` runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Bench:
    """One benchmark: a line for lists, and the module of this package whose `main(arguments)` runs it."""

    text: str
    module: str


BENCHES: Mapping[str, Bench] = MappingProxyType(
    {
        "fold": Bench("model.eval() against the integer network, value by value, on CIFAR-10", "fold_cifar10"),
        "exports": Bench("every export format in every runtime that reads it, on 1,000 images", "exports"),
        "schedules": Bench(
            "n-step unit spikes in snnTorch and SpikingJelly: errors of both schedules by layer", "schedules"
        ),
        "large-export": Bench("how long a CIFAR-10 VGG of 5 M weights takes, by export format", "large_export"),
        "map": Bench("the mapper: verdicts, traffic against other placements, exactness of placed networks", "mapping"),
        "train": Bench("one training step beside its float twin and its peers", "train"),
        "witness": Bench("the event-driven executor against simulate: every counter both have", "witness"),
        "simulate": Bench("the executor and the simulator beside the float twin, NeuroBench, SpikingJelly", "simulate"),
        "stream-memory": Bench("the peak memory of simulate over 10,000 and 1,000,000 samples", "stream_memory"),
        "events": Bench("event readers, frames and store, beside their peers", "events"),
        "nmnist-folds": Bench("the recipe nmnist in five folds over all recordings that are there", "nmnist_folds"),
        "digits-folds": Bench("settings of the recipe digits on scans that are not for testing", "digits_folds"),
        "accuracy": Bench("few states beside the float twin: whole trainings, or short ones of variants", "accuracy"),
        "bf16": Bench("training in bf16-mixed beside fp32: the accuracy of both over seeds", "bf16"),
        "kills": Bench("a training killed at random moments and resumed: are the final weights equal?", "kills"),
        "local-stats": Bench("statistics of each process's own samples: what they cost in accuracy", "local_stats"),
    }
)
