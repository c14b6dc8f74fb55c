"""The plan of a study: what is tuned and how, as one value that other processes can be given.

Models that recommend can be tuned, on data with a validation part to select on and a test part to seal.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from recgraph import registry
from recgraph.config import Config, ConfigError
from recgraph.data.catalog.cards import find_card
from recgraph.evaluate.metrics.names import import_all, modules_of
from recgraph.models.base import Model, TrainableModel
from recgraph.models.heterogeneous.base import GraphModel
from recgraph.runs.pretrained import InitItemsConfig
from recgraph.runs.run import Run
from recgraph.train.config import TrainConfig, refuse_training, training_config
from recgraph.tuning import objectives
from recgraph.tuning.space import SearchSpace
from recgraph.workers.heartbeat import GRACE, INTERVAL

__all__ = ["Objective", "Plan", "check_dataset", "check_model"]


Objective = Callable[[Run], "float | Sequence[float]"]


@dataclass(frozen=True)
class Plan:
    """What is tuned and how.

    Attributes:
        study: its name.
        model: the class.
        metrics: the objectives by their full names, see :func:`recgraph.tuning.objectives.canonical`.
        n_trials: how many trials of the study are to be finished, pruned ones included.
        fixed: settings that are not searched.
        given: how the space departs from the annotations.
        sampler, pruner: names.
        seed: of the sampler and, the same in each trial, of the training.
        device: where to train; None: CUDA where there is one, else the CPU.
        folder: of the study, or None.
        objective: values of a fitted run in place of its validation metrics, or None.
        interval, grace: of heartbeats, in seconds.
        source: where the split is from, for the records of runs; or None.
    """

    study: str
    model: type[Model]
    metrics: tuple[str, ...]
    n_trials: int
    fixed: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)
    sampler: str = "tpe"
    pruner: str = "median"
    seed: int = 0
    device: str | None = None
    folder: Path | None = None
    objective: Objective | None = None
    interval: float = INTERVAL
    grace: float = GRACE
    source: Mapping[str, Any] | None = None

    @property
    def is_trained(self) -> bool:
        """Whether the model is trained by gradients."""
        return issubclass(self.model, TrainableModel)

    @cached_property
    def space(self) -> SearchSpace:
        """The search space over the settings of the model and its training."""
        parts: dict[str, type[Config]] = {"model": self.model.Config}
        if self.is_trained:
            parts |= {"training": self._training, "items": InitItemsConfig}
        refuse_training(self.model, [*self.fixed, *self.given])
        return SearchSpace.of(parts, self.fixed, self.given)

    @property
    def _training(self) -> type[TrainConfig]:
        return training_config(self.model) if issubclass(self.model, TrainableModel) else TrainConfig

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        return [objectives.direction(metric) for metric in self.metrics]

    @property
    def selecting(self) -> str:
        """The metric that selects the best epoch of a trial."""
        return objectives.selecting(self.metrics)

    @property
    def can_prune(self) -> bool:
        """Whether what a training reports of each epoch is the objective."""
        return self.objective is None and objectives.can_prune(self.metrics)

    @property
    def max_epochs(self) -> int:
        """The most epochs that a trial may have."""
        dimension = self.space.dimensions.get("max_epochs")
        if dimension is None:
            return int(self.space.fixed.get("max_epochs", self._training().max_epochs))
        return int(max(dimension.choices) if dimension.choices else dimension.high or 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for :meth:`from_dict`; classes and functions by the name that imports them.

        Raises:
            ConfigError: the model or the objective cannot be imported by another process.
        """
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values["model"] = _reference(self.model)
        values["objective"] = _reference(self.objective) if self.objective is not None else None
        values["folder"] = str(self.folder) if self.folder is not None else None
        if self.objective is None:
            values["modules"] = modules_of(name for name in self.metrics if name != objectives.SECONDS)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        found = dict(values)
        import_all(found.pop("modules", ()))  # a user's own metrics are known once their modules are imported
        found["model"] = _resolve(found["model"])
        found["objective"] = _resolve(found["objective"]) if found["objective"] is not None else None
        found["folder"] = Path(found["folder"]) if found["folder"] is not None else None
        found["metrics"] = tuple(found["metrics"])
        return cls(**found)


def _reference(thing: Any) -> str:
    name = f"{thing.__module__}:{getattr(thing, '__qualname__', '')}"
    if thing.__module__ == "__main__" or "<" in name:
        raise ConfigError(
            f"workers > 1 needs {name} in a module that a worker can import; use workers = 1, or move it into a file "
            "of its own and import that: rg.import_file('FILE.py'), --import FILE.py"
        )
    return name


def _resolve(reference: str) -> Any:
    module, _, path = reference.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        # a module of the library that has moved since
        if not module.startswith("recgraph.") or not module.startswith(f"{error.name}"):
            raise
        return registry.load("model", path)
    for name in path.split("."):
        found = getattr(found, name)
    return found


_INSTEAD = "settings on graphs are given by hand (recgraph train ... --set key=value)"


def check_model(cls: type[Model]) -> None:
    """Refuse a model that embeds the nodes of a graph.

    Raises:
        ConfigError: names what to use instead.
    """
    if issubclass(cls, GraphModel):
        raise ConfigError(
            f"model {cls.__name__} embeds the nodes of a graph, selected by its loss: there is no validation metric to "
            f"tune it for; tune a model that recommends (recgraph models); {_INSTEAD}"
        )


def check_dataset(name: str) -> None:
    """Refuse a data set with classes of nodes.

    Raises:
        ConfigError: names what to use instead.
    """
    if find_card(name).task == "nodes":
        raise ConfigError(
            f"dataset {name!r} is a graph with classes of nodes: it has no validation part of interactions to tune on "
            f"and no test part to keep sealed; take a data set with interactions (recgraph data list); {_INSTEAD}"
        )
