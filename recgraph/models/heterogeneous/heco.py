"""HeCo: the contrast of the network schema with meta-paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from recgraph.config import Search
from recgraph.contrast.term import Contrast, ContrastiveTerm
from recgraph.encoders.base import dropout_generator
from recgraph.encoders.graph import GCN, SemanticAttention
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MaxMemoryMiB, MetaPath
from recgraph.models.base import ModelConfig, PathKey, Space
from recgraph.models.heterogeneous.base import (
    GraphBatch,
    GraphConfig,
    GraphModel,
    GraphSpace,
    evaluating,
)
from recgraph.models.heterogeneous.paths import Features, one_each
from recgraph.rng import Generators, dropout
from recgraph.sparse.blocks import work_type
from recgraph.sparse.csr import Csr
from recgraph.sparse.device import full_precision
from recgraph.sparse.operators import Placing, mean_of, normalise
from recgraph.sparse.ragged import Ragged, row_softmax
from recgraph.sparse.select import top_k
from recgraph.sparse.spmm import Operator, spmm

# positives where the target has no features, as Freebase's 3,492 films: of fewer nodes a share
_FEWEST, _MOST, _SHARE = 5, 80, 1 / 40


class HeCoContrast(Contrast):
    """A contrast whose temperature follows the features of the target."""

    temperature: Annotated[
        float | None,
        Field(
            gt=0,
            description="what similarities are divided by; none: .8, or .5 where the target has no features",
        ),
        Search(0.1, 2.0, log=True),
    ] = None  # type: ignore[assignment]


class HeCoConfig(GraphConfig):
    # none is replaced before the model reads it, see of_target
    dropout: Annotated[
        float | None,
        Field(
            ge=0,
            lt=1,
            description="of features and layers; none: .2, or .1 where the target has no features",
        ),
        Search(0.0, 0.6, step=0.1),
    ] = None  # type: ignore[assignment]
    attention_dropout: Annotated[
        float | None,
        Field(
            ge=0,
            lt=1,
            description="of the attention vectors; none: .5, or .3 where the target has no features",
        ),
    ] = None
    contrast: Annotated[
        HeCoContrast, Field(description="of the two views; nt_xent needs n_positives = 1")
    ] = HeCoContrast(objective="info_nce", similarity="cosine")
    schema_weight: Annotated[
        float,
        Field(ge=0, le=1, description="lambda, share of the loss with the schema view as anchor"),
    ] = 0.5
    n_neighbours: Annotated[
        Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=1)], ...],
        Field(
            description="neighbours sampled of each type at every step: for all types, or one a type of the schema"
        ),
    ] = 7
    n_positives: Annotated[
        int | None,
        Field(
            ge=1,
            description="positives of a node: itself, and those its meta-paths lead to most; none: 5, or where the "
            "target has no features a fortieth of its nodes, from 5 to 80",
        ),
    ] = None
    ties: Annotated[
        Literal["index", "random"],
        Field(
            description="positives to which paths lead equally often: those of the highest index, which says what the "
            "order of the file says, or the last ones of an order that the seed draws"
        ),
    ] = "random"
    max_memory_mib: MaxMemoryMiB = 4096

    def of_target(self, has_features: bool, n_nodes: int) -> tuple[HeCoConfig, dict[str, Any]]:
        """The settings for a target of so many nodes, in which none is none, and those that were,
        by dotted name; without features as published for Freebase."""
        defaults: dict[str, Any]
        if has_features:
            defaults = {"dropout": 0.2, "attention_dropout": 0.5, "n_positives": _FEWEST}
            temperature = 0.8
        else:
            n_positives = min(max(int(_SHARE * n_nodes), _FEWEST), _MOST)
            defaults = {"dropout": 0.1, "attention_dropout": 0.3, "n_positives": n_positives}
            temperature = 0.5
        resolved = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        config = self.model_copy(update=resolved)
        if self.contrast.temperature is not None:
            return config, resolved
        contrast = self.contrast.model_copy(update={"temperature": temperature})
        resolved["contrast.temperature"] = temperature
        return config.model_copy(update={"contrast": contrast}), resolved


@dataclass(frozen=True, eq=False)
class _Inputs:
    """HeCo's inputs: features by type, adjacencies of paths, neighbours by type, and the positives
    of each node.
    """

    features: Mapping[str, Features]
    paths: tuple[Operator, ...]
    neighbours: tuple[Csr, ...]
    positives: Csr

    def to(self, device: torch.device, dtype: torch.dtype) -> _Inputs:
        place = Placing(device, dtype)
        features = {name: place(x) for name, x in self.features.items()}
        return _Inputs(
            features=features,
            paths=tuple(map(place, self.paths)),
            neighbours=tuple(map(place, self.neighbours)),
            positives=place(self.positives),
        )


class HeCo(GraphModel):
    """Contrast of the network-schema view with the meta-path view of a heterogeneous graph.

    Source: Wang et al., Self-supervised Heterogeneous Graph Neural Network with Co-contrastive
    Learning (KDD 2021).

    - schema view: for each type next to the target, attention over sampled neighbours, then
      semantic attention;
    - meta-path view: a one-layer GCN a path over its binary adjacency with self-loops, then
      semantic attention; this is the embedding;
    - a head ``W2 ELU(W1 z)``, cosine similarities; positives of a node are those that its
      meta-paths lead to most, a path with few ends counting more for each of them, as in the
      published code (the paper counts paths).

    Term ``info``: ``lambda L(schema, path) + (1 - lambda) L(path, schema)`` with several positives
    each, or L of both views where an objective has the rows of both for anchors (NT-Xent).
    Departures: a node's own place is always among its positives, ties among candidates are broken
    by ``ties`` (published: by the order of the file, in which classes may lie together), and
    neighbours are sampled anew at every step from the run's generators.
    """

    Config: ClassVar[type[ModelConfig]] = HeCoConfig

    def _build(self, space: Space) -> None:
        assert isinstance(space, GraphSpace)
        graph = space.graph
        self.target = self.target_of(graph)
        has_features = self.features_of(graph, self.target) is not None
        config, self.resolved = self.config.of_target(has_features, graph.count(self.target))
        neighbours = _neighbours(graph, self.target)
        self.schema_types = list(neighbours)
        self.n_neighbours = one_each("n_neighbours", config.n_neighbours, len(self.schema_types))
        self.types = list(dict.fromkeys([self.target, *self.schema_types]))
        self.type_layers = nn.ModuleList(
            self._type_layer(graph, name, config.dropout) for name in self.types
        )
        for layer in self.type_layers:
            nn.init.xavier_normal_(layer.linear.weight, gain=1.414)  # type: ignore[union-attr, arg-type]
        self._begin_rows(graph, self.target, dict(zip(self.types, self.type_layers, strict=True)))
        features = {name: self._features(graph, name) for name in self.types}
        counts, operators = [], []
        for name in config.metapaths:
            path = MetaPath(name, counts="binary", max_memory_mib=config.max_memory_mib)
            matrix = path.counts(graph)
            looped = matrix.with_weights(matrix.values()).with_diagonal(1.0)
            counts.append(matrix)
            operators.append(normalise(looped, "symmetric"))
        order = None
        if config.ties == "random":
            generator = Generators(self._seed).fresh("ties")
            order = torch.randperm(
                counts[0].shape[0], generator=generator, device=generator.device
            ).to(counts[0].device)
        self._inputs = _Inputs(
            features=features,
            paths=tuple(operators),
            neighbours=tuple(neighbours.values()),
            positives=_positives(counts, config.n_positives, order),
        )
        dim, p = config.hidden_dim, config.attention_dropout
        self.neighbour_attention = nn.ModuleList(
            NeighbourAttention(dim, p) for _ in self.schema_types
        )
        self.schema_attention = SemanticAttention(dim, dropout=p)
        self.path_encoders = nn.ModuleList(
            GCN(dim, dim, dim, n_layers=1, dropout=0.0, norm="none") for _ in config.metapaths
        )
        self.path_bias = nn.Parameter(torch.zeros(len(config.metapaths), dim))
        self.path_activations = nn.ModuleList(nn.PReLU() for _ in config.metapaths)
        for encoder in self.path_encoders:
            nn.init.xavier_normal_(encoder.weights[0], gain=1.414)  # type: ignore[index]
        self.path_attention = SemanticAttention(dim, dropout=p)
        self.project = nn.Sequential(nn.Linear(dim, dim), nn.ELU(), nn.Linear(dim, dim))
        for layer in (self.project[0], self.project[2]):
            nn.init.xavier_normal_(layer.weight, gain=1.414)  # type: ignore[arg-type]
        self.contrast = ContrastiveTerm(config.contrast, dim=dim)

    def _hidden(self, inputs: _Inputs, name: str, generator: torch.Generator | None) -> Tensor:
        layer = self.type_layers[self.types.index(name)]
        hidden: Tensor = layer(inputs.features[name], generator)
        return hidden

    def path_view(self, inputs: _Inputs, h: Tensor, generator: torch.Generator | None) -> Tensor:
        """[N, D]: the meta-path view."""
        paths = zip(
            self.path_encoders, inputs.paths, self.path_activations, self.path_bias, strict=True
        )
        views = []
        for encoder, adjacency, activation, bias in paths:
            views.append(activation(encoder(adjacency, h, generator) + bias))
        view: Tensor = self.path_attention(views, generator)
        return view

    def schema_view(self, inputs: _Inputs, h: Tensor, generators: Generators) -> Tensor:
        """[N, D]: the network-schema view, neighbours sampled anew."""
        dropout, draw = generators["dropout"], generators["neighbours"]
        views = []
        for number, name in enumerate(self.schema_types):
            sampled = sample_neighbours(inputs.neighbours[number], self.n_neighbours[number], draw)
            z = self.neighbour_attention[number](
                h, self._hidden(inputs, name, dropout), sampled, dropout
            )
            views.append(F.elu(z))
        view: Tensor = self.schema_attention(views, dropout)
        return view

    def losses(self, batch: GraphBatch, wanted: frozenset[str]) -> dict[str, Tensor]:
        inputs: _Inputs = self._placed(self._inputs)
        dropout, candidates = batch.generators["dropout"], batch.fresh("candidates")
        h = self._hidden(inputs, self.target, dropout)
        path = self.project(self.path_view(inputs, h, dropout))
        schema = self.project(self.schema_view(inputs, h, batch.generators))
        positives = None
        if self.config.n_positives != 1:  # a single positive is the node itself
            positives = Ragged(inputs.positives.indices, inputs.positives.indptr)
        from_schema = self.contrast(schema, path, positives=positives, generator=candidates)
        if self.contrast.objective.of_both_sides:
            return {"info": from_schema}
        from_path = self.contrast(path, schema, positives=positives, generator=candidates)
        share = self.config.schema_weight
        return {"info": share * from_schema + (1 - share) * from_path}

    @torch.no_grad()
    def path_weights(self) -> dict[PathKey, float]:
        """The semantic attention of the meta-path view, as embeddings are made."""
        with evaluating(self):
            self.embed()
        assert self.path_attention.last is not None
        weights = self.path_attention.last.tolist()
        return {
            PathKey(self.target, path): weight
            for path, weight in zip(self.config.metapaths, weights, strict=True)
        }

    def embed(self) -> Tensor:
        inputs: _Inputs = self._placed(self._inputs)
        return self.path_view(inputs, self._hidden(inputs, self.target, None), None)


def _neighbours(graph: HeteroGraph, target: str) -> dict[str, Csr]:
    """Node type -> [N, N_type]: the neighbours of target nodes over all edge types."""
    matrices: dict[str, list[Csr]] = {}
    for edge_type in graph.edge_types:
        source, _, end = edge_type
        adjacency = graph.adjacency(edge_type).pattern()
        if source == target:
            matrices.setdefault(end, []).append(adjacency)
        if end == target:
            matrices.setdefault(source, []).append(adjacency.t())
    return {name: mean_of(parts).pattern() for name, parts in matrices.items()}


def _positives(counts: list[Csr], n: int, order: Tensor | None = None) -> Csr:
    """[N, N]: each node itself, and the n - 1 others that its meta-paths, each with rows of sum 1,
    lead to most.

    Args:
        order: [N], different numbers: of nodes that it is led to equally often those of the
            highest; None: of the highest index.
    """
    others = mean_of([normalise(matrix, "row") for matrix in counts]).with_diagonal(None)
    keys = [others.values()]
    if order is not None:
        keys.append(order[others.indices].to(torch.float64))
    if n == 1:
        chosen = others.select(torch.zeros_like(others.indices, dtype=torch.bool))
    else:
        chosen = top_k(others, n - 1, *keys)
    return chosen.with_weights(None).with_diagonal(1.0)


class NeighbourAttention(nn.Module):
    """``z_i = sum_{j in N_i} alpha_ij h_j``, ``alpha_i = softmax_j(LeakyReLU(a . [h_i || h_j]))``.

    Source: HeCo (KDD 2021), equations 2 and 3. ``a . [h_i || h_j]`` is a sum of two products with
    rows, so that no tensor of pairs and widths is made. A node without neighbours gets zeros.

    Args:
        dim: D.
        dropout: of the entries of ``a``.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.att = nn.Parameter(torch.empty(2, dim))
        # one row of 2 D entries, as published, of which this is a view
        nn.init.xavier_normal_(self.att.view(1, -1), gain=1.414)

    def forward(
        self, h: Tensor, neighbours: Tensor, adj: Csr, generator: torch.Generator | None
    ) -> Tensor:
        """[N, D], in float32 at least.

        Args:
            h: [N, D], the nodes.
            neighbours: [M, D].
            adj: [N, M], without weights: an entry is a neighbour, twice where it was drawn twice.
        """
        att = dropout(self.att, self.dropout, dropout_generator(self, self.dropout, generator))
        work = work_type(h, neighbours, att)
        h, neighbours = h.to(work), neighbours.to(work)
        # autocast would give the sums over neighbours other types than what is summed
        with full_precision(h):
            scores = F.leaky_relu((h @ att[0])[adj.rows] + (neighbours @ att[1])[adj.indices], 0.01)
            return spmm(adj.with_weights(row_softmax(scores, adj.indptr, adj.rows)), neighbours)


def sample_neighbours(adj: Csr, n: int, generator: torch.Generator) -> Csr:
    """n neighbours of each row, without replacement where there are n or more, else with (HeCo's
    way).

    Args:
        adj: [N, M], without weights.
        generator: on the device of ``adj``, or on the host.

    Returns:
        [N, M] with n entries in each row that has one, without weights.
    """
    degrees = adj.degrees
    long = degrees >= n
    # without replacement: the first n of each long row in random order
    keys = torch.rand(adj.nnz, generator=generator, device=generator.device).to(adj.device)
    order = torch.argsort(adj.rows + keys.to(torch.float64), stable=True)
    place = torch.arange(adj.nnz, device=adj.device) - adj.indptr[:-1][adj.rows]
    first = order[(place < n) & long[adj.rows]]
    short = torch.nonzero(~long & (degrees > 0)).squeeze(1)
    draws = torch.rand(short.numel(), n, generator=generator, device=generator.device).to(
        adj.device
    )
    again = adj.indptr[short, None] + (draws * degrees[short, None]).long().clamp(
        max=degrees[short, None] - 1
    )
    entries = torch.cat([first, again.view(-1)])
    return Csr.from_coo(adj.rows[entries], adj.indices[entries], shape=adj.shape)
