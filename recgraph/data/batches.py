"""The training batches of pairs and of sequences: which samples a step has, and what is drawn for them.

Samples of user-item models are interactions with negatives for their users. Samples of sequence models are prefixes or
whole sequences, packed. Their values are in :mod:`recgraph.data.samples`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from recgraph.blocks import even_bounds
from recgraph.config import ConfigError
from recgraph.data.gaps import with_gaps
from recgraph.data.negatives import NegativeSampler
from recgraph.data.part import Part
from recgraph.data.samples import PairBatch, Query, SequenceBatch, WholeBatch
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged

__all__ = [
    "Batches",
    "ContrastOf",
    "PairBatch",
    "PairBatches",
    "Query",
    "Regime",
    "SequenceBatch",
    "SequenceBatches",
    "WholeBatch",
    "sequence_batches",
]


@runtime_checkable
class Batches(Protocol):
    """The training batches of a run, epoch by epoch.

    ``epoch(n, start)`` yields the batches of epoch ``n`` from batch ``start`` on. Their order depends on the seed and
    on ``n`` alone, so that a resumed run sees what an uninterrupted one would have seen.

    Where several ranks train together (:attr:`recgraph.rng.Generators.ranks`), each rank yields the same number of
    batches, and of every batch either its share or all of it.
    """

    def __len__(self) -> int:
        """Batches an epoch."""

    def epoch(self, number: int, start: int = 0) -> Iterator[Any]:
        """The batches of one epoch."""


class PairBatches:
    """Shuffled batches of (user, item, negatives); order and negatives depend on the seed and the epoch alone.

    Args:
        train: every interaction is a sample, repeated ones as often as they occur.
        batch_size: samples a batch.
        generators: of the run.
        n_negatives: K negatives a sample; 0 where the loss draws its own.
        popularity_power: negatives ~ popularity ** power; 0 is uniform.
        exclude_own: whether the items that the user has in ``train`` are never drawn.
        shared: whether all samples of a batch have the same K negatives; ``excluded`` names a user's own items.
        n_groups: G, shared negatives are drawn for each of so many groups of a batch's samples.

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
        shared: bool = False,
        n_groups: int = 1,
    ) -> None:
        if not train.n_interactions:
            raise ValueError(f"train: none of {train.n_users} users has an interaction; nothing to learn")
        self.users, self.items = train.items.rows, train.items.values
        self.batch_size, self.generators, self.n_negatives = batch_size, generators, n_negatives
        self._positions = train.items.positions
        self._sampler = NegativeSampler(train, popularity_power, exclude_own) if n_negatives else None
        self._n_groups = n_groups if shared else None

    def places(self) -> tuple[Tensor, Tensor]:
        """-> [S] int64 the user of each sample, [S] int64 the place of its item among the user's."""
        return self.users, self._positions

    def keep(self, keep_mask: Tensor) -> None:
        """Leave all samples out but some; negatives stay those of the whole part.

        Args:
            keep_mask: [S].
        """
        self.users, self.items = self.users[keep_mask], self.items[keep_mask]
        self._positions = self._positions[keep_mask]

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
            pairs = self.users[chosen], self.items[chosen]
            share = self.generators.ranks.share_of_batch(len(chosen))
            users, items = (of_all[share.rows] for of_all in pairs)
            negatives, excluded, bounds = items.new_empty(items.numel(), 0), None, None
            if self._sampler is not None:
                drawn = self.generators.fresh("negatives", number, index)
                if self._n_groups is not None:
                    bounds = even_bounds(len(chosen), self._n_groups, share.rows)
                    negatives, excluded = self._sampler.draw_shared(users, items, self.n_negatives, drawn, bounds)
                else:
                    negatives = self._sampler.draw(pairs[0], self.n_negatives, drawn, share.rows)
            every = None if share.is_whole else pairs
            batch = PairBatch(users, items, negatives, self.generators, number, share, every)
            yield batch if excluded is None else replace(batch, excluded=excluded, bounds=bounds)


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
    gaps: bool = False,
    times: bool = False,
    views: bool = False,
) -> SequenceBatches:
    """The training batches of a sequence model.

    Args:
        train: users with fewer than two interactions give no sample.
        regime: ``"prefix"``: every prefix of a user's items is a sample, its target the next item (as published).
            ``"causal"``: every user is one sample, with a target after each item.
        batch_size: samples a batch.
        max_len: prefixes keep their last ``max_len`` items; causal samples the user's last ``max_len + 1``.
        generators: of the run.
        contrast_of: in the causal regime, what is augmented for the contrast: a prefix of random length, drawn anew
            each epoch, or the whole sequence. Prefix samples are taken as they are.
        partners: also draw, for each sample, another sequence with the same target (DuoRec's semantic positive); where
            there is none, it is the sample's own.
        drop_last: leave out the last batch of an epoch where it is not full.
        gaps: rows of inputs also hold the bucket of the time gap before each item.
        times: and the time of each item.
        views: views are drawn of the rows of ``contrast``. A rank then has these rows of the whole batch beside its
            share: what is drawn for a row depends on the rows before it. (For 4,096 rows of 50 items, building and
            drawing all of them takes a two-hundredth of the CPU time of a step on half of them.)

    Raises:
        ValueError: no user has two interactions, ``drop_last`` and not one batch is full, or ``gaps`` or ``times``
            and the log has no times.
    """
    kind = {"prefix": PrefixBatches, "causal": CausalBatches}[regime]
    return kind(train, batch_size, max_len, generators, contrast_of, partners, drop_last, gaps, times, views)


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
        gaps: bool,
        times: bool,
        views: bool,
    ) -> None:
        self.tokens = train.items.with_values(train.items.values + 1)
        #: what models read: the tokens, or pairs of token and gap, or triples with the time
        self.inputs = with_gaps(self.tokens, train.times, times) if gaps or times else self.tokens
        self.ratings = train.ratings
        self.batch_size, self.max_len, self.generators = batch_size, max_len, generators
        self.contrast_of, self.drop_last, self.views = contrast_of, drop_last, views
        self.sample_rows, self.sample_ends = self._samples()
        if not self.sample_rows.numel():
            raise ValueError(f"train: none of {train.n_users} users has two interactions; nothing to predict")
        if not len(self):
            raise ConfigError(
                f"batch_size = {batch_size} is more than the {self.n_samples} samples, and drop_last is set"
            )
        self._partners = _SameTarget(self.tokens, self.inputs, max_len) if partners else None

    def _samples(self) -> tuple[Tensor, Tensor]:
        """-> [S] int64 the row of each sample, [S] int64 the index in the row of its last target."""
        raise TypeError(f"{type(self).__name__} must define _samples")

    def places(self) -> tuple[Tensor, Tensor]:
        """-> [S] int64 the user of each sample, [S] int64 the place of its last target among the user's items."""
        return self.sample_rows, self.sample_ends

    def keep(self, keep_mask: Tensor) -> None:
        """Leave all samples out but some; partners are still drawn from the whole part.

        Args:
            keep_mask: [S].

        Raises:
            ValueError: ``drop_last`` is set and not one batch is full any more.
        """
        self.sample_rows, self.sample_ends = self.sample_rows[keep_mask], self.sample_ends[keep_mask]
        if self.n_samples and not len(self):
            raise ConfigError(
                f"batch_size = {self.batch_size} is more than the {self.n_samples} samples, and drop_last is set"
            )

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
            yield self._batch(self.sample_rows[chosen], self.sample_ends[chosen], drawn, number)

    def _batch(self, rows: Tensor, ends: Tensor, drawn: torch.Generator, epoch: int) -> SequenceBatch:
        """The samples of this rank. Draws are made for the whole batch, so that they are those of one process."""
        lengths = ends.clamp(max=self.max_len)
        starts = ends - lengths
        of_contrast = self._contrast_lengths(lengths, drawn)
        places = self.tokens.offsets[rows] + starts + of_contrast
        contrast_targets = self.tokens.values[places]
        # rows are in the order of their lengths: dealt out, all ranks have as much to do
        share = self.generators.ranks.share_of_batch(len(rows), dealt=True)
        whole = None
        if not share.is_whole:
            n_targets = int(lengths.sum()) if self.causal else len(rows)
            contrast = self.inputs.window(rows, starts, of_contrast) if self.views else None
            whole = WholeBatch(share, lengths if self.causal else torch.ones_like(lengths), n_targets, contrast)
        is_shorter, own = of_contrast is not lengths, share.rows
        rows, starts, lengths, of_contrast = rows[own], starts[own], lengths[own], of_contrast[own]
        inputs = self.inputs.window(rows, starts, lengths)
        return SequenceBatch(
            rows,
            inputs,
            self.tokens.window(rows, starts + 1, lengths).values if self.causal else contrast_targets[own],
            inputs.first(of_contrast) if is_shorter else inputs,
            contrast_targets,
            causal=self.causal,
            generators=self.generators,
            partners=self._partners.draw(places, drawn, own) if self._partners else None,
            whole=whole,
            epoch=epoch,
            labels=None if self.ratings is None else self.ratings[places].float(),
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
    """Draws, for a target, a prefix that the same item follows elsewhere, all others equally likely; where the item
    follows no other, the anchor's own (as published)."""

    def __init__(self, tokens: Ragged, inputs: Ragged, max_len: int) -> None:
        later = (tokens.positions > 0).nonzero().squeeze(1)
        later = later[torch.argsort(tokens.values[later], stable=True)]
        self.inputs, self.max_len = inputs, max_len
        self.rows, self.ends, self.targets = tokens.rows[later], tokens.positions[later], tokens.values
        # where the place of each target stands among those of the same item, which lie side by side
        self.index = torch.zeros_like(tokens.values).index_copy_(0, later, torch.arange(len(later)))
        counts = torch.bincount(tokens.values[later])
        self.bounds = torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    def draw(self, places: Tensor, drawn: torch.Generator, own: slice) -> Ragged:
        """Draw for the targets at ``places`` [B] of the tokens -> the rows of those in ``own``."""
        part = torch.rand(places.numel(), generator=drawn, dtype=torch.float64)[own]
        targets, anchors = self.targets[places[own]], self.index[places[own]]
        first, others = self.bounds[targets], self.bounds[targets + 1] - self.bounds[targets] - 1
        index = first + torch.minimum((part * others).long(), (others - 1).clamp(min=0))
        index = index + (index >= anchors) * (others > 0)
        lengths = self.ends[index].clamp(max=self.max_len)
        return self.inputs.window(self.rows[index], self.ends[index] - lengths, lengths)
