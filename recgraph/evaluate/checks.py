"""Checks of a split, and of what of the next item its log gives away to those who learn no
sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
import scipy.sparse as sp
import torch
from torch import Tensor

from recgraph.data.item_features import ItemColumns
from recgraph.data.part import Cases, Part
from recgraph.data.split import Split
from recgraph.data.strategies import Label
from recgraph.evaluate.metrics import item_keys
from recgraph.rng import numpy_generator

#: standard errors within which chance explains a difference
_SIGMAS = 5.0
#: the share by which popularity may differ, where chance does not explain it
_DRIFT = 0.1

Status = Literal["ok", "warn", "fail", "skipped"]


@dataclass(frozen=True)
class Check:
    """One row: ``value`` is the number that the status rests on, ``detail`` a sentence with the
    numbers. ``warn`` says that numbers do not mean what they seem to, ``fail`` that something is
    wrong."""

    name: str
    status: Status
    value: float | None
    detail: str


def check_split(split: Split, *, seed: int = 0) -> list[Check]:
    """Checks of a split and of its log, a row each, with draws by ``seed``. Reads the test part,
    and ranks nothing.
    """
    before_valid = split.fit_part("train").item_counts()
    before_test = split.fit_part("train+valid").item_counts()
    return [
        time_leakage(split),
        time_split(split),
        duplicates(split.valid, "valid"),
        duplicates(split.test, "test"),
        unknown_items(split.valid, before_valid, "valid"),
        unknown_items(split.test, before_test, "test"),
        popularity(split.valid, split.test, before_valid),
        tied_times(split),
        branching(split.train, seed=seed),
        *smoothness(split, seed=seed),
    ]


def time_leakage(split: Split) -> Check:
    """How many test interactions precede training interactions of anyone: a model that is fitted on
    what came later knows trends that it could not have known (Ji et al., TOIS 2023)."""
    name = "time leakage"
    times, labels = split.interactions.ordered.times, split.labels
    if times is None:
        detail = "the log has no times: each user's order is that of the rows"
        return Check(name, "warn", None, detail)
    tested = times[labels == int(Label.TEST)]
    fitted = times[labels == int(Label.TRAIN)].sort().values
    if min(len(tested), len(fitted)) == 0:
        return Check(name, "skipped", None, "the test or the training part is empty")
    later = len(fitted) - torch.searchsorted(fitted, tested, right=True)
    share = float((later > 0).double().mean())
    median = float(later.double().median()) / len(fitted)
    detail = (
        f"{int((later > 0).sum()):,} of {len(tested):,} test interactions precede a training interaction of anyone; "
        f"at the median {median:.1%} of the training part lies after a test interaction"
    )
    return Check(name, _warn_if(share > 0), share, detail)


def _warn_if(condition: bool) -> Status:
    return "warn" if condition else "ok"


def time_split(split: Split) -> Check:
    """What one cut of time for all users would give instead."""
    name = "split by time"
    try:
        other = Split.of(split.interactions, "time")
        value = time_leakage(other).value
    except ValueError as error:
        return Check(name, "skipped", None, f"it cannot be made: {error}")
    detail = f"{len(other.test):,} test users instead of {len(split.test):,}"
    if value is None:  # nobody is left
        return Check(name, "skipped", None, detail)
    detail += f", and {value:.1%} of test interactions leak"
    return Check(name, "ok" if value == 0 else "fail", value, detail)


def duplicates(cases: Cases, part: str) -> Check:
    """How many relevant items of a part are in the history of their user."""
    truth = torch.unique(item_keys(cases.truth, cases.n_items))
    twice = int(torch.isin(truth, item_keys(cases.history, cases.n_items)).sum())
    detail = f"{twice:,} of {len(truth):,} relevant items are in their user's history, misses if excluded"
    return Check(f"duplicates in {part}", _warn_if(twice > 0), float(twice), detail)


def unknown_items(cases: Cases, fitted: Tensor, part: str) -> Check:
    """How many items of a part occur nowhere in what the model is fitted on, by ``fitted``
    [n_items] counts.
    """
    cold_mask = fitted[cases.truth.values] == 0
    n_items = int(torch.unique(cases.truth.values[cold_mask]).numel())
    n_users = int(torch.unique(cases.truth.rows[cold_mask]).numel())
    detail = (
        f"{n_items:,} items occur only in {part}: {int(cold_mask.sum()):,} of {len(cold_mask):,} relevant items, "
        f"of {n_users:,} users; a model without item features cannot find them"
    )
    return Check(f"items only in {part}", _warn_if(n_items > 0), float(n_items), detail)


def popularity(valid: Cases, test: Cases, counts: Tensor) -> Check:
    """Whether valid and test ask for equally popular items, by training interactions ``counts``
    [n_items] in the mean over users of the means of their relevant items: or else the best settings
    differ between them."""
    name = "popularity in valid and test"
    of_valid, of_test = _mean_popularity(valid, counts), _mean_popularity(test, counts)
    if min(len(of_valid), len(of_test)) < 2:
        return Check(name, "skipped", None, "valid or test has fewer than two users")
    on_valid, on_test = float(of_valid.mean()), float(of_test.mean())
    variance = float(of_valid.var()) / len(of_valid) + float(of_test.var()) / len(of_test)
    error = _SIGMAS * variance**0.5
    drifts = abs(on_test - on_valid) > max(error, _DRIFT * on_valid)
    detail = (
        f"an item of test has {on_test:.1f} training interactions in the mean, one of valid {on_valid:.1f} (within "
        f"{error:.2g} allowed)"
    )
    if drifts:
        detail += "; settings that valid chose may not be the best on test"
    ratio = on_test / on_valid if on_valid else None
    return Check(name, _warn_if(drifts), ratio, detail)


def _mean_popularity(cases: Cases, counts: Tensor) -> Tensor:
    """[U] float64 of the users with relevant items."""
    sums = torch.zeros(len(cases), dtype=torch.float64)
    sums.index_add_(0, cases.truth.rows, counts[cases.truth.values].double())
    lengths = cases.truth.lengths
    return (sums / lengths)[lengths > 0]


def tied_times(split: Split) -> Check:
    """Whether ids ascend, or descend, among neighbours of a history at one time: by chance half of
    them do.

    Sequence models learn the ids of a log that was sorted by item within ties, and their NDCG is a
    fifth too high (LRURec, issue 1). The share of ``n`` pairs deviates by at most ``.5 / sqrt(n)``.
    Of a log without times all neighbours are compared, and none fails: ids may ascend as new items
    come in.
    """
    log = split.interactions.ordered
    before, after = log.items.neighbours()
    n_neighbours = len(before)
    pairs = "neighbours"
    status: Status = "warn"
    if log.times is not None:
        is_tied = log.times[before] == log.times[after]
        before, after = before[is_tied], after[is_tied]
        pairs = "neighbours at one time"
        status = "fail"
    by_item = split.items.values.rank("dense").cast(pl.Int64).to_numpy(writable=True)
    ids = torch.from_numpy(by_item)[log.items.values]
    steps = (ids[after] - ids[before]).sign()
    n_pairs, n_ascending = int((steps != 0).sum()), int((steps > 0).sum())
    share = n_ascending / n_pairs if n_pairs else 0.5
    is_sorted = abs(share - 0.5) > max(_SIGMAS * 0.5 / max(n_pairs, 1) ** 0.5, _DRIFT)
    detail = (
        f"ids ascend in {share:.1%} of {n_pairs:,} {pairs} (of {n_neighbours:,}), by chance in half"
    )
    return Check("tied times", status if is_sorted else "ok", share, detail)


def branching(train: Part, *, seed: int = 0) -> Check:
    """How many items follow an item: the perplexity of the next item, ``exp(H(next | item))`` over
    all neighbours, and what popularity alone would give as often, by a permutation of the next
    items."""
    before, after = _neighbours(train)
    drawn = torch.from_numpy(numpy_generator(seed, "branching").permutation(len(after)))

    def entropy(values: Tensor) -> float:
        shares = torch.unique(values, return_counts=True)[1].double() / len(values)
        return float(torch.special.entr(shares).sum())

    def perplexity(following: Tensor) -> float:
        pairs = before * train.n_items + following
        return float(np.exp(entropy(pairs) - entropy(before)))

    value, by_chance = perplexity(after), perplexity(after[drawn])
    detail = f"{value:.1f} items follow an item, {by_chance:.1f} if by popularity alone"
    return Check("branching", "ok", value, detail)


def _neighbours(train: Part) -> tuple[Tensor, Tensor]:
    """The items of each pair of neighbours of a history: the earlier, and the one after it."""
    before, after = train.items.neighbours()
    return train.items.values[before], train.items.values[after]


def smoothness(split: Split, *, seed: int = 0) -> list[Check]:
    """For each column of the item features with texts or whole numbers, or lists of them, but for
    titles: how many neighbours of the training part share a value, and how many pairs by popularity
    alone."""
    frame, key = split.interactions.item_features, split.interactions.columns.item
    if frame is None:
        return [Check("features of neighbours", "skipped", None, "the log has no item features")]
    earlier, later = _neighbours(split.train)
    drawn = numpy_generator(seed, "smoothness").permutation(len(later))[:1_000_000]
    before, after = earlier.numpy()[drawn], later.numpy()[drawn]
    checks = []
    columns = ItemColumns(split.items, frame, key)
    for name, dtype in frame.drop(key).schema.items():
        plain = dtype.inner if isinstance(dtype, pl.List) else dtype
        if plain.is_float() or plain.is_nested():
            continue
        codes = columns.codes(name, "item_features").numpy()
        if 2 * codes.max() > split.n_items:
            continue
        items, places = (codes >= 0).nonzero()
        has = sp.csr_array(
            (np.ones(len(items)), (items, codes[items, places])), (split.n_items, codes.max() + 1)
        )
        value = _share_in_common(has, before, after)
        by_chance = _share_in_common(has, before, np.roll(after, 1))
        detail = f"{value:.1%} of neighbours share a value, {by_chance:.1%} if by popularity alone"
        checks.append(Check(f"{name} of neighbours", "ok", value, detail))
    return checks


def _share_in_common(has: sp.csr_array, before: np.ndarray, after: np.ndarray) -> float:
    """Of pairs of items [N]: how many share a value, which are the columns of ``has``."""
    return float(((has[before] * has[after]).sum(1) > 0).mean())
