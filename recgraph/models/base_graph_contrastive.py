"""What LightGCN with a contrastive task shares: two views of the nodes of a batch and their InfoNCE."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from recgraph.config import Search
from recgraph.contrast.term import ContrastiveTerm
from recgraph.data.batch import PairBatch
from recgraph.models.base import ModelConfig, Phase, Space
from recgraph.models.base_collaborative import Terms
from recgraph.models.lightgcn import LightGCN, LightGCNConfig


class GraphContrastiveConfig(LightGCNConfig):
    contrast_weight: Annotated[
        float, Field(ge=0, description="lambda, weight of the contrastive term"), Search(1e-3, 1.0, log=True)
    ] = 0.1
    temperature: Annotated[
        float, Field(gt=0, description="of the contrastive similarities"), Search(0.05, 1.0, log=True)
    ] = 0.2
    similarity: Annotated[Literal["dot", "cosine"], Field(description="of the contrastive term")] = "cosine"
    candidates: Annotated[
        Literal["batch", "all"],
        Field(description="against what a node is contrasted: the batch's nodes of its kind, or all of them"),
    ] = "batch"
    weight: Annotated[
        str | None, Field(description="weights of the negatives, a name of the registry's kind 'weight'")
    ] = None
    weight_options: Annotated[dict[str, Any], Field(default_factory=dict, description="settings of the weight")]


class GraphContrastiveModel(LightGCN):
    """Base of LightGCN with a contrastive task. Term ``cl``: the InfoNCE between two views of the batch's users, plus
    the same for its items; each node of the batch is one anchor, however often it stands there."""

    Config: ClassVar[type[ModelConfig]] = GraphContrastiveConfig

    def _build(self, space: Space) -> None:
        super()._build(space)
        # a weight may learn: users and items have one each
        self.contrast_users, self.contrast_items = self._contrastive_term(), self._contrastive_term()

    def _contrastive_term(self) -> ContrastiveTerm:
        config = self.config
        return ContrastiveTerm(
            temperature=config.temperature,
            similarity=config.similarity,
            weight=config.weight,
            weight_settings=config.weight_options,
            dim=config.hidden_dim,
            objective="info_nce",
        )

    @property
    def phases(self) -> tuple[Phase, ...]:
        terms = {"rec": 1.0, "l2": self.config.l2, "cl": self.config.contrast_weight}
        return (Phase("model", ("model",), {name: weight for name, weight in terms.items() if weight}),)

    def _views(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Two views of all nodes, [n_users + n_items, D] each."""
        raise TypeError(f"{type(self).__name__} must define _views(batch)")

    def _terms(self, batch: PairBatch) -> Terms:
        return {**super()._terms(batch), "cl": lambda: self._contrast(batch, *self._views(batch))}

    def _contrast(self, batch: PairBatch, a: Tensor, b: Tensor) -> Tensor:
        assert self.space is not None
        sizes = [self.space.n_users, self.space.n_items]
        (users_a, items_a), (users_b, items_b) = torch.split(a, sizes), torch.split(b, sizes)
        of_users = self._one_kind(self.contrast_users, torch.unique(batch.users), users_a, users_b)
        return of_users + self._one_kind(self.contrast_items, torch.unique(batch.items), items_a, items_b)

    def _one_kind(self, term: ContrastiveTerm, chosen: Tensor, a: Tensor, b: Tensor) -> Tensor:
        anchors = a.index_select(0, chosen)
        if self.config.candidates == "batch":
            loss: Tensor = term(anchors, b.index_select(0, chosen), chosen, chosen)
        else:
            loss = term(anchors, b, chosen, torch.arange(len(b), device=b.device), positives=chosen)
        return loss
