"""Sampled neighbourhoods of some nodes, as small typed graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.schema import Edges, EdgeType, Nodes, check_type
from recgraph.ranks import WHOLE, Share
from recgraph.sparse.csr import Csr, sort_entries
from recgraph.sparse.select import sample_rows
from recgraph.sparse.spmm import Operator

#: along an edge type from its source, from its target, or from whichever end is reached
Direction = Literal["out", "in", "both"]


@dataclass(frozen=True, eq=False)
class Layered:
    """What sampled neighbourhoods need: the last layer has rows for the batch alone, the one before for what those see.

    Attributes:
        layers: in the order in which they are applied; the rows of each are the columns of the next.
        share: which of the rows of a batch these are, where several ranks divide it: an encoder gathers those of all
            ranks behind its last layer.
    """

    layers: tuple[Operator, ...]
    share: Share = WHOLE

    @property
    def shape(self) -> tuple[int, int]:
        """Rows that come out, rows that go in."""
        return self.layers[-1].shape[0], self.layers[0].shape[1]

    @property
    def device(self) -> torch.device:
        return self.layers[0].device

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Layered:
        """On a device, with weights of a type."""
        return Layered(tuple(layer.to(device, dtype) for layer in self.layers), self.share)


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """A part of a typed graph.

    Attributes:
        graph: the nodes that were reached, with their features, and the edges that were drawn, each once.
        node_idx: node type -> [n] int64, which nodes of the whole graph they are; first those asked for, in their
            order, then the others, ascending.
    """

    graph: HeteroGraph
    node_idx: Mapping[str, Tensor]


class NeighbourSampler:
    """Draws some edges of every node reached, hop by hop; the same for the same generator, without loops over nodes.

    ``NeighbourSampler(graph, {("paper", "by", "author"): (10, 5)})({"paper": batch}, generator)``

    Args:
        graph: where neighbours are found.
        fan_outs: edge type -> the edges drawn of each node at each hop; None takes all. An edge type that is left out
            is not followed; one with fewer hops than others rests in the later ones.
        direction: which way edges are followed.
        replace: draw with replacement (an edge that is drawn twice still comes once).
    """

    def __init__(
        self,
        graph: HeteroGraph,
        fan_outs: Mapping[EdgeType, Sequence[int | None]],
        direction: Direction = "both",
        replace: bool = False,
    ) -> None:
        for edge_type in fan_outs:
            check_type("edge type", edge_type, graph.edges)
        self.graph, self.fan_outs, self.direction, self.replace = graph, dict(fan_outs), direction, replace
        self.n_hops = max((len(counts) for counts in fan_outs.values()), default=0)

    def __call__(self, seeds: Mapping[str, Tensor], generator: torch.Generator) -> Neighbourhood:
        """The sampled neighbourhood of some nodes.

        Args:
            seeds: node type -> [B] int64, each node once.
            generator: draws; may live on another device than the graph.
        """
        empty = torch.zeros(0, dtype=torch.int64, device=self.graph.device)
        found = {name: seeds.get(name, empty) for name in self.graph.nodes}
        frontier = dict(found)
        drawn: dict[EdgeType, list[Tensor]] = {edge_type: [] for edge_type in self.graph.edges}
        for hop in range(self.n_hops):
            reached: dict[str, list[Tensor]] = {name: [] for name in found}
            for edge_type, counts in self.fan_outs.items():
                if hop < len(counts):
                    self._follow(edge_type, counts[hop], frontier, reached, drawn, generator)
            for name, parts in reached.items():
                met = torch.unique(torch.cat([empty, *parts]))
                frontier[name] = met[~torch.isin(met, found[name])]
                found[name] = torch.cat([found[name], frontier[name]])
        node_idx = {
            name: torch.cat([nodes[: len(seeds.get(name, empty))], nodes[len(seeds.get(name, empty)) :].sort().values])
            for name, nodes in found.items()
        }
        return Neighbourhood(self._part(node_idx, drawn), node_idx)

    def _follow(
        self,
        edge_type: EdgeType,
        fan_out: int | None,
        frontier: Mapping[str, Tensor],
        reached: Mapping[str, list[Tensor]],
        drawn: Mapping[EdgeType, list[Tensor]],
        generator: torch.Generator,
    ) -> None:
        """One hop along one edge type."""
        adj, (source, _, target) = self.graph.adjacency(edge_type), edge_type
        if self.direction != "in":
            entries = sample_rows(adj, frontier[source], fan_out, generator, self.replace).entries.values
            reached[target].append(adj.indices[entries])
            drawn[edge_type].append(entries)
        if self.direction != "out":
            flipped, order = adj.transposition()
            entries = sample_rows(flipped, frontier[target], fan_out, generator, self.replace).entries.values
            reached[source].append(flipped.indices[entries])
            drawn[edge_type].append(order[entries])

    def _part(self, node_idx: Mapping[str, Tensor], drawn: Mapping[EdgeType, list[Tensor]]) -> HeteroGraph:
        nodes = {}
        for name, part in self.graph.nodes.items():
            x = part.features
            taken = x.take_rows(node_idx[name]) if isinstance(x, Csr) else None if x is None else x[node_idx[name]]
            nodes[name] = Nodes(len(node_idx[name]), None, taken)
        edges = {}
        for edge_type, parts in drawn.items():
            whole = self.graph.edges[edge_type]
            entries = torch.unique(torch.cat([whole.adj.indices[:0], *parts]))
            edges[edge_type] = _relabelled(whole, entries, node_idx[edge_type[0]], node_idx[edge_type[2]])
        return HeteroGraph(nodes, edges)


def _relabelled(whole: Edges, entries: Tensor, sources: Tensor, targets: Tensor) -> Edges:
    """Some edges of a type among the nodes of a part."""
    adj = whole.adj
    rows = _places(torch.searchsorted(adj.indptr, entries, right=True) - 1, sources)
    cols = _places(adj.indices[entries], targets)
    shape = (len(sources), len(targets))
    weights = None if adj.weights is None else adj.weights[entries]
    made = Edges(Csr.from_coo(rows, cols, weights, shape=shape))
    if whole.times is None:
        return made
    return replace(made, times=whole.times[entries][sort_entries(rows, cols, shape[1])])


def _places(nodes: Tensor, among: Tensor) -> Tensor:
    """Where each node stands in ``among``, which holds it once."""
    order = torch.argsort(among)
    return order[torch.searchsorted(among[order], nodes)]
