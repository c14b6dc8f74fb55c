"""Meta-paths followed from a few nodes: the paths, their number, the similarity of their ends, and what they join."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from recgraph.explain.explanation import Connection, Evidence, Node
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath
from recgraph.graph.pathsim import path_counts
from recgraph.graph.route import PathError, is_palindrome, types_of
from recgraph.sparse.csr import Csr
from recgraph.sparse.products import compose, compose_blocks

__all__ = ["Reached", "Support", "UserQuery", "Walks", "evidence_between", "evidence_of", "from_history", "from_users"]


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


#: scores that differ by less are equal: the order of a sum is not what ranks an item
_SAME = 1e-12
Namer = Callable[[str, int], Node]


@dataclass(frozen=True)
class Support:
    """How a meta-path scores all items, and through which nodes it reaches some of them.

    Attributes:
        walks: the path.
        scores, counts: [n_items] float64, see :class:`Evidence`.
        via: [V] int64, history items or similar users.
        similarities, via_counts: [V, K] float64, of ``via`` to (or through it to) the K items that were asked for.
        to_items: whether ``via`` is where the meta-path begins (history items), not where it ends (users).
    """

    walks: Walks
    scores: Tensor
    counts: Tensor
    via: Tensor
    similarities: Tensor
    via_counts: Tensor
    to_items: bool


def from_history(walks: Walks, history: Tensor, wanted: Tensor, n_items: int) -> Support:
    """The path from item to item, begun at what the user had: the mean similarity of the history's items.

    Args:
        history: [H] int64, items, each once.
        wanted: [K] int64, items that are to be explained.
    """
    scores, counts = (torch.zeros(n_items, dtype=torch.float64) for _ in range(2))
    similarities, via_counts = (torch.zeros(len(history), len(wanted), dtype=torch.float64) for _ in range(2))
    column = _columns(wanted, n_items)
    for part in walks.reach(history):
        scores.index_add_(0, part.ends, part.similarities)
        counts.index_add_(0, part.ends, part.counts)
        asked_mask = column[part.ends] >= 0
        place = part.starts[asked_mask], column[part.ends[asked_mask]]
        similarities[place] = part.similarities[asked_mask]
        via_counts[place] = part.counts[asked_mask]
    return Support(walks, scores / max(len(history), 1), counts, history, similarities, via_counts, True)


def from_users(walks: Walks, user: int, had: Csr, wanted: Tensor) -> Support:
    """The path from user to user, and then what those had: the share of them, weighted by similarity.

    Args:
        had: [n_users, n_items], without weights, one entry a place.
        wanted: [K] int64, items that are to be explained.
    """
    (part,) = walks.reach(torch.tensor([user]))
    users, n_items = part.ends, had.shape[1]
    scores, counts = (torch.zeros(n_items, dtype=torch.float64) for _ in range(2))
    similarities, via_counts = (torch.zeros(len(users), len(wanted), dtype=torch.float64) for _ in range(2))
    rows, column = had.take_rows(users), _columns(wanted, n_items)
    scores.index_add_(0, rows.indices, part.similarities[rows.rows])
    scores /= part.similarities.sum().clamp(min=_SAME)
    counts.index_add_(0, rows.indices, part.counts[rows.rows])
    asked_mask = column[rows.indices] >= 0
    between = rows.rows[asked_mask]
    place = between, column[rows.indices[asked_mask]]
    similarities[place] = part.similarities[between]
    via_counts[place] = part.counts[between]
    return Support(walks, scores, counts, users, similarities, via_counts, False)


def _columns(wanted: Tensor, n_items: int) -> Tensor:
    """[n_items] int64: the place of each item among those that are asked for, or -1."""
    column = torch.full((n_items,), -1)
    column[wanted] = torch.arange(len(wanted))
    return column


@dataclass(frozen=True)
class UserQuery:
    """The user whose recommendations are explained, and how much is shown.

    Attributes:
        user: index.
        unseen_mask: [n_items] bool, the items that are not in the history.
        name: node of a type and an index.
        n_connections, n_paths: the most connections of an evidence, and paths of a connection.
    """

    user: int
    unseen_mask: Tensor
    name: Namer
    n_connections: int
    n_paths: int


def evidence_of(
    support: Support, side: str, weight: float | None, place: int, item: int, query: UserQuery
) -> Evidence | None:
    """The evidence of a meta-path for one item; None where it does not reach it.

    Args:
        place: of the item among those that were asked for.
    """
    if not support.counts[item]:
        return None
    reached_mask = (support.counts > 0) & query.unseen_mask
    better = (support.scores > support.scores[item] + _SAME) & query.unseen_mask
    similarities = support.similarities[:, place]
    order = torch.argsort(similarities, descending=True, stable=True)[: query.n_connections]
    order = order[similarities[order] > 0]
    via = support.via[order]
    if support.to_items:
        walked = support.walks.best_paths(via, item, query.n_paths)
        whole = [[(("user", query.user), *_typed(support.walks, path)) for path in paths] for paths in walked]
    else:
        start = torch.tensor([query.user])
        walked = [support.walks.best_paths(start, other, query.n_paths)[0] for other in via.tolist()]
        whole = [[(*_typed(support.walks, path), ("item", item)) for path in paths] for paths in walked]
    connections = tuple(
        Connection(
            query.name(support.walks.types[0], other),
            float(similarities[row]),
            int(support.via_counts[row, place]),
            name_paths(paths, query.name),
        )
        for row, other, paths in zip(order.tolist(), via.tolist(), whole, strict=True)
    )
    return Evidence(
        side,
        support.walks.path,
        weight,
        int(support.counts[item]),
        float(support.scores[item]),
        1 + int(better.sum()),
        int(reached_mask.sum()),
        connections,
    )


def _typed(walks: Walks, path: Sequence[int]) -> tuple[tuple[str, int], ...]:
    return tuple(zip(walks.types, path, strict=True))


def name_paths(paths: Sequence[tuple[tuple[str, int], ...]], name: Namer) -> tuple[tuple[Node, ...], ...]:
    """Paths of node types and indices, by name."""
    return tuple(tuple(name(node_type, index) for node_type, index in path) for path in paths)


def evidence_between(
    walks: Walks, node: int, others: Sequence[int], weight: float | None, name: Namer, n_paths: int
) -> list[Evidence | None]:
    """The evidence of a meta-path for a node and each of some others of its type; None where it does not join them."""
    (part,) = walks.reach(torch.tensor([node]))
    row_of = {end: row for row, end in enumerate(part.ends.tolist())}
    found: list[Evidence | None] = []
    for other in others:
        if other not in row_of:
            found.append(None)
            continue
        similarity, count = float(part.similarities[row_of[other]]), int(part.counts[row_of[other]])
        (paths,) = walks.best_paths(torch.tensor([node]), other, n_paths)
        whole = name_paths([_typed(walks, path) for path in paths], name)
        rank = 1 + int((part.similarities > similarity + _SAME).sum())
        connection = Connection(name(walks.types[0], other), similarity, count, whole)
        side = walks.types[0]
        found.append(Evidence(side, walks.path, weight, count, similarity, rank, len(part.ends), (connection,)))
    return found
