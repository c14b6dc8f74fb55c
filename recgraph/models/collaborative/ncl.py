"""NCL: LightGCN that contrasts a node with its neighbours in the graph, and with its neighbours in
meaning.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from recgraph.config import Search
from recgraph.contrast.prototypes import (
    PrototypeMemory,
    Prototypes,
    PrototypesConfig,
    PrototypeSet,
    offer,
    proto_nce,
    prototypes_of,
)
from recgraph.contrast.term import Contrast, ContrastiveTerm
from recgraph.data.batches import PairBatch
from recgraph.data.part import Part
from recgraph.encoders.graph import mean
from recgraph.models.base import Phase, Space
from recgraph.models.collaborative.contrastive import (
    Candidates,
    GraphContrastiveConfig,
    GraphContrastiveModel,
)
from recgraph.sparse.blocks import unit_length


class NCLConfig(GraphContrastiveConfig):
    # the published ones, 1e-7 and 8e-8 on MovieLens-1M, are of sums over 4,096 samples
    contrast_weight: Annotated[
        float,
        Field(ge=0, description="lambda_1, weight of the contrast of layers"),
        Search(1e-4, 1.0, log=True),
    ] = 1e-3
    contrast_layer: Annotated[
        int,
        Field(
            ge=2,
            le=100,
            multiple_of=2,
            description="k, the layer whose vectors are contrasted with those before propagation; even, so that a "
            "user's is made of users' vectors",
        ),
    ] = 2
    contrast: Annotated[Contrast, Field(description="of a node's vectors of two layers")] = (
        Contrast(objective="info_nce", similarity="cosine", temperature=0.1)
    )
    candidates: Candidates = "all"
    proto_weight: Annotated[
        float,
        Field(ge=0, description="lambda_2, weight of the contrast with prototypes, ProtoNCE"),
        Search(1e-4, 1.0, log=True),
    ] = 1e-3
    proto_contrast: Annotated[Contrast, Field(description="of a node with the prototypes")] = (
        Contrast(objective="info_nce", similarity="cosine", temperature=0.1)
    )
    prototypes: Annotated[
        PrototypesConfig,
        Field(
            description="clusterings of all nodes' vectors; method 'published': MEOW's, by inner products, of "
            "directions; 'scikit-learn': by distances, of the vectors themselves, as in the code of NCL's authors"
        ),
    ] = PrototypesConfig(n_clusters=(100,), restarts=1)
    warm_up_epochs: Annotated[
        int, Field(ge=0, description="epochs at the start without the contrast with prototypes")
    ] = 5


class NCL(GraphContrastiveModel):
    """LightGCN with the contrast of each node with its even-layer output, and with the prototype of
    its cluster.

    Of users u, whose vectors are ``e_u = z_u^0`` before propagation and ``z_u^k`` after k layers,
    with cosines s:

    - ``cl = mean_u -log(e^{s(z_u^k, z_u^0) / tau} / sum_v e^{s(z_u^k, z_v^0) / tau})`` over all
      users v (structural neighbours: k is even);
    - ``proto = mean_u -log(e^{s(e_u, c_u) / tau} / sum_c e^{s(e_u, c) / tau})``, ProtoNCE, of the
      centroids c of k-means of all users' vectors, c_u that of u's cluster (semantic neighbours); 0
      before ``warm_up_epochs``. Clusters are made in the first step of an epoch that reads them,
      and kept for all its steps.

    Both plus alpha (``item_weight``) times the same of items. Loss: ``rec + l2 + lambda_1 cl +
    lambda_2 proto``, with lambda_1 ``contrast_weight`` and lambda_2 ``proto_weight``. Vectors are
    the mean of the input and ``n_layers`` layers; where k is more, the further layers are of the
    contrast alone.

    The clusters are also those of ``contrast.weight = "cluster"`` in ``cl``. Several ``n_clusters``
    are several clusterings, of which ``proto`` is the mean.

    Source: Lin et al., Improving Graph Collaborative Filtering with Neighborhood-enriched
    Contrastive Learning (WWW 2022). Departures: the terms are means over the distinct nodes of a
    batch where the authors have sums over its samples; prototypes are compared by cosine, as in the
    authors' code, and k-means is of directions by inner products (theirs, by distances of the
    vectors, is ``prototypes.method = "scikit-learn"``); alpha weighs both terms, as in the paper,
    where their code has it in the first alone.
    """

    Config = NCLConfig

    @property
    def changing_epochs(self) -> int:
        """Epochs before the term of the prototypes begins."""
        if not self.config.proto_weight:
            return 0
        return int(self.config.warm_up_epochs)

    def _build(self, space: Space) -> None:
        super()._build(space)
        config = self.config
        self.prototypes = Prototypes(config.prototypes)
        self.memories = nn.ModuleList(
            PrototypeMemory(n, config.hidden_dim, config.prototypes.n_clusters)
            for n in (space.n_users, space.n_items)
        )
        self.contrast_prototypes = ContrastiveTerm(config.proto_contrast, dim=config.hidden_dim)

    def setup(self, train: Part) -> None:
        super().setup(train)
        memory: Any
        for memory in self.memories:
            memory.forget()

    @property
    def phases(self) -> tuple[Phase, ...]:
        (phase,) = super().phases
        return (Phase("model", ("model",), {**phase.terms, "proto": self.config.proto_weight}),)

    def _layers(self) -> list[Tensor]:
        """The vectors before propagation and after each layer, as many as are read."""
        weight = self.embedding.weight
        depth = max(self.config.n_layers, self.config.contrast_layer)
        return self.encoder.layers(weight, [self.encoder.adjacency(weight.dtype)] * depth)

    def losses(self, batch: PairBatch, wanted: frozenset[str]) -> dict[str, Tensor]:
        layers = self._layers()
        terms = {}
        if "cl" in wanted:
            for kind, term in enumerate(self._terms()):
                offer(term, partial(self._prototypes_of, kind, batch.epoch))
            terms["cl"] = self._contrast(batch, layers[self.config.contrast_layer], layers[0])

        def nodes_of(batch: PairBatch) -> tuple[PairBatch, Tensor]:
            return batch, mean(layers[: self.config.n_layers + 1])

        terms |= self._recommendation(batch, wanted, nodes_of)
        if "proto" in wanted:
            terms["proto"] = self._proto(batch)
        return terms

    def _proto(self, batch: PairBatch) -> Tensor:
        if batch.epoch < self.config.warm_up_epochs:
            # no anchors: 0, with a gradient as every term has one
            return self.embedding.weight[:0].sum()
        term = self.contrast_prototypes
        nodes = batch.distinct()
        losses = []
        for kind, anchors in enumerate(self._of_both(self.embedding.weight, *nodes)):
            kwargs = self._step_arguments(term, len(anchors), batch)
            prototypes = self._prototypes_of(kind, batch.epoch)
            losses.append(
                proto_nce(term, anchors, prototypes, nodes[kind], concentration=False, **kwargs)
            )
        return self._sum(*losses)

    def _prototypes_of(self, kind: int, epoch: int) -> list[PrototypeSet]:
        """Of all users (kind 0) or items (1), made from their vectors in the first step of an epoch
        that reads them.
        """

        def make() -> list[PrototypeSet]:
            members = self._split(self.embedding.weight.detach())[kind]
            if self.config.prototypes.method == "published":
                # by inner products, long vectors would draw all others
                members = unit_length(members)
            temperature = self.contrast_prototypes.config.temperature
            return prototypes_of(self.prototypes(members), members, temperature)

        memory: Any = self.memories[kind]
        prototypes: list[PrototypeSet] = memory.of_epoch(epoch, make)
        return prototypes
