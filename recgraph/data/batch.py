"""What a model is given: training batches of sequences or pairs, and the queries of a ranking."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged


@dataclass(frozen=True)
class Query:
    """Whom to rank for.

    Attributes:
        users: [B] int64 user indices; -1 for a user never seen in training.
        history: B rows of item indices (0-based), oldest first; may be empty.
    """

    users: Tensor
    history: Ragged

    def to(self, device: torch.device | str) -> Query:
        return Query(self.users.to(device), self.history.to(device))

    def __len__(self) -> int:
        return self.users.numel()


@dataclass(frozen=True)
class SequenceBatch:
    """Training samples of a sequence model. A token is ``item_idx + 1``; token 0 is a masked item.

    Attributes:
        users: [B] int64.
        sequences: B rows of input tokens, oldest first, at most ``max_len``.
        targets: tokens to predict: [B] after each row (``regime="prefix"``), or [T] after each input token
            (``"causal"``, aligned with ``sequences.values``).
        contrast: B rows of tokens from which contrastive views are drawn.
        contrast_targets: [B] the token that follows each row of ``contrast``.
        causal: whether there is a target after each input token.
        generators: the run's random streams, on the batch's device.
        partners: B rows of tokens followed by the same target as ``contrast``'s; None where not asked for.
        drawn: what a model draws once for all phases of the batch (its views).
    """

    users: Tensor
    sequences: Ragged
    targets: Tensor
    contrast: Ragged
    contrast_targets: Tensor
    causal: bool
    generators: Generators
    partners: Ragged | None = None
    drawn: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def n_targets(self) -> int:
        """How many recommendation targets the batch holds (the unit of training speed)."""
        return self.targets.numel()

    def to(self, device: torch.device | str) -> SequenceBatch:
        return replace(
            self,
            users=self.users.to(device),
            sequences=self.sequences.to(device),
            targets=self.targets.to(device),
            contrast=self.contrast.to(device),
            contrast_targets=self.contrast_targets.to(device),
            partners=None if self.partners is None else self.partners.to(device),
        )


@dataclass(frozen=True)
class PairBatch:
    """Training samples of a user-item model.

    Attributes:
        users: [B] int64.
        items: [B] int64, 0-based: an item that the user chose.
        negatives: [B, K] int64, 0-based: items to rank below it; K = 0 where the loss needs none.
        generators: the run's random streams.
        epoch: from 0; what is drawn once an epoch depends on it, so that a resumed run draws the same.
    """

    users: Tensor
    items: Tensor
    negatives: Tensor
    generators: Generators
    epoch: int = 0

    @property
    def n_targets(self) -> int:
        return self.users.numel()

    def to(self, device: torch.device | str) -> PairBatch:
        moved = (self.users.to(device), self.items.to(device), self.negatives.to(device))
        return PairBatch(*moved, generators=self.generators, epoch=self.epoch)


@runtime_checkable
class Batches(Protocol):
    """The training batches of a run, epoch by epoch.

    ``epoch(n, start)`` yields the batches of epoch ``n`` from batch ``start`` on. Their order depends on the seed and
    on ``n`` alone, so that a resumed run sees what an uninterrupted one would have seen.
    """

    def __len__(self) -> int:
        """Batches an epoch."""

    def epoch(self, number: int, start: int = 0) -> Iterator[Any]:
        """The batches of one epoch."""
