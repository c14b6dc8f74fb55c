"""Files of the user's own behind a card: prepare them, notice that they have changed, and write a first card."""

from __future__ import annotations

import datetime as dt
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from recgraph.config import ConfigError
from recgraph.data.catalog.cards import FileCard
from recgraph.data.catalog.logs import check_counts, prepared
from recgraph.data.interactions import Interactions
from recgraph.data.log_file import LogFile
from recgraph.data.reading import PATHS, FileFormat, Reading
from recgraph.files import write_text
from recgraph.setting_texts import toml_text

__all__ = ["is_changed", "prepare_files", "stamped", "write_card"]

_log = logging.getLogger(__name__)


def prepare_files(card: FileCard, file: LogFile) -> Interactions:
    """The prepared interactions of a card.

    Args:
        card: the card.
        file: its files, or others in place of them.

    Raises:
        DataError: they cannot be read.
        CountError: the counts are not those that the card expects.
    """
    data = prepared(Interactions.from_files(file), card.prepare)
    check_counts(card.name, data, card.expected)
    return data


def stamped(paths: Iterable[Path], form: FileFormat | None = None) -> list[dict[str, Any]]:
    """What tells whether files are the same, one entry a file: size, time of the last change, sha256.

    Args:
        paths: of files, or of folders of files.
        form: which files of a folder they are; None: their names say it.
    """
    return [stamp_of(LogFile(str(path), Reading(format=form))) for path in paths]


def stamp_of(file: LogFile) -> dict[str, Any]:
    """The entry of one file, or of those of a folder."""
    return {**file.fingerprint(), "ctime_ns": file.touched_ns()}


def is_changed(stamps: Iterable[Mapping[str, Any]], form: FileFormat | None = None) -> bool:
    """Whether a file is another than when it was stamped. One that is gone is as it was, which is logged.

    The content is read only where the size is the same and a time is not.

    Args:
        stamps: of :func:`stamped`.
        form: likewise.
    """
    for stamp in stamps:
        file = LogFile(stamp["path"], Reading(format=form))
        try:
            now = {**file.stamp(), "ctime_ns": file.touched_ns()}
        except FileNotFoundError:
            _log.warning("%s is gone; what was prepared from it is used", stamp["path"])
            continue
        if any(now[name] != stamp[name] for name in ("files", "size")):
            return True
        # stamps of earlier versions have one time
        is_touched = any(now[name] != stamp.get(name, now[name]) for name in ("mtime_ns", "ctime_ns"))
        if is_touched and file.fingerprint()["sha256"] != stamp["sha256"]:
            return True
    return False


def _relative(path: Path, folder: Path) -> str:
    """A path relative to a folder, both resolved: ``..`` of a linked folder leads out of its target."""
    return os.path.relpath(Path(os.path.realpath(path.parent), path.name), os.path.realpath(folder))


_CARD = """\
# A data card: what this data set is and how it is read. Use it in place of a name:
#   recgraph train popularity --dataset {out} --out runs/popularity
name = {name}
title = {title}
task = "recommendation"

[data]  # a file, a folder of files or a pattern, from this card's folder on
{data}

[prepare]  # in this order
# min_rating = 3        # keep interactions rated at least so
# duplicates = "last"   # of the same user and item: "all", "first" or "last"
# k_core = 5            # keep users and items with at least so many interactions

# [expected]  # checked after preparation, where it stands; here as on {today}
# users = {users}
# items = {items}
# interactions = {interactions}
"""


def write_card(path: str, out: Path | None = None, reading: Reading | None = None) -> tuple[Path, Interactions]:
    """Write a card of a log that is to be refined by hand.

    Args:
        path: a file, a folder of files or a pattern.
        out: the card, which ends in ``.toml``; by default called like the file, in the current folder.
        reading: how the files are read.

    Returns:
        the card, and the interactions, without preparation.

    Raises:
        FileExistsError: the card exists.
        ValueError: its name is none of a card; and what :meth:`Interactions.from_files` raises.
    """
    file = LogFile(str(Path(path).absolute()), (reading or Reading()).from_folder(Path()))
    card = out or Path(f"{FileCard.of_path(path).name}.toml")
    if card.suffix != ".toml":
        raise ValueError(f"--out {card}: the name of a card ends in .toml")
    try:
        FileCard.of(name=card.stem, data={"file": file.path})
    except ConfigError:
        raise ValueError(
            f"--out {card}: the file is called like its card, in small letters, digits, '-', '_' and '.', such as "
            f"{card.with_stem(FileCard.of_path(card.name).name)}"
        ) from None
    if card.exists():
        raise FileExistsError(f"{card} exists; change it by hand, or give another --out")
    file = replace(file, reading=file.completed())
    data = Interactions.from_files(file)
    values = {"file": file.path, **file.reading.model_dump(mode="json", exclude_defaults=True)}
    folder = card.absolute().parent
    values |= {name: _relative(Path(values[name]), folder) for name in ("file", *PATHS) if name in values}
    text = _CARD.format(
        out=card,
        name=toml_text(card.stem),
        title=toml_text(Path(path).name),
        data="\n".join(f"{name} = {toml_text(value)}" for name, value in values.items()),
        today=dt.date.today(),
        users=data.n_users,
        items=data.n_items,
        interactions=len(data),
    )
    write_text(text, card)
    return card, data
