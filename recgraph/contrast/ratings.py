"""Parts that read an ordered label of each row, as the rating of the interaction that a sequence leads to.

A row without a label (NaN) is no anchor of :class:`ConR`, has the full weight of :class:`LabelDistance`, and is not
mixed by :class:`SupReMix`.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from recgraph.accelerated import full_precision
from recgraph.blocks import row_blocks
from recgraph.config import Search
from recgraph.contrast.blockwise import Candidates
from recgraph.contrast.log_sums import hardest, log_sums
from recgraph.contrast.mixtures import Mixed, Mixture, MixtureConfig, generator_of
from recgraph.contrast.non_contrastive import in_pairs
from recgraph.contrast.objectives import BlockRows, Objective, ObjectiveBaseConfig, Outcome
from recgraph.contrast.views import Pairs, Similarity, Views
from recgraph.contrast.weights import Weight, WeightConfig

__all__ = ["ConR", "LabelDistance", "SupReMix"]


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

    def log_w(self, pairs: Pairs) -> Tensor:
        ours, theirs = labelled(self, pairs.anchor_labels, pairs.candidate_labels)
        ours, theirs = ours.to(pairs.anchors.dtype), theirs.to(pairs.anchors.dtype)
        distance = (ours[:, None] - theirs).abs() / deviation(theirs)
        return self._log(distance).nan_to_num(nan=0.0, neginf=-math.inf)

    def log_w_beside(self, pairs: Pairs, ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        # what stands beside the candidates has no label here
        return self.log_w(pairs), rows.new_zeros(len(rows))

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
        chosen = hardest(x, y, self.config.n_negatives, barred)
        share = self.config.max_share * _uniform(chosen.shape, generator, y)
        distance = (1 - share) * (of_a[:, None] - of_b[chosen]).abs() / deviation(of_b)
        # no mixture of rows of one label, of labels that are not known, or of a row that is no candidate
        log_w = distance.log().nan_to_num(nan=-math.inf, neginf=-math.inf)
        is_barred = (chosen[:, :, None] == barred[:, None]).any(-1)
        return _mixed(share, x[:, None], y[chosen], y[chosen]), log_w.masked_fill(is_barred, -math.inf)

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
        return torch.where(exists[:, None], _mixed(share, y[first], y[second], y[first]), own)


def _uniform(shape: tuple[int, ...] | torch.Size, generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64).to(like)


def _mixed(share: Tensor, one: Tensor, other: Tensor, length_of: Tensor) -> Tensor:
    """``share one + (1 - share) other`` of directions, as long as the rows of ``length_of``."""
    sides = [F.normalize(row, dim=-1) for row in (one, other)]
    mixture = torch.lerp(sides[1], sides[0].expand_as(sides[1]), share[..., None])
    made: Tensor = F.normalize(mixture, dim=-1) * length_of.norm(dim=-1, keepdim=True)
    return made


class ConRConfig(ObjectiveBaseConfig):
    window: Annotated[
        float,
        Field(ge=0, description="omega, greatest distance of a positive's label, in deviations"),
        Search(0.0, 1.0),
    ] = 0.5
    near: Annotated[
        float,
        Field(ge=-1, le=1, description="cosine from which on a row of a far label is a negative"),
    ] = 0.0
    push: Annotated[
        float,
        Field(ge=0, description="e, how much more a negative counts the further its label"),
        Search(0.01, 2.0, log=True),
    ] = 0.2
    rarity: Annotated[
        float,
        Field(ge=0, description="power of the inverse frequency of an anchor's label; 0: all count the same"),
    ] = 0.5
    block_rows: BlockRows = None


class ConR(Objective):
    """``mean_i eta_i mean_{p in P_i} -log(e^{s_ip} / (sum_{q in P_i} e^{s_iq} + sum_{n in N_i} w_in e^{s_in}))``.

    Anchors and candidates are the rows of both views with a label y. Positives P_i have labels within ``window``
    deviations of y_i; negatives N_i have labels further off although their cosine with i is at least ``near``, and
    ``w_in = eta_i e^{push |y_i - y_n|}``. ``eta_i`` is the inverse frequency of labels near y_i among the rows, to the
    power ``rarity``, with mean 1. An anchor without a positive or without a negative has loss 0.

    Source: Keramati et al., ConR: Contrastive Regularizer for Deep Imbalanced Regression (ICLR 2024), as in the
    authors' code. Departures: the paper takes as negatives rows whose *predicted* labels are near; a recommender
    predicts none, so that the cosine says what the model takes for near; frequencies are counted in the batch;
    distances are in deviations of the labels. Evaluated over blocks of rows; the mean over positives is a difference of
    running sums of the rows in the order of their labels.
    """

    Config = ConRConfig
    needs_pairs = True
    pairwise = False

    def forward(self, views: Views, similarity: Similarity, weight: Weight | None) -> Outcome:
        labels = labelled(self, views.labels_a, views.labels_b)
        y, rows = torch.cat(labels), torch.cat(in_pairs(views))
        known = ~y.isnan()
        y, rows = y[known].to(rows.dtype), rows[known]
        n = len(y)
        if n < 2:
            zero = (torch.cat([views.a, views.b]) * 0).sum()
            return Outcome(zero, n, torch.tensor(n, device=y.device))
        y, order = (y / deviation(y)).sort(stable=True)
        rows = rows.index_select(0, order)
        config = self.config
        with full_precision(rows):
            a, b = similarity.shape(rows, rows)
            relations = _Relations(config.near, config.push)
            # running sums of rows in the order of labels: the sum over positives is a difference of two of them
            low, high = (torch.searchsorted(y, y + sign * config.window, right=sign > 0) for sign in (-1, 1))
            running = F.pad(b.cumsum(0), (0, 0, 1, 0))
            count = high - low - 1
            own = torch.linalg.vecdot(a, b)
            positive = (torch.linalg.vecdot(a, running[high] - running[low]) - own) / count.clamp(min=1)
            eta = (count + 1).to(y.dtype) ** -config.rarity
            eta = eta / eta.mean()
            places = torch.arange(n, device=y.device)
            of_anchors = torch.stack([y, eta.log(), low.to(y), high.to(y)], 1)
            pairs = Pairs(places, places, rows, rows, of_anchors, torch.stack([y, places.to(y)], 1))
            total = log_sums(a, b, places[:, None], relations, pairs, config.block_rows)
            has_both = (count > 0) & self._has_negative(rows, low, high)
            losses = torch.where(has_both, eta * (torch.where(has_both, total, 0) - positive), 0)
        return Outcome(losses.mean(), n, n - has_both.sum())

    @torch.no_grad()
    def _has_negative(self, rows: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """[n] bool: whether an anchor has a row near it of a far label, which is one outside [low, high)."""
        units, found = F.normalize(rows, dim=1), []
        places = torch.arange(len(rows), device=rows.device)
        for block in row_blocks(len(rows), len(rows), rows, self.config.block_rows):
            is_far = (places < low[block, None]) | (places >= high[block, None])
            found.append((is_far & (units[block] @ units.t() >= self.config.near)).any(1))
        return torch.cat(found)


class _Relations(Weight):
    """The weights of ConR: 1 for a positive, ``eta_i e^{push |y_i - y_j|}`` for a negative, 0 for other rows.

    Rows are in the order of their labels. Labels of anchors are [n, 4]: the label, the logarithm of eta, and the
    candidates from the first to before the last that are positives; those of candidates [M, 2]: the label and the place
    in the order. Nothing passes a gradient.
    """

    def __init__(self, near: float, push: float) -> None:
        super().__init__()
        self.near, self.push = near, push

    @torch.no_grad()
    def log_w(self, pairs: Pairs) -> Tensor:
        assert pairs.anchor_labels is not None
        assert pairs.candidate_labels is not None
        y, log_eta, low, high = (column[:, None] for column in pairs.anchor_labels.unbind(1))
        theirs, places = pairs.candidate_labels.unbind(1)
        is_positive = (places >= low) & (places < high)
        pushed = (y - theirs).abs_().mul_(self.push).add_(log_eta)
        return pushed.masked_fill_(pairs.cosines() < self.near, -math.inf).masked_fill_(is_positive, 0)
