"""A bundle: all that serving needs in one directory, without pickle.

    config.json            format and library version, model, sizes, columns, record, checksums of the other files
    model.safetensors      parameters and buffers
    users.parquet          ids in the order of their indices, in their own type
    items.parquet
    seen.safetensors       what each user did: ``values``, ``offsets``
    item_features.parquet  where there are some

Nothing in it is executed when it is read: the model's class comes from the registry by its name.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
import torch
from safetensors.torch import load_file, save_file

from recgraph import __version__, registry
from recgraph.data.columns import Columns
from recgraph.data.ids import IdMap
from recgraph.data.native import FrameKind
from recgraph.models.base import Model, Space
from recgraph.sparse.ragged import Ragged

__all__ = ["FORMAT", "BundleError", "Contents", "load", "save"]

#: raised when a change makes older readers misread newer bundles
FORMAT = 1
_REQUIRED = ("model.safetensors", "users.parquet", "items.parquet", "seen.safetensors")
_FEATURES = "item_features.parquet"
_log = logging.getLogger(__name__)
T = TypeVar("T")


class BundleError(ValueError):
    """A folder is no bundle, is damaged, or was written by another version."""


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
    if folder.exists() and not (folder / "config.json").is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise BundleError(f"{folder} exists and is no bundle; choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    previous = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        temporary.mkdir()
        _write(contents, temporary)
        if folder.exists():
            os.replace(folder, previous)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(previous, ignore_errors=True)


def _write(contents: Contents, folder: Path) -> None:
    model = contents.model
    assert model.space is not None
    # clones: safetensors refuses tensors that share memory, as tied weights do
    state = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    contents.users.write(folder / "users.parquet")
    contents.items.write(folder / "items.parquet")
    seen = {"values": contents.seen.values.to(torch.int32), "offsets": contents.seen.offsets}
    save_file({name: value.contiguous() for name, value in seen.items()}, folder / "seen.safetensors")
    if contents.item_features is not None:
        contents.item_features.write_parquet(folder / _FEATURES)
    config = {
        "format": FORMAT,
        "recgraph": __version__,
        "model": {
            "key": model.key(),
            "revision": model.revision,
            "config": model.config.model_dump(mode="json"),
            "space": model.space.model_dump(mode="json"),
        },
        "columns": contents.columns.model_dump(mode="json"),
        "kind": contents.kind,
        "record": contents.record,
        "files": {path.name: _sha256(path) for path in sorted(folder.iterdir())},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def load(folder: Path, device: torch.device) -> Contents:
    """Read a bundle.

    Raises:
        BundleError: no bundle, a file is missing or damaged, an unknown format, or another revision of the model.
    """
    config = _read_config(folder)
    _check_files(folder, config["files"])
    features = folder / _FEATURES
    seen = _guard(folder / "seen.safetensors", load_file)
    return Contents(
        model=_load_model(folder, config["model"], device),
        users=_guard(folder / "users.parquet", IdMap.read),
        items=_guard(folder / "items.parquet", IdMap.read),
        seen=Ragged(seen["values"].to(torch.int64), seen["offsets"]),
        columns=Columns.of(config["columns"]),
        kind=config["kind"],
        item_features=_guard(features, pl.read_parquet) if _FEATURES in config["files"] else None,
        record=config["record"],
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise BundleError(f"{folder} is no bundle: it has no config.json")
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        written, files = config["format"], config["files"]
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BundleError(f"{path} is damaged: {error}") from None
    except (KeyError, TypeError):
        raise BundleError(f"{folder} is no bundle: its config.json has no 'format' and 'files'") from None
    if written != FORMAT:
        raise BundleError(
            f"{folder} has bundle format {written} (recgraph {config.get('recgraph')}), this is recgraph "
            f"{__version__} and reads format {FORMAT}; use the version that wrote it, or save the model again"
        )
    missing = [key for key in ("model", "columns", "kind", "record") if key not in config]
    missing += [name for name in _REQUIRED if name not in files]
    if missing:
        raise BundleError(f"{path} is damaged: it does not mention {', '.join(missing)}")
    return config


def _check_files(folder: Path, files: dict[str, str]) -> None:
    for name in (*_REQUIRED, _FEATURES):
        if name not in files:
            continue
        if not (folder / name).is_file():
            raise BundleError(f"{folder} is incomplete: {name} is missing; copy or save the bundle again")
        if _sha256(folder / name) != files[name]:
            raise BundleError(f"{folder / name} is damaged: its checksum differs; copy or save the bundle again")


def _load_model(folder: Path, config: dict[str, Any], device: torch.device) -> Model:
    try:
        cls: type[Model] = registry.load("model", config["key"])
    except ValueError as error:
        raise BundleError(
            f"{folder} holds a model that is not here; import the module that registers it: {error}"
        ) from None
    if cls.revision != config["revision"]:
        raise BundleError(
            f"{folder} holds revision {config['revision']} of {cls.__name__}, here it is revision {cls.revision} and "
            "would give other numbers; train again, or use the version of recgraph that wrote the bundle"
        )
    try:
        model = cls(cls.Config.of(config["config"])).build(Space.of(config["space"]))
    except ValueError as error:
        raise BundleError(f"{folder / 'config.json'} does not fit {cls.__name__}: {error}") from None
    state = _guard(folder / "model.safetensors", load_file)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise BundleError(f"{folder / 'model.safetensors'} does not fit {cls.__name__}: {error}") from None
    return model.to(device).eval()


def _guard(path: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(path)
    except Exception as error:  # each format raises types of its own for damaged files
        raise BundleError(f"{path} cannot be read: {error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
