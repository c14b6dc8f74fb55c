"""The plan of a study: what is tuned and how, as one value that other processes are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from recgraph.config import Config
from recgraph.models.base import Model, TrainableModel
from recgraph.train.config import refuse_training, training_config
from recgraph.train.pretrained import InitItemsConfig
from recgraph.train.run import Run
from recgraph.tuning import objectives
from recgraph.tuning.space import SearchSpace

Objective = Callable[[Run], float | Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is tuned and how.

    Attributes:
        study: its name.
        model: the class.
        metrics: the objectives by their full names, see
            :func:`recgraph.tuning.objectives.canonical`.
        n_trials: how many trials of the study are to be finished, pruned ones included.
        fixed: settings that are not searched.
        given: how the space departs from the annotations.
        sampler, pruner: names.
        seed: of the sampler and, the same in each trial, of the training.
        device: where to train; None: CUDA where there is one, else the CPU.
        folder: of the study, or None.
        objective: values of a fitted run in place of its validation metrics, or None.
        source: where the split is from, for the records of runs.
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
    source: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def space(self) -> SearchSpace:
        """The search space over the settings of the model and its training."""
        refuse_training(self.model, [*self.fixed, *self.given])
        parts: dict[str, type[Config]] = {"model": self.model.Config}
        if issubclass(self.model, TrainableModel):
            parts["training"] = training_config(self.model)
            parts["items"] = InitItemsConfig
        return SearchSpace.of(parts, self.fixed, self.given)

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        return [objectives.direction(metric) for metric in self.metrics]

    @property
    def selecting(self) -> str:
        """The metric that selects the best epoch of a trial."""
        return objectives.selecting(self.metrics)

    @property
    def selection(self) -> dict[str, str]:
        """:attr:`selecting` as a setting of the training; nothing for a model that is not trained
        by gradients.
        """
        if issubclass(self.model, TrainableModel):
            return {"metric": self.selecting}
        return {}

    @property
    def can_prune(self) -> bool:
        """Whether what a training reports of each epoch is the objective."""
        return self.objective is None and objectives.can_prune(self.metrics)

    @property
    def max_epochs(self) -> int:
        """The most epochs that a trial may have."""
        if "max_epochs" in self.space.dimensions:
            return int(max(self.space.dimensions["max_epochs"].extremes))
        return int(self.space.defaults.get("max_epochs", 1))
