"""Numbers that become NaN or infinite: of every model and every term, and what is kept of such a training."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from command_line import call
from every_model import CLOSED_FORM, OF_NODES, TRAINABLE, of_nodes, part, recommender
from safetensors.torch import load_file, save_file
from torch import Tensor

import recgraph as rg
from recgraph.data.interactions import Interactions
from recgraph.finite import NonFinite, NonFiniteWeights, not_finite
from recgraph.models.base import TrainableModel
from recgraph.rng import Generators
from recgraph.train import checkpoint as checkpoints
from recgraph.train.config import TrainConfig, make_accelerator
from recgraph.train.progress import NonFiniteLoss
from recgraph.train.trainer import Trainer


def model_of(name: str) -> TrainableModel:
    model = of_nodes(name) if name in OF_NODES else recommender(name)
    assert isinstance(model, TrainableModel)
    return model


#: model -> its terms, in the order of its phases
TERMS = {
    name: tuple(dict.fromkeys(term for phase in model_of(name).phases for term in phase.terms))
    for name in (*TRAINABLE, *OF_NODES)
}


class _BadGradient(torch.autograd.Function):
    """The value as it is, with a gradient that is no number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        return gradients[0] * math.nan


def bad_gradient(x: Tensor) -> Tensor:
    made: Tensor = _BadGradient.apply(x)  # type: ignore[no-untyped-call]
    return made


def spoil(
    monkeypatch: pytest.MonkeyPatch, model: TrainableModel, term: str, by: Callable[[Tensor], Tensor], after: int = 1
) -> None:
    """After so many good batches a term of the model is changed."""
    cls = type(model)
    whole = cls.losses
    seen: list[Any] = [None]

    def losses(self: TrainableModel, batch: Any, wanted: frozenset[str]) -> dict[str, Tensor]:
        made = whole(self, batch, wanted)
        if batch is not seen[-1] and wanted != frozenset(self.diagnostics):  # phases share a batch
            seen.append(batch)
        return {**made, term: by(made[term])} if term in made and len(seen) - 1 > after else made

    monkeypatch.setattr(cls, "losses", losses)


def train(model: TrainableModel, folder: Path | None, **settings: Any) -> Trainer:
    """A trainer with a batch an epoch, which keeps a checkpoint of each."""
    given = {"metric": "loss", "patience": None, "max_epochs": 4, "batch_size": 10_000, **settings}
    config, generators = TrainConfig.of(given), Generators(2)
    batches = model.batches(
        None if hasattr(model.space, "graph") and model.key() in OF_NODES else part(), 10_000, generators
    )
    return Trainer(model, batches, config, generators, folder=folder, accelerator=make_accelerator("cpu"))


def log() -> Interactions:
    draw = np.random.default_rng(0)
    frame = pl.DataFrame({name: draw.integers(0, 12, 150) for name in ("user", "item")})
    return Interactions.from_frame(frame, user="user", item="item")


def stops(model: TrainableModel, folder: Path, error: type[NonFinite], what: str) -> None:
    """The training ends with the error, which names the last checkpoint; its numbers are finite."""
    trainer = train(model, folder)
    with pytest.raises(error, match=rf"{what} step \d.* checkpoint: .*step-0+\d; try"):
        trainer.fit()
    found = checkpoints.read_latest(folder / "checkpoints")
    assert found is not None
    assert not not_finite({**found[1].model, **found[1].optimisers, **(found[1].best or {})})


@pytest.mark.parametrize(
    ("name", "term", "value"),
    [
        *((name, term, math.nan) for name, terms in TERMS.items() for term in terms),
        *((name, terms[-1], math.inf) for name, terms in TERMS.items()),
        *(
            pytest.param(name, term, value, marks=pytest.mark.slow)
            for name, terms in TERMS.items()
            for term in terms
            for value in ((-math.inf, math.inf) if term != terms[-1] else (-math.inf,))
        ),
    ],
)
def test_a_term_of_any_model_that_is_not_finite_stops_its_training(
    name: str, term: str, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(name)
    spoil(monkeypatch, model, term, lambda x: x + value)
    stops(model, tmp_path, NonFiniteLoss, f"term '{term}' became {value} at")


@pytest.mark.parametrize(("name", "term"), [(name, terms[0]) for name, terms in TERMS.items()])
def test_a_gradient_that_is_not_finite_stops_before_the_weights_are_kept(
    name: str, term: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(name)
    spoil(monkeypatch, model, term, bad_gradient)
    stops(model, tmp_path, NonFinite, "became (NaN or infinite by|nan at)")


@pytest.mark.parametrize("metric", ["loss", "last"])
@pytest.mark.parametrize("folder", [True, False])
def test_one_batch_in_all_does_not_leave_weights_that_are_not_finite(
    folder: bool, metric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = recommender("bprmf")
    assert isinstance(model, TrainableModel)
    spoil(monkeypatch, model, "rec", bad_gradient, after=0)
    trainer = train(model, tmp_path if folder else None, max_epochs=1, metric=metric)
    with pytest.raises(NonFiniteWeights, match=r"by step 1 \(epoch 0\), after finite terms \(rec = .*checkpoint: none"):
        trainer.fit()
    assert trainer.best is None
    assert not [*tmp_path.rglob("*.safetensors")]


def test_an_optimiser_that_overflowed_is_not_kept(tmp_path: Path) -> None:
    trainer = train(recommender("bprmf"), tmp_path, max_epochs=1)  # type: ignore[arg-type]
    trainer.fit()
    state = next(iter(trainer.optimisers["model"].state.values()))
    state["exp_avg_sq"].fill_(math.inf)
    with pytest.raises(NonFiniteWeights, match=r"'optimiser model/0/exp_avg_sq' became .*step-000000001; try"):
        trainer.save()


def test_a_checkpoint_that_is_not_finite_is_not_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An earlier version wrote such ones; the one before is taken."""
    trainer = train(recommender("bprmf"), tmp_path, max_epochs=3)  # type: ignore[arg-type]
    trainer.fit()
    newest = checkpoints.latest(tmp_path / "checkpoints")
    assert newest is not None
    weights = load_file(newest / "model.safetensors")
    name = next(iter(weights))
    weights[name][0] = math.nan
    save_file(weights, newest / "model.safetensors")
    (newest / "files.json").unlink()
    with pytest.raises(checkpoints.CheckpointError, match=f"holds NaN or infinite values in '{name}'"):
        checkpoints.read(newest)
    assert checkpoints.latest_good(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step-000000002"
    again = train(recommender("bprmf"), tmp_path, max_epochs=3)  # type: ignore[arg-type]
    assert again.resume()
    assert again.progress.epoch == 2
    assert "holds NaN" in caplog.text
    assert not not_finite(again.model.state_dict())


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_a_model_in_closed_form_that_is_not_finite_is_not_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = type(recommender(name))
    whole = cls.fit

    def fit(self: Any, train: Any) -> Any:
        next(value for value in whole(self, train).state_dict().values() if value.is_floating_point()).fill_(math.nan)
        return self

    monkeypatch.setattr(cls, "fit", fit)
    with pytest.raises(NonFiniteWeights, match=f"the fitted {name} holds NaN"):
        rg.fit(cls(), log(), seed=0)


def test_a_bundle_of_weights_that_are_not_finite_is_refused(tmp_path: Path) -> None:
    run = rg.fit(rg.models.BPRMF(hidden_dim=4), log(), seed=0, max_epochs=1)
    run.recommender.save(tmp_path / "good")
    with torch.no_grad():
        run.model.item_table()[1] = math.inf
    with pytest.raises(NonFiniteWeights, match=r"BPRMF, which .*bad should keep, holds NaN"):
        run.recommender.save(tmp_path / "bad")
    with pytest.raises(NonFiniteWeights):
        run.recommender.save(tmp_path / "good")
    assert [path.name for path in tmp_path.iterdir()] == ["good"]
    assert not not_finite(load_file(tmp_path / "good" / "model.safetensors"))


def test_the_command_says_so_and_its_exit_code_is_not_zero(tmp_path: Path) -> None:
    settings = ("learning_rate=1e38", "max_epochs=1", "metric=loss", "batch_size=100000", "hidden_dim=8")
    given = [text for setting in settings for text in ("--set", setting)]
    done = call(f"train sasrec --dataset synthetic --out {tmp_path / 'run'} --device cpu", *given)
    assert done.exit_code == 1, done.output
    said = " ".join(done.stderr.split())
    assert "became NaN or infinite by step 1" in said
    assert "last good checkpoint: none" in said
    assert not (tmp_path / "run" / "bundle").exists()


def test_which_tensors_are_not_finite() -> None:
    given = {
        "whole": torch.tensor([1, 2]),
        "empty": torch.zeros(0, 3),
        "none": torch.tensor([1e38, -1e38]),
        "nan": torch.tensor([[0.0, math.nan]]),
        "low": torch.tensor([0.0, -math.inf], dtype=torch.bfloat16),
        "high": torch.tensor([math.inf, 0.0], dtype=torch.float16),
        "complex": torch.tensor([1 + 1j, complex(0, math.inf)]),
        "scalar": torch.tensor(math.nan, dtype=torch.float64),
    }
    assert not_finite(given) == ["nan", "low", "high", "complex", "scalar"]
    assert not_finite({}) == []
