"""The features that a run was made with: which of them its model reads, and whether they are the same now.

The hash of a split is of the log alone, so that a record has the fingerprints of the files of features beside it, or
those of the frames and of the graph of relations where they were given in memory.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from recgraph.data.log import InteractionLog
from recgraph.data.reading import FEATURES
from recgraph.models.base import Model
from recgraph.runs.record import DataRecord

__all__ = [
    "Fingerprints",
    "changed_features",
    "check_features",
    "check_features_of_training",
    "files_read",
    "fingerprints_in_memory",
]

#: name of a file of features -> its fingerprint, see :meth:`recgraph.data.log_file.LogFile.fingerprint`; or of a frame
#: or a graph, see :func:`fingerprints_in_memory`
Fingerprints = Mapping[str, Mapping[str, Any]]

#: the name of a graph of relations among the features
_GRAPH = "graph"
_log = logging.getLogger(__name__)
#: rows of a frame that are written as text at a time; they may hold vectors
_ROWS = 1 << 12


def files_read(model: Model) -> tuple[str, ...]:
    """Which features a model is built with; a graph has all side information."""
    if model.wanted_features:
        return ("item_features",)
    return (*FEATURES, _GRAPH) if model.reads_graph else ()


def fingerprints_in_memory(log: InteractionLog) -> dict[str, dict[str, Any]]:
    """The fingerprints of the frames of features and of the graph of a log, wherever they came from; ``path`` is None.

    That of a frame covers the names of the columns and all values, whatever the order of the rows and the width of the
    numbers; that of a graph is its hash.
    """
    users, items = (log.user_features, log.columns.user), (log.item_features, log.columns.item)
    found: dict[str, dict[str, Any]] = {
        name: {"path": None, "rows": len(frame), "sha256": _digest(frame, key)}
        for name, (frame, key) in zip(FEATURES, (users, items), strict=True)
        if frame is not None
    }
    return found if log.graph is None else {**found, _GRAPH: {"path": None, "sha256": log.graph.hash}}


def _digest(frame: pl.DataFrame, key: str) -> str:
    """64 hex digits, the same on every machine; columns of objects and bytes, which no model reads, count by name."""
    texts = [
        name for name, dtype in frame.schema.items() if not any(word in str(dtype) for word in ("Object", "Binary"))
    ]
    state, given = hashlib.sha256(json.dumps(frame.columns).encode()), frame.select(texts)
    order = frame[key].arg_sort()
    for first in range(0, len(order), _ROWS):
        state.update(given[order.slice(first, _ROWS)].write_ndjson().encode())
    return state.hexdigest()


def changed_features(then: Fingerprints | None, now: Fingerprints | None, what: str) -> dict[str, str]:
    """Name -> what has changed, in words, of the features with another content than they had.

    What only one of the two names says nothing, nor does a file beside a frame: earlier versions recorded none, and
    the same features may be given either way.

    Args:
        then, now: the fingerprints.
        what: was made with the files.
    """
    found = {}
    for name, file in (then or {}).items():
        here = (now or {}).get(name)
        if here is None or here["sha256"] == file["sha256"] or (here["path"] is None) != (file["path"] is None):
            continue
        given = f"{name} is not the {_kind(name, here)}"
        if here["path"] is not None:
            given = f"{here['path']} is not the file of {name.replace('_', ' ')}"
        found[name] = (
            f"{given} that {what} was made with: its sha256 is {here['sha256'][:12]}, and was {file['sha256'][:12]}"
        )
    return found


def _kind(name: str, fingerprint: Mapping[str, Any]) -> str:
    """What features are, in a word."""
    return "file" if fingerprint["path"] is not None else "graph" if name == _GRAPH else "frame"


def check_features(model: Model, data: DataRecord, now: Fingerprints | None) -> dict[str, str]:
    """Refuse to open a run with other features than its model was built with -> those of others, in words.

    What a model does not read is only logged: it may be what titles are corrected in.

    Args:
        model: the run's.
        data: of the run's record.
        now: the features of the data that it is opened with; None: they are not known.

    Raises:
        ValueError: names the features, both hashes and the way out.
    """
    changed = changed_features(data.features, now, "the run")
    for name in files_read(model):
        if name in changed:
            option, back = f"--{name.replace('_', '-')} FILE", "give it its content back"
            kind = _kind(name, (data.features or {})[name])
            if kind == "file" and data.file is not None:
                back = f"say where that file lies now with {option} (in Python: Run.open(folder, {{{name!r}: 'FILE'}}))"
            raise ValueError(
                f"{changed[name]}. {type(model).__name__} reads it, and a run is evaluated on the data that it was "
                f"made from: {back}, or train again on the new {kind}"
            )
    for text in changed.values():
        _log.warning("%s; %s does not read it", text, type(model).__name__)
    return changed


def check_features_of_training(model: Model, folder: Path, then: Fingerprints | None, now: Fingerprints | None) -> None:
    """Refuse to go on with a training on other features than it began with, where its model reads them.

    Args:
        model: that is to be trained.
        folder: of the run.
        then: the features that it began with.
        now: those that are given.

    Raises:
        ValueError: names the features, both hashes and the way out.
    """
    changed = changed_features(then, now, f"the run in {folder}")
    for name in files_read(model):
        if name in changed:
            raise ValueError(
                f"{changed[name]}. {type(model).__name__} reads it, and a training goes on with the data that it began "
                "with: give that, or train anew in another folder"
            )
