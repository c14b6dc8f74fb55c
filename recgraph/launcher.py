"""What a launcher (torchrun, accelerate, Slurm) tells each process that it starts, read without torch."""

from __future__ import annotations

import os
from typing import NamedTuple

__all__ = [
    "LauncherError",
    "Meeting",
    "is_first_launched",
    "is_launched",
    "local_rank",
    "meeting",
    "refuse_launched",
]


class LauncherError(ValueError):
    """A variable that a launcher sets is missing or has an invalid value; the message names it."""


class Meeting(NamedTuple):
    """Which of the processes this one is, and where they find one another: at a port of the machine of rank 0."""

    rank: int
    n_ranks: int
    host: str
    port: int


def is_launched() -> bool:
    """Whether a launcher started this process as one of several.

    Raises:
        LauncherError: ``WORLD_SIZE`` is not a number, or ``RANK`` is no number below it.
    """
    if "RANK" not in os.environ:
        return False
    count = _number("WORLD_SIZE", 1)
    if count > 1 and _number("RANK", 0) >= count:
        raise LauncherError(f"RANK = {os.environ['RANK']!r} must be below WORLD_SIZE = {count}: ranks count from 0")
    return count > 1


def is_first_launched() -> bool:
    """Whether this process is the first of those that a launcher started together, or nobody launched it."""
    return not (is_launched() or "LOCAL_RANK" in os.environ) or _number("RANK", 0) == 0


def local_rank() -> int:
    """The number of this process among those of its machine, from 0."""
    return _number("LOCAL_RANK", 0)


def meeting() -> Meeting:
    """What the variables of a process that was launched say of where all meet.

    Raises:
        LauncherError: a variable is missing or invalid.
    """
    rank, count = _number("RANK", 0), _number("WORLD_SIZE", 1)
    for name, what in {"MASTER_ADDR": "the name of rank 0's machine", "MASTER_PORT": "a free port there"}.items():
        if not os.environ.get(name):
            raise LauncherError(f"{name} is not set, and WORLD_SIZE = {count}: give all ranks {what} in {name}")
    port = _number("MASTER_PORT", 0)
    if not 0 < port < 2**16:
        raise LauncherError(f"MASTER_PORT = '{port}' must be a port, from 1 to 65535, e.g. 29500")
    return Meeting(rank, count, os.environ["MASTER_ADDR"], port)


def _number(name: str, default: int) -> int:
    """What a variable says; the default where it is not set."""
    text = os.environ.get(name) or str(default)
    if not (text.isascii() and text.isdigit()):
        raise LauncherError(
            f"{name} = {text!r} must be a whole number, as launchers set it; unset it where nobody launched the process"
        )
    return int(text)


def refuse_launched(what: str, instead: str) -> None:
    """Refuse what one process must run where a launcher has started several: each would start trainings of its own,
    and the gradients of all would be averaged.

    Args:
        what: is called, for the message.
        instead: what to do, for the message.

    Raises:
        ValueError: this process is one of several.
    """
    if is_launched():
        raise ValueError(
            f"{what} runs in one process, and a launcher has started {os.environ['WORLD_SIZE']} (WORLD_SIZE): {instead}"
        )
