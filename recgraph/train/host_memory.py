"""The memory of the host: what the steps of a training free stays with the process for the next step."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["freed_memory_kept"]

#: how much of what is free at the end of the heap a training keeps, in bytes: the most that mallopt takes. A step over
#: 2.5 million nodes frees several arrays of 320 MB; the peak is the same.
KEPT = 2**31 - 1
# parameters of mallopt, and what glibc begins with, or comes to by itself at most
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_TRIMMED, _LARGEST, _MAPPED = 64 * 2**20, 32 * 2**20, 65536

_lock, _users = threading.Lock(), 0


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within it the C library keeps what was freed; afterwards what is free goes back to the system.

    By itself glibc hands the end of its heap back whenever twice the largest freed array is free there, and maps each
    array of more than 32 MiB anew. The arrays of each step are then fresh pages, each a fault: 0.4 of the CPU time of
    LightGCN over 500,000 nodes (:doc:`/scale`). Other C libraries stay as they are.
    """
    global _users
    library = _glibc()
    if library is None:
        yield
        return
    mallopt, malloc_trim = library
    with _lock:
        _users += 1
        mallopt(_MMAP_MAX, 0)  # arrays of any size come from the heap
        mallopt(_TRIM_THRESHOLD, KEPT)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                # set by hand, neither threshold follows the sizes that are freed any more
                mallopt(_MMAP_THRESHOLD, _LARGEST)
                mallopt(_MMAP_MAX, _MAPPED)
                mallopt(_TRIM_THRESHOLD, _TRIMMED)
                malloc_trim(0)


def _glibc() -> tuple[Callable[[int, int], int], Callable[[int], int]] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(None)
        return library.mallopt, library.malloc_trim
    except (OSError, AttributeError):  # musl has neither
        return None
