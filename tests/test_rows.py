"""Row-sparse gradients: what readers of tables give, against dense gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from recgraph import registry
from recgraph.data.part import Part
from recgraph.models.base import Space, TrainableModel
from recgraph.rng import Generators
from recgraph.rows import (
    distinct_rows,
    is_row_sparse,
    lookup,
    read_once,
    row_gradient,
    rows_from,
    set_row_sparse,
    summed_rows,
)
from recgraph.sparse.ragged import Ragged


@pytest.mark.parametrize("n_rows", [3, 9, 10_000])  # by a mask of the table, and by sorting
def test_distinct_rows(n_rows: int) -> None:
    index = torch.randint(min(n_rows, 9), (5, 4), generator=torch.Generator().manual_seed(n_rows))
    rows, places = distinct_rows(index, n_rows)
    assert rows.tolist() == sorted(set(index.flatten().tolist()))
    assert torch.equal(rows[places], index)


def test_summed_rows_adds_what_stands_twice() -> None:
    gradient = row_gradient(torch.tensor([4, 1, 4]), torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), 6)
    rows, values = summed_rows(gradient)
    assert rows.tolist() == [1, 4]
    assert values.tolist() == [[3.0, 4.0], [6.0, 8.0]]
    again = summed_rows(row_gradient(rows, values, 6, is_summed=True))
    assert torch.equal(again[0], rows)
    assert torch.equal(again[1], values)


def test_rows_from_shifts_the_rows() -> None:
    table = torch.nn.Parameter(torch.randn(6, 2))
    index = torch.tensor([0, 2, 2])
    expected = torch.autograd.grad(lookup(rows_from(table, 2), index).pow(2).sum(), table)[0]
    set_row_sparse(table)
    part = rows_from(table, 2)
    assert is_row_sparse(part)
    assert part.data_ptr() == table[2:].data_ptr()
    got = torch.autograd.grad(lookup(part, index).pow(2).sum(), table)[0]
    assert got.is_sparse
    torch.testing.assert_close(got.to_dense(), expected)
    # a reader that does not ask gives a dense gradient
    torch.testing.assert_close(torch.autograd.grad(rows_from(table, 2)[index].pow(2).sum(), table)[0], expected)


@pytest.mark.parametrize("is_sparse", [False, True])
def test_read_once_makes_one_gradient_of_several_readers(is_sparse: bool) -> None:
    table = torch.nn.Parameter(torch.randn(40, 2))
    users, items = torch.tensor([3, 0, 3]), torch.tensor([[39, 20], [39, 7]])

    def value(source: Tensor, of_users: Tensor, of_items: Tensor) -> Tensor:
        return (lookup(source, of_users).sum(0) * lookup(source, of_items).pow(2).sum((0, 1))).sum()

    expected = torch.autograd.grad(value(table, users, items), table)[0]
    set_row_sparse(table, is_sparse)
    part, places = read_once(table, users, items)
    assert part.shape == (5, 2)
    assert [place.shape for place in places] == [users.shape, items.shape]
    got = torch.autograd.grad(value(part, *places), table)[0]
    assert got.is_sparse == is_sparse
    torch.testing.assert_close(got.to_dense(), expected)


SMALL = {"hidden_dim": 8, "n_negatives": 3}
CASES: list[tuple[str, Mapping[str, Any]]] = [
    *[("sasrec", {"loss": loss}) for loss in ("sampled_softmax", "bce", "bpr")],
    ("sasrec", {"loss": "sampled_softmax", "regime": "prefix"}),
    ("sasrec", {"loss": "bce", "time_gaps": True}),
    ("sasrec", {"loss": "bpr", "encoder": "gru"}),
    ("mclrec", {"loss": "sampled_softmax"}),
    *[("bprmf", {"loss": loss}) for loss in ("sampled_softmax", "bce", "bpr")],
]
N_USERS, N_ITEMS = 12, 300


def _part() -> Part:
    g = torch.Generator().manual_seed(3)
    lengths = torch.randint(4, 9, (N_USERS,), generator=g)
    count = int(lengths.sum())
    # items that no user has are never targets
    items = torch.randint(N_ITEMS // 2, (count,), generator=g)
    return Part(Ragged.from_lengths(items, lengths), N_ITEMS, times=torch.arange(count) * 10**9)


def _gradients(model: TrainableModel, part: Part, is_sparse: bool) -> dict[str, Tensor]:
    """Of the first phase's loss on the first batch."""
    batch = next(iter(model.batches(part, 8, Generators(0)).epoch(0)))
    named = dict(model.named_parameters())
    for name in model.row_sparse_tables:
        set_row_sparse(named[name], is_sparse)
    model.train()
    phase = model.phases[0]
    terms = model(batch, tuple(phase.terms))
    model.zero_grad()
    sum(terms[name] * weight for name, weight in phase.terms.items()).backward()  # type: ignore[union-attr]
    return {name: value.grad for name, value in named.items() if value.grad is not None}


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_models_give_the_dense_gradient_by_rows(name: str, settings: Mapping[str, Any]) -> None:
    part = _part()
    make: Callable[[], TrainableModel] = lambda: registry.load("model", name)(**SMALL, **settings).build(  # noqa: E731
        Space(n_users=N_USERS, n_items=N_ITEMS), seed=1
    )
    dense, rows = _gradients(make(), part, False), _gradients(make(), part, True)
    (table,) = make().row_sparse_tables
    assert rows[table].is_sparse
    assert not dense[table].is_sparse
    touched = summed_rows(rows[table])[0]
    assert len(touched) < len(dense[table])
    for key, value in rows.items():
        torch.testing.assert_close(value.to_dense() if value.is_sparse else value, dense[key], rtol=1e-5, atol=1e-8)


def test_who_has_no_row_sparse_table() -> None:
    space = Space(n_users=N_USERS, n_items=N_ITEMS)
    for name, settings in [("sasrec", {}), ("lightgcn", {}), ("bprmf", {"loss": "full_softmax"})]:
        assert registry.load("model", name)(**settings).build(space).row_sparse_tables == ()
