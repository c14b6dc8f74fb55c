"""The paths that a board's file gives: they count from the file on, and addresses have them as they are written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from recgraph import registry
from recgraph.config import ConfigError
from recgraph.data.catalog.cards import card_files, with_train
from recgraph.data.log_file import fitting, is_data_path
from recgraph.data.reading import PATHS
from recgraph.models.base import TrainableModel
from recgraph.runs.inputs import INPUTS
from recgraph.runs.pretrained import InitItemsConfig

__all__ = ["with_data", "with_inputs"]


def with_data(values: Mapping[str, Any], board: Path) -> dict[str, Any]:
    """The values with the path of a file of one's own as the data set, and with how it is read in the protocol.

    ``data`` is that path, or a table of ``file`` (``train``, beside ``valid`` or ``test``) and the settings of
    :class:`recgraph.data.reading.Reading`. Paths count from the board's file on; those that are not absolute stay
    so in ``data_places``, so that a folder which is moved as a whole keeps its addresses.
    """
    found, places = _with_reading(values, board), values["places"]
    data = with_train(found.pop("data", None))
    if data is None:
        dataset = found.setdefault("dataset", board.stem)
        if not isinstance(dataset, str):
            raise ConfigError(f"dataset = {dataset!r} must be the name of a data set, or the path of a card or a file")
        if dataset.endswith(".toml"):
            found["dataset"] = _place(board, dataset)
            places |= {found["dataset"]: dataset}  # also before, addresses had it as it is written
        elif dataset not in card_files() and is_data_path(dataset):
            found["dataset"] = _path(board, dataset)
        return found
    table = {"file": data} if isinstance(data, str) else dict(data) if isinstance(data, Mapping) else {}
    file = table.pop("file", None)
    if not isinstance(file, str):
        raise ConfigError(f"data = {data!r} must be the path of a file, or a table {{file = ..., user = ..., ...}}")
    if "dataset" in found:
        raise ConfigError(f"dataset = {found['dataset']!r} and data exclude one another; give one of them")
    protocol = found.get("protocol", {})
    for name in PATHS:
        if isinstance(written := table.get(name), str):
            table[name] = _path(board, written)
            places.pop(table[name], None)  # what [protocol] reading says of the same file does not count
            if not Path(written).is_absolute():
                found["data_places"][table[name]] = Path(os.path.normpath(written)).as_posix()
    if table:
        reading = protocol.get("reading", {}) if isinstance(protocol, Mapping) else None
        if not isinstance(reading, Mapping):
            raise ConfigError(f"protocol = {protocol!r} and its reading must be tables; begin them with [protocol]")
        found["protocol"] = {**protocol, "reading": {**reading, **table}}
    return found | {"dataset": _path(board, file)}


def _path(board: Path, file: str) -> str:
    return os.path.normpath((board.parent / file).absolute())


def _place(board: Path, file: str) -> str:
    """A path from the board's file on; one that is there from the current folder on alone is taken, as earlier versions
    did with cards, ``[protocol] reading`` and teachers."""
    path = _path(board, file)
    return file if not _is_there(path) and _is_there(file) else path


def _is_there(path: str) -> bool:
    """Whether there is such a file or folder, or a file that fits the pattern."""
    return os.path.exists(path) or bool(fitting(path))


def _with_reading(values: Mapping[str, Any], board: Path) -> dict[str, Any]:
    """The values with the paths of ``[protocol] reading`` from the board's file on."""
    protocol = values.get("protocol")
    reading = protocol.get("reading") if isinstance(protocol, Mapping) else None
    if not isinstance(protocol, Mapping) or not isinstance(reading, Mapping):
        return dict(values)
    return {**values, "protocol": {**protocol, "reading": _placed(reading, PATHS, board, values["places"])}}


def with_inputs(values: Mapping[str, Any], board: Path) -> dict[str, Any]:
    """The values with the runs and bundles that the models read (:data:`recgraph.runs.inputs.INPUTS`) from the board's
    file on."""
    found, places = dict(values), values["places"]
    inputs = [_inputs_of(entry) for entry in values["models"]]
    found["models"] = [
        {**entry, "settings": _placed(entry["settings"], own, board, places)}
        if own and isinstance(entry.get("settings"), Mapping)
        else entry
        for entry, own in zip(values["models"], inputs, strict=True)
    ]
    if isinstance(training := values.get("training"), Mapping):
        found["training"] = _placed(training, {name for own in inputs for name in own}, board, places)
    return found


def _inputs_of(entry: Mapping[str, Any]) -> list[str]:
    """The settings of a model that are folders."""
    try:
        cls = registry.load("model", entry["model"])
    except (KeyError, TypeError, ValueError):  # no model: an error where it is needed
        return []
    known = {*cls.Config.model_fields, *(InitItemsConfig.model_fields if issubclass(cls, TrainableModel) else ())}
    return [name for name in INPUTS if name in known]


def _placed(settings: Mapping[str, Any], names: Iterable[str], board: Path, places: dict[str, str]) -> dict[str, Any]:
    """The settings with some paths from the board's file on; addresses have them as they are written, as before."""
    found = dict(settings)
    for name in names:
        if isinstance(written := found.get(name), str):
            found[name] = _place(board, written)
            places[found[name]] = written
    return found
