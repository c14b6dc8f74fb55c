"""What a training frees stays with the process, and goes back to the system at its end."""

from __future__ import annotations

import ctypes
import resource
import subprocess
import sys

import pytest
import torch

from recgraph.train import host_memory
from recgraph.train.host_memory import freed_memory_kept

PAGE = resource.getpagesize()
# one of the sizes is above what glibc takes from its heap by itself
SIZES = [8 * 2**20] * 8 + [48 * 2**20] * 2

_PROGRAM = f"""
import contextlib, resource, sys
from recgraph.train.host_memory import freed_memory_kept

def work():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [bytearray(b'1') * size for size in {SIZES}]  # numpy would ask for huge pages, which it may get or not
    del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * {PAGE}

with freed_memory_kept() if sys.argv[1] == "kept" else contextlib.nullcontext():
    work()
    during = resident()
    faults = [work() for _ in range(3)]
print(max(faults), min(faults), during - resident())
"""


def _measured(how: str) -> list[int]:
    """The most and the fewest page faults of work that was done before, and what was given back at the end."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM, how], capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(host_memory._glibc() is None, reason="the C library is not glibc")
def test_pages_are_kept_within_and_given_back_afterwards() -> None:
    pages = sum(SIZES) // PAGE
    most, _, returned = _measured("kept")
    assert most < pages / 64
    assert returned > 0.8 * sum(SIZES)
    assert _measured("by itself")[1] > pages / 8


def test_it_may_be_nested_and_other_libraries_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with freed_memory_kept(), freed_memory_kept():
        assert host_memory._users in (0, 2)
    assert host_memory._users == 0

    class Musl:
        def __getattr__(self, name: str) -> None:
            raise AttributeError(name)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Musl())
    with freed_memory_kept():
        assert host_memory._users == 0
        assert torch.ones(2).sum() == 2
