"""Sizes of memory: read and written, what a model needs, and whether the predicted peak of a process fits its limit.

A model says what it needs (:meth:`recgraph.models.base.Model.memory_needs`); :mod:`recgraph.runs.memory` adds what the
process, the data and a training need, and refuses what does not fit.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "FITTING_LIBRARIES",
    "RANKING_LIBRARIES",
    "VARIABLE",
    "Estimate",
    "MemoryLimitError",
    "Needs",
    "Workload",
    "format_size",
    "memory_limit",
    "parse_size",
    "resident",
    "state_bytes",
]

#: the environment variable that holds the limit of a process; the workers that it starts inherit it, each for itself
VARIABLE = "RECGRAPH_MEMORY_LIMIT"
#: what libraries take once they fit: buffers of products, threads of the backward pass, code that is imported then
FITTING_LIBRARIES = 96 * 2**20
#: what they take once they rank: packed matrices, allocators
RANKING_LIBRARIES = 8 * 2**20
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


class MemoryLimitError(ValueError, MemoryError):
    """The predicted peak is above the limit; the message says what would fit."""


def parse_size(size: str | int) -> int:
    """Bytes of a size such as ``"8GiB"``, ``"500 MB"`` or ``2**30``.

    Raises:
        ValueError: it is no size, or not above 0.
    """
    if isinstance(size, int) and not isinstance(size, bool):
        found = size
    else:
        match = _SIZE.fullmatch(str(size))
        unit = match[2].upper() if match else ""
        if match is None or unit not in _UNITS:
            raise ValueError(f"memory limit {size!r} is no size: write a number and a unit, e.g. 8GiB, 500MiB or 16GB")
        found = int(float(match[1]) * _UNITS[unit])
    if found < 1:
        raise ValueError(f"memory limit {size!r} must be above 0, e.g. 8GiB")
    return found


def format_size(n_bytes: int) -> str:
    """A size in the unit that suits it: ``"12.5 MiB"``."""
    value, unit = float(n_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:,.0f} {unit}" if unit == "B" or value >= 100 else f"{value:,.1f} {unit}"


def memory_limit() -> int | None:
    """The limit of this process in bytes, of ``RECGRAPH_MEMORY_LIMIT``; None: there is none.

    Raises:
        ValueError: the variable holds no size.
    """
    size = os.environ.get(VARIABLE)
    return parse_size(size) if size else None


def resident() -> int:
    """Bytes of memory that this process holds now; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Workload:
    """What a model is fitted to, as far as its memory depends on it.

    Attributes:
        n_users, n_items: sizes of the space.
        lengths: [n_users] int64, the interactions of each user in the training part; empty where a graph is read alone.
        batch_size: samples a step.
        space: that the model will be built for.
    """

    n_users: int
    n_items: int
    lengths: Tensor
    batch_size: int
    space: Any

    @property
    def n_interactions(self) -> int:
        return int(self.lengths.sum())


@dataclass(frozen=True)
class Needs:
    """Bytes that a model takes.

    Attributes:
        parameters: what an optimiser steps.
        buffers: what is kept and not trained.
        held: name -> what is held beside the state as long as the model is in use (adjacencies).
        fitting: while it is built or fitted in closed form, beyond what is held.
        step: the largest step of a training beyond parameters and their gradients: activations, blocks, their
            gradients.
        ranking: what is made once to rank with: vectors of all nodes.
        scoring: while 256 users are encoded or scored, beyond the scores themselves; of each thread that ranks.
    """

    parameters: int = 0
    buffers: int = 0
    held: Mapping[str, int] = field(default_factory=dict)
    fitting: int = 0
    step: int = 0
    ranking: int = 0
    scoring: int = 0


@dataclass(frozen=True)
class Estimate:
    """The predicted peak of a process, by component.

    Attributes:
        held: component -> bytes that are there all the time.
        moments: component -> bytes that are there for a while, one of them at a time.
    """

    held: Mapping[str, int]
    moments: Mapping[str, int]

    @property
    def peak(self) -> int:
        """All that is held, and the largest moment."""
        return sum(self.held.values()) + max(self.moments.values(), default=0)

    def table(self, limit: int | None = None) -> str:
        """Lines of component and size; of what is there for a while the largest counts."""
        largest = max(self.moments, key=lambda name: self.moments[name], default="")
        rows = [(name, format_size(size), "") for name, size in self.held.items() if size]
        rows += [
            (name, format_size(size), "for a while" + (", the most" if name == largest else ""))
            for name, size in self.moments.items()
            if size
        ]
        rows.append(("predicted peak", format_size(self.peak), "" if limit is None else f"of {format_size(limit)}"))
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        return "\n".join(f"{name:<{widths[0]}}  {size:>{widths[1]}}  {more}".rstrip() for name, size, more in rows)


def tensor_bytes(module: torch.nn.Module) -> tuple[int, int]:
    """Bytes of the parameters and of the buffers."""
    return sum(p.nbytes for p in module.parameters()), sum(b.nbytes for b in module.buffers())


def state_bytes(model: Any, space: Any) -> tuple[int, int]:
    """Bytes of the parameters and buffers that a model will have, without making them.

    A model that cannot be built without values is built, and freed again.
    """
    try:
        twin = type(model)(model.config)
        with torch.device("meta"):
            return tensor_bytes(twin.build(space))
    except (NotImplementedError, RuntimeError):
        return tensor_bytes(type(model)(model.config).build(space))
