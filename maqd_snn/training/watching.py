"""What a training shows and writes down while it runs: the progress bar, CSV tables, TensorBoard's files."""

import csv
import io
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from maqd_snn.errors import MissingExtraError

METRICS, LAYERS, TENSORBOARD = "metrics.csv", "layers.csv", "tensorboard"
REFRESH_SECONDS = 0.5


@dataclass(frozen=True)
class Epoch:
    """What one epoch measured. Losses are mean cross-entropies (label-smoothed in training), accuracies shares."""

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    spike_rate: float
    seconds: float


@dataclass(frozen=True)
class LayerEpoch:
    """What one epoch measured of one layer; None where it has no such thing.

    `spike_rate` is the share of neurons that fire on the validation images; `rounded_share` that of the sums that
    bfloat16 changes, in the last training batch that was looked at.
    """

    epoch: int
    layer: str
    spike_rate: float | None
    rounded_share: float | None


def csv_table(kind: type[Epoch] | type[LayerEpoch], rows: Iterable[Epoch | LayerEpoch]) -> str:
    """Return records as CSV text with a header; None is an empty cell.

    >>> csv_table(LayerEpoch, [LayerEpoch(1, "spike1", 0.25, None)])
    'epoch,layer,spike_rate,rounded_share\\n1,spike1,0.25,\\n'
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def rates_line(rates: Mapping[str, float], width: int) -> str:
    """Return spike rates in percent, of as many layers as `width` characters hold, and how many more there are.

    >>> rates_line({"spike1": 0.25, "spike2": 0.125, "spike3": 0.5}, width=40)
    'spike rate %: spike1 25  +2 more'
    """
    each = [f"{name} {100 * rate:.0f}" for name, rate in rates.items()]
    for shown in range(len(each), -1, -1):
        more = [f"+{len(each) - shown} more"] if shown < len(each) else []
        line = "spike rate %: " + "  ".join(each[:shown] + more)
        if len(line) <= width:
            break
    return line


class Progress:
    """A bar for people at a terminal, with the time left of the whole training; elsewhere one line an epoch.

    Args:
        total: steps of the training. done: those that a resumed one has behind it. quiet: show nothing.
    """

    def __init__(self, total: int, done: int, quiet: bool) -> None:
        self.quiet = quiet
        disable = True if quiet else None  # None: where stderr is no terminal
        self._bar = tqdm(total=total, initial=done, leave=False, disable=disable, dynamic_ncols=True)
        self._rates = tqdm(total=0, position=1, leave=False, disable=disable, bar_format="{desc}", dynamic_ncols=True)
        self._next = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._rates.close()
        self._bar.close()

    @property
    def due(self) -> bool:
        """Whether figures would be shown now; they cost a look at the device."""
        return not self._bar.disable and time.perf_counter() >= self._next

    def step(self, text: str) -> None:
        """Go on by one step of the epoch that `text` names."""
        if not self._bar.disable:
            self._bar.set_description(text, refresh=False)
        self._bar.update()

    def figures(self, loss: float, accuracy: float, rates: Mapping[str, float]) -> None:
        """Show figures of the epoch so far, and the spike rates of the layers that the terminal has room for."""
        self._next = time.perf_counter() + REFRESH_SECONDS
        self._bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracy:.3f}", refresh=False)
        self._rates.set_description_str(rates_line(rates, self._rates.format_dict["ncols"] or sys.maxsize))

    def say(self, line: str) -> None:
        """Print a line above the bar, on stderr."""
        if not self.quiet:
            tqdm.write(line, file=sys.stderr)


class Board:
    """TensorBoard's files of a run; `step` counts the steps of the training.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, done: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("tensorboard", "tensorboard", "--tensorboard") from error
        self._writer: Any = SummaryWriter(str(folder / TENSORBOARD), purge_step=done + 1 if done else None)

    def step(self, step: int, lr: float, loss: float, rates: Mapping[str, float]) -> None:
        """Note the mean loss of the steps since the epoch's last point, the learning rate, spike rates as last seen."""
        self._writer.add_scalar("train/loss", loss, step)
        self._writer.add_scalar("train/lr", lr, step)
        for name, rate in rates.items():
            self._writer.add_scalar(f"spike rate in training/{name}", rate, step)

    def epoch(self, step: int, entry: Epoch, layers: Iterable[LayerEpoch]) -> None:
        """Note the figures of one epoch."""
        for name, value in asdict(entry).items():
            if name not in ("epoch", "lr"):
                self._writer.add_scalar(f"epoch/{name}", value, step)
        for layer in layers:
            if layer.spike_rate is not None:
                self._writer.add_scalar(f"spike rate/{layer.layer}", layer.spike_rate, step)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
