"""The settings of a run that belong neither to its model nor to its training: the split of its data, the probe."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from recgraph.config import Config, prefixed, unprefixed
from recgraph.data.catalog import load_dataset, load_split
from recgraph.data.catalog.cards import GraphCard, find_card
from recgraph.data.split import Split
from recgraph.evaluate.node_probe import ProbeConfig

__all__ = ["DataConfig", "ProbeSettings", "probe_of"]

_PREFIX = "probe_"
#: the settings of the linear probe in the flat namespace of a run: ``probe_learning_rate`` and so on
ProbeSettings = prefixed(ProbeConfig, _PREFIX)


def probe_of(settings: Config) -> ProbeConfig:
    """The settings of the linear probe from those of a run."""
    return unprefixed(ProbeConfig, settings, _PREFIX)


class DataConfig(Config):
    """How a data set of the catalogue is split for a run."""

    split: Annotated[
        str | None, Field(description="split strategy; none: what the data card says, else leave-one-out")
    ] = None
    split_options: Annotated[dict[str, Any], Field(default_factory=dict, description="its parameters")]
    split_seed: Annotated[int, Field(ge=0, description="of splits that draw")] = 0

    def split_of(self, dataset: str) -> Split:
        """The split of a data set of the catalogue.

        Raises:
            ValueError: options without a strategy, where the data card says both.
        """
        if self.split is None and isinstance(find_card(dataset), GraphCard):
            if self.split_options:
                raise ValueError(f"split_options = {self.split_options} belong to a strategy; give split=... too")
            return load_split(dataset)
        return load_dataset(dataset).split(self.split or "leave-one-out", seed=self.split_seed, **self.split_options)
