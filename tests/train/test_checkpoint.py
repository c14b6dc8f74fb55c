"""Checkpoints: what is kept, and what is read where the newest is damaged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from refusing import refused
from safetensors.torch import load_file
from test_trainer import toy, trainer_of

from recgraph.train import checkpoint as checkpoints
from recgraph.train.checkpoint import Checkpoint, CheckpointError

VALUES = [2.0, 1.0, -1.0, 0.5, 3.0]


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in (folder / "checkpoints").glob("step-*"))


def whole(value: float, step: int, epoch: int) -> Checkpoint:
    tensors = {"a": torch.full((3,), value)}
    return Checkpoint(tensors, tensors, {"stream": torch.zeros(2, dtype=torch.uint8)}, {"step": step, "epoch": epoch})


def test_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    trainer_of(toy(), VALUES, tmp_path, max_epochs=4).fit()
    assert steps(tmp_path) == [15, 20]


def test_the_best_weights_are_written_before_the_checkpoint_that_counts_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    replace = os.replace

    def note(source: Any, target: Any) -> None:
        calls.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", note)
    monkeypatch.setattr("recgraph.files._exchange", lambda *_: False)
    trainer_of(toy(), [1.0], tmp_path).fit()
    assert calls.index("best.safetensors") < calls.index("step-000000001-000001")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def flip(path: Path) -> None:
    """Change one bit, in what a reader cannot tell from other numbers."""
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", flip),
        ("best.safetensors", cut),
        ("optimisers.safetensors", Path.unlink),
        ("state.json", cut),
    ],
)
def test_a_training_goes_on_from_the_earlier_checkpoint_where_the_newest_is_damaged(
    tmp_path: Path, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    never_stopped, model, folder = toy(), toy(), tmp_path / "run"
    expected = trainer_of(never_stopped, VALUES, tmp_path / "whole", max_epochs=5)
    expected.fit()
    trainer_of(toy(), VALUES, folder, max_epochs=3).fit()
    damage(folder / "checkpoints" / "step-000000015-000003" / name)
    trainer = trainer_of(model, VALUES, folder, max_epochs=5)
    assert trainer.resume()
    assert trainer.progress.epoch == 2
    assert "step-000000015" in caplog.text
    trainer.fit()
    assert torch.equal(model.a, never_stopped.a)
    assert torch.equal(model.b, never_stopped.b)
    assert expected.best is not None
    for key, value in expected.best.items():
        assert torch.equal(load_file(folder / "best.safetensors")[key], value)
    assert steps(folder) == [20, 25]


def test_two_damaged_checkpoints_are_an_error_that_names_them(tmp_path: Path) -> None:
    trainer_of(toy(), VALUES, tmp_path, max_epochs=3).fit()
    for step in (10, 15):
        cut(tmp_path / "checkpoints" / f"step-{step:09d}-{step // 5:06d}" / "model.safetensors")
    with refused("step-000000015", "step-000000010", by=CheckpointError):
        trainer_of(toy(), VALUES, tmp_path, max_epochs=3).resume()


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    trainer_of(toy(), VALUES, tmp_path, max_epochs=3).fit()
    with refused("learning_rate", by=CheckpointError):
        trainer_of(toy(), VALUES, tmp_path, max_epochs=3, learning_rate=0.2).resume()


def test_a_schedule_over_the_epochs_is_not_stretched_by_a_resumed_training(tmp_path: Path) -> None:
    trainer_of(toy(), VALUES, tmp_path, max_epochs=2, schedule="cosine").fit()
    with refused("max_epochs", by=CheckpointError):
        trainer_of(toy(), VALUES, tmp_path, max_epochs=4, schedule="cosine").resume()
    assert trainer_of(toy(), VALUES, tmp_path, max_epochs=2, schedule="cosine").resume()


def test_a_checkpoint_of_the_same_step_leaves_the_earlier_one(tmp_path: Path) -> None:
    """Ctrl-C in the last batch of an epoch saves; gone on with, the epoch ends without a step, and saves again."""
    folder = tmp_path / "checkpoints"
    first = checkpoints.save(folder, whole(1.0, 5, 0))
    second = checkpoints.save(folder, whole(2.0, 5, 1), keep=first)
    third = checkpoints.save(folder, whole(3.0, 6, 1), keep=second)
    assert checkpoints.candidates(folder) == [third, second]
    assert json.loads((second / "state.json").read_text()) == {"step": 5, "epoch": 1}
    assert checkpoints.read(second).model["a"].tolist() == [2.0] * 3
