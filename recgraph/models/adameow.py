"""AdaMEOW."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from recgraph.contrast.term import ContrastiveTerm
from recgraph.models.base import ModelConfig
from recgraph.models.base_graph import GraphBatch
from recgraph.models.base_metapath import MetaPathModel, MetaPathModelConfig


class AdaMEOWConfig(MetaPathModelConfig):
    weight: Annotated[
        str | None, Field(description="weights of the candidates, a name of the registry's kind 'weight'")
    ] = "learned"


class AdaMEOW(MetaPathModel):
    """Contrast of a fine and a coarse view of a heterogeneous graph, all candidates weighted by a learned network.

    Source: Heterogeneous Graph Contrastive Learning with Meta-path Contexts and Adaptively Weighted Negative Samples
    (TKDE 2024, arXiv 2212.13847). See :class:`MetaPathModel` for the views, :class:`Learned` for the weights
    (``weight_options={"normalise": True}`` keeps them from shrinking everywhere). Term, the fine view as anchor:
    ``info = mean_i -log(e^{s_ii / tau} / sum_j w_ij e^{s_ij / tau})``, the positive weighted like the others.
    """

    Config: ClassVar[type[ModelConfig]] = AdaMEOWConfig

    def _make_contrast(self) -> ContrastiveTerm:
        return self._term(weigh_positive=True)

    def _terms(self, batch: GraphBatch, terms: set[str], coarse: Tensor, fine: Tensor) -> dict[str, Tensor]:
        return {"info": self.info(batch, fine, coarse)} if "info" in terms else {}
