"""Checkpoints: complete, atomic, without pickle."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

_PREFIX = "step-"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that belongs to another run."""


@dataclass(frozen=True)
class Checkpoint:
    """The whole state of a training run.

    Attributes:
        model: weights and buffers by name.
        optimisers: ``group/parameter index/entry`` -> tensor.
        generators: stream name -> its state.
        state: everything else, as JSON values (epoch, step, stopping, history, seconds, fingerprint).
    """

    model: Mapping[str, Tensor]
    optimisers: Mapping[str, Tensor]
    generators: Mapping[str, Tensor]
    state: dict[str, Any]


def write_atomically(path: Path, text: str) -> None:
    """Write a text file under a temporary name, flush it to disk and rename it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file under a temporary name and rename it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    save_file({name: value.detach().contiguous() for name, value in tensors.items()}, temporary)
    temporary.replace(path)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own exception types for damaged files
        raise CheckpointError(f"{path} cannot be read: {error}; remove the checkpoint to start again") from error


def save(folder: Path, checkpoint: Checkpoint, step: int) -> Path:
    """Write ``folder/step-N``: first under another name, renamed when complete; older ones are removed after it."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".tmp-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    save_tensors(checkpoint.model, temporary / "model.safetensors")
    save_tensors(checkpoint.optimisers, temporary / "optimisers.safetensors")
    save_tensors(checkpoint.generators, temporary / "generators.safetensors")
    write_atomically(temporary / "state.json", json.dumps(checkpoint.state))
    final = folder / f"{_PREFIX}{step:09d}"
    shutil.rmtree(final, ignore_errors=True)
    temporary.replace(final)
    for old in _complete(folder):
        if old != final:
            shutil.rmtree(old, ignore_errors=True)
    return final


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint, or None."""
    found = _complete(folder)
    return found[-1] if found else None


def _complete(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if (path / "state.json").is_file())


def read(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: a file is missing or damaged; names it.
    """
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}; remove it to start again") from error
    names = ("model", "optimisers", "generators")
    model, optimisers, generators = (load_tensors(path / f"{name}.safetensors") for name in names)
    return Checkpoint(model, optimisers, generators, state)


def optimiser_tensors(optimisers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The state of all optimisers as flat named tensors."""
    return {
        f"{group}/{index}/{entry}": torch.as_tensor(value)
        for group, optimiser in optimisers.items()
        for index, entries in optimiser.state_dict()["state"].items()
        for entry, value in entries.items()
    }


def load_optimisers(optimisers: Mapping[str, torch.optim.Optimizer], tensors: Mapping[str, Tensor]) -> None:
    """The inverse of :func:`optimiser_tensors`."""
    states: dict[str, dict[int, dict[str, Tensor]]] = {group: {} for group in optimisers}
    for name, value in tensors.items():
        group, index, entry = name.rsplit("/", 2)
        states[group].setdefault(int(index), {})[entry] = value
    for group, optimiser in optimisers.items():
        optimiser.load_state_dict({**optimiser.state_dict(), "state": states[group]})
