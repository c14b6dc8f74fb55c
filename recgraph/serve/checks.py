"""Where a bundle lies, and what its parts must be, which someone else may have made: checked before they are used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

import polars as pl
import torch
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError
from torch import Tensor

from recgraph.bounded.tables import read_frame
from recgraph.data.columns import Columns, TimeUnit
from recgraph.data.dataframe import FrameKind, from_native, without_categories
from recgraph.models.base import Space
from recgraph.sparse.ragged import Ragged
from recgraph.texts import listed

__all__ = [
    "Names",
    "bundle_of",
    "check_entries",
    "check_positive",
    "check_seen",
    "check_sizes",
    "device_here",
    "features_given",
    "names_of",
    "read_item_features",
]


def bundle_of(folder: str | Path) -> Path:
    """The folder of the bundle: that of a run which has one, else the given one."""
    folder = Path(folder)
    return folder / "bundle" if (folder / "bundle" / "config.json").is_file() else folder


class _Entries(BaseModel):
    # entries of later versions are read past
    model_config = ConfigDict(extra="allow", protected_namespaces=())


class _Need(_Entries):
    kind: StrictStr
    name: StrictStr
    module: StrictStr
    file: StrictStr | None
    sha256: StrictStr | None


class _Model(_Entries):
    key: StrictStr
    revision: StrictInt
    config: dict[str, Any]
    space: dict[str, Any]
    seed: Annotated[StrictInt | None, Field(ge=-(2**63), lt=2**64)] = None
    needs: list[_Need] = []
    item_features: dict[str, Any] | None = None


class _Config(_Entries):
    """``config.json``."""

    format: Any
    holds: StrictStr = "recommender"
    files: dict[str, StrictStr]
    model: _Model | None = None
    columns: dict[str, Any] | None = None
    record: dict[str, Any] | None = None
    target: StrictStr | None = None


def check_entries(config: Mapping[str, Any]) -> None:
    """Check the types of the entries of ``config.json``.

    Raises:
        ValueError: names the entries that do not fit.
    """
    try:
        _Config.model_validate(config)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:3]]
        raise ValueError("; ".join(wrong)[:500]) from None


def check_seen(tensors: Mapping[str, Tensor], n_users: int, n_items: int) -> Ragged:
    """The rows of what the users did.

    Raises:
        ValueError: they are not one row a user of indices of items, or times are not aligned with them.
    """
    values, offsets, times = tensors.get("values"), tensors.get("offsets"), tensors.get("times")
    if values is None or offsets is None or values.dim() != 1 or offsets.dim() != 1:
        raise ValueError("values and offsets must be lists of numbers")
    if values.dtype not in (torch.int32, torch.int64) or offsets.dtype != torch.int64:
        raise ValueError(f"values are {values.dtype} and offsets {offsets.dtype}, not int32 and int64")
    if len(offsets) != n_users + 1:
        raise ValueError(f"there are {len(offsets) - 1:,} rows, but users has {n_users:,} ids")
    if int(offsets[0]) != 0 or int(offsets[-1]) != len(values) or bool((offsets.diff() < 0).any()):
        raise ValueError(f"the offsets do not cut {len(values):,} values in rows")
    if len(values) and not (int(values.min()) >= 0 and int(values.max()) < n_items):
        outside = values[(values < 0) | (values >= n_items)]
        raise ValueError(f"item {int(outside[0])} does not exist: there are {n_items:,} items")
    if times is not None and (times.dtype != torch.int64 or times.shape != values.shape):
        raise ValueError(f"times are {times.dtype} of shape {tuple(times.shape)}, for {len(values):,} values")
    return Ragged(values.to(torch.int64), offsets)


class Names(NamedTuple):
    """How answers are written, and histories read: arguments of a recommender."""

    columns: Columns
    kind: FrameKind
    time_unit: TimeUnit
    time_format: str | None


def names_of(config: Mapping[str, Any]) -> Names:
    """How answers are written, by ``config.json``: the columns' names, the kind of frames, the unit and form of times.

    Raises:
        ValueError: another kind or unit, or a form that is no text.
    """
    kind, unit = config["kind"], config.get("time_unit", "none")
    for name, value, allowed in (("kind", kind, get_args(FrameKind)), ("time_unit", unit, get_args(TimeUnit))):
        if value not in allowed:
            raise ValueError(f"{name} = {value!r} must be one of {', '.join(allowed)}"[:300])
    if not isinstance(form := config.get("time_format"), str | None):
        raise ValueError(f"time_format = {form!r} must be a text"[:300])
    return Names(Columns.of(config["columns"]), kind, unit, form)


def read_item_features(key: str, path: Path) -> pl.DataFrame:
    """The item features of a bundle.

    Raises:
        ValueError: they have no column of ids; or the file is damaged.
    """
    frame = read_frame(path, memory_map=False)
    if key not in frame.columns:
        raise ValueError(f"there is no column {key!r} of item ids; the columns are {', '.join(frame.columns)}"[:500])
    return frame


def features_given(frame: Any, key: str) -> pl.DataFrame:
    """Item features of any kind of frame, with texts for categories.

    Raises:
        ValueError: they are no frame, or have no column of ids.
    """
    table = without_categories(frame if isinstance(frame, pl.DataFrame) else from_native(frame, "item_features"))
    if key not in table.columns:
        raise ValueError(f"item_features has no column {key!r} of item ids; its columns are {listed(table.columns)}")
    return table


def check_positive(**numbers: int) -> None:
    """Raise unless all numbers are at least 1.

    Raises:
        ValueError: names the first that is not.
    """
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} = {value} must be at least 1")


def check_sizes(space: Space | None, n_users: int, n_items: int) -> None:
    """Check that a model is of these users and items; one of a graph may know of no users.

    Raises:
        ValueError: it is of others.
    """
    if space is None or space.n_items != n_items or space.n_users not in (0, n_users):
        raise ValueError(
            f"the model is built for {space}, but users has {n_users:,} ids and items has {n_items:,}; give the ids "
            "that it was built for, in the order of their indices"
        )


def device_here(device: torch.device | str) -> torch.device:
    """The device with a name.

    Raises:
        ValueError: this machine, or this build of torch, does not have it.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        why = str(error).partition("\n")[0]
        raise ValueError(f"device = {str(device)!r} is not there: {why}; take 'cpu'") from None
    return torch.device(device)
