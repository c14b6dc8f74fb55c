"""A typed graph beside a log: what the log needs of it, and what it must not hold."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from recgraph.data.errors import DataError
from recgraph.data.ids import IdMap

_log = logging.getLogger(__name__)
#: the relation that is the log itself: a model gets its training part, whatever a graph holds under this name
INTERACTS = ("user", "interacts", "item")


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
        """Write it into a folder."""


def check_graph(
    graph: RelationGraph, users: IdMap, items: IdMap, of_log: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
) -> None:
    """Refuse a graph that does not speak of a log's users and items, or that tells of its test part.

    Users and items are matched by their ids; where none of either is of the log, a warning says so. A relation of users
    and items that holds interactions of the log is refused, as a split could not hide its test part;
    ``("user", "interacts", "item")`` is the log itself, of which a model gets the training part instead.

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
    pairs = np.unique(of_log[0] * len(items) + of_log[1])
    for relation, held in graph.edges.items():
        start, _, end = relation
        if relation == INTERACTS or {start, end} != {"user", "item"}:
            continue
        found = {start: places[start][held.adj.rows.cpu()], end: places[end][held.adj.indices.cpu()]}
        known = (found["user"] >= 0) & (found["item"] >= 0)
        theirs = np.unique((found["user"] * len(items) + found["item"])[known])
        if n_known := int(np.isin(theirs, pairs, assume_unique=True).sum()):
            raise DataError(
                f"graph: its relation {relation} holds {n_known:,} of the log's pairs of users and items, of which a "
                f"test part would be known in training: leave them out; paths follow the log as {INTERACTS}"
            )


def _places(name: str, nodes: Any, known: IdMap) -> npt.NDArray[np.int64]:
    """The indices in the log of a graph's nodes of one type; -1: not there."""
    try:
        places = known.index(ids_of(nodes))
    except ValueError as error:
        raise DataError(f"graph: its nodes {name!r} are not matched; give ids= of the log's type ({error})") from None
    if len(places) and len(known) and not (places >= 0).any():
        _log.warning("graph: none of its nodes %r is of the log, whose ids are such as %r", name, known.values[0])
    return places


def ids_of(nodes: Any) -> Any:
    """The ids of a graph's nodes of one type, in their order; their numbers where they have none."""
    return np.arange(nodes.count) if nodes.ids is None else nodes.ids.ids(np.arange(nodes.count))
