"""Splits on disk: what is open in one place, the test rows in a file and folder of their own.

A split without its test part, in memory and on disk: all that a tuner's workers are given.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from recgraph.data.errors import CorruptFileError
from recgraph.data.files import replace_parquet, replace_text
from recgraph.data.interactions import Interactions
from recgraph.data.part import order
from recgraph.data.sealing import SealedTestError
from recgraph.data.split import SealedSplit, Split
from recgraph.data.store import load_frame, load_json, load_meta, save_meta
from recgraph.data.strategies import STRATEGIES, Label, Strategy

__all__ = ["closed", "load_closed", "load_sealed", "save_closed", "save_open", "save_split"]


_OPEN = "open.parquet"
_TEST = Path("test") / "test.parquet"
_LABEL = "label"


def save_split(split: Split, folder: Path) -> None:
    """Write ids and features, ``open.parquet``, ``test/test.parquet`` and, last, ``split.json``."""
    log = order(split.interactions.log).with_columns(pl.Series(_LABEL, split.labels.numpy()))
    secret = pl.col(_LABEL).is_in([int(Label.TEST), int(Label.TEST_HISTORY)])
    replace_parquet(log.filter(secret), folder / _TEST)
    _save_open(split, log.filter(~secret), folder)


def save_open(split: SealedSplit, folder: Path) -> None:
    """Write what is open of a split and no test file, and remove an older one; it cannot be unsealed from there."""
    (folder / _TEST).unlink(missing_ok=True)
    log = order(split.interactions.log).with_columns(pl.Series(_LABEL, split.labels.numpy()))
    _save_open(split, log, folder)


def _save_open(split: Split | SealedSplit, rows: pl.DataFrame, folder: Path) -> None:
    """The open rows, ids and features and, last, ``split.json``."""
    replace_parquet(rows, folder / _OPEN)
    save_meta(split.interactions, folder)
    head = {"name": split.name, "params": split.params, "seed": split.seed, "hash": split.hash}
    replace_text(json.dumps(head, indent=1), folder / "split.json")


def load_sealed(folder: Path) -> SealedSplit:
    """A saved split without its test file, which is not opened before ``unseal``.

    Raises:
        FileNotFoundError: the folder holds no split.
        CorruptFileError: a file is damaged.
    """
    if not (folder / "split.json").is_file():
        raise FileNotFoundError(f"folder {str(folder)!r} holds no saved split (split.json)")
    head = load_json(folder / "split.json")
    meta = load_meta(folder)
    rows = load_frame(folder / _OPEN)

    def reveal() -> Split:
        split = Split(*_parts(pl.concat([rows, load_frame(folder / _TEST)]), meta, head))
        if split.hash != head["hash"]:
            raise CorruptFileError("the rows do not give the hash of the split; it was changed", path=folder / _TEST)
        return split

    return SealedSplit(*_parts(rows, meta, head), head["hash"], reveal)


def _parts(
    rows: pl.DataFrame, meta: dict[str, Any], head: dict[str, Any]
) -> tuple[Interactions, Tensor, Strategy, str, int | None]:
    rows = order(rows)
    labels = torch.from_numpy(rows[_LABEL].cast(pl.UInt8).to_numpy(writable=True))
    interactions = Interactions(log=rows.drop(_LABEL).sort("row"), **meta)
    strategy = STRATEGIES[head["name"]].of(head["params"])
    return interactions, labels, strategy, head["name"], head["seed"]


def _refuse() -> Split:
    raise SealedTestError("this copy of the split holds no test part; unseal the split that it was made from")


def closed(split: Split | SealedSplit) -> SealedSplit:
    """A copy that cannot be unsealed."""
    sealed = split.sealed()
    return SealedSplit(
        sealed.interactions, sealed.labels, sealed.strategy, sealed.name, sealed.seed, sealed.hash, _refuse
    )


def save_closed(split: Split | SealedSplit, folder: Path) -> None:
    """Write what is open of a split; no file of the folder holds a test row. :func:`load_closed` reads it."""
    save_open(split.sealed(), folder)


def load_closed(folder: Path) -> SealedSplit:
    """Read a split that cannot be unsealed.

    Raises:
        FileNotFoundError: the folder holds no split.
        CorruptFileError: a file is damaged.
    """
    return closed(load_sealed(folder))
