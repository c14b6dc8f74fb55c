"""What a metric is: a value for each user, or one for all, from ranked lists."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor

from recgraph.evaluate.hits import Facts, RankedHits, RelevantRanks, Ties

__all__ = ["Aggregate", "Facts", "Metric", "RankedHits", "RelevantRanks", "Ties", "ranks"]


@dataclass(frozen=True)
class Metric:
    """Base of all metrics. A subclass sets ``name`` and fills :meth:`compute`; one with options is a frozen dataclass,
    too."""

    #: as it is written before ``@``, e.g. ``hit_rate``
    name: ClassVar[str]
    #: what it reads besides the hits: attributes of :class:`RankedHits` or of its facts
    needs: ClassVar[frozenset[str]] = frozenset()
    #: whether it counts relevant items; a user without any then has no value
    needs_truth: ClassVar[bool] = True
    #: whether more of it is better, for those who select or tune by it and for tables that mark the best
    higher_is_better: ClassVar[bool] = True
    #: False where it is one value for all users
    per_user: ClassVar[bool] = True
    #: whether it has a cut-off; without one it reads the whole ranking, and is written without ``@``
    cut: ClassVar[bool] = True
    #: whether it is right where hits are probabilities over the orders of equal scores
    expects: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """The name, with the options that are not the default, e.g. ``f1(beta=2.0)``."""
        values = ((field.name, getattr(self, field.name), field.default) for field in fields(self))
        options = [f"{name}={value}" for name, value, default in values if value != default]
        return self.name + (f"({', '.join(options)})" if options else "")

    def __call__(self, ranked: RankedHits, k: int | None = None) -> Tensor:
        """[U] float64: the value of each user at cut-off ``k`` (None: the whole list), NaN where there is none.

        Raises:
            ValueError: something that it needs is not known, or :meth:`compute` gives no number for each user.
        """
        for need in sorted(self.needs):
            if getattr(ranked, need, None) is None and getattr(ranked.facts, need, None) is None:
                raise ValueError(f"metric {self.label!r} needs {need}, which is not known here")
        if ranked.ties is not None and not self.expects:
            raise ValueError(f"metric {self.label!r} has no expectation over ties; use the seeded permutation")
        k = ranked.hits.shape[1] if k is None else k
        values = torch.as_tensor(self.compute(ranked.first(k), k), dtype=torch.float64)
        if self.per_user and values.shape != ranked.n_relevant.shape:
            raise ValueError(
                f"metric {self.label!r}: compute gave {list(values.shape)} numbers for {len(ranked)} users"
            )
        return values.masked_fill(ranked.n_relevant == 0, torch.nan) if self.needs_truth else values

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        """[U] float64 from lists that are cut to their first ``k`` ranks (fewer where the catalogue ends before).

        Any value where a user has no relevant item and the metric needs one.
        """
        raise TypeError(f"{type(self).__name__} must define compute(ranked, k)")

    def mean(self, values: Tensor) -> float:
        """The value over all users: the mean of those that have one; NaN if none has."""
        plain = values.numpy(force=True)
        plain = plain[plain == plain]
        return float(plain.mean()) if plain.size else float("nan")


class Aggregate(Metric):
    """A metric of all lists together: :meth:`compute` gives one value, [] float64."""

    needs_truth = False
    per_user = False

    def mean(self, values: Tensor) -> float:
        return float(values)


def ranks(like: Tensor) -> Tensor:
    """[K] float64: 1, 2, ... of lists [U, K]."""
    return torch.arange(1, like.shape[1] + 1, dtype=torch.float64, device=like.device)


def first_hit(ties: Ties) -> Tensor:
    """[U, K] float64: the probability that the first hit is at each rank, over all orders of equal scores.

    In a group of n tied candidates with m relevant ones, whose first o are misses, the next one is a hit with
    probability m / (n - o) (McSherry and Najork, ECIR 2008, give the same as a hypergeometric tail).
    """
    hits, left = ties.n_hits.double(), ties.size - ties.offset
    chance = (hits / left.clamp(min=1)).clamp(max=1)
    missed = (1 - chance).cumprod(1)
    return chance * torch.cat([torch.ones_like(missed[:, :1]), missed[:, :-1]], 1)


def times_listed(ranked: RankedHits) -> Tensor:
    """[n_items] int64: the lists that hold each item."""
    items = ranked.listed()
    return torch.bincount(items[items >= 0], minlength=ranked.catalogue().n_items)


def of_items(values: Tensor, ranked: RankedHits) -> Tensor:
    """[U, K]: the value of each listed item, from ``values`` [n_items]; any value past the end of a list."""
    return values[ranked.listed().clamp(min=0)]


def average(values: Tensor, ranked: RankedHits) -> Tensor:
    """[U] float64: the mean over the listed items of ``values`` [U, K]; NaN for an empty list."""
    mask = ranked.listed() >= 0
    return (values.double() * mask).sum(1) / mask.sum(1)
