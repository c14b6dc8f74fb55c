"""The state of a training beside weights: position, terms, history, time, and early stopping."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from recgraph.files import NonFinite, not_finite
from recgraph.ranks import stacked

# batches between two reads of the terms: a read waits for the device
_READ_EVERY = 20
_WAY_OUT = "try a smaller learning_rate, or clip_norm"


@dataclass
class EarlyStopping:
    """Early stopping: keeps the best value, and ``stop`` when it has not improved for ``patience`` values.

    Args:
        patience: values in a row without a better one before stopping; None: never.
        maximise: whether higher is better.
    """

    patience: int | None
    maximise: bool = True
    best: float | None = None
    best_epoch: int | None = None
    waited: int = 0

    def update(self, value: float, epoch: int) -> bool:
        """Add a value; True where it is the best so far (an equal value is not better)."""
        if math.isnan(value):
            raise NonFinite(f"the metric that selects the best epoch is NaN at epoch {epoch}; take another metric")
        better = self.best is None or (value > self.best if self.maximise else value < self.best)
        if better:
            self.best, self.best_epoch, self.waited = value, epoch, 0
        else:
            self.waited += 1
        return better

    @property
    def stop(self) -> bool:
        return self.patience is not None and self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_epoch, self.waited = state["best"], state["best_epoch"], state["waited"]


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
    diagnostics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    n_ranks: int = 1

    def add_term(self, name: str, value: float) -> None:
        """Add the value that a term had at a step of the epoch."""
        for key, amount in ((name, value), (f"{name}/n", 1)):
            self.sums[key] = self.sums.get(key, 0.0) + amount

    def mean_terms(self) -> dict[str, float]:
        """Name of a term -> the mean of its values in the epoch so far."""
        return {name: value / self.sums[f"{name}/n"] for name, value in self.sums.items() if not name.endswith("/n")}


class Clock:
    """Adds the time since it was made or last updated to a training's progress; made at the start of an epoch.

    In a resumed training an epoch began in another process: its time there is what the progress has beyond the last
    row of the history.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._before = progress.seconds - (progress.history[-1]["seconds"] if progress.history else 0.0)
        self._began = self._wall = time.perf_counter()
        self._cpu = time.process_time()

    def epoch_seconds(self) -> float:
        """Of all processes that worked on the epoch, as :attr:`Progress.targets` counts them."""
        return self._before + time.perf_counter() - self._began

    def update(self) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        self._progress.seconds += wall - self._wall
        self._progress.cpu_seconds += cpu - self._cpu
        self._wall, self._cpu = wall, cpu


class NonFiniteLoss(NonFinite):
    """A loss term became NaN or infinite."""


class Terms:
    """The terms of the steps that were made and not read from the device yet.

    Args:
        n_phases: entries a batch.
    """

    def __init__(self, n_phases: int) -> None:
        self._n_phases = n_phases
        self._unread: list[tuple[int, dict[str, Tensor]]] = []

    def add(self, step: int, terms: Mapping[str, Tensor]) -> None:
        """Add the values that a phase had; they stay on the device."""
        self._unread.append((step, {name: value.detach() for name, value in terms.items()}))

    def forget(self) -> None:
        """Leave out what was not read."""
        self._unread = []

    @property
    def are_due(self) -> bool:
        """Whether so many were added that they should be read."""
        return len(self._unread) >= _READ_EVERY * self._n_phases

    def read(self, progress: Progress) -> None:
        """Read the values from the device, of all ranks, and add their means to the progress.

        Raises:
            NonFiniteLoss: one is NaN or infinite; names the term and the step.
        """
        if not self._unread:
            return
        names = [(step, name) for step, terms in self._unread for name in terms]
        values = stacked(torch.stack([value.float() for _, terms in self._unread for value in terms.values()]))
        for (step, name), of_ranks in zip(names, values.t().tolist(), strict=True):
            if wrong := [rank for rank, value in enumerate(of_ranks) if not math.isfinite(value)]:
                where = f" on rank {', '.join(map(str, wrong))} of {len(of_ranks)}" if len(of_ranks) > 1 else ""
                raise NonFiniteLoss(f"term {name!r} became {of_ranks[wrong[0]]} at step {step}{where}; {_WAY_OUT}")
            progress.add_term(name, sum(of_ranks) / len(of_ranks))
        self._unread = []


def check_finite(state: Mapping[str, Tensor], progress: Progress) -> None:
    """Refuse weights, or an optimiser's state, that the steps so far have made NaN or infinite.

    A finite term may have a gradient that is not, and after a step that is too large the next term shows it only where
    there is a next step.
    """
    if wrong := not_finite(state):
        raise NonFinite(f"{', '.join(wrong[:5])} became NaN or infinite by step {progress.step}; {_WAY_OUT}")
