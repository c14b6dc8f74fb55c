"""The data of a run: how a data set is split, where it came from, and the same data read again."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import polars as pl
from pydantic import Field

from recgraph import registry
from recgraph.config import Config, ConfigError
from recgraph.data.catalog import load_split
from recgraph.data.catalog.cards import FileCard, find_card
from recgraph.data.read import FEATURES, PARTS, LogFile, Reading, is_data_path
from recgraph.data.split import SealedSplit, Split
from recgraph.evaluate.nodes import ProbeConfig
from recgraph.models.base import Model
from recgraph.models.heterogeneous.base import NodeModel
from recgraph.train.record import DataRecord

#: name of a file of features -> its fingerprint, see
#: :meth:`recgraph.data.read.LogFile.fingerprint`; or of a frame or a graph in memory, whose
#: ``path`` is None
Fingerprints = Mapping[str, Mapping[str, Any]]
#: the name of a graph of relations among the features
_GRAPH = "graph"
#: rows of a frame that are written as text at a time; they may hold vectors
_ROWS = 1 << 12
_log = logging.getLogger(__name__)


class ProbeSettings(Config):
    """The settings of the linear probe beside those of a model and its training."""

    probe: Annotated[ProbeConfig, Field(description="the linear probe of a node task")] = (
        ProbeConfig()
    )


def check_task(cls: type[Model], dataset: str, of_nodes: bool) -> None:
    """Refuse a model that recommends where there are classes of nodes, and the other way round."""
    if of_nodes != issubclass(cls, NodeModel):
        what = "classes of nodes" if of_nodes else "interactions"
        models = [registry.load("model", name) for name in registry.names("model")]
        able = [each.key() for each in models if issubclass(each, NodeModel) == of_nodes]
        raise ConfigError(
            f"dataset {dataset!r} has {what}, which {cls.__name__} is not for; use {', '.join(able)}"
        )


class DataConfig(Config):
    """How a data set of the catalogue is split for a run."""

    split: Annotated[
        str | None,
        Field(
            description="split strategy; none: given parts, or what the data card says, else leave-one-out"
        ),
    ] = None
    split_options: Annotated[
        dict[str, Any], Field(default_factory=dict, description="its parameters")
    ]
    split_seed: Annotated[int, Field(ge=0, description="of splits that draw")] = 0
    reading: Annotated[
        Reading | None,
        Field(
            description="of a file of one's own: its columns (user, item, timestamp, rating, weight), encoding, ..."
        ),
    ] = None

    def completed(self, dataset: str) -> Self:
        """The settings with the columns of a file of one's own that are guessed; they do not change
        then.
        """
        if not is_data_path(dataset) or not isinstance(card := find_card(dataset), FileCard):
            return self
        reading = LogFile(card.data.file, self.reading or Reading()).completed()
        return self.model_copy(update={"reading": reading})

    def source_of(self, dataset: str) -> dict[str, Any]:
        """Where a split is from, for the record of a run: the data set, these settings, and which
        files it was.
        """
        values = self.model_dump(mode="json", exclude={"reading"})
        found = {"dataset": dataset, "settings": values}
        if dataset.endswith(".toml"):
            found["dataset"] = str(Path(dataset).absolute())
        elif is_data_path(dataset) and isinstance(card := find_card(dataset), FileCard):
            if self.reading is not None:
                values["reading"] = self.reading.model_dump(mode="json", exclude_defaults=True)
            found["dataset"] = card.data.file
            found["file"] = LogFile(card.data.file, self.reading or Reading()).fingerprint()
        features = self.features_of(dataset)
        return {**found, "features": features} if features else found

    def features_of(self, dataset: str) -> dict[str, dict[str, Any]]:
        """The fingerprints of the files of features beside a log of one's own, which no hash of a
        split covers.
        """
        if not isinstance(card := find_card(dataset), FileCard):
            return {}
        file = card.log_file
        return (
            file if self.reading is None else LogFile(file.path, self.reading)
        ).fingerprints_of_features()

    def split_of(self, dataset: str) -> Split:
        """The split of a data set of the catalogue, or of files of one's own that are given by
        their path.
        """
        return load_split(dataset, self.reading, self.split, self.split_seed, **self.split_options)


def source_of(split: Split | SealedSplit, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Where a split is from, for the record of a run: what is given of it, or a file of one's own
    where that is all of it; else its features."""
    files = split.interactions.files
    if given is not None or files is None:
        features = None if given is not None and "features" in given else features_of(split)
        return {**(given or {}), **({"features": features} if features else {})}
    settings = DataConfig.of(
        split=split.name,
        split_options=split.params,
        split_seed=split.seed or 0,
        reading=files.reading,
    )
    try:
        return settings.source_of(files.path)
    except FileNotFoundError:
        return {}  # it is gone since it was read


def split_again(
    data: DataRecord, path: str | Path | Mapping[str, str | Path] | None = None
) -> tuple[Split | None, Fingerprints | None]:
    """The split that a run was fitted on, made again and checked, and the fingerprints of its
    features now; None and None where its record names no data. ``path``: where files have moved to,
    as of :meth:`recgraph.train.run.Run.open`.
    """
    given = path if isinstance(path, Mapping) else {} if path is None else {"train": path}
    places = {name: str(Path(place).absolute()) for name, place in given.items()}
    if places and (data.file is None or {*places} - {"train", *PARTS, *FEATURES}):
        raise ValueError(
            f"{', '.join(places.values())}: the run was not made from such files ({', '.join(places)})"
        )
    if data.dataset is None:
        return None, None
    settings, place = DataConfig.of(data.settings), data.dataset
    if data.file is not None:
        place = places.pop("train", str(Path(place).absolute()))
        reading = (settings.reading or Reading()).model_copy(update=places)
        settings = settings.model_copy(update={"reading": reading} if places else {})
    split = settings.split_of(place)
    check_split(split, data)
    in_memory = any(each["path"] is None for each in (data.features or {}).values())
    return split, features_of(split) if in_memory else settings.features_of(place)


def check_split(split: Split | SealedSplit, data: DataRecord) -> None:
    """Refuse a split that is not the one that a run was fitted on."""
    if split.hash != data.split_hash:
        raise ValueError(
            f"data: its split hash {split.hash[:12]} is not the run's, {data.split_hash}"
        )


# -- features, which no hash of a split covers


def features_of(split: Split | SealedSplit) -> Fingerprints | None:
    """The fingerprints of the files of features that a split was read from (None: they are gone),
    else of its features in memory."""
    log = split.interactions
    if log.files is not None:
        try:
            return log.files.fingerprints_of_features()
        except FileNotFoundError:
            return None
    found: dict[str, dict[str, Any]] = {}
    for name, key in zip(FEATURES, (log.columns.user, log.columns.item), strict=True):
        if (frame := getattr(log, name)) is not None:
            found[name] = {"path": None, "rows": len(frame), "sha256": _digest(frame, key)}
    return (
        found if log.graph is None else {**found, _GRAPH: {"path": None, "sha256": log.graph.hash}}
    )


def _digest(frame: pl.DataFrame, key: str) -> str:
    """64 hex digits of the names of the columns and all values, whatever the order of the rows;
    columns of objects and bytes, which no model reads, count by name."""
    texts = frame.columns
    for name, dtype in frame.schema.items():
        if "Object" in str(dtype) or "Binary" in str(dtype):
            texts.remove(name)
    state, given = hashlib.sha256(json.dumps(frame.columns).encode()), frame.select(texts)
    order = frame[key].arg_sort()
    for first in range(0, len(order), _ROWS):
        state.update(given[order.slice(first, _ROWS)].write_ndjson().encode())
    return state.hexdigest()


def check_features(model: Model, then: Fingerprints | None, now: Fingerprints | None) -> None:
    """Refuse other features than a run was made with, where its model reads them; of a file beside
    a frame nothing is said. What a model does not read is only logged: it may be what titles are
    corrected in."""
    reads = (
        ("item_features",)
        if model.wanted_features
        else (*FEATURES, _GRAPH)
        if model.reads_graph
        else ()
    )
    for name, was in (then or {}).items():
        here = (now or {}).get(name)
        if (
            here is None
            or here["sha256"] == was["sha256"]
            or (here["path"] is None) != (was["path"] is None)
        ):
            continue
        if name in reads:
            raise ValueError(
                f"{name}: {type(model).__name__} reads it, and it is not what the run was made with"
            )
        _log.warning(
            "%s is not what the run was made with; %s does not read it", name, type(model).__name__
        )
