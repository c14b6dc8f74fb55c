"""Time gaps: buckets by the number of binary digits, and their way through batches."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from refusing import refused

from recgraph.data.batches import N_GAPS, SequenceBatches, gap_buckets
from recgraph.data.part import Part
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged

ROWS = [[0, 0, 1, 3, 7, 11, 1_000_011], [5], [], [10, 10, 2**50, 2**52]]


def slowly(times: list[int]) -> list[int]:
    return [0, *(1 + (after - before).bit_length() for before, after in pairwise(times))][: len(times)]


def test_a_bucket_is_the_number_of_binary_digits() -> None:
    found = gap_buckets(Ragged.from_lists(ROWS))
    assert found.to_lists() == [slowly(row) for row in ROWS]
    assert found.to_lists()[0] == [0, 1, 2, 3, 4, 4, 21]
    assert int(found.values.max()) < N_GAPS
    longest = gap_buckets(Ragged.from_lists([[0, 2**63 - 1]]))
    assert int(longest.values.max()) < N_GAPS


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
    known = {
        (user, end): list(zip([item + 1 for item in tokens[user]], buckets[user], strict=True))[max(0, end - 4) : end]
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
        assert moved.sequences.values.shape[1] == 2


def test_a_log_without_times_is_refused() -> None:
    part = Part(Ragged.from_lists([[1, 2, 3]]), 4)
    with refused("time_gaps"):
        SequenceBatches(part, "causal", batch_size=2, max_len=3, generators=Generators(0), gaps=True)
