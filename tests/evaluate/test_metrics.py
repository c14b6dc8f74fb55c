"""A contract for every metric that the registry finds, and worked examples that can be checked by
hand.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refusing import refused

from recgraph import registry
from recgraph.evaluate import metrics
from recgraph.evaluate.metrics import AUC, Metric, RankedHits, RelevantRanks, RPrecision
from recgraph.sparse.ragged import Ragged

NAMES = registry.names("metric")
#: those that read hits alone, and are 1 for the best possible ranking
FROM_HITS = [
    name
    for name in NAMES
    if (of := registry.load("metric", name)).needs_truth and not of.needs and of != metrics.DCG
]


@pytest.fixture(params=NAMES)
def metric(request: pytest.FixtureRequest) -> Metric:
    return registry.load("metric", request.param)()


@pytest.fixture(params=FROM_HITS)
def of_hits(request: pytest.FixtureRequest) -> Metric:
    return registry.load("metric", request.param)()


def ranked(rows: list[list[int]], n_relevant: list[int]) -> RankedHits:
    return RankedHits(torch.tensor(rows, dtype=torch.bool), torch.tensor(n_relevant))


def complete(n_users: int = 6, n_items: int = 30, k: int = 10, seed: int = 0) -> RankedHits:
    """Random lists with all that any metric reads."""
    generator = torch.Generator().manual_seed(seed)
    items = torch.rand(n_users, n_items, generator=generator).argsort(1)
    is_relevant = torch.rand(n_users, n_items, generator=generator) < 0.2
    is_relevant[:, 0] = True
    hits = is_relevant.gather(1, items)
    relevant = Ragged.from_lists([row.nonzero().flatten().tolist() for row in is_relevant])
    rank = items.argsort(1)[relevant.rows, relevant.values]
    ones = torch.ones_like(rank)
    places = RelevantRanks(
        relevant.with_values(rank), ones, 0 * ones, ones.bool(), torch.full((n_users,), n_items)
    )
    counts = torch.randint(0, 9, (n_items,), generator=generator)
    features = torch.rand(n_items, 4, generator=generator)
    known = torch.rand(n_users, k, generator=generator) < 0.3
    return RankedHits(
        hits[:, :k], relevant.lengths, items=items[:, :k], known=known, relevant_ranks=places,
        n_items=n_items, counts=counts, n_users=20, features=features,
    )  # fmt: skip


def test_found_under_its_own_name(metric: Metric) -> None:
    assert registry.load("metric", metric.name) is type(metric)
    assert metric.label == metric.name
    assert metrics.F1(beta=2.0).label == "f1(beta=2.0)"


def test_a_value_for_each_user_whoever_else_is_there(metric: Metric) -> None:
    every = complete(20)
    values = metric(every, 5)
    assert values.dtype == torch.float64
    assert math.isfinite(metric.mean(values))
    assert values.shape == ((20,) if metric.per_user else ())
    if metric.per_user:
        single = torch.cat([metric(every.rows(user, user + 1), 5) for user in range(20)])
        torch.testing.assert_close(values, single, rtol=1e-12, atol=1e-12)


def test_what_is_not_known_is_asked_for(metric: Metric) -> None:
    if metric.needs:
        with refused(metric.name, min(metric.needs)):
            metric(ranked([[1, 0, 1]], [2]), 3)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_perfect_is_one_and_nothing_is_zero(of_hits: Metric, k: int, device: torch.device) -> None:
    # as many relevant items as places, so that recall and precision can both be perfect
    best = RankedHits(
        torch.ones(4, 7, dtype=torch.bool, device=device), torch.full((4,), k, device=device)
    )
    assert of_hits(best, k).tolist() == pytest.approx([1.0] * 4)
    values = of_hits(replace(best, hits=~best.hits), k)
    assert values.tolist() == [0.0] * 4
    assert (values.dtype, values.device.type) == (torch.float64, device.type)


def test_users_without_relevant_items_have_no_value(of_hits: Metric) -> None:
    values = of_hits(ranked([[0, 0, 0], [1, 1, 1]], [0, 3]), 3)
    assert values.isnan().tolist() == [True, False]
    assert of_hits.mean(values) == 1
    assert math.isnan(of_hits.mean(values[:1]))


def value_of(name: str, example: RankedHits, k: int) -> float:
    metric = registry.load("metric", name)()
    return metric.mean(metric(example, k))


# one user, five places, hits at ranks 2 and 4, three relevant items
D = [1 / math.log2(rank + 1) for rank in range(1, 6)]
WORKED = {
    "recall": 2 / 3,
    "precision": 2 / 5,
    "hit_rate": 1.0,
    "mrr": 1 / 2,
    "f1": 2 * (2 / 5) * (2 / 3) / (2 / 5 + 2 / 3),
    "map": (1 / 2 + 2 / 4) / 3,
    "ndcg": (D[1] + D[3]) / sum(D[:3]),
    "dcg": D[1] + D[3],
    "rbp": (0.85 + 0.85**3) / (1 + 0.85 + 0.85**2),
    "r_precision": 1 / 3,
}


@pytest.mark.parametrize("name", WORKED)
def test_a_worked_example(name: str) -> None:
    assert value_of(name, ranked([[0, 1, 0, 1, 0]], [3]), 5) == pytest.approx(
        WORKED[name], abs=1e-12
    )


def test_grades() -> None:
    gains = torch.tensor([[1.0, 0.0, 3.0]], dtype=torch.float64)
    ideal = torch.tensor([[3.0, 2.0, 1.0]], dtype=torch.float64)
    example = RankedHits(gains > 0, torch.tensor([3]), gains, ideal)
    log3 = math.log2(3)
    assert value_of("ndcg", example, 3) == pytest.approx(
        (1 + 3 / 2) / (3 + 2 / log3 + 1 / 2), abs=1e-12
    )
    exponential = metrics.NDCG(gain="exponential")
    assert exponential.label == "ndcg(gain=exponential)"
    assert exponential(example, 3).tolist() == pytest.approx(
        [(1 + 7 / 2) / (7 + 3 / log3 + 1 / 2)], abs=1e-12
    )


# two users, two places, four items seen 4, 2, 2 and 0 times by eight users; the first item of each
# list is a hit
LISTS = RankedHits(
    torch.tensor([[True, False], [True, False]]),
    torch.tensor([1, 2]),
    items=torch.tensor([[0, 1], [0, 3]]),
    known=torch.tensor([[True, False], [False, False]]),
    n_items=4,
    counts=torch.tensor([4, 2, 2, 0]),
    n_users=8,
    features=torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 2]]),
)
LISTED = {
    "catalogue_coverage": 3 / 4,
    # shown 0, 1, 1, 2 times: (-3*0 - 1*1 + 1*1 + 3*2) / (4 * 4)
    "gini": 6 / 16,
    "entropy": (0.5 * math.log(2) + 0.5 * math.log(4)) / math.log(4),
    "personalization": 1 / 2,
    "average_popularity": (3 + 2) / 2,
    # bits 1, 2, 2 and, as if seen once, 3
    "novelty": ((1 + 2) / 2 + (1 + 3) / 2) / 2,
    "new_items": (1 / 2 + 1) / 2,
    # the two most popular ones are 0 and 1
    "unexpectedness": (0 + 1 / 2) / 2,
    # the first place is expected of item 0: 1 - 1
    "serendipity": 0.0,
    # the tail is the least popular of three items with an interaction, the first of two equals:
    # item 1
    "tail_share": (1 / 2 + 0) / 2,
    "intra_list_diversity": (1 - 1 / math.sqrt(2) + 1) / 2,
}


@pytest.mark.parametrize("name", LISTED)
def test_a_worked_example_of_lists(name: str) -> None:
    assert value_of(name, LISTS, 2) == pytest.approx(LISTED[name], abs=1e-7)


def test_the_whole_ranking() -> None:
    """Two relevant items of six: above one stands nothing, above the other one irrelevant item and
    two are equal.
    """
    places = RelevantRanks(
        Ragged.from_lists([[0, 2]]), torch.tensor([1, 3]), torch.tensor([0, 1]), torch.tensor([True, True]),
        torch.tensor([6]),
    )  # fmt: skip
    example = replace(ranked([[1, 0, 0, 1, 0, 0]], [2]), relevant_ranks=places)
    assert AUC()(example).tolist() == pytest.approx([(4 + 1 + 2 * 0.5) / 8])
    assert RPrecision()(example).tolist() == [1 / 2]
    lost = replace(example, relevant_ranks=replace(places, reachable=torch.tensor([True, False])))
    assert AUC()(lost).tolist() == pytest.approx([1 / 2])


# -- our metrics against the values that nine libraries computed (``golden/metrics``), where the
# definitions agree

#: lists are padded to this length, so that every cut-off fits
LONGEST = 64
#: libraries that read a full score matrix: the list, then every other item
COMPLETED = {"torchmetrics", "torch-geometric", "recbole"}
HIT, PRECISION, RECALL, F1 = metrics.HitRate(), metrics.Precision(), metrics.Recall(), metrics.F1()
MAP, MRR, NDCG, DCG, R = (
    metrics.MAP(),
    metrics.MRR(),
    metrics.NDCG(),
    metrics.DCG(),
    metrics.RPrecision(),
)
POPULARITY = metrics.AveragePopularity()
USUAL = {"Precision": PRECISION, "Recall": RECALL, "MRR": MRR, "NDCG": NDCG, "MAP": MAP}

#: library -> metric, with the values of parameters that matter -> ours
AGREE: dict[str, dict[str, Metric]] = {
    "cornac": {
        "FMeasure": F1,
        "HitRatio": HIT,
        "NDCG": NDCG,
        "Precision": PRECISION,
        "Recall": RECALL,
    },
    "lenskit": {
        "Hit": HIT,
        "RecipRank": MRR,
        "ListGini": metrics.Gini(),
        "NDCG LogRankWeight(offset=1)": NDCG,
        "NDCG rating LogRankWeight(offset=1)": NDCG,
        "DCG LogRankWeight(offset=1)": DCG,
        "DCG rating LogRankWeight(offset=1)": DCG,
    },
    "ranx": {
        **{
            "hit_rate": HIT,
            "precision": PRECISION,
            "recall": RECALL,
            "f1": F1,
            "mrr": MRR,
            "ndcg": NDCG,
            "dcg": DCG,
        },
        "r-precision": R,
        "ndcg_burges": metrics.NDCG(gain="exponential"),
        "dcg_burges": metrics.DCG(gain="exponential"),
    },
    "recbole": {
        **USUAL,
        "Hit": HIT,
        "AveragePopularity": POPULARITY,
        "TailPercentage 0.2": metrics.TailShare(),
    },
    "recpack": {
        "PrecisionK": PRECISION,
        "RecallK": RECALL,
        "ReciprocalRankK": MRR,
        "NDCGK": NDCG,
        "DCGK": DCG,
    },
    "rectools": {
        **{"HitRate": HIT, "Precision": PRECISION, "Recall": RECALL, "MRR": MRR},
        "F1Beta 1.0": F1,
        "F1Beta 2.0": metrics.F1(beta=2.0),
        "NDCG True": NDCG,
        "CatalogCoverage True": metrics.CatalogueCoverage(),
        "AvgRecPopularity False": POPULARITY,
        "MeanInvUserFreq": metrics.Novelty(),
        "Serendipity": metrics.Serendipity(),
    },
    "replay-rec": {**USUAL, "HitRate": HIT},
    "torch-geometric": {
        **{f"LinkPred{name}": metric for name, metric in USUAL.items()},
        **{"LinkPredHitRatio": HIT, "LinkPredF1": F1, "LinkPredAveragePopularity": POPULARITY},
        **{
            "LinkPredCoverage": metrics.CatalogueCoverage(),
            "LinkPredPersonalization": metrics.Personalization(),
        },
        "LinkPredNDCG True": NDCG,
    },
    "torchmetrics": {
        **{
            "RetrievalHitRate": HIT,
            "RetrievalNormalizedDCG": NDCG,
            "RetrievalNormalizedDCG grades": NDCG,
        },
        "RetrievalRPrecision": R,
    },
}
PARAMETERS = (
    *(
        "gain",
        "weight",
        "rel_lvl",
        "tail_ratio",
        "beta",
        "divide_by_achievable",
        "log_base",
        "weighted",
        "target",
    ),
    *("adaptive_k", "r_precision"),
)
GRADED = {"gain": "rating", "weighted": True, "target": "grades"}


def name_of(record: dict[str, Any]) -> str:
    """The metric, with the values of the parameters that matter."""
    params, names = record["params"], PARAMETERS
    if record["peer"] == "rectools" and record["metric"] in ("CatalogCoverage", "AvgRecPopularity"):
        names = ("normalize",)
    return " ".join([record["metric"], *(str(params[name]) for name in names if name in params)])


class Case:
    """A case, as a library was given it."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw, self.n_items, self.users = raw, int(raw["n_items"]), raw["users"]

    @cached_property
    def facts(self) -> dict[str, Any]:
        counts, train = self.raw.get("popularity"), self.raw.get("train") or {}
        n_users = sum(len(items) > 0 for items in train.values())
        found = None if counts is None else torch.tensor(counts)
        return {"n_items": self.n_items, "counts": found, "n_users": n_users}

    def order(self, record: dict[str, Any], user: str) -> list[int]:
        """The list that the library ranked, best first; of a full matrix, every other item has
        -1/256, -2/256, ...
        """
        data = self.users[user]
        if record["peer"] not in COMPLETED:
            return list(data["recs"])
        scores = dict(zip(data["recs"], data["scores"], strict=True))
        others = [item for item in range(self.n_items) if item not in scores]
        scores |= {item: -(place + 1) / 256 for place, item in enumerate(others)}
        return np.argsort([-scores[item] for item in range(self.n_items)], kind="stable").tolist()

    def ranked(self, record: dict[str, Any], users: list[str]) -> RankedHits:
        orders = [self.order(record, user) for user in users]
        graded = (
            any(record["params"].get(name) == value for name, value in GRADED.items())
            or record["peer"] == "ranx"
        )
        grades = [
            {int(item): float((self.users[user].get("grades") or {}).get(str(item), 1)) if graded else 1.0
             for item in self.users[user]["relevant"]}
            for user in users
        ]  # fmt: skip
        items = Ragged.from_lists(orders).to_padded(fill=-1, width=LONGEST)
        gains = torch.tensor(
            [[own.get(int(i), 0.0) for i in row] for own, row in zip(grades, items, strict=True)]
        )
        ideal = torch.zeros(len(users), LONGEST, dtype=torch.float64)
        for row, own in enumerate(grades):
            ideal[row, : len(own)] = torch.tensor(sorted(own.values(), reverse=True))
        relevant = Ragged.from_lists([sorted(own) for own in grades])
        found = RankedHits(gains > 0, relevant.lengths, items=items, **self.facts)
        return replace(found, gains=gains.double(), ideal_gains=ideal) if graded else found


@pytest.fixture(scope="module")
def golden(shared: Path) -> tuple[dict[str, Case], list[dict[str, Any]]]:
    folder = shared / "golden" / "metrics"
    cases = [Case(raw) for raw in json.loads((folder / "cases_public.json").read_text())["cases"]]
    # test_evaluate.py has equal scores: cases without a list
    cases = [case for case in cases if all("recs" in user for user in case.users.values())]
    return {case.raw["id"]: case for case in cases}, json.loads(
        (folder / "parity_public.json").read_text()
    )


@pytest.mark.parametrize("peer", sorted(AGREE))
def test_a_library_agrees(peer: str, golden: Any) -> None:
    cases, records = golden
    n_compared, wrong = 0, []
    for record in (each for each in records if each["peer"] == peer and each["case"] in cases):
        name, case = name_of(record), cases[record["case"]]
        ours = AGREE[peer].get(name)
        if ours is None:
            continue
        per_user = {user: float(value) for user, value in (record["per_user"] or {}).items()}
        users = [user for user in (per_user if ours.per_user else case.users) if user in case.users]
        if "non-empty" in str(record["params"]):
            users = [user for user in users if case.users[user]["recs"]]
        if not users or (
            peer == "cornac" and record["k"] is None
        ):  # then it divides by the length of the list
            continue
        ranked = case.ranked(record, users)
        values = ours(ranked, record["k"])
        wanted = [per_user[user] for user in users] if ours.per_user else [float(record["mean"])]
        has = (ranked.n_relevant > 0).tolist() if ours.needs_truth else [True] * len(wanted)
        gaps = [
            abs(own - other)
            for own, other, is_compared in zip(
                values.reshape(-1).tolist(), wanted, has, strict=True
            )
            if is_compared and not (np.isnan(own) and np.isnan(other))
        ]
        n_compared += 1
        if gaps and not max(gaps) <= 1e-6:
            wrong.append((name, record["case"], record["k"], max(gaps)))
    assert wrong == []
    assert n_compared > 250
