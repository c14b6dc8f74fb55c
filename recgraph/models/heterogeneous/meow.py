"""MEOW and AdaMEOW, which embed nodes, and MEOWRec and AdaMEOWRec, which recommend: their losses."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from recgraph.config import Search
from recgraph.contrast.clustering import Method
from recgraph.contrast.prototypes import PrototypeMemory, Prototypes, PrototypeSet, offer, proto_nce, prototypes_of
from recgraph.contrast.term import ContrastiveTerm
from recgraph.contrast.weights import ClusterCounts
from recgraph.models.base import ModelConfig, Phase, Space
from recgraph.models.heterogeneous.base import GraphBatch
from recgraph.models.heterogeneous.node_model import MetaPathModel, MetaPathModelConfig
from recgraph.models.heterogeneous.recommender import MetaPathRecommender, MetaPathRecommenderConfig, Side
from recgraph.models.heterogeneous.views import BothViews

WeightName = Annotated[
    str | None, Field(description="weights of the candidates, a name of the registry's kind 'weight'")
]


class MEOWLoss(nn.Module):
    """The loss of MEOW, of coarse and fine projections c, f [n, D] of unit length; mixed into its models.

    1. k-means of f at T granularities, without gradient: clusters k_t(i), prototypes p, the centroids of unit length,
       and their temperatures phi by concentration.
    2. ``w_ij = sum_t [k_t(i) != k_t(j)]``: nodes of one cluster are no negatives of one another.
    3. ``info = mean_i -log(e^{c_i . f_i / tau} / sum_{j != i} w_ij e^{c_i . f_j / tau})``.
    4. ``proto = mean_t mean_i -log(e^{c_i . p_{k_t(i)} / phi_{k_t(i)}} / sum_k e^{c_i . p_k / phi_k})``,
       ProtoNCE.

    The loss is ``info + lambda proto``.

    Source: Heterogeneous Graph Contrastive Learning with Meta-path Contexts and Weighted Negative Samples (SDM 2023).
    """

    config: Any
    prototypes: Prototypes
    proto_contrast: ContrastiveTerm
    info_nce: ClassVar[dict[str, Any]] = {"count_positive": False}

    def cluster(self, fine: Tensor) -> list[PrototypeSet]:
        """Step 1: the prototypes of f [n, D] at each granularity."""
        return prototypes_of(self.prototypes(fine), fine, self.config.temperature)


class MEOWConfig(MetaPathModelConfig):
    weight: WeightName = "cluster"
    # those of the authors on ACM, DBLP, IMDB and AMiner
    n_clusters: Annotated[ClusterCounts, Search(choices=([100, 300], [200, 700], [500, 700], [500, 1200]))] = (100, 300)
    proto_weight: Annotated[
        float, Field(ge=0, description="lambda, weight of ProtoNCE"), Search(0.01, 2.0, log=True)
    ] = 1.0
    kmeans: Annotated[Method, Field(description="inner-product k-means as published, or scikit-learn's")] = "published"
    kmeans_iterations: Annotated[int, Field(ge=1, description="of k-means, at most")] = 20
    kmeans_restarts: Annotated[int, Field(ge=1, description="of k-means; the best is taken")] = 5
    warm_start: Annotated[bool, Field(description="k-means begins at the last step's centroids, without restarts")] = (
        False
    )


class MEOW(MEOWLoss, MetaPathModel):
    """Contrast of a coarse and a fine view of a heterogeneous graph, negatives weighted by clusters.

    Source: Heterogeneous Graph Contrastive Learning with Meta-path Contexts and Weighted Negative Samples (SDM 2023).
    See :class:`MetaPathModel` for the views and :class:`MEOWLoss` for the terms ``info`` and ``proto``.

    With ``mini_batch`` all nodes are embedded and clustered once an epoch, before its first step, as in PCL (ICLR
    2021): a cluster means the same in every batch, also for what the queue holds. It costs one pass over the graph
    without gradients.

    The embedding is the fine view in evaluation mode (the published code keeps the last training-mode forward).
    Departures: ``proto`` lacks the published constant ``log(N / k)``; ties and draws, see :class:`MetaPath` and
    :func:`kmeans`. The published code stops on the training loss: ``metric="loss"``.
    """

    Config: ClassVar[type[ModelConfig]] = MEOWConfig

    def _build(self, space: Space) -> None:
        super()._build(space)
        config = self.config
        self.prototypes = Prototypes(
            self.projection_dim,
            n_clusters=config.n_clusters,
            iterations=config.kmeans_iterations,
            restarts=config.kmeans_restarts,
            method=config.kmeans,
            warm_start=config.warm_start,
        )
        self.proto_contrast = ContrastiveTerm(
            objective="info_nce"
        )
        if config.mini_batch:
            self.memory = PrototypeMemory(space.n_items, self.projection_dim, config.n_clusters)

    @property
    def phases(self) -> tuple[Phase, ...]:
        (phase,) = super().phases
        return (Phase("model", ("model",), {**phase.terms, "proto": self.config.proto_weight}),)

    def losses(self, batch: GraphBatch, wanted: frozenset[str]) -> dict[str, Tensor]:
        views = self._projected(batch)

        @cache
        def prototypes() -> list[PrototypeSet]:  # step 1, where a part reads them
            return self.cluster(views.fine) if batch.nodes is None else self._of_epoch(batch.epoch)

        return self.losses_of(batch, views, prototypes, wanted)

    def losses_of(
        self,
        batch: GraphBatch,
        views: BothViews,
        prototypes: Callable[[], list[PrototypeSet]],
        wanted: frozenset[str],
    ) -> dict[str, Tensor]:
        """The terms of the projected coarse and fine view [n, D], with the prototypes of all nodes."""
        found = {}
        if "info" in wanted:
            offer(self.contrast, prototypes)  # step 2
            found["info"] = self.info(batch, views, fine_first=False)  # step 3
        if "proto" in wanted:
            found["proto"] = proto_nce(self.proto_contrast, views.coarse, prototypes(), batch.nodes)  # step 4
        return found

    def _of_epoch(self, epoch: int) -> list[PrototypeSet]:
        """The prototypes of all nodes, made in the first step of an epoch."""
        return self.memory.of_epoch(epoch, lambda: self.cluster(self.project_all()))


class MEOWRecConfig(MetaPathRecommenderConfig):
    weight: WeightName = "cluster"
    # of a batch's nodes of a side, of which the authors' hundreds would be clusters of a few nodes each
    n_clusters: Annotated[ClusterCounts, Search(choices=([5, 15], [10, 30], [20, 60], [50, 150], [100, 300]))] = (
        20,
        60,
    )
    proto_weight: Annotated[
        float,
        Field(ge=0, description="of ProtoNCE, relative to the contrast of the views"),
        Search(0.01, 2.0, log=True),
    ] = 0.1
    kmeans_iterations: Annotated[int, Field(ge=1, description="of k-means, at most")] = 10


class MEOWRec(MEOWLoss, MetaPathRecommender):
    """Users and items recommended to one another by LightGCN and their meta-path views, contrasted as in MEOW.

    Source: Heterogeneous Graph Contrastive Learning with Meta-path Contexts and Weighted Negative Samples (SDM 2023),
    for nodes with classes (:class:`MEOW`); for recommendation see :class:`MetaPathRecommender`. The terms ``info`` and
    ``proto`` are those of :class:`MEOWLoss`, summed over users and items, with the own vectors in the place of the
    coarse view. The batch's nodes of a side are clustered anew in each step.
    """

    Config: ClassVar[type[ModelConfig]] = MEOWRecConfig

    def _build(self, space: Space) -> None:
        super()._build(space)
        config = self.config
        self.prototypes = Prototypes(n_clusters=config.n_clusters, iterations=config.kmeans_iterations, restarts=1)
        self.proto_contrast = ContrastiveTerm(objective="info_nce")

    @property
    def phases(self) -> tuple[Phase, ...]:
        (phase,) = super().phases
        proto = self.config.contrast_weight * self.config.proto_weight
        return (Phase("model", ("model",), {**phase.terms, "proto": proto}),)

    def contrasts_of(self, sides: list[Side], wanted: frozenset[str]) -> dict[str, Tensor]:
        found = {}

        @cache
        def prototypes(number: int) -> list[PrototypeSet]:  # step 1, where a part reads them
            return self.cluster(sides[number].fine)

        if "info" in wanted:
            losses = []
            for side in sides:
                offer(self.contrast_of(side), partial(prototypes, side.number), side.ids)  # step 2
                losses.append(self.contrast(side, fine_first=False))  # step 3
            found["info"] = torch.stack(losses).sum()
        if "proto" in wanted:  # step 4
            losses = [proto_nce(self.proto_contrast, side.own, prototypes(side.number)) for side in sides]
            found["proto"] = torch.stack(losses).sum()
        return found


class AdaMEOWConfig(MetaPathModelConfig):
    weight: WeightName = "learned"


class AdaMEOW(MetaPathModel):
    """Contrast of a fine and a coarse view of a heterogeneous graph, all candidates weighted by a learned network.

    Source: Heterogeneous Graph Contrastive Learning with Meta-path Contexts and Adaptively Weighted Negative Samples
    (TKDE 2024, arXiv 2212.13847). See :class:`MetaPathModel` for the views, :class:`Learned` for the weights
    (``weight_options={"normalise": True}`` keeps them from shrinking everywhere). Term, the fine view as anchor:
    ``info = mean_i -log(e^{f_i . c_i / tau} / sum_j w_ij e^{f_i . c_j / tau})``, the positive weighted like the others.
    """

    Config: ClassVar[type[ModelConfig]] = AdaMEOWConfig
    info_nce: ClassVar[dict[str, Any]] = {"weigh_positive": True}

    def losses(self, batch: GraphBatch, wanted: frozenset[str]) -> dict[str, Tensor]:
        return {"info": self.info(batch, self._projected(batch), fine_first=True)}


class AdaMEOWRecConfig(MetaPathRecommenderConfig):
    weight: WeightName = "learned"


class AdaMEOWRec(MetaPathRecommender):
    """Users and items recommended to one another by LightGCN and their meta-path views, contrasted as in AdaMEOW.

    Source: Heterogeneous Graph Contrastive Learning with Meta-path Contexts and Adaptively Weighted Negative Samples
    (TKDE 2024, arXiv 2212.13847), for nodes with classes (:class:`AdaMEOW`); for recommendation see
    :class:`MetaPathRecommender`. The fine views are the anchors; all candidates, the positive too, are weighted by a
    network of each side.
    """

    Config: ClassVar[type[ModelConfig]] = AdaMEOWRecConfig
    info_nce: ClassVar[dict[str, Any]] = {"weigh_positive": True}

    def contrasts_of(self, sides: list[Side], wanted: frozenset[str]) -> dict[str, Tensor]:
        losses = [self.contrast(side, fine_first=True) for side in sides]
        return {"info": torch.stack(losses).sum()} if "info" in wanted else {}
