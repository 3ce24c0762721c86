"""The training loop.

Axis letters: B batch, C channels, H height, W width.
"""

import hashlib
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, NoReturn, final

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.nn.utils import get_total_norm

from maqd_snn.datasets import ImageDataset, Splits
from maqd_snn.errors import MaqdError
from maqd_snn.files import claimed, remove_temporaries, write_text
from maqd_snn.graph import SpikingNetwork, Watch
from maqd_snn.normalization import FoldableNorm
from maqd_snn.surrogate import Annealed
from maqd_snn.training.augment import AUGMENTATIONS
from maqd_snn.training.averaging import Average
from maqd_snn.training.building import build_model
from maqd_snn.training.checkpoint import (
    load_model,
    load_optimizer,
    not_finite,
    optimizer_tensors,
    previous,
    read_checkpoint,
    under_prefix,
    with_prefix,
    write_checkpoint,
)
from maqd_snn.training.config import Recipe, of_today
from maqd_snn.training.diagnose import first_gradient_not_finite, first_not_finite, first_too_large
from maqd_snn.training.execution import Execution
from maqd_snn.training.optimize import SCHEDULES, make_optimizer
from maqd_snn.training.precision import PlainForward, TrainingForward, cpp_compiler, prepare
from maqd_snn.training.schedules import stage_at, width_at
from maqd_snn.training.stop import StopFlag, Stopped, stop_flag
from maqd_snn.training.teacher import load_teacher
from maqd_snn.training.team import Team, join
from maqd_snn.training.watching import LAYERS, METRICS, Board, Epoch, LayerEpoch, Progress, csv_table

CHECKPOINT = "checkpoint.safetensors"
EVAL_BATCH = 250
RATE_EVERY = 16  # steps between two looks at the spike rates
RATE_EVERY_COMPILED = 64  # a look runs uncompiled

AfterEpoch = Callable[[Sequence[Epoch]], None]


@dataclass(frozen=True)
class Fit:
    """The outcome of a training: the model of the best epoch, in eval mode on the CPU, and what every epoch measured.

    `writer` says whether this process, of those that trained together, is the one that writes. `teacher` is the
    fingerprint of the network that it learned from, or None.
    """

    model: SpikingNetwork
    history: tuple[Epoch, ...]
    layers: tuple[LayerEpoch, ...]
    best: Epoch
    writer: bool
    teacher: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy, accuracy, and the share of neurons that fire: of all, and of each layer."""

    loss: float
    accuracy: float
    spike_rate: float
    spike_rates: Mapping[str, float]


def batches(dataset: ImageDataset, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (codes, labels) in order, `size` samples at a time."""
    for start in range(0, len(dataset), size):
        yield dataset.codes[start : start + size], dataset.labels[start : start + size]


@torch.no_grad()
def evaluate(
    model: SpikingNetwork,
    dataset: ImageDataset,
    team: Team | None = None,
    stopped: Callable[[], bool] = lambda: False,
    label_smoothing: float = 0.0,
) -> Evaluation | None:
    """Return what `model.eval()` does on the dataset, shared among the processes of the team.

    Returns None where `stopped` says, between two batches, that nobody waits for it any more.
    """
    was_training = model.training
    model.eval()
    rank, size = (0, 1) if team is None else (team.rank, team.size)
    device = next(model.parameters()).device
    spiking = model.spiking_names()
    counts = {name: torch.zeros(2, dtype=torch.float64, device=device) for name in spiking}  # spikes, neurons
    sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss, right answers

    def watch(name: str, output: Tensor) -> None:
        if name in counts:
            counts[name][0] += torch.count_nonzero(output)
            counts[name][1] += output.numel()

    try:
        for index, (codes, labels) in enumerate(batches(dataset, EVAL_BATCH)):
            if stopped():
                return None
            if index % size != rank:
                continue
            codes, labels = codes.to(device), labels.to(device)
            scores = model(codes, watch)
            sums[0] += F.cross_entropy(
                model.readout.logits(scores).float(), labels, reduction="sum", label_smoothing=label_smoothing
            )
            sums[1] += (scores.argmax(1) == labels).sum()
    finally:
        model.train(was_training)
    totals = torch.stack([sums, *counts.values()])
    loss, right, *rest = (totals if team is None else team.total(totals)).view(-1).tolist()
    spikes, neurons = rest[0::2], rest[1::2]
    return Evaluation(
        loss / len(dataset),
        right / len(dataset),
        sum(spikes) / max(sum(neurons), 1),
        {name: fired / max(of, 1) for name, fired, of in zip(spiking, spikes, neurons, strict=True)},
    )


def fit(
    recipe: Recipe,
    splits: Splits,
    out: Path,
    resume: bool = False,
    quiet: bool = False,
    execution: Execution | None = None,
    team: Team | None = None,
    after_epoch: AfterEpoch | None = None,
) -> Fit:
    """Train the recipe's network and return the model of the epoch with the lowest validation loss.

    Every epoch ends with a checkpoint and the metrics as CSV in `out`, both written atomically; within an epoch further
    checkpoints are written, see `Execution`. They hold everything that a training goes on from, so that a resumed one
    continues as if it had never stopped, bit for bit on the same machine. The test set is never looked at.

    Args:
        recipe: the configuration. splits: its data. out: an existing folder.
        resume: continue from the checkpoint in `out`, if there is one.
        quiet: no progress. execution: where and how to run. team: the processes that train together; None joins them.
        after_epoch: called with the epochs so far after each of them, all saved; what it raises ends the training.

    Raises:
        MaqdError: a checkpoint of another recipe, an unwritable folder or one in which another process trains, a loss
            or gradient that is not finite (the layer that first produced it is named), weights to be saved that are
            not, processes that cannot share the batch, one of several that has gone.
        Stopped: SIGINT or SIGTERM came; everything up to the last step is saved.
    """
    execution = execution or Execution()
    team = team or join(execution)
    with claimed(out) if team.writer else nullcontext():
        if team.writer:
            remove_temporaries(out)
        training = Training(recipe, splits, out, execution, team)
        training.after_epoch = after_epoch
        if resume and ((out / CHECKPOINT).exists() or previous(out / CHECKPOINT).exists()):
            training.restore()
        with team.noticing_losses():
            training.check_start()
            with _determinism(recipe, team.device), stop_flag(patient=team.size > 1) as flag:
                training.run(flag, quiet or execution.quiet or not team.writer)
        return training.result()


@contextmanager
def _determinism(recipe: Recipe, device: torch.device) -> Iterator[None]:
    fixed = recipe.deterministic
    with (
        torch.backends.cudnn.flags(enabled=True, benchmark=not fixed, deterministic=fixed)
        if device.type == "cuda"
        else nullcontext()
    ):
        yield


@final
class Training:
    """A training under way: everything that its checkpoint holds, and the steps that move it on.

    `epoch` is the one under way, from 1; `step` how many of its steps are done; `taken` how many of all.
    """

    def __init__(self, recipe: Recipe, splits: Splits, out: Path, execution: Execution, team: Team) -> None:
        self.recipe, self.out, self.execution, self.team = recipe, out, execution, team
        self.teacher = load_teacher(recipe, splits)
        if self.teacher is not None:
            self.teacher.model.to(team.device)
        self.model = build_model(recipe, splits).to(team.device)
        self.average = Average(self.model, recipe.ema) if recipe.ema else None
        self.norms = [module for module in self.model.modules() if isinstance(module, FoldableNorm)]
        self.annealed = next((module for module in self.model.modules() if isinstance(module, Annealed)), None)
        if recipe.sync_stats:
            for norm in self.norms:
                norm.sum_over_processes = team.sum_over_processes
        self.codes, self.labels = splits.train.codes.to(team.device), splits.train.labels.to(team.device)
        self.data = identity(splits.train)
        self.validation = splits.validation
        self.batch, self.share = shares(recipe, len(splits.train), team.size)
        # An incomplete last batch is left to the next epoch's shuffle: its statistics would be those of few samples.
        self.steps = max(1, len(splits.train) // recipe.batch_size)
        self.total = min(self.steps * recipe.epochs, recipe.max_steps or sys.maxsize)
        self.epochs = math.ceil(self.total / self.steps)

        self.optimizer = make_optimizer(self.model, recipe.optimizer, recipe.lr, recipe.weight_decay, recipe.momentum)
        # A recipe is the same everywhere; where nothing compiles it takes longer, and the training says so.
        self.uncompiled = recipe.compile and team.device.type == "cpu" and cpp_compiler() is None
        compiled = recipe.compile and not self.uncompiled
        penalty = recipe.synops_penalty / recipe.accumulate  # its parts add up to a mean over the batch
        self.forward = prepare(self.model.train(), recipe.precision, compiled, penalty, recipe.synops_target)
        self.replica, self.stepper = team.replicate(self.forward, self.optimizer)

        self.after_epoch: AfterEpoch | None = None
        self.history: list[Epoch] = []
        self.layers: list[LayerEpoch] = []
        self.best_tensors: dict[str, Tensor] = {}
        self.epoch = self.step = 0
        self.damaged = False  # the checkpoint in the folder: the one before it is not given up for it
        self.seconds = 0.0
        self.saved_at = time.perf_counter()
        self.lr = recipe.lr
        self.rates: dict[str, float] = {}
        self.generator = Generator()
        self.sums = torch.zeros(3, dtype=torch.float64, device=team.device)  # loss, right answers, samples
        self._begin_epoch(1)

    @property
    def taken(self) -> int:
        """Steps done in all epochs."""
        return (self.epoch - 1) * self.steps + self.step

    @property
    def judged(self) -> SpikingNetwork:
        """The network that is validated and kept: the one under training, or that of the averaged parameters."""
        return self.model if self.average is None else self.average.network

    def run(self, flag: StopFlag, quiet: bool) -> None:
        """Train to the end; raises Stopped, with everything saved, where the flag goes up."""
        if self.history:
            self._let_write(self._write_tables)  # what was killed between a checkpoint and its tables
        board = Board(self.out, self.taken) if self.execution.tensorboard and self.team.writer else None
        try:
            with Progress(self.total, self.taken, quiet) as progress:
                if isinstance(self.forward, PlainForward):
                    progress.say("group normalization: the steps run uncompiled and in float32, through the parts")
                elif self.uncompiled:
                    progress.say("no C++ compiler was found: the steps run uncompiled, which takes about twice as long")
                elif self.recipe.compile and not self.forward.runs_compiled:
                    progress.say("statistics of several processes: the steps run uncompiled")
                for name in self.model.wide_parts():
                    progress.say(f"{name}: sums may pass 2^24; training may round them, evaluation runs in float64")
                while self.epoch <= self.epochs:
                    self._run_epoch(flag, progress, board)
        finally:
            if board is not None:
                board.close()

    def result(self) -> Fit:
        """Return the outcome; the training must have run to its end."""
        load_model(self.model, self.best_tensors, str(self.out / CHECKPOINT))
        for norm in self.norms:
            norm.sum_over_processes = None
        return Fit(
            self.model.cpu().eval(),
            tuple(self.history),
            tuple(self.layers),
            best(self.history),
            self.team.writer,
            self._taught_by,
        )

    @property
    def _taught_by(self) -> str | None:
        return None if self.teacher is None else self.teacher.fingerprint

    def _begin_epoch(self, epoch: int) -> None:
        self.epoch, self.step, self.seconds = epoch, 0, 0.0
        self.started = time.perf_counter()
        self.generator.manual_seed(self.recipe.seed * 1_000_003 + epoch)
        self.order = torch.randperm(len(self.codes), generator=self.generator)
        self.sums.zero_()

    def _run_epoch(self, flag: StopFlag, progress: Progress, board: Board | None) -> None:
        noted = self.sums.tolist()  # at the last point on the board
        while self.taken < min(self.epoch * self.steps, self.total):
            looking = self.step % (RATE_EVERY_COMPILED if self.recipe.compile else RATE_EVERY) == 0
            stop = self._train_step(flag, looking)
            progress.step(f"epoch {self.epoch}/{self.epochs}")
            if progress.due or (looking and board is not None):
                loss, right, seen = sums = self.sums.tolist()
                progress.figures(loss / seen, right / seen, self.rates)
                if board is not None:
                    board.step(self.taken, self.lr, (loss - noted[0]) / (seen - noted[2]), self.rates)
                    noted = sums
            if stop:
                self._leave(stop)
        self._share_statistics()
        if self.average is not None:
            self.average.take_statistics(self.codes, self.labels, self.order)
        # Alone, a stop need not wait for the evaluation; of several, some might leave while others wait for them.
        stopped = (lambda: flag.number != 0) if self.team.size == 1 else (lambda: False)
        measured = evaluate(self.judged, self.validation, self.team, stopped, self.recipe.label_smoothing)
        if measured is None:
            self._leave(flag.number)
        self._end_epoch(measured, progress, board)
        (number,) = self.team.largest(flag.number)
        if number:
            self._leave(number, saved=True)

    def _end_epoch(self, measured: Evaluation, progress: Progress, board: Board | None) -> None:
        if not math.isfinite(measured.loss):
            judged = self.judged.eval()
            where = first_not_finite(judged, judged, [self.validation.codes[:EVAL_BATCH].to(self.team.device)])
            raise MaqdError(
                f"the validation loss became {measured.loss} in epoch {self.epoch}: "
                f"{where or 'no layer of the first batch shows it'}; lower --lr and start again"
            )
        loss, right, seen = self.team.total(self.sums).tolist()
        seconds = self.seconds + time.perf_counter() - self.started
        entry = Epoch(
            epoch=self.epoch,
            lr=self.lr,
            train_loss=loss / seen,
            train_accuracy=right / seen,
            validation_loss=measured.loss,
            validation_accuracy=measured.accuracy,
            spike_rate=measured.spike_rate,
            seconds=seconds,
        )
        rounded = self.forward.rounded_shares
        layers = [
            LayerEpoch(self.epoch, name, measured.spike_rates.get(name), rounded.get(name))
            for name in self.model.names
            if name in measured.spike_rates or name in rounded
        ]
        self.history.append(entry)
        self.layers += layers
        if best(self.history) is entry:
            self.best_tensors = {name: tensor.detach().clone() for name, tensor in self.judged.state_dict().items()}
        taken = self.taken
        self._begin_epoch(self.epoch + 1)
        self._save()
        self._let_write(self._write_tables)
        if board is not None:
            board.epoch(taken, entry, layers)
        progress.say(
            f"epoch {entry.epoch:3d}/{self.epochs}  loss {entry.train_loss:.3f}  accuracy {entry.train_accuracy:.3f}  "
            f"validation {entry.validation_accuracy:.3f}  spike rate {entry.spike_rate:.3f}  {seconds:.1f} s"
        )
        if self.after_epoch is not None:
            self.after_epoch(self.history)

    def _train_step(self, flag: StopFlag, looking: bool) -> int:
        """Take one step, save where that is due, and return the number of a signal that asked to stop, or 0."""
        recipe, team = self.recipe, self.team
        augment, schedule = AUGMENTATIONS[recipe.augment], SCHEDULES[recipe.schedule]
        progress = self.taken / self.total
        self.lr = recipe.lr * schedule(progress, recipe.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        if isinstance(self.forward, TrainingForward):
            self.forward.stage = stage_at(recipe, progress)
        if self.annealed is not None:
            self.annealed.width.fill_(width_at(recipe, progress))
        # Drawn for the whole batch, whoever takes which part of it.
        chosen = self.order[self.step * recipe.batch_size :][: self.batch]
        drawn = augment.draw(len(chosen), self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss_sum = torch.zeros((), device=team.device)
        parts = []
        for part in range(recipe.accumulate):
            first = (part * team.size + team.rank) * self.share
            mine = chosen[first : first + self.share].to(team.device)
            numbers = drawn[:, first : first + self.share].to(team.device)
            codes, labels = (
                augment.apply(self.codes[mine], self.model.input_spec.zero_point, numbers),
                self.labels[mine],
            )
            parts.append(codes)
            watch = self._watch_rates() if looking and part == 0 else None
            last = part == recipe.accumulate - 1
            with nullcontext() if last else team.gradients_stay(self.replica):
                logits = self.replica(codes, watch)
                loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
                aim = loss if self.teacher is None else self.teacher.mixed(loss, logits, codes)
                team.backward(aim / recipe.accumulate)
            with torch.no_grad():
                loss_sum += aim
                self.sums[0] += loss.double() * len(labels)
                self.sums[1] += (logits.argmax(1) == labels).sum()
                self.sums[2] += len(labels)

        norm = get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        broken = not bool((loss_sum.isfinite() & norm.isfinite()).item())
        stop, due, broken_somewhere = team.largest(flag.number, self._save_is_due(), broken)
        if broken_somewhere:
            raise MaqdError(self._what_broke(loss_sum.item() / recipe.accumulate, parts))
        self.stepper.step()
        self.step += 1
        if self.average is not None:
            self.average.update(self.model, self.taken)
        if due:
            self._save()
        return stop

    def _watch_rates(self) -> Watch:
        spiking = set(self.model.spiking_names())

        def watch(name: str, output: Tensor) -> None:
            if name in spiking:
                self.rates[name] = torch.count_nonzero(output).item() / output.numel()

        return watch

    def _what_broke(self, loss: float, parts: list[Tensor]) -> str:
        if math.isfinite(loss):
            where = first_gradient_not_finite(self.model) or "no layer alone, but all of them together"
            mine = f"a gradient became infinite or nan: {where}"
        else:
            layer = first_not_finite(self.model, self.forward, parts) or first_too_large(self.model)
            mine = f"the loss became {loss}: {layer or 'the loss itself'}"
        # Averaging spreads what is not finite to all gradients; the process whose loss it was knows more.
        told = sorted(self.team.gather_texts(mine), key=lambda text: not text.startswith("the loss"))
        what, _, where = told[0].partition(": ")
        return f"{what} in epoch {self.epoch}, step {self.step + 1}: {where}; lower --lr and start again"

    def _save_is_due(self) -> bool:
        every, seconds = self.execution.checkpoint_steps, self.execution.checkpoint_seconds
        by_steps = every is not None and (self.taken + 1) % every == 0
        by_time = 0 < seconds <= time.perf_counter() - self.saved_at
        return self.team.writer and (by_steps or by_time)

    def _leave(self, number: int, saved: bool = False) -> NoReturn:
        if not saved:
            self._save()
        name = signal.Signals(number).name
        raise Stopped(f"stopped by {name} in epoch {self.epoch} after step {self.step}; everything is saved", number)

    def _own_statistics(self) -> Tensor:
        """What each process has for itself, as one vector: running estimates, and the sums of the epoch so far."""
        return torch.cat([self.sums, *(b.double().view(-1) for norm in self.norms for b in norm.buffers())])

    def _take_statistics(self, own: Tensor) -> None:
        position = len(self.sums)
        for norm in self.norms:
            for buffer in norm.buffers():
                values = own[position : position + buffer.numel()].view(buffer.shape)
                buffer.copy_(values if buffer.is_floating_point() else values.round())
                position += buffer.numel()

    def _share_statistics(self) -> None:
        """Average the running estimates over the processes."""
        if self.team.size > 1:
            self._take_statistics(self.team.gather(self._own_statistics()).mean(0))

    def _save(self) -> None:
        ranks = self.team.gather(self._own_statistics())
        self._let_write(lambda: self._write_checkpoint(ranks))
        self.saved_at = time.perf_counter()

    def _let_write(self, write: Callable[[], None]) -> None:
        """Have the writer write; where it cannot, all processes end."""
        failed = None
        if self.team.writer:
            try:
                write()
            except MaqdError as error:
                failed = error
        (ends,) = self.team.largest(failed is not None)
        if ends:
            raise failed or MaqdError(f"the process that writes in {str(self.out)!r} could not; it says why")

    def _write_checkpoint(self, ranks: Tensor) -> None:
        own = ranks[0].clone()
        self._take_statistics(ranks.mean(0))  # in the file, the model has the average
        tensors = {
            **with_prefix("model", {name: t.clone() for name, t in self.model.state_dict().items()}),
            **({} if self.average is None else with_prefix("average", self.average.network.state_dict())),
            **with_prefix("best", self.best_tensors),
            **with_prefix("optimizer", optimizer_tensors(self.optimizer)),
            "random.data": self.generator.get_state(),
            "random.torch": torch.get_rng_state(),
            "ranks": ranks,
        }
        self._take_statistics(own)
        broken = not_finite(tensors)
        if broken is not None:  # no loss has seen the step just taken; validations show no infinite bias
            at = f"epoch {self.epoch}, step {self.step}" if self.step else f"epoch {self.epoch - 1}"
            raise MaqdError(f"a weight became infinite or nan in {at}: {broken!r} is; lower --lr and start again")
        state = {
            "recipe": asdict(self.recipe),
            "teacher": self._taught_by,
            "data": self.data,
            "history": [asdict(entry) for entry in self.history],
            "layers": [asdict(layer) for layer in self.layers],
            "epoch": self.epoch,
            "step": self.step,
            "rounded": self.forward.rounded_shares,
            "seconds": self.seconds + time.perf_counter() - self.started,
        }
        write_checkpoint(self.out / CHECKPOINT, tensors, state, keep=not self.damaged)
        self.damaged = False

    def _write_tables(self) -> None:
        write_text(self.out / METRICS, csv_table(Epoch, self.history))
        write_text(self.out / LAYERS, csv_table(LayerEpoch, self.layers))

    def check_start(self) -> None:
        """Raise MaqdError, in all processes, where they would not begin at the same place."""
        figures = [(entry.train_loss, entry.validation_loss) for entry in self.history]
        if len(set(self.team.gather_texts(repr((self.epoch, self.step, figures))))) > 1:
            raise MaqdError(
                f"the processes would go on from different checkpoints in {str(self.out)!r}; with --resume, --out must "
                "lead to the same folder from every machine"
            )

    def restore(self) -> None:
        """Go to where the checkpoint in the folder is.

        Raises:
            MaqdError: it is unusable and so is the one before it; it belongs to another recipe, teacher or data.
        """
        tensors, state, path = read_checkpoint(self.out / CHECKPOINT)
        where = str(path)
        self.damaged = path == previous(self.out / CHECKPOINT)
        if self.damaged and self.team.writer:
            what = "damaged" if (self.out / CHECKPOINT).exists() else "missing"
            print(f"{str(self.out / CHECKPOINT)!r} is {what}; continuing from {where!r}", file=sys.stderr)
        differing = "; ".join(differences(state.get("recipe"), self.recipe))
        if differing:
            raise MaqdError(f"{where!r} belongs to another recipe ({differing}); give its options, or another --out")
        if state.get("teacher") != self._taught_by:
            raise MaqdError(
                f"{where!r} was taught by another network than the one that {self.recipe.teacher!r} holds now; give "
                "another --out, or put the teacher back"
            )
        data = state.get("data", self.data)  # an older file lacks it
        if data != self.data:
            raise MaqdError(
                f"{where!r} was trained on other images: expected {_words(data)}, got {_words(self.data)}; put the "
                "data back, or give another --out"
            )
        self.history = _records(Epoch, state.get("history"), where)
        self.layers = _records(LayerEpoch, state.get("layers"), where)
        self.best_tensors = {n: t.to(self.team.device) for n, t in under_prefix("best", tensors).items()}
        if self.history:
            load_model(self.model, self.best_tensors, where)  # now that it can be refused; what is trained comes next
        load_model(self.model, under_prefix("model", tensors), where)
        if self.average is not None:
            load_model(self.average.network, under_prefix("average", tensors), where)
        epoch, step, seconds = (state.get(name) for name in ("epoch", "step", "seconds"))
        ranks, random, rounded = tensors.get("ranks"), under_prefix("random", tensors), state.get("rounded", {})
        expected = self._own_statistics()
        if (
            epoch != len(self.history) + 1
            or epoch > self.epochs + 1
            or type(step) is not int
            or not 0 <= step <= self.steps
            or not (isinstance(seconds, float) and math.isfinite(seconds))
            or ranks is None
            or ranks.shape[1:] != expected.shape
            or len(ranks) == 0
            or not bool(ranks.isfinite().all())
            or set(random) != {"data", "torch"}
            or not isinstance(rounded, dict)
            or not all(isinstance(share, float) and math.isfinite(share) for share in rounded.values())
        ):
            raise MaqdError(f"{where!r} holds no position of this version; train again")
        self._begin_epoch(epoch)
        self.step, self.seconds = step, seconds
        self.forward.rounded_shares = rounded
        if self.taken:
            load_optimizer(self.optimizer, under_prefix("optimizer", tensors), where)
        try:
            self.generator.set_state(random["data"])
            torch.set_rng_state(random["torch"])
        except (RuntimeError, TypeError) as error:
            raise MaqdError(f"{where!r} holds no random state of this version; train again") from error
        ranks = ranks.to(self.team.device)
        count = len(self.sums)
        if len(ranks) == self.team.size:
            self.sums.copy_(ranks[self.team.rank, :count])
            self._take_statistics(ranks[self.team.rank])
        else:  # another number of processes: all go on from the average, the sums are the writer's
            self.sums.copy_(ranks[:, :count].sum(0) * self.team.writer)
            self._take_statistics(ranks.mean(0))


def shares(recipe: Recipe, samples: int, processes: int) -> tuple[int, int]:
    """Return how many of the training samples one step takes, and one process at once.

    Raises:
        MaqdError: they cannot be shared evenly.
    """
    parts = processes * recipe.accumulate
    if recipe.batch_size % parts:
        raise MaqdError(
            f"a batch of {recipe.batch_size} samples cannot be shared evenly among {processes} processes of "
            f"{recipe.accumulate} parts each; give a --batch-size that is a multiple of {parts}"
        )
    share = min(recipe.batch_size, samples) // parts
    if share == 0:
        raise MaqdError(f"{samples} training images cannot be shared among {processes} processes")
    return share * parts, share


def differences(values: Any, recipe: Recipe) -> list[str]:
    """Return in words where plain values, as a file holds them, are not those of the recipe.

    A field that the file lacks is newer than the file; its default, or what `of_today` says, was done before.

    >>> differences({"name": "a", "dataset": "digits", "max_steps": 6}, Recipe("a", "digits", max_steps=8))
    ['gain: 1.0 there, None here', 'max_steps: 6 there, 8 here']
    """
    if not isinstance(values, dict):
        return ["no recipe there"]
    here = asdict(recipe)
    there = {**{f.name: f.default for f in fields(Recipe) if f.default is not MISSING}, **of_today(values)}
    return [
        f"{name}: {_shown(there, name)} there, {_shown(here, name)} here"
        for name in [*here, *(name for name in there if name not in here)]
        if name not in there or name not in here or there[name] != here[name]
    ]


def _shown(values: Mapping[str, Any], name: str) -> str:
    return repr(values[name]) if name in values else "nothing"


def identity(dataset: ImageDataset) -> dict[str, Any]:
    """Return how many images these are, and the sha256 of their codes and labels."""
    digest = hashlib.sha256(dataset.codes.contiguous().numpy().data)
    digest.update(dataset.labels.contiguous().numpy().data)
    return {"images": len(dataset), "sha256": digest.hexdigest()}


def _words(data: Any) -> str:
    known = isinstance(data, dict) and set(data) == {"images", "sha256"}
    return f"{data['images']} with sha256 {str(data['sha256'])[:12]}" if known else "some of another version"


def best(history: list[Epoch]) -> Epoch:
    """Return the epoch of lowest validation loss, then highest validation accuracy, then the earliest.

    The loss is that of the training, label smoothing included: without it, the confident epochs in the middle of a
    training with smoothed labels would win over its end.

    The loss comes first because it is the finer measure: among 180 images a lucky epoch in the middle of the training
    can be right on one more than the last ones.
    """
    return min(history, key=lambda entry: (entry.validation_loss, -entry.validation_accuracy, entry.epoch))


def _is_figure(kind: type[Any], name: str, value: Any) -> bool:
    if name == "layer":
        return isinstance(value, str)
    if value is None:
        return kind is LayerEpoch  # a share that was not looked at
    return isinstance(value, int | float) and math.isfinite(value)


def _records(kind: type[Any], rows: Any, where: str) -> list[Any]:
    names = {f.name for f in fields(kind)}
    for row in rows if isinstance(rows, list) else [None]:
        if (
            not isinstance(row, dict)
            or set(row) != names
            or not all(_is_figure(kind, name, value) for name, value in row.items())
        ):
            raise MaqdError(f"{where} holds no history of this version; train again")
    return [kind(**row) for row in rows]
