"""The settings of a run that belong neither to its model nor to its training: the split of its data, the probe."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field

from recgraph.config import Added, Config, prefixed, unprefixed
from recgraph.data.catalog import default_strategy, get, load_dataset, load_split
from recgraph.data.catalog.cards import FileCard, GraphCard, find_card
from recgraph.data.log_file import LogFile, is_data_path
from recgraph.data.reading import Reading
from recgraph.data.split import Split
from recgraph.evaluate.node_probe import ProbeConfig
from recgraph.launcher import local_rank
from recgraph.ranks import Ranks, of_all

__all__ = ["DataConfig", "LabelsConfig", "ProbeSettings", "prepare_once", "probe_of"]

_PREFIX = "probe_"
#: the settings of the linear probe in the flat namespace of a run: ``probe_learning_rate`` and so on
ProbeSettings = prefixed(ProbeConfig, _PREFIX)


def probe_of(settings: Config) -> ProbeConfig:
    """The settings of the linear probe from those of a run."""
    return unprefixed(ProbeConfig, settings, _PREFIX)


def prepare_once(dataset: str) -> None:
    """Have one of several processes prepare a data set of the catalogue, before all of them read it.

    The first process prepares it, then the first process of each other machine, which finds it prepared where machines
    share their files. A file of the user's own is not prepared: each process reads it.
    """
    ranks = Ranks.here()
    if ranks.count == 1 or is_data_path(dataset):
        return
    own_turn = 0 if ranks.is_first else 1 if local_rank() == 0 else 2

    def prepare(turn: int) -> None:
        if turn == own_turn:
            get(dataset)

    for turn in range(2):
        of_all(partial(prepare, turn))


def _as_name(value: Any) -> Any:
    """A split may be called by a number of labels."""
    return str(value) if type(value) is int else value


class LabelsConfig(Config):
    """Which classes of nodes training may read."""

    labels: Annotated[
        str | None,
        BeforeValidator(_as_name),
        Field(
            description="the split of the data set whose train nodes' classes are read, by n_classes and by parts that "
            "read labels (conr, supremix, label_distance); none: no classes are read"
        ),
    ] = None


class DataConfig(Config):
    """How a data set of the catalogue is split for a run."""

    decided_later: ClassVar[frozenset[str]] = frozenset({"split"})
    split: Annotated[
        str | None,
        Field(description="split strategy; none: given parts, or what the data card says, else leave-one-out"),
    ] = None
    split_options: Annotated[dict[str, Any], Field(default_factory=dict, description="its parameters")]
    split_seed: Annotated[int, Field(ge=0, description="of splits that draw")] = 0
    reading: Annotated[
        Reading | None,
        Added(),
        Field(description="of a file of one's own: its columns (user, item, timestamp, rating, weight), encoding, ..."),
    ] = None

    def completed(self, dataset: str) -> Self:
        """The settings with the columns of a file of one's own that are guessed; they do not change then.

        Raises:
            FileNotFoundError, ValueError: as :func:`recgraph.data.interactions.load_data`.
        """
        if not is_data_path(dataset) or not isinstance(card := find_card(dataset), FileCard):
            return self
        reading = LogFile(card.data.file, self.reading or Reading()).completed()
        return self.model_copy(update={"reading": reading})

    def source_of(self, dataset: str) -> dict[str, Any]:
        """Where a split is from, for the record of a run: the data set, these settings, and which files it was."""
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
        """The fingerprints of the files of features beside a log of one's own, which no hash of a split covers."""
        if not isinstance(card := find_card(dataset), FileCard):
            return {}
        file = card.log_file
        return (file if self.reading is None else LogFile(file.path, self.reading)).fingerprints_of_features()

    def split_of(self, dataset: str, again: bool = False) -> Split:
        """The split of a data set of the catalogue, or of files of one's own that are given by their path.

        Args:
            dataset: the data set.
            again: whether a run was fitted on it: earlier versions ignored a seed beside a card that has its own.

        Raises:
            ValueError: options or a seed without a strategy, where the data card says all; ``reading`` where there is
                a card.
        """
        if self.split is None and isinstance(find_card(dataset), GraphCard):
            for name in ("split_options", "split_seed"):  # the card has its own
                if (value := getattr(self, name)) and not again:
                    raise ValueError(f"{name} = {value} belongs to a strategy; give split=... too")
            return load_split(dataset)
        data = load_dataset(dataset, self.reading)
        return data.split(self.split or default_strategy(data), seed=self.split_seed, **self.split_options)
