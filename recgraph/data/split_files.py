"""What a split is on disk, and its hash.

``open.parquet`` holds the rows of train and valid, ``test/test.parquet`` those of test, ``split.json`` the strategy and
the hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from recgraph.data.ids import IdMap
from recgraph.data.labels import GROUPS
from recgraph.data.log import HEAD_OF_SPLIT
from recgraph.data.part import OrderedLog, order

HEAD_FILE = HEAD_OF_SPLIT
OPEN_FILE = "open.parquet"
TEST_FILE = "test/test.parquet"

#: a column of the ordered log: its name, its length, and its values part by part
Column = tuple[str, int, Iterable[npt.NDArray[Any]]]

#: name of a column -> the type in which its values are hashed
_TYPES = {"offsets": "<i8", "items": "<i4", "labels": "u1", "times": "<i8", "weights": "<f8", "ratings": "<f8"}


def log_and_labels(rows: pl.DataFrame) -> tuple[pl.DataFrame, Tensor]:
    """The log in the order of its rows, and the labels in that of ``InteractionLog.ordered``."""
    rows = order(rows)
    labels = torch.from_numpy(rows["label"].cast(pl.UInt8).to_numpy(writable=True))
    return rows.drop("label").sort("row"), labels


def open_and_test(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows of train and valid, and those of test, by their column ``label``."""
    is_test = pl.col("label").is_in([int(label) for label in GROUPS["test"]])
    return rows.filter(~is_test), rows.filter(is_test)


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
