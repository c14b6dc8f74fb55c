"""What a launcher (torchrun, accelerate, Slurm) tells each process that it starts, read without torch."""

from __future__ import annotations

import os


def is_launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return "RANK" in os.environ and _number("WORLD_SIZE", 1) > 1


def is_first_launched() -> bool:
    """Whether this process is the first of those that a launcher started together, or nobody launched it."""
    return not is_launched() or _number("RANK", 0) == 0


def local_rank() -> int:
    """The number of this process among those of its machine, from 0."""
    return _number("LOCAL_RANK", 0)


def _number(name: str, default: int) -> int:
    return int(os.environ.get(name) or default)


def refuse_launched(what: str, instead: str) -> None:
    """Refuse what one process must run where a launcher has started several.

    Args:
        what: is called, for the message.
        instead: what to do, for the message.
    """
    if is_launched():
        raise ValueError(f"{what} runs in one process, not in {os.environ['WORLD_SIZE']} (WORLD_SIZE): {instead}")
