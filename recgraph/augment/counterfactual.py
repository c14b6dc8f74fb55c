"""The counterfactual view of a sequence: its popular items swapped for similar ones of another popularity."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from recgraph.augment.sequence import first_within, share
from recgraph.augment.similar import SimilarityAugmentation, SimilarityConfig, nearest_tokens
from recgraph.config import Search
from recgraph.data.part import Part
from recgraph.sparse.ragged import Ragged


class CounterfactualConfig(SimilarityConfig):
    ratio: Annotated[
        float,
        Field(ge=0, le=1, description="the share of the sequence that is swapped"),
        Search(low=0.1, high=0.9),
    ] = 0.3
    n_groups: Annotated[
        int,
        Field(ge=2, description="groups of popularity, each with about the same number of interactions"),
        Search(choices=(2, 3, 5, 10)),
    ] = 5
    swap: Annotated[
        Literal["other", "rarer"],
        Field(description="for an item of any other group, or of a less popular one"),
        Search(choices=("other", "rarer")),
    ] = "other"
    popularity_power: Annotated[
        float,
        Field(ge=0, description="places are drawn in proportion to (interactions of their item) ** this; 0: uniformly"),
        Search(low=0.0, high=2.0),
    ] = 1.0
    n_candidates: Annotated[
        int, Field(ge=1, description="the most similar items, among which those of other groups are looked for")
    ] = 50


class Counterfactual(SimilarityAugmentation):
    """Swap ``max(floor(ratio * length), 1)`` items, the popular ones first, for similar items of another popularity.

    The view has another bias (how popular its items are) and the same preference (which items go together). Places are
    drawn one after the other without replacement, place t with probability ``n_t^p / sum over those left of n^p``, n
    the interactions of its item in training, p ``popularity_power``. The item i at a place becomes one of the
    ``n_similar`` items most similar to it among those with ``g(j) != g(i)`` (``swap="rarer"``: ``g(j) < g(i)``), of its
    ``n_candidates`` nearest; g is :func:`popularity_groups`, the similarity that of :class:`SimilarityAugmentation`. An
    item with no such neighbour stays.

    Source: the idea of CDvG: Jung, Shim, Yang and Yang, Fighting Fire with Fire: Contrastive Debiasing without
    Bias-free Data via Generative Bias-transformation (2021): a sample's bias is transformed to another mode, what the
    task needs is kept, and such views are contrasted, as ``augmentations=["counterfactual"]`` does here. Departures:
    the bias is named (popularity), where the paper learns a translation model that finds it by itself; what is kept is
    co-occurrence, where that model keeps it by reconstruction. The translation of images does not carry over.
    """

    Config = CounterfactualConfig

    def __init__(self, config: CounterfactualConfig | None = None, /, **settings: object) -> None:
        super().__init__(config, **settings)
        self._weights: Tensor | None = None

    def setup(self, train: Part) -> None:
        """Compute the similar items of other popularity of each item, and how often each place of it is drawn."""
        config, counts = self.config, train.item_counts()
        nearest = nearest_tokens(train, config.n_candidates)
        groups = popularity_groups(counts, config.n_groups)
        groups = torch.cat([groups.new_zeros(1), groups])
        own, of_nearest = groups[:, None], groups[nearest]
        fits_mask = of_nearest < own if config.swap == "rarer" else of_nearest != own
        fits_mask &= nearest > 0
        first = torch.argsort((~fits_mask).to(torch.int8), dim=1, stable=True)[:, : config.n_similar]
        self._similar = torch.where(fits_mask, nearest, 0).gather(1, first)
        # a masked item is swapped for nothing
        self._weights = torch.cat([counts.new_zeros(1), counts]).to(torch.float64) ** config.popularity_power
        self._weights[0] = 0

    def augment(self, sequences: Ragged, generator: torch.Generator) -> Ragged:
        if self._weights is None:
            raise ValueError(f"{type(self).__name__} has no similar items yet; call setup(train) before")
        self._weights = self._weights.to(sequences.device)
        counts = share(sequences.lengths, self.config.ratio, at_least=1)
        chosen_mask = choose_by_weight(sequences, self._weights[sequences.values], counts, generator)
        places = torch.nonzero(chosen_mask).squeeze(1)
        found = self.similar(sequences.values[places], generator)
        values = sequences.values.clone()
        values[places] = torch.where(found > 0, found, values[places])
        return sequences.with_values(values)


def popularity_groups(counts: Tensor, n_groups: int) -> Tensor:
    """[n_items] int64: the group of each item, 0 the least popular ones.

    Group g holds the items whose interactions, all items in ascending order of popularity, lie about the g-th of
    ``n_groups`` equal shares of all: ``floor(n_groups * (interactions of rarer items + half of those of equally popular
    ones) / all)``. Items of the same count are of one group.

    Args:
        counts: [n_items] int64, interactions.
    """
    levels, level_of = torch.unique(counts, return_inverse=True)
    mass = levels * torch.bincount(level_of, minlength=len(levels))
    # integers: twice the interactions before the middle of each level
    middle = 2 * mass.cumsum(0) - mass
    groups: Tensor = (n_groups * middle) // (2 * mass.sum()).clamp(min=1)
    return groups[level_of]


def choose_by_weight(sequences: Ragged, weights: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
    """Draw ``counts[r]`` places of each row one after the other, each in proportion to its weight among those left.

    Args:
        weights: [T], not negative; a place of weight 0 comes after all others.
        counts: [B] int64, at most the rows' lengths.

    Returns:
        [T] bool: True where a place is chosen.
    """
    # a race of exponential clocks: the order in which they ring is that of the draws
    uniform = torch.rand(weights.shape, generator=generator, device=weights.device, dtype=torch.float64)
    order = torch.argsort(-uniform.log() / weights)
    return first_within(sequences, order[torch.argsort(sequences.rows[order], stable=True)], counts)
