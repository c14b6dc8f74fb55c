"""A typed graph beside a log: what the log needs of it, and what it must not hold."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from recgraph.data.errors import DataError
from recgraph.data.ids import IdMap

__all__ = ["INTERACTS", "RelationGraph", "check_graph", "ids_of"]

_log = logging.getLogger(__name__)
#: the relation that is the log itself: a model gets its training part, whatever a graph holds under this name
INTERACTS = ("user", "interacts", "item")
#: two steps may be the log that join at least this share of its pairs, and at most so many times as many pairs
_SHARE, _FEW = 0.9, 2


class RelationGraph(Protocol):
    """What a log needs of a typed graph; :class:`recgraph.graph.hetero.HeteroGraph` is one."""

    @property
    def nodes(self) -> Mapping[str, Any]:
        """Node type -> its nodes, with their ``count`` and ``ids``."""

    @property
    def edges(self) -> Mapping[tuple[str, str, str], Any]:
        """Relation -> its edges, with their ``adj``."""

    @property
    def node_types(self) -> list[str]:
        """The names of its node types."""

    @property
    def hash(self) -> str:
        """A digest of all that it holds."""

    def save(self, folder: str | Path) -> None:
        """Write it into a folder, with a file ``graph.json``."""


def check_graph(
    graph: RelationGraph, users: IdMap, items: IdMap, of_log: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
) -> None:
    """Refuse a graph that does not speak of a log's users and items, or that tells of its test part.

    Users and items are matched by their ids; where none of either is of the log, a warning says so. A relation of users
    and items that holds interactions of the log is refused, as a split could not hide its test part;
    ``("user", "interacts", "item")`` is the log itself, of which a model gets the training part instead.

    A warning names two steps by way of a third type (``user-event-item``) that join nine tenths of the log's pairs, and
    at most twice as many pairs as the log has: tags or genres join users and items to many others.

    Args:
        graph: the graph.
        users, items: of the log.
        of_log: users and items of its interactions, by their indices.

    Raises:
        DataError: it has neither users nor items; their ids are of another type than the log's; a relation holds
            interactions: names it, and how many.
    """
    ids = {name: known for name, known in (("user", users), ("item", items)) if name in graph.node_types}
    if not ids:
        raise DataError(f"graph has node types {graph.node_types}; name its users 'user' and its items 'item'")
    places = {name: _places(name, graph.nodes[name], known) for name, known in ids.items()}
    pairs: npt.NDArray[np.int64] | None = None
    for relation, held in graph.edges.items():
        start, _, end = relation
        if relation == INTERACTS or {start, end} != {"user", "item"}:
            continue
        found = {start: places[start][held.adj.rows.cpu()], end: places[end][held.adj.indices.cpu()]}
        theirs = np.unique((found["user"] * len(items) + found["item"])[(found["user"] >= 0) & (found["item"] >= 0)])
        pairs = np.unique(of_log[0] * len(items) + of_log[1]) if pairs is None else pairs
        if n_known := int(np.isin(theirs, pairs, assume_unique=True).sum()):
            raise DataError(
                f"graph: its relation {relation} holds {n_known:,} of the log's {len(pairs):,} pairs of users and "
                "items, and those of a test part would be known in training: leave them out. Paths follow the log both "
                f"ways, as {INTERACTS}"
            )
    _warn_of_two_steps(graph, places, len(items), of_log)


def _warn_of_two_steps(
    graph: RelationGraph,
    places: Mapping[str, npt.NDArray[np.int64]],
    n_items: int,
    of_log: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
) -> None:
    """Name relations by way of which a third type joins users to the items that they have in the log."""
    pairs: npt.NDArray[np.int64] | None = None
    of_users, of_items = (_joined(graph, name, places) for name in ("user", "item"))
    for (first, middle), (through, users) in of_users.items():
        for (second, other), (ends, items) in of_items.items():
            # ways, counted before they are made: tags have many
            if middle != other or not len(through) or not len(ends):
                continue
            n = graph.nodes[middle].count
            n_ways = int(np.bincount(through, minlength=n) @ np.bincount(ends, minlength=n))
            if not 0 < n_ways <= _FEW * len(of_log[0]):
                continue
            pairs = np.unique(of_log[0] * n_items + of_log[1]) if pairs is None else pairs
            steps = pl.DataFrame({"x": through, "user": users}).join(pl.DataFrame({"x": ends, "item": items}), on="x")
            theirs = np.unique((steps["user"] * n_items + steps["item"]).to_numpy())
            n_known = int(np.isin(theirs, pairs, assume_unique=True).sum())
            if n_known >= _SHARE * len(pairs) and len(theirs) <= _FEW * len(pairs):
                _log.warning(
                    "graph: its relations %s and %s join %s of the log's %s pairs of users and items and few others: "
                    "they may be the log with its test part, which models would know in training; leave out what is "
                    "not known before",
                    *(first, second, f"{n_known:,}", f"{len(pairs):,}"),
                )


def _joined(
    graph: RelationGraph, name: str, places: Mapping[str, npt.NDArray[np.int64]]
) -> dict[tuple[tuple[str, str, str], str], tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Relations of users, or items, with a third type: (relation, type) -> its nodes, and the log's users or items."""
    found = {}
    for relation, held in graph.edges.items():
        start, _, end = relation
        third = end if start == name else start
        if name not in places or name not in (start, end) or third in ("user", "item"):
            continue
        rows, columns = held.adj.rows.cpu().numpy(), held.adj.indices.cpu().numpy()
        own, others = (rows, columns) if start == name else (columns, rows)
        known = places[name][own]
        found[relation, third] = others[known >= 0], known[known >= 0]
    return found


def _places(name: str, nodes: Any, known: IdMap) -> npt.NDArray[np.int64]:
    """The indices in the log of a graph's nodes of one type; -1: not there."""
    hint = "" if nodes.ids is not None else ": it has no ids, so that numbers from 0 on stand for them; give ids="
    try:
        places = known.index(ids_of(nodes))
    except ValueError as error:
        raise DataError(f"graph: its nodes {name!r} are not matched{hint} ({error})") from None
    if len(places) and len(known) and not (places >= 0).any():
        example = known.values[0]
        _log.warning(
            "graph: none of its %s nodes %r is of the log, whose ids are such as %r%s",
            *(f"{len(places):,}", name, example, hint),
        )
    return places


def ids_of(nodes: Any) -> Any:
    """The ids of a graph's nodes of one type, in their order; their numbers where they have none."""
    return np.arange(nodes.count) if nodes.ids is None else nodes.ids.ids(np.arange(nodes.count))
