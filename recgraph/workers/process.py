"""A process by machine, number and start, so that others can see whether it has ended."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

__all__ = ["Process", "this_process"]

#: ticks a second, the unit in which a start is kept
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
#: ticks by which two readings of one start may differ: the time of the machine's start is known to a second
_TOLERANCE = 2 * _TICKS


@dataclass(frozen=True)
class Process:
    """A process that cannot be mistaken for a later one with the same number.

    Attributes:
        host: the machine, since its last start, and the process's name space (a container has its own numbers).
        pid: its number.
        started: when it was started, in clock ticks since the machine's start.
    """

    host: str
    pid: int
    started: str

    @classmethod
    def find(cls, pid: int) -> Process | None:
        """The process that has a number on this machine now; None where there is none, or one that has ended."""
        started = _started(pid)
        return None if started is None else cls(_host(), pid, f"{started}")

    @classmethod
    def of(cls, value: dict[str, Any]) -> Process:
        """From plain values; other keys are ignored."""
        return cls(str(value["host"]), int(value["pid"]), str(value["started"]))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def is_here(self) -> bool:
        """Whether it is of this machine and name space."""
        return self.host == _host()

    @property
    def is_gone(self) -> bool:
        """Whether it is known to have ended. False says nothing about a process of another machine."""
        if not self.is_here:
            return False
        started = _started(self.pid)
        return started is None or not self.started.isdigit() or abs(started - int(self.started)) > _TOLERANCE


def this_process() -> Process:
    """The process that asks."""
    found = Process.find(os.getpid())
    assert found is not None
    return found


@cache
def _host() -> str:
    parts = [platform.node()]
    boot, space = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if boot.exists():
        parts.append(boot.read_text().strip())
    if space.exists():
        parts.append(os.readlink(space))
    return "/".join(parts)


def _started(pid: int) -> int | None:
    """When a running process was started, in ticks; None where there is none, or only the entry of an ended one."""
    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return None
        # counted from the machine's start: the time of day may be set while the process runs
        seconds: float = process.create_time() - psutil.boot_time()
        return round(seconds * _TICKS)
    except psutil.NoSuchProcess:
        return None
