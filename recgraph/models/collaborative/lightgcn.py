"""Matrix factorisation; its vectors propagated over the graph of interactions, and the limit of
that as a loss.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from recgraph import losses
from recgraph.config import PartConfig, Search
from recgraph.data.batches import PairBatch, Query
from recgraph.data.part import Part
from recgraph.encoders import graph as encoders
from recgraph.losses.pairwise import OwnNegatives, PairWeights
from recgraph.losses.scores import pair_scores
from recgraph.models.base import ModelConfig, Phase, Space, weighted
from recgraph.models.collaborative.base import CollaborativeConfig, CollaborativeModel
from recgraph.models.reading import EdgeReading, Reading
from recgraph.registry import part
from recgraph.sparse.products import distinct, neighbours, presence
from recgraph.sparse.ragged import Ragged
from recgraph.sparse.rows import touched


class BPRMF(CollaborativeModel):
    """Matrix factorisation: a user's score of an item is the inner product of their vectors.

    Source: Rendle et al., BPR: Bayesian Personalized Ranking from Implicit Feedback (UAI 2009).
    Departures: no item bias; Adam instead of plain SGD; the loss can be another than BPR.
    """

    def _build(self, space: Space) -> None:
        super()._build(space)
        if isinstance(self.loss, OwnNegatives):
            self.row_sparse_tables = ("embedding.weight",)

    def nodes(self) -> Tensor:
        return self.embedding.weight


class LightGCNConfig(CollaborativeConfig):
    # layers have no weights, so that no file of weights bounds them
    n_layers: Annotated[
        int, Field(ge=1, le=100, description="layers of propagation"), Search(1, 4)
    ] = 3


class LightGCN(CollaborativeModel):
    """Vectors of users and items, propagated over the graph of their interactions; no weights but
    the vectors.

    Source: He et al., LightGCN: Simplifying and Powering Graph Convolution Network for
    Recommendation (SIGIR 2020), with the mean over the input and all layers. Edges are the distinct
    interactions of training, of weight 1 or theirs. Departures: ``exclude_own`` draws negatives
    without a second try; the loss can be another than BPR.
    """

    Config: ClassVar[type[ModelConfig]] = LightGCNConfig
    #: the first of the layers whose mean the vectors are; 0 is the input
    first_layer: ClassVar[int] = 0

    def _build(self, space: Space) -> None:
        super()._build(space)
        self.encoder = encoders.LightGCN(space.n_users, space.n_items, self.config.n_layers)

    def setup(self, train: Part) -> None:
        super().setup(train)
        self.encoder.connect(train.matrix())

    def nodes(self) -> Tensor:
        nodes: Tensor = self.encoder(self.embedding.weight)
        return nodes

    def start(self) -> Tensor:
        """[n_users + n_items, D]: the vectors that propagation begins with, in evaluation mode."""
        return self.embedding.weight

    def reading(self, query: Query) -> Reading:
        if self.knows(query):
            return EdgeReading(self, query)
        return super().reading(query)


class UltraGCNConfig(CollaborativeConfig):
    loss: Annotated[
        PartConfig, part("loss"), Field(description="of weighted pairs: bce or ccl")
    ] = losses.BCE(n_negatives=50, negative_weight=30.0)
    neighbour_weight: Annotated[
        float,
        Field(ge=0, description="lambda, weight of the term of an item's neighbours"),
        Search(1e-5, 10.0, log=True),
    ] = 1e-3
    n_neighbours: Annotated[
        int, Field(ge=1, description="K, neighbours of each item"), Search(5, 50)
    ] = 10


class UltraGCN(BPRMF):
    """Matrix factorisation by weighted pairs: what LightGCN's propagation would converge to,
    without propagating.

    With ``b_ui = sqrt(d_u + 1) / (d_u sqrt(d_i + 1))`` and s the inner products, the mean over
    samples (u, i) of

        ``(1e-6 + b_ui) softplus(-s_ui) + W mean_j (1e-6 + b_uj) softplus(s_uj)``

    over their negatives j (term ``rec``), plus lambda times that of ``sum_k w_ik softplus(-s_uk)``
    over the K nearest items k of i (term ``neighbours``, see :func:`neighbours_of`), plus ``l2``.
    Published for Gowalla: 1,500 negatives, W 300, K 10, lambda 5e-4. With a large W all vectors
    first collapse to one direction, in which all scores are low and all users have one list. A
    learning rate of .02 leaves it within a thousand steps, one of .003 takes thousands.

    Source: Mao et al., UltraGCN: Ultra Simplification of Graph Convolutional Networks for
    Recommendation (CIKM 2021), equations 8 to 14; the weights of neighbours are those of the
    published code, where an item may be its own (the paper subtracts an item's own count from g_i
    in the divisor). Departures: terms are means over samples where the authors have sums; ``l2`` is
    of the vectors of a batch's samples; negatives are never the user's own items unless
    ``exclude_own=False`` (published), and one that is the sample's item counts 0; the table starts
    by Xavier unless ``init_std`` is given (published: 1e-4).
    """

    Config: ClassVar[type[ModelConfig]] = UltraGCNConfig
    user_degrees: Tensor
    item_degrees: Tensor
    neighbours: Tensor
    neighbour_weights: Tensor

    @property
    def phases(self) -> tuple[Phase, ...]:
        terms = {"rec": 1.0, "l2": self.config.l2, "neighbours": self.config.neighbour_weight}
        return (Phase("model", ("model",), terms),)

    def setup(self, train: Part) -> None:
        super().setup(train)
        like = self.embedding.weight.detach()
        rows = train.items.to(like.device)
        user_degrees, item_degrees = degrees_of(rows, train.n_items, like)
        near, weights = neighbours_of(rows, train.n_items, self.config.n_neighbours, like)
        # of the training part alone: whoever resumes a run makes them again
        self.register_buffer("user_degrees", user_degrees, persistent=False)
        self.register_buffer("item_degrees", item_degrees, persistent=False)
        self.register_buffer("neighbours", near, persistent=False)
        self.register_buffer("neighbour_weights", weights, persistent=False)

    def pair_weights(self, batch: PairBatch) -> PairWeights:
        users = self.user_degrees[batch.users]
        negatives = batch.of_samples(self.item_degrees[batch.negatives])
        positive = 1e-6 + users * self.item_degrees[batch.items]
        negative = 1e-6 + users[:, None] * negatives
        samples = super().pair_weights(batch)
        if samples is not None:
            positive = positive * samples.positive
            negative = negative * samples.negative
        return PairWeights(positive, negative)

    def losses(self, batch: PairBatch, wanted: frozenset[str]) -> dict[str, Tensor]:
        terms = super().losses(batch, wanted)
        if "neighbours" in wanted:
            terms["neighbours"] = self._neighbour_loss(batch)
        return terms

    def _neighbour_loss(self, batch: PairBatch) -> Tensor:
        """The mean over samples of ``sum_k w_ik softplus(-s_uk)``."""
        near = self.neighbours[batch.items] + self.space.n_users
        part, places = touched(self.nodes(), torch.cat([batch.users[:, None], near], 1))
        scores = pair_scores(part, places[:, 0], places[:, 1:])
        losses = (self.neighbour_weights[batch.items] * F.softplus(-scores)).sum(1)
        if batch.sample_weights is not None:
            losses = losses * batch.sample_weights
        return weighted(losses.mean(), batch.weight)


def degrees_of(rows: Ragged, n_items: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """The factors of ``b_ui = sqrt(d_u + 1) / (d_u sqrt(d_i + 1))``, [n_users], 0 of users without
    items, and [n_items], in the type and on the device of a tensor. ``rows`` are the items of each
    user; repeats do not count."""
    once = distinct(rows, n_items)
    d_u = once.lengths.to(torch.float64)
    d_i = torch.bincount(once.values, minlength=n_items).to(torch.float64)
    of_users = torch.where(d_u > 0, (d_u + 1).sqrt() / d_u.clamp(min=1), 0)
    return of_users.to(like), (d_i + 1).rsqrt().to(like)


def neighbours_of(rows: Ragged, n_items: int, k: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """The k items j with the greatest ``w_ij = C_ij sqrt(g_i + 1) / (g_i sqrt(g_j + 1))`` of each
    item i, [n_items, K] int64, and w, [n_items, K], the greatest first, 0 in unused places.

    C counts the users who have both items, C_ii those of item i, and g are the sums of its rows.
    ``rows`` are the items of each user; repeats do not count.
    """
    once = distinct(rows, n_items)
    k = min(k, n_items)
    sums = torch.bincount(once.values, once.lengths[once.rows].to(torch.float64), minlength=n_items)
    users = presence(once, n_items)
    items, weights = neighbours(users, k, norms=(sums + 1).sqrt(), with_itself=True)
    # (g_i + 1) / g_i does not alter the order in a row
    factor = torch.where(sums > 0, (sums + 1) / sums.clamp(min=1), 0)
    return items, (weights * factor[:, None]).to(like)
