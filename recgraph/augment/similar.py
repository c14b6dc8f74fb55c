"""Augmentations that put in similar items: insert and substitute."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from recgraph.augment.sequence import (
    AugmentationConfig,
    SequenceAugmentation,
    choose_within,
    share,
    uniform_up_to,
)
from recgraph.config import Search
from recgraph.data.part import Part
from recgraph.sparse.products import distinct, neighbours, presence
from recgraph.sparse.ragged import Ragged


class SimilarityConfig(AugmentationConfig):
    n_similar: Annotated[
        int,
        Field(ge=1, description="a similar item is drawn from the n_similar most similar ones"),
        Search(low=1, high=20, log=True),
    ] = 1


class SimilarityAugmentation(SequenceAugmentation):
    """Base of augmentations that put in similar items; :meth:`setup` must have seen the training
    part.

    The similarity of items i and j is ``sum over common users u of 1 / log(1 + n_u) / sqrt(n_i
    n_j)``, with n_u the number of items of a user and n_i the number of users of an item
    (ItemCF-IUF).

    Source: the memory-based similarity of CoSeRec: Liu et al., Contrastive Self-supervised
    Sequential Recommendation with Robust Augmentation, 2021, section 3.2. Departures: CoSeRec later
    also compares learned item embeddings; it always takes the most similar item (``n_similar=1``);
    an item without a similar one is left alone, where the published code puts in an arbitrary item.
    """

    Config = SimilarityConfig

    def __init__(self, config: SimilarityConfig | None = None, /, **settings: object) -> None:
        super().__init__(config, **settings)
        self._similar: Tensor | None = None

    def setup(self, train: Part) -> None:
        """Compute the similar items of each item."""
        self._similar = nearest_tokens(train, self.config.n_similar)

    def similar(self, tokens: Tensor, generator: torch.Generator) -> Tensor:
        """A similar item for each token, uniform among its most similar ones.

        Args:
            tokens: [K] int64.

        Returns:
            [K] int64 tokens; 0 for a token that has no similar item.
        """
        assert self._similar is not None, "call setup(train) before"
        self._similar = self._similar.to(tokens.device)
        of_tokens = self._similar[tokens]
        known = (of_tokens > 0).sum(1)
        chosen = uniform_up_to((known - 1).clamp(min=0), generator)
        return of_tokens.gather(1, chosen[:, None]).squeeze(1)


def nearest_tokens(train: Part, k: int) -> Tensor:
    """[n_items + 1, k]: the most similar items of each token by the similarity of
    :class:`SimilarityAugmentation`.

    Most similar first, as tokens. Row 0, the masked item, has none; unused places hold 0.
    """
    rows = distinct(train.items, train.n_items)
    per_user = 1 / torch.log1p(rows.lengths.clamp(min=1).to(torch.float64))
    index, similarity = neighbours(presence(rows, train.n_items, per_user), k)
    of_items = torch.where(similarity > 0, index + 1, 0)
    return torch.cat([of_items.new_zeros(1, k), of_items])


class InsertConfig(SimilarityConfig):
    ratio: Annotated[
        float,
        Field(
            ge=0, le=1, description="the share of the sequence before which a similar item is put"
        ),
        Search(low=0.1, high=0.9),
    ] = 0.4


class Insert(SimilarityAugmentation):
    """Put a similar item before each of ``max(floor(ratio * length), 1)`` items, uniform without
    replacement.

    Rows grow by up to that number; for an encoder of a fixed length keep their last tokens
    (``Ragged.last``, or ``max_len`` of :class:`TwoViews`).

    Source: CoSeRec (Liu et al., 2021), section 3.3; the published code's rate .4, one item a place.
    Departures: see :class:`SimilarityAugmentation`.
    """

    Config = InsertConfig

    def augment(self, sequences: Ragged, generator: torch.Generator) -> Ragged:
        counts = share(sequences.lengths, self.config.ratio, at_least=1)
        places = torch.nonzero(choose_within(sequences, counts, generator)).squeeze(1)
        items = self.similar(sequences.values[places], generator)
        places, items = places[items > 0], items[items > 0]

        added = torch.zeros_like(sequences.values).index_fill_(0, places, 1)
        moved = torch.arange(added.numel(), device=added.device) + added.cumsum(0)
        values = sequences.values.new_empty(added.numel() + places.numel())
        values[moved] = sequences.values
        values[moved[places] - 1] = items
        lengths = sequences.lengths.index_add(0, sequences.rows[places], torch.ones_like(places))
        return Ragged.from_lengths(values, lengths)


class SubstituteConfig(SimilarityConfig):
    ratio: Annotated[
        float,
        Field(ge=0, le=1, description="the share of the sequence that is substituted"),
        Search(low=0.1, high=0.9),
    ] = 0.1


class Substitute(SimilarityAugmentation):
    """Put a similar item in the place of ``max(floor(ratio * length), 1)`` items, uniform without
    replacement.

    Source: CoSeRec (Liu et al., 2021), section 3.3; the published code's rate .1. Departures: see
    :class:`SimilarityAugmentation`.
    """

    Config = SubstituteConfig

    def augment(self, sequences: Ragged, generator: torch.Generator) -> Ragged:
        counts = share(sequences.lengths, self.config.ratio, at_least=1)
        places = torch.nonzero(choose_within(sequences, counts, generator)).squeeze(1)
        items = self.similar(sequences.values[places], generator)
        values = sequences.values.clone()
        values[places] = torch.where(items > 0, items, values[places])
        return sequences.with_values(values)
