"""Settings that another one leaves without effect: refused where they are given, taken where they were saved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from recgraph.config import Config

__all__ = ["refuse_unread", "saved_settings"]

_ARE_SAVED: ContextVar[bool] = ContextVar("are_saved", default=False)


@contextmanager
def saved_settings() -> Iterator[None]:
    """A block in which :func:`refuse_unread` refuses nothing: a model that an earlier version saved with settings
    without effect is what it was."""
    token = _ARE_SAVED.set(True)
    try:
        yield
    finally:
        _ARE_SAVED.reset(token)


def refuse_unread(config: Config, names: Iterable[str], why: str) -> None:
    """Refuse settings that are not their defaults and that nothing reads.

    Args:
        config: the settings.
        names: of those that nothing reads.
        why: what follows "has no effect", with what to do.

    Raises:
        ValueError: names the first, and its value.
    """
    for name in () if _ARE_SAVED.get() else names:
        value = getattr(config, name)
        if value != type(config).model_fields[name].get_default(call_default_factory=True):
            raise ValueError(f"{name} = {value!r} has no effect {why}")
