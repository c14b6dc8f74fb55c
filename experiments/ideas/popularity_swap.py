"""After CDvG: a view of a sequence whose popular items are swapped for similar ones of another
popularity.

``--set 'augmentations=["crop","popularity_swap"]'``
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

import recgraph as rg
from recgraph.augment.sequence import share
from recgraph.augment.similar import SimilarityAugmentation, SimilarityConfig, nearest_tokens
from recgraph.config import Search
from recgraph.data.part import Part
from recgraph.sparse.ragged import Ragged


class PopularitySwapConfig(SimilarityConfig):
    ratio: Annotated[
        float, Field(ge=0, le=1, description="the share that is swapped"), Search(low=0.1, high=0.9)
    ] = 0.3
    n_groups: Annotated[
        int,
        Field(
            ge=2,
            description="groups of popularity, each with about the same number of interactions",
        ),
        Search(choices=(2, 3, 5, 10)),
    ] = 5
    swap: Annotated[
        Literal["other", "rarer"],
        Field(description="for an item of any other group, or of a less popular one"),
    ] = "other"
    popularity_power: Annotated[
        float,
        Field(
            ge=0,
            description="places are drawn in proportion to (interactions of their item) ** this; 0: uniformly",
        ),
        Search(low=0.0, high=2.0),
    ] = 1.0
    n_candidates: Annotated[
        int,
        Field(
            ge=1,
            description="the most similar items, among which those of other groups are looked for",
        ),
    ] = 50


@rg.register("augmentation")
class PopularitySwap(SimilarityAugmentation):
    """Swap ``max(floor(ratio * length), 1)`` items, the popular ones first, for similar items of
    another popularity.

    The view has another bias (how popular its items are) and the same preference (which items go
    together). Places are drawn one after the other without replacement, place t with probability
    ``n_t^p / sum over those left of n^p``, n the interactions of its item in training, p
    ``popularity_power``. The item i at a place becomes one of the ``n_similar`` items most similar
    to it among those with ``g(j) != g(i)`` (``swap="rarer"``: ``g(j) < g(i)``), of its
    ``n_candidates`` nearest; g is :func:`popularity_groups`. An item with no such neighbour stays.

    Source: after Jung, Shim, Yang and Yang, Fighting Fire with Fire: Contrastive Debiasing without
    Bias-free Data via Generative Bias-transformation (CDvG, 2021), which learns a translation model
    that finds the bias by itself and keeps what the task needs by reconstruction: here the bias is
    named, and what is kept is co-occurrence.
    """

    Config = PopularitySwapConfig

    def setup(self, train: Part) -> None:
        config, counts = self.config, train.item_counts()
        nearest = nearest_tokens(train, config.n_candidates)
        groups = popularity_groups(counts, config.n_groups)
        groups = torch.cat([groups.new_zeros(1), groups])
        own, of_nearest = groups[:, None], groups[nearest]
        fits_mask = (of_nearest < own if config.swap == "rarer" else of_nearest != own) & (
            nearest > 0
        )
        first = torch.argsort((~fits_mask).to(torch.int8), dim=1, stable=True)[
            :, : config.n_similar
        ]
        self._similar = torch.where(fits_mask, nearest, 0).gather(1, first)
        # a masked item is swapped for nothing
        self._weights = (
            torch.cat([counts.new_zeros(1), counts]).to(torch.float64) ** config.popularity_power
        )
        self._weights[0] = 0

    def augment(self, sequences: Ragged, generator: torch.Generator) -> Ragged:
        weights = self._weights.to(sequences.device)[sequences.values]
        counts = share(sequences.lengths, self.config.ratio, at_least=1)
        places = torch.nonzero(choose_by_weight(sequences, weights, counts, generator)).squeeze(1)
        found = self.similar(sequences.values[places], generator)
        values = sequences.values.clone()
        values[places] = torch.where(found > 0, found, values[places])
        return sequences.with_values(values)


def popularity_groups(counts: Tensor, n_groups: int) -> Tensor:
    """[n_items] int64: ``floor(n_groups * (interactions of rarer items + half of those of equally
    popular ones) / all)``, 0 the least popular ones; items of the same count are of one group."""
    levels, level_of = torch.unique(counts, return_inverse=True)
    mass = levels * torch.bincount(level_of, minlength=len(levels))
    # integers: twice the interactions before the middle of each level
    middle = 2 * mass.cumsum(0) - mass
    return ((n_groups * middle) // (2 * mass.sum()).clamp(min=1))[level_of]


def choose_by_weight(
    sequences: Ragged, weights: Tensor, counts: Tensor, generator: torch.Generator
) -> Tensor:
    """[T] bool: ``counts[r]`` places of each row, drawn one after the other in proportion to their
    weights among those left; a place of weight 0 comes after all others."""
    # a race of exponential clocks: the order in which they ring is that of the draws
    uniform = torch.rand(
        weights.shape, generator=generator, device=weights.device, dtype=torch.float64
    )
    order = torch.argsort(-uniform.log() / weights)
    order = order[torch.argsort(sequences.rows[order], stable=True)]
    first_mask = sequences.positions < counts[sequences.rows]
    return torch.zeros_like(first_mask).index_fill_(0, order[first_mask], True)
