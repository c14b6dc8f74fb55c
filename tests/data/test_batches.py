"""Batches of pairs and sequences: order, resuming, shares of ranks, time gaps, and the law of the
negatives.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recgraph.data.batches import N_GAPS, PairBatches, SequenceBatches
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
    mass = (
        torch.where(counts > 0, counts**power, 0) if power else torch.ones(7, dtype=torch.float64)
    )
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
    expected = {
        (b, k)
        for b, own in enumerate(barred)
        for k, item in enumerate(drawn[0].tolist())
        if item in own
    }
    assert len(expected) == excluded.shape[1]
    assert expected == set(map(tuple, excluded.T.tolist()))
    # ranks draw the same for their shares of a batch
    assert torch.equal(sampler.draw_shared(users[:2], items[:2], n, stream())[0], drawn)


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


def test_every_interaction_once_an_epoch() -> None:
    batches = PairBatches(part(), 4, Generators(3), n_negatives=2)
    seen = list(batches.epoch(0))
    assert len(seen) == len(batches) == 5
    pairs = sorted(
        (int(u), int(i)) for batch in seen for u, i in zip(batch.users, batch.items, strict=True)
    )
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
    assert not (
        torch.equal(whole[0].items, other.items)
        and torch.equal(whole[0].negatives, other.negatives)
    )


def random_train(n_users: int = 23) -> Part:
    drawn = torch.Generator().manual_seed(5)
    lengths = torch.randint(2, 12, (n_users,), generator=drawn)
    return Part(
        Ragged.from_lengths(torch.randint(30, (int(lengths.sum()),), generator=drawn), lengths), 30
    )


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("regime", ["prefix", "causal"])
@pytest.mark.parametrize("batch_size", [5, 11])
@pytest.mark.parametrize("step", [None, 2])
def test_shares_of_sequences_are_dealt_from_the_batch_of_one_process(
    count: int, regime: str, batch_size: int, step: int | None
) -> None:
    def batches(ranks: Ranks) -> list:
        generators = Generators(1, ranks=ranks)
        settings = {
            "batch_size": batch_size,
            "max_len": 6,
            "partners": True,
            "views": True,
            "window_step": step,
        }
        return list(
            SequenceBatches(random_train(), regime, generators=generators, **settings).epoch(2)
        )

    of_ranks = [batches(Ranks(rank, count)) for rank in range(count)]
    whole = batches(Ranks())
    assert {len(each) for each in of_ranks} == {len(whole)}
    for number, batch in enumerate(whole):
        for rank in range(count):
            share = of_ranks[rank][number]
            own = slice(None) if len(batch.users) < count else slice(rank, None, count)
            assert torch.equal(share.users, batch.users[own])
            for name in ("sequences", "contrast", "partners"):
                assert getattr(share, name).to_lists() == getattr(batch, name).to_lists()[own]
            assert torch.equal(share.targets, batch.targets[share.target_places()])
            assert torch.equal(share.contrast_targets, batch.contrast_targets)
            assert share.n_targets == batch.n_targets
            if share.whole is not None:
                assert share.whole.contrast is not None
                assert share.whole.contrast.to_lists() == batch.contrast.to_lists()
        weights = [each[number].weight for each in of_ranks]
        assert sum(weights) == pytest.approx(count)


@pytest.mark.parametrize("step", [1, 3, 5])
def test_windows_have_every_target_once_behind_at_least_the_rest_of_a_window(step: int) -> None:
    settings = {"batch_size": 4, "max_len": 5, "window_step": step, "contrast_of": "sequence"}
    batches = SequenceBatches(
        train := random_train(), "causal", generators=Generators(1), **settings
    )
    found = []
    for batch in batches.epoch(1):
        rows, at = batch.sequences, torch.arange(len(batch.sequences.values))
        places = at if batch.masked is None else batch.masked.values
        for place, target in zip(places.tolist(), batch.targets.tolist(), strict=True):
            row = int(rows.rows[place])
            found.append(
                (int(batch.users[row]), rows.values[rows.offsets[row] : place + 1].tolist(), target)
            )
    wanted = [
        (user, [item + 1 for item in row[:end]], row[end] + 1)
        for user, row in enumerate(train.items.to_lists())
        for end in range(1, len(row))
    ]
    assert batches.n_possible == len(wanted)
    assert len(found) == len(wanted)
    assert Counter((user, target) for user, _, target in found) == Counter(
        (user, item) for user, _, item in wanted
    )
    least = 5 + 1 - step
    for user, history, target in found:
        befores = [before for of, before, item in wanted if (of, item) == (user, target)]
        assert any(
            history == each[-len(history) :] and len(history) >= min(least, len(each))
            for each in befores
        )


@pytest.mark.parametrize("count", [2, 3])
def test_shares_of_pairs_are_the_batch_of_one_process(count: int) -> None:
    def batches(ranks: Ranks) -> list:
        return list(
            PairBatches(random_train(), 10, Generators(1, ranks=ranks), n_negatives=3).epoch(2)
        )

    of_ranks = [batches(Ranks(rank, count)) for rank in range(count)]
    for number, batch in enumerate(batches(Ranks())):
        shares = [each[number] for each in of_ranks]
        if len(batch.users) < count:  # all compute it
            shares = shares[:1]
        for name in ("users", "items", "negatives"):
            assert torch.equal(
                torch.cat([getattr(share, name) for share in shares]), getattr(batch, name)
            )
        for share in shares:
            assert torch.equal(share.all_users, batch.users)
            assert torch.equal(share.all_items, batch.items)
            assert share.n_targets == batch.n_targets


def slowly(times: list[int]) -> list[int]:
    return [0, *(1 + (after - before).bit_length() for before, after in pairwise(times))][
        : len(times)
    ]


@pytest.mark.parametrize("regime", ["prefix", "causal"])
def test_gaps_stay_with_their_items_in_batches(regime: str) -> None:
    draw = torch.Generator().manual_seed(1)
    lengths = torch.randint(0, 12, (20,), generator=draw)
    n = int(lengths.sum())
    items = Ragged.from_lengths(torch.arange(n) % 9, lengths)
    times = torch.randint(0, 2**40, (n,), generator=draw)
    times = torch.cat([row.sort().values for row in times.split(lengths.tolist())])
    part = Part(items, 9, times=times)
    settings = {"batch_size": 5, "max_len": 4, "partners": True}
    plain = SequenceBatches(part, regime, **settings, generators=Generators(0))
    timed = SequenceBatches(part, regime, **settings, generators=Generators(0), gaps=True)
    tokens = items.to_lists()
    buckets = [slowly(row) for row in items.with_values(times).to_lists()]
    behind = [[*(bucket + N_GAPS - 1 for bucket in row[1:]), 0][: len(row)] for row in buckets]
    known = {
        (user, end): list(
            zip([item + 1 for item in tokens[user]], buckets[user], behind[user], strict=True)
        )[max(0, end - 4) : end]
        for user in range(20)
        for end in range(1, len(tokens[user]) + 1)
    }
    for one, other in zip(plain.epoch(0), timed.epoch(0), strict=True):
        assert torch.equal(one.targets, other.targets)
        assert torch.equal(one.contrast_targets, other.contrast_targets)
        for name in ("sequences", "contrast", "partners"):
            rows, pairs = getattr(one, name), getattr(other, name)
            assert torch.equal(rows.values, pairs.values[:, 0])
            assert torch.equal(rows.offsets, pairs.offsets)
            found = [[tuple(pair) for pair in row] for row in pairs.to_lists()]
            assert all(any(row == wanted[: len(row)] for wanted in known.values()) for row in found)
        moved = other.to("cpu")
        assert moved.sequences.values.shape[1] == 3
