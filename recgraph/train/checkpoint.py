"""Checkpoints: the whole state of a training, written atomically, without pickle; the last two are
kept.

A checkpoint is a folder ``step-N`` of safetensors files and ``state.json``, with a manifest.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recgraph.files import (
    check_manifest,
    read_object,
    read_tensors,
    remove_folder,
    replacing_folder,
    write_tensors,
)
from recgraph.models.base import TrainableModel, not_finite
from recgraph.train.config import FALLING, TrainConfig
from recgraph.train.observers import flat

_BEST, _STATE = "best.safetensors", "state.json"
#: settings that may differ where a training continues: they do not alter its steps
_MAY_DIFFER = {"max_epochs", "patience", "tensorboard", "track", "checkpoint_seconds"}
_log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that belongs to another run."""


@dataclass(frozen=True)
class Checkpoint:
    """The whole state of a training run.

    Attributes:
        model: weights and buffers by name.
        optimisers: ``group/parameter index/entry`` -> tensor.
        generators: stream name -> its state, as :meth:`recgraph.rng.Generators.state_dict` names
            them, of all ranks.
        state: everything else, as JSON values (epoch, step, stopping, history, seconds,
            fingerprint).
        best: the best weights and buffers so far, of a checkpoint that was read; empty where there
            are none.
    """

    model: Mapping[str, Tensor]
    optimisers: Mapping[str, Tensor]
    generators: Mapping[str, Tensor]
    state: dict[str, Any]
    best: Mapping[str, Tensor] = field(default_factory=dict)


def save(
    folder: Path, checkpoint: Checkpoint, keep: Path | None = None, best: Path | None = None
) -> Path:
    """Write ``folder/step-N-E``, of step N and epoch E, under a temporary name, rename it when it
    is on the disk, then remove older checkpoints but ``keep``, the previous one. It gets a hard
    link to the file ``best`` of weights."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{checkpoint.state['step']:09d}-{checkpoint.state['epoch']:06d}"
    with replacing_folder(final) as temporary:
        for name in ("model", "optimisers", "generators"):
            write_tensors(getattr(checkpoint, name), temporary / f"{name}.safetensors")
        if best is not None:
            try:
                os.link(best, temporary / _BEST)
            except OSError:  # a file system without links
                shutil.copyfile(best, temporary / _BEST)
        (temporary / _STATE).write_text(json.dumps(checkpoint.state), encoding="utf-8")
    for old in candidates(folder):
        if old not in (final, keep):
            remove_folder(old)
    return final


def candidates(folder: Path) -> list[Path]:
    """All checkpoints of a run, the newest first; after a crash of the machine some may be
    damaged.
    """
    return sorted(folder.glob("step-*"), reverse=True)


def read_latest(folder: Path) -> tuple[Path, Checkpoint] | None:
    """The newest checkpoint that can be read, with its path; a warning names newer ones that
    cannot.
    """
    damaged: list[str] = []
    for path in candidates(folder):
        try:
            return path, read(path)
        except CheckpointError as error:
            _log.warning("%s; training goes on from an earlier one", error)
            damaged.append(str(error))
    if damaged:
        raise CheckpointError(f"{'; '.join(damaged)}; remove the run's folder to start again")
    return None


def read(path: Path) -> Checkpoint:
    """Read a checkpoint; a CheckpointError names a file that is damaged, or a tensor that is not
    finite.
    """
    best: Mapping[str, Tensor] = {}
    try:
        check_manifest(path)
        model = read_tensors(path / "model.safetensors")
        optimisers = read_tensors(path / "optimisers.safetensors")
        generators = read_tensors(path / "generators.safetensors")
        if (path / _BEST).exists():
            best = read_tensors(path / _BEST)
        state = read_object(path / _STATE)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from error
    wrong = not_finite({**optimisers, **best, **model})
    if wrong:
        raise CheckpointError(f"checkpoint {path} holds NaN or infinite values in {wrong[0]}")
    return Checkpoint(model, optimisers, generators, state, best)


def optimiser_tensors(optimisers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The state of all optimisers as flat named tensors."""
    tensors: dict[str, Tensor] = {}
    for group, optimiser in optimisers.items():
        for index, entries in optimiser.state_dict()["state"].items():
            for entry, value in entries.items():
                tensors[f"{group}/{index}/{entry}"] = torch.as_tensor(value)
    return tensors


def load_optimisers(
    optimisers: Mapping[str, torch.optim.Optimizer], tensors: Mapping[str, Tensor]
) -> None:
    """The inverse of :func:`optimiser_tensors`. A parameter that was never stepped has no state."""
    states: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for name, value in tensors.items():
        group, index, entry = name.rsplit("/", 2)
        entries = states[group].setdefault(int(index), {})
        # an integer is the step of SparseAdam, which counts in plain numbers
        entries[entry] = value if value.is_floating_point() else int(value)
    for group, optimiser in optimisers.items():
        optimiser.load_state_dict({**optimiser.state_dict(), "state": states[group]})


def fingerprint(
    model: TrainableModel, config: TrainConfig, seed: int, n_batches: int
) -> dict[str, Any]:
    """What must be the same where a training continues, as JSON values."""
    training = config.model_dump(mode="json", exclude=_MAY_DIFFER)
    # a schedule that goes down over max_epochs gives every step another rate where these differ
    if config.schedule in FALLING and not config.schedule_epochs:
        training["max_epochs"] = config.max_epochs
    return {
        "model": type(model).__name__,
        "config": model.config.model_dump(mode="json"),
        "training": training,
        "seed": seed,
        "batches": n_batches,
    }


def differing(here: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
    """The names of what differs between two fingerprints, such as ``training.batch_size``."""
    now, then = flat(here), flat(saved)
    return [name for name in {**now, **then} if now.get(name) != then.get(name)]
