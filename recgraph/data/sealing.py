"""The seal on test data: its error, and a block of code in which no split gives out its test part.

Who may see the test part:

- Training, early stopping and tuning get a :class:`~recgraph.data.split.SealedSplit`. It holds no test row, and its
  ``test`` raises :class:`SealedTestError`.
- ``unseal(reason)`` opens it, once all choices are made. The reason is logged and remembered.
- Inside :func:`without_test_data` (a fit, a trial of a study) every split and node task of the thread refuses its test
  part, whichever handle the code holds.
- On disk the test rows are a file of their own, ``test/test.parquet``. The folder that a tuner's workers get has no
  such file.

The seal guards against mistakes and against code that goes through this interface, not against a program that searches
the disk or the memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NoReturn

#: what the innermost block is doing, or None outside of one
_doing: ContextVar[str | None] = ContextVar("recgraph_without_test_data", default=None)


class SealedTestError(RuntimeError):
    """The test part was read where it is sealed."""


@contextmanager
def without_test_data(doing: str) -> Iterator[None]:
    """Within the block every split of this thread refuses its test part; errors say what it is ``doing``."""
    token = _doing.set(doing)
    try:
        yield
    finally:
        _doing.reset(token)


def check_open() -> None:
    """Raise inside a block without test data.

    Raises:
        SealedTestError: the code runs in such a block.
    """
    doing = _doing.get()
    if doing is not None:
        raise SealedTestError(f"the test part is sealed while {doing}; evaluate on it once, after all choices are made")


def refuse_to_unseal() -> NoReturn:
    """What a split without a test part does where it is unsealed."""
    raise SealedTestError("this copy of the split holds no test part; unseal the split that it was made from")
