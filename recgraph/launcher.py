"""What a launcher (torchrun, accelerate, Slurm) tells each process that it starts, read without torch."""

from __future__ import annotations

import os

__all__ = ["is_first_launched", "is_launched", "local_rank", "refuse_launched"]


def is_launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1 and "RANK" in os.environ


def is_first_launched() -> bool:
    """Whether this process is the first of those that a launcher started together, or nobody launched it."""
    return not (is_launched() or "LOCAL_RANK" in os.environ) or int(os.environ.get("RANK", 0)) == 0


def local_rank() -> int:
    """The number of this process among those of its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", 0))


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
