"""The shares of batches that ranks have: together what one process has, each with no rows but its own."""

from __future__ import annotations

import pytest
import torch

from recgraph.data.batches import PairBatches, SequenceBatches
from recgraph.data.part import Part
from recgraph.ranks import Ranks
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged


def random_train(n_users: int = 23) -> Part:
    drawn = torch.Generator().manual_seed(5)
    lengths = torch.randint(2, 12, (n_users,), generator=drawn)
    return Part(Ragged.from_lengths(torch.randint(30, (int(lengths.sum()),), generator=drawn), lengths), 30)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("regime", ["prefix", "causal"])
@pytest.mark.parametrize("batch_size", [5, 11])
def test_shares_of_sequences_are_dealt_from_the_batch_of_one_process(count: int, regime: str, batch_size: int) -> None:
    def batches(ranks: Ranks) -> list:
        generators = Generators(1, ranks=ranks)
        settings = {"batch_size": batch_size, "max_len": 6, "partners": True, "views": True}
        return list(SequenceBatches(random_train(), regime, generators=generators, **settings).epoch(2))

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


def test_ranks_have_as_much_to_do() -> None:
    def tokens(rank: int) -> list[int]:
        generators = Generators(1, ranks=Ranks(rank, 4))
        batches = SequenceBatches(random_train(900), "causal", batch_size=64, max_len=9, generators=generators)
        return [len(batch.sequences.values) for batch in batches.epoch(0)]

    for of_ranks in list(zip(*(tokens(rank) for rank in range(4)), strict=True))[:-1]:
        # dealt from rows that are sorted: at most a row of the longest apart
        assert max(of_ranks) - min(of_ranks) <= 9


@pytest.mark.parametrize("count", [2, 3])
def test_shares_of_pairs_are_the_batch_of_one_process(count: int) -> None:
    def batches(ranks: Ranks) -> list:
        return list(PairBatches(random_train(), 10, Generators(1, ranks=ranks), n_negatives=3).epoch(2))

    of_ranks = [batches(Ranks(rank, count)) for rank in range(count)]
    for number, batch in enumerate(batches(Ranks())):
        shares = [each[number] for each in of_ranks]
        if len(batch.users) < count:  # all compute it
            shares = shares[:1]
        for name in ("users", "items", "negatives"):
            assert torch.equal(torch.cat([getattr(share, name) for share in shares]), getattr(batch, name))
        for share in shares:
            assert torch.equal(share.all_users, batch.users)
            assert torch.equal(share.all_items, batch.items)
            assert share.n_targets == batch.n_targets
