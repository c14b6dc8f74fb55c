"""The training loop: the only ``backward()`` of the library. It knows phases and nothing about models."""

from __future__ import annotations

import ctypes
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from recgraph.data.batches import Batches
from recgraph.files import sweep, write_tensors
from recgraph.models.base import Phase, TrainableModel
from recgraph.ranks import Ranks, all_values, first_value, of_all, stacked
from recgraph.rng import Generators, derive
from recgraph.sparse.device import is_accelerated
from recgraph.sparse.rows import is_sparse
from recgraph.train import checkpoint as checkpoints
from recgraph.train.ahead import on_device, prepared_ahead
from recgraph.train.averaging import Averaging
from recgraph.train.callbacks import Interrupt, Observer, TrainingInterrupted
from recgraph.train.config import TrainConfig, make_accelerator
from recgraph.train.phases import (
    TABLES,
    check_phases,
    freeze_all_but,
    make_optimisers,
    rate_factor,
    step_at,
    total_loss,
)
from recgraph.train.progress import Clock, EarlyStopping, Progress, Terms, check_finite

_log = logging.getLogger(__name__)
#: parameters of glibc's mallopt
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


class Trainer:
    """Train a model over its phases.

    With ``accumulate`` a step takes the mean gradient of so many batches, or of those that are left at the end of an
    epoch. Checkpoints are made only between steps, so that a resumed training ends with the same weights as one that
    was never stopped (on a CPU, bit for bit).

    Several processes (:mod:`recgraph.ranks`) train as one. Each computes its share of every batch, or all of it where
    batches know of no shares; gradients and terms are means over ranks. What is decided (the schedule, stopping, when
    to save) is decided from numbers that all ranks have alike, and rank 0 writes.

    Parameters that are frozen (``requires_grad`` is False) keep their values and stay frozen; a phase that trains no
    others measures its terms and makes no step.

    Args:
        model: built.
        batches: of the training part.
        config: how to train.
        generators: the run's random streams, the same that ``batches`` were made with.
        validate: called after an epoch; metric name -> value. It must contain ``config.metric`` unless that is
            ``"loss"``; without it only ``"loss"`` and ``"last"`` can be used.
        folder: where checkpoints go; None keeps nothing.
        observers: called at the events of :class:`recgraph.train.callbacks.Observer`.
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
            raise ValueError(f"metric = {config.metric!r} needs a validation; use metric = 'loss' or 'last'")
        check_phases(model, config.accumulate)
        self.model, self.batches, self.config = model, batches, config
        self.generators, self.validate, self.folder, self.observers = generators, validate, folder, observers
        self.accelerator = accelerator or make_accelerator(precision=config.precision)
        self.ranks = Ranks.here()
        self.averaging = Averaging(self.ranks)
        self.phases = model.phases
        # without a wrapper of its own for several processes: phases freeze parameters, and gradients are averaged here
        self.module = self.accelerator.prepare_model(model, evaluation_mode=True)
        self.averaging.align(model)
        self.groups = model.parameter_groups()
        self.optimisers = make_optimisers(model, config)
        if config.compile and is_accelerated(self.accelerator.device):
            model.compile_parts()
        self.stopping = EarlyStopping(config.patience, maximise=config.metric != "loss")
        self._compared_from = model.changing_epochs if config.metric == "loss" else 0
        self.progress = Progress(n_ranks=self.ranks.count)
        self.best: dict[str, Tensor] | None = None
        self._best_is_kept = True
        self._checkpoint: Path | None = None
        self._saved_at = -math.inf
        self._terms = Terms(len(self.phases))
        self._interrupt = Interrupt()
        of_ranks = all_values(self._fingerprint())
        for rank, other in enumerate(of_ranks):
            if differing := checkpoints.differing(of_ranks[0], other):
                raise ValueError(f"rank {rank} trains with another {', '.join(differing)} than rank 0")

    def fit(self) -> list[dict[str, Any]]:
        """Train until the last epoch or until the metric stops improving; the model then holds the best weights.

        With ``metric="last"`` all epochs are trained, and the model holds the last weights. With ``metric="loss"`` only
        epochs after the first :attr:`TrainableModel.changing_epochs` are compared.

        Returns:
            One row an epoch: terms, metrics, seconds, targets a second.

        Raises:
            NonFinite: a term, a weight or an optimiser's state became NaN or infinite; names it and the step.
            TrainingInterrupted: SIGINT came; the step, or the epoch's validation, was finished and the state saved.
        """
        check_phases(self.model, self.config.accumulate)
        with Interrupt() as self._interrupt, _freed_memory_kept():
            try:
                while self.progress.epoch < self.config.max_epochs and not self.stopping.stop:
                    clock = Clock(self.progress)
                    self._train_epoch(clock)
                    saved = self._end_epoch(clock)
                    if any(all_values(self._interrupt.asked)):  # SIGINT since the last step, perhaps the last of all
                        epoch, n_batches = self.progress.epoch - 1, len(self.batches)
                        raise TrainingInterrupted(epoch, n_batches, saved or self.save())
            finally:
                self._call("close")
        if self.best is not None:
            self.model.load_state_dict(self.best)
        _log.info("%s", self._why_ended())
        return self.progress.history

    def _why_ended(self) -> str:
        stopping, metric = self.stopping, self.config.metric
        why = f"all {self.config.max_epochs} epochs are made"
        if stopping.stop:
            why = f"stopped after epoch {self.progress.epoch}: {metric} was no better {stopping.waited} times in a row"
        if stopping.best is None:
            return why
        return f"{why}; the weights are those of epoch {stopping.best_epoch}, with {metric} {stopping.best:.4f}"

    def _train_epoch(self, clock: Clock) -> None:
        """The steps of one epoch, from the batch where a resumed training stopped."""
        progress = self.progress
        self._terms.forget()
        self._call("start_epoch", progress.epoch, len(self.batches), progress.batch)
        self.module.train()
        every, device = self.batches.epoch(progress.epoch, progress.batch), self.accelerator.device
        with prepared_ahead(every, on_device(self.model, device), self.generators, device) as batches:
            self._train_on(batches, progress, clock)
        self._terms.read(progress)

    def _train_on(self, batches: Iterator[Any], progress: Progress, clock: Clock) -> None:
        """The steps on batches, and what is due between them."""
        for batch in batches:
            if self.model.diagnostics and progress.batch == 0:
                self._diagnose(batch)
            self.step(batch)
            progress.batch += 1
            progress.targets += batch.n_targets
            self._call("advance")
            reads = self._terms.are_due
            if reads:
                self._terms.read(progress)
                self._call("step", progress.mean_terms(), progress.targets / clock.epoch_seconds())
            if not self._is_between_steps():
                continue
            is_asked = self.averaging.is_asked(self._interrupt.asked, may_wait=reads)
            if is_asked or self._checkpoint_is_due():
                clock.update()
                saved = self.save()
                if is_asked:
                    raise TrainingInterrupted(progress.epoch, progress.batch, saved)

    def step(self, batch: Any) -> None:
        """Make every phase's step on one batch."""
        batch = batch.to(self.accelerator.device)
        for phase in self.phases:
            self._phase_step(phase, batch)
        self.progress.step += 1

    def _phase_step(self, phase: Phase, batch: Any) -> None:
        """Forward, backward and, with the last of the accumulated batches, the optimisers of the phase's groups."""
        config = self.config
        done, size = self._accumulated()
        with freeze_all_but(self.groups, phase.groups) as parameters:
            with self.accelerator.autocast(), torch.set_grad_enabled(bool(parameters)):
                terms = self.module(batch, tuple(phase.terms))
                loss = total_loss(terms, phase)
            if parameters:
                self.accelerator.backward(loss / size if size > 1 else loss)
        self._terms.add(self.progress.step, {name: terms[name] for name in phase.terms})
        if done + 1 < size or not parameters:
            return
        self.averaging.average(parameters, self._interrupt.asked)
        if config.clip_norm is not None:
            dense = [parameter for parameter in parameters if not is_sparse(parameter)]
            self.accelerator.clip_grad_norm_(dense, config.clip_norm)
        rate = config.learning_rate * rate_factor(self.progress.step, len(self.batches), config)
        for name, optimiser in self.optimisers.items():
            if name.removesuffix(TABLES) in phase.groups:
                step_at(rate, optimiser)

    def _end_epoch(self, clock: Clock) -> Path | None:
        """Validate, write the epoch's row, save where that is due -> the checkpoint, where one was made."""
        progress, config = self.progress, self.config
        self._check_finite({})
        means = progress.mean_terms()
        clock.update()
        row: dict[str, Any] = {"epoch": progress.epoch + 1, **means, **progress.diagnostics}
        row["loss"] = sum(means[name] * weight for name, weight in self.phases[0].terms.items())
        row["targets_per_second"] = progress.targets / max(clock.epoch_seconds(), 1e-9)
        is_due = (progress.epoch + 1) % config.validate_every == 0 or progress.epoch + 1 == config.max_epochs
        if is_due and config.metric != "last":
            self._validate(row)
        clock.update()
        self._sum_cpu_seconds()
        row["seconds"], row["cpu_seconds"] = progress.seconds, progress.cpu_seconds
        row = first_value(row)
        progress.history.append(row)
        progress.epoch, progress.batch, progress.sums, progress.targets = progress.epoch + 1, 0, {}, 0
        is_last = self.stopping.stop or progress.epoch == config.max_epochs
        saves = is_last or first_value(time.monotonic() - self._saved_at >= config.checkpoint_seconds)
        saved = self.save() if saves else None
        self._call("end_epoch", row)
        return saved

    def _validate(self, row: dict[str, Any]) -> None:
        """Add the metrics to the epoch's row, and keep the weights where they are the best so far."""
        self.module.eval()
        # one rank's numbers decide, whatever the arithmetic of the others' machines
        metrics = first_value(dict(self.validate()) if self.validate is not None else {})
        row.update(metrics)
        if self.config.metric not in row:
            raise ValueError(f"metric = {self.config.metric!r} is not measured; there are {', '.join(sorted(metrics))}")
        if self.progress.epoch < self._compared_from:
            return
        if self.stopping.update(row[self.config.metric], self.progress.epoch + 1):
            self.best = None  # released before its successor is made
            self.best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
            self._best_is_kept = False
        row["best"] = self.stopping.best

    def _diagnose(self, batch: Any) -> None:
        """Measure the model's diagnostics on a batch. They draw from streams of their own: training is not changed."""
        epoch = self.progress.epoch
        seed, ranks = derive(self.generators.seed, "diagnostics", epoch), self.generators.ranks
        own = Generators(seed, self.accelerator.device, ranks)
        batch = replace(batch.to(self.accelerator.device), generators=own, drawn={})
        with torch.no_grad(), self.accelerator.autocast():
            measured = self.module(batch, self.model.diagnostics)
        values = stacked(torch.stack([value.double() for value in measured.values()])).mean(0)
        self.progress.diagnostics = dict(zip(measured, values.tolist(), strict=True))

    def _check_finite(self, optimisers: Mapping[str, Tensor]) -> None:
        """Refuse weights and optimisers that are not finite, on all ranks where they are wrong on one."""
        named = {f"optimiser {name}": value for name, value in optimisers.items()}
        of_all(lambda: check_finite({**self.model.state_dict(), **named}, self.progress))

    def _accumulated(self) -> tuple[int, int]:
        """How many batches this step has accumulated, and of how many it is made (fewer at the end of an epoch)."""
        accumulate = self.config.accumulate
        n_steps, done = divmod(self.progress.batch, accumulate)
        return done, min(accumulate, len(self.batches) - n_steps * accumulate)

    def _is_between_steps(self) -> bool:
        return self._accumulated()[0] == 0 or self.progress.batch >= len(self.batches)

    def _checkpoint_is_due(self) -> bool:
        """Whether this is the first step that ends at or after a multiple of ``checkpoint_every`` batches."""
        batch, every = self.progress.batch, self.config.checkpoint_every
        return every is not None and batch < len(self.batches) and batch % every < self.config.accumulate

    def save(self) -> Path | None:
        """Write a checkpoint now; None where the trainer has no folder. That all is finite is checked first.

        All ranks call it, and rank 0 writes.
        """
        self._terms.read(self.progress)
        optimisers = checkpoints.optimiser_tensors(self.optimisers)
        self._check_finite(optimisers)
        self._saved_at = time.monotonic()
        self._sum_cpu_seconds()
        streams = all_values(self.generators.rank_state())
        return of_all(lambda: self._write(streams, optimisers) if self.ranks.is_first else None)[0]

    def _sum_cpu_seconds(self) -> None:
        """Rank 0 has the time of all."""
        total = sum(all_values(self.progress.cpu_seconds))
        self.progress.cpu_seconds = total if self.ranks.is_first else 0.0

    def _write(self, streams: list[dict[str, Tensor]], optimisers: dict[str, Tensor]) -> Path | None:
        if self.folder is None:
            return None
        best = None if self.best is None else self.folder / "best.safetensors"
        if self.best is not None and best is not None and not self._best_is_kept:
            write_tensors(self.best, best)
            self._best_is_kept = True
        state = {
            **vars(self.progress),
            "stopping": self.stopping.state_dict(),
            "fingerprint": self._fingerprint(),
            "ranks": self.ranks.count,
        }
        whole = checkpoints.Checkpoint(
            self.model.state_dict(),
            optimisers,
            checkpoints.with_streams_of_ranks(self.generators.state_dict(), streams),
            state,
        )
        before, steps = self._checkpoint, self.progress.step
        self._checkpoint = checkpoints.save(self.folder / "checkpoints", whole, steps, before, best)
        _log.debug("checkpoint %s", self._checkpoint)
        return self._checkpoint

    def resume(self) -> bool:
        """Continue from the newest checkpoint of the folder that can be read; False where there is none.

        On as many ranks as it was made on, all is drawn that would have been drawn without a stop. On another number
        this holds for what ranks draw together (order, negatives, views); what each draws for its own rows (dropout)
        begins anew, with a warning; so do streams that were saved on another kind of device.

        Raises:
            CheckpointError: all are damaged, or it was made with other settings.
        """
        found = checkpoints.read_latest(self.folder / "checkpoints") if self.folder else None
        if len({*all_values(None if found is None else found[0].name)}) > 1:
            raise checkpoints.CheckpointError(f"the ranks see different checkpoints; {self.folder} must be shared")
        if found is None:
            return False
        newest, saved = found
        state = dict(saved.state)
        if differing := checkpoints.differing(self._fingerprint(), state.pop("fingerprint")):
            raise checkpoints.CheckpointError(
                f"{newest} was made with other settings or data ({', '.join(differing)}); resume with the same ones"
            )
        self.stopping.load_state_dict(state.pop("stopping"))
        n_ranks = state.pop("ranks")
        self.progress = Progress(**state)
        self.progress.n_ranks = max(self.progress.n_ranks, self.ranks.count)
        if not self.ranks.is_first:  # rank 0 has the time of all
            self.progress.cpu_seconds = 0.0
        if saved.best is not None:
            self.best, self._best_is_kept = dict(saved.best), False
        checkpoints.load_optimisers(self.optimisers, saved.optimisers)
        self.model.load_state_dict(saved.model)
        checkpoints.load_streams(self.generators, saved.generators, n_ranks, self.ranks, self.progress.step)
        self._checkpoint = newest
        if self.ranks.is_first:
            sweep(newest.parent)  # temporaries of a killed process: there may be no further checkpoint to do it
        epoch, batch = self.progress.epoch + 1, self.progress.batch
        _log.info("training goes on in epoch %d after batch %d, from %s", epoch, batch, newest)
        return True

    def _fingerprint(self) -> dict[str, Any]:
        return checkpoints.fingerprint(self.model, self.config, self.generators.seed, len(self.batches))

    def _call(self, event: str, *details: Any) -> None:
        for observer in self.observers:
            getattr(observer, event)(*details)


@contextmanager
def _freed_memory_kept() -> Iterator[None]:
    """Within it glibc keeps what a step frees for the next one, and gives it back afterwards.

    By itself it hands the end of its heap back and maps large arrays anew in each step: page faults that are a tenth of
    a step of SASRec, and a third of one of LightGCN over 500,000 nodes. Other C libraries stay as they are.
    """
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
