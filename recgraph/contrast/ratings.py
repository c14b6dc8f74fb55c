"""Parts that read an ordered label of each row, as the rating of the interaction that a sequence leads to.

A row without a label (NaN) has the full weight of :class:`LabelDistance` and is not mixed by :class:`SupReMix`. The
objective that reads labels is :mod:`recgraph.contrast.conr`.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from recgraph.config import Search
from recgraph.contrast.blockwise import Candidates
from recgraph.contrast.log_sums import hardest
from recgraph.contrast.mixtures import Mixed, Mixture, MixtureConfig, generator_of
from recgraph.contrast.views import Pairs, Views
from recgraph.contrast.weights import Weight, WeightConfig
from recgraph.unit_length import unit_length

__all__ = ["LabelDistance", "SupReMix", "deviation", "labelled"]


def labelled(who: object, *labels: Tensor | None) -> list[Tensor]:
    """The labels that a part must have.

    Raises:
        ValueError: there are none.
    """
    found = [one for one in labels if one is not None]
    if len(found) < len(labels):
        raise ValueError(
            f"{type(who).__name__} reads an ordered label of each row, and there is none: use it with a log that has "
            "ratings, in a model that hands them on, or without ratings another part"
        )
    return found


class LabelDistanceConfig(WeightConfig):
    power: Annotated[
        float, Field(ge=0, description="of the distance of two labels; 0: 1 between labels that differ"), Search(0.5, 2)
    ] = 1.0


class LabelDistance(Weight):
    """``w_ij = (|y_i - y_j| / deviation of the candidates' labels)^power``: what is far in label counts as far.

    Candidates with the anchor's own label have weight 0: they are no negatives. Where a label is not known, w is 1.

    Source: the distance-magnifying weights of SupReMix (Wu et al., Mixup Your Own Pairs, 2023), of negatives alone.
    Departure: distances are divided by the labels' deviation, so that the scale of ratings does not matter.
    """

    Config = LabelDistanceConfig
    reads_labels = True

    def log_w(self, pairs: Pairs) -> Tensor:
        ours, theirs = labelled(self, pairs.anchor_labels, pairs.candidate_labels)
        ours, theirs = ours.to(pairs.anchors.dtype), theirs.to(pairs.anchors.dtype)
        distance = (ours[:, None] - theirs).abs() / deviation(theirs)
        return self._log(distance).nan_to_num(nan=0.0, neginf=-math.inf)

    def log_w_beside(self, pairs: Pairs, ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        ours, theirs, beside = labelled(self, pairs.anchor_labels, pairs.candidate_labels, pairs.labels_beside)
        distance = (ours - beside).to(rows.dtype).abs() / deviation(theirs.to(rows.dtype))
        return self.log_w(pairs), self._log(distance).nan_to_num(nan=0.0, neginf=-math.inf)

    def _log(self, distance: Tensor) -> Tensor:
        log_w = distance.log() * self.config.power if self.config.power else torch.zeros_like(distance)
        return log_w.masked_fill(distance == 0, -math.inf)


def deviation(labels: Tensor) -> Tensor:
    """The deviation of the labels that are known; 1 where they do not differ."""
    # by masks: an accelerator would make the host wait for the number of those that are known
    known = ~labels.isnan()
    n_known = known.sum().clamp(min=1)
    centred = torch.where(known, labels - torch.where(known, labels, 0).sum() / n_known, 0)
    found = (centred.square().sum() / n_known).sqrt()
    return torch.where(found > 0, found, 1)


class SupReMixConfig(MixtureConfig):
    n_negatives: Annotated[
        int, Field(ge=0, description="S, hardest negatives of each anchor that are mixed with it"), Search(1, 32)
    ] = 8
    max_share: Annotated[float, Field(gt=0, lt=1, description="greatest share of the anchor in a negative mixture")] = (
        0.5
    )
    positive_share: Annotated[
        float, Field(ge=0, le=1, description="share of the anchors whose positive is a mixture, where there is one")
    ] = 0.5
    window: Annotated[
        float,
        Field(gt=0, description="gamma, greatest distance of a label in a positive mixture, in deviations"),
        Search(0.5, 3),
    ] = 2.0


class SupReMix(Mixture):
    """Mixtures that follow the order of labels, as harder negatives and harder positives.

    - negatives: of each anchor the S candidates n of another label that are most similar to it give
      ``a x_i + (1 - a) n``, a drawn between 0 and ``max_share``, with weight ``(1 - a) |y_i - y_n| / deviation``;
    - positive: candidates j and k with ``y_i - gamma <= y_j < y_i < y_k <= y_i + gamma``, drawn for each anchor, give
      ``b y_j + (1 - b) y_k`` with the b for which the mixed label is y_i. It is in the place of the anchor's positive
      with probability ``positive_share``.

    Mixtures are of directions and as long as the negative, or the first of the two; they have gradients. An anchor
    without a label, or without labels on both sides (the least and the greatest rating), keeps its positive.

    Source: Wu et al., Mixup Your Own Pairs (SupReMix), 2023: anchor-inclusive and anchor-exclusive mixtures at the
    level of embeddings, weighted by label distance (the weights of the candidates themselves are the weight
    ``label_distance``). Departures: the hardest negatives are mixed, not all; one positive for each anchor, which a
    mixture replaces. The paper's text beyond its summary was not at hand.
    """

    Config = SupReMixConfig
    reads_labels = True

    def forward(self, x: Tensor, y: Tensor, candidates: Candidates, views: Views) -> Mixed:
        of_a, of_b = labelled(self, views.labels_a, views.labels_b)
        of_a, of_b, generator = of_a.to(y.dtype), of_b.to(y.dtype), generator_of(views)
        further, log_w = self._negatives(x, y, candidates, of_a, of_b, generator)
        return Mixed(y, self._positives(y, candidates, of_a, of_b, generator), further, log_w)

    def _negatives(
        self, x: Tensor, y: Tensor, candidates: Candidates, of_a: Tensor, of_b: Tensor, generator: torch.Generator
    ) -> tuple[Tensor | None, Tensor | None]:
        if not self.config.n_negatives:
            return None, None
        barred = candidates.barred
        chosen = hardest(x, y, self.config.n_negatives, barred, labels=(of_a, of_b))
        share = self.config.max_share * _uniform(chosen.shape, generator, y)
        distance = (1 - share) * (of_a[:, None] - of_b[chosen]).abs() / deviation(of_b)
        # an anchor with fewer than S such candidates gets others in the last places, which do not count
        log_w = distance.log().nan_to_num(nan=-math.inf, neginf=-math.inf)
        is_barred = (chosen[:, :, None] == barred[:, None]).any(-1)
        units, lengths = _directions(y)
        # unlike units[chosen], whose gradient takes several times as long
        those = [of.index_select(0, chosen.flatten()).view(*chosen.shape, *of.shape[1:]) for of in (units, lengths)]
        mixed = _mixed(share, unit_length(x)[:, None], *those)
        return mixed, log_w.masked_fill(is_barred, -math.inf)

    def _positives(
        self, y: Tensor, candidates: Candidates, of_a: Tensor, of_b: Tensor, generator: torch.Generator
    ) -> Tensor | None:
        if not self.config.positive_share:
            return None
        # labels that are not known come last, beyond all bounds
        ordered, places = of_b.nan_to_num(nan=math.inf).sort(stable=True)
        reach = self.config.window * deviation(of_b)
        bounds = [(of_a - reach, False), (of_a, False), (of_a, True), (of_a + reach, True)]
        lowest, low, high, highest = (torch.searchsorted(ordered, at, right=right) for at, right in bounds)
        draws = _uniform((3, len(of_a)), generator, y)
        exists = (low > lowest) & (highest > high) & ~of_a.isnan() & (draws[0] < self.config.positive_share)
        first = lowest + (draws[1] * (low - lowest)).long().clamp(min=0)
        second = high + (draws[2] * (highest - high)).long().clamp(min=0)
        # where there are none, whatever is there is left out below
        first, second = (places[at.clamp(max=len(places) - 1)] for at in (first, second))
        between = of_b[second] - of_b[first]
        share = ((of_b[second] - of_a) / torch.where(between == 0, 1, between)).nan_to_num(0.0)
        own = y.index_select(0, candidates.positives)
        units, lengths = _directions(y)
        mixed = _mixed(
            share, units.index_select(0, first), units.index_select(0, second), lengths.index_select(0, first)
        )
        return torch.where(exists[:, None], mixed, own)


def _uniform(shape: tuple[int, ...] | torch.Size, generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64).to(like)


def _directions(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [n, D] of unit length, and their lengths [n]."""
    return unit_length(x), x.norm(dim=1)


def _mixed(share: Tensor, one: Tensor, other: Tensor, length: Tensor) -> Tensor:
    """``share one + (1 - share) other`` of directions [..., D], of this length [...]."""
    mixture = torch.lerp(other, one.expand_as(other), share[..., None])
    made: Tensor = mixture * (length / mixture.norm(dim=-1).clamp(min=1e-12))[..., None]
    return made
