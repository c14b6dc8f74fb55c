"""The bundle of a recommender: all that serving needs in one directory; see :mod:`recgraph.serve.archive`.

config.json            also columns and record
users.parquet          ids in the order of their indices, in their own type
items.parquet
seen.safetensors       what each user did: ``values``, ``offsets``
item_features.parquet  where there are some
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
from safetensors.torch import load_file, save_file

from recgraph.data.columns import Columns
from recgraph.data.ids import IdMap
from recgraph.data.native import FrameKind
from recgraph.models.base import Model
from recgraph.serve import archive
from recgraph.serve.archive import FORMAT, BundleError, guard
from recgraph.sparse.ragged import Ragged

__all__ = ["FORMAT", "BundleError", "Contents", "load", "save"]

_REQUIRED = ("users.parquet", "items.parquet", "seen.safetensors")
_FEATURES = "item_features.parquet"


@dataclass(frozen=True)
class Contents:
    """What a bundle holds; the fields are those of :class:`recgraph.serve.recommender.Recommender`."""

    model: Model
    users: IdMap
    items: IdMap
    seen: Ragged
    columns: Columns
    kind: FrameKind
    item_features: pl.DataFrame | None
    record: dict[str, Any]


def save(contents: Contents, folder: Path) -> None:
    """Write a bundle beside its place and rename it.

    Raises:
        BundleError: the folder exists and holds something that is no bundle.
    """

    def fill(into: Path) -> None:
        contents.users.write(into / "users.parquet")
        contents.items.write(into / "items.parquet")
        seen = {"values": contents.seen.values.to(torch.int32), "offsets": contents.seen.offsets}
        save_file({name: value.contiguous() for name, value in seen.items()}, into / "seen.safetensors")
        if contents.item_features is not None:
            contents.item_features.write_parquet(into / _FEATURES)

    more = {"columns": contents.columns.model_dump(mode="json"), "kind": contents.kind, "record": contents.record}
    archive.write(folder, "recommender", contents.model, fill, more)


def load(folder: Path, device: torch.device) -> Contents:
    """Read a bundle.

    Raises:
        BundleError: no bundle, a file is missing or damaged, an unknown format, or another revision of the model.
    """
    config = archive.read_config(folder, "recommender", _REQUIRED, ("columns", "kind", "record"))
    seen = guard(folder / "seen.safetensors", load_file)
    return Contents(
        model=archive.load_model(folder, config["model"], device),
        users=guard(folder / "users.parquet", IdMap.read),
        items=guard(folder / "items.parquet", IdMap.read),
        seen=Ragged(seen["values"].to(torch.int64), seen["offsets"]),
        columns=Columns.of(config["columns"]),
        kind=config["kind"],
        item_features=guard(folder / _FEATURES, pl.read_parquet) if _FEATURES in config["files"] else None,
        record=config["record"],
    )
