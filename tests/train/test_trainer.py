"""The trainer, against steps computed by hand, and what happens when a run ends before its time."""

from __future__ import annotations

import json
import math
import signal
import threading
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

from recgraph.data.part import Part
from recgraph.models.base import ModelConfig, Phase, Space, TrainableModel
from recgraph.models.sequence.mclrec import MCLRec
from recgraph.rng import Generators
from recgraph.sparse.device import accelerator_path
from recgraph.sparse.ragged import Ragged
from recgraph.train.config import TrainConfig, make_accelerator
from recgraph.train.observers import JsonLines, Observer, TrainingInterrupted
from recgraph.train.trainer import NonFinite, Trainer, prepared_ahead


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
        made = {
            "near": lambda: (self.a * batch.x - 1) ** 2,
            "far": lambda: (self.a + self.b - batch.x) ** 2,
        }
        return {name: made[name]() for name in terms}


def toy() -> Toy:
    return Toy().build(Space(n_users=1, n_items=1))


def trainer_of(
    model: Toy, values: list[float], folder: Path | None = None, **settings: object
) -> Trainer:
    config = TrainConfig.of(
        {"metric": "loss", "learning_rate": 0.1, "max_epochs": 1, "patience": None} | settings
    )
    return Trainer(
        model,
        Series(values),
        config,
        Generators(0),
        folder=folder,
        accelerator=make_accelerator("cpu"),
    )


class OfEachEpoch(Observer):
    """Does something with the row of each epoch."""

    def __init__(self, act: Callable[[Mapping[str, Any]], object]) -> None:
        self.act = act

    def end_epoch(self, row: Mapping[str, Any]) -> None:
        self.act(row)


class StopAfterEpoch(OfEachEpoch):
    """Asks for the end after the last step of an epoch, as Ctrl-C while it is validated does."""

    def __init__(self, epoch: int) -> None:
        super().__init__(
            lambda row: signal.raise_signal(signal.SIGINT) if row["epoch"] == epoch else None
        )


class Adam:
    """Adam written out for one scalar, with an L2 penalty or, decoupled, AdamW's decay."""

    def __init__(self, rate: float, decay: float = 0.0, decoupled: bool = False) -> None:
        self.rate, self.m, self.v, self.t = rate, 0.0, 0.0, 0
        self.decay, self.decoupled = decay, decoupled

    def step(self, value: float, grad: float) -> float:
        self.t += 1
        if self.decoupled:
            value -= self.rate * self.decay * value
        else:
            grad += self.decay * value
        self.m = 0.9 * self.m + 0.1 * grad
        self.v = 0.999 * self.v + 0.001 * grad * grad
        mean, square = self.m / (1 - 0.9**self.t), self.v / (1 - 0.999**self.t)
        return value - self.rate * mean / (math.sqrt(square) + 1e-8)


@pytest.mark.parametrize(("optimiser", "decay"), [("adam", 0.0), ("adam", 0.3), ("adamw", 0.3)])
def test_two_steps_of_two_phases_equal_those_computed_by_hand(optimiser: str, decay: float) -> None:
    model = toy()
    trainer_of(model, [2.0, 3.0], optimiser=optimiser, weight_decay=decay).fit()
    a, b = 0.5, -1.0
    of_a, of_b = (Adam(0.1, decay, optimiser == "adamw") for _ in "ab")
    for x in (2.0, 3.0):
        a = of_a.step(a, 2 * (a * x - 1) * x + 0.5 * 2 * (a + b - x))
        b = of_b.step(b, 2.0 * 2 * (a + b - x))
    assert model.a.item() == pytest.approx(a, abs=1e-12)
    assert model.b.item() == pytest.approx(b, abs=1e-12)


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


def test_accumulated_batches_and_those_that_an_epoch_has_left_make_a_step_of_their_mean_gradient() -> (
    None
):
    model = toy()
    model.wanted = (Phase("a", ("a",), {"near": 1.0}),)
    trainer_of(model, [2.0, 3.0, 5.0], accumulate=2, max_epochs=2).fit()
    a, adam = 0.5, Adam(0.1)
    for step in ([2.0, 3.0], [5.0]) * 2:
        a = adam.step(a, sum(2 * (a * x - 1) * x for x in step) / len(step))
    assert model.a.item() == pytest.approx(a, abs=1e-12)


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


def scored(
    model: Toy, scores: Iterator[float], folder: Path | None = None, **settings: object
) -> Trainer:
    """A trainer whose epochs have given scores."""
    config = TrainConfig.of({"metric": "score", "learning_rate": 0.1, "max_epochs": 9} | settings)
    measure = lambda: {"score": next(scores)}  # noqa: E731
    return Trainer(
        model,
        Series([2.0]),
        config,
        Generators(0),
        measure,
        folder,
        accelerator=make_accelerator("cpu"),
    )


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
    """Those of the second of four epochs, whether the training was stopped before, at or after
    it.
    """
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


def test_a_term_that_is_not_finite_stops_with_its_name_and_step(tmp_path: Path) -> None:
    trainer = trainer_of(toy(), [1.0, 1.0, float("nan")], tmp_path, checkpoint_every=2)
    with refused("'near'", "step 2", "0.1", "checkpoints/step-000000002", by=NonFinite):
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


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "constant"}, [0.5, 1, 1, 1, 1, 1]),
        ({"schedule": "linear"}, [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ({"schedule": "cosine"}, [0.5, 1, 1, 0.8536, 0.5, 0.1464]),
        ({"schedule": "step", "drop_after": [2]}, [0.5, 1, 1, 1, 0.1, 0.1]),
        (
            {"schedule": "step", "drop_after": [1, 2], "drop_factor": 0.5},
            [0.5, 1, 0.5, 0.5, 0.25, 0.25],
        ),
    ],
)
def test_learning_rate_follows_its_schedule(
    settings: dict[str, Any], expected: list[float]
) -> None:
    from recgraph.train.phases import rate_factor

    config = TrainConfig.of(warmup_steps=2, max_epochs=3, **settings)
    assert [rate_factor(step, 2, config) for step in range(6)] == pytest.approx(expected, abs=1e-4)


# -- batches prepared ahead: their order, what is drawn for them, errors in the thread, and where a
# training stops

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _forced() -> Iterator[None]:
    with accelerator_path():
        yield
    assert not any(thread.name.startswith("prepared-ahead") for thread in threading.enumerate())


def drawing(generators: Generators) -> Callable[[int], tuple[int, int]]:
    """A batch with a number that is drawn for it on the host."""
    return lambda batch: (
        batch,
        int(torch.randint(1000, (1,), generator=generators.on_host("views"))),
    )


def test_batches_come_in_order_with_what_would_be_drawn_without_the_thread() -> None:
    own, other = Generators(3), Generators(3)
    with prepared_ahead(range(9), drawing(own), own, CPU) as ready:
        found = list(ready)
    assert found == [drawing(other)(batch) for batch in range(9)]
    assert torch.equal(own.state_dict()["views@host"], other.state_dict()["views@host"])


@pytest.mark.parametrize("n_taken", [0, 1, 5])
@pytest.mark.parametrize("n_before", [0, 2])
def test_streams_stand_after_the_batch_that_was_taken_last(n_taken: int, n_before: int) -> None:
    own, other = Generators(3), Generators(3)
    for generators, n in ((own, n_before), (other, n_before + n_taken)):
        for batch in range(n):
            drawing(generators)(batch)
    with prepared_ahead(range(9), drawing(own), own, CPU) as ready:
        for _ in range(n_taken):
            next(ready)
        threading.Event().wait(0.05)  # the thread is ahead by now
        within = own.state_dict()
    wanted = other.state_dict()
    assert within.keys() == wanted.keys() == own.state_dict().keys()
    for name, state in wanted.items():
        assert torch.equal(within[name], state)
        assert torch.equal(own.state_dict()[name], state)


@pytest.mark.parametrize("where", ["batches", "prepare"])
def test_an_error_is_raised_where_its_batch_would_have_come(where: str) -> None:
    generators = Generators(3)

    def batches() -> Iterator[int]:
        yield from range(3)
        if where == "batches":
            raise ValueError("the log ends here")
        yield from range(3, 9)

    def prepare(batch: int) -> int:
        if batch == 3:
            raise ValueError("the log ends here")
        return batch

    with prepared_ahead(batches(), prepare, generators, CPU) as ready:
        assert [next(ready) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="the log ends here"):
            next(ready)


def test_an_error_of_the_step_ends_the_thread() -> None:
    generators = Generators(3)

    def train() -> None:
        with prepared_ahead(
            iter(int, 1), lambda batch: batch, generators, CPU
        ) as ready:  # batches without an end
            next(ready)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()


def trained(
    folder: Path | None = None, stop_after: int | None = None, **settings: Any
) -> tuple[Trainer, list[Tensor]]:
    """MCLRec with dropout, whose views are drawn on the host; stopped in the middle of an epoch
    where asked.
    """
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(2, 12, (40,), generator=generator)
    train = Part(
        Ragged.from_lengths(
            torch.randint(0, 25, (int(lengths.sum()),), generator=generator), lengths
        ),
        25,
    )
    model = MCLRec(hidden_dim=8, encoder={"inner_dim": 12}, max_len=10).build(
        Space(n_users=40, n_items=25), seed=0
    )
    generators = Generators(0)
    config = TrainConfig.of(metric="loss", max_epochs=3, patience=None, **settings)
    batches = model.batches(train, 8, generators)
    trainer = Trainer(
        model, batches, config, generators, folder=folder, accelerator=make_accelerator("cpu")
    )
    trainer.resume()
    if stop_after is not None:
        steps, step = [], trainer.step

        def stopping(batch: Any) -> None:
            if len(steps) == stop_after:
                raise KeyboardInterrupt
            steps.append(step(batch))

        trainer.step = stopping  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            trainer.fit()
    else:
        trainer.fit()
    return trainer, [parameter.detach().clone() for parameter in model.parameters()]


def test_a_training_that_stopped_in_an_epoch_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    _, whole = trained(tmp_path / "whole", checkpoint_every=2)
    trained(tmp_path / "parts", stop_after=8, checkpoint_every=2)
    resumed, parts = trained(tmp_path / "parts", checkpoint_every=2)
    assert resumed.progress.epoch == 3
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))
