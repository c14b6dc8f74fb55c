"""Evidence along meta-paths: the paths from a few nodes, their number, and the similarity of their ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from recgraph.data.log import INTERACTS
from recgraph.explain.explanation import Connection, Evidence, Node
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath, PathError, Step, is_palindrome, path_counts, types_of
from recgraph.sparse.csr import Csr
from recgraph.sparse.products import compose, compose_blocks


@dataclass(frozen=True)
class Reached:
    """The ends of a meta-path for some starts, one entry [E] a pair: the place of the start among those given, the end,
    which is never the start itself, the number of paths between the two, and their similarity in [0, 1]."""

    starts: Tensor
    ends: Tensor
    counts: Tensor
    similarities: Tensor


class Walks:
    """The paths of one meta-path. Only the rows of given starts are computed, a block at a time.

    A path is a sequence of nodes: edge weights are not read, and repeated edges count once. The similarity of two ends
    a, b with c(a, b) paths is PathSim, ``2 c(a, b) / (c(a, a) + c(b, b))``, where the path is a round trip (Sun et al.,
    VLDB 2011), and else ``c(a, b) / sqrt(c(a, all) c(all, b))``: a path such as user-friend-user has no c(a, a).

    Args:
        path: in the notation of :class:`MetaPath`.
        graph: has the node and edge types of the path.

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
        """Yield the ends that starts [S] int64 reach, a block of starts at a time."""
        for block, rows in _row_blocks(self.steps, starts):
            positions = rows.rows + block.start
            keep_mask = rows.indices != starts[positions]
            positions, ends, counts = (
                positions[keep_mask],
                rows.indices[keep_mask],
                rows.values(torch.float64)[keep_mask],
            )
            yield Reached(positions, ends, counts, self._similarities(starts[positions], ends, counts))

    def _similarities(self, starts: Tensor, ends: Tensor, counts: Tensor) -> Tensor:
        if self.round_trip:
            pathsim: Tensor = 2 * counts / (self._self_counts(starts) + self._self_counts(ends))
            return pathsim
        return counts / (self._out[starts] * self._in[ends]).sqrt()

    def _self_counts(self, nodes: Tensor) -> Tensor:
        """[K] float64: c(a, a) of nodes; computed once for each node."""
        wanted = torch.unique(nodes)
        wanted = wanted[self._own[wanted].isnan()]
        half = self.steps[: len(self.steps) // 2]
        for block, rows in _row_blocks(half, wanted):
            squares = rows.with_weights(rows.values(torch.float64).square())
            self._own[wanted[block]] = squares.row_sums()
        return self._own[nodes]

    @cached_property
    def _out(self) -> Tensor:
        return path_counts(self.steps)

    @cached_property
    def _in(self) -> Tensor:
        return path_counts([step.t() for step in reversed(self.steps)])

    def best_paths(self, starts: Tensor, end: int, k: int) -> list[list[tuple[int, ...]]]:
        """For each start the k paths to an end that a random walk takes with the highest probability.

        The walk chooses uniformly among the edges of a step, so it prefers specific nodes: a genre of 20 films says
        more than one of 700. The search is exact: it keeps the k best paths to each node on the way. Ties go by node
        index. Paths have both ends.
        """
        # the nodes of each layer that lead to the end
        leading = [torch.tensor([end])]
        for step in reversed(self.steps[1:]):
            leading.append(torch.unique(step.t().take_rows(leading[-1]).indices))
        origin, log_p = torch.arange(len(starts)), torch.zeros(len(starts), dtype=torch.float64)
        paths = starts[:, None]
        for step, allowed in zip(self.steps, reversed(leading), strict=True):
            rows = step.take_rows(paths[:, -1])
            keep_mask = torch.isin(rows.indices, allowed)
            before, node = rows.rows[keep_mask], rows.indices[keep_mask]
            log_p = log_p[before] - rows.degrees[before].to(torch.float64).log()
            origin, paths = origin[before], torch.cat([paths[before], node[:, None]], 1)
            kept = _top_of_groups(origin * step.shape[1] + node, log_p, k)
            origin, log_p, paths = origin[kept], log_p[kept], paths[kept]
        found: list[list[tuple[int, ...]]] = [[] for _ in range(len(starts))]
        for start, path in zip(origin.tolist(), paths.tolist(), strict=True):
            found[start].append(tuple(path))
        return found


def _row_blocks(steps: Sequence[Csr], starts: Tensor) -> Iterator[tuple[slice, Csr]]:
    """Rows of the product of all steps, a block of starts at a time: [b, N_end] with counts."""
    left = steps[0].take_rows(starts)
    if len(steps) == 1:
        yield slice(0, len(starts)), left
        return
    for block, product in compose_blocks(left, steps[1], dtype=torch.float64):
        for step in steps[2:]:
            product = compose(product, step, dtype=torch.float64)
        yield block, product


def _top_of_groups(groups: Tensor, values: Tensor, k: int) -> Tensor:
    """[K] int64: the entries that are among the k highest of their group, by group and then the highest first."""
    order = torch.argsort(values, descending=True, stable=True)
    order = order[torch.argsort(groups[order], stable=True)]
    ordered = groups[order]
    first = torch.searchsorted(ordered, ordered)
    return order[torch.arange(len(order)) - first < k]


#: scores that differ by less are equal: the order of summation must not decide a rank
_TOLERANCE = 1e-12
#: (node type, index) -> the node with its title
Namer = Callable[[str, int], Node]


@dataclass(frozen=True)
class UserQuery:
    """A user whose recommendations are explained, and the most connections and paths that are shown."""

    user: int
    interactions: Csr
    unseen_mask: Tensor
    name: Namer
    n_connections: int
    n_paths: int


class _Support:
    """The scores and numbers of paths [n_items] of all items along a meta-path; and the same [V, K] through each of the
    history items or similar users ``via`` to each of the explained items ``wanted``."""

    def __init__(self, via: Tensor, wanted: Tensor, n_items: int) -> None:
        self.via = via
        self.scores, self.counts = (torch.zeros(n_items, dtype=torch.float64) for _ in range(2))
        self.similarities, self.via_counts = (torch.zeros(len(via), len(wanted), dtype=torch.float64) for _ in range(2))
        self._column = torch.full((n_items,), -1)
        self._column[wanted] = torch.arange(len(wanted))

    def add(self, rows: Tensor, items: Tensor, similarities: Tensor, counts: Tensor) -> None:
        self.scores.index_add_(0, items, similarities)
        self.counts.index_add_(0, items, counts)
        wanted_mask = self._column[items] >= 0
        cell = rows[wanted_mask], self._column[items[wanted_mask]]
        self.similarities[cell] = similarities[wanted_mask]
        self.via_counts[cell] = counts[wanted_mask]


def evidence_for_user(
    walks: Walks, weight: float | None, items: Sequence[int], query: UserQuery
) -> dict[int, Evidence]:
    """The evidence of a meta-path, from item to item or from user to user, for those of the items that it reaches."""
    side = walks.types[0]
    user, wanted = torch.tensor([query.user]), torch.tensor(items, dtype=torch.int64)
    n_items = query.interactions.shape[1]
    if side == "item":
        history = query.interactions.take_rows(user).indices
        support = _Support(history, wanted, n_items)
        for reached in walks.reach(history):
            support.add(reached.starts, reached.ends, reached.similarities, reached.counts)
        support.scores /= max(len(history), 1)
    else:
        (reached,) = walks.reach(user)
        rows = query.interactions.take_rows(reached.ends)
        support = _Support(reached.ends, wanted, n_items)
        support.add(rows.rows, rows.indices, reached.similarities[rows.rows], reached.counts[rows.rows])
        support.scores /= reached.similarities.sum().clamp(min=_TOLERANCE)
    n_ranked = int(((support.counts > 0) & query.unseen_mask).sum())
    found = {}
    for column, item in enumerate(items):
        count, score = int(support.counts[item]), float(support.scores[item])
        if not count:
            continue
        rank = 1 + int(((support.scores > score + _TOLERANCE) & query.unseen_mask).sum())
        connections = _connections(walks, support, column, item, query)
        found[item] = Evidence(side, walks.path, weight, count, score, rank, n_ranked, connections)
    return found


def _connections(walks: Walks, support: _Support, column: int, item: int, query: UserQuery) -> tuple[Connection, ...]:
    similarities = support.similarities[:, column]
    order = torch.argsort(similarities, descending=True, stable=True)[: query.n_connections]
    order = order[similarities[order] > 0]
    via, side, name = support.via[order], walks.types[0], query.name
    if side == "item":
        user = name("user", query.user)
        walked = walks.best_paths(via, item, query.n_paths)
        paths = [tuple((user, *_with_titles(walks, path, name)) for path in each) for each in walked]
    else:
        end, start = name("item", item), torch.tensor([query.user])
        walked = [walks.best_paths(start, other, query.n_paths)[0] for other in via.tolist()]
        paths = [tuple((*_with_titles(walks, path, name), end) for path in each) for each in walked]
    return tuple(
        Connection(name(side, node), float(similarities[row]), int(support.via_counts[row, column]), some)
        for row, node, some in zip(order.tolist(), via.tolist(), paths, strict=True)
    )


def _with_titles(walks: Walks, path: Sequence[int], name: Namer) -> tuple[Node, ...]:
    return tuple(name(node_type, index) for node_type, index in zip(walks.types, path, strict=True))


def evidence_of_items(walks: Walks, user: int, history: Tensor, items: Tensor, graph: HeteroGraph) -> Tensor:
    """How strongly a meta-path leads to items through each item of a user's history.

    A path of items: the similarity of the history item to the item. A path of users that begins with an edge to an item
    leads through that item i to other users v: ``sum_v similarity(user, v) c_i(v) / c(v)`` over those v that had the
    item, with c(v) the paths from the user to v and c_i(v) those through i. Any other path of users leads through
    nothing of the history: zeros. -> [K, H] float64.
    """
    found = torch.zeros(len(items), len(history), dtype=torch.float64)
    place = torch.full((graph.count("item"),), -1)
    place[items] = torch.arange(len(items))
    if walks.types[0] == "item":
        for reached in walks.reach(history):
            wanted_mask = place[reached.ends] >= 0
            found[place[reached.ends[wanted_mask]], reached.starts[wanted_mask]] = reached.similarities[wanted_mask]
        return found
    if MetaPath(walks.path).route(graph)[0] != Step(INTERACTS):
        return found
    (reached,) = walks.reach(torch.tensor([user]))
    had = graph.adjacency(INTERACTS).pattern().take_rows(reached.ends)
    wanted_mask = place[had.indices] >= 0
    similarity = torch.zeros(len(reached.ends), len(items), dtype=torch.float64)
    rows = had.rows[wanted_mask]
    similarity[rows, place[had.indices[wanted_mask]]] = reached.similarities[rows]
    end_of = torch.full((graph.count("user"),), -1)
    end_of[reached.ends] = torch.arange(len(reached.ends))
    for block, paths in _row_blocks(walks.steps[1:], history):
        ends = end_of[paths.indices]
        own = ends >= 0  # the user itself is no end
        through, ends = paths.rows[own] + block.start, ends[own]
        shares = paths.values(torch.float64)[own] / reached.counts[ends]
        found.index_add_(1, through, (shares[:, None] * similarity[ends]).T)
    return found


def evidence_for_node(
    walks: Walks, weight: float | None, node: int, others: Sequence[int], name: Namer, n_paths: int
) -> dict[int, Evidence]:
    """The evidence of a meta-path between a node and those others of its type that it connects with the node."""
    start, side = torch.tensor([node]), walks.types[0]
    (reached,) = walks.reach(start)
    row_of = {end: row for row, end in enumerate(reached.ends.tolist())}
    found = {}
    for other in others:
        if other not in row_of:
            continue
        similarity, count = float(reached.similarities[row_of[other]]), int(reached.counts[row_of[other]])
        rank = 1 + int((reached.similarities > similarity + _TOLERANCE).sum())
        paths = tuple(_with_titles(walks, path, name) for path in walks.best_paths(start, other, n_paths)[0])
        connection = Connection(name(side, other), similarity, count, paths)
        found[other] = Evidence(side, walks.path, weight, count, similarity, rank, len(row_of), (connection,))
    return found
