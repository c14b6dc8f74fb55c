"""Sizes of memory: read and written, what a model needs, and whether the predicted peak of a process fits its limit.

A model says what it needs (:meth:`recgraph.models.base.Model.memory_needs`); :mod:`recgraph.runs.memory` adds what the
process, the data and a training need, and refuses what does not fit.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "FITTING_LIBRARIES",
    "RANKING_LIBRARIES",
    "SMALL",
    "VARIABLE",
    "Bound",
    "Estimate",
    "MemoryLimitError",
    "Needs",
    "Workload",
    "available",
    "bound_of",
    "check_estimate",
    "check_room",
    "format_size",
    "lacks_memory",
    "memory_limit",
    "parse_size",
    "peak",
    "resident",
    "state_bytes",
    "table_bytes",
]

#: the environment variable that holds the limit of a process; the workers that it starts inherit it, each for itself
VARIABLE = "RECGRAPH_MEMORY_LIMIT"
#: what libraries take once they fit: buffers of products, threads of the backward pass, code that is imported then
FITTING_LIBRARIES = 96 * 2**20
#: what they take once they rank: packed matrices, allocators
RANKING_LIBRARIES = 8 * 2**20
#: bytes that are taken without a look at what there is: a look costs as much as a small answer
SMALL = 2**28
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


class MemoryLimitError(ValueError, MemoryError):
    """The predicted peak is above the limit; the message says what would fit."""


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that no memory is left, of the host (torch has no type of its own for it) or a device."""
    is_torchs = isinstance(error, RuntimeError) and "allocate memory" in str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or is_torchs


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


def peak() -> int:
    """The most bytes of memory that this process has held so far.

    On Linux ``ru_maxrss`` of a process begins at the peak of the one that started it: a small worker of a large
    notebook would have the notebook's. ``VmHWM`` is the process's own.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource  # not on Windows

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def available(root: Path = Path("/")) -> int | None:
    """Bytes that this process can take beyond what it holds, of its machine and of its control groups; None: unknown.

    Args:
        root: of the files of the system; another one is for tests.
    """
    found = [_of_machine(), *_of_groups(root)]
    return min((size for size in found if size is not None), default=None)


def _of_machine() -> int | None:
    import psutil

    try:
        return int(psutil.virtual_memory().available)
    except (OSError, RuntimeError, NotImplementedError):  # a system that does not say
        return None


#: version of the control groups -> where they are; limit and usage; what of the usage is given up for others
_GROUPS = {
    "2": ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "1": ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def _of_groups(root: Path) -> Iterator[int]:
    """What each control group around this process leaves; the groups of a container are all below its own."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        version = "2" if number == "0" else "1" if "memory" in controllers.split(",") else None
        if version is None:
            continue
        base, *names = _GROUPS[version]
        inside = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(inside), -1, -1):
            left = _left_of_group((root / base).joinpath(*inside[:depth]), *names)
            if left is not None:
                yield left


def _left_of_group(folder: Path, limit: str, usage: str, given_up: str) -> int | None:
    try:
        most, used = (folder / limit).read_text().strip(), int((folder / usage).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group here, or the root of all, which has no limit
        return None
    return None if most == "max" else max(int(most) - used + int(stat.get(given_up, 0)), 0)


@dataclass(frozen=True)
class Bound:
    """The most that a process may hold.

    Attributes:
        n_bytes: of the whole process.
        is_given: whether it is a limit that was set; else it is what the machine and its control groups leave.
    """

    n_bytes: int
    is_given: bool

    def __str__(self) -> str:
        if self.is_given:
            return f"memory_limit = {format_size(self.n_bytes)}"
        return f"this machine has memory for a process of {format_size(self.n_bytes)} now"


def bound_of(limit: str | int | None = None) -> Bound | None:
    """The bound of this process: a limit, else that of ``RECGRAPH_MEMORY_LIMIT``, else what is there; None: unknown.

    Raises:
        ValueError: a limit is no size.
    """
    most = memory_limit() if limit is None else parse_size(limit)
    if most is not None:
        return Bound(most, is_given=True)
    free = available()
    return None if free is None else Bound(resident() + free, is_given=False)


def check_room(n_bytes: int, what: str, way_out: str, limit: str | int | None = None) -> None:
    """Refuse what would take so many bytes beyond what the process holds, where there are not as many.

    Args:
        what: takes them, for the message.
        way_out: what to do, for the message.
        limit: as :func:`bound_of` reads it.

    Raises:
        MemoryLimitError: it does not fit.
    """
    bound = bound_of(limit)
    if bound is None or resident() + n_bytes <= bound.n_bytes:
        return
    raise MemoryLimitError(
        f"{bound}: {what} would take {format_size(n_bytes)} beside the {format_size(resident())} that are held; "
        f"{way_out}"
    )


@dataclass(frozen=True)
class Workload:
    """What a model is fitted to, as far as its memory depends on it.

    Attributes:
        n_users, n_items: sizes of the space.
        lengths: [n_users] int64, the interactions of each user in the training part; empty where a graph is read alone.
        batch_size: samples a step.
        space: that the model will be built for.
        n_shards: processes that share out the rows of the model's large tables.
    """

    n_users: int
    n_items: int
    lengths: Tensor
    batch_size: int
    space: Any
    n_shards: int = 1

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
        row_tables: of the parameters, tables whose gradients are rows (:mod:`recgraph.rows`) unless Adam steps all.
    """

    parameters: int = 0
    buffers: int = 0
    held: Mapping[str, int] = field(default_factory=dict)
    fitting: int = 0
    step: int = 0
    ranking: int = 0
    scoring: int = 0
    row_tables: int = 0


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


def check_estimate(estimate: Estimate, what: str, way_out: Callable[[int], str], log: logging.Logger) -> None:
    """Refuse what is predicted not to fit; where there is a limit, the prediction is logged as a table before.

    Args:
        what: takes the memory, for messages.
        way_out: the bytes (0 or more) that are left for a moment -> what to do, for the message.
        log: of the caller's module.

    Raises:
        MemoryLimitError: the peak is above the bound of this process.
    """
    bound = bound_of()
    if bound is None:
        return
    level = logging.INFO if bound.is_given else logging.DEBUG
    log.log(level, "predicted memory of %s:\n%s", what, estimate.table(bound.n_bytes))
    if estimate.peak > bound.n_bytes:
        peak, left = format_size(estimate.peak), max(bound.n_bytes - sum(estimate.held.values()), 0)
        raise MemoryLimitError(f"{bound}: {what} would take {peak}; {way_out(left)}, or allow {peak}")


def tensor_bytes(module: torch.nn.Module) -> tuple[int, int]:
    """Bytes of the parameters and of the buffers."""
    return sum(p.nbytes for p in module.parameters()), sum(b.nbytes for b in module.buffers())


def state_bytes(model: Any, space: Any, n_shards: int = 1) -> tuple[int, int]:
    """Bytes of the parameters and buffers that a model will have, without making them.

    A model that cannot be built without values is built, and freed again.

    Args:
        n_shards: processes that share out the rows of its tables; the bytes are those of one process.
    """
    twin = _twin(model, space)
    parameters, buffers = tensor_bytes(twin)
    tables = _table_bytes(twin) if n_shards > 1 else 0
    return parameters - tables + -(-tables // n_shards), buffers


def table_bytes(model: Any, space: Any) -> int:
    """Bytes of the tables whose rows processes can share out."""
    return _table_bytes(_twin(model, space))


def _table_bytes(built: Any) -> int:
    return sum(built.get_parameter(name).nbytes for name in built.row_sparse_tables)


def _twin(model: Any, space: Any) -> Any:
    """The same model, built without values where it can be."""
    try:
        twin = type(model)(model.config)
        with torch.device("meta"):
            return twin.build(space)
    except (NotImplementedError, RuntimeError):
        return type(model)(model.config).build(space)
