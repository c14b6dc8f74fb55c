"""Training batches of sequence models, packed: one sample a prefix, or one sample a sequence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from recgraph.data.batch import SequenceBatch
from recgraph.data.part import Part
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged

Regime = Literal["prefix", "causal"]
ContrastOf = Literal["prefix", "sequence"]


def sequence_batches(
    train: Part,
    regime: Regime,
    *,
    batch_size: int,
    max_len: int,
    generators: Generators,
    contrast_of: ContrastOf = "prefix",
    partners: bool = False,
    drop_last: bool = False,
) -> SequenceBatches:
    """The training batches of a sequence model.

    Args:
        train: users with fewer than two interactions give no sample.
        regime: ``"prefix"``: every prefix of a user's items is a sample, its target the next item (as published).
            ``"causal"``: every user is one sample, with a target after each item.
        batch_size: samples a batch.
        max_len: prefixes keep their last ``max_len`` items; causal samples the user's last ``max_len + 1``.
        generators: of the run.
        contrast_of: in the causal regime, what views are drawn from: a prefix of random length, drawn anew each
            epoch, or the whole sequence. Prefix samples are contrasted as they are.
        partners: also draw, for each sample, a sequence with the same target (DuoRec's semantic positive).
        drop_last: leave out the last batch of an epoch where it is not full.

    Raises:
        ValueError: no user has two interactions, or ``drop_last`` and not one batch is full.
    """
    kind = {"prefix": PrefixBatches, "causal": CausalBatches}[regime]
    return kind(train, batch_size, max_len, generators, contrast_of, partners, drop_last)


class SequenceBatches:
    """Shuffled batches whose order depends on the seed and the epoch alone; rows of a batch are sorted by length."""

    causal: bool

    def __init__(
        self,
        train: Part,
        batch_size: int,
        max_len: int,
        generators: Generators,
        contrast_of: ContrastOf,
        partners: bool,
        drop_last: bool,
    ) -> None:
        self.tokens = train.items.with_values(train.items.values + 1)
        self.batch_size, self.max_len, self.generators = batch_size, max_len, generators
        self.contrast_of, self.drop_last = contrast_of, drop_last
        self.sample_rows, self.sample_ends = self._samples()
        if not self.sample_rows.numel():
            raise ValueError(f"train: none of {train.n_users} users has two interactions; nothing to predict")
        if not len(self):
            raise ValueError(
                f"batch_size = {batch_size} is more than the {self.n_samples} samples, and drop_last is set"
            )
        self._partners = _SameTarget(self.tokens, max_len) if partners else None

    def _samples(self) -> tuple[Tensor, Tensor]:
        """-> [S] int64 the row of each sample, [S] int64 the index in the row of its last target."""
        raise TypeError(f"{type(self).__name__} must define _samples")

    @property
    def n_samples(self) -> int:
        return self.sample_rows.numel()

    def __len__(self) -> int:
        return self.n_samples // self.batch_size if self.drop_last else -(-self.n_samples // self.batch_size)

    def epoch(self, number: int, start: int = 0) -> Iterator[SequenceBatch]:
        """The batches of an epoch, from batch ``start`` on."""
        order = torch.randperm(self.n_samples, generator=self.generators.fresh("order", number))
        for index in range(start, len(self)):
            chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
            lengths = self.sample_ends[chosen].clamp(max=self.max_len)
            chosen = chosen[torch.argsort(lengths, stable=True)]
            drawn = self.generators.fresh("samples", number, index)
            yield self._batch(self.sample_rows[chosen], self.sample_ends[chosen], drawn)

    def _batch(self, rows: Tensor, ends: Tensor, drawn: torch.Generator) -> SequenceBatch:
        lengths = ends.clamp(max=self.max_len)
        starts = ends - lengths
        inputs = self.tokens.window(rows, starts, lengths)
        of_contrast = self._contrast_lengths(lengths, drawn)
        contrast = inputs if of_contrast is lengths else inputs.first(of_contrast)
        contrast_targets = self.tokens.values[self.tokens.offsets[rows] + starts + of_contrast]
        targets = self.tokens.window(rows, starts + 1, lengths).values if self.causal else contrast_targets
        return SequenceBatch(
            rows,
            inputs,
            targets,
            contrast,
            contrast_targets,
            causal=self.causal,
            generators=self.generators,
            partners=self._partners.draw(contrast_targets, drawn) if self._partners else None,
        )

    def _contrast_lengths(self, lengths: Tensor, drawn: torch.Generator) -> Tensor:
        return lengths


class PrefixBatches(SequenceBatches):
    """One sample a prefix."""

    causal = False

    def _samples(self) -> tuple[Tensor, Tensor]:
        later_mask = self.tokens.positions > 0
        return self.tokens.rows[later_mask], self.tokens.positions[later_mask]


class CausalBatches(SequenceBatches):
    """One sample a sequence, with a target after each of its items."""

    causal = True

    def _samples(self) -> tuple[Tensor, Tensor]:
        rows = (self.tokens.lengths > 1).nonzero().squeeze(1)
        return rows, self.tokens.lengths[rows] - 1

    def _contrast_lengths(self, lengths: Tensor, drawn: torch.Generator) -> Tensor:
        if self.contrast_of == "sequence":
            return lengths
        part = torch.rand(lengths.numel(), generator=drawn)
        return torch.minimum((part * lengths).long() + 1, lengths)


class _SameTarget:
    """Draws, for a target, a prefix that it follows, all such prefixes equally likely (the anchor's own included)."""

    def __init__(self, tokens: Ragged, max_len: int) -> None:
        later_mask = tokens.positions > 0
        order = torch.argsort(tokens.values[later_mask], stable=True)
        self.tokens, self.max_len = tokens, max_len
        self.rows, self.ends = tokens.rows[later_mask][order], tokens.positions[later_mask][order]
        counts = torch.bincount(tokens.values[later_mask])
        self.bounds = torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    def draw(self, targets: Tensor, drawn: torch.Generator) -> Ragged:
        first, end = self.bounds[targets], self.bounds[targets + 1]
        part = torch.rand(targets.numel(), generator=drawn, dtype=torch.float64)
        index = torch.minimum(first + (part * (end - first)).long(), end - 1)
        lengths = self.ends[index].clamp(max=self.max_len)
        return self.tokens.window(self.rows[index], self.ends[index] - lengths, lengths)
