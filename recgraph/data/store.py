"""Encoded logs on disk: Parquet for what is long, JSON for what is short."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from recgraph.data.columns import Columns
from recgraph.data.diagnose import Source
from recgraph.data.errors import CorruptFileError
from recgraph.data.files import replace_parquet, replace_text
from recgraph.data.ids import IdMap

if TYPE_CHECKING:
    from recgraph.data.interactions import Interactions
    from recgraph.graph.hetero import HeteroGraph

__all__ = ["load", "load_frame", "load_json", "load_meta", "save", "save_meta"]

_FEATURES = ("user_features", "item_features")
_GRAPH = "graph"


def save(interactions: Interactions, folder: Path) -> None:
    """Write everything; the description comes last, so that a folder with one is complete."""
    replace_parquet(interactions.log, folder / "log.parquet")
    save_meta(interactions, folder)


def save_meta(interactions: Interactions, folder: Path) -> None:
    """Write all but the log: ids, features and the description."""
    interactions.users.write(folder / "users.parquet")
    interactions.items.write(folder / "items.parquet")
    for name in _FEATURES:
        table = getattr(interactions, name)
        if table is not None:
            replace_parquet(table, folder / f"{name}.parquet")
        else:
            (folder / f"{name}.parquet").unlink(missing_ok=True)
    if interactions.graph is not None:
        interactions.graph.save(folder / _GRAPH)
    else:
        _remove_graph(folder / _GRAPH)
    path = interactions.source.path
    meta = {
        "columns": interactions.columns.model_dump(),
        "time_unit": interactions.time_unit,
        "kind": interactions.kind,
        "format": interactions.source.format,
        "path": str(path) if path is not None else None,
        "separator": interactions.source.separator,
        "has_header": interactions.source.has_header,
    }
    replace_text(json.dumps(meta, indent=1), folder / "interactions.json")


def load(folder: Path) -> dict[str, Any]:
    """The fields of the interactions that :func:`save` wrote.

    Raises:
        FileNotFoundError: the folder holds none.
        CorruptFileError: a file is damaged.
    """
    return {"log": load_frame(folder / "log.parquet"), **load_meta(folder)}


def load_meta(folder: Path) -> dict[str, Any]:
    """All fields but the log."""
    meta = load_json(folder / "interactions.json")
    path = Path(meta["path"]) if meta["path"] is not None else None
    features = {name: folder / f"{name}.parquet" for name in _FEATURES}
    return {
        "users": IdMap.read(folder / "users.parquet"),
        "items": IdMap.read(folder / "items.parquet"),
        "columns": Columns(**meta["columns"]),
        "time_unit": meta["time_unit"],
        "source": Source(meta["format"], path, meta["separator"], meta["has_header"]),
        "kind": meta["kind"],
        **{name: load_frame(file) for name, file in features.items() if file.is_file()},
        **({"graph": _load_graph(folder / _GRAPH)} if (folder / _GRAPH / "graph.json").is_file() else {}),
    }


def _remove_graph(folder: Path) -> None:
    if (folder / "graph.json").is_file():
        from recgraph.graph import store

        store.remove(folder)


def _load_graph(folder: Path) -> HeteroGraph:
    from recgraph.graph.hetero import HeteroGraph

    return HeteroGraph.load(folder)


def load_json(path: Path) -> dict[str, Any]:
    """A JSON object."""
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CorruptFileError(f"the file is not JSON: {error}", path=path) from None
    return value


def load_frame(path: Path) -> pl.DataFrame:
    """A Parquet file."""
    try:
        return pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise CorruptFileError(f"the Parquet file cannot be read: {error}", path=path) from None
