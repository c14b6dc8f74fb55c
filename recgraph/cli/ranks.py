"""Commands that a launcher starts on several processes: which may be, how they join, and which of them speaks."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

from recgraph.launcher import LauncherError, is_first_launched, is_launched, refuse_launched

__all__ = ["alongside", "check_command", "is_silent", "join", "of_rank"]

#: commands that several processes can run together, and how others are started instead
_TOGETHER = ("train", "evaluate", "update")
_INSTEAD = {
    "tune": "start it without a launcher; --workers N starts processes of its own",
    "leaderboard": "start it without a launcher; `recgraph leaderboard run --workers N` starts processes of its own",
}
#: seconds that the first process has to say why none goes on: a launcher stops the others when one has ended
_TO_SPEAK = 2.0


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
    """Connect the processes of a command until it ends; where one fails, all end and say why."""
    if is_launched():
        from recgraph.workers.together import together

        context.obj.enter_context(together())


def is_silent(error: BaseException) -> bool:
    """Whether another process reports the error; each reports one in the launcher's variables."""
    if isinstance(error, LauncherError) or not is_launched():
        return False
    from recgraph.ranks import Ranks
    from recgraph.workers.together import is_mine_to_tell

    if Ranks.here().count > 1:
        return not is_mine_to_tell(error)
    if is_first_launched() or isinstance(error, TimeoutError):  # perhaps the first one never came
        return False
    time.sleep(_TO_SPEAK)
    return True


def of_rank(message: str, error: BaseException) -> str:
    """The message of an error; of one that this process alone has, with its rank, and the traceback is printed."""
    if isinstance(error, LauncherError) or not is_launched():
        return message
    from recgraph.ranks import Ranks
    from recgraph.workers.together import RankLost, is_lone

    if not is_lone(error):
        return message
    if not isinstance(error, RankLost | KeyboardInterrupt):
        traceback.print_exception(error, file=sys.stderr)
    return f"rank {Ranks.here().index}: {message}"
