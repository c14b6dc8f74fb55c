"""Commands that a launcher starts on several processes: which may be, how they join, and which of them speaks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from recgraph.launcher import is_first_launched, is_launched, refuse_launched

#: commands that several processes can run together, and how others are started instead
_TOGETHER = ("train", "evaluate", "update")
_INSTEAD = {
    "tune": "start it without a launcher; --workers N starts processes of its own",
    "leaderboard": "start it without a launcher; `recgraph leaderboard run --workers N` starts processes of its own",
}


def check_command(name: str | None) -> None:
    """Refuse a command that several processes cannot run together.

    Raises:
        ValueError: says how to start it.
    """
    if name is not None and name not in _TOGETHER:
        instead = _INSTEAD.get(name, "start it without a launcher")
        refuse_launched(f"`recgraph {name}`", f"{instead}; those that run on several are {', '.join(_TOGETHER)}")


@contextlib.contextmanager
def alongside(context: Any) -> Iterator[None]:
    """The block in which a command runs; of several processes the first alone prints."""
    with contextlib.ExitStack() as stack:
        context.obj = stack
        if not is_first_launched():
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield


def join(context: Any) -> None:
    """Connect the processes of a command until it ends."""
    if is_launched():
        from recgraph.ranks import together

        context.obj.enter_context(together())


def is_silent(error: BaseException) -> bool:
    """Whether another process reports the error."""
    if not is_launched():
        return False
    from recgraph.ranks import is_told

    return (is_told(error) or isinstance(error, KeyboardInterrupt)) and not is_first_launched()


def of_rank(message: str) -> str:
    """The message of an error, with the rank that has it."""
    return f"rank {os.environ['RANK']}: {message}" if is_launched() else message
