"""Sampled neighbourhoods of a batch of target nodes: similar nodes for each convolution layer, and
contexts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

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
        rows, layers = nodes, []
        walks: list[_Walk] = []
        for number, fan_out in enumerate(self.fan_out):
            walks = [_walk(path, rows, fan_out, generator, self.replace) for path in source.paths]
            seen = torch.unique(torch.cat([part for walk in walks for part in walk.seen]))
            if number < len(self.fan_out) - 1:
                layers.append([walk.operators(seen) for walk in walks])
            rows = seen
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
        made: dict[int, Reached] = {}
        for path in paths:
            before: Reached | None = None
            for hop, (node_type, walked) in enumerate(path.contexts):
                assert isinstance(walked, Walked)
                if id(walked) not in made:
                    level = rows if before is None else before.nodes
                    step, fan_out = walked.steps[-1], _at(self.context_fan_out, hop)
                    drawn, _ = sample_rows(step, level, fan_out, generator, self.replace)
                    found, inverse = torch.unique(step.indices[drawn.values], return_inverse=True)
                    reached = Csr(drawn.offsets, inverse, None, (len(level), len(found))).pattern()
                    if before is not None:
                        reached = compose(before.reached, reached, "binary")
                    made[id(walked)] = Reached(node_type, found, reached)
                before = made[id(walked)]
        return made


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
    def seen(self) -> list[Tensor]:
        """The target nodes that the rows depend on."""
        return [self.factors[-1][0].indices, *([self.rows] if self.path.loops else [])]

    def operators(self, columns: Tensor) -> tuple[Chain, ...]:
        """[R, C] of the path and of its twin; ``columns`` [C], ascending, holds every node seen."""
        own, masked = self.factors[-1]
        own = _relabelled(own, columns)
        last = own, own.with_weights(masked.weights)  # what both share is made once
        if self.path.loops:
            last = _with_loops(*last, torch.searchsorted(columns, self.rows))
        chains = []
        for k, whole in enumerate((self.path.adjacency, self.path.masked)):
            assert isinstance(whole, Chain)
            left = None if whole.left is None else whole.left[self.rows]
            right = None if whole.right is None else whole.right[columns]
            chains.append(
                Chain((*(factor[k] for factor in self.factors[:-1]), last[k]), left, right)
            )
        return tuple(chains)


def local_nodes(
    inputs: MetaPathInputs, rows: Tensor, reached: Iterable[Reached]
) -> dict[str, Tensor]:
    """Node type -> [n], ascending: the nodes that target nodes [R] and their contexts read."""
    met: dict[str, list[Tensor]] = {name: [rows[:0]] for name in inputs.features}
    met[inputs.target].append(rows)
    for part in reached:
        met[part.node_type].append(part.nodes)
    return {name: torch.unique(torch.cat(parts)) for name, parts in met.items()}


def _walk(
    path: PathInputs, rows: Tensor, fan_out: FanOut, generator: torch.Generator, replace: bool
) -> _Walk:
    assert isinstance(path.adjacency, Chain)
    assert isinstance(path.masked, Chain)
    scales = path.adjacency.left if path.adjacency.left is not None else path.adjacency.right
    assert scales is not None
    nodes, factors = rows, []
    pairs = [*zip(path.adjacency.factors, path.masked.factors, strict=True)]
    for number, (factor, twin) in enumerate(pairs):
        drawn, per_row = sample_rows(factor, nodes, _at(fan_out, number), generator, replace)
        scale = torch.repeat_interleave(
            per_row.to(scales.dtype), drawn.lengths, output_size=len(drawn.values)
        )
        columns, width = factor.indices[drawn.values], factor.shape[1]
        if number < len(pairs) - 1:  # a node that several rows reach is expanded once
            nodes, columns = torch.unique(columns, return_inverse=True)
            width = len(nodes)
        weights = (
            scale if one.weights is None else scale * one.weights[drawn.values].to(scales.dtype)
            for one in (factor, twin)
        )
        places = Csr(drawn.offsets, columns, None, (drawn.n_rows, width))
        own, masked = (places.with_weights(each) for each in weights)
        factors.append((own, masked))
    return _Walk(path, rows, factors)


def _with_loops(matrix: Csr, masked: Csr, own: Tensor) -> tuple[Csr, Csr]:
    """With each row's own column [R], 1 in the twin and 0 beside it."""
    rows = torch.cat([matrix.rows, torch.arange(len(own), device=own.device)])
    columns = torch.cat([matrix.indices, own])
    order = sort_entries(rows, columns, matrix.shape[1])
    offsets = matrix.indptr + torch.arange(len(matrix.indptr), device=own.device)
    places = Csr(offsets, columns[order], None, matrix.shape)
    zeros = matrix.values().new_zeros(len(own))
    weights = (
        torch.cat(pair)[order] for pair in ((matrix.values(), zeros), (masked.values(), zeros + 1))
    )
    first, second = (places.with_weights(each) for each in weights)
    return first, second


def _at(fan_out: FanOut, step: int) -> int | None:
    return fan_out[min(step, len(fan_out) - 1)]


def take_features(x: Features, rows: Tensor) -> Features:
    """Features of some nodes; where a type has none, the indices of the nodes, for a look-up."""
    if x is None:
        return rows
    return x.take_rows(rows) if isinstance(x, Csr) else x[rows]


def share_of(inputs: MetaPathInputs, share: Share) -> MetaPathInputs:
    """The inputs of this rank's nodes, taken from those that :meth:`Sampling.draw` gives for the
    whole batch.

    An encoder gathers the rows of all ranks behind its last layer (:attr:`Layered.share`).
    """
    if share.is_whole:
        return inputs
    whole = [
        [*zip(path.adjacency.layers, path.masked.layers, strict=True)]  # type: ignore[union-attr]
        for path in inputs.paths
    ]
    first = whole[0][-1][0]
    rows = torch.arange(first.shape[0], device=first.device)[share.rows]
    layers: list[list[tuple[Chain, ...]]] = []
    for number in reversed(range(len(whole[0]))):
        parts = [
            [_of_rows(chain, rows) for chain in layers_of_path[number]] for layers_of_path in whole
        ]
        rows = torch.unique(
            torch.cat([chain.factors[-1].indices for pair in parts for chain in pair])
        )
        columns = rows
        if not number:
            found: Any = [context for path in inputs.paths for context in path.contexts]
            contexts = {id(reached): _of_context(name, reached, rows) for name, reached in found}
            local = local_nodes(inputs, rows, contexts.values())
            columns = local[inputs.target]
        layers.append([tuple(_on_columns(chain, columns) for chain in pair) for pair in parts])
    return _joined(inputs, rows, local, layers, contexts, share)


def _joined(
    source: MetaPathInputs,
    rows: Tensor,
    local: Mapping[str, Tensor],
    layers: Sequence[Sequence[tuple[Chain, ...]]],
    reached: Mapping[int, Reached],
    share: Share = WHOLE,
) -> MetaPathInputs:
    """The inputs of some nodes, of the layers of each path and its twin, the one nearest to the
    batch first.
    """
    columns = {key: part.relabelled(rows, local, source.target) for key, part in reached.items()}
    paths = []
    for place, path in enumerate(source.paths):
        adjacency, masked = (
            Layered(tuple(layer[place][k] for layer in reversed(layers)), share) for k in (0, 1)
        )
        contexts = tuple((name, columns[id(context)]) for name, context in path.contexts)
        paths.append(PathInputs(path.name, adjacency, masked, contexts))
    features = {name: take_features(x, local[name]) for name, x in source.features.items()}
    return MetaPathInputs(
        source.target, features, take_features(source.masked, local[source.target]), tuple(paths)
    )


def _of_context(node_type: str, context: Csr, rows: Tensor) -> Reached:
    """What some rows of a context reach."""
    part = context.take_rows(rows)
    nodes = torch.unique(part.indices)
    return Reached(node_type, nodes, _relabelled(part, nodes))


def _of_rows(chain: Chain, rows: Tensor) -> Chain:
    """Some rows of a chain, of each later factor what they lead to; the last factor has all of its
    columns.
    """
    left, factors = None if chain.left is None else chain.left[rows], []
    for number, factor in enumerate(chain.factors):
        part = factor.take_rows(rows)
        if number < len(chain.factors) - 1:
            rows = torch.unique(part.indices)
            part = _relabelled(part, rows)
        factors.append(part)
    return Chain(tuple(factors), left, chain.right)


def _on_columns(chain: Chain, columns: Tensor) -> Chain:
    """With some of the columns, which hold all entries."""
    right = None if chain.right is None else chain.right[columns]
    return Chain((*chain.factors[:-1], _relabelled(chain.factors[-1], columns)), chain.left, right)


def _relabelled(matrix: Csr, columns: Tensor) -> Csr:
    indices = torch.searchsorted(columns, matrix.indices)
    return Csr(matrix.indptr, indices, matrix.weights, (matrix.shape[0], len(columns)))
