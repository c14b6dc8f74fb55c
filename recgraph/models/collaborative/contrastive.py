"""LightGCN with a contrastive task: two views of the nodes of a batch and their InfoNCE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from recgraph.augment.graph import make_augmentation
from recgraph.blocks import row_blocks
from recgraph.config import Added, Search
from recgraph.contrast.term import ContrastiveTerm
from recgraph.data.batches import PairBatch
from recgraph.data.part import Part
from recgraph.encoders.graph import mean
from recgraph.models.base import ModelConfig, Phase, Space, Terms
from recgraph.models.collaborative.lightgcn import LightGCN, LightGCNConfig
from recgraph.models.contrast import AugmentationSpec, ContrastConfig, contrastive_term, stream
from recgraph.sparse.csr import Csr
from recgraph.unit_length import unit_length

#: what makes each of two views of all nodes, [n_users + n_items, D]
_Views = tuple[Callable[[], Tensor], Callable[[], Tensor]]
#: what makes the anchors and the candidates, each of users and of items
_Sides = tuple[Callable[[], Sequence[Tensor]], Callable[[], Sequence[Tensor]]]


class GraphContrastiveConfig(LightGCNConfig, ContrastConfig):
    # the published ones, .1 (SGL), .5 (SimGCL) and .2 (XSimGCL), keep a model from learning on small dense logs
    contrast_weight: Annotated[
        float, Field(ge=0, description="lambda, weight of the contrastive term"), Search(1e-3, 1.0, log=True)
    ] = 0.02
    objective: Annotated[
        str,
        Field(description="how anchors and candidates are chosen, a name of the registry's kind 'objective'"),
        Added(),
    ] = "info_nce"
    temperature: Annotated[
        float, Field(gt=0, description="of the contrastive similarities"), Search(0.05, 1.0, log=True)
    ] = 0.2
    similarity: Annotated[Literal["dot", "cosine"], Field(description="of the contrastive term")] = "cosine"
    candidates: Annotated[
        Literal["batch", "all"],
        Field(description="against what a node is contrasted: the batch's nodes of its kind, or all of them"),
    ] = "batch"
    item_weight: Annotated[
        float, Field(ge=0, description="alpha, what the contrasts of items count beside those of users"), Added()
    ] = 1.0


class GraphContrastiveModel(LightGCN):
    """Base of LightGCN with a contrastive task.

    Term ``cl``: the contrast of two views of the batch's users, plus the same of its items; each node of the batch is
    one anchor, however often it stands there. An objective that stacks both views (NT-Xent) needs
    ``candidates="batch"``.
    """

    Config: ClassVar[type[ModelConfig]] = GraphContrastiveConfig
    reads_distinct: ClassVar[bool] = True

    def _build(self, space: Space) -> None:
        super()._build(space)
        # a weight may learn: users and items have one each
        self.contrast_users, self.contrast_items = (
            contrastive_term(self.config, self.config.hidden_dim) for _ in range(2)
        )

    @property
    def phases(self) -> tuple[Phase, ...]:
        terms = {"rec": 1.0, "l2": self.config.l2, "cl": self.config.contrast_weight}
        return (Phase("model", ("model",), terms),)

    def _view(self, batch: PairBatch, number: int) -> Tensor:
        """One of two views of all nodes, number 0 or 1: [n_users + n_items, D]."""
        raise TypeError(f"{type(self).__name__} must define _view(batch, number)")

    def _views(self, batch: PairBatch) -> _Views:
        """Both views, each made once, when it is first read."""
        return cache(lambda: self._view(batch, 0)), cache(lambda: self._view(batch, 1))

    def terms(self, batch: PairBatch, asked: frozenset[str]) -> Terms:
        return {"cl": lambda: self._contrast(batch, self._views(batch)), **super().terms(batch, asked)}

    def _contrast(self, batch: PairBatch, views: _Views) -> Tensor:
        chosen, terms = batch.distinct(), (self.contrast_users, self.contrast_items)
        anchors, candidates = self._sides(views, *chosen)

        def of_kind(kind: int) -> Tensor:
            own, term, a, b = chosen[kind], terms[kind], anchors()[kind], candidates()[kind]
            how = self._how(term, len(own), batch)
            if self.config.candidates == "batch":
                loss: Tensor = term(a, b, own, own, **how)
            else:
                loss = term(a, b, own, torch.arange(len(b), device=b.device), positives=own, **how)
            return loss

        return self._both(of_kind)

    def _both(self, loss_of: Callable[[int], Tensor]) -> Tensor:
        """The loss of kind 0, users, plus alpha times that of kind 1, items."""
        users, items = loss_of(0), loss_of(1)
        return users + (items if self.config.item_weight == 1 else items * self.config.item_weight)

    def _how(self, term: ContrastiveTerm, n: int, batch: PairBatch) -> dict[str, Any]:
        """What a contrast of n nodes of the batch, the same on all ranks, is told of the step."""
        share = None if batch.share.is_whole else batch.generators.ranks.share_of_batch(n)
        return {"share": share, "generator": stream(term, batch.generators)}

    def _sides(self, views: _Views, users: Tensor, items: Tensor) -> _Sides:
        """What makes the anchors of both kinds, and what makes the candidates.

        Each view is read once for users and items together, as every reading has a gradient of the view's size.
        """
        assert self.space is not None
        n_users, sizes = self.space.n_users, [self.space.n_users, self.space.n_items]

        def chosen(number: int) -> Sequence[Tensor]:
            rows = views[number]().index_select(0, torch.cat([users, items + n_users]))
            return torch.split(rows, [len(users), len(items)])

        of_batch = self.config.candidates == "batch"
        return cache(lambda: chosen(0)), cache(lambda: chosen(1) if of_batch else torch.split(views[1](), sizes))


class SGLConfig(GraphContrastiveConfig):
    graph_view: Annotated[
        Literal["edge_drop", "node_drop", "random_walk"],
        Field(description="what a view drops: edges, nodes with their edges, or edges anew in each layer"),
    ] = "edge_drop"
    drop_rate: Annotated[
        float, Field(ge=0, lt=1, description="share of edges or nodes that a view drops"), Search(0.05, 0.5)
    ] = 0.1
    augmentations: Annotated[
        tuple[AugmentationSpec, ...] | None,
        Field(
            description="of the matrix of users and items, one after the other: names of the registry, or mappings "
            "with name and settings; none: by graph_view and drop_rate"
        ),
        Added(),
    ] = None
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

    With ``augmentations`` a subgraph is what these make of the matrix of users and items [n_users, n_items]; they drop
    ``drop_rate`` where they have a ``ratio`` that is not given. With ``graph_view="random_walk"`` they are drawn in
    each layer anew.
    """

    Config = SGLConfig

    def _build(self, space: Space) -> None:
        super()._build(space)
        config = self.config
        by_view = ("node_drop",) if config.graph_view == "node_drop" else ("edge_drop",)
        specs = by_view if config.augmentations is None else config.augmentations
        # users and items are different nodes, even where there are as many of the one as of the other
        made = [make_augmentation(spec, ratio=config.drop_rate, self_loops=False) for spec in specs]
        self._augmentations = made
        self._drawn: tuple[Any, list[list[Csr]]] | None = None

    def setup(self, train: Part) -> None:
        super().setup(train)
        self._drawn = None

    def _view(self, batch: PairBatch, number: int) -> Tensor:
        view: Tensor = self.encoder(self.embedding.weight, self._subgraphs(batch)[number])
        return view

    def _subgraphs(self, batch: PairBatch) -> list[list[Csr]]:
        """The adjacencies of each layer, for both views; the same in all batches of an epoch."""
        table = self.embedding.weight
        key = (batch.generators.seed, batch.epoch, table.device, table.dtype)
        if self._drawn is None or self._drawn[0] != key:
            generator = batch.generators.fresh("views", batch.epoch)
            self._drawn = key, [self._layers(generator, table.dtype) for _ in range(2)]
        return self._drawn[1]

    def _layers(self, generator: torch.Generator, dtype: torch.dtype) -> list[Csr]:
        n_layers = self.encoder.n_layers
        if self.config.graph_view == "random_walk":
            return [self._subgraph(generator, dtype) for _ in range(n_layers)]
        return [self._subgraph(generator, dtype)] * n_layers

    def _subgraph(self, generator: torch.Generator, dtype: torch.dtype) -> Csr:
        edges = self.encoder.edges
        for augmentation in self._augmentations:
            edges = augmentation(edges, generator)
        return self.encoder.subgraph(edges, dtype)


class SimGCLConfig(GraphContrastiveConfig):
    noise: Annotated[
        float,
        Field(ge=0, description="epsilon, the length of the noise added in each layer"),
        Search(0.01, 0.5, log=True),
    ] = 0.1


class SimGCL(GraphContrastiveModel):
    """LightGCN with the contrast of two propagations that differ by noise alone.

    Source: Yu et al., Are Graph Augmentations Necessary? Simple Graph Contrastive Learning for Recommendation (SIGIR
    2022). Each layer's output is moved by a random vector of length epsilon in its own orthant; vectors are the mean of
    the layers' outputs, without the input. Loss: ``rec + l2 + lambda cl``. Departures: ``l2`` is of the vectors before
    propagation, where the authors' code has those after it; lambda is .02 by default (theirs: .5).
    """

    Config = SimGCLConfig
    first_layer: ClassVar[int] = 1

    def nodes(self) -> Tensor:
        return mean(self.encoder.layers(self.embedding.weight)[self.first_layer :])

    def _view(self, batch: PairBatch, number: int) -> Tensor:
        return mean(self._noisy_layers(batch)[1:])

    def _noisy_layers(self, batch: PairBatch) -> list[Tensor]:
        generator = batch.generators["views"]

        def perturb(x: Tensor) -> None:
            for rows in row_blocks(len(x), x.shape[1], x):  # temporaries stay in the cache
                vectors = x[rows]
                direction = torch.rand(vectors.shape, generator=generator, device=x.device, dtype=x.dtype)
                vectors += unit_length(direction).mul_(vectors.sign()).mul_(self.config.noise)

        return self.encoder.layers(self.embedding.weight, perturb=perturb)


class XSimGCLConfig(SimGCLConfig):
    n_layers: Annotated[
        int,
        Field(ge=2, le=100, description="layers of propagation; the mean of a single one would be contrasted with it"),
        Search(2, 4),
    ] = 3
    contrast_layer: Annotated[
        int, Field(ge=1, description="l*, the layer that is contrasted with the mean of all; at most n_layers")
    ] = 1
    noise: Annotated[
        float,
        Field(ge=0, description="epsilon, the length of the noise added in each layer"),
        Search(0.01, 0.5, log=True),
    ] = 0.2
    temperature: Annotated[
        float, Field(gt=0, description="of the contrastive similarities"), Search(0.05, 1.0, log=True)
    ] = 0.15


class XSimGCL(SimGCL):
    """SimGCL in a single propagation: its noisy output is what recommends, and is contrasted with one of its layers.

    Source: Yu et al., XSimGCL: Towards Extremely Simple Graph Contrastive Learning for Recommendation (TKDE 2023).
    Ranking has no noise. Departures: as in SimGCL (lambda of the authors: .2); three layers by default.
    """

    Config = XSimGCLConfig

    def _views(self, batch: PairBatch) -> _Views:
        layers = cache(lambda: self._noisy_layers(batch)[1:])
        return cache(lambda: mean(layers())), lambda: layers()[self.config.contrast_layer - 1]

    def terms(self, batch: PairBatch, asked: frozenset[str]) -> Terms:
        views = self._views(batch)  # one propagation for both terms
        own: Terms = {"rec": lambda: self._rec(batch, views[0]()), "cl": lambda: self._contrast(batch, views)}
        return super().terms(batch, asked) | own
