"""Distilling: the loss and a teacher's candidates against loops, and students of both lines in whole runs."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor

import recgraph as rg
from recgraph import registry
from recgraph.config import ConfigError
from recgraph.data.batches import Query
from recgraph.data.interactions import Interactions
from recgraph.data.split import Split
from recgraph.losses.distil import DistilBy, distil_loss
from recgraph.models.base import Model, Space
from recgraph.models.distil import Teacher
from recgraph.models.sequence.sasrec import SASRec
from recgraph.rng import Generators
from recgraph.runs.teacher import teacher_record
from recgraph.serve.bundle import BundleError
from recgraph.sparse.ragged import Ragged

STUDENTS: dict[str, dict[str, Any]] = {
    "sasrec": {"hidden_dim": 8, "n_heads": 1, "n_layers": 1},
    "cl4srec": {"hidden_dim": 8, "n_heads": 1, "n_layers": 1, "regime": "prefix"},
    "simgcl": {"hidden_dim": 8},
}


def split_of(step: int) -> Split:
    rows = [(user, (user + step * place) % 11, place) for user in range(14) for place in range(6)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    return Interactions.from_frame(frame, user="user", item="item", timestamp="time").split("leave-one-out")


@pytest.fixture(scope="module")
def split() -> Split:
    return split_of(1)


@pytest.fixture(scope="module")
def teacher(split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "run"
    rg.fit("ease", split, seed=0, out=folder, device="cpu")
    return folder


def slow(s: Tensor, t: Tensor, by: str, temperature: float) -> float:
    total = 0.0
    for row_s, row_t in zip(s.tolist(), t.tolist(), strict=True):
        if by == "regression":
            mean_s, mean_t = sum(row_s) / len(row_s), sum(row_t) / len(row_t)
            each = [((a - mean_s) - (b - mean_t)) ** 2 for a, b in zip(row_s, row_t, strict=True)]
            total += sum(each) / len(each)
            continue
        p = [math.exp(b / temperature) for b in row_t]
        q = [math.exp(a / temperature) for a in row_s]
        p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
        total += temperature**2 * sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
    return total / len(s)


@pytest.mark.parametrize("by", ["kl", "regression"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_loss_equals_a_loop(by: DistilBy, temperature: float, device: torch.device) -> None:
    draw = torch.Generator().manual_seed(1)
    s, t = (torch.randn(5, 7, generator=draw, dtype=torch.float64).to(device) for _ in range(2))
    assert float(distil_loss(s, t, by, temperature)) == pytest.approx(slow(s, t, by, temperature), rel=1e-12)
    assert float(distil_loss(t + 3, t, by, temperature)) == pytest.approx(0, abs=1e-12)
    assert torch.autograd.gradcheck(lambda s: distil_loss(s, t, by, temperature), s.requires_grad_())


class Fixed(Model):
    """Scores that depend on the user alone."""

    def _build(self, space: Space) -> None:
        draw = torch.Generator().manual_seed(0)
        self.register_buffer("table", torch.rand(space.n_users, space.n_items, generator=draw))

    def score(self, query: Query) -> Tensor:
        table: Tensor = self.table  # type: ignore[assignment]
        return table[query.users]


@pytest.mark.parametrize("n_candidates", [2, 5, 60])
def test_candidates_are_the_best_and_drawn_ones(n_candidates: int, device: torch.device) -> None:
    model = Fixed().build(Space(n_users=9, n_items=20))
    users = torch.tensor([3, 0, 8, 3], device=device)
    query = Query(users, Ragged.from_lists([[1], [2], [3], [4]], device))
    candidates, scores = Teacher(model, n_candidates)(query, torch.Generator(device).manual_seed(2))
    assert candidates.shape == scores.shape == (4, n_candidates)
    best = min(n_candidates // 2, 20)
    for row, user in enumerate(users.tolist()):
        of_user = model.get_buffer("table")[user].tolist()
        assert candidates[row, :best].tolist() == sorted(range(20), key=lambda item: -of_user[item])[:best]
        assert scores[row].tolist() == [of_user[item] for item in candidates[row].tolist()]
    assert bool((candidates[:, best:] == candidates[0, best:]).all())


@pytest.mark.parametrize("name", ["cl4srec", "simgcl"])
def test_a_student_learns_from_a_run_and_is_served_without_it(
    name: str, split: Split, teacher: Path, tmp_path: Path
) -> None:
    settings = {**STUDENTS[name], "teacher": teacher, "distil_candidates": 8}

    def fit(folder: str, **more: Any) -> Any:
        model = registry.load("model", name)(**settings)
        training = {"seed": 0, "device": "cpu", "batch_size": 8, "metric": "last", **more}
        return rg.fit(model, split, out=tmp_path / folder, **training)

    whole = fit("whole", max_epochs=2)
    assert all(math.isfinite(row["distil"]) for row in whole.record.history)
    fit("parts", max_epochs=1)
    resumed = fit("parts", max_epochs=2, resume=True)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key])
    assert whole.record["teacher"] == {"source": str(teacher), "digest": teacher_record(whole.model)["digest"]}
    served = rg.load(tmp_path / "whole")
    assert served.model.teacher is None
    assert not any("teacher" in key for key in served.model.state_dict())
    assert len(served.recommend([0], k=3)) == 3


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sasrec", {}),
        ("cl4srec", {"time_gaps": True, "dropout": 0.1}),
        ("hstu", {"encoder_options": {"time_bias": True}}),
        ("bert4rec", {}),
        ("bprmf", {}),
    ],
)
def test_a_teacher_that_reads_times_is_given_them(
    name: str, settings: dict[str, Any], split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The histories that it is asked for are those of the log, with the times that stand there."""
    of_times = SASRec(hidden_dim=8, time_gaps=True)
    taught = rg.fit(of_times, split, seed=0, out=tmp_path / "run", max_epochs=1, device="cpu")
    assert taught.model.reads_times
    asked: list[Query] = []
    ask = Teacher.__call__
    monkeypatch.setattr(Teacher, "__call__", lambda self, query, draw: asked.append(query) or ask(self, query, draw))
    model = registry.load("model", name)(hidden_dim=8, teacher=str(tmp_path / "run"), **settings)
    rg.fit(model, split, seed=0, max_epochs=1, device="cpu", batch_size=4)
    log = split.train
    assert asked
    assert log.times is not None
    for query in asked:
        assert query.times is not None
        rows = zip(query.users.tolist(), query.history.to_lists(), query.times.to_lists(), strict=True)
        for user, items, times in rows:
            of_user = log.items.with_values(log.times).row(user).tolist()
            part = slice(of_user.index(times[0]), of_user.index(times[0]) + len(times))
            assert times == of_user[part]
            assert items == log.items.row(user).tolist()[part]


@pytest.mark.parametrize("name", ["sasrec", "bprmf"])
def test_a_student_that_ranks_by_cosines_learns_by_them(
    name: str, split: Split, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lengths of item vectors, which change no list, change no score that is compared."""
    settings = {**STUDENTS.get(name, {"hidden_dim": 8}), "loss": "ccl", "teacher": str(teacher)}

    def loss(factor: float) -> float:
        model = registry.load("model", name)(**settings)
        rg.fit(model, split, out=None, seed=0, device="cpu", metric="last", max_epochs=0)
        model.teacher = Teacher.of(model)
        table = model.item_embedding.weight if name == "sasrec" else model.embedding.weight
        batch = next(iter(model.eval().batches(split.train, 8, Generators(0)).epoch(0)))
        with torch.no_grad():
            if name == "sasrec":  # the states read the table, too
                states = model.encode(batch.contrast, batch)
                monkeypatch.setattr(model, "encode", lambda *_: states)
            table[-4:] *= factor
            return float(model(batch, ("distil",))["distil"])

    assert loss(10.0) == pytest.approx(loss(1.0))


def test_a_run_goes_on_with_the_same_teacher_alone(split: Split, tmp_path: Path) -> None:
    """The folder may hold another run by then; its memory is predicted by the files in it."""
    folder = tmp_path / "teacher"
    rg.fit("ease", split, seed=0, out=folder, device="cpu")
    settings = {"out": tmp_path / "run", "seed": 0, "device": "cpu", "metric": "last"}
    model = SASRec(**STUDENTS["sasrec"], teacher=str(folder))
    rg.fit(model, split, max_epochs=1, **settings)
    shutil.rmtree(folder)
    rg.fit(registry.load("model", "ease")(l2=3.0), split, seed=0, out=folder, device="cpu")
    again = SASRec(**STUDENTS["sasrec"], teacher=str(folder))
    with pytest.raises(ValueError, match=r"holds a run with another teacher \(digest = "):
        rg.fit(again, split, max_epochs=2, resume=True, **settings)


def test_a_student_comes_near_its_teacher(split: Split, teacher: Path) -> None:
    found = []
    for weight in (0.0, 5.0):
        model = SASRec(**STUDENTS["sasrec"], dropout=0.0, teacher=str(teacher), distil_weight=weight)
        run = rg.fit(model, split, seed=0, device="cpu", max_epochs=25, metric="last", learning_rate=0.01)
        served = rg.load(teacher).model
        query = Query(torch.arange(split.n_users), split.sealed().train.items)
        with torch.no_grad():
            scores = (run.model.eval().score(query), served.score(query))
        found.append(float(distil_loss(*scores)))
    assert found[1] < 0.8 * found[0]


def test_a_teacher_that_cannot_be_read_is_named_as_the_setting(split: Split, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "nowhere", tmp_path / "empty"):
        model = SASRec(**STUDENTS["sasrec"], teacher=str(folder))
        message = rf"^teacher = '{folder}': {folder} is no bundle: .*; give a bundle or a finished run"
        with pytest.raises(BundleError, match=message):
            rg.fit(model, split, seed=0, device="cpu", max_epochs=1)


def test_a_teacher_of_other_data_is_refused(split: Split, teacher: Path, tmp_path: Path) -> None:
    def fit(data: Split, **more: Any) -> None:
        model = SASRec(**STUDENTS["sasrec"], teacher=str(teacher))
        rg.fit(model, data, seed=0, device="cpu", max_epochs=1, **more)

    with pytest.raises(ValueError, match=r"was fitted on another split .* fit a teacher on this split"):
        fit(split_of(2))
    with pytest.raises(ValueError, match=r"was fitted on 'train', and this model is fitted on 'train\+valid'"):
        fit(split, fit_on="train+valid")
    model = SASRec(**STUDENTS["sasrec"], teacher=str(teacher)).build(Space(n_users=14, n_items=11))
    with pytest.raises(ValueError, match=r"is not read: rg\.fit reads it"):
        Teacher.of(model)


def test_what_a_model_that_is_not_built_lacks_says_so() -> None:
    with pytest.raises(AttributeError) as refused:
        SASRec().encode_items()
    assert "not built: rg.fit builds it" in refused.value.__notes__[0]
    assert not hasattr(SASRec(), "item_embedding")


def test_a_teacher_without_a_name() -> None:
    with pytest.raises(ConfigError, match="teacher = '': it is empty; give the folder of a run"):
        rg.models.SASRec(teacher="")
