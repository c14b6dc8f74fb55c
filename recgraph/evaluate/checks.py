"""Checks of a split and of the evaluation on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from recgraph.data.batches import Query
from recgraph.data.part import Cases
from recgraph.data.split import Split
from recgraph.data.strategies import Label
from recgraph.evaluate.evaluator import evaluate
from recgraph.evaluate.ranking import Scorer
from recgraph.rng import numpy_generator

#: standard errors within which chance explains a difference
_SIGMAS = 5.0
#: the share by which popularity may differ, where chance does not explain it
_DRIFT = 0.1


Status = Literal["ok", "warn", "fail", "skipped"]


@dataclass(frozen=True)
class Check:
    """One row: ``value`` is the number that the status rests on, ``detail`` a sentence with the numbers. ``warn`` says
    that numbers do not mean what they seem to, ``fail`` that something is wrong."""

    name: str
    status: Status
    value: float | None
    detail: str


def check_split(split: Split, *, cutoff: int = 10, n_users: int = 2000, seed: int = 0) -> list[Check]:
    """All checks of a split and of the evaluation on it, a row each. Reads the test part.

    The recall at chance is that at ``cutoff``, of at most ``n_users`` test users, drawn by ``seed``.
    """
    parts = {"valid": split.valid, "test": split.test}
    fitted = {"valid": split.fit_part("train").item_counts(), "test": split.fit_part("train+valid").item_counts()}
    return [
        time_leakage(split),
        time_split(split),
        *(duplicates(cases, name) for name, cases in parts.items()),
        *(unknown_items(cases, fitted[name], name) for name, cases in parts.items()),
        popularity(split.valid, split.test, fitted["valid"]),
        *chance(split.test, cutoff=cutoff, n_users=n_users, seed=seed),
    ]


def time_leakage(split: Split) -> Check:
    """How many test interactions precede training interactions of anyone: a model that is fitted on what came later
    knows trends that it could not have known (Ji et al., TOIS 2023)."""
    times, labels = split.interactions.ordered.times, split.labels
    if times is None:
        return Check("time leakage", "warn", None, "the log has no times: each user's order is that of the rows")
    tested, fitted = times[labels == int(Label.TEST)], times[labels == int(Label.TRAIN)].sort().values
    if not len(tested) or not len(fitted):
        return Check("time leakage", "skipped", None, "the test or the training part is empty")
    later = len(fitted) - torch.searchsorted(fitted, tested, right=True)
    share, median = float((later > 0).double().mean()), float(later.double().median()) / len(fitted)
    detail = (
        f"{int((later > 0).sum()):,} of {len(tested):,} test interactions precede a training interaction of anyone; "
        f"at the median {median:.1%} of the training part lies after a test interaction"
    )
    return Check("time leakage", "warn" if share > 0 else "ok", share, detail)


def time_split(split: Split) -> Check:
    """What one cut of time for all users would give instead."""
    name = "split by time"
    try:
        other = Split.of(split.interactions, "time")
        n_users, value = len(other.test), time_leakage(other).value
    except ValueError as error:
        return Check(name, "skipped", None, f"it cannot be made: {error}")
    if not n_users or value is None:
        return Check(name, "skipped", None, f"it would leave {n_users:,} test users instead of {len(split.test):,}")
    detail = f"{n_users:,} test users instead of {len(split.test):,}, and {value:.1%} of test interactions leak"
    return Check(name, "ok" if value == 0 else "fail", value, detail)


def duplicates(cases: Cases, part: str) -> Check:
    """How many relevant items of a part are in the history of their user."""
    keys = _distinct(cases.truth.rows, cases.truth.values, cases)
    twice = int(torch.isin(keys, _distinct(cases.history.rows, cases.history.values, cases)).sum())
    detail = f"{twice:,} of {len(keys):,} relevant items are in their user's history, misses if excluded"
    return Check(f"duplicates in {part}", "warn" if twice else "ok", float(twice), detail)


def _distinct(rows: Tensor, items: Tensor, cases: Cases) -> Tensor:
    keys: Tensor = torch.unique(rows * cases.n_items + items)
    return keys


def unknown_items(cases: Cases, fitted: Tensor, part: str) -> Check:
    """How many items of a part occur nowhere in what the model is fitted on, by ``fitted`` [n_items] counts."""
    cold = fitted[cases.truth.values] == 0
    n_items, n_users = (int(torch.unique(of[cold]).numel()) for of in (cases.truth.values, cases.truth.rows))
    detail = (
        f"{n_items:,} items occur only in {part}: {int(cold.sum()):,} of {len(cold):,} relevant items, of {n_users:,} "
        f"users; a model without item features cannot find them"
    )
    return Check(f"items only in {part}", "warn" if n_items else "ok", float(n_items), detail)


def popularity(valid: Cases, test: Cases, counts: Tensor) -> Check:
    """Whether valid and test ask for equally popular items, by training interactions ``counts`` [n_items] in the mean
    over users of the means of their relevant items: or else the best settings differ between them."""
    name, of_parts = "popularity in valid and test", []
    for cases in (valid, test):
        popularities = counts[cases.truth.values].double()
        sums = torch.zeros(len(cases), dtype=torch.float64).index_add_(0, cases.truth.rows, popularities)
        lengths = cases.truth.lengths
        of_parts.append((sums / lengths)[lengths > 0])
    if min(map(len, of_parts)) < 2:
        return Check(name, "skipped", None, "valid or test has fewer than two users")
    own, other = (float(means.mean()) for means in of_parts)
    error = _SIGMAS * sum(float(means.var()) / len(means) for means in of_parts) ** 0.5
    drifts = abs(other - own) > max(error, _DRIFT * own)
    detail = (
        f"an item of test has {other:.1f} training interactions in the mean, one of valid {own:.1f} (within "
        f"{error:.2g} allowed){'; settings that valid chose may not be the best on test' if drifts else ''}"
    )
    return Check(name, "warn" if drifts else "ok", other / own if own else None, detail)


def chance(cases: Cases, *, cutoff: int = 10, n_users: int = 2000, seed: int = 0) -> list[Check]:
    """Whether a scorer to which all items are equal has the recall that chance gives, seen items kept and excluded."""
    if not len(cases):
        return [Check("constant scorer", "skipped", None, "the part has no user to evaluate")]
    if len(cases) > n_users:
        drawn = numpy_generator(seed, "checks").permutation(len(cases))[:n_users]
        cases = cases.take(torch.from_numpy(np.sort(drawn)))
    rows, metric = [], f"recall@{cutoff}"
    for found in evaluate(Constant(cases.n_items), cases, ties="expectation", metrics=(metric,)):
        expected = float(_recall_at_chance(cases, cutoff, found.protocol.seen == "exclude").mean())
        status: Status = "ok" if abs(found[metric] - expected) <= 1e-9 else "fail"
        detail = f"recall {found[metric]:.5f}, at chance {expected:.5f}"
        rows.append(Check(f"constant scorer, seen {found.protocol.seen}", status, found[metric] - expected, detail))
    return rows


@dataclass(frozen=True)
class Constant(Scorer):
    """Scores all items alike."""

    n_items: int

    def score(self, query: Query) -> Tensor:
        return torch.zeros(len(query), self.n_items)


def _recall_at_chance(cases: Cases, k: int, exclude: bool) -> np.ndarray:
    """[U] float64: the share of the relevant items that are candidates, times the list length over the candidates."""

    def counts(keys: Tensor) -> Tensor:
        return torch.bincount(keys // cases.n_items, minlength=len(cases)).double()

    truth = _distinct(cases.truth.rows, cases.truth.values, cases)
    n_relevant, n_candidates = counts(truth), torch.full((len(cases),), float(cases.n_items), dtype=torch.float64)
    if exclude:
        known = _distinct(cases.history.rows, cases.history.values, cases)
        n_candidates = n_candidates - counts(known)
        truth = truth[~torch.isin(truth, known)]
    values: np.ndarray = (counts(truth) / n_relevant * (k / n_candidates).clamp(max=1)).numpy()
    return values
