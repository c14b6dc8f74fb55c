"""From the card of a graph and the user's folder to a typed graph and its task, all checked."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import scipy.sparse as sp
import torch

from recgraph.data.catalog.cards import EdgeFile, GraphCard, GraphInteractions, NodeLabels
from recgraph.data.catalog.logs import CountError, SourceError, UnavailableError, check_hash
from recgraph.data.errors import CorruptFileError
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


@dataclass(frozen=True)
class PreparedGraph:
    """What a card describes.

    Attributes:
        graph: of a recommendation task all but the interactions, whose training part alone may become edges.
        task: of a node task, else None.
        interactions: of a recommendation task, else None.
    """

    graph: HeteroGraph
    task: NodeTask | None
    interactions: Interactions | None

    @property
    def counts(self) -> dict[str, int]:
        """Nodes of each type, edges and, of a recommendation task, interactions."""
        counts = {name: self.graph.count(name) for name in self.graph.node_types}
        counts["edges"] = sum(edges.adj.nnz for edges in self.graph.edges.values())
        return counts if self.interactions is None else counts | {"interactions": len(self.interactions)}

    def save(self, folder: Path) -> None:
        """Write the task, the interactions and, into the sub-folder ``graph``, the graph."""
        if self.task is not None:
            self.task.save(folder)
        if self.interactions is not None:
            replace(self.interactions, graph=self.graph).save(folder)
        else:
            self.graph.save(folder / "graph")


def prepare_graph(card: GraphCard, given: Path | None, name: str) -> PreparedGraph:
    """Read a folder of published files: ``given``, or the one in it that is called as the card says.

    ``name`` is that of the data set, or the path of its card.
    """
    if given is None:
        known = "; ".join(source.note or source.folder for source in card.sources)
        raise UnavailableError(
            f"dataset {card.name!r} has no address ({known}). If you have its files, run: "
            f"recgraph data get {shlex.quote(name)} --from FOLDER"
        )
    if not given.is_dir():
        raise ValueError(f"--from {str(given)!r} is not a folder; dataset {card.name!r} is a folder of files")
    folder = _folder(card, given)
    for name, sha256 in card.files.items():
        if not (folder / name).is_file():
            raise SourceError(f"{str(folder)!r} has no file {name!r} of dataset {card.name!r}")
        check_hash(folder / name, sha256, str(folder / name))
    if card.labels is not None:
        prepared = PreparedGraph(_indexed_graph(card, folder), _node_task(card, card.labels, folder), None)
        return prepared if card.permutation is None else _permuted(prepared, card.permutation)
    assert card.interactions is not None
    interactions = _interactions(card, card.interactions, folder)
    return PreparedGraph(_id_graph(card, folder, interactions), None, interactions)


def _folder(card: GraphCard, given: Path) -> Path:
    places = [given, *(given / source.folder for source in card.sources)]
    return next((place for place in places if all((place / name).is_file() for name in card.files)), given)


def _permuted(prepared: PreparedGraph, seed: int) -> PreparedGraph:
    """With the nodes of each type in a random order: features, edges, labels and splits alike."""
    graph, task = prepared.graph, prepared.task
    assert task is not None
    draw = Generators(seed)
    orders = {
        name: torch.randperm(graph.count(name), generator=draw.fresh("order of nodes", name))
        for name in graph.node_types
    }
    return PreparedGraph(graph.permuted(orders), task.permuted(orders[task.target]), None)


def _array(path: Path) -> npt.NDArray[Any]:
    with reading(path):
        made: npt.NDArray[Any] = np.load(path, allow_pickle=False)
        return made


def _matrix(path: Path) -> Any:
    """A scipy sparse matrix of a ``.npz`` file, or the array of a ``.npy`` file, whatever it is called."""
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    with reading(path):
        return sp.load_npz(path) if is_zip else np.load(path, allow_pickle=False)


def _pairs(path: Path) -> Pairs:
    # spaces and tabs, in one published file even both
    try:
        return np.loadtxt(path, dtype=np.int64, usecols=(0, 1), ndmin=2)
    except ValueError as error:
        raise CorruptFileError(f"a line does not begin with two integers: {error}", path=path) from None


def _counted(card: GraphCard, edge: EdgeFile, folder: Path) -> Pairs:
    pairs = _pairs(folder / edge.file)
    _expect(card, f"lines of {edge.file}", edge.count, len(pairs))
    return pairs


def _expect(card: GraphCard, what: str, wanted: int, got: int) -> None:
    if wanted != got:
        raise CountError(
            f"dataset {card.name!r} is not what its card expects: {what}: expected {wanted:,}, got {got:,}"
        )


def _indexed_graph(card: GraphCard, folder: Path) -> HeteroGraph:
    """Files that hold indices."""
    counts = {name: node.count for name, node in card.nodes.items()}
    features = {
        name: _features(folder / node.features, node.normalise)
        for name, node in card.nodes.items()
        if node.features is not None
    }
    edges = {edge.type: _counted(card, edge, folder) for edge in card.edges}
    made = HeteroGraph.from_edge_lists(counts, edges)
    # not by from_edge_lists, which would copy the features once more
    nodes = {name: replace(own, features=features.get(name)) for name, own in made.nodes.items()}
    return HeteroGraph(nodes, made.edges)


def _features(path: Path, divide: bool) -> torch.Tensor | Csr:
    # some published .npz files are plain arrays
    values = as_features(_matrix(path))
    if divide:
        values = row_shares(values, f"features of {path}", "set normalise = false in the card's entry of these nodes")
    return values.to(dtype=torch.float32)


def _node_task(card: GraphCard, task: NodeLabels, folder: Path) -> NodeTask:
    labels = _array(folder / task.file)
    _expect(card, "labels", card.nodes[task.target].count, len(labels))
    # -1 as in a NodeTask: the class is not known; texts are all classes
    known_mask = ~(np.isnan(labels) | (labels == -1)) if labels.dtype.kind in "if" else np.ones(len(labels), bool)
    classes, numbers = np.unique(labels[known_mask], return_inverse=True)
    _expect(card, "classes", task.classes, len(classes))
    codes = np.full(len(labels), -1, dtype=np.int64)
    codes[known_mask] = numbers
    splits = {}
    for name, parts in task.splits.items():
        splits[name] = NodeSplit(*(torch.from_numpy(_array(folder / part)) for part in parts))
    return NodeTask(task.target, torch.from_numpy(codes), splits, task.paths)


def _interactions(card: GraphCard, task: GraphInteractions, folder: Path) -> Interactions:
    pairs = _pairs(folder / task.file)
    log = pl.DataFrame({"user_id": pairs[:, 0], "item_id": pairs[:, 1]})
    data = Interactions.from_frame(log, user="user_id", item="item_id")
    for what, wanted, got in (
        ("users", card.nodes["user"].count, data.n_users),
        ("items", card.nodes["item"].count, data.n_items),
        ("interactions", task.interactions, len(data)),
    ):
        _expect(card, what, wanted, got)
    return data


def _id_graph(card: GraphCard, folder: Path, interactions: Interactions) -> HeteroGraph:
    """Files that hold ids; users and items are numbered as in the interactions, and only those are nodes."""
    lists = {edge.type: _counted(card, edge, folder) for edge in card.edges}
    ids = {"user": interactions.users, "item": interactions.items}
    for name in card.nodes:
        if name not in ids:
            ends = [
                pairs[:, place]
                for edge_type, pairs in lists.items()
                for place, end in ((0, edge_type[0]), (1, edge_type[2]))
                if end == name
            ]
            ids[name] = IdMap(pl.Series(np.unique(np.concatenate(ends))))
            _expect(card, name, card.nodes[name].count, len(ids[name]))
    edges = {edge_type: _edges(edge_type, pairs, ids) for edge_type, pairs in lists.items()}
    return HeteroGraph({name: Nodes(len(ids[name]), ids[name]) for name in card.nodes}, edges)


def _edges(edge_type: EdgeType, pairs: Pairs, ids: dict[str, IdMap]) -> Any:
    source, target = ids[edge_type[0]].index(pairs[:, 0]), ids[edge_type[2]].index(pairs[:, 1])
    known = (source >= 0) & (target >= 0)
    counts = (len(ids[edge_type[0]]), len(ids[edge_type[2]]))
    return make_edges(edge_type, torch.from_numpy(source[known]), torch.from_numpy(target[known]), counts)
