"""The files of a recommender in its bundle."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Protocol

import polars as pl
import torch
from safetensors.torch import save_file

from recgraph.bounded.tensors import read_tensors
from recgraph.data.columns import Columns, TimeUnit
from recgraph.data.dataframe import FrameKind
from recgraph.data.ids import IdMap
from recgraph.models.base import Model
from recgraph.serve import bundle
from recgraph.serve.checks import bundle_of, check_seen, check_sizes, device_here, names_of, read_item_features
from recgraph.sparse.ragged import Ragged

__all__ = ["Stored", "read", "write"]

_FILES = ("users.parquet", "items.parquet", "seen.safetensors")
_FEATURES = "item_features.parquet"


class Stored(Protocol):
    """What a bundle keeps of a recommender; see there."""

    model: Model
    users: IdMap
    items: IdMap
    seen: Ragged
    times: Ragged | None
    time_unit: TimeUnit
    time_format: str | None
    columns: Columns
    kind: FrameKind
    item_features: pl.DataFrame | None
    record: dict[str, Any]


def write(recommender: Stored, folder: Path) -> None:
    """Write a bundle."""

    def fill(into: Path) -> None:
        recommender.users.write(into / "users.parquet")
        recommender.items.write(into / "items.parquet")
        seen = {"values": recommender.seen.values.to(torch.int32), "offsets": recommender.seen.offsets}
        if recommender.times is not None:
            seen["times"] = recommender.times.values
        save_file({name: value.contiguous() for name, value in seen.items()}, into / "seen.safetensors")
        if recommender.item_features is not None:
            recommender.item_features.write_parquet(into / _FEATURES)

    more = {
        "columns": recommender.columns.model_dump(mode="json"),
        "kind": recommender.kind,
        "record": recommender.record,
        **({} if recommender.times is None else {"time_unit": recommender.time_unit}),
        **({} if recommender.time_format is None else {"time_format": recommender.time_format}),
    }
    bundle.write(folder, "recommender", recommender.model, fill, more)


def read(folder: str | Path, device: torch.device | str) -> dict[str, Any]:
    """The arguments of the recommender in a bundle."""
    folder = bundle_of(folder)
    config = bundle.read_config(folder, "recommender", _FILES, ("columns", "kind", "record"))
    names = bundle.guard(folder / "config.json", lambda _: names_of(config))
    users = bundle.guard(folder / "users.parquet", IdMap.read)
    items = bundle.guard(folder / "items.parquet", IdMap.read)
    tensors = bundle.guard(folder / "seen.safetensors", read_tensors)
    seen = bundle.guard(folder / "seen.safetensors", lambda _: check_seen(tensors, len(users), len(items)))
    read_features = partial(read_item_features, names.columns.item)
    features = bundle.guard(folder / _FEATURES, read_features) if _FEATURES in config["files"] else None
    model = bundle.load_model(folder, config, device_here(device))
    bundle.guard(folder / "config.json", lambda _: check_sizes(model.space, len(users), len(items)))
    named = {"users": users, "items": items, "seen": seen, "item_features": features, "times": tensors.get("times")}
    return {"model": model, **named, "record": config["record"], **names._asdict()}
