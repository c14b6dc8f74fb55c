"""Typed graphs from frames and logs, with the user's own ids, and as those of PyTorch Geometric and
of DGL, and back.

In a ``torch_geometric.data.HeteroData`` features are ``data[node_type].x`` (a sparse CSR tensor
where they are sparse), ids ``.ids``, labels ``.y`` with ``.train_mask``, ``.val_mask`` and
``.test_mask``; edges are ``.edge_index`` with ``.edge_weight`` and ``.time``; a ``Data`` has the
same names. In a DGL graph features are ``graph.nodes[type].data["feat"]``, labels ``["label"]``
with the same masks, weights and times ``graph.edges[type].data["weight"]`` and ``["time"]``, and
ids the attribute ``graph.node_ids``, which DGL does not carry over to other graphs.

Labels and masks become a :class:`~recgraph.graph.node_task.NodeTask` beside the graph. Whatever
else there is has no place and is named in a :class:`~recgraph.graph.schema.LeftOutWarning`. Edges
come back in the order of their ends. Repeated edges stay: PyG's own converters merge them, and its
``from_dgl`` is wrong for several types.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recgraph.data.dataframe import from_native, pairs_of
from recgraph.data.ids import IdMap, as_series, family, listed
from recgraph.data.log import INTERACTS, ids_of
from recgraph.data.part import Part
from recgraph.data.split import Interactions
from recgraph.graph.node_task import LABELS, NodeTask
from recgraph.graph.schema import (
    Edges,
    EdgeType,
    GraphError,
    GraphParts,
    LeftOutWarning,
    Nodes,
    as_features,
    check_type,
    make_edges,
    numbers,
)
from recgraph.sparse.csr import Csr, csr_tensor
from recgraph.sparse.device import to_host
from recgraph.sparse.spmm import load_dgl

#: the attributes of each type of nodes and of edges, by the names of PyTorch Geometric
Stores = tuple[dict[str, dict[str, Any]], dict[EdgeType, dict[str, Any]]]
#: names under which ids of nodes are found, the first one that is there
_IDS = ("ids", "node_id", "n_id")
_OF_NODES = {"x", "num_nodes", *_IDS, "y", *LABELS}
_OF_EDGES = {"edge_index", "edge_weight", "edge_attr", "time"}
#: the names of nodes' attributes in DGL, where they are others
_DGL = {"feat": "x", "label": "y", "_ID": "ids"}


def from_frames(
    edges: Mapping[EdgeType, Any],
    nodes: Mapping[str, Any],
    features: Mapping[str, Sequence[str]],
    weight: str,
    time: str,
) -> GraphParts:
    """From frames of any kind.

    Args:
        edges: (source, relation, target) -> frame whose first two columns hold the ids of sources
            and targets.
        nodes: node type -> frame whose first column holds the ids, in the order of their indices. A
            type without a frame has the ids that its edges name, in the order of their first
            appearance.
        features: node type -> the numeric columns of its frame that are its features.
        weight, time: the columns of edge frames that hold weights and times, where they are there.
    """
    tables = {name: from_native(frame) for name, frame in nodes.items()}
    lists = {edge_type: from_native(frame) for edge_type, frame in edges.items()}
    for name in features:
        check_type("node frame", name, tables)
    named = [
        (edge_type, name, _ids_in(table, column, f"edges {edge_type}"))
        for edge_type, table in lists.items()
        for column, name in enumerate(edge_type[::2])
    ]
    made: dict[str, Nodes] = {}
    for name, table in tables.items():
        ids = _ids_in(table, 0, f"node type {name!r}")
        if ids.is_duplicated().any():
            raise GraphError(
                f"node type {name!r}: id {ids.filter(ids.is_duplicated())[0]!r} occurs several times"
            )
        x = torch.from_numpy(
            table.select(features.get(name, [])).to_numpy().astype(np.float32, copy=True)
        )
        made[name] = Nodes(len(ids), IdMap(ids), x if name in features else None)
    for name in dict.fromkeys(name for _, name, _ in named if name not in tables):
        series = [ids.alias("id") for _, end, ids in named if end == name]
        if len(kinds := {family(ids.dtype) for ids in series if ids.dtype != pl.Null}) > 1:
            raise GraphError(
                f"ids of {name!r} are {' and '.join(sorted(kinds))}; bring them to one type"
            )
        unique = pl.concat([ids.to_frame() for ids in series], how="vertical_relaxed")["id"].unique(
            maintain_order=True
        )
        made[name] = Nodes(len(unique), IdMap(unique))
    index: dict[EdgeType, list[Tensor]] = {edge_type: [] for edge_type in lists}
    for edge_type, name, ids in named:
        known = made[name].ids
        assert known is not None
        found = known.index(ids)
        if (found < 0).any():
            row = int(np.argmax(found < 0))
            raise GraphError(
                f"edges {edge_type}, row {row} (from 0): {ids.name} = {ids[row]!r} is not among the nodes"
            )
        index[edge_type].append(torch.from_numpy(found))
    held = {}
    for edge_type, (source, target) in index.items():
        w, t = (_column(lists[edge_type], name) for name in (weight, time))
        held[edge_type] = make_edges(edge_type, source, target, made, w, t)
    return made, held


def _ids_in(table: pl.DataFrame, column: int, what: str) -> pl.Series:
    """A column of ids, none of which is missing: categories as texts; what holds no rows has no
    type of its own.
    """
    ids = as_series(table.to_series(column), table.columns[column])
    missing = ids.is_null() | (ids.is_nan() if ids.dtype.is_float() else False)
    if missing.any():
        raise GraphError(
            f"{what}, row {missing.arg_max()} (from 0): the id {ids.name} is missing; drop such rows"
        )
    return ids if len(ids) else ids.clear().cast(pl.Null)


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
    separator: str | None,
) -> GraphParts:
    """A graph of users, items and what their side information says of them.

    Edge types: ``("user", "interacts", "item")``, with the times of the interactions; those of
    ``interactions.graph``; and for each column of side information ``("item", "has_<name>",
    "<name>")`` or ``("user", "has_<name>", "<name>")``.

    Args:
        interactions: the log; users and items keep its indices.
        part: the interactions that become edges: ``split.train``, so that nothing of valid and test
            is known. None takes all.
        item_relations, user_relations: the columns; a mapping gives the node type a name
            (``{"genres": "genre"}``). None takes the columns of texts, and of lists of plain
            values, that have at most half as many values as the frame has rows; a column of users
            with the name of a column of items has the node type ``"user_<name>"``.
        separator: between the values of one text; None: a bar where its values come again, else a
            text is one value.
    """
    logs = part if part is not None else interactions.ordered.part
    users, items = interactions.users, interactions.items
    nodes = {"user": Nodes(len(users), users), "item": Nodes(len(items), items)}
    edges = {
        INTERACTS: make_edges(
            INTERACTS, logs.items.rows, logs.items.values, nodes, logs.weights, logs.times
        )
    }
    sides = (
        ("item", items, interactions.columns.item, interactions.item_features, item_relations),
        ("user", users, interactions.columns.user, interactions.user_features, user_relations),
    )
    for role, ids, key, table, wanted in sides:
        for column, name in _relations(table, key, wanted, separator):
            if name in nodes and wanted is None:
                name = f"{role}_{name}"
            if name in nodes:
                raise GraphError(
                    f"{role} relation {column!r}: node type {name!r} exists; name it with a mapping"
                )
            if table is None or column not in table.columns:
                there = listed([] if table is None else table.columns)
                raise GraphError(
                    f"there is no column {column!r} of {role}_features; there are {there or 'none'}"
                )
            pairs = pairs_of(table, key, column, separator)
            index = ids.index(pairs.to_series(0))
            known_mask = index >= 0  # features may speak of ids that are not in the log
            values = pairs.to_series(1).filter(pl.Series(known_mask))
            map_ = IdMap(values.unique(maintain_order=True))
            nodes[name] = Nodes(len(map_), map_)
            ends = torch.from_numpy(index[known_mask]), torch.from_numpy(map_.index(values))
            edge_type: EdgeType = (role, f"has_{name}", name)
            edges[edge_type] = make_edges(edge_type, *ends, nodes)
    if interactions.graph is not None:
        _add_relations(nodes, edges, interactions.graph)
    return nodes, edges


def _relations(
    table: pl.DataFrame | None,
    key: str,
    wanted: Sequence[str] | Mapping[str, str] | None,
    separator: str | None,
) -> Iterable[tuple[str, str]]:
    """The columns of side information that become relations, each with its node type."""
    if wanted is not None:
        return wanted.items() if isinstance(wanted, Mapping) else [(name, name) for name in wanted]
    found = []
    for column, kind in table.schema.items() if table is not None else ():
        of_values = isinstance(kind, pl.List) and not kind.inner.is_nested()
        if table is not None and column != key and (of_values or kind == pl.String):
            values = pairs_of(table, key, column, separator)[column]
            found += [(column, column)] if values.n_unique() * 2 <= table.height else []
    return found


def _add_relations(nodes: dict[str, Nodes], edges: dict[EdgeType, Edges], given: Any) -> None:
    """Add the relations and features of another typed graph, its users and items matched by their
    ids.

    Those that are not here are left out; those that are not there have no edges, and features of
    zeros.
    """
    place: dict[str, Tensor] = {}
    for name, part in given.nodes.items():
        if name in ("user", "item"):
            known = nodes[name].ids
            assert known is not None
            place[name] = torch.from_numpy(known.index(ids_of(part)))
            if part.features is not None:
                nodes[name] = replace(
                    nodes[name], features=_placed(part.features, place[name], len(known))
                )
        elif name in nodes:
            raise GraphError(
                f"node type {name!r} stands in the graph and among the relations of side information"
            )
        else:
            nodes[name] = part
    for edge_type, held in given.edges.items():
        if edge_type == INTERACTS:
            continue  # the log has them, and the split says which may be known
        adj = held.adj
        rows, columns = (
            place[name][index] if name in place else index
            for name, index in ((edge_type[0], adj.rows), (edge_type[2], adj.indices))
        )
        here = (rows >= 0) & (columns >= 0)
        weights, times = (None if x is None else x[here] for x in (adj.weights, held.times))
        edges[edge_type] = make_edges(edge_type, rows[here], columns[here], nodes, weights, times)


def _placed(features: Tensor | Csr, place: Tensor, count: int) -> Tensor | Csr:
    """[count, F]: each row where ``place`` says (-1: left out), zeros elsewhere."""
    if isinstance(features, Csr):
        rows = place[features.rows]
        kept = features.select(rows >= 0)
        return Csr.from_coo(
            rows[rows >= 0], kept.indices, kept.weights, shape=(count, features.shape[1])
        )
    placed = features.new_zeros(count, features.shape[1])
    placed[place[place >= 0]] = features[place >= 0]
    return placed


def to_pyg(
    nodes: Mapping[str, Nodes],
    edges: Mapping[EdgeType, Edges],
    task: NodeTask | None = None,
    homogeneous: bool = False,
) -> Any:
    """A ``HeteroData`` that shares the tensors of a graph, with the labels and masks of a task at
    its target.

    With ``homogeneous`` a ``Data`` instead, of a graph with one type of nodes and one of edges
    (GraphError).
    """
    from torch_geometric.data import Data, HeteroData

    if homogeneous and (len(nodes), len(edges)) != (1, 1):
        raise GraphError(
            "homogeneous = True: a Data holds one type of nodes and one of edges; the graph has more"
        )
    data = Data() if homogeneous else HeteroData()
    for name, own in nodes.items():
        x = csr_tensor(own.features) if isinstance(own.features, Csr) else own.features
        given = {"num_nodes": own.count, "ids": own.ids, "x": x}
        if task is not None and task.target == name:
            given |= task.to_columns("y")
        _fill(data if homogeneous else data[name], given)
    for edge_type, held in edges.items():
        index = torch.stack([held.adj.rows, held.adj.indices])
        given = {"edge_index": index, "edge_weight": held.adj.weights, "time": held.times}
        _fill(data if homogeneous else data[edge_type], given)
    return data


def _fill(store: Any, given: Mapping[str, Any]) -> None:
    for name, values in given.items():
        if values is not None:
            store[name] = values


def stores_of_pyg(data: Any, node_type: str, relation: str) -> Stores:
    """The attributes of a ``HeteroData``, or of a ``Data`` with names for its one type of nodes and
    of edges.
    """
    if not hasattr(data, "node_types"):
        both = data.to_dict()
        of_edges = {name: both.pop(name) for name in _OF_EDGES & both.keys()}
        return {node_type: both}, {(node_type, relation, node_type): of_edges}
    if whole := data.stores[0].to_dict():
        warnings.warn(f"a graph has no place for {', '.join(whole)}", LeftOutWarning, stacklevel=3)
    return (
        {name: data[name].to_dict() for name in data.node_types},
        {edge_type: data[edge_type].to_dict() for edge_type in data.edge_types},
    )


def parts_of(stores: Stores, labels: bool = False) -> GraphParts:
    """A graph of what :func:`to_pyg` writes; an ``edge_attr`` of one column stands for
    ``edge_weight``.

    A type of nodes without features, ids, labels or ``num_nodes`` has as many nodes as its edges
    name. Where the caller reads ``labels`` and masks, no warning names them.
    """
    of_nodes, of_edges = stores
    ends = [
        (name, torch.as_tensor(index))
        for edge_type, store in of_edges.items()
        for name, index in zip(edge_type[::2], store["edge_index"], strict=True)
    ]
    nodes = {}
    for name in dict.fromkeys([*of_nodes, *(name for name, _ in ends)]):
        store = of_nodes.get(name, {})
        ids = next((store[key] for key in _IDS if store.get(key) is not None), None)
        if ids is not None and not isinstance(ids, IdMap):
            ids = IdMap(pl.Series(np.asarray(to_host(ids) if isinstance(ids, Tensor) else ids)))
        x = None if store.get("x") is None else as_features(store["x"])
        sizes = [
            store.get("num_nodes"),
            *(None if v is None else len(v) for v in (ids, store.get("y"))),
        ]
        sizes += [None if x is None else x.shape[0]]
        named = max(
            (int(index.max()) + 1 for of, index in ends if of == name and index.numel()), default=0
        )
        nodes[name] = Nodes(next((size for size in sizes if size is not None), named), ids, x)
    left_out = [
        f"{name}.{key}" for name, store in of_nodes.items() for key in store.keys() - _OF_NODES
    ]
    left_out += [
        f"{'-'.join(of)}.{key}"
        for of, store in of_edges.items()
        for key in store.keys() - _OF_EDGES
    ]
    edges = {}
    for edge_type, store in of_edges.items():
        source, target = (torch.as_tensor(index).long() for index in store["edge_index"])
        weights, attributes = store.get("edge_weight"), store.get("edge_attr")
        if attributes is not None and attributes.numel() != source.numel():
            left_out.append(f"{'-'.join(edge_type)}.edge_attr")
        elif attributes is not None and weights is None:
            weights = attributes.reshape(-1)
        w, t = (
            None if values is None else numbers(values) for values in (weights, store.get("time"))
        )
        edges[edge_type] = make_edges(edge_type, source, target, nodes, w, t)
    if left_out:
        warnings.warn(
            f"a graph has no place for {', '.join(sorted(left_out))}", LeftOutWarning, stacklevel=3
        )
    labelled = [repr(name) for name, store in of_nodes.items() if store.get("y") is not None]
    if labelled and not labels:
        names = ", ".join(labelled)
        how = f"labels of {names} are no part of a graph: run.evaluate(data), or from_pyg_with_task, reads them"
        warnings.warn(how, LeftOutWarning, stacklevel=3)
    return nodes, edges


def task_of(stores: Stores, target: str | None) -> NodeTask:
    """Labels and masks as a task; a GraphError where no type of nodes, or several have labels and
    none is chosen.
    """
    labelled = [
        name
        for name, store in stores[0].items()
        if store.get("y") is not None and target in (None, name)
    ]
    if len(labelled) != 1:
        raise GraphError(
            f"target = {target!r}: labels are there of {', '.join(labelled) or 'no nodes'}"
        )
    return NodeTask.from_columns(labelled[0], stores[0][labelled[0]])


def to_dgl(
    nodes: Mapping[str, Nodes],
    edges: Mapping[EdgeType, Edges],
    device: torch.device,
    task: NodeTask | None = None,
) -> Any:
    """A heterograph that shares the tensors of a graph, with the labels and masks of a task at its
    target.
    """
    pairs = {edge_type: (held.adj.rows, held.adj.indices) for edge_type, held in edges.items()}
    counts = {name: own.count for name, own in nodes.items()}
    made = load_dgl().heterograph(pairs, num_nodes_dict=counts, device=device)
    for name, own in nodes.items():
        x = own.features
        _fill(made.nodes[name].data, {"feat": csr_tensor(x) if isinstance(x, Csr) else x})
    for edge_type, held in edges.items():
        _fill(made.edges[edge_type].data, {"weight": held.adj.weights, "time": held.times})
    made.node_ids = {name: own.ids for name, own in nodes.items() if own.ids is not None}
    if task is not None:
        columns = task.to_columns("label")
        made.node_tasks = {
            task.target: {name: columns.pop(name) for name in LABELS[3:] if name in columns}
        }
        _fill(
            made.nodes[task.target].data,
            {name: values.to(device) for name, values in columns.items()},
        )
    return made


def stores_of_dgl(graph: Any, node_type: str, relation: str) -> Stores:
    """The attributes of what :func:`to_dgl` writes, or of a DGL graph whose data has these
    names.
    """
    names = {name: node_type if name == "_N" else name for name in graph.ntypes}
    ids, tasks = getattr(graph, "node_ids", {}), getattr(graph, "node_tasks", {})
    of_nodes, of_edges = {}, {}
    for of, name in names.items():
        store = {_DGL.get(key, key): values for key, values in graph.nodes[of].data.items()}
        of_nodes[name] = {"num_nodes": graph.num_nodes(of), **store, **tasks.get(of, {})}
        if of in ids:
            of_nodes[name]["ids"] = ids[of]
    for source, name, target in graph.canonical_etypes:
        edge_type = (names[source], relation if name == "_E" else name, names[target])
        store = dict(graph.edges[source, name, target].data)
        if "weight" in store:
            store["edge_weight"] = store.pop("weight").reshape(-1)
        of_edges[edge_type] = {
            "edge_index": graph.edges(etype=(source, name, target), order="eid"),
            **store,
        }
    return of_nodes, of_edges
