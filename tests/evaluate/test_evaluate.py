"""``evaluate`` against dense oracles and PyG, at chance, and under both conventions at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import forked
import numpy as np
import pytest
import torch
from fake_rankers import Scores, Vectors
from first_hit import FirstHit
from torch import Tensor

from recgraph import registry
from recgraph.data.part import Cases, Part
from recgraph.evaluate import Protocol, ProtocolMismatch, compare, evaluate
from recgraph.evaluate.evaluator import validation
from recgraph.evaluate.frames import ScoreMatrix
from recgraph.evaluate.metrics.names import DEFAULT_METRICS, full_name, split_metric, value_of
from recgraph.evaluate.metrics.rank import RBP
from recgraph.evaluate.topk import tie_order
from recgraph.models.closed_form.neighbours import Popularity
from recgraph.sparse.ragged import Ragged
from recgraph.tuning.objectives import canonical, direction
from recgraph.tuning.plan import Plan


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


def test_equals_pyg() -> None:
    metrics = pytest.importorskip("torch_geometric.metrics")
    cases = random_cases(200, 300)
    scores = torch.randn(200, 300, generator=torch.Generator().manual_seed(2))
    result = evaluate(Scores(scores), cases, cutoffs=(10,))["keep"]
    peers = {"recall": "Recall", "precision": "Precision", "map": "MAP", "ndcg": "NDCG", "mrr": "MRR"}
    label = torch.stack([cases.truth.rows, cases.truth.values])
    for name, peer in peers.items():
        other = getattr(metrics, f"LinkPred{peer}")(k=10)
        other.update(scores.topk(10).indices, label)
        assert result[f"{name}@10"] == pytest.approx(float(other.compute()), abs=1e-6)


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


def test_batch_and_block_size_do_not_matter() -> None:
    generator = torch.Generator().manual_seed(3)
    model = Vectors(torch.randn(600, 16, generator=generator), torch.randn(3000, 16, generator=generator))
    cases = random_cases(600, 3000)
    whole = evaluate(model, cases)
    for batch_size, block_items in ((1, 1), (300, 1500), (10_000, 10**9)):
        cut = evaluate(model, cases, batch_size=batch_size, block_items=block_items)
        for one, other in zip(whole, cut, strict=True):
            assert all(np.array_equal(values, other.per_user[name]) for name, values in one.per_user.items())


@pytest.mark.parametrize("users", [torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize("items", [torch.float32, torch.float64, torch.int64])
def test_vectors_of_any_type(users: torch.dtype, items: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    vectors = [torch.randint(-9, 9, (n, 4), generator=generator) for n in (30, 50)]
    own, wanted = (
        evaluate(Vectors(vectors[0].to(one), vectors[1].to(other)), random_cases(30, 50), metrics=["ndcg", "auc"])
        for one, other in ((users, items), (torch.float64, torch.float64))
    )
    assert [result.metrics for result in own] == [result.metrics for result in wanted]


def test_a_constant_scorer_is_at_chance() -> None:
    rng = np.random.default_rng(4)
    n_users, n_items, k = 2000, 500, 50
    # popular items have low indices, which is what a tie rule by index rewards
    truth = np.minimum(rng.geometric(0.02, n_users) - 1, n_items - 1)
    cases = Cases(
        torch.arange(n_users),
        Ragged.from_lists([[]] * n_users),
        Ragged.from_lists(truth[:, None].tolist()),
        n_items,
    )
    rates = [
        evaluate(
            Scores(torch.zeros(n_users, n_items)),
            cases,
            seen=("keep",),
            cutoffs=(k,),
            metrics=["hit_rate"],
            tie_seed=seed,
        )[0][f"hit_rate@{k}"]
        for seed in range(20)
    ]
    # a permutation draws the k listed items, so the deviation between seeds is that of a sum over k drawn items
    share = np.bincount(truth, minlength=n_items) / n_users
    deviation = np.sqrt(k * (n_items - k) / (n_items - 1) * share.var())
    assert abs(np.mean(rates) - k / n_items) < 4 * deviation / np.sqrt(len(rates))
    assert np.std(rates) < 2 * deviation


def test_a_perfect_scorer_is_perfect() -> None:
    cases = random_cases(100, 80, truths=1)
    scores = torch.zeros(100, 80)
    scores[cases.truth.rows, cases.truth.values] = 1
    result = evaluate(Scores(scores), cases, cutoffs=(1,))["keep"]
    assert all(value == 1 for value in result.metrics.values())


def test_more_places_than_items() -> None:
    cases = random_cases(20, 32, truths=2)
    result = evaluate(Scores(torch.randn(20, 32)), cases, cutoffs=(50,))
    assert result["keep"]["recall@50"] == 1
    assert result["keep"]["precision@50"] == pytest.approx(float(cases.truth.lengths.double().mean()) / 50)


MEMORY = """
import resource, torch
from recgraph.data.batches import Query
from recgraph.evaluate.ranking import catalogue_for, rank
from recgraph.sparse.ragged import Ragged

class Vectors:
    has_vectors = True
    users, items = torch.randn(3000, 8), torch.randn(60_000, 8)
    encode_users = lambda self, query: self.users[query.users]
    encode_items = lambda self: self.items

def peak(n_users):
    history = Ragged.from_lengths(torch.arange(n_users), torch.ones(n_users, dtype=torch.int64))
    catalogue = catalogue_for(Vectors(), 60_000, 20, block_items=10_000)
    query = Query(torch.arange(n_users), history)
    for _ in rank(Vectors(), catalogue, query, history, ("keep", "exclude")):
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

first = peak(256)
print(peak(3000) - first)
"""


def test_memory_is_bounded() -> None:
    # in a process of its own, because a peak is never forgotten; the score matrix would take 720 MB
    assert int(forked.code(MEMORY)) < 64 * 1024


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
    with pytest.raises(ProtocolMismatch, match="seen: 'keep' and 'exclude'"):
        compare(results["keep"], results["exclude"])
    same = evaluate(Scores(torch.zeros(50, 60)), cases, protocols=[protocol])[0]
    assert compare(same, results["exclude"])["ndcg@10"] == results["exclude"]["ndcg@10"] - same["ndcg@10"]
    assert same.hash == results["exclude"].hash == Protocol.of(protocol.model_dump()).hash


@pytest.mark.parametrize("part", ["valid", "test"])
def test_a_part_that_the_model_was_fitted_on_is_refused(part: str) -> None:
    model, cases, fitted = Scores(torch.randn(50, 60)), random_cases(50, 60), f"train+{part}"
    message = rf"part = '{part}' is in fitted_on = 'train\+{part}'.*allow_fitted=True"
    with pytest.raises(ValueError, match=message):
        evaluate(model, cases, part=part, fitted_on=fitted)
    with pytest.raises(ValueError, match=message):
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
    with pytest.raises(KeyError, match="ndcg@7"):
        results[0]["ndcg@7"]
    with pytest.raises(KeyError, match="names 0 results"):
        results["other"]


def test_metric_names() -> None:
    assert split_metric("ndcg@10") == ("ndcg", 10)
    assert split_metric("HitRate@5") == ("hit_rate", 5)
    assert (split_metric("auc"), split_metric("auc@10")) == (("auc", None), ("auc", 10))
    assert (full_name("Coverage@20"), full_name("R-Precision")) == ("catalogue_coverage@20", "r_precision")
    assert value_of({"auc": 0.5, "catalogue_coverage@5": 0.1}, "auc@10") == 0.5
    assert value_of({"auc": 0.5, "catalogue_coverage@5": 0.1}, "coverage@5") == 0.1
    for bad in ("ndcg", "ndcg@0", "ndcg@x", "nosuch@5"):
        with pytest.raises(ValueError):
            split_metric(bad)


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
    plan = Plan("a study", Popularity, ("first_hit@3", "train_seconds"), 1)
    assert plan.to_dict()["modules"] == ("first_hit",)
    assert Plan.from_dict(plan.to_dict()) == plan


def test_a_metric_that_is_registered_under_another_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    registry.register("metric", "opening")(FirstHit)
    with pytest.raises(ValueError, match="metric 'opening' is the class FirstHit, whose attribute name is 'first_hit'"):
        split_metric("opening@5")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metrics": ["nosuch"]}, "nosuch"),
        ({"seen": ("both",)}, "seen"),
        ({"seen": ()}, "seen"),
        ({"cutoffs": (0,)}, "cut-off"),
        ({"cutoffs": ()}, "cutoffs"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"block_items": 0}, "block_items = 0"),
        ({"protocols": [Protocol(), Protocol(tie_seed=1)]}, "tie_seed"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(Scores(torch.randn(20, 40)), random_cases(20, 40), **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"cutoffs": (3,), "seen": ("keep",)},
        {"convention": "lenskit"},
        {"ties": "expectation"},
        {"tie_seed": 0},
        {"split": Labelled()},
        {"part": "test"},
        {"fitted_on": "train"},
        {"history": "train"},
    ],
)
def test_settings_beside_protocols_are_refused(settings: dict[str, object]) -> None:
    for name in settings:
        with pytest.raises(ValueError, match=rf"\b{name}\b.* given beside protocols"):
            evaluate(Scores(torch.randn(20, 40)), random_cases(20, 40), protocols=[Protocol()], **settings)


def test_the_settings_that_are_not_given() -> None:
    results = evaluate(Scores(torch.randn(20, 40)), random_cases(20, 40), metrics=["ndcg"])
    assert [result.protocol for result in results] == [Protocol(seen="keep"), Protocol(seen="exclude")]


def test_cases_that_do_not_fit() -> None:
    model = Scores(torch.randn(2, 40))
    nobody = Ragged.from_lists([])
    with pytest.raises(ValueError, match="cases is empty"):
        evaluate(model, Cases(torch.arange(0), nobody, nobody, 40))
    with pytest.raises(ValueError, match="user index 7 has no relevant"):
        evaluate(model, Cases(torch.tensor([6, 7]), Ragged.from_lists([[], []]), Ragged.from_lists([[1], []]), 40))
    with pytest.raises(ValueError, match="outside 0 to 39"):
        evaluate(model, Cases(torch.tensor([0]), Ragged.from_lists([[]]), Ragged.from_lists([[40]]), 40))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"history": Ragged.from_lists([[-1], [2]])}, "cases.history holds an item outside 0 to 5"),
        ({"history": Ragged.from_lists([[0], [6]])}, "cases.history holds an item outside 0 to 5"),
        ({"history": Ragged.from_lists([[0]])}, "cases.history has 1 rows for 2 users"),
        ({"users": torch.arange(3)}, "cases.history has 2 rows for 3 users"),
        ({"grades": torch.ones(3)}, "cases.grades has 3 grades for 2 relevant items"),
    ],
)
def test_cases_whose_parts_do_not_fit(changed: dict[str, Any], message: str) -> None:
    cases = Cases(torch.arange(2), Ragged.from_lists([[0], [2]]), Ragged.from_lists([[5], [3]]), 6)
    with pytest.raises(ValueError, match=message):
        evaluate(ScoreMatrix(torch.arange(12.0).reshape(2, 6)), replace(cases, **changed), metrics=["recall@6"])


def test_the_best_list_of_graded_rbp_has_the_greatest_grades_first() -> None:
    truth = Ragged.from_lists([[0, 1, 2], [1, 3]])
    cases = Cases(torch.arange(2), Ragged.from_lists([[], []]), truth, 4, torch.tensor([3.0, 2.0, 1.0, 4.0, 1.0]))
    scores = ScoreMatrix(torch.tensor([[9.0, 8.0, 7.0, 0.0], [9.0, 8.0, 7.0, 6.0]]))
    found = evaluate(scores, cases, seen=("keep",), metrics=[RBP(graded=True)], cutoffs=(4,))["keep"]
    p = 0.85
    second = (4 * p + p**3) / (4 + p)
    assert found.per_user["rbp(graded=True)@4"].tolist() == pytest.approx([1.0, second], rel=1e-12)


@pytest.mark.parametrize("selects", ["coverage@20", "novelty@3", "ndcg@10", "auc@5"])
def test_any_metric_that_is_better_when_higher_can_select(selects: str) -> None:
    generator = torch.Generator().manual_seed(6)
    cases = Cases(
        torch.arange(30),
        Ragged.from_lists([[row % 40, 41] for row in range(30)]),
        Ragged.from_lists([[(row + 5) % 40] for row in range(30)]),
        50,
    )
    model = Scores(torch.randn(30, 50, generator=generator))
    values = validation(model, cases, selects, seen="keep", fit_part=Part(cases.history, 50))
    assert {selects, "ndcg@10", "recall@20"} <= values.keys()
    if selects == "coverage@20":
        assert (
            values[selects]
            == evaluate(model, cases, seen=("keep",), metrics=["catalogue_coverage"])[0].metrics[
                "catalogue_coverage@20"
            ]
        )
    for wrong, why in (("gini@10", "better when it is lower"), ("diversity@10", "needs features"), ("x@3", "'x'")):
        with pytest.raises(ValueError, match=why):
            validation(model, cases, wrong, seen="keep", fit_part=Part(cases.history, 50))
