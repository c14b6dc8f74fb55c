"""Paths along meta-paths: those from a few nodes, their number, the similarity of their ends, and
what they show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from recgraph.data.log import INTERACTS
from recgraph.explain.explanation import Connection, Evidence, Node
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath, PathError, Step, is_palindrome, path_counts, types_of
from recgraph.sparse.csr import Csr
from recgraph.sparse.products import compose, compose_blocks

#: (node type, index) -> the node with its title
Namer = Callable[[str, int], Node]
#: scores that differ by less are equal: the order of summation must not decide a rank
_TOLERANCE = 1e-12


class Walks:
    """The paths of one meta-path. Only the rows of given starts are computed, a block at a time.

    A path is a sequence of nodes: edge weights are not read, and repeated edges count once. The
    similarity of two ends a, b with c(a, b) paths is PathSim, ``2 c(a, b) / (c(a, a) + c(b, b))``,
    where the path is a round trip (Sun et al., VLDB 2011), and else ``c(a, b) / sqrt(c(a, all)
    c(all, b))``: a path such as user-friend-user has no c(a, a).

    PathError or UnknownTypeError: the graph does not have the path, or its ends are of different
    types.
    """

    def __init__(self, path: str, graph: HeteroGraph) -> None:
        self.route = MetaPath(path).route(graph)
        self.path, self.types = path, types_of(self.route)
        if self.types[0] != self.types[-1]:
            raise PathError(
                f"path = {path!r} leads from {self.types[0]!r} to {self.types[-1]!r}, not back to its type"
            )
        self.round_trip = is_palindrome(self.route)
        self.steps = tuple(step.matrix(graph).pattern() for step in self.route)
        self._own = torch.full((self.steps[0].shape[0],), torch.nan, dtype=torch.float64)

    def reach(self, starts: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """The ends that starts [S] int64 reach, a block of starts at a time, one entry [E] a pair.

        Yields:
            the place of the start, the end, never the start itself, the similarity of the two, the
            number of paths.
        """
        for block, rows in _row_blocks(self.steps, starts):
            places = rows.rows + block.start
            keep_mask = rows.indices != starts[places]
            places, ends, counts = (
                places[keep_mask],
                rows.indices[keep_mask],
                rows.values(torch.float64)[keep_mask],
            )
            if self.round_trip:
                similarities = (
                    2 * counts / (self._self_counts(starts[places]) + self._self_counts(ends))
                )
            else:
                similarities = counts / (self._out[starts[places]] * self._in[ends]).sqrt()
            yield places, ends, similarities, counts

    def _self_counts(self, nodes: Tensor) -> Tensor:
        """[K] float64: c(a, a) of nodes; computed once for each node."""
        missing = torch.unique(nodes)
        missing = missing[self._own[missing].isnan()]
        for block, rows in _row_blocks(self.steps[: len(self.steps) // 2], missing):
            self._own[missing[block]] = rows.with_weights(
                rows.values(torch.float64).square()
            ).row_sums()
        return self._own[nodes]

    @cached_property
    def _out(self) -> Tensor:
        return path_counts(self.steps)

    @cached_property
    def _in(self) -> Tensor:
        return path_counts([step.t() for step in reversed(self.steps)])

    def best_paths(self, starts: Tensor, end: int, k: int) -> list[list[tuple[int, ...]]]:
        """For each start the k paths to an end that a random walk takes with the highest
        probability.

        The walk chooses uniformly among the edges of a step, so it prefers specific nodes: a genre
        of 20 films says more than one of 700. The search is exact: it keeps the k best paths to
        each node on the way. Ties go by node index. Paths have both ends.
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
            best = _top_of_groups(origin * step.shape[1] + node, log_p, k)
            origin, log_p, paths = origin[best], log_p[best], paths[best]
        found: list[list[tuple[int, ...]]] = [[] for _ in range(len(starts))]
        for start, path in zip(origin.tolist(), paths.tolist(), strict=True):
            found[start].append(tuple(path))
        return found

    def named(self, path: Sequence[int], name: Namer) -> tuple[Node, ...]:
        """The nodes of a path."""
        return tuple(
            name(node_type, index) for node_type, index in zip(self.types, path, strict=True)
        )


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
    """[K] int64: the entries that are among the k highest of their group, by group and then the
    highest first.
    """
    order = torch.argsort(values, descending=True, stable=True)
    order = order[torch.argsort(groups[order], stable=True)]
    first = torch.searchsorted(groups[order], groups[order])
    return order[torch.arange(len(order)) - first < k]


def evidence_for_user(
    walks: Walks,
    weight: float | None,
    items: Sequence[int],
    user: int,
    interactions: Csr,
    unseen_mask: Tensor,
    name: Namer,
    n_connections: int,
    n_paths: int,
) -> dict[int, Evidence]:
    """The evidence of a meta-path, from item to item or from user to user, for those of the items
    that it reaches.

    Args:
        interactions: [n_users, n_items], of the graph.
        unseen_mask: [n_items], the items outside the user's history.
    """
    side, start, n_items = walks.types[0], torch.tensor([user]), len(unseen_mask)
    if side == "item":  # through the items of the history
        via = interactions.take_rows(start).indices
        parts = walks.reach(via)
        total = torch.tensor(max(len(via), 1))
    else:  # through similar users
        ((_, via, similarities, numbers),) = walks.reach(start)
        had = interactions.take_rows(via)
        parts = iter([(had.rows, had.indices, similarities[had.rows], numbers[had.rows])])
        total = similarities.sum().clamp(min=_TOLERANCE)
    # of all items, and [2, V, K] the similarity and the number of paths from each via to each
    # explained item
    scores, counts = (torch.zeros(n_items, dtype=torch.float64) for _ in range(2))
    of_via = torch.zeros(2, len(via), len(items), dtype=torch.float64)
    column = torch.full((n_items,), -1)
    column[torch.tensor(items, dtype=torch.int64)] = torch.arange(len(items))
    for rows, ends, similarities, numbers in parts:
        scores.index_add_(0, ends, similarities)
        counts.index_add_(0, ends, numbers)
        own_mask = column[ends] >= 0
        of_via[:, rows[own_mask], column[ends[own_mask]]] = torch.stack(
            [similarities[own_mask], numbers[own_mask]]
        )
    scores /= total
    n_ranked = int(((counts > 0) & unseen_mask).sum())
    found = {}
    for place, item in enumerate(items):
        if not (count := int(counts[item])):
            continue
        similarities, numbers = of_via[:, :, place]
        order = torch.argsort(similarities, descending=True, stable=True)[:n_connections]
        order = order[similarities[order] > 0]
        if side == "item":
            best = walks.best_paths(via[order], item, n_paths)
            paths = [
                [(name("user", user), *walks.named(path, name)) for path in each] for each in best
            ]
        else:
            best = [walks.best_paths(start, other, n_paths)[0] for other in via[order].tolist()]
            paths = [
                [(*walks.named(path, name), name("item", item)) for path in each] for each in best
            ]
        connections = tuple(
            Connection(
                name(side, int(via[row])), float(similarities[row]), int(numbers[row]), tuple(some)
            )
            for row, some in zip(order.tolist(), paths, strict=True)
        )
        score = float(scores[item])
        rank = 1 + int(((scores > score + _TOLERANCE) & unseen_mask).sum())
        found[item] = Evidence(side, walks.path, weight, count, score, rank, n_ranked, connections)
    return found


def evidence_for_node(
    walks: Walks, weight: float | None, node: int, others: Sequence[int], name: Namer, n_paths: int
) -> dict[int, Evidence]:
    """The evidence of a meta-path between a node and those others of its type that it connects with
    the node.
    """
    start, side = torch.tensor([node]), walks.types[0]
    ((_, ends, similarities, counts),) = walks.reach(start)
    row_of = {end: row for row, end in enumerate(ends.tolist())}
    found = {}
    for other in others:
        if (row := row_of.get(other)) is None:
            continue
        similarity, count = float(similarities[row]), int(counts[row])
        rank = 1 + int((similarities > similarity + _TOLERANCE).sum())
        paths = tuple(
            walks.named(path, name) for path in walks.best_paths(start, other, n_paths)[0]
        )
        connection = Connection(name(side, other), similarity, count, paths)
        found[other] = Evidence(
            side, walks.path, weight, count, similarity, rank, len(row_of), (connection,)
        )
    return found


def evidence_of_items(
    walks: Walks, user: int, history: Tensor, items: Tensor, graph: HeteroGraph
) -> Tensor:
    """How strongly a meta-path leads to items through each item of a user's history.

    A path of items: the similarity of the history item to the item. A path of users that begins
    with an edge to an item leads through that item i to other users v: ``sum_v similarity(user, v)
    c_i(v) / c(v)`` over those v that had the item, with c(v) the paths from the user to v and
    c_i(v) those through i. Any other path of users leads through nothing of the history: zeros. ->
    [K, H] float64.
    """
    found = torch.zeros(len(items), len(history), dtype=torch.float64)
    place = torch.full((graph.count("item"),), -1)
    place[items] = torch.arange(len(items))
    if walks.types[0] == "item":
        for through, ends, similarities, _ in walks.reach(history):
            own_mask = place[ends] >= 0
            found[place[ends[own_mask]], through[own_mask]] = similarities[own_mask]
        return found
    if walks.route[0] != Step(INTERACTS):
        return found
    ((_, others, similarities, counts),) = walks.reach(torch.tensor([user]))
    had = graph.adjacency(INTERACTS).pattern().take_rows(others)
    own_mask = place[had.indices] >= 0
    rows = had.rows[own_mask]
    similarity = torch.zeros(len(others), len(items), dtype=torch.float64)
    similarity[rows, place[had.indices[own_mask]]] = similarities[rows]
    end_of = torch.full((graph.count("user"),), -1)
    end_of[others] = torch.arange(len(others))
    for block, paths in _row_blocks(walks.steps[1:], history):
        ends = end_of[paths.indices]
        other_mask = ends >= 0  # the user itself is no end
        through, ends = paths.rows[other_mask] + block.start, ends[other_mask]
        shares = paths.values(torch.float64)[other_mask] / counts[ends]
        found.index_add_(1, through, (shares[:, None] * similarity[ends]).T)
    return found
