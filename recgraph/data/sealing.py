"""The seal on test data: the error, and a block of code in which nothing of the library opens it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["SealedTestError", "check_open", "without_test_data"]

_closed: ContextVar[str | None] = ContextVar("recgraph_without_test_data", default=None)


class SealedTestError(RuntimeError):
    """The test part was read where it is sealed."""


@contextmanager
def without_test_data(doing: str) -> Iterator[None]:
    """Within the block every split of this thread refuses its test part, however it was made.

    Args:
        doing: what goes on, for the message.
    """
    token = _closed.set(doing)
    try:
        yield
    finally:
        _closed.reset(token)


def check_open() -> None:
    """Refuse to go on inside a block without test data.

    Raises:
        SealedTestError: we are in such a block.
    """
    doing = _closed.get()
    if doing is not None:
        raise SealedTestError(f"the test part is sealed while {doing}; evaluate on it once, after all choices are made")
