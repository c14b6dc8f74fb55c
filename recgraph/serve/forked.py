"""A process that was forked from one whose thread pools had begun is told so, where its first answer would never come.

A fork copies one thread alone. What waits for the others in the child, as polars does for those of its pool, waits for
ever; nothing can begin them again.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["ForkedProcess", "check_not_forked"]

#: the threads of polars' pool are called polars-0, polars-1, ...
_POOL = "polars-"
_parent: int | None = None
_had_pool = False


class ForkedProcess(RuntimeError):
    """The process was forked from one with threads that it lacks, and would wait for them for ever."""


def check_not_forked() -> None:
    """Refuse to go on in a process that was forked after the pool of polars had begun.

    Raises:
        ForkedProcess: says how such processes are started instead.
    """
    if _parent is not None:
        raise ForkedProcess(
            f"process {os.getpid()} was forked from process {_parent} after that had read a bundle or a frame: it has "
            "no copy of the threads of polars and would wait for them for ever. Load the recommender in each worker "
            "instead (gunicorn without --preload), or start workers with "
            'multiprocessing.get_context("spawn"), which pickles the recommender; threads of one process can share it'
        )


def _pool_has_begun() -> bool:
    """Whether this process has threads of polars' pool, where the system tells (Linux)."""
    try:
        names = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
    except OSError:  # another system, or a thread that ended meanwhile
        return False
    return any(name.startswith(_POOL) and name[len(_POOL)].isdecimal() for name in names)


def _before() -> None:
    global _had_pool
    _had_pool = _parent is None and _pool_has_begun()


def _in_child() -> None:
    global _parent
    if _had_pool:
        _parent = os.getppid()


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(before=_before, after_in_child=_in_child)
