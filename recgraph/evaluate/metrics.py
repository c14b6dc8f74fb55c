"""Metrics: what they read of ranked lists, what one is, the metrics themselves, and their names."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nan

from recgraph import registry
from recgraph.data.part import Cases
from recgraph.sparse.ragged import Ragged


def check_items(name: str, items: Tensor, n_items: int) -> None:
    """Refuse indices of items that the catalogue does not have; names the argument."""
    if bool(((items < 0) | (items >= n_items)).any()):
        raise ValueError(
            f"{name} holds an item outside 0 to {n_items - 1}; leave out padding and unknown items"
        )


def item_keys(rows: Ragged, n_items: int) -> Tensor:
    """[T] int64: the row and the item of each entry as one number, ``row * n_items + item``."""
    return rows.rows * n_items + rows.values


@dataclass(frozen=True)
class RelevantRanks:
    """The ranks of the relevant items among all candidates, as counts of what is listed before
    them.
    """

    #: a row for each user, an entry for each relevant item: the candidates with a greater score
    above: Ragged
    #: aligned with ``above.values``: the candidates with the same score, the item itself included
    equal: Tensor
    #: aligned: how many of these the tie rule lists before the item
    before: Tensor
    #: aligned, bool: whether the item is a candidate at all; the counts of others mean nothing
    reachable: Tensor
    #: [U] int64
    n_candidates: Tensor

    def take(self, index: Tensor) -> RelevantRanks:
        """The users at rows ``index`` [B]."""

        def taken(values: Tensor) -> Tensor:
            return self.above.with_values(values).take(index).values

        return RelevantRanks(
            self.above.take(index),
            equal=taken(self.equal),
            before=taken(self.before),
            reachable=taken(self.reachable),
            n_candidates=self.n_candidates[index],
        )

    def to(self, device: torch.device) -> RelevantRanks:
        return RelevantRanks(
            self.above.to(device),
            equal=self.equal.to(device),
            before=self.before.to(device),
            reachable=self.reachable.to(device),
            n_candidates=self.n_candidates.to(device),
        )

    @classmethod
    def cat(cls, parts: Sequence[RelevantRanks]) -> RelevantRanks:
        def joined(name: str) -> Tensor:
            return torch.cat([getattr(part, name) for part in parts])

        return cls(
            Ragged.cat([part.above for part in parts]),
            equal=joined("equal"),
            before=joined("before"),
            reachable=joined("reachable"),
            n_candidates=joined("n_candidates"),
        )


@dataclass(frozen=True)
class Ties:
    """The tied group that each rank of a list belongs to, [U, K] int64 each: ranks of the group
    before this one, candidates in the group (also beyond the list; at least 1), and relevant ones
    among them."""

    offset: Tensor
    size: Tensor
    n_hits: Tensor


@dataclass(frozen=True)
class RankedHits:
    """Ranked lists as metrics see them. What is None is not known; a metric names what it needs.

    Attributes:
        hits: [U, K], whether the item at each rank is relevant: bool, or float64, the probability
            over all orders of equal scores, where ``ties`` are given. A rank past the end of a
            short list is a miss.
        n_relevant: [U] int64; relevant items that cannot be recommended count.
        gains, ideal_gains: [U, K] float64, the grade of the item at each rank, 0 for a miss; and
            the user's grades in descending order, padded with 0. None where grades are binary.
        items: [U, K] int64, -1 past the end.
        scores: [U, K], aligned, where they are known.
        known: [U, K] bool, whether the user has an interaction with the item in the data the model
            was fitted on.
        relevant_ranks: of the relevant items among all candidates.
        ties: the tied groups.
        n_items: the size of the catalogue.
        counts: [n_items] int64, interactions of each item in the data the model was fitted on.
        n_users: users of that data with an interaction.
        features: [n_items, F], item features or embeddings.
    """

    hits: Tensor
    n_relevant: Tensor
    gains: Tensor | None = None
    ideal_gains: Tensor | None = None
    items: Tensor | None = None
    scores: Tensor | None = None
    known: Tensor | None = None
    relevant_ranks: RelevantRanks | None = None
    ties: Ties | None = None
    n_items: int = 0
    counts: Tensor | None = None
    n_users: int | None = None
    features: Tensor | None = None

    def __len__(self) -> int:
        return self.hits.shape[0]

    def first(self, k: int) -> RankedHits:
        """Lists cut to their first ``k`` ranks."""
        return self._map(lambda table: table[:, :k])

    def rows(self, start: int, end: int) -> RankedHits:
        """Users ``start`` to ``end``."""
        part = self._map(lambda table: table[start:end])
        part = replace(part, n_relevant=self.n_relevant[start:end])
        if self.relevant_ranks is not None:
            users = torch.arange(start, min(end, len(self)))
            part = replace(part, relevant_ranks=self.relevant_ranks.take(users))
        return part

    def _map(self, cut: Callable[[Tensor], Tensor]) -> RankedHits:
        tables: dict[str, Any] = {}
        for name in ("hits", "gains", "ideal_gains", "items", "scores", "known"):
            table = getattr(self, name)
            if table is not None:
                tables[name] = cut(table)
        if self.ties is not None:
            offset, size, n_hits = self.ties.offset, self.ties.size, self.ties.n_hits
            tables["ties"] = Ties(cut(offset), cut(size), cut(n_hits))
        return replace(self, **tables)

    def listed(self) -> Tensor:
        assert self.items is not None
        return self.items

    def popularity(self) -> Tensor:
        assert self.counts is not None
        return self.counts


@dataclass(frozen=True)
class Truth:
    """Relevant items, each once."""

    #: [T] int64, ascending: ``row * n_items + item``
    keys: Tensor
    #: [T] float64, aligned, or None; an item that is given twice counts with its highest grade
    grades: Tensor | None
    #: [U] int64
    n_relevant: Tensor
    n_items: int

    @classmethod
    def of(cls, cases: Cases) -> Truth:
        check_items("cases.truth", cases.truth.values, cases.n_items)
        keys, inverse = torch.unique(item_keys(cases.truth, cases.n_items), return_inverse=True)
        n_relevant = torch.bincount(keys // cases.n_items, minlength=len(cases))
        if cases.grades is None:
            return cls(keys, None, n_relevant, cases.n_items)
        grades = cases.grades.double()
        if not bool(((grades > 0) & grades.isfinite()).all()):
            raise ValueError("cases.grades (grades) must be positive and finite")
        highest = torch.zeros(keys.numel(), dtype=torch.float64)
        highest.scatter_reduce_(0, inverse, grades, "amax")
        return cls(keys, highest, n_relevant, cases.n_items)

    @property
    def relevant(self) -> Ragged:
        return Ragged.from_lengths(self.keys % self.n_items, self.n_relevant)

    def find(self, rows: Tensor, items: Tensor) -> tuple[Tensor, Tensor | None]:
        """[B, K] bool, whether items [B, K] are relevant to the users at ``rows`` [B]; and their
        gains, or None.
        """
        wanted = torch.where(items < 0, -1, rows[:, None] * self.n_items + items)
        positions = torch.searchsorted(self.keys, wanted).clamp(max=self.keys.numel() - 1)
        hits = self.keys[positions] == wanted
        if self.grades is None:
            return hits, None
        return hits, self.grades[positions] * hits

    def ideal_gains(self, depth: int) -> Tensor | None:
        if self.grades is None:
            return None
        rows = self.keys // self.n_items
        by_grade = self.grades.argsort(descending=True, stable=True)
        order = by_grade[rows[by_grade].argsort(stable=True)]
        sorted_grades = Ragged.from_lengths(self.grades[order], self.n_relevant)
        return sorted_grades.first(self.n_relevant.clamp(max=depth)).to_padded(width=depth)


def expected_hits(
    ranks: RelevantRanks, depth: int, grades: Tensor | None = None
) -> tuple[Tensor, Tensor | None, Ties]:
    """Lists [U, depth] in which each rank holds the probability of a hit, and the gain where there
    are ``grades`` [T].

    A group of n candidates with the same score, m of them relevant, takes n consecutive ranks; over
    all their orders each of these is a hit with probability m / n. A rank without a relevant item
    in its group is a group of its own.
    """
    shape, device = (ranks.above.n_rows, depth), ranks.above.device
    hits = torch.zeros(shape, dtype=torch.float64, device=device)
    listed = ranks.reachable & (ranks.above.values < depth)
    keys = (ranks.above.rows * depth + ranks.above.values)[listed]
    keys, group, n_hits = torch.unique(keys, return_inverse=True, return_counts=True)
    size = torch.zeros_like(keys).scatter_(0, group, ranks.equal[listed])
    above = keys % depth
    lengths = size.minimum(depth - above)
    taken = Ragged.from_lengths(torch.empty(int(lengths.sum()), device=device), lengths)
    rows = taken.rows
    places = (keys // depth)[rows], above[rows] + taken.positions
    hits[places] = (n_hits.double() / size)[rows]
    ties = Ties(
        offset=torch.full(shape, 0, device=device),
        size=torch.full(shape, 1, device=device),
        n_hits=torch.full(shape, 0, device=device),
    )
    ties.offset[places] = taken.positions
    ties.size[places] = size[rows]
    ties.n_hits[places] = n_hits[rows]
    if grades is None:
        return hits, None, ties
    total = torch.zeros(keys.numel(), dtype=torch.float64, device=device)
    total.index_add_(0, group, grades[listed])
    gains = torch.zeros_like(hits)
    gains[places] = (total / size)[rows]
    return hits, gains, ties


@dataclass(frozen=True)
class Metric(ABC):
    """Base of all metrics. A subclass fills :meth:`compute`; one with options is a frozen
    dataclass, too.
    """

    #: as it is written before ``@``; by default the class's name, e.g. ``hit_rate`` of ``HitRate``
    name: ClassVar[str]
    #: what it reads besides the hits: attributes of :class:`RankedHits`
    needs: ClassVar[frozenset[str]] = frozenset()
    #: whether it counts relevant items; a user without any then has no value
    needs_truth: ClassVar[bool] = True
    #: whether more of it is better, for those who select or tune by it and for tables that mark the
    #: best
    higher_is_better: ClassVar[bool] = True
    #: False where it is one value for all users
    per_user: ClassVar[bool] = True
    #: whether it has a cut-off; without one it reads the whole ranking, and is written without
    #: ``@``
    cut: ClassVar[bool] = True
    #: whether it is right where hits are probabilities over the orders of equal scores
    expects: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if "name" not in cls.__dict__:
            cls.name = re.sub(
                "(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__
            ).lower()

    @property
    def label(self) -> str:
        """The name, with the options that are not the default, e.g. ``f1(beta=2.0)``."""
        options = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                options.append(f"{field.name}={value}")
        if not options:
            return self.name
        return f"{self.name}({', '.join(options)})"

    def __call__(self, ranked: RankedHits, k: int | None = None) -> Tensor:
        """[U] float64: the value of each user at cut-off ``k`` (None: the whole list), NaN where
        there is none.
        """
        check_needs((self,), {need: need for need in self.needs if getattr(ranked, need) is None})
        if ranked.ties is not None and not self.expects:
            raise ValueError(
                f"metric {self.label!r} has no expectation over ties; use the seeded permutation"
            )
        if k is None:
            k = ranked.hits.shape[1]
        values = torch.as_tensor(self.compute(ranked.first(k), k), dtype=torch.float64)
        if self.per_user and values.shape != ranked.n_relevant.shape:
            raise ValueError(
                f"metric {self.label!r}: compute gave {list(values.shape)} for {len(ranked)} users"
            )
        if self.needs_truth:
            values = values.masked_fill(ranked.n_relevant == 0, torch.nan)
        return values

    @abstractmethod
    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        """[U] float64 from lists that are cut to their first ``k`` ranks (fewer where the catalogue
        ends before); any value where a user has no relevant item and the metric needs one."""

    def mean(self, values: Tensor) -> float:
        """The value over all users: the mean of those that have one; NaN if none has."""
        plain = values.numpy(force=True)
        plain = plain[plain == plain]
        return float(plain.mean()) if plain.size else float("nan")


class RelevanceMetric(Metric):
    """A metric of where the relevant items stand, which is right where hits are probabilities,
    too.
    """

    expects = True


class Aggregate(Metric):
    """A metric of all lists together: :meth:`compute` gives one value, [] float64."""

    needs = frozenset({"items"})
    needs_truth = False
    per_user = False

    def mean(self, values: Tensor) -> float:
        return float(values)


def check_needs(metrics: Iterable[Metric], missing: Mapping[str, str]) -> None:
    """Refuse metrics that need what is missing: what it is -> what to give."""
    for metric in metrics:
        for need in sorted(metric.needs & missing.keys()):
            raise ValueError(
                f"metric {metric.label!r} needs {need}, which is not known here; give {missing[need]}"
            )


#: what metrics read that is made of the data the model was fitted on
OF_TRAINING = ("counts", "n_users", "known")


def ranks(like: Tensor) -> Tensor:
    """[K] float64: 1, 2, ... of lists [U, K]."""
    return torch.arange(1, like.shape[1] + 1, dtype=torch.float64, device=like.device)


def first_hit(ties: Ties) -> Tensor:
    """[U, K] float64: the probability that the first hit is at each rank, over all orders of equal
    scores. In a group of n, m of them relevant, whose first o are misses, the next is a hit with m
    / (n - o) (McSherry, Najork 2008)."""
    hits, left = ties.n_hits.double(), ties.size - ties.offset
    chance = (hits / left.clamp(min=1)).clamp(max=1)
    missed = (1 - chance).cumprod(1)
    return chance * torch.cat([torch.ones_like(missed[:, :1]), missed[:, :-1]], 1)


class ListedMean(Metric):
    """The mean over the first k of a value of each; an empty list has no value. A subclass fills
    :meth:`values`.
    """

    needs_truth = False

    @abstractmethod
    def values(self, ranked: RankedHits, k: int) -> Tensor:
        """[U, K]: the value of each listed item; any value past the end of a list."""

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        mask = ranked.listed() >= 0
        return (self.values(ranked, k).double() * mask).sum(1) / mask.sum(1)


class ItemMean(ListedMean):
    """A :class:`ListedMean` of what depends on the item alone. A subclass fills
    :meth:`of_items`.
    """

    needs = frozenset({"items", "counts"})

    @abstractmethod
    def of_items(self, ranked: RankedHits, k: int) -> Tensor:
        """[n_items]."""

    def values(self, ranked: RankedHits, k: int) -> Tensor:
        return self.of_items(ranked, k)[ranked.listed().clamp(min=0)]


def times_listed(ranked: RankedHits) -> Tensor:
    """[n_items] int64: the lists that hold each item."""
    items = ranked.listed()
    return torch.bincount(items[items >= 0], minlength=ranked.n_items)


class HitRate(RelevanceMetric):
    """1 if a relevant item is among the first k, else 0."""

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        if ranked.ties is not None:
            return first_hit(ranked.ties).sum(1)
        return ranked.hits.any(1).double()


class Precision(RelevanceMetric):
    """hits in the first k / k. Short lists are divided by k, too."""

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        return ranked.hits.sum(1).double() / k


class Recall(RelevanceMetric):
    """hits in the first k / relevant items. With more than k relevant items the best possible value
    is below 1.
    """

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        return ranked.hits.sum(1).double() / ranked.n_relevant


@dataclass(frozen=True)
class F1(RelevanceMetric):
    """(1 + b^2) P R / (b^2 P + R) of precision and recall at k, which is (1 + b^2) hits / (b^2
    relevant + k); b is ``beta``, the weight of recall."""

    beta: float = 1.0

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        square = self.beta**2
        return (1 + square) * ranked.hits.sum(1).double() / (square * ranked.n_relevant + k)


class RPrecision(RelevanceMetric):
    """hits in the first r / r, r the number of relevant items. It has no cut-off."""

    cut = False

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        relevant, size = ranked.relevant_ranks, ranked.n_relevant
        if relevant is None:  # lists of another's making
            return (ranked.hits * (ranks(ranked.hits) <= size[:, None])).sum(1).double() / size
        left = size[relevant.above.rows] - relevant.above.values
        if ranked.ties is None:
            hits = (relevant.before < left).double()
        else:
            hits = (left.clamp(min=0).double() / relevant.equal.clamp(min=1)).clamp(max=1)
        return _of_users(hits * relevant.reachable, relevant) / size


def _of_users(values: Tensor, relevant: RelevantRanks) -> Tensor:
    sums = torch.zeros(relevant.above.n_rows, dtype=torch.float64, device=values.device)
    return sums.index_add_(0, relevant.above.rows, values.double())


@dataclass(frozen=True)
class DCG(RelevanceMetric):
    """The sum over the ranks j <= k of gain_j / log2(j + 1): above 1 where there are several hits
    or grades.
    """

    #: of a grade: the grade, or 2^grade - 1 (Burges et al., ICML 2005); without grades it is 1 for
    #: a relevant item
    gain: Literal["linear", "exponential"] = "linear"

    def gains(self, grades: Tensor) -> Tensor:
        return grades.exp2() - 1 if self.gain == "exponential" else grades

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        gains = ranked.hits.double()
        if ranked.gains is not None:
            if self.gain == "exponential" and ranked.ties is not None:
                raise ValueError(
                    "gain = 'exponential' has no expectation over tied orders; use gain = 'linear'"
                )
            gains = self.gains(ranked.gains)
        return (gains * _discounts(ranked)).sum(1)


def _discounts(ranked: RankedHits) -> Tensor:
    return (ranks(ranked.hits) + 1).log2().reciprocal()


class NDCG(DCG):
    """:class:`DCG` over the DCG of the best possible list: of its first min(relevant items, k)
    ranks all are hits.
    """

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        weights = _discounts(ranked)
        if ranked.ideal_gains is None:
            return (ranked.hits * weights).sum(1) / _best(weights, ranked.n_relevant)
        return super().compute(ranked, k) / (self.gains(ranked.ideal_gains) * weights).sum(1)


def _best(weights: Tensor, n_hits: Tensor) -> Tensor:
    """[U] float64: the sum of the weights [K] of the first ``n_hits`` [U] ranks, at least of
    one.
    """
    return weights.cumsum(0)[(n_hits.clamp(max=len(weights)) - 1).clamp(min=0)]


class MAP(RelevanceMetric):
    """The sum over the ranks j <= k of hits of (hits in the first j) / j, over min(relevant items,
    k).
    """

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        hits, ties = ranked.hits.double(), ranked.ties
        if ties is None:
            upto = hits * hits.cumsum(1)
        else:
            size, n_hits = ties.size.double(), ties.n_hits.double()
            # hits in groups above are independent of this one; two ranks of a group are both hits
            # with m(m-1)/n(n-1)
            above = hits.cumsum(1) - hits * (ties.offset + 1)
            both = n_hits * (n_hits - 1) / (size * (size - 1)).clamp(min=1)
            upto = hits * (1 + above) + ties.offset * both
        return (upto / ranks(ranked.hits)).sum(1) / ranked.n_relevant.clamp(max=k)


class MRR(RelevanceMetric):
    """1 / the rank of the first relevant item, 0 where none is among the first k."""

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        if ranked.ties is not None:
            return (first_hit(ranked.ties) / ranks(ranked.hits)).sum(1)
        return (ranked.hits / ranks(ranked.hits)).amax(1)


@dataclass(frozen=True)
class RBP(RelevanceMetric):
    """The sum over the ranks j <= k of hits of p^(j-1), over the same sum for the best possible
    list.

    Source: Moffat and Zobel, TOIS 2008. Departure: they multiply the sum by 1 - p instead, so that
    with few relevant items the best possible value is far below 1.
    """

    #: p, the probability that a user goes on to the next item
    patience: float = 0.85

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        weights = self.patience ** (ranks(ranked.hits) - 1)
        return (ranked.hits * weights).sum(1) / _best(weights, ranked.n_relevant)


class AUC(RelevanceMetric):
    """The share of pairs of a relevant and another candidate in which the relevant one stands
    higher; ties count half. A relevant item that is no candidate loses every pair; a user without
    other candidates has no value."""

    cut = False
    needs = frozenset({"relevant_ranks"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        relevant = ranked.relevant_ranks
        assert relevant is not None
        reachable = relevant.reachable.double()
        n_reachable = _of_users(reachable, relevant)
        not_below = (relevant.above.values + relevant.equal * 0.5) * reachable
        # of the candidates above and beside the r relevant ones, themselves included, r^2 / 2 are
        # relevant
        lost = _of_users(not_below, relevant) - n_reachable.square() / 2
        n_others = relevant.n_candidates - n_reachable
        return (n_reachable - lost / n_others) / ranked.n_relevant


class AveragePopularity(ItemMean):
    """The mean over the first k of the item's interactions in the training data."""

    higher_is_better = False

    def of_items(self, ranked: RankedHits, k: int) -> Tensor:
        return ranked.popularity()


class CatalogueCoverage(Aggregate):
    """Items among the first k of any list / items in the catalogue."""

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        return (times_listed(ranked) > 0).sum().double() / ranked.n_items


class Entropy(Aggregate):
    """The entropy of the items among the first k of all lists, over its greatest value, log(items
    in the catalogue).
    """

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        shares = times_listed(ranked) / times_listed(ranked).sum().double()
        return -torch.xlogy(shares, shares).sum() / math.log(len(shares))


class Gini(Aggregate):
    """The Gini index of how often each item of the catalogue is among the first k: 0 for all alike,
    near 1 for few. With x ascending it is the sum of (2i - N - 1) x_i / (N sum x)."""

    higher_is_better = False

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        shares = times_listed(ranked).double()
        size, place = len(shares), torch.arange(1, len(shares) + 1, dtype=torch.float64)
        return ((2 * place - size - 1) * shares.sort().values).sum() / (size * shares.sum())


class Personalization(Aggregate):
    """1 - (items that two users' first k share) / (the length of a list), the mean over all pairs
    of users; NaN for one user. An item that c users are shown is shared by c(c-1)/2 pairs, so no
    pair is looked at."""

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        counts, n_users = times_listed(ranked), len(ranked)
        if n_users < 2:
            return torch.tensor(nan, dtype=torch.float64)
        return 1 - (counts.double() * (counts - 1)).sum() / (
            n_users * (n_users - 1) * min(k, len(counts))
        )


@dataclass(frozen=True)
class TailShare(ItemMean):
    """The share of the first k that belongs to the least popular items: the first max(int(ratio m),
    1) of the m items with an interaction, by interactions and then by index."""

    ratio: float = 0.2

    def of_items(self, ranked: RankedHits, k: int) -> Tensor:
        counts = ranked.popularity()
        is_known = counts > 0
        place = counts.masked_fill(~is_known, counts.max() + 1).argsort(stable=True).argsort()
        return is_known & (place < max(int(self.ratio * int(is_known.sum())), 1))


class IntraListDiversity(Metric):
    """The mean distance 1 - cosine over the pairs of the first k, between item features; 0 for one
    item.
    """

    needs_truth = False
    needs = frozenset({"items", "features"})

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        assert ranked.features is not None
        features, items = ranked.features.double(), ranked.listed()
        width = max(items.shape[1], 1)
        others = 1 - torch.eye(items.shape[1], dtype=torch.float64, device=features.device)
        parts = []
        # a few users at a time: a block holds the features of all their items
        block = max((1 << 22) // (width * max(features.shape[1], width)), 1)
        for rows in items.split(block):  # type: ignore[no-untyped-call]
            mask = rows >= 0
            vectors = features[rows.clamp(min=0)] * mask[:, :, None]
            unit = torch.nn.functional.normalize(vectors, dim=2)
            distances = (1 - unit @ unit.mT) * others * (mask[:, :, None] & mask[:, None, :])
            n = mask.sum(1)
            means = distances.sum((1, 2)) / (n * (n - 1)).double().clamp(min=1)
            parts.append(means.masked_fill(n == 0, nan))
        return torch.cat(parts)


class NewItems(ListedMean):
    """The share of the first k that the user has no interaction with in the training data."""

    needs = frozenset({"items", "known"})

    def values(self, ranked: RankedHits, k: int) -> Tensor:
        assert ranked.known is not None
        return ~ranked.known


class Novelty(ItemMean):
    """The mean over the first k of log2(users / the item's interactions): its self-information in
    bits. An item without interactions counts like one with a single one."""

    needs = frozenset({"items", "counts", "n_users"})

    def of_items(self, ranked: RankedHits, k: int) -> Tensor:
        counts, n_users = ranked.popularity().clamp(min=1).double(), ranked.n_users
        assert n_users is not None
        of_users: Tensor = counts.new_tensor(float(n_users)).log2()
        return of_users - counts.log2()


class Serendipity(ListedMean):
    """The mean over the first k of max(p - q, 0) for hits and 0 for others. p = (N + 1 - rank) / N
    of the N items in the catalogue; q the same of the item's rank by popularity, equally popular
    items sharing a rank and the next one following without a gap; 0 for an item without
    interactions."""

    needs = frozenset({"items", "counts"})

    def values(self, ranked: RankedHits, k: int) -> Tensor:
        counts, size = ranked.popularity(), ranked.n_items
        _, group = torch.unique(-counts, return_inverse=True)
        expected = ((size - group).double() / size).masked_fill(counts == 0, 0.0)
        own = (size + 1 - ranks(ranked.hits)) / size
        surprise: Tensor = own - expected[ranked.listed().clamp(min=0)]
        return surprise.clamp(min=0) * ranked.hits


class Unexpectedness(ItemMean):
    """The share of the first k that is not among the k most popular items."""

    def of_items(self, ranked: RankedHits, k: int) -> Tensor:
        # equally popular items in the order of their indices
        return ranked.popularity().argsort(descending=True, stable=True).argsort() >= k


#: what is computed where the caller names no metrics
DEFAULT_METRICS = ("recall", "hit_rate", "ndcg", "mrr", "map", "precision")
_SHORT = {
    "coverage": "catalogue_coverage",
    "popularity": "average_popularity",
    "diversity": "intra_list_diversity",
}


def metric_class(name: str) -> type[Metric]:
    """The class of a metric by its name, without a cut-off. Raises ValueError: there is none."""
    metric: type[Metric] = registry.load("metric", _SHORT.get(registry.key(name), name))
    return metric


@dataclass(frozen=True)
class MetricList:
    """Metrics that a caller names, with a cut-off (``"ndcg@10"``) or at all cut-offs, or gives as
    they are.
    """

    metrics: tuple[Metric, ...]
    #: label -> the cut-offs that it is named with
    lengths: Mapping[str, set[int]]
    #: labels of metrics that have cut-offs and are named without one
    plain: set[str]

    @classmethod
    def of(cls, wanted: Sequence[str | Metric] | None) -> MetricList:
        if wanted is None:
            wanted = DEFAULT_METRICS
        metrics: dict[str, Metric] = {}
        lengths: dict[str, set[int]] = {}
        plain = set()
        for item in wanted:
            metric, k = _parse_metric(item)
            metrics.setdefault(metric.label, metric)
            lengths.setdefault(metric.label, set())
            if not metric.cut:
                continue
            if k is None:
                plain.add(metric.label)
            else:
                lengths[metric.label].add(k)
        return cls(tuple(metrics.values()), lengths, plain)

    def cutoffs(self, given: Sequence[int] | None, default: Sequence[int]) -> tuple[int, ...]:
        """The cut-offs of a protocol: those given (by default the default ones, where a metric is
        named without one), and those that metrics name."""
        named = set().union(*self.lengths.values())
        if given is not None:
            named.update(given)
        elif self.plain or not named:
            named.update(default)
        return tuple(sorted(named))

    def columns(self, metric: Metric, cutoffs: Sequence[int]) -> dict[str, int | None]:
        """Name -> the cut-off at which a metric is computed; None where it has none."""
        if not metric.cut:
            return {metric.label: None}
        if metric.label not in self.plain:
            cutoffs = sorted(self.lengths[metric.label])
        return {f"{metric.label}@{k}": k for k in cutoffs}


def _parse_metric(item: str | Metric) -> tuple[Metric, int | None]:
    if isinstance(item, Metric):
        return item, None
    if "@" not in item:
        return metric_class(item)(), None
    name, k = split_metric(item)
    return metric_class(name)(), k


def split_metric(text: str) -> tuple[str, int | None]:
    """``"coverage@20"`` -> ``("catalogue_coverage", 20)``; ``"auc"`` -> ``("auc", None)``, as it
    has no cut-off.
    """
    name, _, k = text.partition("@")
    if k.isdigit() and int(k) >= 1:
        return metric_class(name).name, int(k)
    if registry.key(text) in registry.names("metric") and not metric_class(text).cut:
        return metric_class(text).name, None
    raise ValueError(f"metric {text!r} must be of the form name@k, e.g. ndcg@10")


def full_name(text: str) -> str:
    """``"coverage@20"`` -> ``"catalogue_coverage@20"``."""
    name, k = split_metric(text)
    return name if k is None else f"{name}@{k}"


def value_of(metrics: Mapping[str, float], text: str) -> float:
    """The value of ``"coverage@20"`` among the values of a result; a metric without cut-off has
    none in its name.
    """
    name, _ = split_metric(text)
    return metrics[name if name in metrics else full_name(text)]


def metric_of(column: str) -> type[Metric] | None:
    """The metric of a column, e.g. ``"gini@5"``, ``"auc"`` or ``"f1(beta=2.0)@10"``; None where it
    is of none.
    """
    name = re.split("[@(]", column, maxsplit=1)[0]
    return metric_class(name) if registry.key(name) in registry.names("metric") else None


def higher_is_better(column: str) -> bool:
    """Whether more is better in a column; it is in one of no metric."""
    metric = metric_of(column)
    return metric is None or metric.higher_is_better


def best_first(means: Mapping[str, float], column: str) -> list[str]:
    """Names by their means in a column, the best first and NaN last; equals keep their order."""
    sign = -1 if higher_is_better(column) else 1
    return sorted(means, key=lambda name: (math.isnan(means[name]), sign * means[name]))
