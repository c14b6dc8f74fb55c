"""Ranks: shares of a batch, and gathered rows whose gradient is the one of a single process."""

from __future__ import annotations

import pytest
import torch
from launched import on_ranks
from refusing import refused

from recgraph.ranks import (
    Ranks,
    all_values,
    first_value,
    gathered,
    is_first,
    launched_rank,
    local_rank,
    refuse_launched,
)


@pytest.mark.parametrize("n_samples", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_are_the_whole_batch_in_order(n_samples: int, count: int) -> None:
    shares = [Ranks(rank, count).share(n_samples) for rank in range(count)]
    assert [row for share in shares for row in range(n_samples)[share.rows]] == list(range(n_samples))
    assert sum(share.weight for share in shares) == pytest.approx(count)


@pytest.mark.parametrize("n_samples", [2, 3, 7, 64])
@pytest.mark.parametrize("dealt", [False, True])
def test_the_places_of_samples_are_those_of_the_shares_one_after_the_other(n_samples: int, dealt: bool) -> None:
    for count in (2, 3):
        if n_samples < count:
            continue
        shares = [Ranks(rank, count).share_of_batch(n_samples, dealt) for rank in range(count)]
        by_rank = [row for share in shares for row in range(n_samples)[share.rows]]
        assert sorted(by_rank) == list(range(n_samples))
        assert [by_rank[place] for place in shares[0].places(torch.device("cpu")).tolist()] == list(range(n_samples))
        assert [len(range(n_samples)[share.rows]) for share in shares] == list(shares[0].sizes)


def test_a_batch_of_fewer_samples_than_ranks_is_whole_on_each() -> None:
    share = Ranks(1, 3).share_of_batch(2)
    assert (share.is_whole, share.weight, list(range(2))[share.rows]) == (True, 1.0, [0, 1])


def test_a_process_alone_is_given_back_what_it_gave() -> None:
    x = torch.randn(3, 2)
    assert Ranks.here() == Ranks(0, 1)
    assert gathered(x) is x
    assert all_values("a") == ["a"]
    assert first_value("a") == "a"


def _loss_of(rows: torch.Tensor) -> torch.Tensor:
    return torch.logsumexp(rows @ rows.T, dim=1).mean()


def _on_a_rank(n_rows: int) -> dict[str, object]:
    rows = torch.randn(n_rows, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ranks = Ranks.here()
    own = rows[ranks.share(n_rows).rows].clone().requires_grad_()
    loss = _loss_of(gathered(own))
    loss.backward()
    return {
        "ranks": (ranks.index, ranks.count),
        "loss": loss.item(),
        "gradient": own.grad,
        "all": all_values(ranks.index),
        "first": first_value(ranks.index),
    }


def test_gathered_rows_have_the_gradient_of_one_process() -> None:
    n_rows = 5
    rows = torch.randn(n_rows, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    loss = _loss_of(rows)
    loss.backward()
    results = on_ranks(2, _on_a_rank, n_rows)
    assert [result["ranks"] for result in results] == [(0, 2), (1, 2)]
    assert all(result["all"] == [0, 1] and result["first"] == 0 for result in results)
    assert all(result["loss"] == pytest.approx(loss.item()) for result in results)
    # the step takes the mean over ranks, so each rank's rows carry their gradient times two
    found = torch.cat([result["gradient"] for result in results]) / 2
    assert rows.grad is not None
    torch.testing.assert_close(found, rows.grad)


@pytest.mark.parametrize(
    ("variables", "rank", "local"),
    [
        ({}, None, 0),
        ({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}, None, 0),
        ({"WORLD_SIZE": "2"}, None, 0),
        ({"WORLD_SIZE": "2", "RANK": "0"}, 0, 0),
        ({"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}, 3, 1),
    ],
)
def test_a_process_knows_its_place_from_the_variables(
    variables: dict[str, str], rank: int | None, local: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (launched_rank(), is_first(), local_rank()) == (rank, rank in (None, 0), local)
    if rank is not None:
        with refused("tune"):
            refuse_launched("tune", "start it without a launcher")
