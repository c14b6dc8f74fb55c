"""Sampled neighbourhoods of a batch of target nodes: similar nodes for each convolution layer, and
contexts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from recgraph.config import Config
from recgraph.graph.contexts import Layered, Walked
from recgraph.models.heterogeneous.paths import Features, MetaPathInputs, PathInputs
from recgraph.ranks import WHOLE, Share
from recgraph.sparse.csr import Csr, sort_entries
from recgraph.sparse.operators import Chain
from recgraph.sparse.products import compose
from recgraph.sparse.ragged import Ragged
from recgraph.sparse.select import sample_rows
from recgraph.sparse.spmm import Operator

#: a layer of a path, and that of its twin
LayerPair = tuple[Chain, Chain]
FanOut = Annotated[tuple[Annotated[int, Field(ge=1)] | None, ...], Field(min_length=1)]


class Sampling(Config):
    """Walks meta-paths from a batch of target nodes, sampling the edges of each node reached.

    A path's normalised adjacency ``diag(l) F_1 ... F_n diag(r)`` is estimated by ``diag(l) S_1 ...
    S_n diag(r)``: S_k has the drawn entries of F_k, each divided by the share that was drawn, and
    ``l``, ``r`` are those of the whole graph. The estimate of a product is unbiased, and exact
    where the fan-out covers all edges; its cost is the number of edges drawn, whatever the degrees.
    Contexts are means over the distinct nodes reached.
    """

    fan_out: Annotated[
        tuple[FanOut, ...],
        Field(
            min_length=1,
            description="edges followed from each node, step by step along a path (the last number serves later steps, "
            "none: all), one for each layer of the encoder, the one nearest to the batch first",
        ),
    ] = ((5, 1), (2, 1))
    context_fan_out: Annotated[
        FanOut, Field(description="edges followed from each node to its contexts, step by step")
    ] = (5,)
    replace: Annotated[bool, Field(description="an edge may be drawn twice")] = False
    context_cap: Annotated[
        int | None,
        Field(
            ge=1,
            description="of embeddings: a node that follows more ways than this at a step of a context has the mean "
            "over ways from there on, not over distinct nodes; none: always over distinct nodes",
        ),
    ] = 1 << 14

    def draw(
        self, source: MetaPathInputs, nodes: Tensor, generator: torch.Generator
    ) -> MetaPathInputs:
        """The inputs of a batch; adjacencies have a row for each node of the batch.

        Args:
            source: the inputs of all nodes, read with ``sampled``, on the model's device.
            nodes: [B] int64, target nodes.
            generator: draws; on any device.
        """
        rows = nodes
        layers: list[list[LayerPair]] = []
        walks: list[_Walk] = []
        for fan_out in self.fan_out:
            if walks:
                layers.append([walk.operators(rows) for walk in walks])
            walks = [_walk(path, rows, fan_out, generator, self.replace) for path in source.paths]
            rows = _distinct([walk.seen for walk in walks])
        reached = self._contexts(source.paths, rows, generator)
        local = local_nodes(source, rows, reached.values())
        layers.append([walk.operators(local[source.target]) for walk in walks])
        return _joined(source, rows, local, layers, reached)

    def _contexts(
        self, paths: Sequence[PathInputs], rows: Tensor, generator: torch.Generator
    ) -> dict[int, Reached]:
        """The nodes that each context reaches, by the identity of the context: paths that begin
        alike share it.
        """
        of_context: dict[int, Reached] = {}
        for path in paths:
            before: Reached | None = None
            for node_type, context in path.contexts:
                assert isinstance(context, Walked)
                if id(context) not in of_context:
                    reached = self._reached(node_type, context.steps, rows, before, generator)
                    of_context[id(context)] = reached
                before = of_context[id(context)]
        return of_context

    def _reached(
        self,
        node_type: str,
        steps: Sequence[Csr],
        rows: Tensor,
        before: Reached | None,
        generator: torch.Generator,
    ) -> Reached:
        """The nodes that rows reach by the last of some steps, a sample of its edges; ``before``
        are those that they reach by the others.
        """
        step = steps[-1]
        nodes = rows if before is None else before.nodes
        fan_out = _at(self.context_fan_out, len(steps) - 1)
        drawn, _ = sample_rows(step, nodes, fan_out, generator, self.replace)
        ends, indices = torch.unique(step.indices[drawn.values], return_inverse=True)
        reached = Csr(drawn.offsets, indices, None, (len(nodes), len(ends))).pattern()
        if before is not None:
            reached = compose(before.reached, reached, "binary")
        return Reached(node_type, ends, reached)


@dataclass(frozen=True, eq=False)
class Reached:
    """Nodes [n] of a type, ascending, and [R, n], which of them each row reaches."""

    node_type: str
    nodes: Tensor
    reached: Csr

    def relabelled(self, rows: Tensor, local: Mapping[str, Tensor], target: str) -> Csr:
        """[N_local, n_local] in the local indices of nodes; target nodes that are no row reach
        nothing.
        """
        among = local[self.node_type]
        columns = torch.searchsorted(among, self.nodes)[self.reached.indices]
        lengths = self.reached.degrees.new_zeros(len(local[target]))
        lengths[torch.searchsorted(local[target], rows)] = self.reached.degrees
        return Csr(
            Ragged.from_lengths(columns, lengths).offsets, columns, None, (len(lengths), len(among))
        )


@dataclass(frozen=True, eq=False)
class _Walk:
    """A sampled path from some rows: its factors, each with the weights of the path and with those
    of its twin; the columns of the last one are indices in the whole graph."""

    path: PathInputs
    rows: Tensor
    factors: list[tuple[Csr, Csr]]

    @property
    def seen(self) -> Tensor:
        """The target nodes that the rows depend on; some several times."""
        ends = self.factors[-1][0].indices
        if not self.path.loops:
            return ends
        return torch.cat([ends, self.rows])

    def operators(self, columns: Tensor) -> LayerPair:
        """[R, C] of the path and of its twin; ``columns`` [C], ascending, holds every node seen."""
        plain, masked = self.factors[-1]
        plain = _relabelled(plain, columns)
        masked = plain.with_weights(masked.weights)  # what both share is made once
        if self.path.loops:
            plain, masked = _with_loops(plain, masked, torch.searchsorted(columns, self.rows))
        first = [pair[0] for pair in self.factors[:-1]]
        first_masked = [pair[1] for pair in self.factors[:-1]]
        return (
            self._chain(self.path.adjacency, [*first, plain], columns),
            self._chain(self.path.masked, [*first_masked, masked], columns),
        )

    def _chain(self, source: Operator | Layered, factors: Sequence[Csr], columns: Tensor) -> Chain:
        """Sampled factors with the scales of the whole graph."""
        assert isinstance(source, Chain)
        return Chain(tuple(factors), _taken(source.left, self.rows), _taken(source.right, columns))


def _taken(scales: Tensor | None, nodes: Tensor) -> Tensor | None:
    return None if scales is None else scales[nodes]


def _distinct(parts: list[Tensor]) -> Tensor:
    """[n], ascending: the nodes that any part holds."""
    nodes: Tensor = torch.unique(torch.cat(parts))
    return nodes


def local_nodes(
    inputs: MetaPathInputs, rows: Tensor, reached: Iterable[Reached]
) -> dict[str, Tensor]:
    """Node type -> [n], ascending: the nodes that target nodes [R] and their contexts read."""
    met: dict[str, list[Tensor]] = {name: [rows[:0]] for name in inputs.features}
    met[inputs.target].append(rows)
    for part in reached:
        met[part.node_type].append(part.nodes)
    return {name: _distinct(parts) for name, parts in met.items()}


def _walk(
    path: PathInputs, rows: Tensor, fan_out: FanOut, generator: torch.Generator, replace: bool
) -> _Walk:
    assert isinstance(path.adjacency, Chain)
    assert isinstance(path.masked, Chain)
    scales = path.adjacency.right if path.adjacency.left is None else path.adjacency.left
    assert scales is not None
    nodes, factors = rows, []
    last = len(path.adjacency.factors) - 1
    for number, factor in enumerate(path.adjacency.factors):
        drawn, per_row = sample_rows(factor, nodes, _at(fan_out, number), generator, replace)
        scale = torch.repeat_interleave(
            per_row.to(scales.dtype), drawn.lengths, output_size=len(drawn.values)
        )
        columns, width = factor.indices[drawn.values], factor.shape[1]
        if number < last:  # a node that several rows reach is expanded once
            nodes, columns = torch.unique(columns, return_inverse=True)
            width = len(nodes)
        places = Csr(drawn.offsets, columns, None, (drawn.n_rows, width))
        plain = places.with_weights(_scaled(scale, factor, drawn.values))
        masked = places.with_weights(_scaled(scale, path.masked.factors[number], drawn.values))
        factors.append((plain, masked))
    return _Walk(path, rows, factors)


def _scaled(scale: Tensor, factor: Csr, entries: Tensor) -> Tensor:
    """[K]: the weights of drawn entries, each divided by the share that was drawn."""
    if factor.weights is None:
        return scale
    return scale * factor.weights[entries].to(scale.dtype)


def _with_loops(matrix: Csr, masked: Csr, own: Tensor) -> tuple[Csr, Csr]:
    """With each row's own column [R], 1 in the twin and 0 beside it."""
    rows = torch.cat([matrix.rows, torch.arange(len(own), device=own.device)])
    columns = torch.cat([matrix.indices, own])
    order = sort_entries(rows, columns, matrix.shape[1])
    offsets = matrix.indptr + torch.arange(len(matrix.indptr), device=own.device)
    places = Csr(offsets, columns[order], None, matrix.shape)
    zeros = matrix.values().new_zeros(len(own))
    weights = torch.cat([matrix.values(), zeros])[order]
    masked_weights = torch.cat([masked.values(), zeros + 1])[order]
    return places.with_weights(weights), places.with_weights(masked_weights)


def _at(fan_out: FanOut, step: int) -> int | None:
    return fan_out[min(step, len(fan_out) - 1)]


def take_features(x: Features, rows: Tensor) -> Features:
    """Features of some nodes; where a type has none, the indices of the nodes, for a look-up."""
    if x is None:
        return rows
    if isinstance(x, Csr):
        return x.take_rows(rows)
    return x[rows]


def share_of(inputs: MetaPathInputs, share: Share) -> MetaPathInputs:
    """The inputs of this rank's nodes, taken from those that :meth:`Sampling.draw` gives for the
    whole batch.

    An encoder gathers the rows of all ranks behind its last layer (:attr:`Layered.share`).
    """
    if share.is_whole:
        return inputs
    outermost = inputs.paths[0].adjacency
    assert isinstance(outermost, Layered)
    layer = outermost.layers[-1]
    assert isinstance(layer, Chain)
    rows = torch.arange(layer.shape[0], device=layer.device)[share.rows]
    layers: list[list[LayerPair]] = []
    for number in reversed(range(len(outermost.layers))):
        pairs = [_of_rows(path, number, rows) for path in inputs.paths]
        rows = _distinct([plain.factors[-1].indices for plain, _ in pairs])
        if number:
            layers.append([_on_columns(pair, rows) for pair in pairs])
    reached = {}
    for path in inputs.paths:
        for node_type, context in path.contexts:
            reached[id(context)] = _of_context(node_type, context, rows)
    local = local_nodes(inputs, rows, reached.values())
    layers.append([_on_columns(pair, local[inputs.target]) for pair in pairs])
    return _joined(inputs, rows, local, layers, reached, share)


def _joined(
    source: MetaPathInputs,
    rows: Tensor,
    local: Mapping[str, Tensor],
    layers: Sequence[Sequence[LayerPair]],
    reached: Mapping[int, Reached],
    share: Share = WHOLE,
) -> MetaPathInputs:
    """The inputs of some nodes, of the layers of each path and its twin, the one nearest to the
    batch first.
    """
    columns = {key: part.relabelled(rows, local, source.target) for key, part in reached.items()}
    paths = []
    for number, path in enumerate(source.paths):
        # in the order in which they are applied
        pairs = [layer[number] for layer in reversed(layers)]
        adjacency, masked = zip(*pairs, strict=True)
        inputs = PathInputs(
            name=path.name,
            adjacency=Layered(adjacency, share),
            masked=Layered(masked, share),
            contexts=tuple((name, columns[id(context)]) for name, context in path.contexts),
        )
        paths.append(inputs)
    features = {name: take_features(x, local[name]) for name, x in source.features.items()}
    masked_features = take_features(source.masked, local[source.target])
    return MetaPathInputs(source.target, features, masked_features, tuple(paths))


def _of_context(node_type: str, context: Csr | Walked, rows: Tensor) -> Reached:
    """What some rows of a context reach."""
    assert isinstance(context, Csr)
    part = context.take_rows(rows)
    nodes = torch.unique(part.indices)
    return Reached(node_type, nodes, _relabelled(part, nodes))


def _of_rows(path: PathInputs, number: int, rows: Tensor) -> LayerPair:
    """Some rows of a layer of a path and of its twin; the last factors have all of their columns."""
    assert isinstance(path.adjacency, Layered)
    assert isinstance(path.masked, Layered)
    plain, masked = path.adjacency.layers[number], path.masked.layers[number]
    return _chain_of_rows(plain, rows), _chain_of_rows(masked, rows)


def _chain_of_rows(chain: Operator, rows: Tensor) -> Chain:
    """Some rows of a chain, of each later factor what they lead to."""
    assert isinstance(chain, Chain)
    left = _taken(chain.left, rows)
    *inner, last = chain.factors
    factors = []
    for factor in inner:
        part = factor.take_rows(rows)
        rows = torch.unique(part.indices)
        factors.append(_relabelled(part, rows))
    return Chain((*factors, last.take_rows(rows)), left, chain.right)


def _on_columns(pair: LayerPair, columns: Tensor) -> LayerPair:
    """A path and its twin with some of the columns, which hold all entries."""
    plain, masked = pair
    return _chain_on_columns(plain, columns), _chain_on_columns(masked, columns)


def _chain_on_columns(chain: Chain, columns: Tensor) -> Chain:
    *inner, last = chain.factors
    return Chain((*inner, _relabelled(last, columns)), chain.left, _taken(chain.right, columns))


def _relabelled(matrix: Csr, columns: Tensor) -> Csr:
    """With the indices of columns among some, ascending, that hold all entries."""
    indices = torch.searchsorted(columns, matrix.indices)
    return Csr(matrix.indptr, indices, matrix.weights, (matrix.shape[0], len(columns)))
