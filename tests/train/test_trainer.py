"""The trainer, against steps computed by hand, and what happens when a run ends before its time."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks_cases import StopAt
from refusing import refused
from safetensors.torch import load_file
from torch import Tensor, nn

from recgraph.models.base import ModelConfig, Phase, Space, TrainableModel
from recgraph.rng import Generators
from recgraph.train.config import TrainConfig, make_accelerator
from recgraph.train.observers import JsonLines, Observer, TrainingInterrupted
from recgraph.train.trainer import NonFiniteLoss, Trainer


@dataclass
class Numbers:
    x: Tensor
    n_targets: int = 1

    def to(self, device: torch.device) -> Numbers:
        return Numbers(self.x.to(device))


class Series:
    """Batches of one number each."""

    def __init__(self, values: list[float]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def epoch(self, number: int, start: int = 0) -> Iterator[Numbers]:
        for value in self.values[start:]:
            yield Numbers(torch.tensor(value, dtype=torch.float64))


class Toy(TrainableModel):
    """Two scalars a and b; terms: near = (a x - 1)^2, far = (a + b - x)^2."""

    Config = ModelConfig
    wanted: tuple[Phase, ...] = (
        Phase("a", ("a",), {"near": 1.0, "far": 0.5}),
        Phase("b", ("b",), {"far": 2.0}),
    )

    def _build(self, space: Space) -> None:
        self.a = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(-1.0, dtype=torch.float64))
        self.asked: list[tuple[str, ...]] = []

    @property
    def phases(self) -> tuple[Phase, ...]:
        return self.wanted

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return {"a": [self.a], "b": [self.b]}

    def forward(self, batch: Numbers, terms: Iterable[str]) -> dict[str, Tensor]:
        self.asked.append(tuple(terms))
        made = {"near": lambda: (self.a * batch.x - 1) ** 2, "far": lambda: (self.a + self.b - batch.x) ** 2}
        return {name: made[name]() for name in terms}


def toy() -> Toy:
    return Toy().build(Space(n_users=1, n_items=1))


def trainer_of(model: Toy, values: list[float], folder: Path | None = None, **settings: object) -> Trainer:
    config = TrainConfig.of({"metric": "loss", "learning_rate": 0.1, "max_epochs": 1, "patience": None} | settings)
    return Trainer(model, Series(values), config, Generators(0), folder=folder, accelerator=make_accelerator("cpu"))


class OfEachEpoch(Observer):
    """Does something with the row of each epoch."""

    def __init__(self, act: Callable[[Mapping[str, Any]], object]) -> None:
        self.act = act

    def end_epoch(self, row: Mapping[str, Any]) -> None:
        self.act(row)


class StopAfterEpoch(OfEachEpoch):
    """Asks for the end after the last step of an epoch, as Ctrl-C while it is validated does."""

    def __init__(self, epoch: int) -> None:
        super().__init__(lambda row: signal.raise_signal(signal.SIGINT) if row["epoch"] == epoch else None)


class Adam:
    """Adam written out for one scalar."""

    def __init__(self, rate: float) -> None:
        self.rate, self.m, self.v, self.t = rate, 0.0, 0.0, 0

    def step(self, value: float, grad: float) -> float:
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * grad
        self.v = 0.999 * self.v + 0.001 * grad * grad
        mean, square = self.m / (1 - 0.9**self.t), self.v / (1 - 0.999**self.t)
        return value - self.rate * mean / (math.sqrt(square) + 1e-8)


def test_two_steps_of_two_phases_equal_those_computed_by_hand() -> None:
    model = toy()
    trainer_of(model, [2.0, 3.0]).fit()
    a, b, of_a, of_b = 0.5, -1.0, Adam(0.1), Adam(0.1)
    for x in (2.0, 3.0):
        a = of_a.step(a, 2 * (a * x - 1) * x + 0.5 * 2 * (a + b - x))
        b = of_b.step(b, 2.0 * 2 * (a + b - x))
    assert model.a.item() == pytest.approx(a, abs=1e-12)
    assert model.b.item() == pytest.approx(b, abs=1e-12)


def test_optimiser_state_belongs_to_the_group_not_to_the_phase() -> None:
    model = toy()
    model.wanted = (Phase("one", ("a",), {"near": 1.0}), Phase("again", ("a",), {"near": 1.0}))
    trainer_of(model, [2.0]).fit()
    a, adam = 0.5, Adam(0.1)
    for _ in range(2):
        a = adam.step(a, 2 * (a * 2.0 - 1) * 2.0)
    assert model.a.item() == pytest.approx(a, abs=1e-12)


def test_only_the_terms_of_a_phase_are_computed_and_frozen_groups_get_no_gradient() -> None:
    model = toy()
    frozen = []
    trainer = trainer_of(model, [2.0])
    model.a.register_hook(lambda grad: frozen.append(("a", grad)))
    original = model.forward

    def watched(batch: Numbers, terms: Iterable[str]) -> dict[str, Tensor]:
        frozen.append((tuple(terms), model.a.requires_grad, model.b.requires_grad))
        return original(batch, terms)

    model.forward = watched  # type: ignore[method-assign]
    trainer.fit()
    phases = [entry for entry in frozen if len(entry) == 3]
    assert phases == [(("near", "far"), True, False), (("far",), False, True)]
    assert sum(entry[0] == "a" for entry in frozen if len(entry) == 2) == 1


class Joint(Toy):
    """Both groups in one phase."""

    wanted = (Phase("both", ("a", "b"), {"near": 1.0, "far": 0.5}),)


def with_b_frozen(cls: type[Toy]) -> Toy:
    model = cls().build(Space(n_users=1, n_items=1))
    model.b.requires_grad_(False)
    model.b.grad = torch.ones_like(model.b)  # left from before it was frozen
    return model


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("cls", [Toy, Joint])
def test_what_was_frozen_before_training_stays_as_it_was(cls: type[Toy], accumulate: int) -> None:
    model = with_b_frozen(cls)
    trainer = trainer_of(
        model, [2.0, 3.0], accumulate=accumulate, max_epochs=2, weight_decay=0.1, clip_norm=1.0, warmup_steps=1
    )
    history = trainer.fit()
    assert model.b.item() == -1.0
    assert model.a.item() != 0.5
    assert (model.a.requires_grad, model.b.requires_grad) == (True, False)
    assert {"near", "far"} <= set(history[-1]), "the terms of a phase that trains nothing are measured"


def test_accumulated_batches_and_those_that_an_epoch_has_left_make_a_step_of_their_mean_gradient() -> None:
    model = toy()
    model.wanted = (Phase("a", ("a",), {"near": 1.0}),)
    trainer_of(model, [2.0, 3.0, 5.0], accumulate=2, max_epochs=2).fit()
    a, adam = 0.5, Adam(0.1)
    for step in ([2.0, 3.0], [5.0]) * 2:
        a = adam.step(a, sum(2 * (a * x - 1) * x for x in step) / len(step))
    assert model.a.item() == pytest.approx(a, abs=1e-12)


def test_phases_that_cannot_be_stepped_are_refused() -> None:
    model = toy()
    model.wanted = (Phase("one", ("a",), {"near": 1.0}), Phase("two", ("b", "a"), {"far": 1.0}))
    with refused("accumulate = 2"):
        trainer_of(model, [1.0], accumulate=2)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1", "cuda:0"])
def test_a_run_computes_on_the_device_that_it_names(name: str) -> None:
    assert str(make_accelerator(name).device) == name
    with refused("device", "cuda:2", "cuda:1"):
        make_accelerator("cuda:2")


def scored(model: Toy, scores: Iterator[float], folder: Path | None = None, **settings: object) -> Trainer:
    """A trainer whose epochs have given scores."""
    config = TrainConfig.of({"metric": "score", "learning_rate": 0.1, "max_epochs": 9} | settings)
    measure = lambda: {"score": next(scores)}  # noqa: E731
    return Trainer(model, Series([2.0]), config, Generators(0), measure, folder, accelerator=make_accelerator("cpu"))


def test_training_stops_after_patience_and_keeps_the_best_weights() -> None:
    model, weights = toy(), list[float]()
    trainer = scored(model, iter([0.1, 0.3, 0.2, 0.25, 0.9]), patience=2)
    trainer.observers = [OfEachEpoch(lambda _: weights.append(model.a.item()))]
    history = trainer.fit()
    assert [row["score"] for row in history] == [0.1, 0.3, 0.2, 0.25]
    assert model.a.item() == weights[1]
    assert trainer.stopping.best_epoch == 2


@pytest.mark.parametrize("after", [1, 2, 3])
def test_the_best_weights_are_right_after_a_resume(after: int, tmp_path: Path) -> None:
    """Those of the second of four epochs, whether the training was stopped before, at or after it."""
    scores, settings = [0.1, 0.3, 0.2, 0.25], {"max_epochs": 4, "patience": None}
    whole = toy()
    expected = scored(whole, iter(scores), **settings)
    expected.fit()
    stopped = scored(toy(), iter(scores), tmp_path, **settings)
    stopped.observers = [StopAfterEpoch(after)]
    with pytest.raises(TrainingInterrupted):
        stopped.fit()
    model = toy()
    resumed = scored(model, iter(scores[after:]), tmp_path, **settings)
    assert resumed.resume()
    resumed.fit()
    assert (resumed.stopping.best, resumed.stopping.best_epoch) == (0.3, 2)
    assert torch.equal(model.a, whole.a)
    assert resumed.best is not None
    assert torch.equal(load_file(tmp_path / "best.safetensors")["a"], whole.a)


def test_the_last_epoch_is_validated_where_it_is_no_multiple_of_validate_every() -> None:
    trainer = scored(toy(), iter([0.1, 0.3, 0.9]), max_epochs=5, validate_every=2, patience=None)
    assert [row.get("score") for row in trainer.fit()] == [None, 0.1, None, 0.3, 0.9]
    assert trainer.stopping.best_epoch == 5


def test_a_term_that_is_not_finite_stops_with_its_name_and_step(tmp_path: Path) -> None:
    trainer = trainer_of(toy(), [1.0, 1.0, float("nan")], tmp_path, checkpoint_every=2)
    with refused("'near'", "step 2", by=NonFiniteLoss):
        trainer.fit()


@pytest.mark.parametrize(("accumulate", "stop_after"), [(1, 1), (1, 5), (2, 4), (3, 7)])
def test_an_interrupted_run_that_is_resumed_ends_with_the_same_weights(
    tmp_path: Path, stop_after: int, accumulate: int
) -> None:
    values = [2.0, 1.0, -1.0, 0.5, 3.0]
    settings = {"max_epochs": 3, "accumulate": accumulate}
    whole = toy()
    trainer_of(whole, values, **settings).fit()
    stopped = trainer_of(toy(), values, tmp_path, **settings)
    stopped.observers = [StopAt(stop_after), JsonLines(tmp_path / "log.jsonl")]
    with pytest.raises(TrainingInterrupted):
        stopped.fit()
    model = toy()
    resumed = trainer_of(model, values, tmp_path, **settings)
    assert resumed.resume()
    resumed.observers = [JsonLines(tmp_path / "log.jsonl", resumed.progress.history)]
    resumed.fit()
    assert torch.equal(model.a, whole.a)
    assert torch.equal(model.b, whole.b)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


@pytest.mark.parametrize("seconds", [0.0, 1000.0])
@pytest.mark.parametrize("epoch", [1, 3])
def test_a_run_that_is_interrupted_after_the_last_step_of_an_epoch_ends_and_goes_on(
    tmp_path: Path, epoch: int, seconds: float
) -> None:
    values, settings = [2.0, 1.0, -1.0], {"max_epochs": 3, "checkpoint_seconds": seconds}
    whole = toy()
    trainer_of(whole, values, **settings).fit()
    stopped = trainer_of(toy(), values, tmp_path, **settings)
    stopped.observers = [StopAfterEpoch(epoch)]
    with pytest.raises(TrainingInterrupted):
        stopped.fit()
    model = toy()
    resumed = trainer_of(model, values, tmp_path, **settings)
    assert resumed.resume()
    assert resumed.progress.epoch == epoch
    resumed.fit()
    assert torch.equal(model.a, whole.a)
    assert len(resumed.progress.history) == 3


@pytest.mark.parametrize(("seconds", "steps"), [(0.0, [2, 4, 6, 8]), (1000.0, [2, 2, 2, 8])])
def test_checkpoints_may_be_rarer_than_epochs(tmp_path: Path, seconds: float, steps: list[int]) -> None:
    trainer = trainer_of(toy(), [1.0, 2.0], tmp_path, max_epochs=4, checkpoint_seconds=seconds)
    seen: list[str] = []
    newest = lambda _: seen.append(max(path.name for path in (tmp_path / "checkpoints").iterdir()))  # noqa: E731
    trainer.observers = [OfEachEpoch(newest)]
    trainer.fit()
    assert [int(name.split("-")[1]) for name in seen] == steps
    kept = load_file(tmp_path / "best.safetensors")
    assert trainer.best is not None
    assert all(torch.equal(kept[name], value) for name, value in trainer.best.items())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "constant"}, [0.5, 1, 1, 1, 1, 1]),
        ({"schedule": "linear"}, [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ({"schedule": "cosine"}, [0.5, 1, 1, 0.8536, 0.5, 0.1464]),
        ({"schedule": "step", "drop_after": [2]}, [0.5, 1, 1, 1, 0.1, 0.1]),
        ({"schedule": "step", "drop_after": [1, 2], "drop_factor": 0.5}, [0.5, 1, 0.5, 0.5, 0.25, 0.25]),
    ],
)
def test_learning_rate_follows_its_schedule(settings: dict[str, Any], expected: list[float]) -> None:
    from recgraph.train.phases import rate_factor

    config = TrainConfig.of(warmup_steps=2, max_epochs=3, **settings)
    assert [rate_factor(step, 2, config) for step in range(6)] == pytest.approx(expected, abs=1e-4)
