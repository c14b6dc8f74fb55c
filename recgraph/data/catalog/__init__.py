"""The data sets that have a card: list them, get them, load them.

Prepared data lies under the user's cache folder (``RECGRAPH_HOME``), in one folder for each version of a card, so that
a changed card is prepared anew.
"""

from __future__ import annotations

import logging
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recgraph.arguments import checked
from recgraph.config import ConfigError
from recgraph.data.catalog.cards import AnyCard, Card, FileCard, GraphCard, card_files, find_card
from recgraph.data.log_file import LogFile, is_data_path
from recgraph.data.reading import Reading

if TYPE_CHECKING:
    from recgraph.data.catalog.graphs import PreparedGraph
    from recgraph.data.interactions import Interactions
    from recgraph.data.split import Split
    from recgraph.graph.hetero import HeteroGraph
    from recgraph.graph.node_task import NodeTask

__all__ = [
    "Prepared",
    "default_strategy",
    "get",
    "home",
    "info",
    "load_dataset",
    "load_graph",
    "load_node_task",
    "load_split",
    "names",
    "rows",
]

_log = logging.getLogger(__name__)
#: the file whose presence says that a folder is complete
_RECORD = "prepared.json"


@dataclass(frozen=True)
class Prepared:
    """A data set that lies ready.

    Attributes:
        path: its folder; :meth:`Interactions.load` reads it where the task is recommendation.
        card: its card.
        counts: its sizes by name: users, items and interactions of a log; nodes of each type and edges of a graph.
        source: where it came from, in words.
        cached: whether it lay there before.
        files: the user's own files that it was prepared from, where they may change, as
            :meth:`recgraph.data.log_file.LogFile.fingerprint` has them.
    """

    path: Path
    card: AnyCard
    counts: dict[str, int]
    source: str
    cached: bool
    files: tuple[dict[str, Any], ...] = ()

    @property
    def acknowledgement(self) -> str:
        """What the licence asks a user to state; show it."""
        return self.card.acknowledgement


def home() -> Path:
    """The library's cache folder: ``RECGRAPH_HOME``, or the platform's folder for caches of users."""
    own = os.environ.get("RECGRAPH_HOME", "").strip()
    if own:
        return Path(own).expanduser()
    import pooch

    return Path(pooch.os_cache("recgraph"))


def names() -> list[str]:
    """The names of all cards."""
    return list(card_files())


def rows() -> list[dict[str, Any]]:
    """One row a card, for a table: its counts, kinds of sources, and whether it is prepared.

    A card that cannot be read has its error in ``title``; it does not hide the others.
    """
    table = []
    for name, path in card_files().items():
        row: dict[str, Any] = {"name": name, "title": "", "users": None, "items": None, "interactions": None}
        row |= {"sources": [], "prepared": False}
        try:
            card = Card.load(path)
        except ConfigError as error:
            row["title"] = f"error: {error}"
        else:
            row |= {"title": card.title, "sources": card.kinds, **card.sizes}
            row["prepared"] = _is_prepared(card)
        table.append(row)
    return table


def info(name: str) -> dict[str, Any]:
    """All that a card says, where it was found, and where the prepared data lies (None: not prepared).

    Raises:
        UnknownDatasetError: no such card.
    """
    card = find_card(name)
    path = name if name.endswith(".toml") else card_files().get(name)
    prepared = str(_folder(card)) if _is_prepared(card) else None
    values = card.model_dump(mode="json", exclude_none=True)
    return values | {"card": None if path is None else str(path), "hash": card.hash, "prepared": prepared}


@checked
def get(name: str, from_path: str | Path | None = None, source: str | None = None) -> Prepared:
    """Fetch, check and prepare a data set, unless that has been done.

    Args:
        name: of a card, or the path of a card's ``.toml`` file. Where files of the user's own, which no hash pins, have
            changed since they were prepared, they are prepared again.
        from_path: a file that the user has, in the published format (of a graph: a folder of files); nothing is
            downloaded then. It takes the place of a file that a card names (``[data]``) this one time: once that is
            asked for again, its own file is read, if it is there.
        source: only sources of this kind (``"url"``, ``"wheel"``, ...); by default all in the card's order.

    Raises:
        UnknownDatasetError: no such card.
        UnavailableError: no source gives the data; lists each with its reason.
        SourceError: a file is missing in the given folder.
        HashMismatchError: a file is not the published one.
        CountError: what comes out is not what the card expects.
        ValueError: the path of files without a card.
        FileNotFoundError: the files of a card of the user's own are not there.
    """
    from recgraph.data.catalog.own import is_changed
    from recgraph.files import sweep

    if name not in card_files() and is_data_path(name):
        path = shlex.quote(name)
        raise ValueError(
            f"{name!r} is a file of your own, which is read as it is (recgraph train MODEL --data {path}); to have it "
            f"prepared, write a card: recgraph data init {path}"
        )
    card = find_card(name)
    if source not in (None, *card.kinds):
        kinds = ", ".join(dict.fromkeys(card.kinds))
        raise ValueError(f"source = {source!r}: the card {card.name!r} has sources of kind {kinds}")
    given = None if from_path is None else Path(from_path)
    if _is_prepared(card) and given is None and (source is None or isinstance(card, GraphCard)):
        there = _read(card, cached=True)
        form = card.data.format if isinstance(card, FileCard) else None
        if isinstance(card, FileCard):
            if card.log_file.is_there and there.source != card.log_file.path:  # which was given for that one time
                _log.warning("dataset %s: %s took the place of its file, which is read now", card.name, there.source)
                return _prepare(card, None, source, name)
            for stamp in there.files:  # a user's own files must be there, for a copy of what is gone is stale
                LogFile(stamp["path"], Reading(format=form)).stamp()
        if not is_changed(there.files, form):
            sweep(there.path.parent)  # temporaries of a process that was killed after it had put the data in place
            return there
        _log.info("dataset %s: %s has changed; it is prepared again", card.name, there.source)
        given = Path(there.files[0]["path"])
    return _prepare(card, given, source, name)


def _prepare(card: AnyCard, given: Path | None, source: str | None, name: str) -> Prepared:
    from recgraph.data.catalog.own import prepare_files, stamp_of, stamped

    if isinstance(card, GraphCard):
        from recgraph.data.catalog.graphs import prepare_graph

        graph = prepare_graph(card, given, name)
        _place(graph, graph.counts, card, str(given), [])
        return _read(card, cached=False)
    if isinstance(card, FileCard):
        file = card.log_file if given is None else LogFile(str(given.absolute()), card.log_file.reading)
        # before they are read: what changes meanwhile is prepared again the next time
        beside = dict.fromkeys([*map(Path, card.paths[1:]), *file.feature_files().values()])
        stamps = [stamp_of(file.of_train), *stamped(beside, card.data.format)]
        data, label = prepare_files(card, file), file.path
    else:
        from recgraph.data.catalog.logs import local_files, prepare_log

        stamps = [] if given is None else stamped(local_files(card, given.absolute(), source))
        data, label = prepare_log(card, given, source)
    counts = {"users": data.n_users, "items": data.n_items, "interactions": len(data)}
    _place(data, counts, card, label, stamps)
    return _read(card, cached=False)


@checked
def load_dataset(name: str, reading: Reading | None = None) -> Interactions:
    """The interactions of a data set, with user and item features; fetched and prepared at first use.

    Args:
        name: of a card, the path of a card's ``.toml`` file, or the path of files of the user's own, which are read
            each time.
        reading: how files of the user's own are read, where there is no card.

    Raises:
        ValueError: the task of the data set is not recommendation, ``reading`` is given and there is a card; and what
            :func:`get` and :func:`recgraph.data.interactions.load_data` raise.
    """
    from recgraph.data.interactions import Interactions

    card = find_card(name)
    if isinstance(card, FileCard) and is_data_path(name):
        return Interactions.from_files(LogFile(card.data.file, reading or Reading()))
    if reading is not None:
        raise ValueError(
            f"reading is for files, and dataset {name!r} has a card that says how it is read; got {reading!r}"
        )
    if card.task != "recommendation":
        raise ValueError(f"dataset {name!r} is a graph with classes of nodes; it has no interactions (see load_graph)")
    return Interactions.load(get(name).path)


def load_graph(name: str) -> HeteroGraph:
    """The typed graph of a data set; for recommendation the relations beside the interactions.

    ``HeteroGraph.from_interactions(split.interactions, split.train)`` is the whole of the latter, with the interactions
    that may be known.

    Raises:
        ValueError: the data set is a log.
        UnavailableError: it is not prepared (see :func:`get`).
    """
    from recgraph.graph.hetero import HeteroGraph

    _graph_card(name)
    return HeteroGraph.load(get(name).path / "graph")


def load_node_task(name: str) -> NodeTask:
    """Labels and splits of a data set with a task on nodes.

    Raises:
        ValueError: it has none.
        UnavailableError: it is not prepared.
    """
    from recgraph.graph.node_task import NodeTask

    if _graph_card(name).task != "nodes":
        raise ValueError(f"dataset {name!r} is for recommendation; it has no classes of nodes")
    return NodeTask.load(get(name).path)


@checked
def load_split(name: str) -> Split:
    """The split of a data set that commands and boards use by default: the one that its card says, or of a log its own
    parts, where it has some, else leave-one-out.

    Raises:
        ValueError: the data set has a task on nodes.
        UnavailableError: it is not prepared.
    """
    card = find_card(name)
    if isinstance(card, GraphCard):
        if card.interactions is None:
            raise ValueError(f"dataset {name!r} has classes of nodes, no interactions; see load_node_task")
        return load_dataset(name).split(**card.interactions.split)
    data = load_dataset(name)
    return data.split(default_strategy(data))


def default_strategy(data: Interactions) -> str:
    """How a log is split where nothing is said: as the parts that it was given in, where it has some."""
    from recgraph.data.strategies import GIVEN

    return GIVEN if data.has_parts else "leave-one-out"


def _graph_card(name: str) -> GraphCard:
    card = find_card(name)
    if not isinstance(card, GraphCard):
        raise ValueError(f"dataset {name!r} is a log, not a graph; HeteroGraph.from_interactions makes one of it")
    return card


def _folder(card: Card) -> Path:
    address = card.place if isinstance(card, FileCard) else card.hash
    return home() / "data" / card.name / address[:16]


def _is_prepared(card: Card) -> bool:
    return (_folder(card) / _RECORD).is_file()


def _read(card: AnyCard, *, cached: bool) -> Prepared:
    from recgraph.files import read_object

    folder = _folder(card)
    record = read_object(folder / _RECORD)
    return Prepared(folder, card, record["counts"], record["source"], cached, tuple(record.get("files", ())))


def _place(
    data: Interactions | PreparedGraph,
    counts: dict[str, int],
    card: Card,
    source: str,
    files: list[dict[str, Any]],
) -> None:
    """Write the folder of a card: it is there whole or not at all, whoever prepares it at the same time."""
    from recgraph.files import replacing_folder, write_json

    record = {"counts": counts, "source": source, **({"files": files} if files else {})}
    with replacing_folder(_folder(card)) as new:
        data.save(new)
        write_json(record, new / _RECORD)
