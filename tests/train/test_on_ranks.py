"""Training on two ranks: equal to one process, whatever the model, the batches and the settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from launched import on_ranks
from ranks_cases import SMALL, WITHOUT_DROPOUT, Case, Result, all_trained, each_trained, trained

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
    "sparse tables": _sequence("sasrec", {"sparse_tables": True}, loss={"name": "sampled_softmax", "n_negatives": 5}),
}
SLOW = {
    "bce, in groups": _sequence("sasrec", loss={"name": "bce", "n_negatives": 3, **_GROUPS}),
    "masked items": _sequence("bert4rec", mask_ratio=0.4, last_share=0.3, window_step=0.5),
    "paper phases": _sequence("mclrec", schedule_of_phases="paper", margin_form="paper"),
    "cl4srec": _sequence("cl4srec", {"accumulate": 2}),
    "duorec": _sequence("duorec"),
    "bprmf": Case("bprmf", {"hidden_dim": 8}),
    "ultragcn": Case("ultragcn", {"hidden_dim": 8, "loss": {"n_negatives": 5}}),
    "simgcl": Case("simgcl", {"hidden_dim": 8}),
    "heco": Case("heco", _NODES),
    "meowrec": Case(
        "meowrec", {"hidden_dim": 8, "dropout": 0.2, "prototypes": {"n_clusters": (2, 3)}, "item_metapaths": _ITEMS}
    ),
    "ncl": Case("ncl", {"hidden_dim": 8, "prototypes": {"n_clusters": (2, 3)}, "warm_up_epochs": 1}),
    # each convolves its share of the batch's nodes
    "meow by batches": Case("meow", {**_BATCHES, "prototypes": {"n_clusters": (3, 5)}, "twins": {"redraw": True}}),
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
    for row, wanted in zip(_without_times(first.history), _without_times(alone.history), strict=True):
        assert row == pytest.approx(wanted, rel=1e-5)
    for key, value in alone.weights.items():
        torch.testing.assert_close(first.weights[key], value, **_TOLERANCE, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_train_to_the_weights_of_one_process(name: str, ranks: list[dict[str, Any]]) -> None:
    _assert_as_alone(CASES[name], *(of_rank["cases"][list(CASES).index(name)] for of_rank in ranks))


@pytest.mark.slow
def test_two_ranks_train_to_the_weights_of_one_process_whatever_the_model() -> None:
    for case, *of_ranks in zip(SLOW.values(), *on_ranks(2, each_trained, list(SLOW.values())), strict=True):
        _assert_as_alone(case, *of_ranks)


def test_a_training_that_one_rank_stops_goes_on_bit_for_bit(ranks: list[dict[str, Any]]) -> None:
    # both ranks end after the same step, with the same checkpoint
    epoch, batch, said = ranks[0]["stopped"]
    assert ranks[1]["stopped"] == (epoch, batch, said)
    assert (epoch, batch) in [(1, 3), (1, 4)], "the seventh batch, or the one after it"
    assert "go on with resume=True" in said
    for of_rank in ranks:
        _assert_same(of_rank["resumed"], of_rank["whole"])
    _assert_same(ranks[0]["resumed"], ranks[1]["resumed"])


@pytest.mark.usefixtures("ranks")
def test_without_dropout_the_number_of_ranks_may_change_in_a_training(folder: Path) -> None:
    resumed, whole = trained(replace(WITHOUT_DROPOUT, folder=folder / "moved", resumes=True)), trained(WITHOUT_DROPOUT)
    for key, value in whole.weights.items():
        torch.testing.assert_close(resumed.weights[key], value, **_TOLERANCE)


def test_a_loss_that_is_no_number_ends_all_ranks_and_names_the_one(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["broken"] == ranks[1]["broken"]
    assert "term 'rec' became nan at step 2 on rank 1 of 2" in ranks[0]["broken"]


def test_ranks_that_train_otherwise_are_refused_on_all(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["alike"] == ranks[1]["alike"]
    assert "rank 1 trains with another batch_size" in ranks[0]["alike"]
