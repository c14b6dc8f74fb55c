"""The values of a training's terms: read from the device a few steps at a time, and checked, as its weights are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from recgraph.finite import NonFinite, NonFiniteWeights, not_finite
from recgraph.ranks import stacked
from recgraph.texts import listed
from recgraph.train import checkpoint as checkpoints
from recgraph.train.progress import Progress

__all__ = ["NonFiniteLoss", "Terms"]

# batches between two reads of the values: a read waits for the device
_READ_EVERY = 20
_WAY_OUT = "try a smaller learning_rate, clip_norm, or less dropout where the width is small"


class NonFiniteLoss(NonFinite):
    """A loss term became NaN or infinite."""


class Terms:
    """The terms of the steps that were made and not read yet.

    Args:
        folder: of the run, whose last good checkpoint an error names; None: there is none.
        n_phases: entries a batch.
    """

    def __init__(self, folder: Path | None, n_phases: int) -> None:
        self._folder, self._n_phases = folder, n_phases
        self._unread: list[tuple[int, dict[str, Tensor]]] = []
        self._last: dict[str, float] = {}

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
            NonFiniteLoss: one is NaN or infinite; names the term, the step and the last good checkpoint.
        """
        if not self._unread:
            return
        names = [(step, name) for step, terms in self._unread for name in terms]
        values = stacked(torch.stack([value.float() for _, terms in self._unread for value in terms.values()]))
        for (step, name), of_ranks in zip(names, values.t().tolist(), strict=True):
            if wrong := [rank for rank, value in enumerate(of_ranks) if not math.isfinite(value)]:
                where = f" on rank {', '.join(map(str, wrong))} of {len(of_ranks)}" if len(of_ranks) > 1 else ""
                raise NonFiniteLoss(
                    f"term {name!r} became {of_ranks[wrong[0]]} at step {step}{where} (epoch {progress.epoch}); "
                    f"{self._what_is_left()}"
                )
            self._last[name] = sum(of_ranks) / len(of_ranks)
            progress.add_term(name, self._last[name])
        self._unread = []

    def check(self, state: Mapping[str, Tensor], progress: Progress) -> None:
        """Refuse weights, or an optimiser's state, that the steps so far have made NaN or infinite.

        A finite term may have a gradient that is not, and after a step that is too large the next term shows it only
        where there is a next step.

        Raises:
            NonFiniteWeights: names them, the terms of the last step and the last good checkpoint.
        """
        if wrong := not_finite(state):
            terms = ", ".join(f"{name} = {value:.6g}" for name, value in self._last.items())
            raise NonFiniteWeights(
                f"{listed(wrong)} became NaN or infinite by step {progress.step} (epoch {progress.epoch}), after "
                f"finite terms ({terms or 'of none'}); {self._what_is_left()}"
            )

    def _what_is_left(self) -> str:
        good = checkpoints.latest_good(self._folder / "checkpoints") if self._folder else None
        return f"last good checkpoint: {good or 'none'}; {_WAY_OUT}"
