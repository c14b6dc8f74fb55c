"""What nodes of large graphs reach: contexts of meta-paths that are walked, and sampled neighbourhoods."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recgraph.graph.hetero import HeteroGraph, rows_of
from recgraph.graph.schema import Edges, EdgeType, Nodes, check_type
from recgraph.ranks import WHOLE, Share
from recgraph.sparse.csr import Csr, sort_entries
from recgraph.sparse.operators import Placing, group_rows
from recgraph.sparse.products import compose, compose_blocks, n_pairs
from recgraph.sparse.select import sample_rows
from recgraph.sparse.spmm import Operator, spmm

# entries that are held at once: what a block of nodes reaches before the last step
_MAX_HELD = 1 << 24


@dataclass(frozen=True, eq=False)
class Walked:
    """A context that is never made: what the target nodes reach is found again for some of them at a time.

    It serves large graphs, for embeddings without gradients. Nodes that reach the same before the last step take that
    step once for all of them.

    For a node that follows more than ``cap`` ways at a step (several to one node all count) the distinct nodes that it
    reaches are not looked for: from that step on a node counts once for each way to it, and the mean is over ways. This
    equals the mean over distinct nodes wherever no two ways meet (papers of one venue each), and costs one product with
    each later step for all nodes together; exact means over a hub that many nodes share cost the square of its size.

    Attributes:
        steps: the matrices of the path up to the type reached, without weights.
        cap: at least 1; None finds the distinct nodes always. At a step to a type with no more nodes than this they
            are found too.
    """

    steps: tuple[Csr, ...]
    cap: int | None = None

    def placed(self, place: Placing) -> Walked:
        """The context there."""
        return Walked(tuple(map(place, self.steps)), self.cap)

    def mean(self, h: Tensor) -> Tensor:
        """[N_target, D]: the mean of ``h`` [N_type, D] over the nodes reached; 0 where there are none."""
        last = len(self.steps) - 1
        ways = {last: (h, h.new_ones(len(h), dtype=torch.float64))}
        if not last:
            return self._means(0, self.steps[0].pattern(), ways)
        means = h.new_empty(self.steps[0].shape[0], h.shape[1])
        for block in _blocks(self._most_reached(), _MAX_HELD):
            rows = torch.arange(block.start, block.stop, device=h.device)
            reached = self.steps[0].row_block(block).pattern()
            for hop, step in enumerate(self.steps[1:]):
                if self.cap is not None and step.shape[1] > self.cap:
                    is_over = n_pairs(reached, step) > self.cap
                    means[rows[is_over]] = self._means(hop, reached.take_rows(is_over.nonzero().flatten()), ways)
                    rows, reached = rows[~is_over], reached.take_rows((~is_over).nonzero().flatten())
                if hop < last - 1:
                    reached = compose(reached, step, "binary")
            distinct, group = group_rows(reached)
            of_distinct = h.new_empty(distinct.shape[0], h.shape[1])
            for part, ends in compose_blocks(distinct, self.steps[last], "binary"):
                of_distinct[part] = self._means(last, ends, ways)
            means[rows] = of_distinct[group]
        return means

    def _means(self, hop: int, reached: Csr, ways: dict[int, tuple[Tensor, Tensor]]) -> Tensor:
        """[n, D]: over the ways that are left, of rows that have reached these nodes after a hop, [n, N_hop] without
        weights; 0 where there are no ways.

        Args:
            ways: hop -> sums [N_hop, D] and numbers [N_hop] of the ways from each node on; is added to.
        """
        sums, numbers = self._ways_after(hop, ways)
        counts = reached.with_weights(numbers[reached.indices]).row_sums()
        return spmm(reached, sums) / counts.clamp(min=1)[:, None].to(sums.dtype)

    def _ways_after(self, hop: int, ways: dict[int, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        if hop not in ways:
            sums, numbers = self._ways_after(hop + 1, ways)
            step = self.steps[hop + 1].pattern()
            ways[hop] = spmm(step, sums), step.with_weights(numbers[step.indices]).row_sums()
        return ways[hop]

    def _most_reached(self) -> Tensor:
        """[N_target]: how many nodes each can reach at most, at the step but the last where these are the most."""
        most = self.steps[0].degrees.to(torch.float64)
        for hop in range(1, len(self.steps) - 1):
            n_columns = self.steps[hop].shape[1]
            reach = self.steps[hop].degrees.to(torch.float64)
            for step in reversed(self.steps[:hop]):
                reach = step.with_weights(reach[step.indices]).row_sums().clamp(max=n_columns)
            # one that may reach more does not walk on
            most = torch.maximum(most, reach if self.cap is None else reach.clamp(max=self.cap))
        return most


def _blocks(sizes: Tensor, limit: int) -> Iterator[slice]:
    """Ranges of rows whose sizes [n] sum to the limit at most; a row that alone exceeds it is a range of its own."""
    before = [0, *torch.cumsum(sizes, 0).tolist()]
    first, end = 0, len(before) - 1
    while first < end:
        last = max(bisect_right(before, before[first] + limit) - 1, first + 1)
        yield slice(first, last)
        first = last


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


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """A part of a typed graph.

    Attributes:
        graph: the nodes that were reached, with their features, and the edges that were drawn, each once.
        node_idx: node type -> [n] int64, which nodes of the whole graph they are; first the seeds, in their order, then
            the others, ascending.
    """

    graph: HeteroGraph
    node_idx: Mapping[str, Tensor]


class NeighbourSampler:
    """Draws some edges of every node reached, hop by hop; the same for the same generator, without loops over nodes.

    ``NeighbourSampler(graph, {("paper", "by", "author"): (10, 5)})({"paper": batch}, generator)``

    Args:
        graph: where neighbours are found.
        fan_outs: edge type -> the edges drawn of each node at each hop, from both of its ends; None takes all. An edge
            type that is left out is not followed; one with fewer hops than others rests in the later ones.
    """

    def __init__(self, graph: HeteroGraph, fan_outs: Mapping[EdgeType, Sequence[int | None]]) -> None:
        for edge_type in fan_outs:
            check_type("edge type", edge_type, graph.edges)
        self.graph, self.fan_outs = graph, dict(fan_outs)

    def __call__(self, seeds: Mapping[str, Tensor], generator: torch.Generator) -> Neighbourhood:
        """The sampled neighbourhood of some nodes.

        Args:
            seeds: node type -> [B] int64, each node once.
            generator: draws; may live on another device than the graph.
        """
        empty = torch.zeros(0, dtype=torch.int64, device=self.graph.device)
        found = {name: seeds.get(name, empty) for name in self.graph.nodes}
        frontier, drawn = dict(found), {edge_type: [empty] for edge_type in self.graph.edges}
        for hop in range(max(map(len, self.fan_outs.values()), default=0)):
            reached = {name: [empty] for name in found}
            for edge_type, counts in self.fan_outs.items():
                if hop >= len(counts):
                    continue
                adj, (source, _, target) = self.graph.adjacency(edge_type), edge_type
                entries = sample_rows(adj, frontier[source], counts[hop], generator).entries.values
                back, order = adj.transposition()
                of_back = sample_rows(back, frontier[target], counts[hop], generator).entries.values
                reached[target].append(adj.indices[entries])
                reached[source].append(back.indices[of_back])
                drawn[edge_type] += [entries, order[of_back]]
            for name, parts in reached.items():
                met = torch.unique(torch.cat(parts))
                frontier[name] = met[~torch.isin(met, found[name])]
                found[name] = torch.cat([found[name], frontier[name]])
        n_seeds = {name: len(seeds.get(name, empty)) for name in found}
        node_idx = {
            name: torch.cat([x[: n_seeds[name]], x[n_seeds[name] :].sort().values]) for name, x in found.items()
        }
        nodes = {
            name: Nodes(len(idx), None, rows_of(self.graph.nodes[name].features, idx)) for name, idx in node_idx.items()
        }
        edges = {
            edge_type: _relabelled(
                self.graph.edges[edge_type],
                torch.unique(torch.cat(parts)),
                *(node_idx[name] for name in edge_type[::2]),
            )
            for edge_type, parts in drawn.items()
        }
        return Neighbourhood(HeteroGraph(nodes, edges), node_idx)


def _relabelled(whole: Edges, entries: Tensor, sources: Tensor, targets: Tensor) -> Edges:
    """Some edges of a type among the nodes of a part."""
    adj = whole.adj
    rows, columns = (
        order[torch.searchsorted(among[order], index)]
        for index, among in ((adj.rows[entries], sources), (adj.indices[entries], targets))
        for order in (torch.argsort(among),)
    )
    weights, times = (None if values is None else values[entries] for values in (adj.weights, whole.times))
    made = Csr.from_coo(rows, columns, weights, shape=(len(sources), len(targets)))
    return Edges(made, None if times is None else times[sort_entries(rows, columns, len(targets))])
