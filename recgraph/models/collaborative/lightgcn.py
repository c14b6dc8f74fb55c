"""Matrix factorisation, and its vectors propagated over the graph of interactions."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from recgraph.config import Search
from recgraph.data.batches import Query
from recgraph.data.part import Part
from recgraph.encoders import graph as encoders
from recgraph.losses.pairwise import OwnNegatives
from recgraph.models.base import ModelConfig, Space
from recgraph.models.collaborative.base import CollaborativeConfig, CollaborativeModel
from recgraph.models.reading import EdgeReading, Reading
from recgraph.sparse.products import distinct


class BPRMF(CollaborativeModel):
    """Matrix factorisation: a user's score of an item is the inner product of their vectors.

    Source: Rendle et al., BPR: Bayesian Personalized Ranking from Implicit Feedback (UAI 2009). Departures: no item
    bias; Adam instead of plain SGD; the loss can be another than BPR.
    """

    def _build(self, space: Space) -> None:
        super()._build(space)
        if isinstance(self.loss, OwnNegatives):
            self.row_sparse_tables = ("embedding.weight",)

    def nodes(self) -> Tensor:
        return self.embedding.weight


class LightGCNConfig(CollaborativeConfig):
    # layers have no weights, so that no file of weights bounds them
    n_layers: Annotated[int, Field(ge=1, le=100, description="layers of propagation"), Search(1, 4)] = 3


class LightGCN(CollaborativeModel):
    """Vectors of users and items, propagated over the graph of their interactions; no weights but the vectors.

    Source: He et al., LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation (SIGIR 2020),
    with the mean over the input and all layers. Edges are the distinct interactions of training, each of weight 1.
    Departures: ``exclude_own`` draws negatives without a second try; the loss can be another than BPR.
    """

    Config: ClassVar[type[ModelConfig]] = LightGCNConfig
    #: the first of the layers whose mean the vectors are; 0 is the input
    first_layer: ClassVar[int] = 0

    def _build(self, space: Space) -> None:
        super()._build(space)
        self.encoder = encoders.LightGCN(space.n_users, space.n_items, self.config.n_layers)

    def setup(self, train: Part) -> None:
        super().setup(train)
        self.encoder.connect(distinct(train.items, train.n_items))

    def nodes(self) -> Tensor:
        nodes: Tensor = self.encoder(self.embedding.weight)
        return nodes

    def start(self) -> Tensor:
        """[n_users + n_items, D]: the vectors that propagation begins with, in evaluation mode."""
        return self.embedding.weight

    def reading(self, query: Query) -> Reading:
        return EdgeReading(self, query) if self.knows(query) else super().reading(query)
