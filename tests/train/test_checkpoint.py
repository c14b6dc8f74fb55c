"""Checkpoints after a power cut: what reached the disk in which order, and what is read where the newest is damaged."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_trainer import Numbers, Toy, toy, trainer_of
from torch import Tensor, nn

from recgraph.models.base import Phase, Space
from recgraph.shards import Rows
from recgraph.train import checkpoint as checkpoints
from recgraph.train.checkpoint import Checkpoint, CheckpointError
from recgraph.train.trainer import Trainer

VALUES = [2.0, 1.0, -1.0, 0.5, 3.0]


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in (folder / "checkpoints").iterdir())


def whole(value: float = 1.0) -> Checkpoint:
    tensors = {"a": torch.full((3,), value)}
    return Checkpoint(tensors, tensors, {"stream": torch.zeros(2, dtype=torch.uint8)}, {"epoch": 1})


def test_a_checkpoint_is_on_the_disk_before_it_counts_and_before_an_older_one_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace, remove = os.fsync, os.replace, checkpoints.remove_folder

    def note_sync(file: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{file}")).name
        calls.append(f"sync {'folder' if stat.S_ISDIR(os.fstat(file).st_mode) else 'file'} {name}")
        fsync(file)

    def note_replace(source: Any, target: Any) -> None:
        calls.append(f"rename {Path(target).name}")
        replace(source, target)

    def note_remove(path: Path) -> None:
        calls.append(f"remove {path.name}")
        remove(path)

    first = checkpoints.save(tmp_path / "checkpoints", whole(), 1)
    second = checkpoints.save(tmp_path / "checkpoints", whole(), 2, keep=first)
    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    monkeypatch.setattr(checkpoints, "remove_folder", note_remove)
    checkpoints.save(tmp_path / "checkpoints", whole(), 3, keep=second)
    renamed = calls.index("rename step-000000003")
    for name in ("model.safetensors", "optimisers.safetensors", "generators.safetensors", "state.json"):
        assert f"sync file {name}" in calls[:renamed]
    assert calls[renamed - 1] == "sync folder new"
    assert calls[renamed + 1 :] == ["sync folder checkpoints", "remove step-000000001", "rename removed"]
    assert steps(tmp_path) == [2, 3]


def test_the_best_weights_are_on_the_disk_before_the_checkpoint_that_counts_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_sync(file: int) -> None:
        calls.append(f"sync {Path(os.readlink(f'/proc/self/fd/{file}')).name}")
        fsync(file)

    def note_replace(source: Any, target: Any) -> None:
        calls.append(f"rename {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    trainer_of(toy(), [1.0], tmp_path).fit()
    best, done = calls.index("rename best.safetensors"), calls.index("rename step-000000001")
    assert calls[best - 1] == "sync new.safetensors"
    assert calls[best + 1] == f"sync {tmp_path.name}"
    assert best < done


def test_the_last_two_checkpoints_are_kept(tmp_path: Path) -> None:
    trainer_of(toy(), VALUES, tmp_path, max_epochs=4).fit()
    assert steps(tmp_path) == [15, 20]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def flip(path: Path) -> None:
    """Change one bit, in what a reader cannot tell from other numbers."""
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def vanish(path: Path) -> None:
    path.unlink()


NAMES = ("model.safetensors", "optimisers.safetensors", "generators.safetensors", "best.safetensors", "state.json")


@pytest.mark.parametrize("damage", [cut, zero, flip, vanish])
@pytest.mark.parametrize("name", NAMES)
def test_a_training_goes_on_from_the_earlier_checkpoint_where_the_newest_is_damaged(
    tmp_path: Path, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    never_stopped = toy()
    expected = trainer_of(never_stopped, VALUES, tmp_path / "whole", max_epochs=5)
    expected.fit()
    folder = tmp_path / "run"
    trainer_of(toy(), VALUES, folder, max_epochs=3).fit()
    assert steps(folder) == [10, 15]
    damage(folder / "checkpoints" / "step-000000015" / name)
    model = toy()
    trainer = trainer_of(model, VALUES, folder, max_epochs=5)
    assert trainer.resume()
    assert trainer.progress.epoch == 2
    assert "step-000000015" in caplog.text
    assert "goes on from step-000000010" in caplog.text
    trainer.fit()
    assert_same(model, never_stopped)
    assert_best(trainer, expected, folder)
    assert steps(folder) == [20, 25]


def assert_same(model: Toy, other: Toy) -> None:
    assert torch.equal(model.a, other.a)
    assert torch.equal(model.b, other.b)


def assert_best(trainer: Trainer, expected: Trainer, folder: Path) -> None:
    assert trainer.best is not None
    assert expected.best is not None
    kept: dict[str, Tensor] = load_file(folder / "best.safetensors")
    for name, value in expected.best.items():
        assert torch.equal(trainer.best[name], value)
        assert torch.equal(kept[name], value)


def test_the_best_weights_of_the_earlier_checkpoint_are_taken_with_it(tmp_path: Path) -> None:
    """A training that goes on from the earlier one and ends there has that one's best weights, not later ones."""
    expected = trainer_of(toy(), VALUES, tmp_path / "two", max_epochs=2)
    expected.fit()
    trainer_of(toy(), VALUES, tmp_path / "three", max_epochs=3).fit()
    flip(tmp_path / "three" / "checkpoints" / "step-000000015" / "model.safetensors")
    trainer = trainer_of(toy(), VALUES, tmp_path / "three", max_epochs=2)
    assert trainer.resume()
    assert trainer.best is not None
    assert expected.best is not None
    assert all(torch.equal(trainer.best[name], value) for name, value in expected.best.items())


def test_a_damaged_checkpoint_goes_when_the_next_is_on_the_disk_and_is_never_taken_for_newer(tmp_path: Path) -> None:
    trainer_of(toy(), VALUES, tmp_path, max_epochs=3).fit()
    zero(tmp_path / "checkpoints" / "step-000000015" / "state.json")
    trainer = trainer_of(toy(), VALUES, tmp_path, max_epochs=3)
    assert trainer.resume()
    assert steps(tmp_path) == [10, 15]
    trainer.save()
    assert steps(tmp_path) == [10, 10]
    assert trainer_of(toy(), VALUES, tmp_path, max_epochs=3).resume()


def test_two_damaged_checkpoints_are_an_error_that_names_them(tmp_path: Path) -> None:
    trainer_of(toy(), VALUES, tmp_path, max_epochs=3).fit()
    for step in (10, 15):
        cut(tmp_path / "checkpoints" / f"step-{step:09d}" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"(?s)step-000000015.*cannot be read.*remove"):
        trainer_of(toy(), VALUES, tmp_path, max_epochs=3).resume()


def test_a_newest_checkpoint_of_other_settings_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    trainer_of(toy(), VALUES, tmp_path, max_epochs=3).fit()
    with pytest.raises(CheckpointError, match=r"step-000000015 was made with other settings"):
        trainer_of(toy(), VALUES, tmp_path, max_epochs=3, learning_rate=0.2).resume()


def test_a_checkpoint_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """It has no checksums, and its best weights lie in the run's folder alone."""
    expected = toy()
    trainer_of(expected, VALUES, max_epochs=3).fit()
    trainer_of(toy(), VALUES, tmp_path, max_epochs=2).fit()
    newest = tmp_path / "checkpoints" / "step-000000010"
    (newest / "SHA256SUMS").unlink()
    (newest / "best.safetensors").unlink()
    model = toy()
    trainer = trainer_of(model, VALUES, tmp_path, max_epochs=3)
    assert trainer.resume()
    assert trainer.best is not None
    trainer.fit()
    assert_same(model, expected)


def test_a_checkpoint_from_before_a_setting_existed_is_resumed_where_the_setting_has_its_default(
    tmp_path: Path,
) -> None:
    trainer_of(toy(), [1.0], tmp_path).fit()
    (folder,) = (tmp_path / "checkpoints").iterdir()
    state = json.loads((folder / "state.json").read_text())
    del state["fingerprint"]["training"]["schedule"]
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "SHA256SUMS").unlink()
    assert trainer_of(toy(), [1.0], tmp_path).resume()
    with pytest.raises(CheckpointError, match=r"other settings or data \(schedule\)"):
        trainer_of(toy(), [1.0], tmp_path, schedule="cosine").resume()


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_schedule_over_the_epochs_is_not_stretched_by_a_resumed_training(schedule: str, tmp_path: Path) -> None:
    trainer_of(toy(), VALUES, tmp_path, max_epochs=2, schedule=schedule).fit()
    with pytest.raises(CheckpointError, match=r"other settings or data \(max_epochs\)"):
        trainer_of(toy(), VALUES, tmp_path, max_epochs=4, schedule=schedule).resume()
    assert trainer_of(toy(), VALUES, tmp_path, max_epochs=2, schedule=schedule).resume()


def test_the_newest_of_many_checkpoints_of_one_step_is_found(tmp_path: Path) -> None:
    for name in ("step-000000010", "step-000000010-9", "step-000000010-10", "step-000000009-11"):
        (tmp_path / name).mkdir()
    names = [path.name for path in checkpoints.candidates(tmp_path)]
    assert names == ["step-000000010-10", "step-000000010-9", "step-000000010", "step-000000009-11"]


def test_a_checkpoint_of_the_same_step_leaves_the_earlier_one(tmp_path: Path) -> None:
    """Ctrl-C in the last batch of an epoch saves; gone on with, the epoch ends without a step, and saves again."""
    folder = tmp_path / "checkpoints"
    first = checkpoints.save(folder, whole(1.0), 5)
    second = checkpoints.save(folder, whole(2.0), 5, keep=first)
    third = checkpoints.save(folder, whole(3.0), 6, keep=second)
    assert first != second
    assert checkpoints.candidates(folder) == [third, second]
    assert json.loads((second / "state.json").read_text()) == {"epoch": 1}
    assert checkpoints.read(second).model["a"].tolist() == [2.0] * 3


def test_a_file_system_without_hard_links_has_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    trainer_of(toy(), VALUES, tmp_path, max_epochs=2).fit()
    assert trainer_of(toy(), VALUES, tmp_path, max_epochs=2).resume()
    assert load_file(tmp_path / "checkpoints" / "step-000000010" / "best.safetensors")


@pytest.mark.parametrize("rows", [(0, 7), (0, 3), (1, 6), (3, 5), (5, 7), (7, 7)])
def test_rows_are_read_from_whichever_ranks_wrote_them(tmp_path: Path, rows: tuple[int, int]) -> None:
    """A table of which three ranks wrote 3, 3 and 1 rows, and an optimiser's state that is in no file of theirs."""
    table, own = torch.arange(14.0).view(7, 2), Rows(*rows)
    files = [tmp_path / checkpoints.rows_name(rank, 3) for rank in range(3)]
    for path, part in zip(files, table.split(3), strict=True):
        checkpoints.save_tensors({"model/table": part, "best/table": part + 1}, path)
    best = tmp_path / "best.safetensors"
    checkpoints.save_tensors({"bias": torch.zeros(2)}, best)
    rest = Checkpoint({"bias": torch.ones(2)}, {"all/0/exp_avg": table}, {}, {"epoch": 1})
    path = checkpoints.save(tmp_path / "checkpoints", rest, 1, best=best, rows=files)
    seen = []

    def wanted(kind: str, name: str, shape: Sequence[int]) -> Rows | None:
        seen.append((kind, name, tuple(shape)))
        return None if name == "bias" else own

    found = checkpoints.read(path, wanted)
    assert {("model", "table", (7, 2)), ("best", "table", (7, 2)), ("optimisers", "all/0/exp_avg", (7, 2))} < {*seen}
    expected = table[own.first : own.last]
    assert found.best is not None
    for value, other in (
        (found.model["table"], expected),
        (found.best["table"], expected + 1),
        (found.optimisers["all/0/exp_avg"], expected),
        (found.model["bias"], torch.ones(2)),
    ):
        assert torch.equal(value, other)
        assert value.untyped_storage().nbytes() == other.numel() * 4  # a copy: the file is not mapped any more
    everything = checkpoints.read(path)
    assert torch.equal(everything.model["table"], table)


CHANGES: dict[str, tuple[str, str, Callable[[Tensor], Tensor | None], str]] = {
    "transposed": ("optimisers", "all/0/exp_avg", lambda t: t.T, r"'all/0/exp_avg' .* float32 \[3, 4\], .* \[4, 3\]"),
    "one row": ("optimisers", "all/0/exp_avg_sq", lambda t: t[:1], r"float32 \[1, 3\], where .* float32 \[4, 3\]"),
    "a number": ("optimisers", "all/0/exp_avg_sq", lambda t: t[0, 0], r"float32 \[\], where"),
    "steps": ("optimisers", "all/0/step", lambda t: t.expand(4), r"'all/0/step' .* float32 \[4\], where"),
    "whole": ("optimisers", "all/0/exp_avg", lambda t: t.to(torch.int64), r"int64 \[4, 3\], where .* float32"),
    "wide": ("optimisers", "all/0/exp_avg", Tensor.double, r"float64 \[4, 3\], where .* float32"),
    "missing": ("optimisers", "all/0/exp_avg_sq", lambda _: None, r"'all/0/exp_avg_sq' of the optimisers is missing"),
    "other entry": ("optimisers", "all/0/momentum", lambda _: torch.ones(4, 3), r"have no|has no 'all/0/momentum'"),
    "other index": ("optimisers", "all/9/step", lambda _: torch.ones(()), r"no parameter for 'all/9/step'.*'all'"),
    "no index": ("optimisers", "step", lambda _: torch.ones(()), r"no parameter for 'step'"),
    "other group": ("optimisers", "b/0/step", lambda _: torch.ones(()), r"no parameter for 'b/0/step'"),
    "weights": ("model", "table", lambda t: t[:1], r"'table' of the model is float32 \[1, 3\], where .* \[4, 3\]"),
    "best": ("best", "table", Tensor.long, r"'table' of the best weights is int64 \[4, 3\]"),
}


class Tabular(Toy):
    """A table, so that a state has rows and columns."""

    wanted = (Phase("all", ("all",), {"near": 1.0}),)

    def _build(self, space: Space) -> None:
        self.table = nn.Parameter(torch.arange(12.0).view(4, 3) / 12)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"all": [self.table]}

    def forward(self, batch: Numbers, terms: Iterable[str]) -> dict[str, Tensor]:
        return {name: (self.table * batch.x.float() - 1).pow(2).mean() for name in terms}


def tabular() -> Tabular:
    return Tabular().build(Space(n_users=1, n_items=1))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of a table."""
    folder = tmp_path_factory.mktemp("trained")
    trainer_of(tabular(), VALUES, folder).fit()
    return folder


@pytest.mark.parametrize("change", CHANGES)
def test_tensors_that_do_not_fit_are_refused_by_name_before_any_is_loaded(
    trained: Path, tmp_path: Path, change: str
) -> None:
    kind, name, make, wrong = CHANGES[change]
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    newest = tmp_path / "checkpoints" / "step-000000005"
    path = newest / f"{kind}.safetensors"
    tensors = load_file(path)
    made = make(tensors.pop(name, torch.zeros(())))
    save_file(tensors | ({} if made is None else {name: made.contiguous()}), path)
    (newest / "SHA256SUMS").unlink()  # as in one that someone has made on purpose
    trainer = trainer_of(tabular(), VALUES, tmp_path, max_epochs=2)
    with pytest.raises(CheckpointError, match=wrong):
        trainer.resume()
    assert torch.equal(trainer.model.table, tabular().table)
    assert not trainer.optimisers["all"].state


def test_a_file_of_a_checkpoint_is_compared_with_its_checksum_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best weights have an imprint of their own, which is looked at where the folder tells no checksums."""
    trainer_of(toy(), VALUES, tmp_path, max_epochs=2).fit()
    newest = checkpoints.latest(tmp_path / "checkpoints")
    assert newest is not None
    compared: list[str] = []
    monkeypatch.setattr(checkpoints, "check", lambda path: compared.append(path.name))
    assert checkpoints.read(newest).best is not None
    assert compared == []
    (newest / "SHA256SUMS").unlink()
    checkpoints.read(newest)
    assert compared == [*checkpoints._TENSORS, "best.safetensors"]
