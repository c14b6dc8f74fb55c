"""Where independent tasks run: in this process, or on an engine that others provide.

What divides its work into pieces (a ranking by users, a product by rows, a log by files) takes an :class:`Engine` and
knows nothing further about it. :class:`Local` runs the pieces one after another; :mod:`recgraph.workers.engines` has
the engine of a cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

__all__ = ["Engine", "Local", "Piece", "TaskFailed", "failure"]

T = TypeVar("T")
R = TypeVar("R")


class TaskFailed(RuntimeError):
    """A task ended with an error, or its workers died each time that it was tried; the message names the task."""


@dataclass(frozen=True)
class Piece(Generic[T]):
    """One task.

    Attributes:
        name: for messages, e.g. ``"rows 0 to 4,095"``.
        value: what the function gets; its size is that of this task alone.
    """

    name: str
    value: T


class Engine(Protocol):
    """Runs a function on many pieces."""

    @property
    def size(self) -> int:
        """How many pieces it works on at a time."""

    def map(self, function: Callable[[Any, T], R], pieces: Iterable[Piece[T]], shared: Any = None) -> Iterator[R]:
        """``function(shared, piece.value)`` of each piece, in the order of the pieces.

        A piece may be begun several times, where workers die, and its result is given once: a function returns what
        it has found, or writes files that take their place whole.

        Args:
            function: of a module, so that other processes can import it.
            pieces: read as they are needed: a few for each worker are begun before an earlier one has its result.
            shared: what all pieces read; given to each worker once. Do not change it.

        Raises:
            TaskFailed: names the piece; of several, the first in their order.
            ValueError: one that the function raised, which says what is wrong in what was asked for; a note names the
                piece.
        """


class Local:
    """Runs the pieces one after another in this process."""

    size = 1

    def map(self, function: Callable[[Any, T], R], pieces: Iterable[Piece[T]], shared: Any = None) -> Iterator[R]:
        """See :meth:`Engine.map`."""
        for piece in pieces:
            try:
                result = function(shared, piece.value)
            except ValueError as error:
                failure(piece.name, error)
                raise
            except Exception as error:
                raise failure(piece.name, error) from error
            yield result


def failure(name: str, error: Exception) -> Exception:
    """What :meth:`Engine.map` raises for an error of a piece's function."""
    if isinstance(error, ValueError):
        error.add_note(f"in the task {name}")
        return error
    return TaskFailed(f"task {name}: {type(error).__name__}: {error}")
