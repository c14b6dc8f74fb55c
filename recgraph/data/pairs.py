"""Training batches of user-item models: an interaction a sample, with negatives for its user."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from recgraph.data.batch import PairBatch
from recgraph.data.negatives import NegativeSampler
from recgraph.data.part import Part
from recgraph.rng import Generators

__all__ = ["PairBatches"]


class PairBatches:
    """Shuffled batches of (user, item, negatives); order and negatives depend on the seed and the epoch alone.

    Args:
        train: every interaction is a sample, repeated ones as often as they occur.
        batch_size: samples a batch.
        generators: of the run.
        n_negatives: K negatives a sample; 0 where the loss draws its own.
        popularity_power: negatives ~ popularity ** power; 0 is uniform.
        exclude_own: whether the items that the user has in ``train`` are never drawn.

    Raises:
        ValueError: there is no interaction.
    """

    def __init__(
        self,
        train: Part,
        batch_size: int,
        generators: Generators,
        *,
        n_negatives: int = 1,
        popularity_power: float = 0.0,
        exclude_own: bool = True,
    ) -> None:
        if not train.n_interactions:
            raise ValueError(f"train: none of {train.n_users} users has an interaction; nothing to learn")
        self.users, self.items = train.items.rows, train.items.values
        self.batch_size, self.generators, self.n_negatives = batch_size, generators, n_negatives
        self._sampler = NegativeSampler(train, popularity_power, exclude_own) if n_negatives else None

    @property
    def n_samples(self) -> int:
        return self.items.numel()

    def __len__(self) -> int:
        return -(-self.n_samples // self.batch_size)

    def epoch(self, number: int, start: int = 0) -> Iterator[PairBatch]:
        """The batches of an epoch, from batch ``start`` on."""
        order = torch.randperm(self.n_samples, generator=self.generators.fresh("order", number))
        for index in range(start, len(self)):
            chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
            users, items = self.users[chosen], self.items[chosen]
            negatives = items.new_empty(items.numel(), 0)
            if self._sampler is not None:
                drawn = self.generators.fresh("negatives", number, index)
                negatives = self._sampler.draw(users, self.n_negatives, drawn)
            yield PairBatch(users, items, negatives, self.generators, epoch=number)
