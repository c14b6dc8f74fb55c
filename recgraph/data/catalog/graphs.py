"""From the card of a graph and the user's folder to a typed graph and its task, all checked."""

from __future__ import annotations

import shlex
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
    if given is None:
        known = "; ".join(source.note or source.folder for source in card.sources)
        command = f"recgraph data get {shlex.quote(name)} --from FOLDER"
        raise UnavailableError(
            f"dataset {card.name!r} has no address ({known}). If you have its files, run: {command}"
        )
    places = [given, *(given / source.folder for source in card.sources)]
    folder = next(
        (place for place in places if all((place / file).is_file() for file in card.files)), given
    )
    for file, sha256 in card.files.items():
        if not (folder / file).is_file():
            raise SourceError(
                f"{str(folder)!r} is no folder with the file {file!r} of dataset {card.name!r}"
            )
        check_hash(folder / file, sha256, str(folder / file))
    lists = {edge.type: _pairs(folder / edge.file) for edge in card.edges}
    check_counts(
        card, {f"lines of {edge.file}": (edge.count, len(lists[edge.type])) for edge in card.edges}
    )
    if card.interactions is not None:
        pairs = _pairs(folder / card.interactions.file)
        log = pl.DataFrame({"user_id": pairs[:, 0], "item_id": pairs[:, 1]})
        data = Interactions.from_frame(log, user="user_id", item="item_id")
        got = counts_of(data)
        check_counts(card, {what: (wanted, got[what]) for what, wanted in card.sizes.items()})
        return _graph_of_ids(card, lists, data), None, data
    assert card.labels is not None
    graph = HeteroGraph.from_edge_lists(
        {each: node.count for each, node in card.nodes.items()}, lists
    )
    nodes = dict(graph.nodes)
    for each, node in card.nodes.items():
        if (
            node.features is not None
        ):  # not by from_edge_lists, which would copy the features once more
            nodes[each] = replace(
                nodes[each], features=_features(folder / node.features, node.normalise)
            )
    graph, task = HeteroGraph(nodes, graph.edges), _node_task(card, card.labels, folder)
    if (
        card.permutation is not None
    ):  # the nodes of each type in a random order: features, edges, labels and splits
        draw, sizes = (
            Generators(card.permutation),
            {each: graph.count(each) for each in graph.node_types},
        )
        orders = {
            each: torch.randperm(n, generator=draw.fresh("order of nodes", each))
            for each, n in sizes.items()
        }
        graph, task = graph.permuted(orders), task.permuted(orders[task.target])
    return graph, task, None


def _pairs(path: Path) -> Pairs:
    # spaces and tabs, in one published file even both
    with reading(path):
        return np.loadtxt(path, dtype=np.int64, usecols=(0, 1), ndmin=2)


def _array(path: Path) -> npt.NDArray[Any]:
    with reading(path):
        made: npt.NDArray[Any] = np.load(path, allow_pickle=False)
        return made


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
    # -1 as in a NodeTask: the class is not known; texts are all classes
    known_mask = (
        ~(np.isnan(labels) | (labels == -1))
        if labels.dtype.kind in "if"
        else np.ones(len(labels), bool)
    )
    classes, numbers = np.unique(labels[known_mask], return_inverse=True)
    counts = {
        "labels": (card.nodes[task.target].count, len(labels)),
        "classes": (task.classes, len(classes)),
    }
    check_counts(card, counts)
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
    for name in card.nodes:
        if name not in ids:
            ends = [
                pairs[:, place // 2]
                for of, pairs in lists.items()
                for place in (0, 2)
                if of[place] == name
            ]
            ids[name] = IdMap(pl.Series(np.unique(np.concatenate(ends))))
    check_counts(card, {name: (card.nodes[name].count, len(own)) for name, own in ids.items()})
    nodes = {name: Nodes(len(ids[name]), ids[name]) for name in card.nodes}
    edges = {}
    for edge_type, pairs in lists.items():
        source, target = ids[edge_type[0]].index(pairs[:, 0]), ids[edge_type[2]].index(pairs[:, 1])
        known = (source >= 0) & (target >= 0)
        rows, columns = torch.from_numpy(source[known]), torch.from_numpy(target[known])
        edges[edge_type] = make_edges(edge_type, rows, columns, nodes)
    return HeteroGraph(nodes, edges)
