"""The training loop: the only ``backward()`` of the library. It knows phases and nothing about
models.
"""

from __future__ import annotations

import ctypes
import logging
import math
import operator
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import filterfalse
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from recgraph.data.batches import Batches
from recgraph.files import sweep, write_tensors
from recgraph.models.base import NonFinite, Phase, TrainableModel, not_finite
from recgraph.models.sequence.base import compile_parts
from recgraph.ranks import Ranks, all_values, of_all, stacked
from recgraph.rng import Generators, derive
from recgraph.sparse.device import is_accelerated
from recgraph.sparse.rows import is_sparse
from recgraph.train import checkpoint as checkpoints
from recgraph.train.config import TrainConfig, make_accelerator
from recgraph.train.observers import Observer, TrainingInterrupted, interrupts
from recgraph.train.phases import (
    TABLES,
    Averaging,
    freeze_all_but,
    make_optimisers,
    rate_factor,
    step_at,
    total_loss,
)

# batches between two reads of the terms: a read waits for the device
_READ_EVERY = 20
# batches that are prepared on the host while an accelerator computes
_AHEAD = 3
#: parameters of glibc's mallopt
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_log = logging.getLogger(__name__)


@dataclass
class Progress:
    """The position of a training and what was measured so far; saved with every checkpoint.

    Attributes:
        sums: of the epoch: name of a term -> the sum of its values, and how many they are.
        cpu_seconds: of this process; a checkpoint has those of all.
        n_ranks: the most processes that have trained together so far.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    sums: dict[str, tuple[float, int]] = field(default_factory=dict)
    targets: int = 0
    targets_per_epoch: int | None = None
    diagnostics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    n_ranks: int = 1

    def epoch_seconds(self) -> float:
        """The time of all processes that worked on the epoch."""
        before = self.history[-1]["seconds"] if self.history else 0.0
        return max(self.seconds - before, 1e-9)

    def mean_terms(self) -> dict[str, float]:
        """Name of a term -> the mean of its values in the epoch so far."""
        return {name: total / count for name, (total, count) in self.sums.items()}


@dataclass
class EarlyStopping:
    """Early stopping: the best value, and ``stop`` when ``patience`` values in a row were no better
    (None: never).
    """

    patience: int | None
    maximise: bool = True
    best: float | None = None
    best_epoch: int | None = None
    waited: int = 0

    def update(self, value: float, epoch: int) -> bool:
        """Add a value; True where it is the best so far (an equal value is not better)."""
        if math.isnan(value):
            raise NonFinite(
                f"the metric that selects the best epoch is NaN at epoch {epoch}; take another metric"
            )
        is_better_than = operator.gt if self.maximise else operator.lt
        if self.best is None or is_better_than(value, self.best):
            self.best = value
            self.best_epoch = epoch
            self.waited = 0
            return True
        self.waited += 1
        return False

    @property
    def stop(self) -> bool:
        return self.patience is not None and self.waited >= self.patience


class Trainer:
    """Train a model over its phases.

    With ``accumulate`` a step takes the mean gradient of so many batches, or of those that are left
    at the end of an epoch. Checkpoints are made only between steps, so that a resumed training ends
    with the same weights as one that was never stopped (on a CPU, bit for bit).

    Several processes (:mod:`recgraph.ranks`) train as one. Each computes its share of every batch,
    or all of it where batches know of no shares; gradients and terms are means over ranks. What is
    decided (the schedule, stopping, when to save) is decided from numbers that are the same on all
    ranks, and rank 0 writes.

    Parameters that are frozen (``requires_grad`` is False) keep their values and stay frozen; a
    phase that trains no others measures its terms and makes no step.

    Args:
        model: built.
        batches: of the training part.
        config: how to train.
        generators: the run's random streams, the same that ``batches`` were made with.
        validate: called after an epoch; metric name -> value. Without it only the metrics
            ``"loss"`` and ``"last"`` can select an epoch.
        folder: where checkpoints go; None keeps nothing.
        observers: called at the events of :class:`recgraph.train.observers.Observer`.
        accelerator: devices and precision; made from ``config`` by default.
    """

    def __init__(
        self,
        model: TrainableModel,
        batches: Batches,
        config: TrainConfig,
        generators: Generators,
        validate: Callable[[], Mapping[str, float]] | None = None,
        folder: Path | None = None,
        observers: Sequence[Observer] = (),
        accelerator: Accelerator | None = None,
    ) -> None:
        if validate is None and config.metric not in ("loss", "last"):
            raise ValueError(
                f"metric = {config.metric!r} needs a validation part; use 'loss' or 'last'"
            )
        self.model = model
        self.batches = batches
        self.config = config
        self.generators = generators
        self.validate = validate
        self.folder = folder
        self.observers = observers
        self.accelerator = accelerator or make_accelerator(precision=config.precision)
        self.ranks = Ranks.here()
        self.phases = model.phases
        # without a wrapper of its own for several processes: phases freeze parameters, and
        # gradients are averaged here
        self.module = self.accelerator.prepare_model(model, evaluation_mode=True)
        self.averaging = Averaging(self.ranks)
        self.groups = model.parameter_groups()
        self.optimisers = make_optimisers(model, config)
        if config.compile and is_accelerated(self.accelerator.device):
            compile_parts(model)
        self.stopping = EarlyStopping(config.patience, maximise=config.metric != "loss")
        self.progress = Progress(n_ranks=self.ranks.count)
        self.best: dict[str, Tensor] | None = None
        self._best_is_written = True
        self._checkpoint: Path | None = None
        self._saved_at = -math.inf
        # terms of steps that are still on the device: step, name, value
        self._unread: list[tuple[int, str, Tensor]] = []
        self._interrupt = threading.Event()
        self._wall = self._cpu = 0.0
        if self.ranks.count > 1:
            self.averaging.align(model)
        first, *others = all_values(self._fingerprint())
        for rank, other in enumerate(others, start=1):
            names = checkpoints.differing(first, other)
            if names:
                raise ValueError(f"rank {rank} trains with another {', '.join(names)} than rank 0")

    def fit(self) -> list[dict[str, Any]]:
        """Train until the last epoch or until the metric stops improving -> one row an epoch.

        The model then holds the best weights, with ``metric="last"`` the last ones. With
        ``metric="loss"`` only epochs after the first :attr:`TrainableModel.changing_epochs` are
        compared.

        Raises:
            NonFinite: a term, a weight or an optimiser's state became NaN or infinite; names it and
                the step.
            TrainingInterrupted: SIGINT came; the step, or the epoch's validation, was finished and
                the state saved.
        """
        progress, stopping, config = self.progress, self.stopping, self.config
        with interrupts() as self._interrupt, _freed_memory_stays():
            try:
                while progress.epoch < config.max_epochs and not stopping.stop:
                    self._train_epoch()
                    saved = self._end_epoch()
                    # since the last step, perhaps the last of all
                    if any(all_values(self._interrupt.is_set())):
                        saved = saved or self.save()
                        raise TrainingInterrupted(progress.epoch - 1, len(self.batches), saved)
            finally:
                self._call("close")
        self.outcome = f"all {config.max_epochs} epochs are made"
        if stopping.stop:
            self.outcome = (
                f"stopped after epoch {progress.epoch}: "
                f"{config.metric} no better {stopping.waited} times in a row"
            )
        if self.best is not None:
            self.model.load_state_dict(self.best)
            self.outcome += (
                f"; the weights are those of epoch {stopping.best_epoch}, "
                f"with {config.metric} {stopping.best:.4f}"
            )
        _log.info("%s", self.outcome)
        return progress.history

    def _train_epoch(self) -> None:
        """The steps of one epoch, from the batch where a resumed training stopped, and what is due
        between them.
        """
        progress, n_batches = self.progress, len(self.batches)
        self._unread = []
        self._wall = time.perf_counter()
        self._cpu = time.process_time()
        self._call("start_epoch", progress.epoch, n_batches, progress.batch)
        self.module.train()
        rest = self.batches.epoch(progress.epoch, progress.batch)
        with prepared_ahead(
            rest, self.prepare, self.generators, self.accelerator.device
        ) as batches:
            for batch in batches:
                if self.model.diagnostics and progress.batch == 0:
                    self._diagnose(batch)
                self.step(batch)
                progress.batch += 1
                progress.targets += batch.n_targets
                self._call("advance")
                reads = progress.batch % _READ_EVERY == 0
                if reads:
                    self._read_terms()
                    self._add_time()
                    speed = progress.targets / progress.epoch_seconds()
                    self._call("step", progress.mean_terms(), speed)
                if progress.batch % self.config.accumulate == 0 or progress.batch == n_batches:
                    self._end_step(may_wait=reads)
        self._read_terms()

    def _end_step(self, may_wait: bool) -> None:
        """After a step of the optimisers: save where that is due, and stop where any rank is to."""
        progress, every = self.progress, self.config.checkpoint_every
        if self.ranks.count == 1:
            stops = self._interrupt.is_set()
        else:
            stops = self.averaging.stops(may_wait)
        is_due = False
        if every is not None and progress.batch < len(self.batches):
            # the first step that ends at or after a multiple of so many batches
            is_due = progress.batch % every < self.config.accumulate
        if not stops and not is_due:
            return
        self._add_time()
        saved = self.save()
        if stops:
            raise TrainingInterrupted(progress.epoch, progress.batch, saved)

    def _add_time(self) -> None:
        """Add the time since the epoch began, or since this was called, to the progress."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.progress.seconds += wall - self._wall
        self.progress.cpu_seconds += cpu - self._cpu
        self._wall, self._cpu = wall, cpu

    def prepare(self, batch: Any) -> Any:
        """The batch on the device, with what its model draws for it on the host."""
        self.model.prepare(batch)
        return batch.to(self.accelerator.device)

    def step(self, batch: Any) -> None:
        """Every phase: forward, backward and, with the last of accumulated batches, the optimisers
        of its groups.
        """
        batch = batch.to(self.accelerator.device)
        accumulate = self.config.accumulate
        n_steps, done = divmod(self.progress.batch, accumulate)
        size = min(accumulate, len(self.batches) - n_steps * accumulate)  # fewer at an epoch's end
        for phase in self.phases:
            with freeze_all_but(self.groups, phase.groups) as parameters:
                self._measure(batch, phase, size, trains=bool(parameters))
            if parameters and done + 1 == size:
                self._apply_gradients(parameters, phase)
        self.progress.step += 1

    def _measure(self, batch: Any, phase: Phase, size: int, trains: bool) -> None:
        """The terms of a batch, one of ``size`` that make a step; ``trains``: and the gradient."""
        with self.accelerator.autocast(), torch.set_grad_enabled(trains):
            terms = self.module(batch, tuple(phase.terms))
            loss = total_loss(terms, phase)
        if trains:
            self.accelerator.backward(loss / size if size > 1 else loss)
        step = self.progress.step
        self._unread += [(step, name, terms[name].detach()) for name in phase.terms]

    def _apply_gradients(self, parameters: list[nn.Parameter], phase: Phase) -> None:
        """A step of the optimisers of a phase's groups."""
        config, step = self.config, self.progress.step
        if self.ranks.count > 1:
            self.averaging.average(parameters, self._interrupt.is_set())
        if config.clip_norm is not None:
            dense = [*filterfalse(is_sparse, parameters)]
            self.accelerator.clip_grad_norm_(dense, config.clip_norm)
        rate = config.learning_rate * rate_factor(step, len(self.batches), config)
        for name, optimiser in self.optimisers.items():
            if name.removesuffix(TABLES) in phase.groups:
                step_at(rate, optimiser)

    def _read_terms(self) -> None:
        """Read the terms of all ranks from the device, and add their means to the progress."""
        if not self._unread:
            return
        steps, names, terms = zip(*self._unread, strict=True)
        values = stacked(torch.stack([*map(Tensor.float, terms)]))
        for step, name, of_ranks in zip(steps, names, values.t().tolist(), strict=True):
            self._add_term(step, name, of_ranks)
        self._unread = []

    def _add_term(self, step: int, name: str, values: list[float]) -> None:
        """Add the mean of a term over ranks to the progress."""
        for rank, value in enumerate(values):
            if not math.isfinite(value):
                where = f" on rank {rank} of {len(values)}" if len(values) > 1 else ""
                what = f"term {name!r} became {value} at step {step}{where}"
                raise NonFinite(self._diverged(what, step))
        total, count = self.progress.sums.get(name, (0.0, 0))
        self.progress.sums[name] = (total + sum(values) / len(values), count + 1)

    def _end_epoch(self) -> Path | None:
        """Validate, write the epoch's row, save where that is due -> the checkpoint, where one was
        made.
        """
        progress, config = self.progress, self.config
        epoch = progress.epoch + 1
        self._check_finite({})
        means = progress.mean_terms()
        self._add_time()
        row: dict[str, Any] = {"epoch": epoch, **means, **progress.diagnostics}
        row["loss"] = sum(means[name] * weight for name, weight in self.phases[0].terms.items())
        row["targets_per_second"] = progress.targets / progress.epoch_seconds()
        if epoch % config.validate_every == 0 or epoch == config.max_epochs:
            self._validate(row)
        self._add_time()
        row["seconds"] = progress.seconds
        row["cpu_seconds"] = sum(all_values(progress.cpu_seconds))
        row = all_values(row)[0]
        progress.history.append(row)
        progress.targets_per_epoch = progress.targets
        progress.targets = 0
        progress.epoch = epoch
        progress.batch = 0
        progress.sums = {}
        is_last = self.stopping.stop or epoch == config.max_epochs
        is_due = all_values(time.monotonic() - self._saved_at >= config.checkpoint_seconds)[0]
        saved = self.save() if is_last or is_due else None
        self._call("end_epoch", row)
        return saved

    def _validate(self, row: dict[str, Any]) -> None:
        """Add the metrics to the epoch's row, and copy the weights where they are the best so
        far.
        """
        metric = self.config.metric
        if metric == "last":
            return
        self.module.eval()
        if self.validate is not None:
            # one rank's numbers decide, whatever the arithmetic of the others' machines
            row.update(all_values(dict(self.validate()))[0])
        if metric == "loss" and self.progress.epoch < self.model.changing_epochs:
            return
        if self.stopping.update(row[metric], self.progress.epoch + 1):
            self.best = None  # released before its successor is made
            self.best = {
                name: value.detach().clone() for name, value in self.model.state_dict().items()
            }
            self._best_is_written = False
        row["best"] = self.stopping.best

    def _diagnose(self, batch: Any) -> None:
        """Measure the model's diagnostics on a batch. They draw from streams of their own: training
        is not changed.
        """
        device = self.accelerator.device
        seed = derive(self.generators.seed, "diagnostics", self.progress.epoch)
        generators = Generators(seed, device, self.generators.ranks)
        batch = replace(batch.to(device), generators=generators, drawn={})
        with torch.no_grad(), self.accelerator.autocast():
            terms = self.module(batch, self.model.diagnostics)
        values = stacked(torch.stack([*terms.values()]).double()).mean(0)
        self.progress.diagnostics = dict(zip(terms, values.tolist(), strict=True))

    def _check_finite(self, optimisers: Mapping[str, Tensor]) -> None:
        """Refuse weights and optimisers that are not finite, on all ranks where they are wrong on
        one.

        A finite term may have a gradient that is not, and after a last step that is too large no
        term shows it."""

        def check() -> None:
            tensors = self.model.state_dict()
            for name, value in optimisers.items():
                tensors[f"optimiser {name}"] = value
            wrong = not_finite(tensors)
            if wrong:
                step = self.progress.step
                what = f"{wrong[0]} became NaN or infinite by step {step}"
                raise NonFinite(self._diverged(what, step))

        of_all(check)

    def _diverged(self, what: str, step: int) -> str:
        rate = self.config.learning_rate * rate_factor(step, len(self.batches), self.config)
        return (
            f"{what}, with learning_rate {rate:.3g}; try a smaller one, or clip_norm; "
            f"last checkpoint: {self._checkpoint}"
        )

    def save(self) -> Path | None:
        """Write a checkpoint now; None where the trainer has no folder. That all is finite is
        checked first.

        All ranks call it, and rank 0 writes.
        """
        self._read_terms()
        optimisers = checkpoints.optimiser_tensors(self.optimisers)
        self._check_finite(optimisers)
        self._saved_at = time.monotonic()
        cpu_seconds = sum(all_values(self.progress.cpu_seconds))
        streams: dict[str, Tensor] = {}
        for of_rank in all_values(self.generators.state_dict()):
            streams |= of_rank
        self._checkpoint = of_all(lambda: self._write(streams, optimisers, cpu_seconds))[0]
        return self._checkpoint

    def _write(
        self, streams: dict[str, Tensor], optimisers: dict[str, Tensor], cpu_seconds: float
    ) -> Path | None:
        if self.folder is None or self.ranks.index:
            return None
        best = None
        if self.best is not None:
            best = self.folder / "best.safetensors"
            if not self._best_is_written:
                write_tensors(self.best, best)
                self._best_is_written = True
        stopping = self.stopping
        state = {
            **vars(self.progress),
            "cpu_seconds": cpu_seconds,
            "stopping": {
                "best": stopping.best,
                "best_epoch": stopping.best_epoch,
                "waited": stopping.waited,
            },
            "fingerprint": self._fingerprint(),
            "ranks": self.ranks.count,
        }
        checkpoint = checkpoints.Checkpoint(self.model.state_dict(), optimisers, streams, state)
        saved = checkpoints.save(self.folder / "checkpoints", checkpoint, self._checkpoint, best)
        _log.debug("checkpoint %s", saved)
        return saved

    def resume(self) -> bool:
        """Continue from the newest checkpoint of the folder that can be read; False where there is
        none.

        On as many ranks as it was made on, all is drawn that would have been drawn without a stop.
        On another number this holds for what ranks draw together (order, negatives, views); what
        each draws for its own rows (dropout) begins again, with a warning; so do streams that were
        saved on another kind of device.

        Raises:
            CheckpointError: all are damaged, or it was made with other settings.
        """
        if self.folder is None:
            return False
        latest = checkpoints.read_latest(self.folder / "checkpoints")
        names = all_values(None if latest is None else latest[0].name)
        if len({*names}) > 1:
            raise checkpoints.CheckpointError(
                f"the ranks see different checkpoints; {self.folder} must be shared"
            )
        if latest is None:
            return False
        self._checkpoint, checkpoint = latest
        self._restore(checkpoint)
        if not self.ranks.index:  # temporaries of a killed process: there may be no more to save
            sweep(self._checkpoint.parent, age=0)
        _log.info(
            "training goes on in epoch %d after batch %d, from %s",
            self.progress.epoch + 1,
            self.progress.batch,
            self._checkpoint,
        )
        return True

    def _restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Take over the state of a checkpoint of the same training."""
        state = dict(checkpoint.state)
        names = checkpoints.differing(self._fingerprint(), state.pop("fingerprint"))
        if names:
            raise checkpoints.CheckpointError(
                f"{self._checkpoint} was made with other settings or data ({', '.join(names)}); "
                "resume with the same ones"
            )
        self.stopping = replace(self.stopping, **state.pop("stopping"))
        n_ranks = state.pop("ranks")
        self.progress = Progress(**state)
        self.progress.n_ranks = max(self.progress.n_ranks, self.ranks.count)
        self.progress.cpu_seconds /= self.ranks.count
        if checkpoint.best:
            self.best = dict(checkpoint.best)
            self._best_is_written = False
        checkpoints.load_optimisers(self.optimisers, checkpoint.optimisers)
        self.model.load_state_dict(checkpoint.model)
        anew = self.generators.load_state_dict(checkpoint.generators)
        if anew:
            _log.warning(
                "the training goes on on another kind of device: %s draw anew", ", ".join(anew)
            )
        if n_ranks != self.ranks.count:
            _log.warning(
                "the training of %d processes goes on with %d: dropout draws anew",
                n_ranks,
                self.ranks.count,
            )

    def _fingerprint(self) -> dict[str, Any]:
        return checkpoints.fingerprint(
            self.model, self.config, self.generators.seed, len(self.batches)
        )

    def _call(self, event: str, *details: Any) -> None:
        for observer in self.observers:
            getattr(observer, event)(*details)


@contextmanager
def prepared_ahead(
    batches: Iterable[Any],
    prepare: Callable[[Any], Any],
    generators: Generators,
    device: torch.device,
) -> Iterator[Iterator[Any]]:
    """Yields an iterator over ``prepare(batch)``, in the order of the batches; an accelerator has a
    thread make them.

    The thread draws, from :meth:`Generators.on_host` alone, what would be drawn without it. The
    streams stand as they were after the batch that was taken last, also when the block is left, so
    that a training can stop after any batch. An error in the thread is raised where its batch would
    have come.
    """
    if not is_accelerated(device):
        yield map(prepare, batches)
        return
    rest = iter(batches)

    def make() -> tuple[Any, dict[str, Tensor]] | None:
        batch = next(rest, None)
        return None if batch is None else (prepare(batch), generators.host_state())

    generators.held = generators.host_state()
    try:
        with ThreadPoolExecutor(1, "prepared-ahead") as thread:
            waiting = deque(thread.submit(make) for _ in range(_AHEAD))

            def take() -> Iterator[Any]:
                while (prepared := waiting.popleft().result()) is not None:
                    waiting.append(thread.submit(make))
                    batch, generators.held = prepared
                    yield batch

            try:
                yield take()
            finally:
                thread.shutdown(cancel_futures=True)
    finally:
        generators.release()


@contextmanager
def _freed_memory_stays() -> Iterator[None]:
    """Within it glibc has what a step frees ready for the next one: the page faults of memory that
    is mapped anew in each step are a tenth of a step of SASRec, and a third of one of LightGCN over
    500,000 nodes."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "malloc_trim"):
        yield
        return
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        library.malloc_trim(0)
