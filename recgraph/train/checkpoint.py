"""Checkpoints: the whole state of a training, written atomically, without pickle; the last two are kept."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from recgraph.bounded.tensors import read_tensors
from recgraph.data.files import make_folder, remove_folder, replacing_folder
from recgraph.data.imprint import check, check_folder, load_json, replace_tensors, write_checksums
from recgraph.finite import not_finite
from recgraph.texts import listed

_PREFIX = "step-"
_TENSORS = ("model.safetensors", "optimisers.safetensors", "generators.safetensors")
_RANK = "rank "
#: ``checksums.json`` is of earlier versions
_BEST, _STATE, _CHECKSUMS = "best.safetensors", "state.json", "checksums.json"
#: what reading raises where a file is missing or damaged, or holds other values than it should
_UNREADABLE = (
    *(ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError),
    SafetensorError,
)
_log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that belongs to another run."""


@dataclass(frozen=True)
class Checkpoint:
    """The whole state of a training run.

    Attributes:
        model: weights and buffers by name.
        optimisers: ``group/parameter index/entry`` -> tensor.
        generators: stream name -> its state; of a rank's own streams with a prefix (:func:`with_streams_of_ranks`).
        state: everything else, as JSON values (epoch, step, stopping, history, seconds, fingerprint).
        best: the best weights and buffers so far, of a checkpoint that was read; None where there are none.
    """

    model: Mapping[str, Tensor]
    optimisers: Mapping[str, Tensor]
    generators: Mapping[str, Tensor]
    state: dict[str, Any]
    best: Mapping[str, Tensor] | None = None


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file, atomically."""
    replace_tensors(tensors, path)


def load_tensors(path: Path, *, is_checked: bool = False) -> dict[str, Tensor]:
    """Read a safetensors file.

    Args:
        is_checked: whether its checksum was compared already; else that in its imprint is.

    Raises:
        CheckpointError: it is missing, damaged or of a newer format.
    """
    with explained(path):
        if not is_checked:
            check(path)
        return read_tensors(path)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Whatever does not fit in a checkpoint, or a file of one, that is read inside the block is an error that names it.

    Raises:
        CheckpointError: files or values are missing, or of other types or sizes than those of this training.
    """
    try:
        yield
    except (CheckpointError, MemoryError):
        raise
    except _UNREADABLE as error:
        what = f"{error}" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {error}"
        raise CheckpointError(f"checkpoint {path} cannot be read: {what}"[:2000]) from error


def save(
    folder: Path,
    checkpoint: Checkpoint,
    step: int,
    keep: Path | None = None,
    best: Path | None = None,
) -> Path:
    """Write ``folder/step-N`` under a temporary name, rename it when it is on the disk, then remove older checkpoints.

    Args:
        step: N; a second checkpoint of the same step is ``step-N-1``.
        keep: the previous checkpoint, which is not removed.
        best: file of the best weights so far; the checkpoint gets a hard link to it. ``checkpoint.best`` is not read.
    """
    make_folder(folder)
    final = _name(folder, step)
    with replacing_folder(final) as temporary:
        for name, tensors in zip(
            _TENSORS, (checkpoint.model, checkpoint.optimisers, checkpoint.generators), strict=True
        ):
            save_file({key: value.detach().contiguous() for key, value in tensors.items()}, temporary / name)
        if best is not None:
            _link(best, temporary / _BEST)
        (temporary / _STATE).write_text(json.dumps(checkpoint.state), encoding="utf-8")
        write_checksums(temporary)
    for old in candidates(folder):
        if old not in (final, keep):
            remove_folder(old)
    return final


def _name(folder: Path, step: int) -> Path:
    name = f"{_PREFIX}{step:09d}"
    taken = [path.name.removeprefix(name) for path in folder.glob(f"{name}*")]
    return folder / (f"{name}-{max(int(end[1:] or 0) for end in taken) + 1}" if taken else name)


def _link(source: Path, path: Path) -> None:
    try:
        os.link(source, path)
    except OSError:  # a file system without links
        shutil.copyfile(source, path)


def candidates(folder: Path) -> list[Path]:
    """All checkpoints of a run, the newest first; after a crash of the machine some may be damaged."""
    return sorted(folder.glob(f"{_PREFIX}*"), key=_numbers, reverse=True)


def _numbers(path: Path) -> tuple[int, ...]:
    """The step and the number at it, of a checkpoint's name."""
    return tuple(int(part) for part in path.name.removeprefix(_PREFIX).split("-") if part.isdigit())


def latest(folder: Path) -> Path | None:
    """The newest checkpoint, or None."""
    return next(iter(candidates(folder)), None)


def latest_good(folder: Path) -> Path | None:
    """The newest checkpoint that can be read and is finite, or None."""
    try:
        found = read_latest(folder)
    except CheckpointError:
        return None
    return None if found is None else found[0]


def read_latest(folder: Path) -> tuple[Path, Checkpoint] | None:
    """The newest checkpoint that can be read, with its path; a warning names newer ones that cannot.

    Raises:
        CheckpointError: there are some, and none can be read.
    """
    damaged: list[CheckpointError] = []
    for path in candidates(folder):
        try:
            checkpoint = read(path)
        except CheckpointError as error:
            damaged.append(error)
            continue
        if damaged:
            _log.warning("%s; training goes on from %s", "; ".join(map(str, damaged)), path.name)
        return path, checkpoint
    if damaged:
        raise CheckpointError(f"{'; '.join(map(str, damaged))}; remove the run's folder to start again")
    return None


def read(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: a file is missing or damaged, or a tensor holds NaN or infinite values; names it.
    """
    with explained(path):
        checked = check_folder(path, of_earlier=_CHECKSUMS)
        state = load_json(path / _STATE)
    model, optimisers, generators = (load_tensors(path / name, is_checked=name in checked) for name in _TENSORS)
    best = None
    if (path / _BEST).exists():
        best = load_tensors(path / _BEST, is_checked=_BEST in checked)
    if wrong := not_finite({**optimisers, **(best or {}), **model}):
        raise CheckpointError(f"checkpoint {path} holds NaN or infinite values in {listed(wrong)}")
    return Checkpoint(model, optimisers, generators, state, best)


def optimiser_tensors(optimisers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The state of all optimisers as flat named tensors."""
    return {
        f"{group}/{index}/{entry}": torch.as_tensor(value)
        for group, optimiser in optimisers.items()
        for index, entries in optimiser.state_dict()["state"].items()
        for entry, value in entries.items()
    }


def load_optimisers(optimisers: Mapping[str, torch.optim.Optimizer], tensors: Mapping[str, Tensor]) -> None:
    """The inverse of :func:`optimiser_tensors`. A parameter that was never stepped has no state.

    Raises:
        CheckpointError: a tensor is of no parameter, of another shape or type than its parameter asks for, or one is
            missing; names it, and nothing is loaded.
    """
    states: dict[str, dict[int, dict[str, Tensor]]] = {group: {} for group in optimisers}
    expected: dict[str, Tensor] = {}
    for name, value in tensors.items():
        group, index, entry = [*name.rsplit("/", 2), "", ""][:3]
        parameters = optimisers[group].param_groups[0]["params"] if group in optimisers else []
        if not index.isdecimal() or int(index) >= len(parameters):
            raise CheckpointError(f"the optimisers have no parameter for {name!r}; the groups are {listed(optimisers)}")
        states[group].setdefault(int(index), {})[entry] = value
        expected |= _expected(f"{group}/{index}", optimisers[group], parameters[int(index)])
    check_tensors(tensors, expected, "the optimisers")
    for group, optimiser in optimisers.items():
        if isinstance(optimiser, torch.optim.SparseAdam):  # which counts in plain numbers
            for entries in states[group].values():
                entries["step"] = int(entries["step"])  # type: ignore[assignment]
        optimiser.load_state_dict({**optimiser.state_dict(), "state": states[group]})


def _expected(name: str, optimiser: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """What the state of a parameter looks like; no memory is taken."""
    looks = torch.empty_like(parameter, device="meta")
    count = torch.int64 if isinstance(optimiser, torch.optim.SparseAdam) else torch.float32
    entries = {"step": torch.empty((), dtype=count, device="meta"), "exp_avg": looks, "exp_avg_sq": looks}
    return {f"{name}/{entry}": value for entry, value in entries.items()}


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Compare the names, shapes and types of tensors with those that a training has; values are not read.

    Args:
        what: they are of, for the message.

    Raises:
        CheckpointError: one is missing, is one too many, or is of another shape or type; names it.
    """
    if missing := sorted(expected.keys() - found.keys()):
        raise CheckpointError(f"{listed(missing)} of {what} is missing")
    if more := sorted(found.keys() - expected.keys()):
        raise CheckpointError(f"{what} has no {listed(more)}")
    for name, value in found.items():
        other = expected[name]
        if value.shape != other.shape or value.dtype != other.dtype:
            raise CheckpointError(f"{name!r} of {what} is {_look(value)}, where this training has {_look(other)}")


def _look(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


def with_streams_of_ranks(shared: Mapping[str, Tensor], of_ranks: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The states of the streams that all ranks share, and of those that each has to itself, by one name each."""
    own = {f"{_RANK}{rank}/{name}": state for rank, streams in enumerate(of_ranks) for name, state in streams.items()}
    return {**shared, **own}


def streams_of_ranks(saved: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[int, dict[str, Tensor]]]:
    """The inverse of :func:`with_streams_of_ranks`: the shared states, and those of each rank that has some."""
    shared: dict[str, Tensor] = {}
    of_ranks: dict[int, dict[str, Tensor]] = {}
    for name, state in saved.items():
        rank, _, own = name.removeprefix(_RANK).partition("/")
        if name.startswith(_RANK) and rank.isdecimal():
            of_ranks.setdefault(int(rank), {})[own] = state
        else:
            shared[name] = state
    return shared, of_ranks
