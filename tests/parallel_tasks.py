"""Functions of pieces, and a metric of a user's own, in a module that workers and entry points can
import.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recgraph.evaluate.metrics import Metric, RankedHits


def add(shared: int, value: int) -> int:
    return shared + value


def slow_first(shared: Any, value: int) -> int:
    """The first piece takes longest."""
    time.sleep(0.0 if value else 0.3)
    return value


def die_once(folder: Path, value: int) -> int:
    """Piece 1 kills its process the first time; each attempt leaves a line."""
    with (folder / f"{value}.attempts").open("a") as file:
        file.write(f"{os.getpid()}\n")
    if value == 1 and len((folder / "1.attempts").read_text().splitlines()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    print("said by a piece")
    return value


def die(shared: None, value: int) -> int:
    if value == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return value


def fail(error: type[Exception], value: int) -> int:
    """Piece 2 fails at once, piece 1 later."""
    time.sleep(0.3 if value == 1 else 0)
    if value in (1, 2):
        raise error(f"{value} cannot be")
    return value


def rows(shared: Tensor, value: Tensor) -> tuple[int, Tensor]:
    """The threads of the worker, and a slice of what is shared."""
    return torch.get_num_threads(), shared[value]


def own(shared: Any, name: str) -> str:
    """The class of a member that a file of the user's own has registered."""
    from recgraph import registry

    found = registry.load("weight", name)
    return f"{found.__module__}.{found.__qualname__} {type(shared).__qualname__}"


class FirstHit(Metric):
    """1 if the first item is relevant, whatever the cut-off."""

    name = "first_hit"

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        return ranked.hits[:, 0].double()
