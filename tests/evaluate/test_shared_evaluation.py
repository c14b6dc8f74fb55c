"""Evaluation on several processes or an engine: each ranks for its share of the users, and all find what one finds."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_rankers import Scores, Vectors
from launched import on_ranks
from refusing import refused
from test_evaluate import random_cases

from recgraph.data.part import Part
from recgraph.evaluate import Protocol, evaluate
from recgraph.evaluate.evaluator import validation
from recgraph.evaluate.ranking import GROUP
from recgraph.parallel import Engine
from recgraph.ranks import Ranks
from recgraph.sparse.ragged import Ragged

N_ITEMS = 300
#: three groups, the last of which is short
N_USERS = 2 * GROUP + 70


def scores(n_users: int) -> torch.Tensor:
    """Few different values, so that ties decide."""
    drawn = torch.randint(0, 40, (n_users, N_ITEMS), generator=torch.Generator().manual_seed(1))
    return drawn.float() / 7


def measured(n_users: int, graded: bool, engine: Engine | None = None) -> dict[str, Any]:
    """All that evaluations of several kinds find: values of users, over all users, protocols; who was ranked for."""
    cases = random_cases(n_users, N_ITEMS, graded=graded)
    lists = Ragged.from_lists([list(range(row % 7, N_ITEMS, 3)) for row in range(n_users)])
    part = Part(cases.history, N_ITEMS)
    protocols = [
        Protocol(seen="keep"),
        Protocol(seen="exclude"),
        Protocol(candidates="sampled", n_candidates=50, candidate_seed=3),
        Protocol(candidates="lists"),
    ]
    metrics = ("ndcg", "recall", "mrr", "auc", "coverage", "gini", "novelty")
    asked: dict[str, Any] = {"metrics": metrics, "fit_part": part, "engine": engine}
    generator = torch.Generator().manual_seed(2)
    vectors = Vectors(torch.randn(n_users, 8, generator=generator), torch.randn(N_ITEMS, 8, generator=generator))
    model = Scores(scores(n_users))
    found = evaluate(model, cases, protocols=protocols, candidate_lists=lists, **asked)
    of_ties = evaluate(model, cases, ties="expectation", metrics=("ndcg", "recall", "mrr"), engine=engine)
    of_vectors = evaluate(vectors, cases, seen=("exclude",), **asked)
    return {
        "results": [
            (each.to_dict(), each.users, {name: values.tobytes() for name, values in each.per_user.items()})
            for each in (*found, *of_ties, *of_vectors)
        ],
        "validation": validation(vectors, cases, "coverage@20", seen="exclude", fit_part=part),
        "scored": model.n_scored,
    }


CASES = ((N_USERS, False), (40, True))


def on_a_rank() -> tuple[list[dict[str, Any]], tuple[str, list[str]]]:
    return [measured(*case) for case in CASES], failing()


@pytest.fixture(scope="module")
def ranks() -> list[Any]:
    """What each of two processes finds."""
    return on_ranks(2, on_a_rank)


@pytest.mark.parametrize("case", [0, 1])
def test_two_processes_find_bit_for_bit_what_one_finds(case: int, ranks: list[Any]) -> None:
    n_users, graded = CASES[case]
    alone = measured(n_users, graded)
    of_ranks = [of_cases[case] for of_cases, _ in ranks]
    for found in of_ranks:
        assert found["validation"] == alone["validation"]
        for (here, users, values), (there, others, expected) in zip(found["results"], alone["results"], strict=True):
            assert here == there
            assert users.tolist() == others.tolist()
            assert values == expected
    # three groups of 256 on two processes; a single group is one process's. Two evaluations ask the model
    shares = [GROUP + 70, GROUP] if n_users > GROUP else [n_users, 0]
    assert [found["scored"] for found in of_ranks] == [2 * share for share in shares]
    assert alone["scored"] == 2 * n_users


def test_an_engine_finds_bit_for_bit_what_one_process_finds(engine: Engine) -> None:
    found, alone = measured(*CASES[0], engine), measured(*CASES[0])
    for (here, users, values), (there, others, expected) in zip(found["results"], alone["results"], strict=True):
        assert here == there
        assert users.tolist() == others.tolist()
        assert values == expected


def test_an_error_on_an_engine_names_the_user() -> None:
    values = scores(N_USERS)
    values[300] = torch.nan
    with refused("user index 300"):
        evaluate(Scores(values), random_cases(N_USERS, N_ITEMS), engine=Engine(workers=2))


class Dies(Scores):
    """Ends the first worker that asks it, in the middle of its share."""

    def __init__(self, values: torch.Tensor, mark: Path) -> None:
        super().__init__(values)
        self.mark, self.owner = mark, os.getpid()

    def score(self, query: Any) -> torch.Tensor:
        found = super().score(query)
        if os.getpid() != self.owner and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return found


def test_a_worker_that_is_killed_is_redone_and_no_user_counts_twice(ray_cluster: None, tmp_path: Path) -> None:
    cases, values = random_cases(N_USERS, N_ITEMS), scores(N_USERS)
    model = Dies(values, tmp_path / "killed")
    found, alone = evaluate(model, cases, engine=Engine(name="ray")), evaluate(Scores(values), cases)
    assert model.mark.exists()
    for here, there in zip(found, alone, strict=True):
        assert here.to_dict() == there.to_dict()
        assert all(here.per_user[name].tobytes() == there.per_user[name].tobytes() for name in there.per_user)


class Broken(Scores):
    """Cannot score the users of the second process."""

    def score(self, query: Any) -> torch.Tensor:
        values = super().score(query)
        return values if Ranks.here().is_first else values * torch.nan


def failing() -> tuple[str, list[str]]:
    try:
        evaluate(Broken(scores(N_USERS)), random_cases(N_USERS, N_ITEMS))
    except ValueError as error:
        return str(error), error.__notes__
    raise AssertionError


def test_an_error_on_one_process_is_that_of_all(ranks: list[Any]) -> None:
    (first, other) = (failed for _, failed in ranks)
    assert first == other
    assert "the model scores user index" in first[0]
    assert first[1] == ["on rank 1"]
