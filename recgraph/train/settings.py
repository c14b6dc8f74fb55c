"""The data of a run: how a data set is split, where it came from, and the same data read again."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self

import polars as pl
from pydantic import Field

from recgraph import registry
from recgraph.config import Config, ConfigError
from recgraph.data.catalog import load_split
from recgraph.data.catalog.cards import FileCard, find_card
from recgraph.data.read import FEATURES, PARTS, LogFile, Reading
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
        models = map(partial(registry.load, "model"), registry.names("model"))
        able = [model.key() for model in models if issubclass(model, NodeModel) == of_nodes]
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
        card = _card_of_files(dataset)
        if card is None:
            return self
        return self.model_copy(update={"reading": self._log_file(card).completed()})

    def source_of(self, dataset: str) -> dict[str, Any]:
        """Where a split is from, for the record of a run: the data set, these settings, and which
        files it was.
        """
        settings = self.model_dump(mode="json", exclude={"reading"})
        source: dict[str, Any] = {"dataset": dataset, "settings": settings}
        card = _card_of_files(dataset)
        if card is not None:
            file = self._log_file(card)
            settings["reading"] = file.reading.model_dump(mode="json", exclude_defaults=True)
            source["dataset"] = card.data.file
            source["file"] = file.fingerprint()
        elif dataset.endswith(".toml"):
            source["dataset"] = str(Path(dataset).absolute())
        features = self.features_of(dataset)
        if features:
            source["features"] = features
        return source

    def features_of(self, dataset: str) -> dict[str, dict[str, Any]]:
        """The fingerprints of the files of features beside a log of one's own, which no hash of a
        split covers.
        """
        card = find_card(dataset)
        if not isinstance(card, FileCard):
            return {}
        return self._log_file(card).fingerprints_of_features()

    def _log_file(self, card: FileCard) -> LogFile:
        file = card.log_file
        return file if self.reading is None else LogFile(file.path, self.reading)

    def split_of(self, dataset: str) -> Split:
        """The split of a data set of the catalogue, or of files of one's own that are given by
        their path.
        """
        return load_split(dataset, self.reading, self.split, self.split_seed, **self.split_options)


def _card_of_files(dataset: str) -> FileCard | None:
    """The card of files of one's own that are given by their path alone."""
    card = find_card(dataset)
    if isinstance(card, FileCard) and not dataset.endswith(".toml"):
        return card
    return None


def source_of(split: Split | SealedSplit, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Where a split is from, for the record of a run: what is given of it, or a file of one's own
    where that is all of it; else its features."""
    files = split.interactions.files
    if given is None and files is not None:
        settings = DataConfig.of(
            split=split.name,
            split_options=split.params,
            split_seed=split.seed or 0,
            reading=files.reading,
        )
        with suppress(FileNotFoundError):  # it may be gone since it was read
            return settings.source_of(files.path)
        return {}
    source = dict(given or {})
    if "features" not in source:
        source["features"] = features_of(split)
    if not source["features"]:
        del source["features"]
    return source


def split_again(
    data: DataRecord, path: str | Path | Mapping[str, str | Path] | None = None
) -> tuple[SealedSplit | None, Fingerprints]:
    """The split that a run was fitted on, made again and checked, and the fingerprints of its
    features now; None and nothing where its record names no data. ``path``: where files have moved
    to, as of :meth:`recgraph.train.run.Run.open`.
    """
    if isinstance(path, str | Path):
        path = {"train": path}
    places = {name: str(Path(place).absolute()) for name, place in (path or {}).items()}
    movable = () if data.file is None else ("train", *PARTS, *FEATURES)
    if not places.keys() <= {*movable}:
        raise ValueError(
            f"{', '.join(places.values())}: the run was not made from such files ({', '.join(places)})"
        )
    if data.dataset is None:
        return None, {}
    settings, dataset = DataConfig.of(data.settings), data.dataset
    if data.file is not None:
        dataset = places.pop("train", str(Path(dataset).absolute()))
    if places:
        reading = (settings.reading or Reading()).model_copy(update=places)
        settings = settings.model_copy(update={"reading": reading})
    split = settings.split_of(dataset)
    check_split(split, data)
    features: Fingerprints = settings.features_of(dataset)
    if data.features and not features:  # they were in memory
        features = features_of(split)
    return split.sealed(), features


def check_split(split: Split | SealedSplit, data: DataRecord) -> None:
    """Refuse a split that is not the one that a run was fitted on."""
    if split.hash != data.split_hash:
        raise ValueError(
            f"data: its split hash {split.hash[:12]} is not the run's, {data.split_hash}"
        )


# -- features, which no hash of a split covers


def features_of(split: Split | SealedSplit) -> Fingerprints:
    """The fingerprints of the files of features that a split was read from (none: they are gone),
    else of its features in memory."""
    log = split.interactions
    features: dict[str, dict[str, Any]] = {}
    if log.files is not None:
        with suppress(FileNotFoundError):
            features = log.files.fingerprints_of_features()
        return features
    for name, key in (("user_features", log.columns.user), ("item_features", log.columns.item)):
        frame = getattr(log, name)
        if frame is not None:
            features[name] = {"path": None, "rows": len(frame), "sha256": _digest(frame, key)}
    if log.graph is not None:
        features[_GRAPH] = {"path": None, "sha256": log.graph.hash}
    return features


def _digest(frame: pl.DataFrame, key: str) -> str:
    """64 hex digits of the names of the columns and all values, whatever the order of the rows;
    columns of objects and bytes, which no model reads, count by name."""
    state = hashlib.sha256(json.dumps(frame.columns).encode())
    texts = [
        name for name, dtype in frame.schema.items() if not re.search("Object|Binary", str(dtype))
    ]
    given = frame.select(texts)
    order = frame[key].arg_sort()
    for first in range(0, len(order), _ROWS):
        state.update(given[order.slice(first, _ROWS)].write_ndjson().encode())
    return state.hexdigest()


def check_features(model: Model, then: Fingerprints | None, now: Fingerprints) -> None:
    """Refuse other features than a run was made with, where its model reads them; of a file beside
    a frame nothing is said. What a model does not read is only logged: it may be what titles are
    corrected in."""
    reads: tuple[str, ...] = ()
    if model.reads_graph:
        reads = (*FEATURES, _GRAPH)
    if model.wanted_features:
        reads = ("item_features",)
    for name, was in (then or {}).items():
        here = now.get(name, was)
        if here["sha256"] == was["sha256"] or (here["path"] is None) != (was["path"] is None):
            continue
        if name in reads:
            raise ValueError(
                f"{name}: {type(model).__name__} reads it, and it is not what the run was made with"
            )
        _log.warning(
            "%s is not what the run was made with; %s does not read it", name, type(model).__name__
        )
