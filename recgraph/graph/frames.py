"""Typed graphs from frames and logs, with the user's own ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recgraph.data.dataframe import from_native, pairs_of, relation
from recgraph.data.ids import IdMap, as_series, family
from recgraph.data.log import INTERACTS, ids_of
from recgraph.data.part import Part
from recgraph.data.split import Interactions
from recgraph.graph.schema import Edges, EdgeType, GraphError, GraphParts, Nodes, check_ends, check_type, make_edges
from recgraph.sparse.csr import Csr

__all__ = ["INTERACTS", "from_frames", "from_interactions", "interaction_edges"]

#: edge type -> (node type, ids) of its sources and of its targets
Ends = dict[EdgeType, tuple[tuple[str, pl.Series], tuple[str, pl.Series]]]


def from_frames(
    edges: Mapping[EdgeType, Any],
    nodes: Mapping[str, Any],
    features: Mapping[str, Sequence[str]],
    weight: str,
    time: str,
) -> GraphParts:
    """From frames of any kind.

    Args:
        edges: (source, relation, target) -> frame whose first two columns hold the ids of sources and targets.
        nodes: node type -> frame whose first column holds the ids, in the order of their indices. A type without a
            frame has the ids that its edges name, in the order of their first appearance.
        features: node type -> the numeric columns of its frame that are its features.
        weight, time: the columns of edge frames that hold weights and times, where they are there.

    Raises:
        GraphError: an edge names an id that its node frame does not have (edge type, row and id), an id occurs twice
            or is missing, or features that are missing or NaN.
    """
    tables = {name: from_native(frame) for name, frame in nodes.items()}
    lists = {edge_type: from_native(frame) for edge_type, frame in edges.items()}
    ends: Ends = {
        edge_type: ((edge_type[0], _id_column(table, 0)), (edge_type[2], _id_column(table, 1)))
        for edge_type, table in lists.items()
    }
    for name in features:
        check_type("node frame", name, tables)
    names = list(dict.fromkeys([*tables, *(name for source, _, target in lists for name in (source, target))]))
    maps = {name: _ids(name, tables.get(name), ends) for name in names}
    made_nodes = {
        name: Nodes(len(ids), ids, _features(name, tables[name], features[name]) if name in features else None)
        for name, ids in maps.items()
    }
    made_edges = {}
    for edge_type, table in lists.items():
        check_ends(edge_type, maps)
        source, target = (_indices(edge_type, ids, maps[name]) for name, ids in ends[edge_type])
        counts = (len(maps[edge_type[0]]), len(maps[edge_type[2]]))
        w, t = (_column(table, name) for name in (weight, time))
        made_edges[edge_type] = make_edges(edge_type, source, target, counts, w, t)
    return made_nodes, made_edges


def _ids(name: str, table: pl.DataFrame | None, ends: Ends) -> IdMap:
    if table is not None:
        ids = _present(f"node type {name!r}", _id_column(table, 0))
        if ids.is_duplicated().any():
            raise GraphError(f"node type {name!r}: id {ids.filter(ids.is_duplicated())[0]!r} occurs several times")
        return IdMap(ids)
    found = [(edge_type, ids) for edge_type, both in ends.items() for end, ids in both if end == name]
    if len(kinds := {family(ids.dtype) for _, ids in found if ids.dtype != pl.Null}) > 1:
        raise GraphError(f"ids of {name!r} are {' and '.join(sorted(kinds))}; bring them to one type")
    columns = [_present(f"edges {edge_type}", ids).alias("id").to_frame() for edge_type, ids in found]
    wide = pl.concat(columns, how="vertical_relaxed")
    return IdMap(wide["id"].unique(maintain_order=True))


def _present(what: str, ids: pl.Series) -> pl.Series:
    """The ids, none of which is missing."""
    missing = ids.is_null() | (ids.is_nan() if ids.dtype.is_float() else False)
    if missing.any():
        raise GraphError(f"{what}, row {missing.arg_max()} (from 0): the id {ids.name} is missing; drop such rows")
    return ids


def _id_column(table: pl.DataFrame, place: int) -> pl.Series:
    """Categories as texts; what holds no rows has no type of its own."""
    ids = as_series(table.to_series(place), table.columns[place])
    return ids if len(ids) else ids.clear().cast(pl.Null)


def _indices(edge_type: EdgeType, ids: pl.Series, known_ids: IdMap) -> Tensor:
    index = known_ids.index(ids)
    if (index < 0).any():
        row = int((index < 0).argmax())
        raise GraphError(f"edges {edge_type}, row {row} (from 0): {ids.name} = {ids[row]!r} is not among the nodes")
    return torch.from_numpy(index)


def _features(name: str, table: pl.DataFrame, columns: Sequence[str]) -> Tensor:
    for column in columns:
        there = column in table.columns and (table[column].dtype.is_numeric() or table[column].dtype == pl.Boolean)
        if not there or table[column].null_count():
            raise GraphError(f"features of {name!r}: column {column!r} is not there, or not a number in each row")
    return torch.from_numpy(table.select(columns).to_numpy().astype(np.float32, copy=True))


def _column(table: pl.DataFrame, name: str) -> Tensor | None:
    if name not in table.columns[2:]:
        return None
    values = table[name]
    if values.dtype.is_temporal():
        values = values.cast(pl.Datetime("us")).cast(pl.Int64)
    return torch.from_numpy(values.to_numpy().copy())


def from_interactions(
    interactions: Interactions,
    part: Part | None,
    item_relations: Sequence[str] | Mapping[str, str] | None,
    user_relations: Sequence[str] | Mapping[str, str] | None,
    separator: str,
) -> GraphParts:
    """A graph of users, items and what their side information says of them.

    Edge types: ``("user", "interacts", "item")``, with the times of the interactions; those of ``interactions.graph``;
    and for each column of side information ``("item", "has_<name>", "<name>")`` or ``("user", "has_<name>",
    "<name>")``.

    Args:
        interactions: the log; users and items keep its indices.
        part: the interactions that become edges: ``split.train``, so that nothing of valid and test is known. None
            takes all.
        item_relations, user_relations: the columns; a mapping gives the node type a name (``{"genres": "genre"}``).
            None takes the columns of texts, and of lists of plain values, that have at most half as many values as the
            frame has rows; a column of users with the name of a column of items has the node type ``"user_<name>"``.
        separator: between the values of one text.

    Raises:
        GraphError: a node type is there already.
        DataError: a column is not there, or holds no plain values.
    """
    logs = part if part is not None else interactions.ordered.part
    users, items = interactions.users, interactions.items
    nodes = {"user": Nodes(len(users), users), "item": Nodes(len(items), items)}
    edges: dict[EdgeType, Edges] = {INTERACTS: interaction_edges(logs)}
    sides = (
        ("item", items, interactions.columns.item, interactions.item_features, item_relations),
        ("user", users, interactions.columns.user, interactions.user_features, user_relations),
    )
    for role, ids, key, table, wanted in sides:
        for column, name in _relations(table, key, wanted, separator):
            if name in nodes and wanted is None:
                name = _free_name(f"{role}_{name}", nodes)
            if name in nodes:
                raise GraphError(f"{role} relation {column!r}: node type {name!r} exists; name it with a mapping")
            pairs = relation(table, key, column, separator, role)
            edge_type: EdgeType = (role, f"has_{name}", name)
            nodes[name], edges[edge_type] = _side(edge_type, ids, pairs)
    if interactions.graph is not None:
        _add_relations(nodes, edges, interactions.graph)
    return nodes, edges


def _add_relations(nodes: dict[str, Nodes], edges: dict[EdgeType, Edges], given: Any) -> None:
    """Add the relations and features of another typed graph, its users and items matched by their ids.

    Those that are not here are left out; those that are not there have no edges, and features of zeros.
    """
    place: dict[str, Tensor] = {}
    for name, part in given.nodes.items():
        if name in ("user", "item"):
            known = nodes[name].ids
            assert known is not None
            place[name] = torch.from_numpy(known.index(ids_of(part)))
            if part.features is not None:
                nodes[name] = replace(nodes[name], features=_placed(part.features, place[name], len(known)))
        elif name in nodes:
            raise GraphError(f"node type {name!r} stands in the graph and among the relations of side information")
        else:
            nodes[name] = part
    for edge_type, lists in given.edges.items():
        if edge_type == INTERACTS:
            continue  # the log has them, and the split says which may be known
        adj = lists.adj
        rows, columns = (
            place[name][index] if name in place else index
            for name, index in ((edge_type[0], adj.rows), (edge_type[2], adj.indices))
        )
        here = (rows >= 0) & (columns >= 0)
        weights, times = (None if x is None else x[here] for x in (adj.weights, lists.times))
        counts = (nodes[edge_type[0]].count, nodes[edge_type[2]].count)
        edges[edge_type] = make_edges(edge_type, rows[here], columns[here], counts, weights, times)


def _placed(features: Tensor | Csr, place: Tensor, count: int) -> Tensor | Csr:
    """[count, F]: each row where ``place`` says (-1: left out), zeros elsewhere."""
    if isinstance(features, Csr):
        rows = place[features.rows]
        kept = features.select(rows >= 0)
        return Csr.from_coo(rows[rows >= 0], kept.indices, kept.weights, shape=(count, features.shape[1]))
    placed = features.new_zeros(count, features.shape[1])
    placed[place[place >= 0]] = features[place >= 0]
    return placed


def interaction_edges(part: Part) -> Edges:
    """The edges ``("user", "interacts", "item")`` of a part, with its weights and times."""
    counts = (part.n_users, part.n_items)
    return make_edges(INTERACTS, part.items.rows, part.items.values, counts, part.weights, part.times)


def _relations(
    table: pl.DataFrame | None, key: str, wanted: Sequence[str] | Mapping[str, str] | None, separator: str
) -> Iterable[tuple[str, str]]:
    if wanted is not None:
        return wanted.items() if isinstance(wanted, Mapping) else [(name, name) for name in wanted]
    if table is None:
        return []
    found = []
    for column in table.columns:
        kind = table[column].dtype
        of_values = isinstance(kind, pl.List) and not kind.inner.is_nested()
        if column != key and (of_values or kind == pl.String):
            values = pairs_of(table, key, column, separator)[column]
            if values.n_unique() * 2 <= table.height:
                found.append((column, column))
    return found


def _free_name(name: str, taken: Mapping[str, Any]) -> str:
    while name in taken:
        name += "_"
    return name


def _side(edge_type: EdgeType, ids: IdMap, pairs: pl.DataFrame) -> tuple[Nodes, Edges]:
    index = ids.index(pairs.to_series(0))
    known_mask = index >= 0  # features may speak of ids that are not in the log
    values = pairs.to_series(1).filter(pl.Series(known_mask))
    map_ = IdMap(values.unique(maintain_order=True))
    source, target = torch.from_numpy(index[known_mask]), torch.from_numpy(map_.index(values))
    return Nodes(len(map_), map_), make_edges(edge_type, source, target, (len(ids), len(map_)))
