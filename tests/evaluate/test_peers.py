"""Our metrics against the values that nine libraries computed (``golden/metrics``), where the definitions agree.

``AGREE`` maps a library's metric, with its parameters, to ours; what libraries do otherwise stands in
``docs/metrics.md``. Compared are the values of users with relevant items: libraries count others as 0, as nothing, or
not at all.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recgraph.evaluate import metrics
from recgraph.evaluate.metrics import Metric, RankedHits, expected_hits
from recgraph.evaluate.topk import Catalogue, rank_relevant
from recgraph.sparse.ragged import Ragged

#: lists are padded to this length, so that every cut-off fits
LONGEST = 64
#: libraries that read a full score matrix: the list, then every other item
COMPLETED = {"torchmetrics", "torch-geometric", "recbole"}
HIT, PRECISION, RECALL, F1 = metrics.HitRate(), metrics.Precision(), metrics.Recall(), metrics.F1()
MAP, MRR, NDCG, DCG, R = metrics.MAP(), metrics.MRR(), metrics.NDCG(), metrics.DCG(), metrics.RPrecision()
POPULARITY = metrics.AveragePopularity()
USUAL = {"Precision": PRECISION, "Recall": RECALL, "MRR": MRR, "NDCG": NDCG, "MAP": MAP}

#: library -> metric, with the values of parameters that matter -> ours
AGREE: dict[str, dict[str, Metric]] = {
    "cornac": {"FMeasure": F1, "HitRatio": HIT, "NDCG": NDCG, "Precision": PRECISION, "Recall": RECALL},
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
        **{"hit_rate": HIT, "precision": PRECISION, "recall": RECALL, "f1": F1, "mrr": MRR, "ndcg": NDCG, "dcg": DCG},
        "r-precision": R,
        "ndcg_burges": metrics.NDCG(gain="exponential"),
        "dcg_burges": metrics.DCG(gain="exponential"),
    },
    "recbole": {**USUAL, "Hit": HIT, "AveragePopularity": POPULARITY, "TailPercentage 0.2": metrics.TailShare()},
    "recpack": {"PrecisionK": PRECISION, "RecallK": RECALL, "ReciprocalRankK": MRR, "NDCGK": NDCG, "DCGK": DCG},
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
        **{"LinkPredCoverage": metrics.CatalogueCoverage(), "LinkPredPersonalization": metrics.Personalization()},
        "LinkPredNDCG True": NDCG,
    },
    "torchmetrics": {
        **{"RetrievalHitRate": HIT, "RetrievalNormalizedDCG": NDCG, "RetrievalNormalizedDCG grades": NDCG},
        "RetrievalRPrecision": R,
    },
}
PARAMETERS = (
    *("gain", "weight", "rel_lvl", "tail_ratio", "beta", "divide_by_achievable", "log_base", "weighted", "target"),
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

    def full_scores(self, user: str) -> list[float]:
        """A score for every item: those of the list, then -1/256, -2/256, ... by item."""
        data = self.users[user]
        if "all_scores" in data:
            return list(data["all_scores"])
        scores = dict(zip(data["recs"], data["scores"], strict=True))
        others = [item for item in range(self.n_items) if item not in scores]
        scores |= {item: -(place + 1) / 256 for place, item in enumerate(others)}
        return [scores[item] for item in range(self.n_items)]

    def order(self, record: dict[str, Any], user: str) -> list[int] | None:
        """The list that the library ranked, best first; None where equal scores had another order, not recorded."""
        if "all_scores" in self.users[user]:
            same = [own for own in self.raw["peer_orders"] if own["peer"] == record["peer"]]
            return list(same[0]["order"][user]) if len(same) == 1 and user in same[0]["order"] else None
        if record["peer"] in COMPLETED:
            return np.argsort(-np.array(self.full_scores(user)), kind="stable").tolist()
        return list(self.users[user]["recs"])

    def ranked(self, record: dict[str, Any], users: list[str]) -> RankedHits | None:
        orders = [self.order(record, user) for user in users]
        expected = record["metric"] == "RetrievalNormalizedDCG"
        if not expected and any(order is None for order in orders):
            return None
        graded = any(record["params"].get(name) == value for name, value in GRADED.items())
        graded |= record["peer"] == "ranx" and "all_scores" not in next(iter(self.users.values()))
        grades = [
            {int(item): float((self.users[user].get("grades") or {}).get(str(item), 1)) if graded else 1.0
             for item in self.users[user]["relevant"]}
            for user in users
        ]  # fmt: skip
        items = Ragged.from_lists([order or [] for order in orders]).to_padded(fill=-1, width=LONGEST)
        gains = torch.tensor([[own.get(int(i), 0.0) for i in row] for own, row in zip(grades, items, strict=True)])
        ideal = torch.zeros(len(users), LONGEST, dtype=torch.float64)
        for row, own in enumerate(grades):
            ideal[row, : len(own)] = torch.tensor(sorted(own.values(), reverse=True))
        relevant = Ragged.from_lists([sorted(own) for own in grades])
        found = RankedHits(gains > 0, relevant.lengths, items=items, **self.facts)
        if graded:
            found = replace(found, gains=gains.double(), ideal_gains=ideal)
        if not expected:
            return found
        scores = torch.tensor([self.full_scores(user) for user in users], dtype=torch.float64)
        ranks = rank_relevant(Catalogue(self.n_items, 1), scores, relevant, None, ("keep",))["keep"]
        of_items = torch.tensor([own[item] for own in grades for item in sorted(own)], dtype=torch.float64)
        hits, expected_gains, ties = expected_hits(ranks, LONGEST, of_items if graded else None)
        return replace(found, hits=hits, gains=expected_gains, ties=ties)


@pytest.fixture(scope="module")
def golden(shared: Path) -> tuple[dict[str, Case], list[dict[str, Any]]]:
    folder = shared / "golden" / "metrics"
    cases = {raw["id"]: Case(raw) for raw in json.loads((folder / "cases_public.json").read_text())["cases"]}
    return cases, json.loads((folder / "parity_public.json").read_text())


@pytest.mark.parametrize("peer", sorted(AGREE))
def test_a_library_agrees(peer: str, golden: Any) -> None:
    cases, records = golden
    n_compared, wrong = 0, []
    for record in (each for each in records if each["peer"] == peer):
        name, case = name_of(record), cases[record["case"]]
        ours = AGREE[peer].get(name)
        if ours is None:
            continue
        per_user = {user: float(value) for user, value in (record["per_user"] or {}).items()}
        users = [user for user in (per_user if ours.per_user else case.users) if user in case.users]
        if "non-empty" in str(record["params"]):
            users = [user for user in users if case.users[user]["recs"]]
        ranked = case.ranked(record, users) if users else None
        if ranked is None or (peer == "cornac" and record["k"] is None):  # then it divides by the length of the list
            continue
        values = ours(ranked, record["k"])
        wanted = [per_user[user] for user in users] if ours.per_user else [float(record["mean"])]
        has = (ranked.n_relevant > 0).tolist() if ours.needs_truth else [True] * len(wanted)
        gaps = [
            abs(own - other)
            for own, other, is_compared in zip(values.reshape(-1).tolist(), wanted, has, strict=True)
            if is_compared and not (np.isnan(own) and np.isnan(other))
        ]
        n_compared += 1
        if gaps and not max(gaps) <= 1e-6:
            wrong.append((name, record["case"], record["k"], max(gaps)))
    assert wrong == []
    assert n_compared > 250
