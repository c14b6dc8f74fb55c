"""AdaMEOW as a recommender."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from recgraph.contrast.term import ContrastiveTerm
from recgraph.models._metapath_sides import MetaPathRecommenderConfig
from recgraph.models.base import ModelConfig
from recgraph.models.base_collaborative import Terms
from recgraph.models.base_metapath_rec import MetaPathRecommender, Side


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
        return self._term(weigh_positive=True)

    def _contrast_terms(self, sides: Callable[[], list[Side]]) -> Terms:
        def info() -> torch.Tensor:
            return torch.stack([self._contrast(s.number, s.fine, s.own, s.ids) for s in sides()]).sum()

        return {"info": info}
