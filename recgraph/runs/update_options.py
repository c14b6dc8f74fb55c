"""How a run is updated, which models can be, and the error of an update that makes it worse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recgraph import registry
from recgraph.models.base import Model
from recgraph.train.callbacks import Observer

__all__ = ["RATE_SHARE", "SCHEDULED", "UpdateOptions", "UpdateRefused", "check_updatable"]

#: the learning rate of an update, as a share of that of a fit; an update of an update keeps the rate
RATE_SHARE = 0.25
#: settings of a training that an update has the defaults of
SCHEDULED = ("schedule", "drop_after", "drop_factor", "schedule_epochs", "warmup_steps", "validate_every")


class UpdateRefused(ValueError):
    """The updated model is worse than what there was, on the newest slice."""


@dataclass(frozen=True)
class UpdateOptions:
    """How a run is updated.

    Attributes:
        epochs: over the samples; the one with the best validation is kept. Models in closed form have none.
        replay: the share of old samples that is trained on again, drawn once.
        learning_rate: None: :data:`RATE_SHARE` of that of the run's training; an update of an update keeps the rate.
        valid: share of the new log, its newest, that is validated on and not trained on; 0: none, with ``force`` alone.
        fold_in: whether the newest slice becomes part of the users' histories once the update is accepted; models in
            closed form are then fitted to it, too.
        force: keep the result even if it is worse, or not validated.
        seed: of new rows, samples, dropout; None: that of the run.
        device: where to compute.
        progress: see :func:`recgraph.runs.fit.fit`.
        observers: called during the training.
        memory_limit: of the process.
        item_features: beside those of the new log; see :func:`recgraph.runs.new_log.read_new_log`.
    """

    epochs: int = 2
    replay: float = 0.1
    learning_rate: float | None = None
    valid: float = 0.1
    fold_in: bool = True
    force: bool = False
    seed: int | None = None
    device: str | None = None
    progress: bool | None = None
    observers: tuple[Observer, ...] = ()
    memory_limit: str | int | None = None
    item_features: Any = None

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs = {self.epochs} must be at least 1")
        for name, value, largest in (("replay", self.replay, 1.0), ("valid", self.valid, 0.9)):
            if not 0 <= value <= largest:
                raise ValueError(f"{name} = {value} must be a share from 0 to {largest:g}")
        if self.seed is not None and self.seed < 0:
            raise ValueError(f"seed = {self.seed} must be 0 or more")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ValueError(f"learning_rate = {self.learning_rate} must be above 0")
        if not self.valid and not self.force:
            raise ValueError("valid = 0 leaves nothing to compare with what there was; give a share, or force=True")


def check_updatable(model: Model) -> None:
    """Refuse a model that cannot take in a new log, by its class or by its settings.

    Raises:
        ValueError: says that it reads a graph, or names the models that can.
    """
    name = type(model).__name__
    if model.reads_graph and type(model).updated_by is not None:
        raise ValueError(
            f"{name} cannot be updated: as it is set, it reads a typed graph, and a new log has no relations of its "
            "users and items; fit it again on everything"
        )
    if model.updated_by is None:
        able = [key for key, cls in registry.classes("model") if cls.updated_by and not cls.reads_graph]
        raise ValueError(
            f"{name} cannot be updated; fit it again on everything. The models that can: {', '.join(able)}"
        )
