"""Functions of pieces, in a module that workers can import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch


def add(shared: int, value: int) -> int:
    return shared + value


def slow_first(shared: Any, value: int) -> int:
    """The first pieces take longest."""
    time.sleep(0.3 if value < 2 else 0)
    return value


def die_once(folder: Path, value: int) -> int:
    """Pieces 1 and 4 kill their process the first time; each attempt leaves a line."""
    with (folder / f"{value}.attempts").open("a") as file:
        file.write(f"{os.getpid()}\n")
    if value in (1, 4) and len((folder / f"{value}.attempts").read_text().splitlines()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def die(folder: Path, value: int) -> int:
    if value == 2:
        with (folder / "attempts").open("a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def fail(error: type[Exception], value: int) -> int:
    if value == 1:
        raise error("it cannot be")
    return value


def fail_late_and_early(shared: None, value: int) -> int:
    """Piece 2 fails at once, piece 0 later."""
    time.sleep(0.0 if value else 0.3)
    if value in (0, 2):
        raise ValueError(f"{value} cannot be")
    return value


is_half_done = False


def interrupted(folder: Path, value: int) -> int:
    """Piece 1 is in the middle of something when piece 0 fails; a process that has left it so cannot work on."""
    global is_half_done
    if is_half_done:
        raise RuntimeError("this process was interrupted in the middle of something")
    begun = folder / "begun"
    if value == 1:
        is_half_done = True
        begun.touch()
        for _ in range(6000):  # Ray's interrupt does not end a sleep
            time.sleep(0.01)
        is_half_done = False
    if value == 0:
        while not begun.exists():
            time.sleep(0.01)
        raise ValueError("it cannot be")
    return value


def unpacked(shared: Unpacked, value: int) -> tuple[int, int]:
    return os.getpid(), shared.times


def threads(shared: None, value: int) -> int:
    return torch.get_num_threads()


def own(shared: Any, name: str) -> str:
    """The class of a member that a file of the user's own has registered."""
    from recgraph import registry

    found = registry.load("weight", name)
    return f"{found.__module__}.{found.__qualname__} {type(shared).__qualname__}"


class Unpacked:
    """Counts how often this process has unpacked it."""

    count = 0

    def __init__(self) -> None:
        self.times = 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        Unpacked.count += 1
        self.times = Unpacked.count
