"""Data sets that are graphs: get them ready from the user's folder, and load them."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recgraph.data.files import make_folder, replace_folder
from recgraph.data.graph_card import GraphCard, RecommendationFiles, find_graph_card
from recgraph.data.hetero import HeteroGraph

if TYPE_CHECKING:
    from recgraph.data.graph_prepare import PreparedGraph
    from recgraph.data.hetero.node_task import NodeTask
    from recgraph.data.split import Split

__all__ = ["RECORD", "Prepared", "folder_of", "get", "load_graph", "load_node_task", "load_split"]

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
    from recgraph.data.catalog import home

    return home() / "data" / card.name / card.hash[:16]


def get(card: GraphCard, from_path: str | Path | None = None) -> Prepared:
    """Check and prepare the files of a folder, unless that has been done.

    Args:
        from_path: the folder that the user has.

    Raises:
        UnavailableError: no folder is given and nothing is prepared.
        SourceError, HashMismatchError, CountError: see :func:`recgraph.data.graph_prepare.prepare_graph`.
    """
    from recgraph.data.graph_prepare import prepare_graph
    from recgraph.data.prepare import UnavailableError

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
    from recgraph.data.hetero.node_task import NodeTask

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
