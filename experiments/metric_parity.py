"""Our metrics under each convention against the values that nine libraries computed.

The cases and the recorded values lie in the shared folder (``golden/metrics``). Every record is one metric of one
library on one case at one cut-off, with the values of its users and the mean. A record whose metric has a counterpart
is recomputed; the others are counted, with the reason.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.metric_names import CONVENTION_OF, LEFT_OUT, OPTIONS, OURS
from recgraph import registry
from recgraph.evaluate.hits import expected_hits
from recgraph.evaluate.metrics.base import Facts, Metric, RankedHits, RelevantRanks
from recgraph.evaluate.ranks import rank_relevant
from recgraph.evaluate.topk import Catalogue
from recgraph.sparse.ragged import Ragged

TOLERANCE = 1e-6
#: lists are padded to this length, so that every cut-off fits
LONGEST = 64

#: libraries and metrics that read a full score matrix: the list, then every other item
COMPLETED = {"torchmetrics", "torch-geometric", "recbole"}
GRADED = {"gain": "rating", "weighted": True, "target": "grades"}
#: metrics of torchmetrics that sort in another way than topk(k)
ARGSORT = {"RetrievalRPrecision", "RetrievalRecall", "RetrievalHitRate"}


@dataclass(frozen=True)
class View:
    """What a peer was given for a case."""

    users: list[str]
    lists: list[list[int]]
    scores: list[list[float]] | None
    relevant: list[list[int]]
    grades: list[list[float]] | None


class Case:
    """A case, and the views of it."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw, self.n_items = raw, int(raw["n_items"])
        self.users: dict[str, dict[str, Any]] = raw["users"]
        self.train: dict[str, list[int]] = raw.get("train") or {}
        self.made: dict[tuple[Any, ...], RankedHits] = {}

    @cached_property
    def facts(self) -> Facts:
        features, counts = self.raw.get("features"), self.raw.get("popularity")
        return Facts(
            self.n_items,
            None if counts is None else torch.tensor(counts),
            sum(len(items) > 0 for items in self.train.values()),
            None if features is None else torch.tensor(features),
        )

    def full_scores(self, user: str) -> list[float]:
        """A score for every item: those of the list, then -1/256, -2/256, ... by item."""
        data = self.users[user]
        if "all_scores" in data:
            return list(data["all_scores"])
        scores: list[float | None] = [None] * self.n_items
        for item, score in zip(data["recs"], data["scores"], strict=True):
            scores[item] = score
        rest = iter(range(1, self.n_items + 1))
        return [-next(rest) / 256 if score is None else score for score in scores]

    def order(self, record: dict[str, Any], user: str) -> list[int]:
        """The list that the peer ranked, best first."""
        peer = record["peer"]
        if "all_scores" in self.users[user]:
            return list(self._peer_order(record).get(user, []))
        if peer in COMPLETED:
            return np.argsort(-np.array(self.full_scores(user)), kind="stable").tolist()
        return list(self.users[user]["recs"])

    def _peer_order(self, record: dict[str, Any]) -> dict[str, list[int]]:
        peer, k = record["peer"], record["k"]
        for own in self.raw["peer_orders"]:
            fits = {
                "replay-rec": own["op"] == f"input={record['params'].get('input')}",
                "torchmetrics": own["op"].startswith("torch.argsort") == (record["metric"] in ARGSORT)
                and (record["metric"] in ARGSORT or own["k"] == k),
                "cornac": own["op"].endswith("k=-1)") == (k is None),
                "recpack": own["k"] == k,
            }
            if own["peer"] == peer and fits.get(peer, True):
                order: dict[str, list[int]] = own["order"]
                return order
        raise ValueError(f"no order of {peer} for {self.raw['id']} at {k}")

    def ranked(self, record: dict[str, Any], users: list[str], metric: Metric) -> RankedHits:
        """The case as our metrics see it, made once for all records that were given the same."""
        expected = record["metric"] == "RetrievalNormalizedDCG"
        places = "relevant_ranks" in metric.needs or expected
        view = self.view(record, users)
        key = (*map(repr, (view.users, view.lists, view.relevant, view.grades)), places, expected)
        if key not in self.made:
            ranked = ranked_hits(self, view, places)
            self.made[key] = over_ties(ranked, view) if expected else ranked
        return self.made[key]

    def view(self, record: dict[str, Any], users: list[str]) -> View:
        graded = any(record["params"].get(name) == value for name, value in GRADED.items()) or (
            record["peer"] == "ranx" and "all_scores" not in next(iter(self.users.values()))
        )
        least = record["params"].get("rel_lvl", 0)
        lists, scores, relevant, grades = [], [], [], []
        for user in users:
            data = self.users.get(user, {"recs": [], "relevant": []})
            lists.append(self.order(record, user) if user in self.users else [])
            every = self.full_scores(user) if user in self.users else []
            scores.append([every[item] for item in lists[-1]])
            own = [int(item) for item in data["relevant"]]
            own_grades = [float((data.get("grades") or {}).get(str(item), 1)) for item in own]
            kept = [place for place, grade in enumerate(own_grades) if not graded or grade >= least]
            relevant.append([own[place] for place in kept])
            grades.append([own_grades[place] for place in kept])
        return View(users, lists, scores, relevant, grades if graded else None)


def ranked_hits(case: Case, view: View, places: bool) -> RankedHits:
    """The view as our metrics see it."""
    lists, relevant = Ragged.from_lists(view.lists), Ragged.from_lists(view.relevant)
    items = lists.to_padded(fill=-1, width=LONGEST)
    hits, gains = torch.zeros(items.shape, dtype=torch.bool), torch.zeros(items.shape, dtype=torch.float64)
    ideal = torch.zeros_like(gains)
    for row, (own, grades) in enumerate(zip(view.relevant, view.grades or view.relevant, strict=True)):
        for item, grade in zip(own, grades, strict=True):
            hits[row] |= items[row] == item
            gains[row] += (items[row] == item) * grade
        ideal[row, : len(own)] = torch.tensor(sorted(grades, reverse=True), dtype=torch.float64)
    scores = torch.full(items.shape, -torch.inf, dtype=torch.float64)
    for row, values in enumerate(view.scores or []):
        scores[row, : len(values)] = torch.tensor(values, dtype=torch.float64)
    known = [set(case.train.get(user, [])) for user in view.users]
    ranked = RankedHits(
        hits,
        relevant.lengths,
        lengths=lists.lengths,
        items=items,
        scores=scores,
        known=torch.tensor([[int(item) in own for item in row] for own, row in zip(known, items, strict=True)]),
        trained=torch.tensor([len(own) > 0 for own in known]),
        relevant=relevant,
        facts=case.facts,
    )
    if view.grades is not None:
        ranked = replace(ranked, gains=gains, ideal_gains=ideal, total_gain=ideal.sum(1))
    return replace(ranked, relevant_ranks=all_ranks(case, view, relevant)) if places else ranked


def all_ranks(case: Case, view: View, relevant: Ragged) -> RelevantRanks:
    scores = torch.tensor([case.full_scores(user) for user in view.users], dtype=torch.float64)
    return rank_relevant(Catalogue(case.n_items, 1), scores, relevant, None, ("keep",))["keep"]


def over_ties(ranked: RankedHits, view: View) -> RankedHits:
    """The same in expectation over the orders of equal scores."""
    assert ranked.relevant_ranks is not None
    grades = None if view.grades is None else torch.tensor([g for row in view.grades for g in row]).double()
    hits, gains, ties = expected_hits(ranked.relevant_ranks, LONGEST, grades)
    return replace(ranked, hits=hits, gains=gains, ties=ties)


def metric_of(record: dict[str, Any]) -> Metric | str:
    """Our counterpart of a record's metric, or the reason why there is none."""
    name = record["metric"]
    if name not in OURS:
        return f"{name}: {LEFT_OUT[name]}"
    options: dict[str, Any] = {}
    said = [f"{key}={value}" for key, value in record["params"].items()]
    for key in (name, *said, *(f"{name} {part}" for part in said), f"{record['peer']} {name} k={record['k']}"):
        options |= OPTIONS.get(key, {})
    metric: Metric = registry.load("metric", OURS[name])(convention=CONVENTION_OF[record["peer"]], **options)
    return metric


def users_of(record: dict[str, Any], case: Case) -> list[str]:
    """Whom the peer was given."""
    peer, params = record["peer"], record["params"]
    users = list(case.users)
    if record["metric"] == "Novelty":
        return sorted({*users, *case.train}) if params["train"] == "all train users" else users
    if "non-empty" in str(params):
        return [user for user in users if case.users[user]["recs"]]
    wanted = peer in ("recbole", "ranx") or params.get("input") == "pandas"
    wanted = wanted or params.get("empty_target_action") == "skip"
    return [user for user in users if case.users[user]["relevant"]] if wanted else users


def error_of(record: dict[str, Any], case: Case, metric: Metric) -> float:
    """The greatest absolute difference of a record's values from ours; inf where a value is on one side alone."""
    users = users_of(record, case)
    if record["peer"] == "lenskit" and record["per_user"] is not None:
        users = [user for user in users if user in record["per_user"]]
    ranked = case.ranked(record, users, metric)
    values = metric(ranked, record["k"])
    errors = [0.0]
    if record["per_user"] is not None:
        theirs = {user: float(value) for user, value in record["per_user"].items()}
        errors += [_gap(own, theirs.pop(user, float("nan"))) for user, own in zip(users, values.tolist(), strict=True)]
        if theirs:
            return float("inf")
    if record["mean"] is not None:
        errors.append(_gap(metric.mean(values, ranked), float(record["mean"])))
    return max(errors)


def _gap(own: float, other: float) -> float:
    if np.isnan(own) or np.isnan(other):
        return 0.0 if np.isnan(own) and np.isnan(other) else float("inf")
    return abs(own - other)


def metric_parity(
    folder: Path, report: Callable[[dict[str, Any], float], None] | None = None
) -> Iterator[dict[str, Any]]:
    """A line for each peer.

    Args:
        folder: with ``cases_public.json`` and ``parity_public.json``.
        report: called with every record that disagrees and its error.
    """
    cases = {raw["id"]: Case(raw) for raw in json.loads((folder / "cases_public.json").read_text())["cases"]}
    records = json.loads((folder / "parity_public.json").read_text())
    for peer in CONVENTION_OF:
        worst, compared, left_out = 0.0, 0, Counter[str]()
        for record in (record for record in records if record["peer"] == peer):
            metric = metric_of(record)
            if isinstance(metric, str):
                left_out[metric] += 1
                continue
            error = error_of(record, cases[record["case"]], metric)
            worst, compared = max(worst, error), compared + 1
            if error > TOLERANCE and report is not None:
                report(record, error)
        yield {
            "name": f"metrics_{CONVENTION_OF[peer]}",
            "worst_absolute_error": worst,
            "n_records": compared,
            "n_left_out": sum(left_out.values()),
            "left_out": dict(left_out),
            "ok": worst <= TOLERANCE and compared > 0,
        }
