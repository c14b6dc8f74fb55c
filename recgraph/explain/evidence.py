"""How strongly each meta-path joins a user with items, and through what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recgraph.explain.explanation import Connection, Evidence, Node
from recgraph.explain.walks import Walks
from recgraph.sparse.csr import Csr

__all__ = ["Asked", "Support", "from_history", "from_users", "tell", "through"]

#: scores that differ by less are equal: the order of a sum is not what ranks an item
_SAME = 1e-12
Namer = Callable[[str, int], Node]


@dataclass(frozen=True)
class Support:
    """What one meta-path says of all items, and through which nodes it says so of some of them.

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
class Asked:
    """Whose recommendation is explained, and in how many words.

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


def tell(support: Support, side: str, weight: float | None, place: int, item: int, asked: Asked) -> Evidence | None:
    """What a path says of one item; None where it does not reach it.

    Args:
        place: of the item among those that were asked for.
    """
    if not support.counts[item]:
        return None
    reached_mask = (support.counts > 0) & asked.unseen_mask
    better = (support.scores > support.scores[item] + _SAME) & asked.unseen_mask
    similarities = support.similarities[:, place]
    order = torch.argsort(similarities, descending=True, stable=True)[: asked.n_connections]
    order = order[similarities[order] > 0]
    via = support.via[order]
    if support.to_items:
        walked = support.walks.best_paths(via, item, asked.n_paths)
        whole = [[(("user", asked.user), *_typed(support.walks, path)) for path in paths] for paths in walked]
    else:
        start = torch.tensor([asked.user])
        walked = [support.walks.best_paths(start, other, asked.n_paths)[0] for other in via.tolist()]
        whole = [[(*_typed(support.walks, path), ("item", item)) for path in paths] for paths in walked]
    connections = tuple(
        Connection(
            asked.name(support.walks.types[0], other),
            float(similarities[row]),
            int(support.via_counts[row, place]),
            named(paths, asked.name),
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


def named(paths: Sequence[tuple[tuple[str, int], ...]], name: Namer) -> tuple[tuple[Node, ...], ...]:
    """Paths of node types and indices, by name."""
    return tuple(tuple(name(node_type, index) for node_type, index in path) for path in paths)


def through(
    walks: Walks, node: int, others: Sequence[int], weight: float | None, name: Namer, n_paths: int
) -> list[Evidence | None]:
    """What a path says of a node and each of some others of its type; None where it does not join them."""
    (part,) = walks.reach(torch.tensor([node]))
    row_of = {end: row for row, end in enumerate(part.ends.tolist())}
    found: list[Evidence | None] = []
    for other in others:
        if other not in row_of:
            found.append(None)
            continue
        similarity, count = float(part.similarities[row_of[other]]), int(part.counts[row_of[other]])
        (paths,) = walks.best_paths(torch.tensor([node]), other, n_paths)
        whole = named([_typed(walks, path) for path in paths], name)
        rank = 1 + int((part.similarities > similarity + _SAME).sum())
        connection = Connection(name(walks.types[0], other), similarity, count, whole)
        side = walks.types[0]
        found.append(Evidence(side, walks.path, weight, count, similarity, rank, len(part.ends), (connection,)))
    return found
