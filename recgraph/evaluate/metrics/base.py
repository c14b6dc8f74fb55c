"""What a metric is: a value for each user, or one for all, from ranked lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from recgraph.evaluate.hits import Facts, RankedHits, RelevantRanks, Ties
from recgraph.evaluate.metrics.conventions import LIBRARIES, options_of
from recgraph.evaluate.protocol import CONVENTIONS, Convention

__all__ = ["Aggregate", "Facts", "Metric", "RankedHits", "RelevantRanks", "Ties"]


class _Given:
    """Knows which arguments it was made with: an option that is given stays, also where it is the default one."""

    _given: frozenset[str]

    def __new__(cls, *args: Any, **options: Any) -> Self:
        made = super().__new__(cls)
        names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        object.__setattr__(made, "_given", frozenset([*names[: len(args)], *options]))
        return made


@dataclass(frozen=True)
class Metric(_Given):
    """Base of all metrics. A subclass sets ``name`` and fills :meth:`compute`.

    A subclass with options is a frozen dataclass, too. An option that is not given has the value of the convention, see
    :mod:`recgraph.evaluate.metrics.conventions`, else its default; others show in :attr:`label`.

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
    #: whether it counts relevant items; a user without any then has no value
    needs_truth: ClassVar[bool] = True
    #: whether more of it is better, for those who select or tune by it and for tables that mark the best
    higher_is_better: ClassVar[bool] = True
    #: False where it is one value for all users
    per_user: ClassVar[bool] = True
    #: whether its value at ``k`` depends on what is listed after the first ``k``
    reads_whole_lists: ClassVar[bool] = False
    #: whether :meth:`compute` deals with a ``k`` beyond the end of the lists, where they hold all items; for others the
    #: lists are filled up with misses
    short_lists: ClassVar[bool] = False
    #: whether an item with a score of 0 or less counts as irrelevant
    positive_scores_only: ClassVar[bool] = False

    _options: ClassVar[Mapping[Convention, Mapping[str, Any]]] = {}

    def __init_subclass__(cls) -> None:
        found = options_of(cls.__dict__.get("name", ""))
        own = cls.__module__.startswith("recgraph.")
        if found and own:  # a metric of the same name elsewhere is another one
            cls._options, cls.conventions = found, tuple(found)
        if "compute" in cls.__dict__ and "short_lists" not in cls.__dict__:
            cls.short_lists = own

    def __post_init__(self) -> None:
        if self.convention not in self.conventions:
            raise ValueError(
                f"metric {self.name!r} is not defined under convention {self.convention!r}; "
                f"it is under {', '.join(self.conventions)}"
            )
        for option, value in self._options.get(self.convention, {}).items():
            if option not in self._given or getattr(self, option) is None:
                object.__setattr__(self, option, value)

    @property
    def needs(self) -> frozenset[str]:
        """The attributes of :class:`RankedHits` and of its facts, besides the hits, that must be there."""
        return frozenset()

    @property
    def cut(self) -> bool:
        """Whether it has a cut-off; without one it reads the whole ranking, and is written without ``@``."""
        return True

    @property
    def expects(self) -> bool:
        """Whether it has an expectation over the orders of equal scores."""
        return False

    @property
    def label(self) -> str:
        """The name, with the options that are neither the convention's nor the default, e.g. ``map(divide_by=k)``."""
        usual = self._options.get(self.convention, {})
        options = [
            f"{field.name}={getattr(self, field.name)}"
            for field in fields(self)
            if field.name != "convention" and getattr(self, field.name) != usual.get(field.name, field.default)
        ]
        return self.name + (f"({', '.join(options)})" if options else "")

    def __call__(self, ranked: RankedHits, k: int | None = None) -> Tensor:
        """[U] float64: the value of each user at cut-off ``k`` (None: the whole list), NaN where there is none.

        Raises:
            ValueError: ``k`` is below 1, or longer than the lists and these do not hold all items; something that is
                needed is not known; or :meth:`compute` gives no number for each user.
        """
        width = ranked.hits.shape[1]
        k = width if k is None else k
        if k < 1 or (k > width and not ranked.is_whole):
            raise ValueError(f"k = {k} must lie between 1 and the length of the lists, {width}")
        if k > width and not self.short_lists:
            ranked = ranked.filled(k)
        for need in sorted(self.needs):
            if getattr(ranked, need, None) is None and getattr(ranked.facts, need, None) is None:
                raise ValueError(f"metric {self.label!r} needs {need}, which is not known here")
        if ranked.ties is not None and not self.expects:
            raise ValueError(
                f"metric {self.label!r} has no expectation over tied orders; use the seeded permutation or leave it out"
            )
        if self.positive_scores_only and ranked.scores is not None:
            counts_mask, ties = ranked.scores > 0, ranked.ties
            ties = ties and replace(ties, n_hits=ties.n_hits * counts_mask)
            ranked = replace(ranked, hits=ranked.hits * counts_mask, ties=ties)
        values = torch.as_tensor(self.compute(ranked, k), dtype=torch.float64)
        if self.per_user and values.shape != ranked.n_relevant.shape:
            raise ValueError(
                f"metric {self.label!r}: compute gave {list(values.shape)} numbers for {len(ranked)} users; give one "
                "for each, or make it an Aggregate, which has one for all"
            )
        if not self.needs_truth:
            return values
        return values.masked_fill(ranked.n_relevant == 0, LIBRARIES[self.convention].no_truth)

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        """[U] float64; any value where a user has no relevant item and the metric needs one."""
        raise TypeError(f"{type(self).__name__} must define compute(ranked, k)")

    def mean(self, values: Tensor, ranked: RankedHits) -> float:
        """The value over all users: by default the mean of those that have one; NaN if none has."""
        undefined, plain = LIBRARIES[self.convention].undefined, values.numpy(force=True)
        if undefined == "nan" and bool(values[ranked.n_relevant > 0].isnan().any()):
            return float("nan")
        if undefined == "zero":
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


def within(ranked: RankedHits, k: int) -> Tensor:
    """[U, k] bool: the ranks that hold an item; fewer where ``k`` is beyond the end of the lists."""
    if ranked.items is not None:
        return ranked.items[:, :k] >= 0
    k = min(k, ranked.hits.shape[1])
    return torch.arange(k, device=ranked.hits.device) < ranked.n_listed(k)[:, None]


def first_hit(ranked: RankedHits, k: int) -> Tensor:
    """[U, k] float64: the probability that the first hit is at each rank, over all orders of equal scores.

    In a group of n tied candidates with m relevant ones, whose first o are misses, the next one is a hit with
    probability m / (n - o) (McSherry and Najork, ECIR 2008, give the same as a hypergeometric tail).
    """
    ties = ranked.ties
    assert ties is not None
    hits, left = ties.n_hits[:, :k].double(), (ties.size - ties.offset)[:, :k]
    chance = (hits / left.clamp(min=1)).clamp(max=1)
    missed = (1 - chance).cumprod(1)
    return chance * torch.cat([torch.ones_like(missed[:, :1]), missed[:, :-1]], 1)


def times_listed(ranked: RankedHits, k: int) -> Tensor:
    """[n_items] int64: the lists with each item among their first ``k``."""
    items = ranked.first_items(k)
    return torch.bincount(items[items >= 0], minlength=ranked.catalogue().n_items)


def of_items(values: Tensor, ranked: RankedHits, k: int) -> Tensor:
    """[U, k]: the value of each listed item, from ``values`` [n_items]; any value past the end of a list."""
    return values[ranked.first_items(k).clamp(min=0)]


def average(values: Tensor, ranked: RankedHits, k: int) -> Tensor:
    """[U] float64: the mean over the listed items of ``values`` [U, k]; NaN for an empty list."""
    mask = ranked.first_items(k) >= 0
    return (values.double() * mask).sum(1) / mask.sum(1)
