"""Batches of pairs: order, resuming, and the law of the negatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recgraph.data.batches import PairBatches
from recgraph.data.negatives import NegativeSampler
from recgraph.data.part import Part
from recgraph.ranks import Ranks
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged

ROWS = [[3, 0, 5], [], [1], [0, 1, 2, 3, 4, 5, 6], [6, 6, 2], [5, 4, 3, 2, 1, 0]]


def part(rows: list[list[int]] = ROWS, n_items: int = 7) -> Part:
    return Part(Ragged.from_lists(rows), n_items)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("exclude_own", [False, True])
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_negatives_follow_the_stated_law(power: float, exclude_own: bool) -> None:
    train, n = part(), 40_000
    sampler = NegativeSampler(train, power, exclude_own)
    drawn = sampler.draw(torch.arange(6), n, stream())
    assert drawn.shape == (6, n)
    counts = train.item_counts().double()
    mass = torch.where(counts > 0, counts**power, 0) if power else torch.ones(7, dtype=torch.float64)
    for user, row in enumerate(ROWS):
        expected = mass.clone()
        if exclude_own and len(set(row)) < 7:
            expected[row] = 0
        shares = torch.bincount(drawn[user], minlength=7) / n
        torch.testing.assert_close(shares.double(), expected / expected.sum(), atol=0.012, rtol=0)
        assert bool((shares[expected == 0] == 0).all())


@given(
    rows=st.lists(st.lists(st.integers(0, 8), max_size=12), min_size=1, max_size=8),
    power=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
)
def test_own_items_are_never_drawn(rows: list[list[int]], power: float) -> None:
    train = part(rows, 9)
    if not train.n_interactions:
        return
    drawn = NegativeSampler(train, power).draw(torch.arange(len(rows)), 50, stream())
    allowed = set(range(9)) if power == 0 else {item for row in rows for item in row}
    for row, negatives in zip(rows, drawn.tolist(), strict=True):
        assert set(negatives) <= (allowed - set(row) or allowed)


@pytest.mark.parametrize("power", [0.0, 0.75])
def test_a_large_log_draws_what_a_small_one_does(power: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randint(30, (200, 12), generator=stream()).tolist()
    sampler, users = NegativeSampler(part(rows, 30), power), torch.randint(200, (500,), generator=stream())
    drawn = sampler.draw(users, 7, stream())
    monkeypatch.setattr("recgraph.data.negatives._LARGE", 1)
    assert torch.equal(sampler.draw(users, 7, stream()), drawn)
    assert sampler.draw(users[:0], 7, stream()).shape == (0, 7)


@pytest.mark.parametrize("exclude_own", [False, True])
@pytest.mark.parametrize("power", [0.0, 1.0])
def test_shared_negatives_follow_the_law_of_all_items(power: float, exclude_own: bool) -> None:
    train, n = part(), 40_000
    sampler = NegativeSampler(train, power, exclude_own)
    users, items = torch.tensor([3, 0, 4, 0]), torch.tensor([2, 5, 6, 3])
    drawn, excluded = sampler.draw_shared(users, items, n, stream())
    mass = train.item_counts().double() if power else torch.ones(7, dtype=torch.float64)
    shares = torch.bincount(drawn[0], minlength=7) / n
    torch.testing.assert_close(shares.double(), mass / mass.sum(), atol=0.012, rtol=0)
    # a user who has every item has negatives none the less
    barred = [
        set(ROWS[user]) if exclude_own and len(set(ROWS[user])) < 7 else {item}
        for user, item in zip(users.tolist(), items.tolist(), strict=True)
    ]
    expected = {(b, k) for b, own in enumerate(barred) for k, item in enumerate(drawn[0].tolist()) if item in own}
    assert len(expected) == excluded.shape[1]
    assert expected == set(map(tuple, excluded.T.tolist()))
    # ranks draw the same for their shares of a batch
    assert torch.equal(sampler.draw_shared(users[:2], items[:2], n, stream())[0], drawn)


def test_groups_of_samples_share_negatives() -> None:
    """Each group is one as if it were alone, and the last may be empty."""
    sampler, bounds = NegativeSampler(part(), 0.0, True), [0, 3, 4, 4]
    users, items = torch.tensor([3, 0, 4, 0]), torch.tensor([2, 5, 6, 3])
    drawn, excluded = sampler.draw_shared(users, items, 50, stream(), bounds)
    assert drawn.shape == (3, 50)
    generator, columns = stream(), torch.zeros(4, 50, dtype=torch.bool)
    columns[tuple(excluded)] = True
    for group, rows in enumerate((slice(0, 3), slice(3, 4))):
        alone, barred = sampler.draw_shared(users[rows], items[rows], 50, generator)
        assert torch.equal(alone[0], drawn[group])
        expected = torch.zeros(rows.stop - rows.start, 50, dtype=torch.bool)
        expected[tuple(barred)] = True
        assert torch.equal(columns[rows], expected)


def test_ranks_share_the_negatives_of_groups() -> None:
    """What the ranks have of a batch is what one process has, group by group."""
    settings: dict[str, Any] = {"n_negatives": 5, "shared": True, "n_groups": 3}
    whole = next(PairBatches(part(), 10, Generators(3), **settings).epoch(0))
    masks, samples = [], []
    for rank in range(2):
        ranks = Ranks(rank, 2)
        batch = next(PairBatches(part(), 10, Generators(3, ranks=ranks), **settings).epoch(0))
        assert torch.equal(batch.negatives, whole.negatives)
        masks.append(batch.negative_mask())
        samples.append(batch.of_samples(batch.negatives))
    assert torch.equal(torch.cat(masks), whole.negative_mask())
    assert torch.equal(torch.cat(samples), whole.of_samples(whole.negatives))
    assert whole.of_samples(whole.negatives).shape == (10, 5)


def test_batches_of_shared_negatives() -> None:
    batches = PairBatches(part(), 4, Generators(3), n_negatives=5, shared=True)
    first, *_, last = batches.epoch(0)
    assert first.negatives.shape == last.negatives.shape == (1, 5)
    assert not torch.equal(first.negatives, last.negatives)
    assert first.negative_mask().shape == (4, 5)
    torch.testing.assert_close(first.to("cpu").excluded, first.excluded)


def test_every_interaction_once_an_epoch() -> None:
    batches = PairBatches(part(), 4, Generators(3), n_negatives=2)
    seen = list(batches.epoch(0))
    assert len(seen) == len(batches) == 5
    pairs = sorted((int(u), int(i)) for batch in seen for u, i in zip(batch.users, batch.items, strict=True))
    assert pairs == sorted((user, item) for user, row in enumerate(ROWS) for item in row)
    assert all(batch.negatives.shape == (batch.n_targets, 2) for batch in seen)
    assert {batch.epoch for batch in seen} == {0}


def test_an_epoch_goes_on_where_it_was_left() -> None:
    whole = list(PairBatches(part(), 4, Generators(3)).epoch(2))
    rest = list(PairBatches(part(), 4, Generators(3)).epoch(2, start=3))
    for a, b in zip(whole[3:], rest, strict=True):
        assert torch.equal(a.users, b.users)
        assert torch.equal(a.items, b.items)
        assert torch.equal(a.negatives, b.negatives)
    other = next(PairBatches(part(), 4, Generators(3)).epoch(1))
    assert not (torch.equal(whole[0].items, other.items) and torch.equal(whole[0].negatives, other.negatives))


def test_without_negatives() -> None:
    batch = next(PairBatches(part(), 4, Generators(3), n_negatives=0).epoch(0))
    assert batch.negatives.shape == (4, 0)
    assert batch.to("cpu").epoch == 0
