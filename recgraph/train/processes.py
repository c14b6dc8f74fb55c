"""Processes by name: this one, and whether another one is still there."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["Process", "this_process"]


@dataclass(frozen=True)
class Process:
    """A process that cannot be mistaken for a later one with the same number.

    Attributes:
        host: the machine, since its last start, and the process's name space (a container has its own numbers).
        pid: its number.
        started: when it was started, in the machine's own terms.
    """

    host: str
    pid: int
    started: str

    @classmethod
    def of(cls, value: dict[str, Any]) -> Process:
        """From plain values, others left out."""
        return cls(str(value["host"]), int(value["pid"]), str(value["started"]))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def is_here(self) -> bool:
        """Whether it would be seen from here."""
        return self.host == _host()

    @property
    def is_gone(self) -> bool:
        """Whether it can be seen to have ended. False says nothing about a process of another machine."""
        return self.is_here and _started(self.pid) != self.started


def this_process() -> Process:
    """The process that asks."""
    started = _started(os.getpid())
    assert started is not None
    return Process(_host(), os.getpid(), started)


@cache
def _host() -> str:
    parts = [platform.node()]
    boot, space = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if boot.exists():
        parts.append(boot.read_text().strip())
    if space.exists():
        parts.append(os.readlink(space))
    return "/".join(parts)


def _started(pid: int) -> str | None:
    """When a process was started; None where there is no such process, or only what is left of one that has ended."""
    if Path("/proc/self/stat").exists():
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        # the name, in parentheses, may hold anything; the state is the first field after it, the start the 20th
        fields = text.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
