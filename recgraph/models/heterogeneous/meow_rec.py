"""MEOW and AdaMEOW as recommenders: the contrast of their views."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from recgraph.config import Search
from recgraph.contrast.clustering import Clustering
from recgraph.contrast.prototypes import Prototypes, proto_nce
from recgraph.contrast.term import ContrastiveTerm
from recgraph.models.base import ModelConfig, Phase, Space, Terms
from recgraph.models.heterogeneous.recommender import MetaPathRecommender, Side
from recgraph.models.heterogeneous.sides import MetaPathRecommenderConfig


class MEOWRecConfig(MetaPathRecommenderConfig):
    weight: Annotated[
        str | None, Field(description="weights of the candidates, a name of the registry's kind 'weight'")
    ] = "cluster"
    n_clusters: Annotated[
        tuple[int, ...], Field(min_length=1, description="clusters of each granularity (at most one a node)")
    ] = (20, 60)
    proto_weight: Annotated[
        float,
        Field(ge=0, description="of ProtoNCE, relative to the contrast of the views"),
        Search(0.01, 2.0, log=True),
    ] = 0.1
    kmeans_iterations: Annotated[int, Field(ge=1, description="of k-means, at most")] = 10


class MEOWRec(MetaPathRecommender):
    """Users and items recommended to one another by LightGCN and their meta-path views, contrasted as in MEOW.

    Source: Heterogeneous Graph Contrastive Learning with Meta-path Contexts and Weighted Negative Samples (SDM 2023),
    for nodes with classes (:class:`MEOW`); for recommendation see :class:`MetaPathRecommender`. The own vectors are the
    anchors; the batch's nodes of a side are clustered by their fine views, anew in each step, for the weights of
    candidates and for the term ``proto`` (ProtoNCE, of both sides).
    """

    Config: ClassVar[type[ModelConfig]] = MEOWRecConfig

    def _build(self, space: Space) -> None:
        super()._build(space)
        config = self.config
        self.prototypes = Prototypes(n_clusters=config.n_clusters, iterations=config.kmeans_iterations, restarts=1)
        self.proto_contrast = ContrastiveTerm(objective="info_nce")

    def _make_contrast(self) -> ContrastiveTerm:
        return self._contrast_of(count_positive=False)

    @property
    def phases(self) -> tuple[Phase, ...]:
        (phase,) = super().phases
        proto = self.config.contrast_weight * self.config.proto_weight
        return (Phase("model", ("model",), {**phase.terms, "proto": proto}),)

    def contrasts_of(self, sides: Callable[[], list[Side]]) -> Terms:
        clustered = cache(lambda: [self.prototypes(side.fine) for side in sides()])
        return {
            "info": lambda: torch.stack([self._info(side, clustered) for side in sides()]).sum(),
            "proto": lambda: torch.stack(
                [self._proto(side, found) for side, found in zip(sides(), clustered(), strict=True)]
            ).sum(),
        }

    def _info(self, side: Side, clustered: Callable[[], list[list[Clustering]]]) -> Tensor:
        def assignments() -> Tensor:
            return torch.stack([found.assignments for found in clustered()[side.number]])

        term = self.contrasts[side.number]
        assert isinstance(term, ContrastiveTerm)
        term.prepare(assignments, side.ids)
        return self._contrast(side.number, side.own, side.fine, side.ids)

    def _proto(self, side: Side, clusterings: list[Clustering]) -> Tensor:
        return proto_nce(self.proto_contrast, side.own, side.fine, clusterings, self.config.temperature)


class AdaMEOWRecConfig(MetaPathRecommenderConfig):
    weight: Annotated[
        str | None, Field(description="weights of the candidates, a name of the registry's kind 'weight'")
    ] = "learned"


class AdaMEOWRec(MetaPathRecommender):
    """Users and items recommended to one another by LightGCN and their meta-path views, contrasted as in AdaMEOW.

    Source: Heterogeneous Graph Contrastive Learning with Meta-path Contexts and Adaptively Weighted Negative Samples
    (TKDE 2024, arXiv 2212.13847), for nodes with classes (:class:`AdaMEOW`); for recommendation see
    :class:`MetaPathRecommender`. The fine views are the anchors; all candidates, the positive too, are weighted by a
    network of each side.
    """

    Config: ClassVar[type[ModelConfig]] = AdaMEOWRecConfig

    def _make_contrast(self) -> ContrastiveTerm:
        return self._contrast_of(weigh_positive=True)

    def contrasts_of(self, sides: Callable[[], list[Side]]) -> Terms:
        def info() -> Tensor:
            return torch.stack([self._contrast(s.number, s.fine, s.own, s.ids) for s in sides()]).sum()

        return {"info": info}
