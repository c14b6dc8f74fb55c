"""From a graph's card and the user's folder to a typed graph and its task, all checked.

Data sets that are graphs: get them ready from the user's folder, and load them.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl
import scipy.sparse as sp
import torch

from recgraph.data.catalog.cards import EdgeFile, GraphCard, NodeTaskFiles, RecommendationFiles, find_graph_card
from recgraph.data.catalog.prepare import CountError
from recgraph.data.catalog.sources import SourceError, check_hash, home
from recgraph.data.errors import CorruptFileError
from recgraph.data.files import make_folder, replace_folder
from recgraph.data.ids import IdMap
from recgraph.data.interactions import Interactions
from recgraph.graph.build import as_features, make_edges
from recgraph.graph.hetero import EdgeType, HeteroGraph, Nodes
from recgraph.graph.node_task import NodeSplit, NodeTask
from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import row_shares

if TYPE_CHECKING:
    from recgraph.data.split import Split
    from recgraph.graph.node_task import NodeTask

__all__ = [
    "RECORD",
    "Prepared",
    "PreparedGraph",
    "folder_of",
    "get",
    "load_graph",
    "load_node_task",
    "load_split",
    "prepare_graph",
]


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


def prepare_graph(card: GraphCard, given: Path) -> PreparedGraph:
    """Read a folder of published files.

    Args:
        given: the folder itself, or the one in which it lies under the name that the card says.

    Raises:
        SourceError: a file is not there.
        HashMismatchError: a file is not the published one.
        CountError: there are more or fewer nodes, edges, classes or interactions than the card expects.
    """
    folder = _folder(card, given)
    for name, sha256 in card.files.items():
        if not (folder / name).is_file():
            raise SourceError(f"{str(folder)!r} has no file {name!r} of dataset {card.name!r}")
        check_hash(folder / name, sha256, str(folder / name))
    if isinstance(card.task, NodeTaskFiles):
        return PreparedGraph(_indexed_graph(card, folder), _node_task(card, card.task, folder), None)
    interactions = _interactions(card, card.task, folder)
    return PreparedGraph(_id_graph(card, folder, interactions), None, interactions)


def _folder(card: GraphCard, given: Path) -> Path:
    places = [given, *(given / source.folder for source in card.sources)]
    found = next((place for place in places if all((place / name).is_file() for name in card.files)), None)
    if found is not None:
        return found
    return next((place for place in places[1:] if place.is_dir()), given)


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
    return HeteroGraph.from_edge_lists(counts, edges, features)


def _features(path: Path, divide: bool) -> torch.Tensor | Csr:
    # some published .npz files are plain arrays
    raw: Any = np.load(path)
    values = as_features(raw if isinstance(raw, np.ndarray) else sp.load_npz(path))
    if divide:
        values = row_shares(values, f"features of {path}", "set normalise = false in the card's entry of these nodes")
    return values.to(dtype=torch.float32)


def _node_task(card: GraphCard, task: NodeTaskFiles, folder: Path) -> NodeTask:
    labels = np.load(folder / task.labels)
    _expect(card, "labels", card.nodes[task.target].count, len(labels))
    classes, codes = np.unique(labels, return_inverse=True)
    _expect(card, "classes", task.classes, len(classes))
    splits = {
        name: NodeSplit(*(torch.from_numpy(np.load(folder / part).astype(np.int64)) for part in parts))
        for name, parts in task.splits.items()
    }
    return NodeTask(task.target, torch.from_numpy(codes.astype(np.int64)), splits, task.paths)


def _interactions(card: GraphCard, task: RecommendationFiles, folder: Path) -> Interactions:
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


#: the file whose presence says that a folder is complete
RECORD = "prepared.json"


@dataclass(frozen=True)
class Prepared:
    """A graph that lies ready.

    Attributes:
        path: its folder; :meth:`Interactions.load` reads it too where the task is recommendation.
        card: what it is.
        counts: what there is of each type.
        acknowledgement: what a user is asked to state; show it.
        source: where it came from, in words.
        cached: whether it lay there before.
    """

    path: Path
    card: GraphCard
    counts: dict[str, int]
    acknowledgement: str
    source: str
    cached: bool


def folder_of(card: GraphCard) -> Path:
    """Where a prepared graph lies."""
    return home() / "data" / card.name / card.hash[:16]


def get(card: GraphCard, from_path: str | Path | None = None) -> Prepared:
    """Check and prepare the files of a folder, unless that has been done.

    Args:
        from_path: the folder that the user has.

    Raises:
        UnavailableError: no folder is given and nothing is prepared.
        SourceError, HashMismatchError, CountError: see :func:`recgraph.data.catalog.graphs.prepare_graph`.
    """
    from recgraph.data.catalog.prepare import UnavailableError

    folder = folder_of(card)
    if from_path is None:
        if (folder / RECORD).is_file():
            return _read(folder, card, cached=True)
        known = "; ".join(source.note or source.folder for source in card.sources)
        raise UnavailableError(
            f"dataset {card.name!r} has no address ({known}). If you have its files, run: "
            f"recgraph data get {card.name} --from FOLDER"
        )
    given = Path(from_path)
    if not given.is_dir():
        raise ValueError(f"--from {str(given)!r} is not a folder; dataset {card.name!r} is a folder of files")
    _place(prepare_graph(card, given), card, str(given), folder)
    return _read(folder, card, cached=False)


def _read(folder: Path, card: GraphCard, *, cached: bool) -> Prepared:
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return Prepared(folder, card, record["counts"], card.acknowledgement, record["source"], cached)


def _place(made: PreparedGraph, card: GraphCard, source: str, folder: Path) -> None:
    """Write a folder under a temporary name, then move it to its place: it is there whole or not at all."""
    make_folder(folder.parent)
    counts = {name: made.graph.count(name) for name in made.graph.node_types}
    counts |= {"edges": sum(edges.adj.nnz for edges in made.graph.edges.values())}
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        new = Path(scratch) / "new"
        if made.task is not None:
            made.task.save(new)
        if made.interactions is not None:
            made.interactions.save(new)
            counts["interactions"] = len(made.interactions)
        made.graph.save(new / "graph")  # after the interactions, which leave no graph there that is not theirs
        (new / RECORD).write_text(json.dumps({"counts": counts, "source": source}), encoding="utf-8")
        replace_folder(new, folder, Path(scratch) / "old")  # an earlier one leaves whole, ours comes whole


def _card(name: str) -> GraphCard:
    card = find_graph_card(name)
    if card is None:
        raise ValueError(f"dataset {name!r} is a log, not a graph; HeteroGraph.from_interactions makes one of it")
    return card


def load_graph(name: str) -> HeteroGraph:
    """The typed graph of a data set; for recommendation the relations beside the interactions.

    ``HeteroGraph.from_interactions(split.interactions, split.train)`` is the whole of the latter, with the interactions
    that may be known.

    Raises:
        ValueError: the data set is a log.
        UnavailableError: it is not prepared (see :func:`get`).
    """
    return HeteroGraph.load(get(_card(name)).path / "graph")


def load_node_task(name: str) -> NodeTask:
    """Labels and splits of a data set with a node task.

    Raises:
        ValueError: it has none.
        UnavailableError: it is not prepared.
    """
    from recgraph.graph.node_task import NodeTask

    card = _card(name)
    if isinstance(card.task, RecommendationFiles):
        raise ValueError(f"dataset {name!r} is for recommendation; it has no classes of nodes")
    return NodeTask.load(get(card).path)


def load_split(name: str) -> Split:
    """The split that the card of a recommendation graph says.

    Raises:
        ValueError: the data set has a node task.
        UnavailableError: it is not prepared.
    """
    from recgraph.data.interactions import Interactions

    card = _card(name)
    if not isinstance(card.task, RecommendationFiles):
        raise ValueError(f"dataset {name!r} has classes of nodes, no interactions; see load_node_task")
    return Interactions.load(get(card).path).split(**card.task.split)
