"""What a split is on disk, and its hash.

``open.parquet`` holds the rows of train and valid, ``test/test.parquet`` those of test, ``split.json`` the strategy and
the hash. A split that was prepared in shards has folders of Parquet files in their place, ``open`` and ``test/test``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from recgraph.data.files import unlisted
from recgraph.data.ids import IdMap
from recgraph.data.imprint import checksums_of, load_frame, replace_json
from recgraph.data.labels import GROUPS
from recgraph.data.log import DESCRIPTION, HEAD_OF_SPLIT
from recgraph.data.part import OrderedLog, order
from recgraph.data.saved import listed

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
    "save_head",
    "saved_in",
    "split_hash",
]

HEAD_FILE = HEAD_OF_SPLIT
OPEN_FILE = "open.parquet"
TEST_FILE = Path("test") / "test.parquet"

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
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"out = {str(folder)!r} is a file; give the folder of the split")
    own = saved_in(folder) if (folder / HEAD_FILE).is_file() else ()
    if (other := unlisted(folder, own)) is not None:
        raise ValueError(
            f"out = {str(folder)!r} holds {other!r}, which is no part of a split and would be removed with the "
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


def saved_in(folder: Path) -> set[str]:
    """The names in a folder of the files of a saved split, or log, that is there."""
    names = listed(folder, HEAD_FILE) | listed(folder, DESCRIPTION)
    if HEAD_FILE in names:  # which does not list the rows of test
        names |= {path.relative_to(folder).as_posix() for path in _row_files(folder / TEST_FILE)}
    return names


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
