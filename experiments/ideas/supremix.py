"""SupReMix: mixtures that follow the order of ratings. ``recgraph train supremix_cl4srec --import
...``
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

import recgraph as rg
from recgraph.config import Search
from recgraph.contrast.blockwise import Candidates, mean_loss
from recgraph.contrast.objectives import InfoNCE, ObjectiveConfig, Views
from recgraph.contrast.parts import Pairs
from recgraph.contrast.term import Contrast, ContrastiveTerm
from recgraph.contrast.weights import Weight
from recgraph.data.batches import SequenceBatch
from recgraph.data.part import Part
from recgraph.models.sequence.contrastive import CL4SRec, CL4SRecConfig
from recgraph.sparse.blocks import unit_length


class SupReMixConfig(ObjectiveConfig):
    power: Annotated[
        float, Field(ge=0, description="of the distance of labels in weights"), Search(0.5, 2)
    ] = 1.0
    n_negatives: Annotated[
        int, Field(ge=1, description="S, hardest negatives that are mixed"), Search(1, 32)
    ] = 8
    max_share: Annotated[
        float, Field(gt=0, lt=1, description="greatest share of the anchor in a mixture")
    ] = 0.5
    positive_share: Annotated[
        float, Field(ge=0, le=1, description="share of anchors whose positive is mixed")
    ] = 0.5
    window: Annotated[
        float, Field(gt=0, description="gamma, in deviations of labels"), Search(0.5, 3)
    ] = 2.0


@rg.register("objective", "supremix")
class SupReMix(InfoNCE):
    """InfoNCE weighted by the distance of labels, with mixtures as harder negatives and harder
    positives.

    - candidates: ``w_ij = (|y_i - y_j| / deviation)^power``, so that one of the anchor's own label
      is none;
    - further negatives: of each anchor the S candidates n of another label that are most similar to
      it give ``a x_i + (1 - a) n``, a drawn between 0 and ``max_share``, with weight ``(1 - a) |y_i
      - y_n| / deviation``;
    - positive: candidates j and k with ``y_i - gamma <= y_j < y_i < y_k <= y_i + gamma``, drawn for
      each anchor, give ``b y_j + (1 - b) y_k`` with the b for which the mixed label is y_i. It is
      in the place of the anchor's positive with probability ``positive_share``, where there are
      such candidates.

    Mixtures are of directions and as long as the negative, or the first of the two; they have
    gradients.

    Source: Wu et al., Mixup Your Own Pairs (SupReMix), 2023: anchor-inclusive and anchor-exclusive
    mixtures at the level of embeddings, weighted by label distance. Departures: the hardest
    negatives are mixed, not all; one positive for each anchor, which a mixture replaces; distances
    are in deviations of the labels, so that the scale of ratings does not matter. The paper's text
    beyond its summary was not at hand.

    Attributes:
        labels: [B], of the rows of both views; a model sets them before each call.
    """

    Config = SupReMixConfig
    splits = False
    draws = True
    labels: Tensor

    def evaluate(
        self,
        x: Tensor,
        y: Tensor,
        candidates: Candidates,
        weight: Weight | None,
        pairs: Pairs | None,
        views: Views,
    ) -> tuple[Tensor, Tensor]:
        config, n, draw, own = self.config, len(x), views.generator, candidates.positives
        assert draw is not None

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=draw, device=draw.device, dtype=torch.float64).to(y)

        labels = self.labels.to(y)
        deviation = labels.std(correction=0)
        deviation = torch.where(deviation > 0, deviation, 1)
        signed = (
            labels - labels[:, None]
        ) / deviation  # [N, M]: above 0 where the candidate's label is higher
        s, distance = x @ y.t(), signed.abs()
        log_w = torch.where(
            distance > 0, config.power * distance.clamp(min=1e-12).log(), -torch.inf
        )
        units, lengths = unit_length(y), y.norm(dim=1)
        # negatives
        hardest = (
            s.detach()
            .masked_fill(distance == 0, -torch.inf)
            .topk(min(config.n_negatives, n), dim=1)
            .indices
        )
        share = config.max_share * uniform(*hardest.shape)
        negatives = _mixed(share, unit_length(x)[:, None], units[hardest], lengths[hardest])
        of_mixed = ((1 - share) * distance.gather(1, hardest)).log()
        further = torch.einsum("nd,nsd->ns", x, negatives) + of_mixed
        # positives
        below, above = ((signed * sign > 0) & (distance <= config.window) for sign in (-1, 1))
        drawn = [
            (mask | ~mask.any(1, keepdim=True)).double().multinomial(1, generator=draw)
            for mask in (below, above)
        ]
        first, second = (places[:, 0] for places in drawn)
        between = labels[second] - labels[first]
        part = torch.where(
            between == 0, 0, (labels[second] - labels) / torch.where(between == 0, 1, between)
        )
        exists = below.any(1) & above.any(1) & (uniform(n) < config.positive_share)
        positive = torch.where(
            exists[:, None], _mixed(part, units[first], units[second], lengths[first]), y[own]
        )
        s_own = torch.linalg.vecdot(x, positive)
        t = torch.cat(
            [(s + log_w).scatter(1, own[:, None], -torch.inf), further, s_own[:, None]], 1
        )
        return mean_loss(candidates, x, [t.logsumexp(1)], s_own)


def _mixed(share: Tensor, one: Tensor, other: Tensor, length: Tensor) -> Tensor:
    """``share one + (1 - share) other`` of directions [..., D], of this length [...]."""
    return (
        unit_length(torch.lerp(other, one.expand_as(other), share[..., None])) * length[..., None]
    )


class SupReMixCL4SRecConfig(CL4SRecConfig):
    contrast: Contrast = Contrast(objective="supremix")


@rg.register("model", "supremix_cl4srec")
class SupReMixCL4SRec(CL4SRec):
    """CL4SRec whose rows have a label, the rating of the interaction that follows them; in one
    process.
    """

    Config = SupReMixCL4SRecConfig

    def setup(self, train: Part) -> None:
        super().setup(train)
        assert train.ratings is not None, "the log has no ratings"
        self._keys, order = (train.items.rows * train.n_items + train.items.values).sort()
        self._ratings = train.ratings[order].float()

    def contrast_by(
        self, term: ContrastiveTerm, batch: SequenceBatch, a: Tensor, b: Tensor
    ) -> Tensor:
        assert self.space is not None
        keys = batch.users * self.space.n_items + batch.contrast_targets - 1
        term.objective.labels = self._ratings.to(a.device)[
            torch.searchsorted(self._keys.to(a.device), keys)
        ]
        return super().contrast_by(term, batch, a, b)
