"""Following a meta-path from a few nodes: how many paths lead where, how similar their ends are, and the paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from recgraph.data.hetero import HeteroGraph
from recgraph.sparse.compose import compose, compose_blocks
from recgraph.sparse.csr import Csr
from recgraph.views._factors import path_counts
from recgraph.views._route import PathError, is_palindrome, types_of
from recgraph.views.metapath import MetaPath

__all__ = ["Reached", "Walks"]


@dataclass(frozen=True)
class Reached:
    """What some starts reach.

    Attributes:
        starts: [E] int64, the row of each entry among the starts.
        ends: [E] int64, the node that it reaches; never the start itself.
        counts: [E] float64, the paths between the two.
        similarities: [E] float64, in [0, 1].
    """

    starts: Tensor
    ends: Tensor
    counts: Tensor
    similarities: Tensor


class Walks:
    """The paths of one meta-path. Only rows of starts are ever made, a block at a time.

    Paths are sequences of nodes: weights are not read, and repeated edges count once. The similarity of two ends a, b
    with c(a, b) paths is PathSim, ``2 c(a, b) / (c(a, a) + c(b, b))``, where the path is a round trip (Sun et al., VLDB
    2011), and else ``c(a, b) / sqrt(c(a, all) c(all, b))``, as a path such as user-friend-user has no c(a, a).

    Args:
        path: as :class:`MetaPath` reads it.
        graph: has its types.

    Raises:
        PathError, UnknownTypeError: the graph does not have the path, or its ends are of different types.
    """

    def __init__(self, path: str, graph: HeteroGraph) -> None:
        route = MetaPath(path).route(graph)
        self.path, self.types = path, types_of(route)
        if self.types[0] != self.types[-1]:
            raise PathError(f"path = {path!r} leads from {self.types[0]!r} to {self.types[-1]!r}, not back to its type")
        self.round_trip = is_palindrome(route)
        self.steps = tuple(step.matrix(graph).pattern() for step in route)
        self._own = torch.full((self.steps[0].shape[0],), torch.nan, dtype=torch.float64)

    def reach(self, starts: Tensor) -> Iterator[Reached]:
        """What the starts reach, a block of them at a time.

        Args:
            starts: [S] int64.
        """
        for rows, block in _rows(self.steps, starts):
            places = block.rows + rows.start
            keep_mask = block.indices != starts[places]
            places, ends, counts = places[keep_mask], block.indices[keep_mask], block.values(torch.float64)[keep_mask]
            yield Reached(places, ends, counts, self._similarities(starts[places], ends, counts))

    def _similarities(self, starts: Tensor, ends: Tensor, counts: Tensor) -> Tensor:
        if self.round_trip:
            found: Tensor = 2 * counts / (self._self_counts(starts) + self._self_counts(ends))
            return found
        return counts / (self._out[starts] * self._in[ends]).sqrt()

    def _self_counts(self, nodes: Tensor) -> Tensor:
        """[K] float64: c(a, a) of nodes; each is counted once."""
        wanted = torch.unique(nodes)
        wanted = wanted[self._own[wanted].isnan()]
        half = self.steps[: len(self.steps) // 2]
        for rows, block in _rows(half, wanted):
            squares = block.with_weights(block.values(torch.float64).square())
            self._own[wanted[rows]] = squares.row_sums()
        return self._own[nodes]

    @cached_property
    def _out(self) -> Tensor:
        return path_counts(self.steps)

    @cached_property
    def _in(self) -> Tensor:
        return path_counts([step.t() for step in reversed(self.steps)])

    def best_paths(self, starts: Tensor, end: int, k: int) -> list[list[tuple[int, ...]]]:
        """For each start the k paths to an end that a random walk takes most likely.

        A walk that chooses among the edges of a step alike prefers the most specific nodes: a genre of 20 films says
        more than one of 700. Exact: of each node on the way the k best ways to it are kept. Equals by node index.

        Args:
            starts: [S] int64.
            end: a node.
            k: at least 1.

        Returns:
            For each start at most k paths, both ends among them.
        """
        # which nodes of each layer lead to the end
        leading = [torch.tensor([end])]
        for step in reversed(self.steps[1:]):
            leading.append(torch.unique(step.t().take_rows(leading[-1]).indices))
        origin, likely = torch.arange(len(starts)), torch.zeros(len(starts), dtype=torch.float64)
        table = starts[:, None]
        for step, there in zip(self.steps, reversed(leading), strict=True):
            rows = step.take_rows(table[:, -1])
            keep_mask = torch.isin(rows.indices, there)
            before, node = rows.rows[keep_mask], rows.indices[keep_mask]
            likely = likely[before] - rows.degrees[before].to(torch.float64).log()
            origin, table = origin[before], torch.cat([table[before], node[:, None]], 1)
            kept = _best(origin * step.shape[1] + node, likely, k)
            origin, likely, table = origin[kept], likely[kept], table[kept]
        found: list[list[tuple[int, ...]]] = [[] for _ in range(len(starts))]
        for place, path in zip(origin.tolist(), table.tolist(), strict=True):
            found[place].append(tuple(path))
        return found


def _rows(steps: Sequence[Csr], starts: Tensor) -> Iterator[tuple[slice, Csr]]:
    """Rows of the product of all steps, a block at a time: [b, N_end] with counts."""
    left = steps[0].take_rows(starts)
    if len(steps) == 1:
        yield slice(0, len(starts)), left
        return
    for rows, product in compose_blocks(left, steps[1], dtype=torch.float64):
        for step in steps[2:]:
            product = compose(product, step, dtype=torch.float64)
        yield rows, product


def _best(groups: Tensor, values: Tensor, k: int) -> Tensor:
    """[K] int64: the entries that are among the k highest of their group, groups ascending, the highest first."""
    order = torch.argsort(values, descending=True, stable=True)
    order = order[torch.argsort(groups[order], stable=True)]
    ordered = groups[order]
    first = torch.searchsorted(ordered, ordered)
    return order[torch.arange(len(order)) - first < k]
