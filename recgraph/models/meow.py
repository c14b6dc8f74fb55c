"""MEOW."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from recgraph.config import Search
from recgraph.contrast.prototype_memory import PrototypeMemory
from recgraph.contrast.prototypes import Clustering, Method, Prototypes, proto_nce
from recgraph.contrast.term import ContrastiveTerm
from recgraph.contrast.weights.cluster import Cluster
from recgraph.models.base import ModelConfig, Phase, Space
from recgraph.models.base_graph import GraphBatch
from recgraph.models.base_metapath import MetaPathModel, MetaPathModelConfig


class MEOWConfig(MetaPathModelConfig):
    weight: Annotated[
        str | None, Field(description="weights of the candidates, a name of the registry's kind 'weight'")
    ] = "cluster"
    n_clusters: Annotated[
        tuple[int, ...], Field(min_length=1, description="clusters of each granularity (at most one a node)")
    ] = (100, 300)
    proto_weight: Annotated[
        float, Field(ge=0, description="lambda, weight of ProtoNCE"), Search(0.01, 2.0, log=True)
    ] = 1.0
    kmeans: Annotated[Method, Field(description="inner-product k-means as published, or scikit-learn's")] = "published"
    kmeans_iterations: Annotated[int, Field(ge=1, description="of k-means, at most")] = 20
    kmeans_restarts: Annotated[int, Field(ge=1, description="of k-means; the best is taken")] = 5
    warm_start: Annotated[bool, Field(description="k-means begins at the last step's centroids, without restarts")] = (
        False
    )


class MEOW(MetaPathModel):
    """Contrast of a coarse and a fine view of a heterogeneous graph, negatives weighted by clusters.

    Source: Heterogeneous Graph Contrastive Learning with Meta-path Contexts and Weighted Negative Samples (SDM 2023).
    See :class:`MetaPathModel` for the views. Terms, the coarse view as anchor, after k-means of the fine projection at
    several granularities (without gradient):

    - ``info = mean_i -log(e^{s_ii / tau} / sum_{j != i} w_ij e^{s_ij / tau})``, ``w_ij`` the number of granularities at
      which i and j are in different clusters;
    - ``proto``: ProtoNCE against the clusters' centroids, temperatures by concentration.

    With ``mini_batch`` all nodes are embedded and clustered once an epoch, before its first step (as PCL does it, whose
    loss ``proto`` is): a cluster means the same in every batch, also for what the queue holds. It costs one pass
    over the graph without gradients.

    The embedding is the fine view in evaluation mode (the published code keeps the last training-mode forward).
    Departures: ``proto`` lacks the published constant ``log(N / k)``; ties and draws, see :class:`MetaPath` and
    :func:`kmeans`. The published code stops on the training loss: ``metric="loss"``.
    """

    Config: ClassVar[type[ModelConfig]] = MEOWConfig

    def _build(self, space: Space) -> None:
        super()._build(space)
        config = self.config
        self.prototypes = Prototypes(
            config.projection_dim or self.embedding_dim,
            n_clusters=config.n_clusters,
            iterations=config.kmeans_iterations,
            restarts=config.kmeans_restarts,
            method=config.kmeans,
            warm_start=config.warm_start,
        )
        self.proto_contrast = ContrastiveTerm(
            objective="info_nce", objective_settings={"block_rows": config.block_rows}
        )
        if config.mini_batch:
            self.memory = PrototypeMemory(space.n_items, config.projection_dim or self.embedding_dim, config.n_clusters)

    def _make_contrast(self) -> ContrastiveTerm:
        return self._term(count_positive=False)

    @property
    def phases(self) -> tuple[Phase, ...]:
        terms = {"info": 1.0, "proto": self.config.proto_weight}
        return (Phase("model", ("model",), {name: weight for name, weight in terms.items() if weight}),)

    def _term_names(self) -> tuple[str, ...]:
        return ("info", "proto")

    def _terms(self, batch: GraphBatch, terms: set[str], coarse: Tensor, fine: Tensor) -> dict[str, Tensor]:
        clustered = "proto" in terms or isinstance(self.contrast.weight, Cluster)
        if batch.nodes is None:
            return self.losses(terms, coarse, fine, self.prototypes(fine) if clustered else [])
        if clustered and not self.memory.is_of(batch.epoch):
            everyone = self.project_all()
            self.memory.store(batch.epoch, everyone, self.prototypes(everyone), self.config.temperature)
        computed = {}
        if "info" in terms:
            if isinstance(self.contrast.weight, Cluster):
                self.contrast.weight.set_assignments(self.memory.assignments)
            computed["info"] = self.info(batch, coarse, fine)
        if "proto" in terms:
            computed["proto"] = self.memory.proto_nce(self.proto_contrast, coarse, batch.nodes)
        return computed

    def losses(self, terms: set[str], coarse: Tensor, fine: Tensor, clusterings: list[Clustering]) -> dict[str, Tensor]:
        """The terms of projected views [N, D] and clusterings of the fine one."""
        computed = {}
        if "info" in terms:
            if isinstance(self.contrast.weight, Cluster):
                self.contrast.weight.set_assignments(torch.stack([c.assignments for c in clusterings]))
            computed["info"] = self.contrast(coarse, fine)
        if "proto" in terms:
            computed["proto"] = proto_nce(self.proto_contrast, coarse, fine, clusterings, self.config.temperature)
        return computed
