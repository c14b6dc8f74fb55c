"""Training on two ranks: equal to one process, whatever the model, the batches and the settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import on_ranks
from ranks_cases import SMALL, WITHOUT_DROPOUT, Case, Result, all_trained, each_trained, trained
from refusing import refused

from recgraph.ranks import (
    Ranks,
    all_values,
    gathered,
    is_first,
    launched_rank,
    refuse_launched,
)

_TIMES = {"seconds", "cpu_seconds", "targets_per_second"}
#: Adam divides by the root of squares: where a gradient is near 0, rounding becomes a step
_TOLERANCE = {"rtol": 1e-7, "atol": 1e-9}


def _sequence(model: str, training: dict[str, object] | None = None, **settings: object) -> Case:
    return Case(model, {**SMALL, **settings}, training or {})


_NODES = {"metapaths": ("paper-author-paper",), "hidden_dim": 8, "dropout": 0.2}
_BATCHES = {**_NODES, "dropout": 0.0, "mini_batch": True}
_ITEMS = ("item-genre-item", "item-user-item")
_FEW = {"n_clusters": (2, 3)}
_GROUPS = {"shared": True, "n_groups": 3}

CASES = {
    "sasrec": _sequence("sasrec"),
    "mclrec": _sequence("mclrec"),
    "lightgcn": Case("lightgcn", {"hidden_dim": 8}),
    # without shares, but the same draws on all ranks: dropout makes no difference
    "meow": Case("meow", {**_NODES, "prototypes": {"n_clusters": (3, 5)}}),
    "sparse tables": _sequence(
        "sasrec",
        {"sparse_tables": True},
        loss={"name": "sampled_softmax", "n_negatives": 5, "in_batch": True},
    ),
}
SLOW = {
    "bce, in groups": _sequence("sasrec", loss={"name": "bce", "n_negatives": 3, **_GROUPS}),
    "masked items": _sequence("bert4rec", mask_ratio=0.4, last_share=0.3, window_step=0.5),
    "paper phases": _sequence("mclrec", schedule_of_phases="paper", margin_form="paper"),
    "cl4srec": _sequence("cl4srec", {"accumulate": 2}, intent_weight=0.1, n_intents=3),
    "duorec": _sequence("duorec"),
    "bprmf": Case("bprmf", {"hidden_dim": 8}),
    "ultragcn": Case("ultragcn", {"hidden_dim": 8, "loss": {"n_negatives": 5}}),
    "simgcl": Case("simgcl", {"hidden_dim": 8}),
    "heco": Case("heco", _NODES),
    "meowrec": Case(
        "meowrec",
        {
            "hidden_dim": 8,
            "dropout": 0.2,
            "prototypes": {"n_clusters": (2, 3)},
            "item_metapaths": _ITEMS,
        },
    ),
    "ncl": Case(
        "ncl", {"hidden_dim": 8, "prototypes": {"n_clusters": (2, 3)}, "warm_up_epochs": 1}
    ),
    # each convolves its share of the batch's nodes
    "meow by batches": Case("meow", {**_BATCHES, "prototypes": {"n_clusters": (3, 5)}}),
    "clipped": _sequence("mclrec", {"clip_norm": 0.05}),
    "cosine": _sequence("sasrec", {"schedule": "cosine", "warmup_steps": 2}),
    # 23 rows: the last batch has one, which both ranks compute
    "a row for two": _sequence("mclrec", {"batch_size": 11}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    """What each of two ranks found; they are started once."""
    return on_ranks(2, all_trained, list(CASES.values()), folder)


def _without_times(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key not in _TIMES} for row in history]


def _assert_same(result: Result, other: Result) -> None:
    """Bit for bit."""
    assert _without_times(result.history) == _without_times(other.history)
    for key, value in result.weights.items():
        assert torch.equal(value, other.weights[key]), key


def _assert_as_alone(case: Case, first: Result, second: Result) -> None:
    alone = trained(case)
    assert (first.ranks.count, second.ranks.index) == (2, 1)
    assert first.history == second.history, "times, too"
    _assert_same(first, second)
    for row, wanted in zip(
        _without_times(first.history), _without_times(alone.history), strict=True
    ):
        assert row == pytest.approx(wanted, rel=1e-5)
    for key, value in alone.weights.items():
        torch.testing.assert_close(
            first.weights[key], value, **_TOLERANCE, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_train_to_the_weights_of_one_process(
    name: str, ranks: list[dict[str, Any]]
) -> None:
    _assert_as_alone(CASES[name], *(of_rank["cases"][list(CASES).index(name)] for of_rank in ranks))


@pytest.mark.slow
def test_two_ranks_train_to_the_weights_of_one_process_whatever_the_model() -> None:
    for case, *of_ranks in zip(
        SLOW.values(), *on_ranks(2, each_trained, list(SLOW.values())), strict=True
    ):
        _assert_as_alone(case, *of_ranks)


def test_a_training_that_one_rank_stops_goes_on_bit_for_bit(ranks: list[dict[str, Any]]) -> None:
    # both ranks end after the same step, with the same checkpoint
    epoch, batch, said = ranks[0]["stopped"]
    assert ranks[1]["stopped"] == (epoch, batch, said)
    assert (epoch, batch) in [(1, 2), (1, 3)], "the seventh batch, or the one after it"
    assert "go on with resume=True" in said
    for of_rank in ranks:
        _assert_same(of_rank["resumed"], of_rank["whole"])
    _assert_same(ranks[0]["resumed"], ranks[1]["resumed"])


@pytest.mark.usefixtures("ranks")
def test_without_dropout_the_number_of_ranks_may_change_in_a_training(folder: Path) -> None:
    resumed, whole = (
        trained(replace(WITHOUT_DROPOUT, folder=folder / "moved", resumes=True)),
        trained(WITHOUT_DROPOUT),
    )
    for key, value in whole.weights.items():
        torch.testing.assert_close(resumed.weights[key], value, **_TOLERANCE)


def test_a_loss_that_is_no_number_ends_all_ranks_and_names_the_one(
    ranks: list[dict[str, Any]],
) -> None:
    assert ranks[0]["broken"] == ranks[1]["broken"]
    assert "term 'rec' became nan at step 2 on rank 1 of 2" in ranks[0]["broken"]


def test_ranks_that_train_otherwise_are_refused_on_all(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["alike"] == ranks[1]["alike"]
    assert "rank 1 trains with another training.batch_size" in ranks[0]["alike"]


# -- ranks: shares of a batch, and gathered rows whose gradient is the one of a single process


@pytest.mark.parametrize("n_samples", [3, 7, 64])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_are_the_whole_batch_in_order(n_samples: int, count: int) -> None:
    shares = [Ranks(rank, count).share_of_batch(n_samples) for rank in range(count)]
    assert [row for share in shares for row in range(n_samples)[share.rows]] == list(
        range(n_samples)
    )
    assert sum(share.weight for share in shares) == pytest.approx(count)


@pytest.mark.parametrize("n_samples", [2, 3, 7, 64])
@pytest.mark.parametrize("dealt", [False, True])
def test_the_places_of_samples_are_those_of_the_shares_one_after_the_other(
    n_samples: int, dealt: bool
) -> None:
    for count in (2, 3):
        if n_samples < count:
            continue
        shares = [Ranks(rank, count).share_of_batch(n_samples, dealt) for rank in range(count)]
        by_rank = [row for share in shares for row in range(n_samples)[share.rows]]
        assert sorted(by_rank) == list(range(n_samples))
        assert [by_rank[place] for place in shares[0].places(torch.device("cpu")).tolist()] == list(
            range(n_samples)
        )
        assert [len(range(n_samples)[share.rows]) for share in shares] == list(shares[0].sizes)


def test_a_batch_of_fewer_samples_than_ranks_is_whole_on_each() -> None:
    share = Ranks(1, 3).share_of_batch(2)
    assert (share.is_whole, share.weight, list(range(2))[share.rows]) == (True, 1.0, [0, 1])


def test_a_process_alone_is_given_back_what_it_gave() -> None:
    x = torch.randn(3, 2)
    assert Ranks.here() == Ranks(0, 1)
    assert gathered(x) is x
    assert all_values("a") == ["a"]


def _loss_of(rows: torch.Tensor) -> torch.Tensor:
    return torch.logsumexp(rows @ rows.T, dim=1).mean()


def _on_a_rank(n_rows: int) -> dict[str, object]:
    rows = torch.randn(n_rows, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ranks = Ranks.here()
    own = rows[ranks.share_of_batch(n_rows).rows].clone().requires_grad_()
    loss = _loss_of(gathered(own))
    loss.backward()
    return {
        "ranks": (ranks.index, ranks.count),
        "loss": loss.item(),
        "gradient": own.grad,
        "all": all_values(ranks.index),
    }


def test_gathered_rows_have_the_gradient_of_one_process() -> None:
    n_rows = 5
    rows = torch.randn(
        n_rows, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).requires_grad_()
    loss = _loss_of(rows)
    loss.backward()
    results = on_ranks(2, _on_a_rank, n_rows)
    assert [result["ranks"] for result in results] == [(0, 2), (1, 2)]
    assert all(result["all"] == [0, 1] for result in results)
    assert all(result["loss"] == pytest.approx(loss.item()) for result in results)
    # the step takes the mean over ranks, so each rank's rows carry their gradient times two
    found = torch.cat([result["gradient"] for result in results]) / 2
    assert rows.grad is not None
    torch.testing.assert_close(found, rows.grad)


@pytest.mark.parametrize(
    ("variables", "rank"),
    [
        ({}, None),
        ({"WORLD_SIZE": "1", "RANK": "0"}, None),
        ({"WORLD_SIZE": "2"}, None),
        ({"WORLD_SIZE": "2", "RANK": "0"}, 0),
        ({"WORLD_SIZE": "4", "RANK": "3"}, 3),
    ],
)
def test_a_process_knows_its_place_from_the_variables(
    variables: dict[str, str], rank: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (launched_rank(), is_first()) == (rank, rank in (None, 0))
    if rank is not None:
        with refused("tune"):
            refuse_launched("tune", "start it without a launcher")
