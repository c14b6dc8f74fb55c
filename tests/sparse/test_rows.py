"""Blocks of rows and what they share; reads of tables: distinct rows, and sparse gradients that are the dense ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph import registry
from recgraph.data.part import Part
from recgraph.models.base import Space, TrainableModel
from recgraph.rng import Generators
from recgraph.sparse.blocks import exponent_limit, row_blocks, unit_length, work_type
from recgraph.sparse.ragged import Ragged
from recgraph.sparse.rows import distinct_rows, lookup, read_once, set_sparse
from recgraph.train.config import TrainConfig, make_accelerator
from recgraph.train.trainer import Trainer


@pytest.mark.parametrize("block_rows", [None, 1, 4, 10, 99])
def test_blocks_cover_the_rows(block_rows: int | None) -> None:
    blocks = list(row_blocks(10, 7, torch.empty(0), block_rows))
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(10))
    assert blocks[0].stop == min(block_rows or 10, 10)


def test_a_block_fits_the_cache() -> None:
    for dtype in (torch.float32, torch.float64):
        like = torch.empty(0, dtype=dtype)
        assert next(row_blocks(10**6, 10_000, like)).stop * 10_000 * like.element_size() <= 4 * 2**20
    # however many columns there are, products of a few rows are worth making
    assert next(row_blocks(10**6, 10**8, torch.empty(0))).stop == 32


def test_work_type() -> None:
    half, single, double = (torch.empty(0, dtype=t) for t in (torch.bfloat16, torch.float32, torch.float64))
    assert work_type(half) == work_type(half, single) == torch.float32
    assert work_type(half, double) == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exponents_within_the_limit_are_normal_numbers(dtype: torch.dtype) -> None:
    limit = torch.tensor(exponent_limit(dtype), dtype=dtype)
    assert (1e9 * limit.exp()).isfinite()
    assert (-limit).exp() * 1e-6 > torch.finfo(dtype).tiny
    assert math.isfinite(1 / float((-limit).exp()))


@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 4), (6,)])
def test_unit_length_is_normalize(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = torch.arange(x.numel()).view(shape).sin()
    made, expected = unit_length(x), F.normalize(x, dim=-1)
    assert torch.equal(made, expected)
    assert torch.equal(*(torch.autograd.grad((one * weights).sum(), x)[0] for one in (made, expected)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_what_is_0_has_no_direction_and_gets_no_gradient(dtype: torch.dtype) -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=dtype, requires_grad=True)
    made = unit_length(x)
    assert made[0].tolist() == [0, 0]
    torch.testing.assert_close(made[1], torch.tensor([0.6, 0.8], dtype=dtype))
    (gradient,) = torch.autograd.grad(made[:, 0].sum(), x)
    assert gradient[0].tolist() == [0, 0]
    assert bool(gradient[1].abs().sum() > 0)


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
    set_sparse(table, sparse)
    part, places = read_once(table, users, items)
    assert part.shape == (5, 2)
    got = torch.autograd.grad(value(part, *places), table)[0]
    assert got.is_sparse == sparse
    torch.testing.assert_close(got.to_dense(), expected)


N_USERS, N_ITEMS = 12, 300
CASES: list[tuple[str, Mapping[str, Any]]] = [
    *[("sasrec", {"loss": {"name": loss, "n_negatives": 3}}) for loss in ("sampled_softmax", "bce")],
    ("gru4rec", {"loss": {"name": "bpr", "n_negatives": 3}}),
    ("mclrec", {"loss": {"name": "sampled_softmax", "n_negatives": 3}}),
    ("bprmf", {"loss": {"name": "bpr", "n_negatives": 3}}),
]


def _part() -> Part:
    g = torch.Generator().manual_seed(3)
    lengths = torch.randint(4, 9, (N_USERS,), generator=g)
    # items that no user has are never targets
    return Part(Ragged.from_lengths(torch.randint(N_ITEMS // 2, (int(lengths.sum()),), generator=g), lengths), N_ITEMS)


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
        set_sparse(named[table], sparse)
        phase = model.phases[0]
        terms = model.train()(batch, tuple(phase.terms))
        torch.stack([terms[term] * weight for term, weight in phase.terms.items()]).sum().backward()
        gradient = named[table].grad
        assert gradient is not None
        assert gradient.is_sparse == sparse
        found.append({key: value.grad.to_dense() for key, value in named.items() if value.grad is not None})
    for key, value in found[1].items():
        torch.testing.assert_close(value, found[0][key], rtol=1e-5, atol=1e-8)


def test_sparse_adam_steps_the_rows_that_a_step_touches() -> None:
    """Where every step touches all rows it is Adam; what it never touches stays as it was."""
    weights = {}
    for sparse in (False, True):
        model = _model(*CASES[0])
        before = model.get_parameter("item_embedding.weight").detach().clone()
        generators = Generators(0)
        config = TrainConfig.of(metric="last", max_epochs=1, patience=None, batch_size=N_USERS, sparse_tables=sparse)
        batches = model.batches(_part(), config.batch_size, generators)
        trainer = Trainer(model, batches, config, generators, accelerator=make_accelerator("cpu"))
        trainer.fit()
        weights[sparse] = model.get_parameter("item_embedding.weight").detach()
    # after one step the two differ in where eps counts alone
    torch.testing.assert_close(weights[True], weights[False], rtol=0, atol=1e-4)
    moved_mask = (weights[True] != before).any(1)
    assert 0 < int(moved_mask.sum()) < N_ITEMS // 2


def test_who_has_no_such_table() -> None:
    for name, settings in [("sasrec", {}), ("lightgcn", {}), ("bprmf", {"loss": "full_softmax"})]:
        assert registry.load("model", name)(**settings).build(Space(n_users=3, n_items=5)).row_sparse_tables == ()
