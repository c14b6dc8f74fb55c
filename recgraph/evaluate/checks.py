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
    parts = {"valid": split.valid, "test": split.test}
    fitted = {
        "valid": split.fit_part("train").item_counts(),
        "test": split.fit_part("train+valid").item_counts(),
    }
    return [
        time_leakage(split),
        time_split(split),
        *(duplicates(cases, name) for name, cases in parts.items()),
        *(unknown_items(cases, fitted[name], name) for name, cases in parts.items()),
        popularity(split.valid, split.test, fitted["valid"]),
        tied_times(split),
        branching(split.train, seed=seed),
        *smoothness(split, seed=seed),
    ]


def time_leakage(split: Split) -> Check:
    """How many test interactions precede training interactions of anyone: a model that is fitted on
    what came later knows trends that it could not have known (Ji et al., TOIS 2023)."""
    times, labels = split.interactions.ordered.times, split.labels
    if times is None:
        return Check(
            "time leakage",
            "warn",
            None,
            "the log has no times: each user's order is that of the rows",
        )
    tested, fitted = (
        times[labels == int(Label.TEST)],
        times[labels == int(Label.TRAIN)].sort().values,
    )
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
        return Check(
            name,
            "skipped",
            None,
            f"it would leave {n_users:,} test users instead of {len(split.test):,}",
        )
    detail = f"{n_users:,} test users instead of {len(split.test):,}, and {value:.1%} of test interactions leak"
    return Check(name, "ok" if value == 0 else "fail", value, detail)


def duplicates(cases: Cases, part: str) -> Check:
    """How many relevant items of a part are in the history of their user."""
    truth, history = (
        torch.unique(rows.rows * cases.n_items + rows.values)
        for rows in (cases.truth, cases.history)
    )
    twice = int(torch.isin(truth, history).sum())
    detail = f"{twice:,} of {len(truth):,} relevant items are in their user's history, misses if excluded"
    return Check(f"duplicates in {part}", "warn" if twice else "ok", float(twice), detail)


def unknown_items(cases: Cases, fitted: Tensor, part: str) -> Check:
    """How many items of a part occur nowhere in what the model is fitted on, by ``fitted``
    [n_items] counts.
    """
    cold = fitted[cases.truth.values] == 0
    n_items, n_users = (
        int(torch.unique(of[cold]).numel()) for of in (cases.truth.values, cases.truth.rows)
    )
    detail = (
        f"{n_items:,} items occur only in {part}: {int(cold.sum()):,} of {len(cold):,} relevant items, of {n_users:,} "
        f"users; a model without item features cannot find them"
    )
    return Check(f"items only in {part}", "warn" if n_items else "ok", float(n_items), detail)


def popularity(valid: Cases, test: Cases, counts: Tensor) -> Check:
    """Whether valid and test ask for equally popular items, by training interactions ``counts``
    [n_items] in the mean over users of the means of their relevant items: or else the best settings
    differ between them."""
    name, of_parts = "popularity in valid and test", []
    for cases in (valid, test):
        popularities = counts[cases.truth.values].double()
        sums = torch.zeros(len(cases), dtype=torch.float64).index_add_(
            0, cases.truth.rows, popularities
        )
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
    is_tied = (
        torch.ones_like(before, dtype=torch.bool)
        if log.times is None
        else log.times[before] == log.times[after]
    )
    ids = torch.from_numpy(split.items.values.rank("dense").cast(pl.Int64).to_numpy(writable=True))[
        log.items.values
    ]
    steps = (ids[after] - ids[before])[is_tied].sign()
    n_pairs, n_ascending = int((steps != 0).sum()), int((steps > 0).sum())
    share = n_ascending / n_pairs if n_pairs else 0.5
    is_sorted = abs(share - 0.5) > max(_SIGMAS * 0.5 / max(n_pairs, 1) ** 0.5, _DRIFT)
    what = f"neighbours{' at one time' if log.times is not None else ''} (of {len(before):,})"
    detail = f"ids ascend in {share:.1%} of {n_pairs:,} {what}, by chance in half"
    return Check(
        "tied times",
        "ok" if not is_sorted else "warn" if log.times is None else "fail",
        share,
        detail,
    )


def branching(train: Part, *, seed: int = 0) -> Check:
    """How many items follow an item: the perplexity of the next item, ``exp(H(next | item))`` over
    all neighbours, and what popularity alone would give as often, by a permutation of the next
    items."""
    before, after = (train.items.values[places] for places in train.items.neighbours())
    drawn = torch.from_numpy(numpy_generator(seed, "branching").permutation(len(after)))

    def entropy(values: Tensor) -> float:
        shares = torch.unique(values, return_counts=True)[1].double() / len(values)
        return float(torch.special.entr(shares).sum())

    pairs = (before * train.n_items + following for following in (after, after[drawn]))
    own, other = (float(np.exp(entropy(pair) - entropy(before))) for pair in pairs)
    return Check(
        "branching",
        "ok",
        own,
        f"{own:.1f} items follow an item, {other:.1f} if by popularity alone",
    )


def smoothness(split: Split, *, seed: int = 0) -> list[Check]:
    """For each column of the item features with texts or whole numbers, or lists of them, but for
    titles: how many neighbours of the training part share a value, and how many pairs by popularity
    alone."""
    frame, key, n_items = (
        split.interactions.item_features,
        split.interactions.columns.item,
        split.n_items,
    )
    if frame is None:
        return [Check("features of neighbours", "skipped", None, "the log has no item features")]
    before, after = (
        split.train.items.values[places].numpy() for places in split.train.items.neighbours()
    )
    drawn = numpy_generator(seed, "smoothness").permutation(len(after))[:1_000_000]
    before, after = before[drawn], after[drawn]
    rows, columns = [], ItemColumns(split.items, frame, key)
    for name, dtype in frame.drop(key).schema.items():
        plain = dtype.inner if isinstance(dtype, pl.List) else dtype
        if plain.is_float() or plain.is_nested():
            continue
        codes = columns.codes(name, "item_features").numpy()
        if 2 * codes.max() > n_items:
            continue
        items, places = (codes >= 0).nonzero()
        has = sp.csr_array(
            (np.ones(len(items)), (items, codes[items, places])), (n_items, codes.max() + 1)
        )
        same, other = (
            float(((has[before] * has[then]).sum(1) > 0).mean())
            for then in (after, np.roll(after, 1))
        )
        detail = f"{same:.1%} of neighbours share a value, {other:.1%} if by popularity alone"
        rows.append(Check(f"{name} of neighbours", "ok", same, detail))
    return rows
