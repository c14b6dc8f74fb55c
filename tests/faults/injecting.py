"""Orders for the library that does harm in a process, :file:`faults.c`: what counts, what happens at which event."""

from __future__ import annotations

import ctypes
import errno
import mmap
import shutil
import signal
import subprocess
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path

SOURCE = Path(__file__).with_name("faults.c")


class Event(IntFlag):
    """What a process asks for below the folder of its case; the numbers are those of :file:`faults.c`."""

    CREATE = 1
    WRITE = 2
    SYNC = 4
    RENAME = 8
    REMOVE = 16
    FOLDER = 32
    ALLOCATE = 64


#: all that changes a disk
CHANGES = Event.CREATE | Event.WRITE | Event.SYNC | Event.RENAME | Event.REMOVE | Event.FOLDER
_NOTHING, _SIGNAL, _FAIL, _FAIL_ON, _CLOCK = range(5)


@dataclass(frozen=True)
class Harm:
    """What happens at an event.

    Attributes:
        name: in messages.
        action: of :file:`faults.c`.
        value: a signal, or the number of an error.
        kinds: the events that count.
        clock: seconds that the clock of all later calls is set back by.
    """

    name: str
    action: int
    value: int = 0
    kinds: Event = CHANGES
    clock: int = 0


COUNT = Harm("count", _NOTHING, kinds=CHANGES | Event.ALLOCATE)
KILL = Harm("SIGKILL", _SIGNAL, signal.SIGKILL)
TERMINATE = Harm("SIGTERM", _SIGNAL, signal.SIGTERM)
INTERRUPT = Harm("SIGINT", _SIGNAL, signal.SIGINT)
#: the process waits for what another does meanwhile, and is told to go on
PAUSE = Harm("SIGSTOP", _SIGNAL, signal.SIGSTOP)
FULL = Harm("disk full", _FAIL_ON, errno.ENOSPC, Event.CREATE | Event.WRITE | Event.FOLDER)
READ_ONLY = Harm("read-only", _FAIL_ON, errno.EROFS, CHANGES & ~Event.SYNC & ~Event.WRITE)
BROKEN = Harm("input/output error", _FAIL, errno.EIO, Event.WRITE | Event.SYNC)
NO_MEMORY = Harm("no memory", _FAIL_ON, errno.ENOMEM, Event.ALLOCATE)
CLOCK_BACK = Harm("clock back", _CLOCK, clock=86_400)


class Orders(ctypes.Structure):
    """As ``struct orders`` of :file:`faults.c`."""

    _fields_ = [
        ("count", ctypes.c_long),
        ("of_kind", ctypes.c_long * 7),
        ("at", ctypes.c_long),
        ("kinds", ctypes.c_int),
        ("action", ctypes.c_int),
        ("value", ctypes.c_int),
        ("hit", ctypes.c_int),
        ("clock", ctypes.c_long),
        ("root", ctypes.c_char * 1024),
        ("what", ctypes.c_char * 1024),
    ]


@dataclass(frozen=True)
class Seen:
    """What was counted.

    Attributes:
        of_kind: events of each kind.
        what: the event that was hit; empty where none was.
    """

    of_kind: tuple[int, ...]
    what: str

    def count(self, kinds: Event) -> int:
        """Events of some kinds."""
        return sum(count for number, count in enumerate(self.of_kind) if kinds & (1 << number))


def write_orders(path: Path, harm: Harm, at: int, root: Path) -> None:
    """Write the orders of a case, for all its processes."""
    orders = Orders(at=at, kinds=harm.kinds, action=harm.action, value=harm.value, clock=harm.clock)
    orders.root = str(root).encode()
    path.write_bytes(bytes(orders))


def read_orders(path: Path) -> Seen:
    """What the processes of a case have counted."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as there:
        orders = Orders.from_buffer_copy(there)
    kind, _, where = orders.what.decode(errors="replace").partition(" ")
    what = f"{(Event(int(kind)).name or '').lower()} {where}" if orders.hit else ""
    return Seen(tuple(orders.of_kind), what)


def compiler() -> str | None:
    """A C compiler, where there is one."""
    return shutil.which("cc") or shutil.which("gcc")


def build(folder: Path) -> Path:
    """Compile the library into a folder."""
    found, library = compiler(), folder / "libfaults.so"
    assert found is not None
    subprocess.run([found, "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl"], check=True)
    return library
