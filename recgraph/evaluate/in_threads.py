"""Groups of users ranked by several threads, each of which computes alone, so that no bit differs from one thread's.

A product of a group is too small to be worth sharing between cores, and Python's own work is not shared at all; two
groups at a time share both, as torch lets other threads run while it computes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

__all__ = ["in_threads"]

T = TypeVar("T")
R = TypeVar("R")
#: tasks that wait or are done for each thread, beside the one that it does
_AHEAD = 2


def in_threads(do: Callable[[T], R], tasks: Sequence[T], n_threads: int) -> Iterator[R]:
    """``do(task)`` of each task, in their order; with one thread, or one task, in the caller's.

    The first task is done before any other: what is made at a first call and kept is made once. However it ends, no
    thread is left.
    """
    if n_threads < 2 or len(tasks) < 2:
        yield from map(do, tasks)
        return
    pool = ThreadPoolExecutor(n_threads, "recgraph-rank", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool.submit(do, tasks[0]).result()
        rest = iter(tasks[1:])
        waiting: deque[Future[R]] = deque(pool.submit(do, task) for task in islice(rest, (1 + _AHEAD) * n_threads))
        while waiting:
            done = waiting.popleft().result()
            waiting.extend(pool.submit(do, task) for task in islice(rest, 1))
            yield done
    finally:
        pool.shutdown(cancel_futures=True)
        # threads that begin later take the number that was set last
        torch.set_num_threads(n_threads)
