"""Settings of models. One that another leaves without effect is refused where it is given, and taken where it was
saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self

from pydantic import ConfigDict, model_validator

from recgraph import registry
from recgraph.config import Config

__all__ = ["ModelConfig", "chosen", "saved_settings"]

_ARE_SAVED: ContextVar[bool] = ContextVar("are_saved", default=False)


class ModelConfig(Config):
    """Settings of a model. Fields that models share have the same name everywhere."""

    model_config = ConfigDict(allow_inf_nan=False)

    @model_validator(mode="after")
    def _all_have_an_effect(self) -> Self:
        if _ARE_SAVED.get():
            return self
        for name, why in self.unread().items():
            if name in self.tolerated:
                continue
            value = getattr(self, name)
            if value != type(self).model_fields[name].get_default(call_default_factory=True):
                raise ValueError(f"{name} = {value!r} has no effect {why}")
        return self


@contextmanager
def saved_settings() -> Iterator[None]:
    """A block in which settings without effect are not refused: a model that an earlier version saved with some is what
    it was."""
    token = _ARE_SAVED.set(True)
    try:
        yield
    finally:
        _ARE_SAVED.reset(token)


def chosen(kind: str, name: str) -> Any:
    """The class of a part that a setting chooses; None where there is none, which is an error where it is made."""
    try:
        return registry.load(kind, name)
    except Exception:  # also of a stranger's module
        return None
