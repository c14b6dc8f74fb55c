"""Commands that a launcher starts on several processes: which may be, how they join, and which of them speaks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

#: commands that several processes can run together, and how others are started instead
_TOGETHER = ("train", "evaluate", "update")
_INSTEAD = {
    "tune": "start it without a launcher; --workers N starts processes of its own",
    "leaderboard": "start it without a launcher; `recgraph leaderboard run --workers N` starts processes of its own",
}


def rank() -> int | None:
    """The rank that a launcher gave this process; None where it is no one of several. It costs no torch then."""
    if "RANK" not in os.environ:
        return None
    from recgraph.ranks import launched_rank

    return launched_rank()


def check_command(name: str | None) -> None:
    """Refuse a command that several processes cannot run together.

    Raises:
        ValueError: says how to start it.
    """
    if name is not None and name not in _TOGETHER and rank() is not None:
        from recgraph.ranks import refuse_launched

        instead = _INSTEAD.get(name, "start it without a launcher")
        refuse_launched(f"`recgraph {name}`", f"{instead}; those that run on several are {', '.join(_TOGETHER)}")


@contextlib.contextmanager
def alongside(context: Any) -> Iterator[None]:
    """The block in which a command runs; of several processes the first alone prints."""
    with contextlib.ExitStack() as stack:
        context.obj = stack
        if rank():
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield


def join(context: Any) -> None:
    """Connect the processes of a command until it ends."""
    if rank() is not None:
        from recgraph.ranks import together

        context.obj.enter_context(together())


def is_silent(error: BaseException) -> bool:
    """Whether another process reports the error."""
    if not rank():
        return False
    from recgraph.ranks import is_shared

    return is_shared(error) or isinstance(error, KeyboardInterrupt)


def of_rank(message: str) -> str:
    """The message of an error, with the rank that has it."""
    return message if rank() is None else f"rank {rank()}: {message}"
