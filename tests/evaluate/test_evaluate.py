"""``evaluate`` against dense oracles and PyG, at chance, and under both conventions at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fake_rankers import Scores
from first_hit import FirstHit
from refusing import refused
from torch import Tensor

from recgraph import registry
from recgraph.data.part import Cases, Part
from recgraph.evaluate import Protocol, ProtocolMismatch, compare, evaluate
from recgraph.evaluate.evaluator import validation
from recgraph.evaluate.frames import ScoreMatrix
from recgraph.evaluate.metrics import DEFAULT_METRICS, F1, NDCG, Metric, full_name, metric_of, split_metric, value_of
from recgraph.evaluate.topk import tie_order
from recgraph.sparse.ragged import Ragged
from recgraph.tuning.objectives import canonical, direction


class Labelled:
    name, hash = "leave-one-out", "abc"


def random_cases(n_users: int, n_items: int, truths: int = 6, graded: bool = False, seed: int = 0) -> Cases:
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(n_items)[: rng.integers(2, 30)].tolist() for _ in range(n_users)]
    cut = [int(rng.integers(1, min(truths, len(row) - 1) + 1)) for row in drawn]
    history = [row[n:] for row, n in zip(drawn, cut, strict=True)]
    history[0] = history[0] * 2
    history[1] = [drawn[1][0], *history[1]]  # an unreachable item
    truth = Ragged.from_lists([row[:n] for row, n in zip(drawn, cut, strict=True)])
    grades = torch.from_numpy(rng.integers(1, 6, truth.values.numel()).astype(float)) if graded else None
    return Cases(torch.arange(n_users), Ragged.from_lists(history), truth, n_items, grades)


def oracle(scores: Tensor, cases: Cases, k: int, exclude: bool) -> dict[str, list[float]]:
    """One user at a time, straight from the definitions."""
    place = np.empty(cases.n_items, dtype=np.int64)
    place[tie_order(cases.n_items, 0).numpy()] = np.arange(cases.n_items)
    discount = 1 / np.log2(np.arange(2, k + 2))
    values: dict[str, list[float]] = {name: [] for name in DEFAULT_METRICS}
    for row in range(len(cases)):
        truth, seen = cases.truth.row(row).tolist(), set(cases.history.row(row).tolist())
        order = [i for i in np.lexsort((place, -scores[row].numpy())) if not (exclude and i in seen)][:k]
        hits = np.zeros(k)
        hits[: len(order)] = [i in truth for i in order]
        gains, ideal = hits, np.ones(len(truth))
        if cases.grades is not None:
            grade = dict(zip(truth, cases.truth.with_values(cases.grades).row(row).tolist(), strict=True))
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
                np.testing.assert_allclose(own, values, rtol=1e-12, atol=1e-15, err_msg=f"{name}@{k}")
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
        model, cases, split=Labelled(), part="test", fitted_on="train", history="train+valid", tie_seed=3
    )
    protocol = results["exclude"].protocol
    assert (protocol.split, protocol.split_hash, protocol.part, protocol.seen) == (
        "leave-one-out",
        "abc",
        "test",
        "exclude",
    )
    assert (protocol.tie_seed, protocol.cutoffs, protocol.fitted_on) == (3, (5, 10, 20), "train")
    with refused("seen", by=ProtocolMismatch):
        compare(results["keep"], results["exclude"])
    same = evaluate(Scores(torch.zeros(50, 60)), cases, protocols=[protocol])[0]
    assert compare(same, results["exclude"])["ndcg@10"] == results["exclude"]["ndcg@10"] - same["ndcg@10"]
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
        Scores(torch.randn(50, 60)), random_cases(50, 60), cutoffs=(10, 5, 5), metrics=["ndcg", "hit_rate"]
    )
    lines = str(results).splitlines()
    assert lines[0].split() == ["metric", "seen", "kept", "seen", "excluded"]
    assert [line.split()[0] for line in lines[1:5]] == ["ndcg@5", "ndcg@10", "hit_rate@5", "hit_rate@10"]
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
    result = evaluate(model, cases, seen=("keep",), cutoffs=(1, 5), metrics=["FirstHit", "coverage"], fit_part=part)[0]
    assert set(result.metrics) == {"first_hit@1", "first_hit@5", "catalogue_coverage@1", "catalogue_coverage@5"}
    found = validation(model, cases, "first_hit@7", seen="keep", fit_part=part)
    assert found["first_hit@7"] == result["first_hit@1"]
    assert validation(model, cases, "auc", seen="keep", fit_part=part)["auc"] > 0
    assert (canonical("FirstHit@3"), canonical("auc"), direction("first_hit@3")) == ("first_hit@3", "auc", "maximize")


def test_the_settings_that_are_not_given() -> None:
    results = evaluate(Scores(torch.randn(20, 40)), random_cases(20, 40), metrics=["ndcg"])
    assert [result.protocol for result in results] == [Protocol(seen="keep"), Protocol(seen="exclude")]


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


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"history": Ragged.from_lists([[-1], [2]])}, "cases.history"),
        ({"truth": Ragged.from_lists([[6], [3]])}, "cases.truth"),
        ({"grades": torch.tensor([1.0, -1.0])}, "cases.grades"),
    ],
)
def test_cases_whose_parts_do_not_fit(changed: dict[str, Any], name: str) -> None:
    cases = Cases(torch.arange(2), Ragged.from_lists([[0], [2]]), Ragged.from_lists([[5], [3]]), 6)
    with refused(name):
        evaluate(ScoreMatrix(torch.arange(12.0).reshape(2, 6)), replace(cases, **changed), metrics=["recall@6"])
    with refused("cases"):
        evaluate(ScoreMatrix(torch.zeros(2, 6)), cases.take(torch.arange(0)))


# --- metrics that name their cut-off


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
    assert metrics_of("ndcg@10", NDCG()) == {name: value for name, value in plain.items() if name.startswith("ndcg")}
    assert set(metrics_of("recall@7", F1(beta=2.0), cutoffs=(3,))) == {"recall@7", "f1(beta=2.0)@3", "f1(beta=2.0)@7"}


def test_the_protocol_has_the_cut_offs_that_are_named() -> None:
    def cutoffs(**settings: Any) -> tuple[int, ...]:
        return evaluate(MODEL, CASES, seen=("keep",), **settings)[0].protocol.cutoffs

    assert cutoffs() == cutoffs(metrics=["ndcg"]) == (5, 10, 20)
    assert cutoffs(metrics=["ndcg@10"]) == cutoffs(metrics=["ndcg@10", "auc"]) == (10,)
    assert cutoffs(metrics=["ndcg@7", "recall"]) == (5, 7, 10, 20)
    (given,) = evaluate(MODEL, CASES, protocols=[Protocol(cutoffs=(3,))], metrics=["ndcg@7"])
    assert given.protocol.cutoffs == (3, 7)


def test_names_of_metrics() -> None:
    assert split_metric("HitRate@5") == ("hit_rate", 5)
    assert (split_metric("auc"), split_metric("auc@10")) == (("auc", None), ("auc", 10))
    assert (full_name("Coverage@20"), full_name("R-Precision")) == ("catalogue_coverage@20", "r_precision")
    assert value_of({"auc": 0.5, "catalogue_coverage@5": 0.1}, "auc@10") == 0.5
    names = ("gini@5", "f1(beta=2.0)@10", "auc", "macro_f1", "train_seconds")
    assert [metric and metric.name for metric in map(metric_of, names)] == ["gini", "f1", "auc", None, None]


@pytest.mark.parametrize("selects", ["coverage@20", "novelty@3", "auc@5"])
def test_any_metric_that_is_better_when_higher_can_select(selects: str) -> None:
    values = validation(MODEL, CASES, selects, seen="keep", fit_part=PART)
    assert {selects, "ndcg@10", "recall@20"} <= values.keys()
    assert values[selects] == next(iter(metrics_of(selects.removesuffix("@5")).values()))
    for wrong in ("gini@10", "diversity@10", "x@3"):
        with refused(wrong.partition("@")[0]):
            validation(MODEL, CASES, wrong, seen="keep", fit_part=PART)


@pytest.mark.parametrize("ties", ["seeded permutation", "expectation"])
def test_cut_offs_beyond_the_items_have_the_values_of_the_end_of_the_list(ties: str) -> None:
    """A list of a million places takes no more memory than one of the items there are."""
    whole, far = (evaluate(MODEL, CASES, ties=ties, cutoffs=(5, k))["exclude"] for k in (60, 10**6))
    for name in ("ndcg", "recall", "mrr", "map", "hit_rate"):
        np.testing.assert_allclose(far.per_user[f"{name}@1000000"], whole.per_user[f"{name}@60"], rtol=1e-12)
    np.testing.assert_allclose(far.per_user["precision@1000000"], whole.per_user["precision@60"] * 60 / 10**6)
    assert far["ndcg@5"] == whole["ndcg@5"]
