"""What a metric is: a value for each user, or one for all, from ranked lists.

The distribution of the first hit over all orders of equal scores.

How often each item is recommended, which metrics of all lists together read.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from recgraph.evaluate.hits import Facts, Places, RankedHits, Ties
from recgraph.evaluate.protocol import CONVENTIONS, COUNT_NO_TRUTH, COUNT_UNDEFINED, Convention

__all__ = ["Aggregate", "Facts", "Metric", "Places", "RankedHits", "Ties", "ranks", "within"]


@dataclass(frozen=True)
class Metric:
    """Base of all metrics. A subclass sets ``name`` and fills :meth:`compute`.

    A subclass with options is a frozen dataclass, too; options other than the default show in :attr:`label`.

    Attributes:
        convention: whose definition; one of :attr:`conventions`.

    Raises:
        ValueError: the metric is not defined under the convention.
    """

    convention: Convention = "recgraph"

    #: as it is written before ``@``, e.g. ``hit_rate``
    name: ClassVar[str]
    #: those under which it is defined
    conventions: ClassVar[tuple[Convention, ...]] = CONVENTIONS
    #: whether it asks how many relevant items are found; a user without any then has no value
    needs_truth: ClassVar[bool] = True
    #: whether more of it is better, for those who select or tune by it and for tables that mark the best
    higher_is_better: ClassVar[bool] = True
    #: False where it is one value for all users
    per_user: ClassVar[bool] = True
    #: whether TorchMetrics counts no item with a score of 0 or less as relevant
    wants_positive_scores: ClassVar[bool] = False
    #: whether it has an expectation over the orders of equal scores
    expects: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.convention not in self.conventions:
            raise ValueError(
                f"metric {self.name!r} is not defined under convention {self.convention!r}; "
                f"it is under {', '.join(self.conventions)}"
            )

    @property
    def needs(self) -> frozenset[str]:
        """The attributes of :class:`RankedHits` and of its facts, besides the hits, that must be there."""
        return frozenset()

    @property
    def cut(self) -> bool:
        """Whether it has a cut-off; without one it reads the whole ranking, and is written without ``@``."""
        return True

    @property
    def label(self) -> str:
        """The name, with the options that are not the default, e.g. ``map(divide_by=k)``."""
        options = [
            f"{field.name}={getattr(self, field.name)}"
            for field in fields(self)
            if field.name != "convention" and getattr(self, field.name) != field.default
        ]
        return self.name + (f"({', '.join(options)})" if options else "")

    def __call__(self, ranked: RankedHits, k: int | None = None) -> Tensor:
        """[U] float64: the value of each user at cut-off ``k`` (None: the whole list), NaN where there is none.

        Raises:
            ValueError: ``k`` is below 1 or longer than the lists, or something that is needed is not known.
        """
        width = ranked.hits.shape[1]
        k = width if k is None else k
        if not 1 <= k <= width:
            raise ValueError(f"k = {k} must lie between 1 and the length of the lists, {width}")
        for need in sorted(self.needs):
            if getattr(ranked, need, None) is None and getattr(ranked.facts, need, None) is None:
                raise ValueError(f"metric {self.label!r} needs {need}, which is not known here")
        if ranked.ties is not None and not self.expects:
            raise ValueError(f"metric {self.label!r} has no expectation over tied orders; use the seeded permutation")
        if self.convention == "torchmetrics" and self.wants_positive_scores and ranked.scores is not None:
            ranked = replace(ranked, hits=ranked.hits * (ranked.scores > 0))
        values = self.compute(ranked, k)
        missing = self.without_truth()
        return values if missing is None else values.masked_fill(ranked.n_relevant == 0, missing)

    def without_truth(self) -> float | None:
        """The value of a user without relevant items; None: what :meth:`compute` gives."""
        if not self.needs_truth:
            return None
        return 0.0 if self.convention in COUNT_NO_TRUTH else float("nan")

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        """[U] float64; any value where a user has no relevant item and the metric needs one."""
        raise TypeError(f"{type(self).__name__} must define compute(ranked, k)")

    def mean(self, values: Tensor, ranked: RankedHits) -> float:
        """The value over all users: the mean of those that have one; NaN if none has.

        Under ``cornac`` it is NaN as soon as a user with relevant items has none.
        """
        plain = values.numpy(force=True)
        if self.convention == "cornac" and bool(values[ranked.n_relevant > 0].isnan().any()):
            return float("nan")
        if self.convention in COUNT_UNDEFINED:
            plain = np.nan_to_num(plain, nan=0.0)
        if np.isnan(plain).any():
            plain = plain[~np.isnan(plain)]
        return float(plain.mean()) if plain.size else float("nan")


class Aggregate(Metric):
    """A metric of all lists together: :meth:`compute` gives one value, [] float64."""

    needs_truth = False
    per_user = False

    def mean(self, values: Tensor, ranked: RankedHits) -> float:
        return float(values)


def ranks(k: int, like: Tensor) -> Tensor:
    """[k] float64: 1, 2, ... k."""
    return torch.arange(1, k + 1, dtype=torch.float64, device=like.device)


def within(ranked: RankedHits, k: int) -> Tensor:
    """[U, k] bool: the places that hold an item."""
    if ranked.items is not None:
        return ranked.items[:, :k] >= 0
    return torch.arange(k, device=ranked.hits.device) < ranked.n_listed(k)[:, None]


def first_hit(ranked: RankedHits, k: int) -> Tensor:
    """[U, k] float64: the probability that the first hit is at each rank.

    In a group of n tied candidates with m relevant ones, whose first o are misses, the next one is a hit with
    probability m / (n - o) (McSherry and Najork, ECIR 2008, give the same as a hypergeometric tail).
    """
    ties = ranked.ties
    assert ties is not None
    hits, left = ties.n_hits[:, :k].double(), (ties.size - ties.offset)[:, :k]
    chance = (hits / left.clamp(min=1)).clamp(max=1)
    missed = (1 - chance).cumprod(1)
    return chance * torch.cat([torch.ones_like(missed[:, :1]), missed[:, :-1]], 1)


def listed(ranked: RankedHits, k: int) -> tuple[Tensor, Facts]:
    """[n_items] int64: the lists with each item among their first ``k``; and the facts of the items."""
    assert ranked.items is not None
    assert ranked.facts is not None
    items = ranked.items[:, :k]
    return torch.bincount(items[items >= 0], minlength=ranked.facts.n_items), ranked.facts


def average(values: Tensor, ranked: RankedHits, k: int) -> Tensor:
    """[U] float64: the mean over the listed items of ``values`` [U, k]; NaN for an empty list."""
    assert ranked.items is not None
    mask = ranked.items[:, :k] >= 0
    return (values.double() * mask).sum(1) / mask.sum(1)
