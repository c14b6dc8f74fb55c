"""HGMAE: a masked autoencoder of the edges of meta-paths, of attributes and of positions of nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor, nn

from recgraph.augment.graph import EdgeDrop
from recgraph.blocks import work_type
from recgraph.config import Added, Search
from recgraph.encoders.graph_attention import HANLayer
from recgraph.graph.metapath import MaxMemoryMiB, MetaPath
from recgraph.graph.walks import WalkConfig, metapath2vec
from recgraph.memory import Needs, Workload
from recgraph.models.base import ModelConfig, PathKey, Phase, Space, Terms
from recgraph.models.heterogeneous.base import GraphBatch, GraphModel, GraphSpace, OneWidthConfig, evaluating
from recgraph.models.heterogeneous.paths import Features, normalised
from recgraph.models.heterogeneous.restoring import attribute_cosines, edge_cosines, lengths_of, scaled_cosine_error
from recgraph.models.heterogeneous.type_layers import TypeLayer
from recgraph.models.memory import autoencoder_needs
from recgraph.rng import Generators, dropout
from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import normalise
from recgraph.sparse.placing import Placing
from recgraph.sparse.spmm import Operator
from recgraph.sparse.top_k import top_k_mask

__all__ = ["HGMAE", "HGMAEConfig", "Masked", "draw_masked", "rate_at"]

Share = Annotated[float, Field(ge=0, lt=1)]


def _of_rates(rate: float | tuple[float, ...]) -> float | tuple[float, ...]:
    if isinstance(rate, tuple) and not (0 <= rate[0] < 1 and 0 <= rate[2] < 1):
        raise ValueError("the first and the last of (first, step, last) must lie in [0, 1)")
    return rate


#: the same in all epochs, or (first, step, last): from the first on by a step an epoch until the last
Rate = Annotated[Share | tuple[float, float, float], AfterValidator(_of_rates)]
_RATE = "; or (first, step, last): of the first epoch, what each further one adds, and where that ends"


def rate_at(rate: float | tuple[float, float, float], epoch: int) -> float:
    """A rate in an epoch, from 0."""
    if not isinstance(rate, tuple):
        return rate
    first, step, last = rate
    now = first + epoch * step
    return now if min(first, last) <= now <= max(first, last) else last


def epochs_of(rate: float | tuple[float, float, float]) -> int:
    """Epochs until a rate has the value that it keeps."""
    if not isinstance(rate, tuple) or not rate[1]:
        return 0
    first, step, last = rate
    steps = (last - first) / step
    return math.ceil(round(steps, 6)) if steps >= 0 else 1  # a step away from the last one ends there


class HGMAEConfig(OneWidthConfig):
    n_layers: Annotated[int, Field(ge=1, description="of the encoder"), Search(1, 3)] = 2
    n_heads: Annotated[int, Field(ge=1, description="of the encoder's attention; a divisor of hidden_dim")] = 4
    n_neighbours: Annotated[
        int | None,
        Field(
            ge=1,
            description="neighbours along each path that a node attends to in a step, itself among them, drawn anew; "
            "none: all, as published. Embeddings are made with all",
        ),
    ] = 64
    max_memory_mib: Annotated[MaxMemoryMiB, Added()] = 4096
    attention_dropout: Annotated[
        float, Field(ge=0, lt=1, description="of the shares of neighbours"), Search(0.0, 0.6, step=0.1)
    ] = 0.2
    feature_mask: Annotated[Rate, Field(description=f"share of the nodes whose attributes are masked{_RATE}")] = (
        0.5,
        0.005,
        0.8,
    )
    replaced: Annotated[
        float, Field(ge=0, le=1, description="share of the masked nodes that have another node's attributes")
    ] = 0.2
    unchanged: Annotated[float, Field(ge=0, le=1, description="share of the masked nodes that keep their own")] = 0.1
    edge_mask: Annotated[Rate, Field(description=f"share of each path's edges that are masked{_RATE}")] = 0.5
    attribute_power: Annotated[
        float, Field(ge=1, description="of the scaled cosine errors of attributes"), Search(1.0, 3.0, step=1.0)
    ] = 2.0
    edge_power: Annotated[float, Field(ge=1, description="of those of edges"), Search(1.0, 3.0, step=1.0)] = 3.0
    position_power: Annotated[float, Field(ge=1, description="of those of positions"), Search(1.0, 3.0, step=1.0)] = 2.0
    edge_weight: Annotated[float, Field(ge=0, description="of the edges' term"), Search(0.1, 2.0, log=True)] = 1.0
    position_weight: Annotated[
        float, Field(ge=0, description="of the positions' term; 0: no walks are drawn"), Search(0.01, 1.0, log=True)
    ] = 0.1
    walk_options: Annotated[
        dict[str, Any],
        Field(default_factory=dict, description="settings of the walks that positions are made by; see WalkConfig"),
    ]
    position_dropout: Annotated[float, Field(ge=0, lt=1, description="in the network that predicts positions")] = 0.2

    def idle(self) -> frozenset[str]:
        of_edges = () if self.edge_weight else ("edge_mask", "edge_power")
        of_positions = () if self.position_weight else ("position_power", "position_dropout", "walk_options")
        return super().idle().union(of_edges, of_positions)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.replaced + self.unchanged >= 1:
            raise ValueError(
                f"replaced = {self.replaced} and unchanged = {self.unchanged} leave no masked node without attributes; "
                "their sum must be below 1"
            )
        if self.hidden_dim % self.n_heads:
            raise ValueError(f"n_heads = {self.n_heads} must divide hidden_dim = {self.hidden_dim}")
        WalkConfig.of(self.walk_options)
        return self


class Masked(NamedTuple):
    """Which nodes are masked in a step.

    Attributes:
        nodes: [N] bool, those whose attributes are restored.
        n_nodes: how many, at least 1.
        tokens: [N] bool, those of them that have the mask's token in place of attributes.
        source: [N] int64, the node whose attributes each has otherwise: itself, or another.
    """

    nodes: Tensor
    n_nodes: int
    tokens: Tensor
    source: Tensor


def draw_masked(n: int, rate: float, replaced: float, unchanged: float, generator: torch.Generator) -> Masked:
    """Masked nodes, uniform without replacement, on the generator's device.

    Args:
        n: N.
        rate: the share of nodes that are masked; at least one is.
        replaced, unchanged: shares of the masked nodes.
    """
    place, other = (torch.randperm(n, generator=generator, device=generator.device) for _ in range(2))
    count = max(int(rate * n), 1)
    n_replaced, n_unchanged = int(replaced * count), int(unchanged * count)
    n_tokens = count - n_replaced - n_unchanged
    is_replaced = (place >= n_tokens) & (place < n_tokens + n_replaced)
    drawn = torch.argsort(other)[(place - n_tokens).clamp(min=0)]
    source = torch.where(is_replaced, drawn, torch.arange(n, device=place.device))
    return Masked(place < count, count, place < n_tokens, source)


@dataclass(frozen=True, eq=False)
class _Inputs:
    """Attributes [N, F] with their lengths [N]; of each path the pattern with self-loops, the adjacency that is
    restored, and the lengths [N] of its rows."""

    features: Mapping[str, Features]
    lengths: Tensor
    neighbours: tuple[Csr, ...]
    adjacencies: tuple[Operator, ...]
    of_rows: tuple[Tensor, ...]

    def to(self, device: torch.device, dtype: torch.dtype) -> _Inputs:
        place = Placing(device, dtype)
        return _Inputs(
            {name: place(x) for name, x in self.features.items()},
            self.lengths.to(device, dtype),
            tuple(map(place, self.neighbours)),
            tuple(map(place, self.adjacencies)),
            tuple(lengths.to(device, dtype) for lengths in self.of_rows),
        )


class HGMAE(GraphModel):
    """A masked autoencoder over meta-paths: masked attributes, edges and positions of nodes are restored.

    Source: Tian et al., Heterogeneous Graph Masked Autoencoders (AAAI 2023). The encoder is ``n_layers``
    :class:`HANLayer`; the decoder another one without activations, with one head, and ``x = W z + b``. The cosine of
    what was restored and what was there enters as ``(1 - cos)^power``, in the mean over rows:

    - ``attributes``: masked nodes have a learned token, another node's attributes (``replaced``) or their own
      (``unchanged``); before the decoder their codes are 0. Of the masked nodes, with the attributes of each.
    - ``edges``: the encoder and the decoder see a part of each path's edges. Of the rows of ``X X^T``, X restored, with
      those of the path's normalised adjacency, in the mean over paths by the decoder's semantic attention.
    - ``positions``: what a network makes of the codes of the first pass, with the nodes' :func:`metapath2vec`.

    X X^T is never made (:mod:`recgraph.models.heterogeneous.restoring`). The embedding is the code, without masks.

    Departures from the published code: attributes enter by the layer of their type and leave by one that the paths
    share, so that the token is one of D numbers; ``n_neighbours``; every node is its own neighbour; masked edges never
    include these; :class:`NodeNorm` has no running means; walks follow the meta-paths (published: to each neighbouring
    type and back), and positions are not divided by their sums, which turns some around.

    Each step is on the whole graph: there are no batches of nodes.
    """

    Config: ClassVar[type[ModelConfig]] = HGMAEConfig

    def _build(self, space: Space) -> None:
        assert isinstance(space, GraphSpace)
        config, graph = self.config, space.graph
        target = self._target(graph)
        self.types = [target]
        self.type_layers = nn.ModuleList([self._type_layer(graph, target)])
        self._begin_rows(graph, target, {target: self.type_layers[0]})
        features = self._features(graph, target)
        paths = [MetaPath(path, max_memory_mib=config.max_memory_mib) for path in config.metapaths]
        counts = [path.counts(graph) for path in paths]
        exact = [normalise(matrix, "symmetric", torch.float64) for matrix in counts]
        n, like = graph.count(target), torch.empty(0, dtype=torch.float64, device=graph.device)
        self._inputs = _Inputs(
            {target: features},
            lengths_of(features, n, like),
            tuple(matrix.pattern().with_diagonal(1.0) for matrix in counts),
            tuple(normalised(matrix, "symmetric") for matrix in counts),
            tuple(lengths_of(matrix, n, like) for matrix in exact),
        )
        self._routes = [path.route(graph) for path in paths]
        self._positions: Tensor | None = None
        dim, p = config.hidden_dim, config.attention_dropout
        self.token = nn.Parameter(torch.zeros(dim))
        self.encoder = nn.ModuleList(HANLayer(len(paths), dim, dim, config.n_heads, p) for _ in range(config.n_layers))
        self.decoder = HANLayer(len(paths), dim, dim, 1, p, activated=False)
        self.of_attributes, self.of_edges = (nn.Linear(dim, dim, bias=False) for _ in range(2))
        x = self.features_of(graph, target)
        self.restored = nn.Linear(dim, n if x is None else x.shape[1])
        width = WalkConfig.of(config.walk_options).dim
        self.predictor = nn.ModuleList(nn.Linear(a, width) for a in (dim, width, width))
        self.predictor_activations = nn.ModuleList(nn.PReLU() for _ in range(2))

    @property
    def changing_epochs(self) -> int:
        """Epochs until both rates of masks have their last value: the more is masked, the higher is the loss."""
        return max(epochs_of(self.config.feature_mask), epochs_of(self.config.edge_mask))

    @property
    def phases(self) -> tuple[Phase, ...]:
        config = self.config
        terms = {"attributes": 1.0, "edges": config.edge_weight, "positions": config.position_weight}
        return (Phase("model", ("model",), {name: weight for name, weight in terms.items() if weight}),)

    def memory_needs(self, work: Workload) -> Needs:
        return autoencoder_needs(self, work, [MetaPath(path) for path in self.config.metapaths])

    def encode(self, adjacencies: tuple[Csr, ...], h: Tensor, generator: torch.Generator | None) -> Tensor:
        """[N, D]: codes of nodes [N, D] that are their layer's.

        Args:
            adjacencies: of each path, [N, N], the neighbours that a node attends to.
            generator: draws dropout; required in training mode where dropout is above 0.
        """
        for number, layer in enumerate(self.encoder):
            if number:
                h = self._dropped(h, generator)
            h, _ = layer(adjacencies, h, generator)
        return h

    def decode(
        self, adjacencies: tuple[Csr, ...], z: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """[N, D]: what the last layer, :attr:`restored`, makes attributes of; and [P], the shares of the paths."""
        decoded: tuple[Tensor, Tensor] = self.decoder(adjacencies, self._dropped(z, generator), generator)
        return decoded

    def _dropped(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return dropout(x, self.config.dropout, generator if self.training else None)

    def _layer(self) -> TypeLayer:
        (layer,) = self.type_layers
        assert isinstance(layer, TypeLayer)
        return layer

    def terms(self, batch: GraphBatch, asked: frozenset[str]) -> Terms:
        inputs: _Inputs = self._placed(self._inputs)
        restored = cache(lambda: self._restored(inputs, batch))
        return {
            "attributes": lambda: restored()[0],
            "edges": lambda: self._edges(inputs, batch),
            "positions": lambda: self._positions_of(restored()[1], batch.generators["dropout"]),
        }

    def _restored(self, inputs: _Inputs, batch: GraphBatch) -> tuple[Tensor, Tensor]:
        """The term ``attributes``, and [N, D] the codes of the masked graph."""
        config, layer = self.config, self._layer()
        (x,) = inputs.features.values()
        products = layer.product(x)
        drawn = batch.generators["masks"]
        rate = rate_at(config.feature_mask, batch.epoch)
        masked = draw_masked(len(products), rate, config.replaced, config.unchanged, drawn)
        nodes, tokens, source = (one.to(products.device) for one in (masked.nodes, masked.tokens, masked.source))
        products = torch.where(tokens[:, None], self.token.to(products.dtype), products[source])
        generator = batch.generators["dropout"]
        adjacencies = self._some(inputs.neighbours, batch.generators["neighbours"])
        z = self.encode(adjacencies, layer.activated(products, generator), generator)
        kept = self.of_attributes(z).masked_fill(nodes[:, None], 0)
        decoded, _ = self.decode(adjacencies, kept, generator)
        cosines = attribute_cosines(decoded, self.restored, x, inputs.lengths)
        errors = scaled_cosine_error(cosines, config.attribute_power)
        return torch.where(nodes, errors, 0).sum() / masked.n_nodes, z

    def _edges(self, inputs: _Inputs, batch: GraphBatch) -> Tensor:
        """The term ``edges``."""
        config = self.config
        drop = EdgeDrop(ratio=rate_at(config.edge_mask, batch.epoch), redraw=True)
        masks = batch.generators["masks"]
        kept = tuple(drop(adjacency, masks) for adjacency in inputs.neighbours)
        kept = self._some(kept, batch.generators["neighbours"])
        generator = batch.generators["dropout"]
        (x,) = inputs.features.values()
        z = self.encode(kept, self._layer()(x, generator), generator)
        decoded, shares = self.decode(kept, self.of_edges(z), generator)
        errors = [
            scaled_cosine_error(edge_cosines(decoded, self.restored, adjacency, lengths), config.edge_power).mean()
            for adjacency, lengths in zip(inputs.adjacencies, inputs.of_rows, strict=True)
        ]
        return (shares * torch.stack(errors)).sum()

    def _positions_of(self, z: Tensor, generator: torch.Generator) -> Tensor:
        """The term ``positions`` of codes [N, D]."""
        config = self.config
        if self._positions is None:  # once, and only where they are trained on
            assert isinstance(self.space, GraphSpace)
            drawn = Generators(self._seed).fresh("walks")
            walks = WalkConfig.of(config.walk_options)
            with torch.no_grad():
                self._positions = metapath2vec(self.space.graph, self._routes, walks, drawn)
        first, *rest = self.predictor
        made = first(z)
        for layer, activation in zip(rest, self.predictor_activations, strict=True):
            own = generator if self.training else None
            made = layer(dropout(activation(made), config.position_dropout, own))
        positions = self._positions.to(made.device, work_type(made))
        cosines = torch.cosine_similarity(made.to(positions.dtype), positions, 1)
        return scaled_cosine_error(cosines, config.position_power).mean()

    def _some(self, adjacencies: tuple[Csr, ...], generator: torch.Generator) -> tuple[Csr, ...]:
        """Of each node's neighbours ``n_neighbours`` at most, itself among them; all without a limit."""
        n = self.config.n_neighbours
        if n is None:
            return adjacencies
        return tuple(_limited(adjacency, n, generator) for adjacency in adjacencies)

    @torch.no_grad()
    def path_weights(self) -> dict[PathKey, float]:
        """The semantic attention of the last layer, as embeddings are made."""
        with evaluating(self):
            self.embed()
        last: Any = self.encoder[-1]
        weights = last.attention.last.tolist()
        (target,) = self.types
        return {PathKey(target, path): weight for path, weight in zip(self.config.metapaths, weights, strict=True)}

    def embed(self) -> Tensor:
        inputs: _Inputs = self._placed(self._inputs)
        (x,) = inputs.features.values()
        return self.encode(inputs.neighbours, self._layer()(x, None), None)


def _limited(adj: Csr, n: int, generator: torch.Generator) -> Csr:
    """[N, N]: n entries of each row, uniform without replacement, the diagonal among them; shorter rows whole."""
    keys = torch.rand(adj.nnz, generator=generator, device=generator.device).to(adj.device)
    keys = torch.where(adj.rows == adj.indices, 2.0, keys)
    return adj.select(top_k_mask(adj, n, keys))
