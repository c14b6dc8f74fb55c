"""What must be the same where a training continues."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recgraph.models.base import TrainableModel
from recgraph.train.config import FALLING, TrainConfig

__all__ = ["Fingerprint"]

# settings that may differ where a training continues: they do not alter its steps
_MAY_DIFFER = {"max_epochs", "patience", "tensorboard", "track", "track_folder", "checkpoint_seconds"}


class Fingerprint:
    """What a training is: model, settings, seed, and how many batches an epoch has.

    Attributes:
        value: the same as JSON values, for a checkpoint.
    """

    def __init__(self, model: TrainableModel, config: TrainConfig, seed: int, n_batches: int) -> None:
        self._model, self._config = type(model), type(config)
        self.value = self._with_identities(
            {
                "model": type(model).__name__,
                "config": model.config.model_dump(mode="json"),
                "training": config.model_dump(mode="json"),
                "seed": seed,
                "batches": n_batches,
            }
        )

    def _with_identities(self, value: dict[str, Any]) -> dict[str, Any]:
        """A fingerprint, also of an earlier version, with the settings by :meth:`Config.identity`."""
        training = self._config.identity_of(value["training"])
        # a schedule that goes down over max_epochs gives every step another rate where these differ
        is_laid_out = training.get("schedule") in FALLING and not training.get("schedule_epochs")
        may_differ = _MAY_DIFFER - {"max_epochs"} if is_laid_out else _MAY_DIFFER
        return {
            **value,
            "config": self._model.Config.identity_of(value["config"]),
            "training": {name: value for name, value in training.items() if name not in may_differ},
        }

    def differing(self, saved: dict[str, Any]) -> list[str]:
        """The names of what differs from :attr:`value` of a checkpoint, settings by their own names."""
        there, here = self._with_identities(saved), self.value
        names: list[str] = []
        for name in here:
            was, now = there.get(name), here[name]
            if was != now and isinstance(was, Mapping) and isinstance(now, Mapping):
                # max_epochs is in one alone where the other has a schedule that does not depend on it
                in_both = [key for key in now if key in was and was[key] != now[key]]
                names += in_both or [key for key in dict.fromkeys([*now, *was]) if was.get(key) != now.get(key)]
            elif was != now:
                names.append(name)
        return names or (["fingerprint"] if there != here else [])
