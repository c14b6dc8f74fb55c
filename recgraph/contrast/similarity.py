"""How alike an anchor and a candidate are: ``s_ij = x_i . y_j`` after the similarity has shaped both sides."""

from __future__ import annotations

from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from recgraph.config import Config, Search

__all__ = ["Similarity"]


class Similarity(Config):
    """Dot product or cosine over a temperature. It shapes rows, never pairs, so that no N x M tensor is made."""

    similarity: Annotated[
        Literal["dot", "cosine"], Field(description="inner product of the embeddings, or of their directions")
    ] = "dot"
    temperature: Annotated[
        float, Field(gt=0, description="what similarities are divided by"), Search(low=0.05, high=5, log=True)
    ] = 1.0

    def shape(self, anchors: Tensor, candidates: Tensor, temperatures: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The two sides whose inner products are the similarities.

        Args:
            anchors: [N, D].
            candidates: [M, D].
            temperatures: [M], a temperature for each candidate in place of the common one (the concentrations
                of MEOW's prototypes).

        Returns:
            [N, D] and [M, D].
        """
        if self.similarity == "cosine":
            same = anchors is candidates
            anchors = F.normalize(anchors, dim=1)
            candidates = anchors if same else F.normalize(candidates, dim=1)
        if temperatures is not None:
            return anchors, candidates / temperatures[:, None]
        return (anchors if self.temperature == 1 else anchors * (1 / self.temperature)), candidates
