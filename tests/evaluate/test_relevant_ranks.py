"""RelevantRanks, expectations over ties, candidates and conventions through ``evaluate``, against slow oracles."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from fake_rankers import Scores
from hypothesis import given, settings
from hypothesis import strategies as st
from refusing import refused
from torch import Tensor

from recgraph import registry
from recgraph.data.part import Cases, Part
from recgraph.evaluate import Protocol, evaluate, topk
from recgraph.evaluate.evaluator import sample_candidates
from recgraph.evaluate.metrics import RankedHits
from recgraph.evaluate.topk import tie_order
from recgraph.sparse.ragged import Ragged

TIE_METRICS = [name for name in registry.names("metric") if registry.load("metric", name)().expects]


def random_cases(n_users: int, n_items: int, seed: int = 0, most: int = 5) -> Cases:
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(n_items)[: rng.integers(2, 12)].tolist() for _ in range(n_users)]
    cut = [int(rng.integers(1, min(most, len(row) - 1) + 1)) for row in rows]
    history = [row[n:] for row, n in zip(rows, cut, strict=True)]
    history[1] = [rows[1][0], *history[1]]  # an unreachable item
    truth = [row[:n] for row, n in zip(rows, cut, strict=True)]
    return Cases(torch.arange(n_users), Ragged.from_lists(history), Ragged.from_lists(truth), n_items)


def auc(scores: Tensor, relevant: set[int], candidates: list[int]) -> float:
    others = [float(scores[item]) for item in candidates if item not in relevant]
    won = 0.0
    for item in relevant & set(candidates):
        own = float(scores[item])
        won += sum((own > other) + 0.5 * (own == other) for other in others)
    return won / (len(relevant) * len(others))


@pytest.mark.parametrize("block_items", [1 << 17, 64])
def test_auc_and_r_precision_of_all_items(block_items: int, monkeypatch: pytest.MonkeyPatch) -> None:
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
            assert results[seen].per_user["auc"][row] == pytest.approx(auc(scores[row], truth, candidates), abs=1e-12)
            best = sorted(candidates, key=lambda item, row=row: (-float(scores[row, item]), place[item]))[: len(truth)]
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
            Scores(scores), cases, seen=("keep",), cutoffs=(1, 2, 4, 7), metrics=[name], ties="expectation"
        )
        orders = [
            [*groups[0], *middle, *next_, 6] for middle in permutations(groups[1]) for next_ in permutations(groups[2])
        ]
        hits = torch.tensor([[item in relevant for item in order] for order in orders])
        every = RankedHits(hits, torch.full((12,), len(relevant)))
        if name == "auc":
            expected = auc(scores[0], set(relevant), list(range(7)))
            assert result[0]["auc"] == pytest.approx(expected)
            continue
        for k in (1, 2, 4, 7) if metric.cut else (None,):
            label = f"{metric.name}@{k}" if metric.cut else metric.name
            assert result[0][label] == pytest.approx(float(metric(every, k).mean()), abs=1e-12), (relevant, k)


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=15)
def test_relabelling_users_and_items_changes_nothing(seed: int, expected: bool) -> None:
    rng = np.random.default_rng(seed)
    n_users, n_items = 12, 25
    scores = torch.from_numpy(rng.random((n_users, n_items)))
    cases = random_cases(n_users, n_items, seed=seed % 1000)
    users, items = torch.from_numpy(rng.permutation(n_users)), torch.from_numpy(rng.permutation(n_items))
    other_scores = torch.empty_like(scores)
    other_scores[:, items] = scores
    history, truth = (rows.with_values(items[rows.values]).take(users) for rows in (cases.history, cases.truth))
    ties = "expectation" if expected else "seeded permutation"
    names = [*TIE_METRICS, *([] if expected else ["gini", "entropy", "catalogue_coverage", "personalization"])]
    options = {"metrics": names, "cutoffs": (1, 4, 30), "ties": ties}
    one = evaluate(Scores(scores), cases, **options)
    two = evaluate(Scores(other_scores), Cases(users, history, truth, n_items), **options)
    for own, other in zip(one, two, strict=True):
        assert own.metrics == pytest.approx(other.metrics, nan_ok=True)
        for name, values in own.per_user.items():
            np.testing.assert_allclose(values[users.numpy()], other.per_user[name], rtol=1e-12, atol=1e-15)


def test_a_constant_scorer_is_exactly_at_chance() -> None:
    n_users, n_items, k = 50, 40, 10
    rng = np.random.default_rng(0)
    truth = Ragged.from_lists([rng.permutation(n_items)[: 1 + user % 4].tolist() for user in range(n_users)])
    cases = Cases(torch.arange(n_users), Ragged.from_lists([[]] * n_users), truth, n_items)
    constant = Scores(torch.zeros(n_users, n_items))
    result = evaluate(constant, cases, seen=("keep",), cutoffs=(k,), metrics=TIE_METRICS, ties="expectation")[0]
    # the chance of a hit is the same at every place; the mean of the permutations over many seeds comes to the same
    assert result[f"recall@{k}"] == pytest.approx(k / n_items)
    assert result[f"precision@{k}"] == pytest.approx(float(truth.lengths.double().mean()) / n_items)
    assert result["auc"] == pytest.approx(0.5)
    draws = [
        evaluate(constant, cases, seen=("keep",), cutoffs=(k,), metrics=TIE_METRICS, tie_seed=seed)[0].metrics
        for seed in range(40)
    ]
    for name, value in result.metrics.items():
        drawn = np.array([metrics[name] for metrics in draws])
        assert abs(drawn.mean() - value) < 4.5 * drawn.std() / np.sqrt(len(drawn)) + 1e-12, name


def lists_of(cases: Cases, n: int) -> Ragged:
    rng = np.random.default_rng(5)
    return Ragged.from_lists(
        [list({*row, *rng.integers(0, cases.n_items, n).tolist()}) for row in cases.truth.to_lists()]
    )


@pytest.mark.parametrize("seen", ["keep", "exclude"])
@pytest.mark.parametrize("ties", ["seeded permutation", "expectation"])
def test_own_candidates_are_what_barring_the_others_gives(seen: str, ties: str) -> None:
    cases = random_cases(300, 200)
    scores = torch.randn(300, 200, generator=torch.Generator().manual_seed(6)).round()
    lists = lists_of(cases, 30)
    metrics = ("ndcg", "mrr", "auc", "r_precision")
    protocol = Protocol(seen=seen, ties=ties, candidates="lists")
    own = evaluate(Scores(scores), cases, protocols=[protocol], candidate_lists=lists, metrics=metrics)[0]
    barred = torch.ones(300, 200, dtype=torch.bool)
    barred[lists.rows, lists.values] = False
    if seen == "exclude":
        barred[cases.history.rows, cases.history.values] = True
    gone = Ragged.from_lists([row.nonzero().flatten().tolist() for row in barred])
    other = Cases(cases.users, gone, cases.truth, 200)
    wanted = evaluate(Scores(scores), other, protocols=[Protocol(seen="exclude", ties=ties)], metrics=metrics)[0]
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
    some = Cases(cases.users[5:9], cases.history.take(cases.users[5:9]), cases.truth.take(cases.users[5:9]), 300)
    assert sample_candidates(some, 20, seed=1).to_lists() == drawn.to_lists()[5:9]
    assert sample_candidates(cases, 20, seed=2).to_lists() != drawn.to_lists()
    few = sample_candidates(cases, 1000, seed=1)
    known = [len(set(cases.truth.row(row).tolist()) | set(cases.history.row(row).tolist())) for row in range(200)]
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


def test_embeddings_of_a_model_may_be_features() -> None:
    cases, model = random_cases(4, 60), Scores(torch.rand(4, 60))
    table = torch.nn.Embedding(60, 3).weight
    settings = {"metrics": ["intra_list_diversity"], "cutoffs": (5,)}
    found = evaluate(model, cases, features=table, **settings)[0]
    assert found.metrics == evaluate(model, cases, features=table.detach(), **settings)[0].metrics
    bad = table.detach().clone()
    bad[7, 1] = torch.nan
    with refused("features"):
        evaluate(model, cases, features=bad, **settings)


def test_metrics_of_lists_need_what_they_read() -> None:
    cases = random_cases(30, 60)
    model = Scores(torch.randn(30, 60, generator=torch.Generator().manual_seed(8)))
    part = Part(cases.history, 60)
    names = ["catalogue_coverage", "gini", "average_popularity", "novelty", "new_items", "intra_list_diversity"]
    results = evaluate(model, cases, metrics=names, cutoffs=(5,), fit_part=part, features=torch.rand(60, 4))
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
    with refused("features"):
        evaluate(model, cases, features=torch.rand(4, 4))


def test_candidates_that_do_not_fit() -> None:
    with refused("n_candidates"):
        Protocol.of(candidates="sampled")
    cases, model = random_cases(3, 60), Scores(torch.randn(3, 60))
    for lists in (None, [[1]], [[1], [60], [2]], [[1], [2, 2], [2]]):
        rows = None if lists is None else Ragged.from_lists(lists)
        with refused("candidate_lists"):
            evaluate(model, cases, protocols=[Protocol(candidates="lists")], candidate_lists=rows)
    other = [Protocol(candidates="lists", candidate_hash="abc")]
    with refused("candidate_lists"):
        evaluate(model, cases, protocols=other, candidate_lists=Ragged.from_lists([[1], [2], [3]]))
