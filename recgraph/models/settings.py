"""Settings of models. One that another leaves without effect is refused where it is given, and taken where it was
saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Self

from pydantic import model_validator

from recgraph.config import Config
from recgraph.parts import check_options

__all__ = ["ModelConfig", "saved_settings"]

#: options that models give to their parts: widths, sizes, the graph and the seed
_GIVEN = frozenset({"dim", "graph", "hidden_dim", "in_dim", "n_items", "out_dim", "seed"})

_ARE_SAVED: ContextVar[bool] = ContextVar("are_saved", default=False)


class ModelConfig(Config):
    """Settings of a model. Fields that models share have the same name everywhere."""

    @classmethod
    def given_to(cls, setting: str) -> frozenset[str]:
        return _GIVEN

    @model_validator(mode="after")
    def _all_have_an_effect(self) -> Self:
        if _ARE_SAVED.get():
            return self
        for name, why in self.unread().items():
            value = getattr(self, name)
            if value != type(self).model_fields[name].get_default(call_default_factory=True):
                raise ValueError(f"{name} = {value!r} has no effect {why}")
        check_options(self)
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
