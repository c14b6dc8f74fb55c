"""The training loop: the only ``backward()`` of the library. It knows phases and nothing about
models.
"""

from __future__ import annotations

import ctypes
import logging
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from recgraph.data.batches import Batches
from recgraph.files import sweep, write_tensors
from recgraph.models.base import NonFinite, TrainableModel, not_finite
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
        sums: of the epoch: name of a term -> the sum of its values, ``name/n`` -> how many values.
        n_ranks: the most processes that have trained together so far.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    targets: int = 0
    targets_per_epoch: int | None = None
    diagnostics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    n_ranks: int = 1

    def epoch_seconds(self) -> float:
        """The time of all processes that worked on the epoch."""
        return max(self.seconds - (self.history[-1]["seconds"] if self.history else 0.0), 1e-9)

    def mean_terms(self) -> dict[str, float]:
        """Name of a term -> the mean of its values in the epoch so far."""
        return {
            name: value / self.sums[f"{name}/n"]
            for name, value in self.sums.items()
            if not name.endswith("/n")
        }


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
        self.waited += 1
        if better := self.best is None or (
            value > self.best if self.maximise else value < self.best
        ):
            self.best, self.best_epoch, self.waited = value, epoch, 0
        return better

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
        self.model, self.batches, self.config = model, batches, config
        self.generators, self.validate, self.folder, self.observers = (
            generators,
            validate,
            folder,
            observers,
        )
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
        self._unread: list[
            tuple[int, dict[str, Tensor]]
        ] = []  # terms of steps that are still on the device
        self._interrupt = threading.Event()
        self._wall = self._cpu = 0.0
        if self.ranks.count > 1:
            self.averaging.align(model)
            first, *others = all_values(self._fingerprint())
            for rank, other in enumerate(others, start=1):
                if differing := checkpoints.differing(first, other):
                    raise ValueError(
                        f"rank {rank} trains with another {', '.join(differing)} than rank 0"
                    )

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
                    if any(
                        all_values(self._interrupt.is_set())
                    ):  # since the last step, perhaps the last of all
                        raise TrainingInterrupted(
                            progress.epoch - 1, len(self.batches), saved or self.save()
                        )
            finally:
                self._call("close")
        why = f"all {config.max_epochs} epochs are made"
        if stopping.stop:
            why = f"stopped after epoch {progress.epoch}: {config.metric} no better {stopping.waited} times in a row"
        if self.best is not None:
            self.model.load_state_dict(self.best)
            why += f"; the weights are those of epoch {stopping.best_epoch}, with {config.metric} {stopping.best:.4f}"
        self.outcome = why
        _log.info("%s", why)
        return progress.history

    def _train_epoch(self) -> None:
        """The steps of one epoch, from the batch where a resumed training stopped, and what is due
        between them.
        """
        progress, device, n_batches = self.progress, self.accelerator.device, len(self.batches)
        self._unread, self._wall, self._cpu = [], time.perf_counter(), time.process_time()
        self._call("start_epoch", progress.epoch, n_batches, progress.batch)
        self.module.train()
        made = self.batches.epoch(progress.epoch, progress.batch)
        with prepared_ahead(made, self.prepare, self.generators, device) as batches:
            for batch in batches:
                if self.model.diagnostics and progress.batch == 0:
                    self._diagnose(batch)
                self.step(batch)
                progress.batch += 1
                progress.targets += batch.n_targets
                self._call("advance")
                reads = len(self._unread) >= _READ_EVERY * len(self.phases)
                if reads:
                    self._read_terms()
                    self._add_time()
                    self._call(
                        "step", progress.mean_terms(), progress.targets / progress.epoch_seconds()
                    )
                if progress.batch % self.config.accumulate and progress.batch < n_batches:
                    continue
                stops = (
                    self._interrupt.is_set()
                    if self.ranks.count == 1
                    else self.averaging.stops(may_wait=reads)
                )
                every = self.config.checkpoint_every
                # the first step that ends at or after a multiple of so many batches
                is_due = (
                    every
                    and progress.batch < n_batches
                    and progress.batch % every < self.config.accumulate
                )
                if stops or is_due:
                    self._add_time()
                    saved = self.save()
                    if stops:
                        raise TrainingInterrupted(progress.epoch, progress.batch, saved)
        self._read_terms()

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
        config, progress, batch = self.config, self.progress, batch.to(self.accelerator.device)
        n_steps, done = divmod(progress.batch, config.accumulate)
        size = min(
            config.accumulate, len(self.batches) - n_steps * config.accumulate
        )  # fewer at an epoch's end
        for phase in self.phases:
            with freeze_all_but(self.groups, phase.groups) as parameters:
                with self.accelerator.autocast(), torch.set_grad_enabled(bool(parameters)):
                    terms = self.module(batch, tuple(phase.terms))
                    loss = total_loss(terms, phase)
                if parameters:
                    self.accelerator.backward(loss / size if size > 1 else loss)
            self._unread.append(
                (progress.step, {name: terms[name].detach() for name in phase.terms})
            )
            if done + 1 < size or not parameters:
                continue
            if self.ranks.count > 1:
                self.averaging.average(parameters, self._interrupt.is_set())
            if config.clip_norm is not None:
                dense = [parameter for parameter in parameters if not is_sparse(parameter)]
                self.accelerator.clip_grad_norm_(dense, config.clip_norm)
            rate = config.learning_rate * rate_factor(progress.step, len(self.batches), config)
            for name, optimiser in self.optimisers.items():
                if name.removesuffix(TABLES) in phase.groups:
                    step_at(rate, optimiser)
        progress.step += 1

    def _read_terms(self) -> None:
        """Read the terms of all ranks from the device, and add their means to the progress."""
        if not self._unread:
            return
        names = [(step, name) for step, terms in self._unread for name in terms]
        values = stacked(
            torch.stack([value.float() for _, terms in self._unread for value in terms.values()])
        )
        sums = self.progress.sums
        for (step, name), of_ranks in zip(names, values.t().tolist(), strict=True):
            if wrong := [rank for rank, value in enumerate(of_ranks) if not math.isfinite(value)]:
                where = (
                    f" on rank {', '.join(map(str, wrong))} of {len(of_ranks)}"
                    if len(of_ranks) > 1
                    else ""
                )
                raise NonFinite(
                    self._diverged(f"term {name!r} became {of_ranks[wrong[0]]} at", step, where)
                )
            sums[name] = sums.get(name, 0.0) + sum(of_ranks) / len(of_ranks)
            sums[f"{name}/n"] = sums.get(f"{name}/n", 0.0) + 1
        self._unread = []

    def _end_epoch(self) -> Path | None:
        """Validate, write the epoch's row, save where that is due -> the checkpoint, where one was
        made.
        """
        progress, config = self.progress, self.config
        self._check_finite({})
        means = progress.mean_terms()
        self._add_time()
        row: dict[str, Any] = {"epoch": progress.epoch + 1, **means, **progress.diagnostics}
        row["loss"] = sum(means[name] * weight for name, weight in self.phases[0].terms.items())
        row["targets_per_second"] = progress.targets / progress.epoch_seconds()
        is_due = (
            progress.epoch + 1
        ) % config.validate_every == 0 or progress.epoch + 1 == config.max_epochs
        if is_due and config.metric != "last":
            self._validate(row)
        self._add_time()
        self._sum_cpu_seconds()
        row["seconds"], row["cpu_seconds"] = progress.seconds, progress.cpu_seconds
        row = all_values(row)[0]
        progress.history.append(row)
        progress.targets_per_epoch, progress.targets = progress.targets, 0
        progress.epoch, progress.batch, progress.sums = progress.epoch + 1, 0, {}
        is_last = self.stopping.stop or progress.epoch == config.max_epochs
        saves = (
            is_last or all_values(time.monotonic() - self._saved_at >= config.checkpoint_seconds)[0]
        )
        saved = self.save() if saves else None
        self._call("end_epoch", row)
        return saved

    def _validate(self, row: dict[str, Any]) -> None:
        """Add the metrics to the epoch's row, and copy the weights where they are the best so
        far.
        """
        self.module.eval()
        metric = self.config.metric
        # one rank's numbers decide, whatever the arithmetic of the others' machines
        row.update(all_values(dict(self.validate()) if self.validate is not None else {})[0])
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
        device, seed = (
            self.accelerator.device,
            derive(self.generators.seed, "diagnostics", self.progress.epoch),
        )
        batch = replace(
            batch.to(device), generators=Generators(seed, device, self.generators.ranks), drawn={}
        )
        with torch.no_grad(), self.accelerator.autocast():
            measured = self.module(batch, self.model.diagnostics)
        values = stacked(torch.stack([*measured.values()]).double()).mean(0)
        self.progress.diagnostics = dict(zip(measured, values.tolist(), strict=True))

    def _check_finite(self, optimisers: Mapping[str, Tensor]) -> None:
        """Refuse weights and optimisers that are not finite, on all ranks where they are wrong on
        one.

        A finite term may have a gradient that is not, and after a last step that is too large no
        term shows it."""

        def check() -> None:
            named = {f"optimiser {name}": value for name, value in optimisers.items()}
            if wrong := not_finite({**self.model.state_dict(), **named}):
                raise NonFinite(
                    self._diverged(f"{wrong[0]} became NaN or infinite by", self.progress.step)
                )

        of_all(check)

    def _diverged(self, what: str, step: int, where: str = "") -> str:
        rate = self.config.learning_rate * rate_factor(step, len(self.batches), self.config)
        saved = (
            f"the last checkpoint is {self._checkpoint}"
            if self._checkpoint
            else "there is no checkpoint"
        )
        return f"{what} step {step}{where}, with learning_rate {rate:.3g}; {saved}; try a smaller one, or clip_norm"

    def save(self) -> Path | None:
        """Write a checkpoint now; None where the trainer has no folder. That all is finite is
        checked first.

        All ranks call it, and rank 0 writes.
        """
        self._read_terms()
        optimisers = checkpoints.optimiser_tensors(self.optimisers)
        self._check_finite(optimisers)
        self._saved_at = time.monotonic()
        self._sum_cpu_seconds()
        streams = {
            name: state
            for of_rank in all_values(self.generators.state_dict())
            for name, state in of_rank.items()
        }
        self._checkpoint = of_all(
            lambda: None if self.ranks.index else self._write(streams, optimisers)
        )[0]
        return self._checkpoint

    def _sum_cpu_seconds(self) -> None:
        """Rank 0 has the time of all."""
        total = sum(all_values(self.progress.cpu_seconds))
        self.progress.cpu_seconds = 0.0 if self.ranks.index else total

    def _write(self, streams: dict[str, Tensor], optimisers: dict[str, Tensor]) -> Path | None:
        if self.folder is None:
            return None
        best = None if self.best is None else self.folder / "best.safetensors"
        if self.best is not None and best is not None and not self._best_is_written:
            write_tensors(self.best, best)
            self._best_is_written = True
        stopping = {name: getattr(self.stopping, name) for name in ("best", "best_epoch", "waited")}
        own = {"stopping": stopping, "fingerprint": self._fingerprint(), "ranks": self.ranks.count}
        whole = checkpoints.Checkpoint(
            self.model.state_dict(), optimisers, streams, {**vars(self.progress), **own}
        )
        saved = checkpoints.save(self.folder / "checkpoints", whole, self._checkpoint, best)
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
        found = checkpoints.read_latest(self.folder / "checkpoints") if self.folder else None
        if len({*all_values(None if found is None else found[0].name)}) > 1:
            raise checkpoints.CheckpointError(
                f"the ranks see different checkpoints; {self.folder} must be shared"
            )
        if found is None:
            return False
        newest, saved = found
        state = dict(saved.state)
        if differing := checkpoints.differing(self._fingerprint(), state.pop("fingerprint")):
            raise checkpoints.CheckpointError(
                f"{newest} was made with other settings or data ({', '.join(differing)}); resume with the same ones"
            )
        for name, value in state.pop("stopping").items():
            setattr(self.stopping, name, value)
        n_ranks = state.pop("ranks")
        self.progress = Progress(**state)
        self.progress.n_ranks = max(self.progress.n_ranks, self.ranks.count)
        if saved.best is not None:
            self.best, self._best_is_written = dict(saved.best), False
        checkpoints.load_optimisers(self.optimisers, saved.optimisers)
        self.model.load_state_dict(saved.model)
        anew = self.generators.load_state_dict(saved.generators)
        self._checkpoint = newest
        if self.ranks.index:
            self.progress.cpu_seconds = 0.0  # rank 0 has the time of all
        else:
            sweep(
                newest.parent, age=0
            )  # temporaries of a killed process: there may be no further checkpoint to do it
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
        epoch, batch = self.progress.epoch + 1, self.progress.batch
        _log.info("training goes on in epoch %d after batch %d, from %s", epoch, batch, newest)
        return True

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
    every = iter(batches)

    def make() -> tuple[Any, dict[str, Tensor]] | None:
        batch = next(every, None)
        return None if batch is None else (prepare(batch), generators.host_state())

    generators.held = generators.host_state()
    try:
        with ThreadPoolExecutor(1, "prepared-ahead") as thread:
            waiting = deque(thread.submit(make) for _ in range(_AHEAD))

            def take() -> Iterator[Any]:
                while (made := waiting.popleft().result()) is not None:
                    waiting.append(thread.submit(make))
                    batch, generators.held = made
                    yield batch

            try:
                yield take()
            finally:
                for each in waiting:
                    each.cancel()
    finally:
        generators.release()


@contextmanager
def _freed_memory_stays() -> Iterator[None]:
    """Within it glibc has what a step frees ready for the next one: the page faults of memory that
    is mapped anew in each step are a tenth of a step of SASRec, and a third of one of LightGCN over
    500,000 nodes."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "malloc_trim"):
        yield
        return
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        library.malloc_trim(0)
