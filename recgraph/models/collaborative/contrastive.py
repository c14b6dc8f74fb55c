"""LightGCN with a contrastive task: two views of the nodes of a batch and their InfoNCE."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from recgraph import augment
from recgraph.config import PartConfig, Search
from recgraph.contrast.term import Contrast, ContrastiveTerm
from recgraph.data.batches import PairBatch
from recgraph.data.part import Part
from recgraph.encoders.graph import mean
from recgraph.models.base import ModelConfig, Phase, Space
from recgraph.models.collaborative.lightgcn import LightGCN, LightGCNConfig
from recgraph.registry import part
from recgraph.sparse.blocks import row_blocks, unit_length
from recgraph.sparse.csr import Csr

Candidates = Annotated[
    Literal["batch", "all"],
    Field(
        description="against what a node is contrasted: the batch's nodes of its kind, or all of them"
    ),
]
Noise = Annotated[
    float,
    Field(ge=0, description="epsilon, the length of the noise added in each layer"),
    Search(0.01, 0.5, log=True),
]


class GraphContrastiveConfig(LightGCNConfig):
    # the published ones, .1 (SGL), .5 (SimGCL) and .2 (XSimGCL), keep a model from learning on
    # small dense logs
    contrast_weight: Annotated[
        float,
        Field(ge=0, description="lambda, weight of the contrastive term"),
        Search(1e-3, 1.0, log=True),
    ] = 0.02
    contrast: Annotated[Contrast, Field(description="of the two views of a node")] = Contrast(
        objective="info_nce", similarity="cosine", temperature=0.2
    )
    candidates: Candidates = "batch"
    item_weight: Annotated[
        float,
        Field(ge=0, description="alpha, what the contrasts of items count beside those of users"),
    ] = 1.0


class GraphContrastiveModel(LightGCN):
    """Base of LightGCN with a contrastive task.

    Term ``cl``: the contrast of two views of the batch's users, plus the same of its items; each
    node of the batch is one anchor, however often it stands there. An objective that stacks both
    views (NT-Xent) needs ``candidates="batch"``.
    """

    Config: ClassVar[type[ModelConfig]] = GraphContrastiveConfig
    reads_distinct: ClassVar[bool] = True

    def _build(self, space: Space) -> None:
        super()._build(space)
        # a weight may learn: users and items have one each
        config = self.config
        self.contrast_users = ContrastiveTerm(config.contrast, dim=config.hidden_dim)
        self.contrast_items = ContrastiveTerm(config.contrast, dim=config.hidden_dim)

    @property
    def phases(self) -> tuple[Phase, ...]:
        terms = {"rec": 1.0, "l2": self.config.l2, "cl": self.config.contrast_weight}
        return (Phase("model", ("model",), terms),)

    def views(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Two views of all nodes, [n_users + n_items, D] each."""
        raise TypeError(f"{type(self).__name__} must define views(batch)")

    def losses(self, batch: PairBatch, wanted: frozenset[str]) -> dict[str, Tensor]:
        terms = {}
        if "cl" in wanted:
            terms["cl"] = self._contrast(batch, *self.views(batch))
        return terms | super().losses(batch, wanted)

    def _contrast(self, batch: PairBatch, first: Tensor, second: Tensor) -> Tensor:
        """The contrast of two views of all nodes: of the batch's users, plus alpha times that of
        its items.
        """
        nodes = batch.distinct()
        anchors = self._of_both(first, *nodes)
        if self.config.candidates == "batch":
            candidates = self._of_both(second, *nodes)
        else:
            candidates = self._split(second)
        losses = []
        for term, ids, a, b in zip(self._terms(), nodes, anchors, candidates, strict=True):
            kwargs = self._step_arguments(term, len(ids), batch)
            ids_b = ids
            if self.config.candidates == "all":
                ids_b = torch.arange(len(b), device=b.device)
                kwargs["positives"] = ids
            losses.append(term(a, b, ids, ids_b, **kwargs))
        return self._sum(*losses)

    def _terms(self) -> tuple[ContrastiveTerm, ContrastiveTerm]:
        return self.contrast_users, self.contrast_items

    def _sum(self, users: Tensor, items: Tensor) -> Tensor:
        total: Tensor = users + items * self.config.item_weight
        return total

    def _step_arguments(self, term: ContrastiveTerm, n: int, batch: PairBatch) -> dict[str, Any]:
        """Keyword arguments of a contrast of n nodes of the batch, the same on all ranks."""
        kwargs: dict[str, Any] = {"generator": term.stream(batch.generators)}
        if not batch.share.is_whole:
            kwargs["share"] = batch.generators.ranks.share_of_batch(n)
        return kwargs

    def _split(self, nodes: Tensor) -> tuple[Tensor, ...]:
        """The users and the items of vectors of all nodes."""
        return torch.split(nodes, [self.space.n_users, self.space.n_items])

    def _of_both(self, nodes: Tensor, users: Tensor, items: Tensor) -> tuple[Tensor, ...]:
        """Some users and some items; all are read at once, as every reading has a gradient of the
        view's size.
        """
        rows = nodes.index_select(0, torch.cat([users, items + self.space.n_users]))
        return torch.split(rows, [len(users), len(items)])


class SGLConfig(GraphContrastiveConfig):
    augmentations: Annotated[
        tuple[Annotated[PartConfig, part("augmentation")], ...],
        Field(description="that make a view of the matrix of users and items, one after the other"),
    ] = (augment.EdgeDrop(ratio=0.1),)
    each_layer: Annotated[bool, Field(description="draw the views anew in each layer (SGL-RW)")] = (
        False
    )
    candidates: Candidates = "all"


class SGL(GraphContrastiveModel):
    """LightGCN with the contrast of two subgraphs, drawn once an epoch.

    Source: Wu et al., Self-supervised Graph Learning for Recommendation (SIGIR 2021): SGL-ED (edge
    drop), SGL-ND (``augmentations=["node_drop"]``) and SGL-RW (``each_layer=True``). A subgraph is
    normalised by its own degrees; every node of a kind is a candidate, as in the authors' code.
    Loss: ``rec + l2 + lambda cl``. Departures: the terms are means over samples and anchors where
    the authors have sums; a node is one anchor however often it is there.
    """

    Config = SGLConfig

    def _build(self, space: Space) -> None:
        super()._build(space)
        # users and items are different nodes, even where there are as many of the one as of the
        # other
        self._augmentations = [
            augmentation.build(self_loops=False, binary=False)
            for augmentation in self.config.augmentations
        ]
        self._drawn: tuple[Any, tuple[list[Csr], ...]] = (None, ())

    def setup(self, train: Part) -> None:
        super().setup(train)
        self._drawn = (None, ())

    def views(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        first, second = self._subgraphs(batch)
        table = self.embedding.weight
        return self.encoder(table, first), self.encoder(table, second)

    def _subgraphs(self, batch: PairBatch) -> tuple[list[Csr], ...]:
        """The adjacencies of each layer, for both views; the same in all batches of an epoch."""
        table = self.embedding.weight
        key = (batch.generators.seed, batch.epoch, table.device, table.dtype)
        if self._drawn[0] != key:
            generator = batch.generators.fresh("views", batch.epoch)
            self._drawn = (
                key,
                (self._subgraphs_of_view(generator), self._subgraphs_of_view(generator)),
            )
        return self._drawn[1]

    def _subgraphs_of_view(self, generator: torch.Generator) -> list[Csr]:
        n_layers = self.encoder.n_layers
        if not self.config.each_layer:
            return [self._subgraph(generator)] * n_layers
        return [self._subgraph(generator) for _ in range(n_layers)]

    def _subgraph(self, generator: torch.Generator) -> Csr:
        edges = self.encoder.edges
        for augmentation in self._augmentations:
            edges = augmentation(edges, generator)
        return self.encoder.subgraph(edges, self.embedding.weight.dtype)


class SimGCLConfig(GraphContrastiveConfig):
    noise: Noise = 0.1


class SimGCL(GraphContrastiveModel):
    """LightGCN with the contrast of two propagations that differ by noise alone.

    Source: Yu et al., Are Graph Augmentations Necessary? Simple Graph Contrastive Learning for
    Recommendation (SIGIR 2022). Each layer's output is moved by a random vector of length epsilon
    in its own orthant; vectors are the mean of the layers' outputs, without the input. Loss: ``rec
    + l2 + lambda cl``. Departures: ``l2`` is of the vectors before propagation, where the authors'
    code has those after it; lambda is .02 by default (theirs: .5).
    """

    Config = SimGCLConfig
    first_layer: ClassVar[int] = 1

    def nodes(self) -> Tensor:
        return mean(self.encoder.layers(self.embedding.weight)[self.first_layer :])

    def views(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        return mean(self._noisy_layers(batch)[1:]), mean(self._noisy_layers(batch)[1:])

    def _noisy_layers(self, batch: PairBatch) -> list[Tensor]:
        generator = batch.generators["views"]

        def perturb(x: Tensor) -> None:
            for rows in row_blocks(len(x), x.shape[1], x):  # temporaries stay in the cache
                vectors = x[rows]
                direction = torch.rand(
                    vectors.shape, generator=generator, device=x.device, dtype=x.dtype
                )
                vectors += unit_length(direction).mul_(vectors.sign()).mul_(self.config.noise)

        return self.encoder.layers(self.embedding.weight, perturb=perturb)


class XSimGCLConfig(SimGCLConfig):
    n_layers: Annotated[
        int,
        Field(
            ge=2,
            le=100,
            description="layers of propagation; the mean of a single one would be contrasted with it",
        ),
        Search(2, 4),
    ] = 3
    contrast_layer: Annotated[
        int,
        Field(
            ge=1,
            description="l*, the layer that is contrasted with the mean of all; at most n_layers",
        ),
    ] = 1
    noise: Noise = 0.2
    contrast: Annotated[Contrast, Field(description="of the two views of a node")] = Contrast(
        objective="info_nce", similarity="cosine", temperature=0.15
    )


class XSimGCL(SimGCL):
    """SimGCL in a single propagation: its noisy output is what recommends, and is contrasted with
    one of its layers.

    Source: Yu et al., XSimGCL: Towards Extremely Simple Graph Contrastive Learning for
    Recommendation (TKDE 2023). Ranking has no noise. Departures: as in SimGCL (lambda of the
    authors: .2); three layers by default.
    """

    Config = XSimGCLConfig

    def losses(self, batch: PairBatch, wanted: frozenset[str]) -> dict[str, Tensor]:
        _, *layers = self._noisy_layers(batch)
        vectors = mean(layers)
        terms = {}
        if "cl" in wanted:
            terms["cl"] = self._contrast(batch, vectors, layers[self.config.contrast_layer - 1])
        return terms | self._recommendation(batch, wanted, lambda batch: (batch, vectors))
