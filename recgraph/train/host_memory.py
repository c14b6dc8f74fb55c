"""The memory of the host: what the steps of a training free stays with the process for the next step."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["freed_memory_kept"]

#: how much of what is free a training keeps, in bytes
KEPT = 256 * 2**20
# parameters of mallopt; arrays up to the greatest threshold that it takes come from the heap
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _LARGEST = -1, -3, 32 * 2**20

_lock, _users = threading.Lock(), 0


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within it the C library keeps up to 256 MiB of what was freed; afterwards what is free goes back to the system.

    By itself glibc hands the end of its heap back whenever twice the largest freed array is free there. The arrays of
    each step are then fresh pages, each a fault: a third of the CPU time of LightGCN over 71,000 nodes of width 64
    (:doc:`/scale`). Arrays of more than 32 MiB are fresh pages in any case. Other C libraries stay as they are.
    """
    global _users
    library = _glibc()
    if library is None:
        yield
        return
    mallopt, malloc_trim = library
    with _lock:
        _users += 1
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, KEPT)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                mallopt(_TRIM_THRESHOLD, 2 * _LARGEST)  # the most that glibc comes to by itself
                malloc_trim(0)


def _glibc() -> tuple[Callable[[int, int], int], Callable[[int], int]] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(None)
        return library.mallopt, library.malloc_trim
    except (OSError, AttributeError):  # musl has neither
        return None
