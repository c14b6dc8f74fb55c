"""Checks of a split and of the evaluation on it: leakage of time, duplicates, unknown items, popularity, scorers at
chance."""

from __future__ import annotations

from collections.abc import Sequence
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
from recgraph.evaluate.protocol import Protocol
from recgraph.evaluate.ranking import Scorer
from recgraph.evaluate.results import Result, comparable
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


def chance(cases: Cases, *, cutoff: int = 10, n_users: int = 2000, n_seeds: int = 10, seed: int = 0) -> list[Check]:
    """Whether a constant and a random scorer have the recall that chance gives, seen items kept and excluded."""
    if not len(cases):
        return [Check("scorers at chance", "skipped", None, "the part has no user to evaluate")]
    some = _some(cases, n_users, seed)
    constant = _Constant(cases.n_items)
    rows = []
    for seen in ("keep", "exclude"):
        expected = _recall_at_chance(some, cutoff, seen == "exclude")
        mean = float(expected.mean())
        exact = Protocol.of(seen=seen, ties="expectation", cutoffs=(cutoff,))
        value = _recall(constant, some, exact)
        rows.append(_at(f"constant scorer, expectation, seen {seen}", value, mean, 1e-9))
        drawn = np.array(
            [_recall(constant, some, Protocol.of(seen=seen, tie_seed=one, cutoffs=(cutoff,))) for one in range(n_seeds)]
        )
        # where hits are rare, none of the draws may have one
        deviation = max(float(drawn.std(ddof=1)), _deviation_of_draw(some, cutoff, seen == "exclude"))
        error = _SIGMAS * deviation / np.sqrt(n_seeds) + 1e-9
        rows.append(_at(f"constant scorer, permutation, seen {seen}", float(drawn.mean()), mean, error))
        protocol = Protocol.of(seen=seen, cutoffs=(cutoff,))
        result = evaluate(_Random(cases.n_items, seed), some, protocols=[protocol], metrics=["recall"])[0]
        gap = result.per_user[f"recall@{cutoff}"] - expected
        # a rare hit may not be among few users: then the deviation is that of a single one of them
        error = _SIGMAS * max(float(gap.std()), 1 / np.sqrt(len(gap))) / np.sqrt(len(gap))
        value = float(result[f"recall@{cutoff}"])
        rows.append(_at(f"random scorer, seen {seen}", value, mean, error))
    return rows


@dataclass(frozen=True)
class SeedVariance:
    """A metric over the seeds of a model."""

    metric: str
    n_seeds: int
    mean: float
    deviation: float
    low: float
    high: float


def seed_variance(results: Sequence[Result]) -> list[SeedVariance]:
    """How much each metric differs between seeds, a row each.

    Raises:
        ProtocolMismatch: the numbers were made in different ways.
        ValueError: fewer than two results.
    """
    if len(results) < 2:
        raise ValueError(f"there are {len(results)} results; give those of at least two seeds")
    shared = [comparable(results[0], result) for result in results]
    rows = []
    for metric in results[0].metrics:
        if not all(metric in own for own in shared):
            continue
        values = np.array([result[metric] for result in results])
        spread = float(values.std(ddof=1))
        rows.append(
            SeedVariance(metric, len(values), float(values.mean()), spread, float(values.min()), float(values.max()))
        )
    return rows


def seeds(results: Sequence[Result], title: str = "") -> list[Check]:
    """The rows of :func:`seed_variance`, for results of one model's seeds.

    Args:
        title: of the results, e.g. ``"seen kept"``.
    """
    name = f"seeds{title and f', {title}'}"
    if len(results) < 2:
        return [Check(name, "skipped", None, "there is one run; give those of other seeds, too")]
    return [
        Check(
            f"{name}, {row.metric}",
            "ok",
            row.deviation,
            f"mean {row.mean:.5f}, deviation {row.deviation:.5f} over {row.n_seeds} runs, "
            f"{row.low:.5f} to {row.high:.5f}",
        )
        for row in seed_variance(results)
    ]


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


def _some(cases: Cases, n: int, seed: int) -> Cases:
    if len(cases) <= n:
        return cases
    rows = torch.from_numpy(np.sort(numpy_generator(seed, "checks").permutation(len(cases))[:n]))
    return cases.take(rows)


def _recall(model: _Constant, cases: Cases, protocol: Protocol) -> float:
    return evaluate(model, cases, protocols=[protocol], metrics=["recall"])[0][f"recall@{protocol.cutoffs[0]}"]


def _recall_at_chance(cases: Cases, k: int, exclude: bool) -> np.ndarray:
    """[U] float64: the share of the relevant items that are candidates, times the list length over the candidates."""
    rows, _, n_relevant, chances = _reachable(cases, k, exclude)
    values: np.ndarray = (torch.bincount(rows, minlength=len(cases)).double() / n_relevant * chances).numpy()
    return values


def _deviation_of_draw(cases: Cases, k: int, exclude: bool) -> float:
    """At most how far the mean recall of one permutation deviates: users with a relevant item in common hit together.

    Items count as independent; they compete for the k ranks, which makes the true deviation smaller.
    """
    rows, items, n_relevant, chances = _reachable(cases, k, exclude)
    weights = (chances * (1 - chances)).sqrt() / n_relevant / len(cases)
    of_items = torch.zeros(cases.n_items, dtype=torch.float64).index_add_(0, items, weights[rows])
    return float(of_items.square().sum().sqrt())


def _reachable(cases: Cases, k: int, exclude: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows and items of the relevant ones that are candidates, how many are relevant to each user, and the chance of
    a candidate to be among the first k: [T], [T], [U] and [U].
    """
    truth = torch.unique(cases.truth.rows * cases.n_items + cases.truth.values)
    n_relevant = torch.bincount(truth // cases.n_items, minlength=len(cases)).double()
    n_candidates = torch.full((len(cases),), float(cases.n_items), dtype=torch.float64)
    if exclude:
        known = torch.unique(cases.history.rows * cases.n_items + cases.history.values)
        n_candidates = n_candidates - torch.bincount(known // cases.n_items, minlength=len(cases))
        truth = truth[~torch.isin(truth, known)]
    return truth // cases.n_items, truth % cases.n_items, n_relevant, (k / n_candidates).clamp(max=1)


def _at(name: str, value: float, expected: float, error: float) -> Check:
    ok = abs(value - expected) <= error
    detail = f"recall {value:.5f}, at chance {expected:.5f} (within {error:.2g} allowed)"
    return Check(name, "ok" if ok else "fail", value - expected, detail)
