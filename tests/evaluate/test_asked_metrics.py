"""Metrics that name their cut-off, cut-offs beyond the last item, and results whose lists of cut-offs differ."""

from __future__ import annotations

import json
import logging
import math
import os
from dataclasses import replace
from pathlib import Path

import forked
import numpy as np
import polars as pl
import pytest
import torch
from fake_rankers import Scores
from test_evaluate import random_cases
from test_memory import LOG
from test_metrics import complete

from recgraph import registry
from recgraph.data.part import Part
from recgraph.evaluate import Protocol, ProtocolMismatch, Result, compare, evaluate, frame, table
from recgraph.evaluate.checks import seed_variance
from recgraph.evaluate.metrics.base import Aggregate, Metric, RankedHits
from recgraph.evaluate.metrics.rank import NDCG
from recgraph.evaluate.protocol import CONVENTIONS
from recgraph.evaluate.results import comparable, save_users
from recgraph.evaluate.significance import over_seeds, over_users
from recgraph.evaluate.standings import standings

CASES = random_cases(50, 60)
MODEL = Scores(torch.randn(50, 60, generator=torch.Generator().manual_seed(3)))
PART = Part(CASES.history, 60)


def metrics_of(*metrics: str | Metric, **settings: object) -> dict[str, float]:
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
    assert set(metrics_of("ndcg@7", "ndcg", cutoffs=(3,))) == {"ndcg@3", "ndcg@7"}
    assert set(metrics_of("recall@7", NDCG(gain="exponential"), cutoffs=(3,))) == {
        "recall@7",
        "ndcg(gain=exponential)@3",
        "ndcg(gain=exponential)@7",
    }


def test_a_metric_as_it_is_stands_at_all_cut_offs_beside_its_name_at_one() -> None:
    plain = metrics_of("ndcg")
    for asked in (("ndcg@10", NDCG()), (NDCG(), "ndcg@10"), ("ndcg", NDCG())):
        assert metrics_of(*asked) == plain
    beside = metrics_of("ndcg@7", NDCG(), NDCG(gain="exponential"), cutoffs=(3,))
    assert set(beside) == {f"{name}@{k}" for name in ("ndcg", "ndcg(gain=exponential)") for k in (3, 7)}


def test_a_metric_that_has_no_cut_off_under_a_convention_is_refused_one() -> None:
    assert set(metrics_of("map", convention="cornac")) == {"map"}
    message = r"metric 'map@10' reads the whole ranking under convention 'cornac' and has no cut-off there; write 'map'"
    with pytest.raises(ValueError, match=message):
        metrics_of("map@10", convention="cornac")
    lists = pl.DataFrame({"user_id": [1, 1, 2], "item_id": [1, 2, 3]})
    with pytest.raises(ValueError, match=message):
        frame(lists, lists, metrics=["map@10"], convention="cornac")
    both = [Protocol(convention=name) for name in ("recgraph", "cornac")]
    with pytest.raises(ValueError, match=message):
        evaluate(MODEL, CASES, protocols=both, metrics=["map@10"])


def test_the_protocol_has_the_cut_offs_that_are_named() -> None:
    def cutoffs(**settings: object) -> tuple[int, ...]:
        return evaluate(MODEL, CASES, seen=("keep",), **settings)[0].protocol.cutoffs

    assert cutoffs() == cutoffs(metrics=["ndcg"]) == (5, 10, 20)
    assert cutoffs(metrics=["ndcg@10"]) == cutoffs(metrics=["ndcg@10", "auc"]) == (10,)
    assert cutoffs(metrics=["ndcg@7", "recall"]) == (5, 7, 10, 20)
    assert cutoffs(metrics=["ndcg@7"], cutoffs=(3,)) == (3, 7)
    (given,) = evaluate(MODEL, CASES, protocols=[Protocol(cutoffs=(3,))], metrics=["ndcg@7"])
    assert given.protocol.cutoffs == (3, 7)
    lists = pl.DataFrame({"user_id": [1, 1, 2], "item_id": [1, 2, 3]})
    assert frame(lists, lists, metrics=["ndcg@2"]).metrics == {"ndcg@2": 1.0}
    assert frame(lists, lists).protocol.cutoffs == (5, 10, 20)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (["ndgc@5"], r"metric 'ndgc' does not exist; did you mean .*ndcg"),
        (["covrage@5"], r"metric 'covrage' does not exist; did you mean coverage"),
        (["ndcg@x"], r"metric 'ndcg@x' must be of the form name@k"),
        (["ndcg@0"], r"metric 'ndcg@0' must be of the form name@k"),
        (["auc@5"], r"metric 'auc@5' reads the whole ranking and has no cut-off; write 'auc'"),
        ("ndcg", r"metrics = 'ndcg' must be a list of names, as metrics=\('ndcg',\)"),
    ],
)
def test_names_that_are_wrong(metrics: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(MODEL, CASES, metrics=metrics)


# --- cut-offs beyond the last item


@pytest.mark.parametrize("name", registry.names("metric"))
@pytest.mark.parametrize("tied", [False, True])
def test_a_metric_of_whole_lists_is_that_of_lists_filled_up_with_misses(name: str, tied: bool) -> None:
    cls = registry.load("metric", name)
    whole = complete(n_items=30, k=30)
    grades = torch.rand(whole.hits.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    lengths = torch.tensor([30, 30, 17, 0, 1, 29])
    inside = torch.arange(30) < lengths[:, None]
    gains = grades * whole.hits * inside
    whole = replace(
        whole,
        hits=whole.hits & inside,
        lengths=lengths,
        items=torch.where(inside, whole.items, -1),
        gains=gains,
        ideal_gains=gains.sort(1, descending=True).values,
        total_gain=gains.sum(1),
        scores=torch.where(inside, -torch.arange(30.0).expand(6, 30), -torch.inf),
    )
    if tied:
        from recgraph.evaluate.hits import expected_hits

        assert whole.relevant_ranks is not None
        hits, _, ties = expected_hits(whole.relevant_ranks, 30)
        whole = replace(whole, hits=hits, gains=None, ideal_gains=None, ties=ties, scores=None)
    for convention in CONVENTIONS:
        if convention not in cls.conventions:
            continue
        metric = cls(convention=convention)
        if tied and not metric.expects:
            continue
        for k in (30, 31, 45, 200):
            found, oracle = metric(whole, k), metric(whole.filled(200), k)
            assert torch.allclose(found, oracle, rtol=1e-12, atol=0, equal_nan=True), (convention, k)


@pytest.mark.parametrize("seen", ["keep", "exclude"])
@pytest.mark.parametrize("ties", ["seeded permutation", "expectation"])
def test_cut_offs_beyond_the_items_have_the_values_of_the_end_of_the_list(seen: str, ties: str) -> None:
    def of(k: int) -> Result:
        return evaluate(MODEL, CASES, seen=(seen,), ties=ties, cutoffs=(5, k))[0]

    whole, far = of(60), of(10**6)
    for name in ("ndcg", "recall", "mrr", "map", "hit_rate"):
        np.testing.assert_allclose(far.per_user[f"{name}@1000000"], whole.per_user[f"{name}@60"], rtol=1e-12)
    expected = whole.per_user["precision@60"] * 60 / 10**6
    np.testing.assert_allclose(far.per_user["precision@1000000"], expected, rtol=1e-12)
    assert far["ndcg@5"] == whole["ndcg@5"]


class Deep(Metric):
    """A metric that knows nothing of short lists."""

    name = "deep"

    def compute(self, ranked: RankedHits, k: int) -> torch.Tensor:
        return (ranked.hits[:, :k] / torch.arange(1, k + 1)).sum(1).double()


class DeepAggregate(Aggregate):
    name = "deep_aggregate"
    needs = frozenset({"items"})

    def compute(self, ranked: RankedHits, k: int) -> torch.Tensor:
        assert ranked.first_items(k).shape[1] == k
        return (ranked.first_items(k) >= 0).double().mean()


def test_a_metric_of_ones_own_gets_lists_of_the_length_it_asks_for() -> None:
    assert not Deep.short_lists
    assert NDCG.short_lists
    found = metrics_of(Deep(), cutoffs=(60, 61, 5000))
    assert found["deep@61"] == found["deep@60"] == found["deep@5000"]
    assert metrics_of(DeepAggregate(), cutoffs=(60, 120))["deep_aggregate@120"] == pytest.approx(0.5)
    with pytest.raises(ValueError, match=r"'deep_aggregate@1000000' looks at all lists at once.* short_lists = True"):
        metrics_of(DeepAggregate(), cutoffs=(10**6,))


PROGRAM = """
import json, logging, sys, torch
sys.path.insert(0, sys.argv[1])
from test_memory import LOG, cases, model, peak_mib
from recgraph.evaluate import evaluate
torch.set_num_threads(1)
options = json.loads(sys.argv[2])
evaluate(model(300, 300), cases(300, 300), **options | {"cutoffs": [5]})
asked, ranker = cases(943, 1682), model(943, 1682)
said = []
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
logging.getLogger(LOG).addHandler(handler)
logging.getLogger(LOG).setLevel(logging.DEBUG)
open("/proc/self/clear_refs", "w").write("5")
before = peak_mib()
results = evaluate(ranker, asked, **options)
print(json.dumps([int(said[0].split()[2]), peak_mib() - before, results[0].metrics]))
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peaks are read from /proc")
def test_a_cut_off_of_a_million_takes_the_memory_of_the_items_there_are() -> None:
    """As many users and items as ml-100k has; every place of a million for each user would be 40 GB."""
    metrics = ["ndcg", "recall", "catalogue_coverage", "gini"]

    def peak(**options: object) -> tuple[int, float, dict[str, float]]:
        printed = forked.code(PROGRAM, Path(__file__).parent, json.dumps({"metrics": metrics, **options}))
        said, taken, found = json.loads(printed)
        return said, taken, found

    said, taken, found = peak(cutoffs=[5, 10**6])
    assert taken <= said <= 400
    bounded, taken, same = peak(cutoffs=[5, 10**6], memory_mib=said)
    assert taken <= bounded <= said
    assert same == found
    whole = peak(cutoffs=[5, 1682])[2]
    for name in metrics:
        assert found[f"{name}@1000000"] == pytest.approx(whole[f"{name}@1682"], rel=1e-12)


def test_too_little_memory_for_long_lists_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger=LOG), pytest.raises(ValueError, match="memory_mib = 8 is too little"):
        evaluate(MODEL, random_cases(3000, 3000), cutoffs=(10**5,), memory_mib=8)


# --- results whose lists of cut-offs differ


def result(values: np.ndarray, cutoffs: tuple[int, ...], **settings: object) -> Result:
    names = {f"ndcg@{k}": values / k for k in cutoffs}
    whole = {"partial_auc@10": values} if 10 in cutoffs else {}
    return Result(Protocol.of(settings, cutoffs=cutoffs), np.arange(len(values)), {**names, **whole})


A = np.random.default_rng(0).random(80)
B = A + np.random.default_rng(1).normal(0.02, 0.05, 80)


def test_a_metric_is_compared_where_the_lists_of_cut_offs_alone_differ() -> None:
    one, other = result(A, (10,)), result(B, (5, 10, 20))
    assert one.hash != other.hash
    assert comparable(one, other) == ["ndcg@10"]
    same = result(A, (5, 10, 20))
    assert compare(one, other) == {"ndcg@10": compare(same, other)["ndcg@10"]}
    assert over_users(one, other, "ndcg@10") == over_users(same, other, "ndcg@10")
    assert over_seeds([one, same], [other, other], "ndcg@10").n == 2
    assert table({"a": one, "b": other}).cells["a"].keys() == {"ndcg@10"}
    assert [row.name for row in standings({"a": one, "b": other}, "ndcg@10")] == ["b", "a"]
    assert [row.metric for row in seed_variance([one, other])] == ["ndcg@10"]
    # the longest cut-off of both is 20: whole lists are alike
    assert comparable(result(A, (10, 20)), other) == ["ndcg@10", "ndcg@20", "partial_auc@10"]


def test_files_of_values_of_users_are_compared(tmp_path: Path) -> None:
    """As a user does who evaluated one run at 10 and another at 5, 10 and 20."""
    for name, values, cutoffs in (("a", A, (10,)), ("b", B, (5, 10, 20))):
        save_users(result(values, cutoffs), tmp_path / f"{name}.parquet")
    files = {name: tmp_path / f"{name}.parquet" for name in "ab"}
    assert over_users(files["a"], files["b"], "ndcg@10").n == 80
    assert "ndcg@10" in str(table(files))


def test_it_is_the_same_number() -> None:
    for name in registry.names("metric"):
        metric = registry.load("metric", name)()
        if not metric.cut or metric.reads_whole_lists:
            continue
        features = torch.rand(60, 4, generator=torch.Generator().manual_seed(5))

        def of(*cutoffs: int, name: str = name, features: torch.Tensor = features) -> float:
            asked = {"seen": ("keep",), "metrics": [name], "fit_part": PART, "features": features}
            return evaluate(MODEL, CASES, cutoffs=cutoffs, **asked)[0].metrics[
                f"{registry.load('metric', name).name}@10"
            ]

        assert of(10) == of(5, 10, 20) or (math.isnan(of(10)) and math.isnan(of(5, 10, 20))), name


def test_anything_else_that_differs_is_still_refused() -> None:
    one = result(A, (10,))
    for settings in ({"seen": "exclude"}, {"tie_seed": 1}, {"part": "valid"}, {"split_hash": "other"}):
        (name,) = settings
        with pytest.raises(ProtocolMismatch, match=rf"(?s)they differ in\n  {name}: (?!.*cutoffs)"):
            compare(one, result(B, (5, 10, 20), **settings))
        with pytest.raises(ProtocolMismatch, match=name):
            table({"a": one, "b": result(B, (5, 10, 20), **settings)}, ["ndcg@10"])
    with pytest.raises(ProtocolMismatch, match=r"cutoffs: \(5,\) and \(10,\)"):
        compare(result(A, (5,)), one)
    with pytest.raises(ProtocolMismatch, match=r"partial_auc@10 reads whole lists, which end at 10 and 20"):
        over_users(one, result(B, (5, 10, 20)), "partial_auc@10")
    with pytest.raises(ValueError, match=r"'ndcg@5' has no values of users here"):
        over_users(result(B, (5, 10, 20)), one, "ndcg@5")
