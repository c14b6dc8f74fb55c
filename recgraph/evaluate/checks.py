"""Checks of a split and of the evaluation on it: leakage of time, duplicates, unknown items, popularity, scorers at
chance."""

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
from recgraph.evaluate.protocol import Seen, Ties
from recgraph.evaluate.ranking import Scorer
from recgraph.rng import numpy_generator

#: how many standard errors a scorer may be away from chance
_SIGMAS = 5.0
#: the share by which popularity may differ, where chance does not explain it
_DRIFT = 0.1


@dataclass(frozen=True)
class Check:
    """One row.

    Attributes:
        status: ``ok``; ``warn``: numbers will not mean what they seem to; ``fail``: something is wrong; ``skipped``.
        value: the number that the status rests on, or None.
        detail: a sentence with the numbers.
    """

    name: str
    status: Literal["ok", "warn", "fail", "skipped"]
    value: float | None
    detail: str


def check_split(split: Split, *, cutoff: int = 10, n_users: int = 2000, seed: int = 0) -> list[Check]:
    """All checks of a split and of the evaluation on it, a row each. Reads the test part.

    Args:
        cutoff: of the recall at chance.
        n_users: test users, at most, that the scorers at chance are evaluated on.
        seed: of the draw of these users and of the random scores.
    """
    return [
        time_leakage(split),
        time_split(split),
        duplicates(split, "valid"),
        duplicates(split, "test"),
        unknown_items(split, "valid"),
        unknown_items(split, "test"),
        popularity(split),
        *chance(split.test, cutoff=cutoff, n_users=n_users, seed=seed),
    ]


def time_leakage(split: Split, name: str = "time leakage") -> Check:
    """How many test interactions precede training interactions of anyone.

    A model that is fitted on what came later knows trends that it could not have known (Ji et al., TOIS 2023). Under
    leave-one-out that is so for nearly every test interaction.
    """
    times = split.interactions.ordered.times
    if times is None:
        return Check(name, "skipped", None, "the log has no timestamps")
    labels = split.labels
    tested, fitted = times[labels == int(Label.TEST)], times[labels == int(Label.TRAIN)].sort().values
    if not len(tested) or not len(fitted):
        return Check(name, "skipped", None, "the test or the training part is empty")
    later = len(fitted) - torch.searchsorted(fitted, tested, right=True)
    share, median = float((later > 0).double().mean()), float(later.double().median()) / len(fitted)
    detail = (
        f"{int((later > 0).sum()):,} of {len(tested):,} test interactions precede a training interaction of anyone; "
        f"at the median {median:.1%} of the training part lies after a test interaction"
    )
    return Check(name, "warn" if share > 0 else "ok", share, detail)


def time_split(split: Split) -> Check:
    """What one cut of time for all users would give instead."""
    name = "split by time"
    if split.interactions.ordered.times is None:
        return Check(name, "skipped", None, "the log has no timestamps")
    try:
        other = Split.of(split.interactions, "time")
        cases = len(other.test)
    except ValueError as error:
        return Check(name, "skipped", None, f"it cannot be made: {error}")
    value = time_leakage(other).value
    if not cases or value is None:
        return Check(name, "skipped", None, f"it would leave {cases:,} test users instead of {len(split.test):,}")
    detail = f"{cases:,} test users instead of {len(split.test):,}, and {value:.1%} of test interactions leak"
    return Check(name, "ok" if value == 0 else "fail", value, detail)


def duplicates(split: Split, part: Literal["valid", "test"]) -> Check:
    """How many relevant items of a part are in the history of their user."""
    cases = _cases(split, part)
    keys = torch.unique(cases.truth.rows * cases.n_items + cases.truth.values)
    known = torch.isin(keys, cases.history.rows * cases.n_items + cases.history.values)
    twice = int(known.sum())
    detail = f"{twice:,} of {len(keys):,} relevant items are in their user's history, misses if excluded"
    return Check(f"duplicates in {part}", "warn" if twice else "ok", float(twice), detail)


def unknown_items(split: Split, part: Literal["valid", "test"]) -> Check:
    """How many items of a part occur nowhere in what the model is fitted on."""
    cases = _cases(split, part)
    fitted = split.fit_part("train" if part == "valid" else "train+valid")
    cold = fitted.item_counts()[cases.truth.values] == 0
    n_items, n_users = (int(torch.unique(of[cold]).numel()) for of in (cases.truth.values, cases.truth.rows))
    detail = (
        f"{n_items:,} items occur only in {part}: {int(cold.sum()):,} of {len(cold):,} relevant items, of {n_users:,} "
        f"users; a model without item features cannot find them"
    )
    return Check(f"items only in {part}", "warn" if n_items else "ok", float(n_items), detail)


def popularity(split: Split) -> Check:
    """Whether valid and test ask for equally popular items: or else the best settings differ between them.

    Compared are training interactions of an item, in the mean over users of the means of their items.
    """
    name = "popularity in valid and test"
    counts = split.fit_part("train").item_counts().double()
    valid, test = (_means_of_users(_cases(split, part), counts) for part in ("valid", "test"))
    if min(len(valid), len(test)) < 2:
        return Check(name, "skipped", None, "valid or test has fewer than two users")
    own, other = float(valid.mean()), float(test.mean())
    error = _SIGMAS * float((valid.var() / len(valid) + test.var() / len(test)).sqrt())
    drifts = abs(other - own) > max(error, _DRIFT * own)
    detail = (
        f"an item of test has {other:.1f} training interactions in the mean, one of valid {own:.1f} (within "
        f"{error:.2g} allowed){'; settings that valid chose may not be the best on test' if drifts else ''}"
    )
    return Check(name, "warn" if drifts else "ok", other / own if own else None, detail)


def _means_of_users(cases: Cases, of_items: Tensor) -> Tensor:
    """The mean of a value of items over the relevant ones of each user that has any."""
    sums = torch.zeros(len(cases), dtype=of_items.dtype).index_add_(0, cases.truth.rows, of_items[cases.truth.values])
    lengths = torch.bincount(cases.truth.rows, minlength=len(cases))
    return (sums / lengths)[lengths > 0]


def chance(cases: Cases, *, cutoff: int = 10, n_users: int = 2000, seed: int = 0) -> list[Check]:
    """Whether a constant and a random scorer have the recall that chance gives, seen items kept and excluded."""
    if not len(cases):
        return [Check("scorers at chance", "skipped", None, "the part has no user to evaluate")]
    if len(cases) > n_users:
        drawn = numpy_generator(seed, "checks").permutation(len(cases))[:n_users]
        cases = cases.take(torch.from_numpy(np.sort(drawn)))
    rows = []
    seen: Seen
    for seen in ("keep", "exclude"):
        expected = _recall_at_chance(cases, cutoff, seen == "exclude")
        exact = _recall(_Constant(cases.n_items), cases, cutoff, seen, "expectation")
        rows.append(_at(f"constant scorer, expectation, seen {seen}", exact, expected, 1e-9))
        found = _recall(_Random(cases.n_items, seed), cases, cutoff, seen, "seeded permutation")
        # a rare hit may not be among few users: then the deviation is that of a single one of them
        deviation = max(float((found - expected).std()), 1 / np.sqrt(len(cases)))
        rows.append(_at(f"random scorer, seen {seen}", found, expected, _SIGMAS * deviation / np.sqrt(len(cases))))
    return rows


class _Constant(Scorer):
    def __init__(self, n_items: int) -> None:
        self.n_items = n_items

    def score(self, query: Query) -> Tensor:
        return torch.zeros(len(query), self.n_items)


class _Random(_Constant):
    def __init__(self, n_items: int, seed: int) -> None:
        super().__init__(n_items)
        self.seed = seed

    def score(self, query: Query) -> Tensor:
        rows = [
            numpy_generator(self.seed, "random scorer", user).random(self.n_items, dtype=np.float32)
            for user in query.users.tolist()
        ]
        return torch.from_numpy(np.stack(rows))


def _cases(split: Split, part: Literal["valid", "test"]) -> Cases:
    return split.valid if part == "valid" else split.test


def _recall(model: _Constant, cases: Cases, k: int, seen: Seen, ties: Ties) -> np.ndarray:
    """[U]."""
    (result,) = evaluate(model, cases, seen=(seen,), ties=ties, cutoffs=(k,), metrics=("recall",))
    return result.per_user[f"recall@{k}"]


def _recall_at_chance(cases: Cases, k: int, exclude: bool) -> np.ndarray:
    """[U] float64: the share of the relevant items that are candidates, times the list length over the candidates."""
    truth = torch.unique(cases.truth.rows * cases.n_items + cases.truth.values)
    n_relevant = torch.bincount(truth // cases.n_items, minlength=len(cases)).double()
    n_candidates = torch.full((len(cases),), float(cases.n_items), dtype=torch.float64)
    if exclude:
        known = torch.unique(cases.history.rows * cases.n_items + cases.history.values)
        n_candidates = n_candidates - torch.bincount(known // cases.n_items, minlength=len(cases))
        truth = truth[~torch.isin(truth, known)]
    reachable = torch.bincount(truth // cases.n_items, minlength=len(cases)).double()
    values: np.ndarray = (reachable / n_relevant * (k / n_candidates).clamp(max=1)).numpy()
    return values


def _at(name: str, values: np.ndarray, at_chance: np.ndarray, error: float) -> Check:
    value, expected = float(values.mean()), float(at_chance.mean())
    detail = f"recall {value:.5f}, at chance {expected:.5f} (within {error:.2g} allowed)"
    return Check(name, "ok" if abs(value - expected) <= error else "fail", value - expected, detail)
