"""Reads of tables: distinct rows, and sparse gradients that are the dense ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recgraph import registry
from recgraph.data.part import Part
from recgraph.models.base import Space, TrainableModel
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged
from recgraph.sparse.rows import SPARSE_GRADIENTS, distinct_rows, lookup, read_once
from recgraph.train.config import TrainConfig, make_accelerator
from recgraph.train.trainer import Trainer


@pytest.mark.parametrize("n_rows", [3, 9, 10_000])  # by a mask of the table, and by sorting
def test_distinct_rows(n_rows: int) -> None:
    index = torch.randint(min(n_rows, 9), (5, 4), generator=torch.Generator().manual_seed(n_rows))
    rows, places = distinct_rows(index, n_rows)
    assert rows.tolist() == sorted(set(index.flatten().tolist()))
    assert torch.equal(rows[places], index)


@pytest.mark.parametrize("sparse", [False, True])
def test_read_once_makes_one_gradient_of_several_readers(sparse: bool) -> None:
    table = torch.nn.Parameter(torch.randn(40, 2))
    users, items = torch.tensor([3, 0, 3]), torch.tensor([[39, 20], [39, 7]])

    def value(source: Tensor, of_users: Tensor, of_items: Tensor) -> Tensor:
        return (lookup(source, of_users).sum(0) * lookup(source, of_items).pow(2).sum((0, 1))).sum()

    expected = torch.autograd.grad(value(table, users, items), table)[0]
    setattr(table, SPARSE_GRADIENTS, sparse)
    part, places = read_once(table, users, items)
    assert part.shape == (5, 2)
    got = torch.autograd.grad(value(part, *places), table)[0]
    assert got.is_sparse == sparse
    torch.testing.assert_close(got.to_dense(), expected)


N_USERS, N_ITEMS = 12, 300
CASES: list[tuple[str, Mapping[str, Any]]] = [
    *[
        ("sasrec", {"loss": {"name": loss, "n_negatives": 3}})
        for loss in ("sampled_softmax", "bce")
    ],
    ("gru4rec", {"loss": {"name": "bpr", "n_negatives": 3}}),
    ("mclrec", {"loss": {"name": "sampled_softmax", "n_negatives": 3}}),
    ("bprmf", {"loss": {"name": "bpr", "n_negatives": 3}}),
]


def _part() -> Part:
    g = torch.Generator().manual_seed(3)
    lengths = torch.randint(4, 9, (N_USERS,), generator=g)
    # items that no user has are never targets
    return Part(
        Ragged.from_lengths(
            torch.randint(N_ITEMS // 2, (int(lengths.sum()),), generator=g), lengths
        ),
        N_ITEMS,
    )


def _model(name: str, settings: Mapping[str, Any]) -> TrainableModel:
    model: TrainableModel = registry.load("model", name)(hidden_dim=8, **settings)
    return model.build(Space(n_users=N_USERS, n_items=N_ITEMS), seed=1)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_sparse_gradients_are_the_dense_ones(name: str, settings: Mapping[str, Any]) -> None:
    found = []
    for sparse in (False, True):
        model = _model(name, settings)
        batch = next(iter(model.batches(_part(), 8, Generators(0)).epoch(0)))
        named = dict(model.named_parameters())
        (table,) = model.row_sparse_tables
        setattr(named[table], SPARSE_GRADIENTS, sparse)
        phase = model.phases[0]
        terms = model.train()(batch, tuple(phase.terms))
        torch.stack([terms[term] * weight for term, weight in phase.terms.items()]).sum().backward()
        gradient = named[table].grad
        assert gradient is not None
        assert gradient.is_sparse == sparse
        found.append(
            {key: value.grad.to_dense() for key, value in named.items() if value.grad is not None}
        )
    for key, value in found[1].items():
        torch.testing.assert_close(value, found[0][key], rtol=1e-5, atol=1e-8)


def test_sparse_adam_steps_the_rows_that_a_step_touches() -> None:
    """Where every step touches all rows it is Adam; what it never touches stays as it was."""
    weights = {}
    for sparse in (False, True):
        model = _model(*CASES[0])
        before = model.get_parameter("item_embedding.weight").detach().clone()
        generators = Generators(0)
        config = TrainConfig.of(
            metric="last", max_epochs=1, patience=None, batch_size=N_USERS, sparse_tables=sparse
        )
        batches = model.batches(_part(), config.batch_size, generators)
        trainer = Trainer(model, batches, config, generators, accelerator=make_accelerator("cpu"))
        trainer.fit()
        weights[sparse] = model.get_parameter("item_embedding.weight").detach()
    # after one step the two differ in where eps counts alone
    torch.testing.assert_close(weights[True], weights[False], rtol=0, atol=1e-4)
    moved_mask = (weights[True] != before).any(1)
    assert 0 < int(moved_mask.sum()) < N_ITEMS // 2


# -- ragged rows against the same thing done with lists

Rows = list[list[int]]
ROWS = st.lists(st.lists(st.integers(0, 99), max_size=6), max_size=7)


@given(ROWS)
def test_lists_round_trip(rows: Rows) -> None:
    ragged = Ragged.from_lists(rows)
    assert ragged.to_lists() == rows
    assert Ragged.cat([ragged, ragged, Ragged.from_lists([[7]])]).to_lists() == [*rows, *rows, [7]]
    width = max((len(row) for row in rows), default=0)
    padded = ragged.to_padded(-1)
    assert padded.tolist() == [row + [-1] * (width - len(row)) for row in rows]
    assert Ragged.from_padded(padded, ragged.lengths).to_lists() == rows
    assert (len(ragged), ragged.n_rows) == (len(rows), len(rows))
    assert ragged.lengths.tolist() == [len(row) for row in rows]
    assert ragged.rows.tolist() == [index for index, row in enumerate(rows) for _ in row]
    assert ragged.positions.tolist() == [place for row in rows for place in range(len(row))]
    assert [ragged.row(index).tolist() for index in range(len(rows))] == rows


@given(ROWS, st.integers(0, 7))
def test_ends_and_repeats_of_rows(rows: Rows, n: int) -> None:
    made, every = Ragged.from_lists(rows), [*range(len(rows)), *range(len(rows))]
    assert made.last(n).to_lists() == [row[-n:] if n else [] for row in rows]
    assert made.first(made.lengths.clamp(max=n)).to_lists() == [row[:n] for row in rows]
    assert made.take(torch.tensor(every, dtype=torch.int64)).to_lists() == rows * 2


@given(ROWS.filter(bool), st.data())
def test_parts_of_rows(rows: Rows, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=9))
    starts = [data.draw(st.integers(0, len(rows[index]))) for index in chosen]
    lengths = [
        data.draw(st.integers(0, len(rows[index]) - start))
        for index, start in zip(chosen, starts, strict=True)
    ]
    wanted = [
        rows[index][start : start + length]
        for index, start, length in zip(chosen, starts, lengths, strict=True)
    ]
    parts = (torch.tensor(each, dtype=torch.int64) for each in (chosen, starts, lengths))
    assert Ragged.from_lists(rows).take(*parts).to_lists() == wanted


@given(ROWS, st.data())
def test_filter(rows: Rows, data: st.DataObject) -> None:
    keep = [[data.draw(st.booleans()) for _ in row] for row in rows]
    mask = torch.tensor([flag for row in keep for flag in row], dtype=torch.bool)
    wanted = [
        [value for value, flag in zip(row, flags, strict=True) if flag]
        for row, flags in zip(rows, keep, strict=True)
    ]
    made = Ragged.from_lists(rows)
    assert made.filter(mask).to_lists() == wanted
    assert "rows" not in vars(made)  # as large as the values; of a whole log it would stay


def test_values_with_features_keep_their_shape_and_gradient() -> None:
    values = torch.randn(5, 2, requires_grad=True)
    ragged = Ragged.from_lists([[0, 0], [], [0, 0, 0]]).with_values(values)
    padded = ragged.to_padded()
    assert padded.shape == (3, 3, 2)
    padded.sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad, torch.ones(5, 2))
    assert torch.equal(ragged.last(1).values, values[[1, 4]])


def test_mirrored_rows_are_laid_out_without_a_read_of_the_device() -> None:
    """The device ``meta`` has no values: whoever reads one gets an error."""
    rows, more = Ragged.from_lists([[3, 1, 2], [], [5]]), Ragged.from_lists([[7, 7]])
    there = rows.mirrored("meta")
    assert there.values.is_meta
    assert there.offsets.is_meta
    assert (there.on_host.to_lists(), there.longest) == (rows.to_lists(), 3)
    assert there.with_values(there.values * 0.5).longest == 3
    together = Ragged.cat([there, more.mirrored("meta")])
    assert together.values.is_meta
    assert together.on_host.to_lists() == [*rows.to_lists(), *more.to_lists()]
    assert (there.rows.shape, there.positions.shape) == ((4,), (4,))
    with pytest.raises(NotImplementedError):
        _ = rows.to("meta").on_host
    assert rows.mirrored("cpu").on_host is not None
    assert Ragged.from_lists([]).longest == 0
