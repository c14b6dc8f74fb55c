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
from collections.abc import Mapping, Sequence
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
    array_of,
    as_features,
    check_type,
    make_edges,
)
from recgraph.sparse.csr import Csr, csr_tensor
from recgraph.sparse.spmm import load_dgl

#: the attributes of each type of nodes and of edges, by the names of PyTorch Geometric
Stores = tuple[dict[str, dict[str, Any]], dict[EdgeType, dict[str, Any]]]
#: names under which ids of nodes are found, the first one that is there
_IDS = ("ids", "node_id", "n_id")
_OF_NODES = {"x", "num_nodes", *_IDS, "y", *LABELS}
_OF_EDGES = {"edge_index", "edge_weight", "edge_attr", "time"}
#: the names of nodes' attributes in DGL, where they are others
_DGL = {"feat": "x", "label": "y", "_ID": "ids"}
#: the attributes of a task that DGL cannot hold beside its tensors
_TEXTS = {"split_names", "metapaths"}


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
    frames = {name: from_native(frame) for name, frame in nodes.items()}
    for name in features:
        check_type("node frame", name, frames)
    tables = {edge_type: from_native(frame) for edge_type, frame in edges.items()}
    ends: dict[EdgeType, tuple[pl.Series, pl.Series]] = {}
    ids_of_type: dict[str, list[pl.Series]] = {}
    for edge_type, table in tables.items():
        argument = f"edges {edge_type}"
        sources, targets = _id_column(table, 0, argument), _id_column(table, 1, argument)
        ends[edge_type] = sources, targets
        ids_of_type.setdefault(edge_type[0], []).append(sources)
        ids_of_type.setdefault(edge_type[2], []).append(targets)
    made = {name: _nodes_of_frame(name, table, features) for name, table in frames.items()}
    for name, series in ids_of_type.items():
        if name not in made:
            made[name] = _nodes_of_edges(name, series)
    edges_of_type = {}
    for edge_type, (sources, targets) in ends.items():
        edges_of_type[edge_type] = make_edges(
            edge_type,
            _indices(edge_type, sources, made[edge_type[0]]),
            _indices(edge_type, targets, made[edge_type[2]]),
            nodes=made,
            weights=_number_column(tables[edge_type], weight),
            times=_number_column(tables[edge_type], time),
        )
    return made, edges_of_type


def _id_column(table: pl.DataFrame, column: int, argument: str) -> pl.Series:
    """A column of ids, none of which is missing: categories as texts; what holds no rows has no
    type of its own.
    """
    ids = as_series(table.to_series(column), table.columns[column])
    missing = ids.is_null()
    if ids.dtype.is_float():
        missing |= ids.is_nan()
    if missing.any():
        raise GraphError(
            f"{argument}, row {missing.arg_max()} (from 0): the id {ids.name} is missing; drop such "
            "rows"
        )
    return ids if len(ids) else ids.cast(pl.Null)


def _nodes_of_frame(name: str, table: pl.DataFrame, features: Mapping[str, Sequence[str]]) -> Nodes:
    """The nodes that a frame lists, with those of its columns that are features."""
    ids = _id_column(table, 0, f"node type {name!r}")
    repeated = ids.filter(ids.is_duplicated())
    if len(repeated):
        raise GraphError(f"node type {name!r}: id {repeated[0]!r} occurs several times")
    if name not in features:
        return Nodes(len(ids), IdMap(ids))
    x = table.select(features[name]).to_numpy().astype(np.float32, copy=True)
    return Nodes(len(ids), IdMap(ids), torch.from_numpy(x))


def _nodes_of_edges(name: str, series: Sequence[pl.Series]) -> Nodes:
    """The nodes that columns of edges name, in the order of their first appearance."""
    kinds = {family(ids.dtype) for ids in series} - {family(pl.Null())}
    if len(kinds) > 1:
        raise GraphError(
            f"ids of {name!r} are {' and '.join(sorted(kinds))}; bring them to one type"
        )
    columns = [ids.alias("id").to_frame() for ids in series]
    unique = pl.concat(columns, how="vertical_relaxed")["id"].unique(maintain_order=True)
    return Nodes(len(unique), IdMap(unique))


def _indices(edge_type: EdgeType, ids: pl.Series, nodes: Nodes) -> Tensor:
    """[E] int64: the index of each id, all of which must be among the nodes."""
    assert nodes.ids is not None
    indices = nodes.ids.index(ids)
    unknown_mask = indices < 0
    if unknown_mask.any():
        row = int(np.argmax(unknown_mask))
        raise GraphError(
            f"edges {edge_type}, row {row} (from 0): {ids.name} = {ids[row]!r} is not among the nodes"
        )
    return torch.from_numpy(indices)


def _number_column(table: pl.DataFrame, name: str) -> Tensor | None:
    """[E]: a column behind those of the ids, dates as microseconds; None: it is not there."""
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
    if part is None:
        part = interactions.ordered.part
    users, items = interactions.users, interactions.items
    nodes = {"user": Nodes(len(users), users), "item": Nodes(len(items), items)}
    interacts = make_edges(
        INTERACTS,
        part.items.rows,
        part.items.values,
        nodes=nodes,
        weights=part.weights,
        times=part.times,
    )
    edges = {INTERACTS: interacts}
    columns = interactions.columns
    sides = (
        ("item", columns.item, interactions.item_features, item_relations),
        ("user", columns.user, interactions.user_features, user_relations),
    )
    for role, key, features, wanted in sides:
        table = pl.DataFrame() if features is None else features
        relations: Mapping[str, str]
        if wanted is None:
            relations = _relations(table, key, separator, role, nodes)
        else:
            relations = _chosen_relations(table, wanted, role)
        for column, name in relations.items():
            _add_column(nodes, edges, role, name, pairs_of(table, key, column, separator))
    if interactions.graph is not None:
        _add_graph(nodes, edges, interactions.graph)
    return nodes, edges


def _relations(
    table: pl.DataFrame, key: str, separator: str | None, role: str, nodes: Mapping[str, Nodes]
) -> dict[str, str]:
    """The columns of side information that are relations by default -> their node types."""
    relations = {}
    for column, dtype in table.schema.items():
        if isinstance(dtype, pl.List):
            is_relation = not dtype.inner.is_nested()
        else:
            is_relation = dtype == pl.String
        if column == key or not is_relation:
            continue
        values = pairs_of(table, key, column, separator)[column]
        if values.n_unique() * 2 <= table.height:
            relations[column] = f"{role}_{column}" if column in nodes else column
    return relations


def _chosen_relations(
    table: pl.DataFrame, wanted: Sequence[str] | Mapping[str, str], role: str
) -> Mapping[str, str]:
    """The columns of side information that the caller names -> their node types."""
    relations = wanted if isinstance(wanted, Mapping) else dict(zip(wanted, wanted, strict=True))
    for column in relations:
        if column not in table.columns:
            raise GraphError(
                f"there is no column {column!r} of {role}_features; there are "
                f"{listed(table.columns) or 'none'}"
            )
    return relations


def _add_column(
    nodes: dict[str, Nodes],
    edges: dict[EdgeType, Edges],
    role: str,
    name: str,
    pairs: pl.DataFrame,
) -> None:
    """Add the values of a column of side information, given as pairs of id and value, as a type of
    nodes.
    """
    if name in nodes:
        raise GraphError(
            f"{role} relation {pairs.columns[1]!r}: node type {name!r} exists; name it with a mapping"
        )
    ids = nodes[role].ids
    assert ids is not None
    index = ids.index(pairs.to_series(0))
    known_mask = index >= 0  # features may speak of ids that are not in the log
    values = pairs.to_series(1).filter(pl.Series(known_mask))
    value_ids = IdMap(values.unique(maintain_order=True))
    nodes[name] = Nodes(len(value_ids), value_ids)
    edge_type: EdgeType = (role, f"has_{name}", name)
    source, target = torch.from_numpy(index[known_mask]), torch.from_numpy(value_ids.index(values))
    edges[edge_type] = make_edges(edge_type, source, target, nodes)


def _add_graph(nodes: dict[str, Nodes], edges: dict[EdgeType, Edges], graph: Any) -> None:
    """Add the relations and features of another typed graph, its users and items matched by their
    ids.

    Those that are not here are left out; those that are not there have no edges, and features of
    zeros.
    """
    # node type -> [N_there] int64: the index here of each node there, -1 where it is left out
    places: dict[str, Tensor] = {}
    for name, there in graph.nodes.items():
        if name not in ("user", "item"):
            if name in nodes:
                raise GraphError(
                    f"node type {name!r} stands in the graph and among the relations of side "
                    "information"
                )
            nodes[name] = there
            places[name] = torch.arange(there.count)
            continue
        ids = nodes[name].ids
        assert ids is not None
        places[name] = torch.from_numpy(ids.index(ids_of(there)))
        if there.features is not None:
            features = _moved_rows(there.features, places[name], len(ids))
            nodes[name] = replace(nodes[name], features=features)
    for edge_type, held in graph.edges.items():
        if edge_type == INTERACTS:
            continue  # the log has them, and the split says which may be known
        rows = places[edge_type[0]][held.adj.rows]
        columns = places[edge_type[2]][held.adj.indices]
        keep_mask = (rows >= 0) & (columns >= 0)
        edges[edge_type] = make_edges(
            edge_type,
            rows[keep_mask],
            columns[keep_mask],
            nodes=nodes,
            weights=held.adj.select(keep_mask).weights,
            times=None if held.times is None else held.times[keep_mask],
        )


def _moved_rows(features: Tensor | Csr, place: Tensor, count: int) -> Tensor | Csr:
    """[count, F]: each row where ``place`` says (-1: left out), zeros elsewhere."""
    if isinstance(features, Csr):
        rows = place[features.rows]
        keep_mask = rows >= 0
        kept = features.select(keep_mask)
        shape = (count, features.shape[1])
        return Csr.from_coo(rows[keep_mask], kept.indices, kept.weights, shape=shape)
    moved = features.new_zeros(count, features.shape[1])
    moved[place[place >= 0]] = features[place >= 0]
    return moved


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

    of_nodes: dict[str, dict[str, Any]] = {}
    of_edges: dict[EdgeType, dict[str, Any]] = {}
    for name, part in nodes.items():
        x = _shared_tensor(part.features)
        of_nodes[name] = {"num_nodes": part.count, "ids": part.ids, "x": x}
    if task is not None:
        check_type("node type", task.target, nodes)
        of_nodes[task.target].update(task.to_columns("y"))
    for edge_type, held in edges.items():
        index = torch.stack([held.adj.rows, held.adj.indices])
        columns = {"edge_index": index, "edge_weight": held.adj.weights, "time": held.times}
        of_edges[edge_type] = columns
    if homogeneous:
        if (len(nodes), len(edges)) != (1, 1):
            raise GraphError(
                "homogeneous = True: a Data holds one type of nodes and one of edges; the graph has "
                "more"
            )
        columns = {**next(iter(of_nodes.values())), **next(iter(of_edges.values()))}
        return Data.from_dict(_present(columns))
    data = HeteroData()
    for node_or_edge_type, columns in (*of_nodes.items(), *of_edges.items()):
        data[node_or_edge_type].update(_present(columns))
    return data


def _shared_tensor(features: Tensor | Csr | None) -> Tensor | None:
    """Features as a tensor that shares their memory, sparse where they are."""
    return csr_tensor(features) if isinstance(features, Csr) else features


def _present(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes that have values."""
    return {name: values for name, values in columns.items() if values is not None}


def stores_of_pyg(data: Any, node_type: str, relation: str) -> Stores:
    """The attributes of a ``HeteroData``, or of a ``Data`` with names for its one type of nodes and
    of edges.
    """
    if not hasattr(data, "node_types"):
        of_nodes = _present(data.to_dict())
        of_edges = {name: of_nodes.pop(name) for name in _OF_EDGES & of_nodes.keys()}
        return {node_type: of_nodes}, {(node_type, relation, node_type): of_edges}
    of_graph = data.stores[0].to_dict()
    if of_graph:
        _warn_of(f"a graph has no place for {', '.join(of_graph)}")
    return (
        {name: _present(data[name].to_dict()) for name in data.node_types},
        {edge_type: _present(data[edge_type].to_dict()) for edge_type in data.edge_types},
    )


def _warn_of(message: str) -> None:
    """Warn, at the place that called a method of the graph, of what is left out."""
    warnings.warn(message, LeftOutWarning, stacklevel=4)


def parts_of(stores: Stores, labels: bool = False) -> GraphParts:
    """A graph of what :func:`to_pyg` writes; an ``edge_attr`` of one column stands for
    ``edge_weight``.

    A type of nodes without features, ids, labels or ``num_nodes`` has as many nodes as its edges
    name. Where the caller reads ``labels`` and masks, no warning names them.
    """
    of_nodes, of_edges = stores
    n_named = _named_counts(of_edges)
    nodes: dict[str, Nodes] = {}
    edges: dict[EdgeType, Edges] = {}
    left_out: list[str] = []
    for name in dict.fromkeys([*of_nodes, *n_named]):
        nodes[name], unread = _nodes_of_store(of_nodes.get(name, {}), n_named.get(name, 0))
        left_out += [f"{name}.{attribute}" for attribute in unread]
    for edge_type, store in of_edges.items():
        edges[edge_type], unread = _edges_of_store(edge_type, store, nodes)
        left_out += [f"{'-'.join(edge_type)}.{attribute}" for attribute in unread]
    if left_out:
        _warn_of(f"a graph has no place for {', '.join(sorted(left_out))}")
    labelled = _labelled_types(stores)
    if labelled and not labels:
        _warn_of(
            f"labels of {listed(labelled)} are no part of a graph: run.evaluate(data), or "
            "from_pyg_with_task, reads them"
        )
    return nodes, edges


def _named_counts(of_edges: Mapping[EdgeType, Mapping[str, Any]]) -> dict[str, int]:
    """Node type -> the number of nodes that edges name, the greatest index and one."""
    counts: dict[str, int] = {}
    for edge_type, store in of_edges.items():
        for name, index in zip(edge_type[::2], store["edge_index"], strict=True):
            highest = int(array_of(torch.as_tensor(index)).max(initial=-1))
            counts[name] = max(counts.get(name, 0), highest + 1)
    return counts


def _nodes_of_store(store: Mapping[str, Any], n_named: int) -> tuple[Nodes, set[str]]:
    """The nodes of one type, and the attributes that have no place; edges name ``n_named`` of
    them.
    """
    ids = None
    for name in reversed(_IDS):
        ids = store.get(name, ids)
    if isinstance(ids, Tensor):
        ids = array_of(ids)
    if ids is not None and not isinstance(ids, IdMap):
        ids = IdMap(pl.Series(np.asarray(ids)))
    x = as_features(store["x"]) if "x" in store else None
    count = n_named
    for column in (store.get("x"), store.get("y"), ids):
        if column is not None:
            count = len(column)
    return Nodes(store.get("num_nodes", count), ids, x), store.keys() - _OF_NODES


def _edges_of_store(
    edge_type: EdgeType, store: Mapping[str, Any], nodes: Mapping[str, Nodes]
) -> tuple[Edges, set[str]]:
    """The edges of one type, and the attributes that have no place."""
    source, target = (torch.as_tensor(index).long() for index in store["edge_index"])
    left_out = store.keys() - _OF_EDGES
    weights, attributes = store.get("edge_weight"), store.get("edge_attr")
    if attributes is not None and attributes.numel() != source.numel():
        left_out.add("edge_attr")
    elif attributes is not None and weights is None:
        weights = attributes.reshape(-1)
    times = store.get("time")
    return make_edges(edge_type, source, target, nodes, weights=weights, times=times), left_out


def _labelled_types(stores: Stores) -> list[str]:
    return [name for name, store in stores[0].items() if "y" in store]


def task_of(stores: Stores, target: str | None) -> NodeTask:
    """Labels and masks as a task; a GraphError where no type of nodes, or several have labels and
    none is chosen.
    """
    labelled = [name for name in _labelled_types(stores) if target in (None, name)]
    if len(labelled) != 1:
        raise GraphError(
            f"target = {target!r}: labels are there of {listed(labelled) or 'no nodes'}"
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
    counts = {name: part.count for name, part in nodes.items()}
    graph = load_dgl().heterograph(pairs, num_nodes_dict=counts, device=device)
    for name, part in nodes.items():
        graph.nodes[name].data.update(_present({"feat": _shared_tensor(part.features)}))
    for edge_type, held in edges.items():
        of_edges = {"weight": held.adj.weights, "time": held.times}
        graph.edges[edge_type].data.update(_present(of_edges))
    graph.node_ids = _present({name: part.ids for name, part in nodes.items()})
    if task is not None:
        columns = task.to_columns("label")
        texts = {name: columns.pop(name) for name in _TEXTS & columns.keys()}
        graph.node_tasks = {task.target: texts}
        for name, values in columns.items():
            graph.nodes[task.target].data[name] = values.to(device)
    return graph


def stores_of_dgl(graph: Any, node_type: str, relation: str) -> Stores:
    """The attributes of what :func:`to_dgl` writes, or of a DGL graph whose data has these
    names.
    """
    # what DGL calls the types of a graph with one type of nodes and one of edges
    names = {"_N": node_type, "_E": relation}
    ids, tasks = getattr(graph, "node_ids", {}), getattr(graph, "node_tasks", {})
    of_nodes: dict[str, dict[str, Any]] = {}
    of_edges: dict[EdgeType, dict[str, Any]] = {}
    for name in graph.ntypes:
        store = {_DGL.get(key, key): values for key, values in graph.nodes[name].data.items()}
        store = {"num_nodes": graph.num_nodes(name), **store, **tasks.get(name, {})}
        store["ids"] = ids.get(name, store.get("ids"))
        of_nodes[names.get(name, name)] = _present(store)
    for canonical in graph.canonical_etypes:
        store = dict(graph.edges[canonical].data)
        if "weight" in store:
            store["edge_weight"] = store.pop("weight").reshape(-1)
        store["edge_index"] = graph.edges(etype=canonical, order="eid")
        source, name, target = (names.get(part, part) for part in canonical)
        of_edges[source, name, target] = store
    return of_nodes, of_edges
