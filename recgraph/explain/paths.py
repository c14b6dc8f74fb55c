"""Paths along meta-paths: those from a few nodes, their number, the similarity of their ends, and
what they show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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
        self.path = path
        self.types = types_of(self.route)
        if self.types[0] != self.types[-1]:
            raise PathError(
                f"path = {path!r} leads from {self.types[0]!r} to {self.types[-1]!r}, not back to its type"
            )
        self.round_trip = is_palindrome(self.route)
        self.steps = tuple(step.matrix(graph).pattern() for step in self.route)
        n_starts = self.steps[0].shape[0]
        self._known_self_counts = torch.full((n_starts,), torch.nan, dtype=torch.float64)

    def reach(self, starts: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """The ends that starts [S] int64 reach, a block of starts at a time, one entry [E] a pair.

        Yields:
            the place of the start, the end, never the start itself, the similarity of the two, the
            number of paths.
        """
        for block, rows in _row_blocks(self.steps, starts):
            places = rows.rows + block.start
            keep_mask = rows.indices != starts[places]
            places = places[keep_mask]
            ends = rows.indices[keep_mask]
            counts = rows.values(torch.float64)[keep_mask]
            if self.round_trip:
                self_counts = self._self_counts(starts[places]) + self._self_counts(ends)
                similarities = 2 * counts / self_counts
            else:
                similarities = counts / (self._out[starts[places]] * self._in[ends]).sqrt()
            yield places, ends, similarities, counts

    def _self_counts(self, nodes: Tensor) -> Tensor:
        """[K] float64: c(a, a) of nodes; computed once for each node."""
        missing = torch.unique(nodes)
        missing = missing[self._known_self_counts[missing].isnan()]
        for block, rows in _row_blocks(self.steps[: len(self.steps) // 2], missing):
            squares = rows.values(torch.float64).square()
            self._known_self_counts[missing[block]] = rows.with_weights(squares).row_sums()
        return self._known_self_counts[nodes]

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
        origin = torch.arange(len(starts))
        log_p = torch.zeros(len(starts), dtype=torch.float64)
        paths = starts[:, None]
        for step, allowed in zip(self.steps, reversed(leading), strict=True):
            rows = step.take_rows(paths[:, -1])
            keep_mask = torch.isin(rows.indices, allowed)
            before = rows.rows[keep_mask]
            node = rows.indices[keep_mask]
            log_p = log_p[before] - rows.degrees[before].to(torch.float64).log()
            origin = origin[before]
            paths = torch.cat([paths[before], node[:, None]], 1)
            best = _top_of_groups(origin * step.shape[1] + node, log_p, k)
            origin, log_p, paths = origin[best], log_p[best], paths[best]
        best_paths: list[list[tuple[int, ...]]] = [[] for _ in starts]
        for start, path in zip(origin.tolist(), paths.tolist(), strict=True):
            best_paths[start].append(tuple(path))
        return best_paths

    def named(self, path: Sequence[int], name: Namer) -> tuple[Node, ...]:
        """The nodes of a path."""
        return tuple(map(name, self.types, path))


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
    *,
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
    side = walks.types[0]
    start = torch.tensor([user])
    n_items = len(unseen_mask)
    # what a path has before and behind the meta-path
    before: tuple[Node, ...] = ()
    after: tuple[Node, ...] = ()
    if side == "item":  # through the items of the history
        before = (name("user", user),)
        via = interactions.take_rows(start).indices
        blocks = walks.reach(via)
        total = torch.tensor(max(len(via), 1))
    else:  # through similar users
        ((_, via, similarities, counts),) = walks.reach(start)
        had = interactions.take_rows(via)
        blocks = iter([(had.rows, had.indices, similarities[had.rows], counts[had.rows])])
        total = similarities.sum().clamp(min=_TOLERANCE)
    # of all items
    item_scores = torch.zeros(n_items, dtype=torch.float64)
    item_counts = torch.zeros(n_items, dtype=torch.float64)
    # [V, K] from each via to each explained item
    via_similarities = torch.zeros(len(via), len(items), dtype=torch.float64)
    via_counts = torch.zeros(len(via), len(items), dtype=torch.float64)
    column = torch.full((n_items,), -1)
    column[torch.tensor(items, dtype=torch.int64)] = torch.arange(len(items))
    for rows, ends, similarities, counts in blocks:
        item_scores.index_add_(0, ends, similarities)
        item_counts.index_add_(0, ends, counts)
        explained_mask = column[ends] >= 0
        place = rows[explained_mask], column[ends[explained_mask]]
        via_similarities[place] = similarities[explained_mask]
        via_counts[place] = counts[explained_mask]
    item_scores /= total
    n_ranked = int(((item_counts > 0) & unseen_mask).sum())
    evidence = {}
    for similarities, counts, item in zip(via_similarities.T, via_counts.T, items, strict=True):
        count = int(item_counts[item])
        if not count:
            continue
        order = torch.argsort(similarities, descending=True, stable=True)[:n_connections]
        order = order[similarities[order] > 0]
        if side == "item":
            best_paths = walks.best_paths(via[order], item, n_paths)
        else:
            after = (name("item", item),)
            best_paths = [walks.best_paths(start, end, n_paths)[0] for end in via[order].tolist()]
        connections = []
        for row, paths in zip(order.tolist(), best_paths, strict=True):
            connections.append(
                Connection(
                    via=name(side, int(via[row])),
                    similarity=float(similarities[row]),
                    count=int(counts[row]),
                    paths=tuple((*before, *walks.named(path, name), *after) for path in paths),
                )
            )
        score = item_scores[item]
        evidence[item] = Evidence(
            side=side,
            path=walks.path,
            weight=weight,
            count=count,
            score=float(score),
            rank=1 + int(((item_scores > score + _TOLERANCE) & unseen_mask).sum()),
            n_ranked=n_ranked,
            connections=tuple(connections),
        )
    return evidence


def evidence_for_node(
    walks: Walks, weight: float | None, node: int, others: Iterable[int], name: Namer, n_paths: int
) -> dict[int, Evidence]:
    """The evidence of a meta-path between a node and those others of its type that it connects with
    the node.
    """
    start = torch.tensor([node])
    side = walks.types[0]
    ((_, ends, similarities, counts),) = walks.reach(start)
    row_of = {end: row for row, end in enumerate(ends.tolist())}
    evidence = {}
    for other in row_of.keys() & others:
        row = row_of[other]
        similarity = float(similarities[row])
        count = int(counts[row])
        (best_paths,) = walks.best_paths(start, other, n_paths)
        paths = tuple(walks.named(path, name) for path in best_paths)
        evidence[other] = Evidence(
            side=side,
            path=walks.path,
            weight=weight,
            count=count,
            score=similarity,
            rank=1 + int((similarities > similarity + _TOLERANCE).sum()),
            n_ranked=len(ends),
            connections=(Connection(name(side, other), similarity, count, paths),),
        )
    return evidence


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
    evidence = torch.zeros(len(items), len(history), dtype=torch.float64)
    place = torch.full((graph.count("item"),), -1)
    place[items] = torch.arange(len(items))
    if walks.types[0] == "item":
        for through, ends, similarities, _ in walks.reach(history):
            item_mask = place[ends] >= 0
            evidence[place[ends[item_mask]], through[item_mask]] = similarities[item_mask]
        return evidence
    if walks.route[0] != Step(INTERACTS):
        return evidence
    ((_, others, similarities, counts),) = walks.reach(torch.tensor([user]))
    had = graph.adjacency(INTERACTS).pattern().take_rows(others)
    item_mask = place[had.indices] >= 0
    rows = had.rows[item_mask]
    similarity = torch.zeros(len(others), len(items), dtype=torch.float64)
    similarity[rows, place[had.indices[item_mask]]] = similarities[rows]
    end_of = torch.full((graph.count("user"),), -1)
    end_of[others] = torch.arange(len(others))
    for block, paths in _row_blocks(walks.steps[1:], history):
        ends = end_of[paths.indices]
        other_mask = ends >= 0  # the user itself is no end
        through = paths.rows[other_mask] + block.start
        ends = ends[other_mask]
        shares = paths.values(torch.float64)[other_mask] / counts[ends]
        evidence.index_add_(1, through, (shares[:, None] * similarity[ends]).T)
    return evidence
