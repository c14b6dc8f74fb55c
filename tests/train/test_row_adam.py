"""Lazy and row-wise Adam, against the rule written out; clipping; the whole way through the trainer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small_settings import with_small
from torch import Tensor, nn

from recgraph import registry
from recgraph.data.part import Part
from recgraph.models.base import Space, TrainableModel
from recgraph.models.growth import grown, grown_optimiser
from recgraph.models.sequence.sasrec import SASRec
from recgraph.rng import Generators
from recgraph.rows import is_row_sparse, row_gradient
from recgraph.sparse.ragged import Ragged
from recgraph.train import phases
from recgraph.train.callbacks import Observer
from recgraph.train.checkpoint import optimiser_tensors
from recgraph.train.config import TrainConfig, make_accelerator
from recgraph.train.row_adam import RowAdam, clip_gradients
from recgraph.train.trainer import Trainer

N_USERS, N_ITEMS = 10, 60


class Oracle:
    """One number of a table, stepped when it is touched; t is the table's count."""

    def __init__(self, value: float) -> None:
        self.value, self.m, self.v = value, 0.0, 0.0

    def step(self, gradient: float, square: float, rate: float, t: int) -> None:
        self.m = 0.9 * self.m + 0.1 * gradient
        self.v = 0.999 * self.v + 0.001 * square
        self.value -= rate * (self.m / (1 - 0.9**t)) / (math.sqrt(self.v / (1 - 0.999**t)) + 1e-8)


@pytest.mark.parametrize("loss", ["full_softmax", "sampled_softmax"])
def test_the_decay_of_second_moments_is_a_setting(loss: str) -> None:
    model = SASRec(hidden_dim=4, loss=loss).build(Space(n_users=N_USERS, n_items=N_ITEMS))
    config = TrainConfig.of(adam_beta2=0.98, table_optimiser="adam" if loss == "full_softmax" else "lazy_adam")
    assert phases.make_optimisers(model, config)["model"].defaults["betas"] == (0.9, 0.98)
    assert "adam_beta2" not in TrainConfig().identity()


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("row_wise", [False, True])
def test_steps_by_hand(row_wise: bool, decay: float) -> None:
    table = nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 0.25], [3.0, 4.0]], dtype=torch.float64))
    numbers = [[Oracle(value) for value in row] for row in table.tolist()]
    optimiser = RowAdam([table], 0.1, decay, row_wise=[table] if row_wise else ())
    for t, touched in enumerate([{0: (0.3, -0.2)}, {0: (0.1, 0.1), 2: (-1.0, 0.5)}, {2: (0.2, 0.0)}], start=1):
        index = torch.tensor([*touched, *touched])  # each row twice, a half at a time
        halves = torch.tensor([*touched.values()] * 2, dtype=torch.float64) / 2
        table.grad = row_gradient(index, halves, 3)
        optimiser.step()
        assert table.grad is not None
        for row, values in touched.items():
            gradients = [g + decay * one.value for g, one in zip(values, numbers[row], strict=True)]
            squares = [g * g for g in gradients]
            for g, square, one in zip(gradients, squares, numbers[row], strict=True):
                one.step(g, sum(squares) / 2 if row_wise else square, 0.1, t)
    expected = torch.tensor([[one.value for one in row] for row in numbers], dtype=torch.float64)
    torch.testing.assert_close(table.detach(), expected, rtol=1e-6, atol=1e-9)
    assert optimiser.state[table]["exp_avg_sq"].shape == (3, 1 if row_wise else 2)


@pytest.mark.parametrize("beta2", [0.999, 0.98])
def test_with_all_rows_it_is_adam(beta2: float) -> None:
    g = torch.Generator().manual_seed(0)
    start, other = torch.randn(7, 4, generator=g), torch.randn(3, generator=g)
    ours, theirs = [[nn.Parameter(x.clone()) for x in (start, other)] for _ in range(2)]
    lazy = RowAdam(ours, 1e-2, 0.01, betas=(0.9, beta2))
    adam = torch.optim.Adam(theirs, lr=1e-2, betas=(0.9, beta2), weight_decay=0.01, fused=True)
    for step in range(5):
        gradients = torch.randn(7, 4, generator=g), torch.randn(3, generator=g)
        for parameters, is_sparse in ((ours, step != 2), (theirs, False)):  # a dense gradient in between
            parameters[0].grad = row_gradient(torch.arange(7), gradients[0], 7) if is_sparse else gradients[0].clone()
            parameters[1].grad = gradients[1].clone()
        lazy.step()
        adam.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_a_step_reads_and_writes_the_touched_rows_alone() -> None:
    table = nn.Parameter(torch.randn(50, 3))
    optimiser = RowAdam([table], 0.1)
    table.grad = row_gradient(torch.tensor([3, 9]), torch.ones(2, 3), 50)
    optimiser.step()
    # what an update of all rows would spread
    untouched = [row for row in range(50) if row not in (3, 9)]
    optimiser.state[table]["exp_avg"][untouched] = math.nan
    before = table.detach().clone()
    optimiser.step()
    assert torch.equal(table[untouched], before[untouched])
    assert not torch.equal(table[[3, 9]], before[[3, 9]])


def test_clip_gradients_sums_the_rows_first() -> None:
    for largest in (0.5, 100.0):
        a, b = nn.Parameter(torch.zeros(4, 2)), nn.Parameter(torch.zeros(3))
        values = torch.tensor([[3.0, 0.0], [1.0, 1.0], [-1.0, 2.0]])
        expected = torch.zeros(4, 2).index_add(0, torch.tensor([1, 2, 1]), values)
        a.grad, b.grad = row_gradient(torch.tensor([1, 2, 1]), values.clone(), 4), torch.tensor([1.0, 2.0, 3.0])
        dense = [nn.Parameter(torch.zeros(4, 2)), nn.Parameter(torch.zeros(3))]
        dense[0].grad, dense[1].grad = expected, b.grad.clone()
        torch.nn.utils.clip_grad_norm_(dense, largest)
        clip_gradients([a, b, nn.Parameter(torch.zeros(1))], largest)
        assert a.grad.is_sparse
        torch.testing.assert_close(a.grad.to_dense(), dense[0].grad)
        torch.testing.assert_close(b.grad, dense[1].grad)


def _part(n_items: int = N_ITEMS) -> Part:
    g = torch.Generator().manual_seed(3)
    lengths = torch.randint(4, 9, (N_USERS,), generator=g)
    return Part(Ragged.from_lengths(torch.randint(n_items // 2, (int(lengths.sum()),), generator=g), lengths), n_items)


def _model(name: str = "sasrec", **settings: Any) -> TrainableModel:
    cls, drawn = registry.load("model", name), {} if name == "bprmf" else {"loss": "sampled_softmax"}
    model: TrainableModel = cls(**with_small(cls, {"hidden_dim": 8, "n_negatives": 4}, drawn | settings))
    return model.build(Space(n_users=N_USERS, n_items=N_ITEMS), seed=1)


def _trainer(model: TrainableModel, folder: Path | None = None, **settings: Any) -> Trainer:
    given = {"metric": "last", "batch_size": 2, "max_epochs": 2, "patience": None, "learning_rate": 0.01} | settings
    generators = Generators(0)
    return Trainer(
        model,
        model.batches(_part(), given["batch_size"], generators),
        TrainConfig.of(given),
        generators,
        folder=folder,
        accelerator=make_accelerator("cpu"),
    )


def _table(model: TrainableModel) -> Tensor:
    return dict(model.named_parameters())[model.row_sparse_tables[0]]


@pytest.mark.parametrize("chosen", ["lazy_adam", "rowwise_adam"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sasrec", {}),
        ("sasrec", {"clip_norm": 0.1}),
        ("sasrec", {"accumulate": 2}),
        ("mclrec", {"weight_decay": 0.01}),
        ("bprmf", {}),
    ],
)
def test_trains_and_resumes_bit_for_bit(name: str, settings: dict[str, Any], chosen: Any, tmp_path: Path) -> None:
    settings = {"table_optimiser": chosen, **settings}
    whole = _model(name)
    before = _table(whole).detach().clone()
    history = _trainer(whole, **settings).fit()
    assert history[1]["loss"] < history[0]["loss"] or name == "mclrec"
    assert not torch.equal(_table(whole), before)
    stopped = _trainer(_model(name), tmp_path, checkpoint_every=2, **settings)

    class Stop(Observer):
        def advance(self) -> None:
            if stopped.progress.epoch == 1 and stopped.progress.batch == 3:
                raise KeyboardInterrupt

    stopped.observers = [Stop()]
    with pytest.raises(KeyboardInterrupt):
        stopped.fit()
    again = _model(name)
    resumed = _trainer(again, tmp_path, checkpoint_every=2, **settings)
    assert resumed.resume()
    resumed.fit()
    for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_who_is_stepped_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_lazy(model: TrainableModel, chosen: str) -> bool:
        (optimiser,) = phases.make_optimisers(model, TrainConfig.of({"table_optimiser": chosen})).values()
        return isinstance(optimiser, RowAdam)

    assert not is_lazy(_model(), "auto")
    assert is_lazy(_model(), "lazy_adam")
    assert is_row_sparse(_table(model := _model())) is False
    monkeypatch.setattr(phases, "ROWS_OF_LAZY", N_ITEMS)  # the table has one row more, the padding's
    assert is_lazy(model, "auto")
    assert is_row_sparse(_table(model))
    assert not is_lazy(model, "adam")
    assert not is_row_sparse(_table(model))  # as it was before
    assert not is_lazy(_model(loss="full_softmax"), "auto")
    with pytest.raises(ValueError, match=r"table_optimiser = 'lazy_adam'.*SASRec touches all rows.*use 'adam'"):
        is_lazy(_model(loss="full_softmax"), "lazy_adam")


def test_a_frozen_table_stays() -> None:
    model = _model()
    table = _table(model)
    table.requires_grad_(False)
    before = table.detach().clone()
    _trainer(model, table_optimiser="lazy_adam").fit()
    assert torch.equal(table, before)


@pytest.mark.parametrize("chosen", ["lazy_adam", "rowwise_adam"])
def test_moments_grow_with_the_table(chosen: Any) -> None:
    model = _model()
    trainer = _trainer(model, table_optimiser=chosen)
    trainer.fit()
    larger = grown(model, Space(n_users=N_USERS, n_items=N_ITEMS + 5), seed=2)
    tensors = optimiser_tensors(trainer.optimisers)
    assert isinstance(larger, TrainableModel)
    kept = grown_optimiser(model, larger, tensors)
    for entry, width in (("exp_avg", 8), ("exp_avg_sq", 1 if chosen == "rowwise_adam" else 8)):
        assert kept[f"model/0/{entry}"].shape == (N_ITEMS + 6, width)
        assert torch.equal(kept[f"model/0/{entry}"][: N_ITEMS + 1], tensors[f"model/0/{entry}"])
