"""What a split is on disk, and its hash.

``open.parquet`` holds the rows of train and valid, ``test/test.parquet`` those of test, ``split.json`` the strategy and
the hash. A split that was prepared in shards has folders of Parquet files in their place, ``open`` and ``test/test``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from recgraph.data.files import contents
from recgraph.data.ids import IdMap
from recgraph.data.imprint import checksums_of, load_frame, replace_json
from recgraph.data.labels import GROUPS
from recgraph.data.log import DESCRIPTION, FILES_OF_LOG
from recgraph.data.part import OrderedLog, order

__all__ = [
    "HEAD_FILE",
    "OPEN_FILE",
    "TEST_FILE",
    "Column",
    "check_replaceable",
    "columns_of",
    "load_rows",
    "log_and_labels",
    "open_and_test",
    "parts_folder",
    "remove_older_rows",
    "save_head",
    "split_hash",
]

HEAD_FILE = "split.json"
OPEN_FILE = "open.parquet"
TEST_FILE = Path("test") / "test.parquet"

#: what the folder of a split may hold
_NAMES = {HEAD_FILE, OPEN_FILE, Path(OPEN_FILE).stem, TEST_FILE.parts[0], *FILES_OF_LOG}

#: a column of the ordered log: its name, its length, and its values part by part
Column = tuple[str, int, Iterable[npt.NDArray[Any]]]

#: name of a column -> the type in which its values are hashed
_TYPES = {"offsets": "<i8", "items": "<i4", "labels": "u1", "times": "<i8", "weights": "<f8", "ratings": "<f8"}


def parts_folder(path: Path) -> Path:
    """The folder that stands in place of a file of rows."""
    return path.with_suffix("")


def check_replaceable(folder: Path) -> None:
    """Refuse a folder that holds something beside a split, which replacing the folder would remove.

    Raises:
        ValueError: names it.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out = {str(folder)!r} is a file; give the folder of the split")
    found = contents(folder)
    if others := sorted(found - _NAMES if HEAD_FILE in found else found):
        raise ValueError(
            f"out = {str(folder)!r} holds {others[0]!r}, which is no part of a split and would be removed with the "
            "folder; give a folder of its own"
        )


def load_rows(path: Path) -> pl.DataFrame:
    """The rows of a file, or of all files in the folder in its place.

    Raises:
        CorruptFileError: a file is damaged.
    """
    parts = _row_files(path)
    return pl.concat([load_frame(part) for part in parts]) if parts else load_frame(path)


def log_and_labels(rows: pl.DataFrame) -> tuple[pl.DataFrame, Tensor]:
    """The log in the order of its rows, and the labels in that of ``InteractionLog.ordered``."""
    rows = order(rows)
    labels = torch.from_numpy(rows["label"].cast(pl.UInt8).to_numpy(writable=True))
    return rows.drop("label").sort("row"), labels


def open_and_test(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows of train and valid, and those of test, by their column ``label``."""
    is_test = pl.col("label").is_in([int(label) for label in GROUPS["test"]])
    return rows.filter(~is_test), rows.filter(is_test)


def save_head(folder: Path, head: Mapping[str, Any]) -> None:
    """Write the strategy and the hash, with the checksums of the open files; a folder that has them is complete."""
    opened, test = _row_files(folder / OPEN_FILE), _row_files(folder / TEST_FILE)
    files = checksums_of([*opened, folder / DESCRIPTION], folder)
    replace_json({**head, "files": files, "has_test": bool(test)}, folder / HEAD_FILE)


def _row_files(path: Path) -> list[Path]:
    """A file of rows, or all files in the folder in its place."""
    return [path] if path.is_file() else sorted(parts_folder(path).glob("*.parquet"))


def remove_older_rows(folder: Path, has_test: bool) -> None:
    """Remove the rows of an earlier split: its folders of parts, and its test file where there is no new one."""
    if not has_test:
        (folder / TEST_FILE).unlink(missing_ok=True)
    for parts in (parts_folder(folder / OPEN_FILE), parts_folder(folder / TEST_FILE)):
        for part in parts.glob("*.parquet"):
            part.unlink()
        with suppress(OSError):  # files of others are in it, or it is not there
            parts.rmdir()


def columns_of(log: OrderedLog, labels: Tensor | None = None) -> list[Column]:
    """The columns of an ordered log as :func:`split_hash` reads them."""
    columns = (
        ("offsets", log.items.offsets),
        ("items", log.items.values),
        ("labels", labels),
        ("times", log.times),
        ("weights", log.weights),
        ("ratings", log.ratings),
    )
    return [(name, values.numel(), [values.numpy()]) for name, values in columns if values is not None]


def split_hash(head: Mapping[str, Any], users: IdMap, items: IdMap, columns: Iterable[Column]) -> str:
    """64 hex digits from ids, ordered log, labels and parameters; the same on every machine.

    Args:
        head: name, parameters and seed of the strategy.
        columns: of the ordered log: offsets, items, labels and, where it has them, times, weights, ratings.
            Without labels, and with an empty head, the hash is of the log alone.
    """
    state = hashlib.sha256(json.dumps({**head, "version": 1}, sort_keys=True).encode())
    state.update(users.digest())
    state.update(items.digest())
    for name, count, parts in columns:
        state.update(f"{name}:{count}:".encode())
        for values in parts:
            state.update(np.ascontiguousarray(values, dtype=_TYPES[name]).data)
    return state.hexdigest()
