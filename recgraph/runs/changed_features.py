"""The files of features that a run was made with: which of them its model reads, and whether they are the same now.

The hash of a split is of the log alone, so that a record has the fingerprints of these files beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recgraph.data.reading import FEATURES
from recgraph.models.base import Model
from recgraph.runs.record import DataRecord

__all__ = ["Fingerprints", "changed_features", "check_features", "check_features_of_training", "files_read"]

#: name of a file of features -> its fingerprint, see :meth:`recgraph.data.reading.LogFile.fingerprint`
Fingerprints = Mapping[str, Mapping[str, Any]]

_log = logging.getLogger(__name__)


def files_read(model: Model) -> tuple[str, ...]:
    """Which files of features a model is built with; a graph has all side information."""
    if model.wanted_features:
        return ("item_features",)
    return FEATURES if model.reads_graph else ()


def changed_features(then: Fingerprints | None, now: Fingerprints | None, what: str) -> dict[str, str]:
    """Name -> what has changed, in words, of each file of features with another content than it had.

    A file that only one of the two names says nothing: earlier versions recorded none, and features may be given in
    memory.

    Args:
        then, now: the fingerprints.
        what: was made with the files.
    """
    found = {}
    for name, file in (then or {}).items():
        here = (now or {}).get(name)
        if here is not None and here["sha256"] != file["sha256"]:
            found[name] = (
                f"{here['path']} is not the file of {name.replace('_', ' ')} that {what} was made with: its sha256 is "
                f"{here['sha256'][:12]}, and was {file['sha256'][:12]}"
            )
    return found


def check_features(model: Model, data: DataRecord, now: Fingerprints | None) -> dict[str, str]:
    """Refuse to open a run with other features than its model was built with -> those of others, in words.

    What a model does not read is only logged: it may be what titles are corrected in.

    Args:
        model: the run's.
        data: of the run's record.
        now: the files of features that its data was read from; None: it was not read from files.

    Raises:
        ValueError: names the file, both hashes and the way out.
    """
    changed = changed_features(data.features, now, "the run")
    for name in files_read(model):
        if name in changed:
            option, back = f"--{name.replace('_', '-')} FILE", "give it its content back"
            if data.file is not None:
                back = f"say where that file lies now with {option} (in Python: Run.open(folder, {{{name!r}: 'FILE'}}))"
            raise ValueError(
                f"{changed[name]}. {type(model).__name__} reads it, and a run is evaluated on the data that it was "
                f"made from: {back}, or train again on the new file"
            )
    for text in changed.values():
        _log.warning("%s; %s does not read it", text, type(model).__name__)
    return changed


def check_features_of_training(model: Model, folder: Path, then: Fingerprints | None, now: Fingerprints | None) -> None:
    """Refuse to go on with a training on other features than it began with, where its model reads them.

    Args:
        model: that is to be trained.
        folder: of the run.
        then: the files of features that it began with.
        now: those that are given.

    Raises:
        ValueError: names the file, both hashes and the way out.
    """
    changed = changed_features(then, now, f"the run in {folder}")
    for name in files_read(model):
        if name in changed:
            raise ValueError(
                f"{changed[name]}. {type(model).__name__} reads it, and a training goes on with the data that it began "
                "with: give that file, or train anew in another folder"
            )
