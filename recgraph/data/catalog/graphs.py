"""From the card of a graph and the user's folder to a typed graph and its task, all checked."""

from __future__ import annotations

import shlex
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import scipy.sparse as sp
import torch

from recgraph.data.catalog.cards import GraphCard, NodeLabels
from recgraph.data.catalog.logs import (
    SourceError,
    UnavailableError,
    check_counts,
    check_hash,
    counts_of,
)
from recgraph.data.ids import IdMap
from recgraph.data.split import Interactions
from recgraph.files import reading
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.node_task import NodeSplit, NodeTask
from recgraph.graph.schema import EdgeType, Nodes, as_features, make_edges
from recgraph.rng import Generators
from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import row_shares

Pairs = npt.NDArray[np.int64]


def prepare_graph(
    card: GraphCard, given: Path | None, name: str
) -> tuple[HeteroGraph, NodeTask | None, Interactions | None]:
    """Read a folder of published files, or the one in it that is called as the card says -> the
    graph, and its task on nodes, or the interactions of a recommendation task, whose training part
    alone may become edges; ``name`` is that of the data set, or the path of its card."""
    folder = _checked_folder(card, given, name)
    lists = {edge.type: _pairs(folder / edge.file) for edge in card.edges}
    n_lines = {f"lines of {edge.file}": len(lists[edge.type]) for edge in card.edges}
    check_counts(card, {f"lines of {edge.file}": edge.count for edge in card.edges}, n_lines)
    if card.interactions is not None:
        pairs = _pairs(folder / card.interactions.file)
        log = pl.DataFrame({"user_id": pairs[:, 0], "item_id": pairs[:, 1]})
        data = Interactions.from_frame(log, user="user_id", item="item_id")
        check_counts(card, card.sizes, counts_of(data))
        return _graph_of_ids(card, lists, data), None, data
    assert card.labels is not None
    graph, task = _graph_of_nodes(card, lists, folder), _node_task(card, card.labels, folder)
    if card.permutation is not None:
        # the nodes of each type in a random order: features, edges, labels and splits
        generators = Generators(card.permutation)
        orders = {}
        for node_type in graph.node_types:
            drawn = generators.fresh("order of nodes", node_type)
            orders[node_type] = torch.randperm(graph.count(node_type), generator=drawn)
        graph, task = graph.permuted(orders), task.permuted(orders[task.target])
    return graph, task, None


def _checked_folder(card: GraphCard, given: Path | None, name: str) -> Path:
    """The folder that holds the published files: the given one, or one in it."""
    if given is None:
        known = "; ".join(source.note or source.folder for source in card.sources)
        command = f"recgraph data get {shlex.quote(name)} --from FOLDER"
        raise UnavailableError(
            f"dataset {card.name!r} has no address ({known}). If you have its files, run: {command}"
        )
    folder = given
    for source in card.sources:
        if (given / source.folder).is_dir():
            folder = given / source.folder
    for file, sha256 in card.files.items():
        if not (folder / file).is_file():
            raise SourceError(
                f"{str(folder)!r} is no folder with the file {file!r} of dataset {card.name!r}"
            )
        check_hash(folder / file, sha256, str(folder / file))
    return folder


def _graph_of_nodes(card: GraphCard, lists: dict[EdgeType, Pairs], folder: Path) -> HeteroGraph:
    """Nodes by their indices in the files."""
    counts = {name: node.count for name, node in card.nodes.items()}
    graph = HeteroGraph.from_edge_lists(counts, lists)
    nodes = dict(graph.nodes)
    for name, node in card.nodes.items():
        if node.features is not None:
            # not by from_edge_lists, which would copy the features once more
            features = _features(folder / node.features, node.normalise)
            nodes[name] = replace(nodes[name], features=features)
    return HeteroGraph(nodes, graph.edges)


def _pairs(path: Path) -> Pairs:
    # spaces and tabs, in one published file even both
    with reading(path):
        return np.loadtxt(path, dtype=np.int64, usecols=(0, 1), ndmin=2)


def _array(path: Path) -> npt.NDArray[Any]:
    with reading(path):
        array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
        return array


def _features(path: Path, divide: bool) -> torch.Tensor | Csr:
    with path.open("rb") as file:  # some published .npz files are plain arrays
        is_zip = file.read(2) == b"PK"
    with reading(path):
        values = as_features(sp.load_npz(path) if is_zip else np.load(path, allow_pickle=False))
    if divide:
        values = row_shares(
            values,
            f"features of {path}",
            "set normalise = false in the card's entry of these nodes",
        )
    return values.to(dtype=torch.get_default_dtype())


def _node_task(card: GraphCard, task: NodeLabels, folder: Path) -> NodeTask:
    labels = _array(folder / task.file)
    known_mask = np.ones(len(labels), bool)
    if labels.dtype.kind in "if":  # -1 as in a NodeTask: the class is not known
        known_mask = ~(np.isnan(labels) | (labels == -1))
    classes, numbers = np.unique(labels[known_mask], return_inverse=True)
    expected = {"labels": card.nodes[task.target].count, "classes": task.classes}
    check_counts(card, expected, {"labels": len(labels), "classes": len(classes)})
    codes = np.full(len(labels), -1, dtype=np.int64)
    codes[known_mask] = numbers
    splits = {}
    for name, parts in task.splits.items():
        splits[name] = NodeSplit(*(torch.from_numpy(_array(folder / part)) for part in parts))
    return NodeTask(task.target, torch.from_numpy(codes), splits, task.paths)


def _graph_of_ids(
    card: GraphCard, lists: dict[EdgeType, Pairs], interactions: Interactions
) -> HeteroGraph:
    """Users and items are numbered as in the interactions, and only those are nodes."""
    ids = {"user": interactions.users, "item": interactions.items}
    ends: dict[str, list[Pairs]] = defaultdict(list)
    for edge_type, pairs in lists.items():
        ends[edge_type[0]].append(pairs[:, 0])
        ends[edge_type[2]].append(pairs[:, 1])
    for name in card.nodes.keys() - ids.keys():
        ids[name] = IdMap(pl.Series(np.unique(np.concatenate(ends[name]))))
    counts = {name: card.nodes[name].count for name in ids}
    check_counts(card, counts, {name: len(values) for name, values in ids.items()})
    nodes = {name: Nodes(len(ids[name]), ids[name]) for name in card.nodes}
    edges = {}
    for edge_type, pairs in lists.items():
        source, target = ids[edge_type[0]].index(pairs[:, 0]), ids[edge_type[2]].index(pairs[:, 1])
        known = (source >= 0) & (target >= 0)
        rows, columns = torch.from_numpy(source[known]), torch.from_numpy(target[known])
        edges[edge_type] = make_edges(edge_type, rows, columns, nodes)
    return HeteroGraph(nodes, edges)
