"""After ConR: rows are pulled to those of near ratings, and pushed from those of far ratings that
they resemble.

``recgraph train near_far_cl4srec --import experiments/ideas/near_far_labels.py``
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

import recgraph as rg
from recgraph.config import Search
from recgraph.contrast.objectives import Objective, ObjectiveBaseConfig, Outcome, Similarity, Views
from recgraph.contrast.term import Contrast, ContrastiveTerm
from recgraph.contrast.weights import Weight
from recgraph.data.batches import SequenceBatch
from recgraph.data.part import Part
from recgraph.models.sequence.contrastive import CL4SRec, CL4SRecConfig
from recgraph.sparse.blocks import unit_length
from recgraph.sparse.device import full_precision


class NearFarLabelsConfig(ObjectiveBaseConfig):
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
        Search(0.01, 2.0),
    ] = 0.2
    rarity: Annotated[
        float,
        Field(
            ge=0,
            description="power of the inverse frequency of an anchor's label; 0: all count the same",
        ),
    ] = 0.5


@rg.register("objective")
class NearFarLabels(Objective):
    """``mean_i eta_i mean_{p in P_i} -log(e^{s_ip} / (sum_{q in P_i} e^{s_iq} + sum_{n in N_i} w_in
    e^{s_in}))``.

    Anchors and candidates are the rows of both views, each with a label y. Positives P_i have
    labels within ``window`` deviations of y_i; negatives N_i have labels further off although their
    cosine with i is at least ``near``, and ``w_in = eta_i e^{push |y_i - y_n|}``. ``eta_i`` is the
    inverse frequency of labels near y_i among the rows, to the power ``rarity``, with mean 1. An
    anchor without a positive or without a negative has loss 0.

    Source: after Keramati et al., ConR: Contrastive Regularizer for Deep Imbalanced Regression
    (ICLR 2024), whose negatives are rows whose *predicted* labels are near; a recommender predicts
    none, so that the cosine says what the model takes for near. Frequencies are counted in the
    batch; distances are in deviations of the labels.

    Attributes:
        labels: [B], of the rows of both views; a model sets them before each call.
    """

    Config = NearFarLabelsConfig
    of_both_sides = True
    labels: Tensor

    def forward(self, views: Views, similarity: Similarity, weight: Weight | None) -> Outcome:
        views.check_paired()
        config = self.config
        with full_precision(views.a):
            rows = torch.cat([views.a, views.b])
            y = torch.cat([self.labels, self.labels]).to(rows)
            deviation = y.std(correction=0)
            distance = (y[:, None] - y).abs() / torch.where(deviation > 0, deviation, 1)
            other = ~torch.eye(len(y), dtype=torch.bool, device=y.device)
            positive = (distance <= config.window) & other
            cosines = unit_length(rows) @ unit_length(rows).t()
            negative = (distance > config.window) & (cosines >= config.near)
            x, z = similarity.shape(rows, rows)
            s, count = x @ z.t(), positive.sum(1)
            eta = (count + 1).to(s.dtype) ** -config.rarity
            eta = eta / eta.mean()
            has_both = positive.any(1) & negative.any(1)
            log_w = torch.where(negative, config.push * distance + eta.log()[:, None], 0)
            t = (s + log_w).masked_fill(~(positive | negative), -torch.inf)
            t = torch.where(has_both[:, None], t, 0)
            of_positives = torch.where(positive, s, 0).sum(1) / count.clamp(min=1)
            losses = torch.where(has_both, eta * (t.logsumexp(1) - of_positives), 0)
        return Outcome(losses.mean(), len(y), len(y) - has_both.sum())


class NearFarCL4SRecConfig(CL4SRecConfig):
    contrast: Contrast = Contrast(objective="near_far_labels")


@rg.register("model", "near_far_cl4srec")
class NearFarCL4SRec(CL4SRec):
    """CL4SRec whose rows have a label, the rating of the interaction that follows them; in one
    process.
    """

    Config = NearFarCL4SRecConfig

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
        places = torch.searchsorted(self._keys.to(a.device), keys)
        term.objective.labels = self._ratings.to(a.device)[places]
        return super().contrast_by(term, batch, a, b)
