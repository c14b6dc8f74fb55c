"""CL4SRec."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from recgraph.config import Search
from recgraph.models.base import Phase
from recgraph.models.base_contrastive import ContrastiveConfig, ContrastiveSequenceModel


class CL4SRecConfig(ContrastiveConfig):
    contrast_weight: Annotated[
        float, Field(ge=0, description="lambda, weight of the contrastive term"), Search(1e-3, 1.0, log=True)
    ] = 0.1


class CL4SRec(ContrastiveSequenceModel):
    """SASRec with the contrast of two stochastic views (crop, mask, reorder) of each sequence.

    Source: Xie et al., Contrastive Learning for Sequential Recommendation (ICDE 2022). Loss: ``rec + lambda cl1``.
    """

    Config = CL4SRecConfig

    @property
    def phases(self) -> tuple[Phase, ...]:
        terms = {"rec": 1.0, "cl1": self.config.contrast_weight}
        return (Phase("model", ("model",), {name: weight for name, weight in terms.items() if weight}),)
