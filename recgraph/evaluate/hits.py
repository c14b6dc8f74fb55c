"""What metrics read: the hits of ranked lists, the ranks of the relevant items, and what is known of the items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from recgraph.data.part import Cases
from recgraph.sparse.ragged import Ragged


def check_items(name: str, items: Tensor, n_items: int) -> None:
    """Refuse indices of items that the catalogue does not have; names the argument."""
    if bool(((items < 0) | (items >= n_items)).any()):
        raise ValueError(f"{name} holds an item outside 0 to {n_items - 1}; leave out padding and unknown items")


@dataclass(frozen=True)
class Facts:
    """What is known of the items, apart from any ranking.

    Attributes:
        n_items: the size of the catalogue.
        counts: [n_items] int64, interactions of each item in the data the model was fitted on.
        n_users: users of that data with an interaction.
        features: [n_items, F], item features or embeddings.
    """

    n_items: int
    counts: Tensor | None = None
    n_users: int | None = None
    features: Tensor | None = None

    @cached_property
    def by_popularity(self) -> Tensor:
        """[n_items] int64: the most popular item first, equally popular ones in the order of their indices."""
        assert self.counts is not None
        return self.counts.argsort(descending=True, stable=True)


@dataclass(frozen=True)
class RelevantRanks:
    """The ranks of the relevant items among all candidates, as counts of what is listed before them.

    Attributes:
        above: a row for each user, an entry for each relevant item: the candidates with a greater score.
        equal, before: aligned with ``above.values``: the candidates with the same score, the item itself included; and
            how many of them the tie rule lists before it.
        reachable: aligned, bool: whether the item is a candidate at all; the counts of others mean nothing.
        n_candidates: [U] int64.
    """

    above: Ragged
    equal: Tensor
    before: Tensor
    reachable: Tensor
    n_candidates: Tensor

    def rows(self, start: int, end: int) -> RelevantRanks:
        end = min(end, self.above.n_rows)
        first, last = (int(self.above.offsets[row]) for row in (start, end))
        return RelevantRanks(
            self.above.part(start, end),
            self.equal[first:last],
            self.before[first:last],
            self.reachable[first:last],
            self.n_candidates[start:end],
        )

    def to(self, device: torch.device) -> RelevantRanks:
        counts = (part.to(device) for part in (self.equal, self.before, self.reachable, self.n_candidates))
        return RelevantRanks(self.above.to(device), *counts)

    @classmethod
    def gather(cls, parts: Sequence[RelevantRanks], index: Tensor) -> RelevantRanks:
        """The users of all parts; row i of the parts is user ``index[i]`` [U] of the result."""
        row_of = index.argsort()
        above = Ragged.cat([part.above for part in parts])
        equal, before, reachable = (
            above.with_values(torch.cat([getattr(part, name) for part in parts])).take(row_of).values
            for name in ("equal", "before", "reachable")
        )
        n_candidates = torch.cat([part.n_candidates for part in parts])[row_of]
        return cls(above.take(row_of), equal, before, reachable, n_candidates)


@dataclass(frozen=True)
class Ties:
    """The tied group that each rank of a list belongs to, for expectations over all orders of equal scores.

    Attributes:
        offset: [U, K] int64, ranks of the group before this one.
        size: [U, K] int64, candidates in the group (also beyond the list); at least 1.
        n_hits: [U, K] int64, relevant ones among them.
    """

    offset: Tensor
    size: Tensor
    n_hits: Tensor


@dataclass(frozen=True)
class RankedHits:
    """Ranked lists as metrics see them. What is None is not known; a metric names what it needs.

    Attributes:
        hits: [U, K], whether the item at each rank is relevant: bool, or float64 where ``ties`` are given: the
            probability over all orders of equal scores. A rank past the end of a short list is a miss.
        n_relevant: [U] int64; relevant items that cannot be recommended count.
        gains: [U, K] float64, the grade of the item at each rank, 0 for a miss (its expectation where ``ties`` are
            given); None where grades are binary.
        ideal_gains: [U, K] float64, the user's grades in descending order, padded with 0; None where binary.
        items: [U, K] int64, -1 past the end.
        scores: [U, K], aligned, where they are known.
        known: [U, K] bool, whether the user has an interaction with the item in the data the model was fitted on.
        relevant_ranks: of the relevant items among all candidates.
        ties: the tied groups.
        facts: of the items.
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
    facts: Facts | None = None

    def __len__(self) -> int:
        return self.hits.shape[0]

    def first(self, k: int) -> RankedHits:
        """Lists cut to their first ``k`` ranks."""
        return self._part(slice(None), slice(k))

    def rows(self, start: int, end: int) -> RankedHits:
        """Users ``start`` to ``end``."""
        ranks = None if self.relevant_ranks is None else self.relevant_ranks.rows(start, end)
        part = self._part(slice(start, end), slice(None))
        return replace(part, n_relevant=self.n_relevant[start:end], relevant_ranks=ranks)

    def _part(self, rows: slice, ranks: slice) -> RankedHits:
        """What is of users and ranks, cut to some of them."""
        tables = {name: getattr(self, name) for name in ("hits", "gains", "ideal_gains", "items", "scores", "known")}
        cut: dict[str, Any] = {name: None if table is None else table[rows, ranks] for name, table in tables.items()}
        ties = self.ties and Ties(*(each[rows, ranks] for each in (self.ties.offset, self.ties.size, self.ties.n_hits)))
        return replace(self, **cut, ties=ties)

    def listed(self) -> Tensor:
        """[U, K] int64: the items, -1 past the end of a list."""
        assert self.items is not None
        return self.items

    def catalogue(self) -> Facts:
        """The facts of the items."""
        assert self.facts is not None
        return self.facts

    def popularity(self) -> Tensor:
        """[n_items] int64: interactions of each item in the data the model was fitted on."""
        counts = self.catalogue().counts
        assert counts is not None
        return counts


@dataclass(frozen=True)
class Truth:
    """Relevant items, each once.

    Attributes:
        keys: [T] int64, ascending: ``row * n_items + item``.
        grades: [T] float64, aligned, or None; an item that is given twice counts with its highest grade.
        n_relevant: [U] int64.
        n_items: the size of the catalogue.
    """

    keys: Tensor
    grades: Tensor | None
    n_relevant: Tensor
    n_items: int

    @classmethod
    def of(cls, cases: Cases) -> Truth:
        """The truth of cases; refuses items outside the catalogue, and grades that are not positive and finite."""
        values = cases.truth.values
        check_items("cases.truth", values, cases.n_items)
        keys, inverse = torch.unique(cases.truth.rows * cases.n_items + values, return_inverse=True)
        n_relevant = torch.bincount(keys // cases.n_items, minlength=len(cases))
        grades = None
        if cases.grades is not None:
            given = cases.grades.double()
            if not bool(((given > 0) & given.isfinite()).all()):
                raise ValueError("cases.grades (grades) must be positive and finite")
            grades = torch.zeros(keys.numel(), dtype=torch.float64)
            grades.scatter_reduce_(0, inverse, given, "amax")
        return cls(keys, grades, n_relevant, cases.n_items)

    @property
    def relevant(self) -> Ragged:
        """A row for each user, the relevant items in ascending order."""
        return Ragged.from_lengths(self.keys % self.n_items, self.n_relevant)

    def find(self, rows: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Look lists ``items`` [B, K] of the cases ``rows`` [B] up: positions [B, K] among :attr:`keys` (any where not
        found), and found [B, K] bool."""
        wanted = torch.where(items < 0, -1, rows[:, None] * self.n_items + items)
        positions = torch.searchsorted(self.keys, wanted).clamp(max=self.keys.numel() - 1)
        return positions, self.keys[positions] == wanted

    def ideal_gains(self, depth: int) -> Tensor | None:
        """[U, depth] float64: each user's grades in descending order, padded with 0; None where binary."""
        if self.grades is None:
            return None
        rows = self.keys // self.n_items
        by_grade = self.grades.argsort(descending=True, stable=True)
        order = by_grade[rows[by_grade].argsort(stable=True)]
        sorted_grades = Ragged.from_lengths(self.grades[order], self.n_relevant)
        return sorted_grades.first(self.n_relevant.clamp(max=depth)).to_padded(width=depth)


def expected_hits(ranks: RelevantRanks, depth: int, grades: Tensor | None = None) -> tuple[Tensor, Tensor | None, Ties]:
    """Lists in which each rank holds the probability of a hit.

    A group of n candidates with the same score, m of them relevant, takes n consecutive ranks; over all their orders
    each of these is a hit with probability m / n.

    Args:
        grades: [T] float64, aligned with ``ranks.above.values``, or None.

    Returns:
        hits [U, depth] float64, gains [U, depth] float64 or None, and the groups; a rank without a relevant item in
        its group is a group of its own.
    """
    n_users, device = ranks.above.n_rows, ranks.above.device
    shape = (n_users, depth)
    hits = torch.zeros(shape, dtype=torch.float64, device=device)
    gains = None if grades is None else torch.zeros_like(hits)
    ties = Ties(*(torch.full(shape, fill, device=device) for fill in (0, 1, 0)))
    listed = ranks.reachable & (ranks.above.values < depth)
    keys = (ranks.above.rows * depth + ranks.above.values)[listed]
    keys, group, n_hits = torch.unique(keys, return_inverse=True, return_counts=True)
    size = torch.zeros_like(keys).scatter_(0, group, ranks.equal[listed])
    above = keys % depth
    lengths = size.minimum(depth - above)
    taken = Ragged.from_lengths(torch.empty(int(lengths.sum()), device=device), lengths)
    rows, offset = taken.rows, taken.positions
    at = (keys // depth)[rows], above[rows] + offset
    hits[at] = (n_hits.double() / size)[rows]
    if grades is not None and gains is not None:
        total = torch.zeros(keys.numel(), dtype=torch.float64, device=device).index_add_(0, group, grades[listed])
        gains[at] = (total / size)[rows]
    ties.offset[at], ties.size[at], ties.n_hits[at] = offset, size[rows], n_hits[rows]
    return hits, gains, ties
