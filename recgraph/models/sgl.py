"""SGL."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from recgraph.config import Search
from recgraph.data.batch import PairBatch
from recgraph.data.part import Part
from recgraph.models.base import Space
from recgraph.models.base_graph_contrastive import GraphContrastiveConfig, GraphContrastiveModel
from recgraph.sparse.csr import Csr


class SGLConfig(GraphContrastiveConfig):
    graph_view: Annotated[
        Literal["edge_drop", "node_drop", "random_walk"],
        Field(description="what a view drops: edges, nodes with their edges, or edges anew in each layer"),
    ] = "edge_drop"
    drop_rate: Annotated[
        float, Field(ge=0, lt=1, description="share of edges or nodes that a view drops"), Search(0.05, 0.5)
    ] = 0.1
    candidates: Annotated[
        Literal["batch", "all"],
        Field(description="against what a node is contrasted: the batch's nodes of its kind, or all of them"),
    ] = "all"


class SGL(GraphContrastiveModel):
    """LightGCN with the contrast of two subgraphs, drawn once an epoch.

    Source: Wu et al., Self-supervised Graph Learning for Recommendation (SIGIR 2021): SGL-ED (edge drop), SGL-ND (node
    drop) and SGL-RW (edge drop in each layer anew). A subgraph is normalised by its own degrees; every node of a kind
    is a candidate, as in the authors' code. Loss: ``rec + l2 + lambda cl``. Departures: the terms are means over
    samples and anchors where the authors have sums; a node is one anchor however often the batch holds it.
    """

    Config = SGLConfig

    def _build(self, space: Space) -> None:
        super()._build(space)
        self._drawn: tuple[Any, list[list[Csr]]] | None = None

    def setup(self, train: Part) -> None:
        super().setup(train)
        self._drawn = None

    def _views(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        table = self.embedding.weight
        first, second = self._subgraphs(batch)
        return self.encoder(table, first), self.encoder(table, second)

    def _subgraphs(self, batch: PairBatch) -> list[list[Csr]]:
        """The adjacencies of each layer, for both views; the same in all batches of an epoch."""
        table = self.embedding.weight
        key = (batch.generators.seed, batch.epoch, table.device, table.dtype)
        if self._drawn is None or self._drawn[0] != key:
            generator = batch.generators.fresh("views", batch.epoch)
            self._drawn = key, [self._adjacencies(generator, table.dtype) for _ in range(2)]
        return self._drawn[1]

    def _adjacencies(self, generator: torch.Generator, dtype: torch.dtype) -> list[Csr]:
        n_layers = self.encoder.n_layers
        if self.config.graph_view == "random_walk":
            return [self.encoder.subgraph(self._keep_edges(generator), dtype) for _ in range(n_layers)]
        keep_mask = (
            self._keep_edges(generator) if self.config.graph_view == "edge_drop" else self._keep_nodes(generator)
        )
        return [self.encoder.subgraph(keep_mask, dtype)] * n_layers

    def _keep_edges(self, generator: torch.Generator) -> Tensor:
        return self._keep(self.encoder.n_edges, generator)

    def _keep_nodes(self, generator: torch.Generator) -> Tensor:
        users = self._keep(self.encoder.n_users, generator)
        items = self._keep(self.encoder.n_items, generator)
        return users[self.encoder.edge_users] & items[self.encoder.edge_items]

    def _keep(self, count: int, generator: torch.Generator) -> Tensor:
        """[count] bool on the model's device: False at exactly the share that is dropped, rounded down."""
        keep_mask = torch.ones(count, dtype=torch.bool)
        keep_mask[torch.randperm(count, generator=generator)[: int(count * self.config.drop_rate)]] = False
        return keep_mask.to(self.embedding.weight.device)
