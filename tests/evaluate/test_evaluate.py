"""``evaluate`` against slow oracles: conventions, ties, candidates, names of metrics; on several
processes.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from fake_rankers import Scores, Vectors, random_cases
from forked import on_ranks
from parallel_tasks import FirstHit
from refusing import refused
from torch import Tensor

from recgraph import registry
from recgraph.data.part import Cases, Part
from recgraph.evaluate import Protocol, ProtocolMismatch, compare, evaluate, topk
from recgraph.evaluate.evaluator import sample_candidates, validation
from recgraph.evaluate.metrics import (
    DEFAULT_METRICS,
    F1,
    NDCG,
    Metric,
    RankedHits,
    full_name,
    metric_of,
    split_metric,
    value_of,
)
from recgraph.evaluate.ranking import GROUP
from recgraph.evaluate.topk import tie_order
from recgraph.parallel import Engine
from recgraph.sparse.ragged import Ragged
from recgraph.tuning.objectives import canonical, direction

TIE_METRICS = [name for name in registry.names("metric") if registry.load("metric", name)().expects]


class Labelled:
    name, hash = "leave-one-out", "abc"


def oracle(scores: Tensor, cases: Cases, k: int, exclude: bool) -> dict[str, list[float]]:
    """One user at a time, straight from the definitions."""
    place = np.empty(cases.n_items, dtype=np.int64)
    place[tie_order(cases.n_items, 0).numpy()] = np.arange(cases.n_items)
    discount = 1 / np.log2(np.arange(2, k + 2))
    values: dict[str, list[float]] = {name: [] for name in DEFAULT_METRICS}
    for row in range(len(cases)):
        truth, seen = cases.truth.row(row).tolist(), set(cases.history.row(row).tolist())
        order = [
            i for i in np.lexsort((place, -scores[row].numpy())) if not (exclude and i in seen)
        ][:k]
        hits = np.zeros(k)
        hits[: len(order)] = [i in truth for i in order]
        gains, ideal = hits, np.ones(len(truth))
        if cases.grades is not None:
            grade = dict(
                zip(truth, cases.truth.with_values(cases.grades).row(row).tolist(), strict=True)
            )
            gains = np.zeros(k)
            gains[: len(order)] = [grade.get(i, 0.0) for i in order]
            ideal = np.sort(list(grade.values()))[::-1]
        ideal = ideal[:k]
        first = np.flatnonzero(hits)
        precisions = hits.cumsum() / np.arange(1, k + 1)
        values["recall"].append(hits.sum() / len(truth))
        values["precision"].append(hits.sum() / k)
        values["hit_rate"].append(float(hits.any()))
        values["mrr"].append(1 / (first[0] + 1) if len(first) else 0.0)
        values["map"].append((precisions * hits).sum() / min(len(truth), k))
        values["ndcg"].append((gains * discount).sum() / (ideal * discount[: len(ideal)]).sum())
    return values


@pytest.mark.parametrize("graded", [False, True])
@pytest.mark.parametrize("ties", [False, True])
def test_equals_the_definitions(graded: bool, ties: bool) -> None:
    cases = random_cases(300, 400, graded=graded)
    scores = torch.randn(300, 400, generator=torch.Generator().manual_seed(1))
    scores = scores.round() if ties else scores
    results = evaluate(Scores(scores), cases, cutoffs=(1, 5, 50))
    for convention in ("keep", "exclude"):
        for k in (1, 5, 50):
            for name, values in oracle(scores, cases, k, convention == "exclude").items():
                own = results[convention].per_user[f"{name}@{k}"]
                np.testing.assert_allclose(
                    own, values, rtol=1e-12, atol=1e-15, err_msg=f"{name}@{k}"
                )
    assert results["exclude"].n_unreachable_users == 1
    assert results["keep"].n_unreachable_users == 0


def test_both_conventions_come_from_one_pass() -> None:
    cases = random_cases(300, 100)
    model = Scores(torch.randn(300, 100))
    both = evaluate(model, cases)
    assert model.n_scored == 300
    for convention in ("keep", "exclude"):
        alone = evaluate(model, cases, seen=(convention,))[0]
        for name, values in alone.per_user.items():
            assert np.array_equal(values, both[convention].per_user[name])
        assert alone.hash == both[convention].hash


def test_the_protocol_is_recorded_and_guards_comparison() -> None:
    cases = random_cases(50, 60)
    model = Scores(torch.randn(50, 60))

    results = evaluate(
        model,
        cases,
        split=Labelled(),
        part="test",
        fitted_on="train",
        history="train+valid",
        tie_seed=3,
    )
    protocol = results["exclude"].protocol
    assert (protocol.split, protocol.split_hash, protocol.part) == ("leave-one-out", "abc", "test")
    assert (protocol.seen, protocol.tie_seed, protocol.cutoffs) == ("exclude", 3, (5, 10, 20))
    assert (protocol.fitted_on, protocol.history) == ("train", "train+valid")
    with refused("seen", by=ProtocolMismatch):
        compare(results["keep"], results["exclude"])
    same = evaluate(Scores(torch.zeros(50, 60)), cases, protocols=[protocol])[0]
    assert (
        compare(same, results["exclude"])["ndcg@10"]
        == results["exclude"]["ndcg@10"] - same["ndcg@10"]
    )
    assert same.hash == results["exclude"].hash == Protocol.of(protocol.model_dump()).hash


@pytest.mark.parametrize("part", ["valid", "test"])
def test_a_part_that_the_model_was_fitted_on_is_refused(part: str) -> None:
    model, cases, fitted = Scores(torch.randn(50, 60)), random_cases(50, 60), f"train+{part}"
    with refused("part", "fitted_on"):
        evaluate(model, cases, part=part, fitted_on=fitted)
    with refused("part", "fitted_on"):
        evaluate(model, cases, protocols=[Protocol(part=part, fitted_on=fitted)])
    allowed = evaluate(model, cases, part=part, fitted_on=fitted, allow_fitted=True)
    assert allowed["keep"].metrics == evaluate(model, cases)["keep"].metrics
    for known in ("train", "published", "train+other"):
        evaluate(model, cases, part=part, fitted_on=known, seen=("keep",))


def test_results_as_table_dictionary_and_frames() -> None:
    results = evaluate(
        Scores(torch.randn(50, 60)),
        random_cases(50, 60),
        cutoffs=(10, 5, 5),
        metrics=["ndcg", "hit_rate"],
    )
    lines = str(results).splitlines()
    assert lines[0].split() == ["metric", "seen", "kept", "seen", "excluded"]
    assert [line.split()[0] for line in lines[1:5]] == [
        "ndcg@5",
        "ndcg@10",
        "hit_rate@5",
        "hit_rate@10",
    ]
    assert "1 users have unreachable" in lines[-1]
    frame = results.to_polars()
    assert frame.columns == ["metric", "seen kept", "seen excluded"]
    assert frame["seen kept"][0] == results["keep"]["ndcg@5"]
    first = results.to_dict()[0]
    assert first["protocol_hash"] == results[0].hash
    assert first["metrics"]["ndcg@5"] == results[0]["ndcg@5"]
    assert results[0].users_frame().shape == (50, 5)
    with refused("ndcg@7", by=KeyError):
        results[0]["ndcg@7"]
    with refused("other", by=KeyError):
        results["other"]


def test_a_metric_of_ones_own_in_every_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    registry.register("metric")(FirstHit)
    cases = random_cases(40, 50)
    model, part = Scores(torch.randn(40, 50)), Part(cases.history, 50)
    result = evaluate(
        model,
        cases,
        seen=("keep",),
        cutoffs=(1, 5),
        metrics=["FirstHit", "coverage"],
        fit_part=part,
    )[0]
    assert set(result.metrics) == {
        "first_hit@1",
        "first_hit@5",
        "catalogue_coverage@1",
        "catalogue_coverage@5",
    }
    found = validation(model, cases, "first_hit@7", seen="keep", fit_part=part)
    assert found["first_hit@7"] == result["first_hit@1"]
    assert validation(model, cases, "auc", seen="keep", fit_part=part)["auc"] > 0
    assert (canonical("FirstHit@3"), canonical("auc"), direction("first_hit@3")) == (
        "first_hit@3",
        "auc",
        "maximize",
    )


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"metrics": ["nosuch"]}, "nosuch"),
        ({"metrics": ["ndcg@x"]}, "ndcg@x"),
        ({"metrics": "ndcg"}, "metrics"),
        ({"seen": ("both",)}, "seen"),
        ({"cutoffs": (0,)}, "cutoffs"),
        ({"protocols": [Protocol(), Protocol(tie_seed=1)]}, "tie_seed"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], name: str) -> None:
    with refused(name):
        evaluate(Scores(torch.randn(20, 40)), random_cases(20, 40), **settings)


def test_cases_and_candidates_that_do_not_fit() -> None:
    cases, model = random_cases(3, 60), Scores(torch.randn(3, 60))
    with refused("cases.history"):
        evaluate(model, replace(cases, history=Ragged.from_lists([[-1], [2], [3]])))
    with refused("cases.grades"):
        evaluate(model, replace(cases, grades=-torch.ones(len(cases.truth.values))))
    with refused("cases"):
        evaluate(model, cases.take(torch.arange(0)))
    for lists in (None, [[1]], [[1], [60], [2]], [[1], [2, 2], [2]]):
        rows = None if lists is None else Ragged.from_lists(lists)
        with refused("candidate_lists"):
            evaluate(model, cases, protocols=[Protocol(candidates="lists")], candidate_lists=rows)
    other = [Protocol(candidates="lists", candidate_hash="abc")]
    with refused("candidate_lists"):
        evaluate(model, cases, protocols=other, candidate_lists=Ragged.from_lists([[1], [2], [3]]))


CASES = random_cases(50, 60)
MODEL = Scores(torch.randn(50, 60, generator=torch.Generator().manual_seed(3)))
PART = Part(CASES.history, 60)


def metrics_of(*metrics: str | Metric, **settings: Any) -> dict[str, float]:
    (result,) = evaluate(MODEL, CASES, seen=("keep",), metrics=metrics, fit_part=PART, **settings)
    return result.metrics


def test_a_metric_names_its_cut_off() -> None:
    plain = metrics_of("ndcg", "recall", "coverage", "novelty")
    assert metrics_of("ndcg@10") == {"ndcg@10": plain["ndcg@10"]}
    found = metrics_of("NDCG@10", "coverage@20", "novelty@5", "recall")
    assert found == {
        "ndcg@10": plain["ndcg@10"],
        "catalogue_coverage@20": plain["catalogue_coverage@20"],
        "novelty@5": plain["novelty@5"],
        **{f"recall@{k}": plain[f"recall@{k}"] for k in (5, 10, 20)},
    }
    assert set(metrics_of("ndcg@7", "recall", cutoffs=(3,))) == {"ndcg@7", "recall@3", "recall@7"}
    assert set(metrics_of("ndcg@7", "ndcg@3", "auc")) == {"ndcg@3", "ndcg@7", "auc"}
    assert metrics_of("ndcg@10", NDCG()) == {
        name: value for name, value in plain.items() if name.startswith("ndcg")
    }
    assert set(metrics_of("recall@7", F1(beta=2.0), cutoffs=(3,))) == {
        "recall@7",
        "f1(beta=2.0)@3",
        "f1(beta=2.0)@7",
    }


def test_names_of_metrics() -> None:
    assert split_metric("HitRate@5") == ("hit_rate", 5)
    assert (split_metric("auc"), split_metric("auc@10")) == (("auc", None), ("auc", 10))
    assert (full_name("Coverage@20"), full_name("R-Precision")) == (
        "catalogue_coverage@20",
        "r_precision",
    )
    assert value_of({"auc": 0.5, "catalogue_coverage@5": 0.1}, "auc@10") == 0.5
    names = ("gini@5", "f1(beta=2.0)@10", "auc", "macro_f1", "train_seconds")
    assert [metric and metric.name for metric in map(metric_of, names)] == [
        "gini",
        "f1",
        "auc",
        None,
        None,
    ]


@pytest.mark.parametrize("selects", ["coverage@20", "novelty@3", "auc@5"])
def test_any_metric_that_is_better_when_higher_can_select(selects: str) -> None:
    values = validation(MODEL, CASES, selects, seen="keep", fit_part=PART)
    assert {selects, "ndcg@10", "recall@20"} <= values.keys()
    assert values[selects] == next(iter(metrics_of(selects.removesuffix("@5")).values()))
    for wrong in ("gini@10", "diversity@10", "x@3"):
        with refused(wrong.partition("@")[0]):
            validation(MODEL, CASES, wrong, seen="keep", fit_part=PART)


# --- ranks of the relevant items, ties and candidates


def auc(scores: Tensor, relevant: set[int], candidates: list[int]) -> float:
    others = [float(scores[item]) for item in candidates if item not in relevant]
    won = 0.0
    for item in relevant & set(candidates):
        own = float(scores[item])
        won += sum((own > other) + 0.5 * (own == other) for other in others)
    return won / (len(relevant) * len(others))


@pytest.mark.parametrize("block_items", [1 << 17, 64])
def test_auc_and_r_precision_of_all_items(
    block_items: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topk, "CHUNK", 64)
    monkeypatch.setattr(topk, "BLOCK_ITEMS", block_items)
    cases = random_cases(300, 250)
    scores = (2 * torch.randn(300, 250, generator=torch.Generator().manual_seed(1))).round()
    results = evaluate(Scores(scores), cases, metrics=("auc", "r_precision"), cutoffs=(1,))
    place = np.empty(250)
    place[tie_order(250, 0).numpy()] = np.arange(250)
    for seen in ("keep", "exclude"):
        for row in range(300):
            truth, known = set(cases.truth.row(row).tolist()), set(cases.history.row(row).tolist())
            candidates = [item for item in range(250) if not (seen == "exclude" and item in known)]
            assert results[seen].per_user["auc"][row] == pytest.approx(
                auc(scores[row], truth, candidates), abs=1e-12
            )
            best = sorted(
                candidates, key=lambda item, row=row: (-float(scores[row, item]), place[item])
            )[: len(truth)]
            found = len(truth & set(best)) / len(truth)
            assert results[seen].per_user["r_precision"][row] == pytest.approx(found)


@pytest.mark.parametrize("name", TIE_METRICS)
def test_the_expectation_is_the_mean_over_all_orders(name: str) -> None:
    # groups of 1, 3, 2 and 1 tied items: 12 orders
    scores = torch.tensor([[4.0, 3, 3, 3, 2, 2, 1]])
    groups = ([0], [1, 2, 3], [4, 5], [6])
    metric = registry.load("metric", name)()
    for relevant in ([1], [1, 2], [0, 3, 4], [2, 5, 6], [0, 1, 2, 3, 4, 5]):
        cases = Cases(torch.tensor([0]), Ragged.from_lists([[]]), Ragged.from_lists([relevant]), 7)
        result = evaluate(
            Scores(scores),
            cases,
            seen=("keep",),
            cutoffs=(1, 2, 4, 7),
            metrics=[name],
            ties="expectation",
        )
        orders = [
            [*groups[0], *middle, *next_, 6]
            for middle in permutations(groups[1])
            for next_ in permutations(groups[2])
        ]
        hits = torch.tensor([[item in relevant for item in order] for order in orders])
        every = RankedHits(hits, torch.full((12,), len(relevant)))
        if name == "auc":
            expected = auc(scores[0], set(relevant), list(range(7)))
            assert result[0]["auc"] == pytest.approx(expected)
            continue
        for k in (1, 2, 4, 7) if metric.cut else (None,):
            label = f"{metric.name}@{k}" if metric.cut else metric.name
            assert result[0][label] == pytest.approx(float(metric(every, k).mean()), abs=1e-12), (
                relevant,
                k,
            )


def test_the_expectation_of_grades_is_the_mean_over_both_orders() -> None:
    cases = Cases(
        torch.tensor([0]),
        Ragged.from_lists([[]]),
        Ragged.from_lists([[1, 3]]),
        4,
        torch.tensor([3.0, 1.0]),
    )
    rows = [[3.0, 2.0, 2.0, 1.0], [3.0, 2.5, 2.0, 1.0], [3.0, 2.0, 2.5, 1.0]]
    asked: dict[str, Any] = {
        "seen": ("keep",),
        "metrics": ["ndcg", "dcg"],
        "cutoffs": (2, 3),
        "ties": "expectation",
    }
    tied, one, other = (
        evaluate(Scores(torch.tensor([row])), cases, **asked)[0].metrics for row in rows
    )
    assert tied == pytest.approx({name: (one[name] + other[name]) / 2 for name in tied})
    assert one["ndcg@2"] != other["ndcg@2"]


@pytest.mark.parametrize("seen", ["keep", "exclude"])
@pytest.mark.parametrize("ties", ["seeded permutation", "expectation"])
def test_own_candidates_are_what_barring_the_others_gives(seen: str, ties: str) -> None:
    cases = random_cases(300, 200)
    scores = torch.randn(300, 200, generator=torch.Generator().manual_seed(6)).round()
    rng = np.random.default_rng(5)
    lists = Ragged.from_lists(
        [list({*row, *rng.integers(0, 200, 30).tolist()}) for row in cases.truth.to_lists()]
    )
    metrics = ("ndcg", "mrr", "auc", "r_precision")
    protocol = Protocol(seen=seen, ties=ties, candidates="lists")
    own = evaluate(
        Scores(scores), cases, protocols=[protocol], candidate_lists=lists, metrics=metrics
    )[0]
    barred = torch.ones(300, 200, dtype=torch.bool)
    barred[lists.rows, lists.values] = False
    if seen == "exclude":
        barred[cases.history.rows, cases.history.values] = True
    gone = Ragged.from_lists([row.nonzero().flatten().tolist() for row in barred])
    other = Cases(cases.users, gone, cases.truth, 200)
    wanted = evaluate(
        Scores(scores), other, protocols=[Protocol(seen="exclude", ties=ties)], metrics=metrics
    )[0]
    for name, values in own.per_user.items():
        np.testing.assert_allclose(values, wanted.per_user[name], rtol=1e-12, err_msg=name)
    assert own.protocol.candidate_hash
    assert own.n_unreachable_users == wanted.n_unreachable_users


def test_sampled_candidates() -> None:
    cases = random_cases(200, 300)
    drawn = sample_candidates(cases, 20, seed=1)
    for row in range(200):
        items, truth = drawn.row(row).tolist(), set(cases.truth.row(row).tolist())
        assert len(items) == len(set(items)) == 20 + len(truth)
        assert truth <= set(items)
        assert not (set(items) - truth) & set(cases.history.row(row).tolist())
    some = Cases(
        cases.users[5:9],
        cases.history.take(cases.users[5:9]),
        cases.truth.take(cases.users[5:9]),
        300,
    )
    assert sample_candidates(some, 20, seed=1).to_lists() == drawn.to_lists()[5:9]
    assert sample_candidates(cases, 20, seed=2).to_lists() != drawn.to_lists()
    few = sample_candidates(cases, 1000, seed=1)
    known = [
        len(set(cases.truth.row(row).tolist()) | set(cases.history.row(row).tolist()))
        for row in range(200)
    ]
    assert (few.lengths - cases.truth.lengths).tolist() == [300 - n for n in known]
    every = torch.bincount(drawn.values, minlength=300).double()
    assert every.min() > 0


def test_protocols_of_all_kinds_share_a_pass() -> None:
    cases = random_cases(100, 150)
    model = Scores(torch.randn(100, 150, generator=torch.Generator().manual_seed(7)))
    protocols = [
        Protocol(),
        Protocol(seen="exclude"),
        Protocol(candidates="sampled", n_candidates=20),
        Protocol(candidates="sampled", n_candidates=20, candidate_seed=0),
        Protocol(candidates="sampled", n_candidates=20, candidate_seed=1),
        Protocol(ties="expectation", cutoffs=(3,)),
    ]
    results = evaluate(model, cases, protocols=protocols)
    assert len({result.hash for result in results}) == 5
    assert results[2].hash == results[3].hash
    assert results[2]["ndcg@10"] > results[0]["ndcg@10"]
    assert evaluate(model, cases, protocols=[protocols[4]])[0].metrics == results[4].metrics


def test_metrics_of_lists_need_what_they_read() -> None:
    cases = random_cases(30, 60)
    model = Scores(torch.randn(30, 60, generator=torch.Generator().manual_seed(8)))
    part = Part(cases.history, 60)
    names = [
        "catalogue_coverage",
        "gini",
        "average_popularity",
        "novelty",
        "new_items",
        "intra_list_diversity",
    ]
    results = evaluate(
        model,
        cases,
        metrics=names,
        cutoffs=(5,),
        fit_part=part,
        features=torch.nn.Embedding(60, 4).weight,
    )
    assert results["exclude"]["new_items@5"] == 1
    assert results["keep"]["new_items@5"] < 1
    assert "gini@5" in str(results)
    assert "gini@5" not in results["keep"].per_user
    asked = model.n_scored
    for name in ("novelty", "new_items"):
        with refused(name, "fit_part"):
            evaluate(model, cases, metrics=[name])
    with refused("intra_list_diversity", "features"):
        evaluate(model, cases, metrics=["intra_list_diversity"], fit_part=part)
    assert model.n_scored == asked, "nothing is ranked before"
    with refused("gini"):
        evaluate(model, cases, metrics=["gini"], ties="expectation")
    for wrong in (torch.rand(4, 4), torch.full((60, 4), torch.nan)):
        with refused("features"):
            evaluate(model, cases, features=wrong)


# --- several processes, or an engine: each ranks for its share of the users, and all find what one
# finds

N_ITEMS = 300
#: three groups, the last of which is short
N_USERS = 2 * GROUP + 70


def scores(n_users: int) -> torch.Tensor:
    """Few different values, so that ties decide."""
    drawn = torch.randint(0, 40, (n_users, N_ITEMS), generator=torch.Generator().manual_seed(1))
    return drawn.float() / 7


def measured(n_users: int, graded: bool, engine: Engine | None = None) -> dict[str, Any]:
    """All that evaluations of several kinds find: values of users, over all users, protocols; who
    was ranked for.
    """
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
    vectors = Vectors(
        torch.randn(n_users, 8, generator=generator), torch.randn(N_ITEMS, 8, generator=generator)
    )
    model = Scores(scores(n_users))
    found = evaluate(model, cases, protocols=protocols, candidate_lists=lists, **asked)
    of_ties = evaluate(
        model, cases, ties="expectation", metrics=("ndcg", "recall", "mrr"), engine=engine
    )
    of_vectors = evaluate(vectors, cases, seen=("exclude",), **asked)
    return {
        "results": [
            (
                each.to_dict(),
                each.users.tolist(),
                {name: values.tobytes() for name, values in each.per_user.items()},
            )
            for each in (*found, *of_ties, *of_vectors)
        ],
        "validation": validation(vectors, cases, "coverage@20", seen="exclude", fit_part=part),
        "scored": model.n_scored,
    }


SHARED = ((N_USERS, False), (40, True))


def on_a_rank() -> list[dict[str, Any]]:
    return [measured(*case) for case in SHARED]


@pytest.fixture(scope="module")
def ranks() -> list[Any]:
    """What each of two processes finds."""
    return on_ranks(2, on_a_rank)


@pytest.mark.parametrize("case", [0, 1])
def test_two_processes_find_bit_for_bit_what_one_finds(case: int, ranks: list[Any]) -> None:
    n_users, graded = SHARED[case]
    alone = measured(n_users, graded)
    of_ranks = [of_cases[case] for of_cases in ranks]
    for found in of_ranks:
        assert found["validation"] == alone["validation"]
        assert found["results"] == alone["results"]
    # three groups of 256 on two processes; a single group is one process's. Two evaluations ask the
    # model
    shares = [GROUP + 70, GROUP] if n_users > GROUP else [n_users, 0]
    assert [found["scored"] for found in of_ranks] == [2 * share for share in shares]
    assert alone["scored"] == 2 * n_users


def test_an_engine_finds_bit_for_bit_what_one_process_finds(engine: Engine) -> None:
    found, alone = measured(*SHARED[0], engine), measured(*SHARED[0])
    assert found["results"] == alone["results"]
