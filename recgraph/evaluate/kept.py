"""What is kept of the ranked lists of all users, however many processes have ranked them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recgraph.data.part import Cases, Part
from recgraph.evaluate.hits import RankedHits, RelevantRanks, Truth, expected_hits
from recgraph.evaluate.measurement import Measurement
from recgraph.evaluate.topk import Lists

__all__ = ["Kept", "Share", "known_items"]


@dataclass
class Share:
    """What one process keeps of the lists of one ranking: of the users that it ranked for.

    Attributes:
        index: [B] int64, their rows of the cases.
        lists: name of a tensor of :class:`Kept` -> its rows.
        ranks: of their relevant items, in the order of ``index``; None where they are not wanted.
    """

    index: Tensor
    lists: dict[str, Tensor]
    ranks: RelevantRanks | None


@dataclass
class Kept:
    """What is kept of the lists of one ranking."""

    hits: Tensor
    lengths: Tensor
    gains: Tensor | None
    items: Tensor | None
    scores: Tensor | None
    index: list[Tensor]
    ranks: list[RelevantRanks]

    @classmethod
    def of(cls, cases: Cases, depth: int, truth: Truth, measurements: Sequence[Measurement]) -> Kept:
        """Room for the lists of all users, and for what the measurements that share the ranking read of them."""
        shape = (len(cases), depth)
        reads_scores = any(each.needs_scores for each in measurements)
        return cls(
            torch.zeros(shape, dtype=torch.bool),
            torch.zeros(len(cases), dtype=torch.int64),
            torch.zeros(shape, dtype=torch.float64) if truth.graded else None,
            torch.full(shape, -1) if any(each.needs("items", "known") for each in measurements) else None,
            torch.full(shape, -torch.inf, dtype=torch.float64) if reads_scores else None,
            [],
            [],
        )

    def add(self, index: Tensor, lists: Lists, ranks: RelevantRanks | None, truth: Truth) -> None:
        """Keep the lists of the users at rows ``index`` [B] of the cases."""
        width = lists.items.shape[1]
        positions, found = truth.find(index, lists.items)
        self.hits[index, :width] = found
        self.lengths[index] = (lists.items >= 0).sum(1)
        if self.gains is not None and truth.grades is not None:
            self.gains[index, :width] = truth.grades[positions] * found
        if self.items is not None:
            self.items[index, :width] = lists.items
        if self.scores is not None:
            self.scores[index, :width] = lists.scores.double()
        self.index.append(index)
        if ranks is not None:
            self.ranks.append(ranks)

    def share(self) -> Share:
        """What was added, to be told to other processes."""
        index = torch.cat([torch.empty(0, dtype=torch.int64), *self.index])
        held = {name: getattr(self, name) for name in ("hits", "lengths", "gains", "items", "scores")}
        lists = {name: values[index] for name, values in held.items() if values is not None}
        ranks = RelevantRanks.gather(self.ranks, torch.arange(len(index))) if self.ranks else None
        return Share(index, lists, ranks)

    def take_in(self, shares: Sequence[Share]) -> None:
        """Keep what all processes have added, this one among them."""
        for share in shares:
            for name, values in share.lists.items():
                getattr(self, name)[share.index] = values
        shares = [share for share in shares if len(share.index)]
        self.index = [share.index for share in shares]
        self.ranks = [share.ranks for share in shares if share.ranks is not None]

    def first(self, k: int) -> Kept:
        """What is kept of lists of ``k`` items; nothing is copied but the lengths."""
        if k >= self.hits.shape[1]:
            return self
        gains, items, scores = (None if part is None else part[:, :k] for part in (self.gains, self.items, self.scores))
        return replace(
            self, hits=self.hits[:, :k], lengths=self.lengths.clamp(max=k), gains=gains, items=items, scores=scores
        )

    def ranked(
        self, users: RankedHits, measurement: Measurement, cases: Cases, truth: Truth, fit_part: Part | None
    ) -> RankedHits:
        """The lists as a measurement sees them, beside what is known of the users."""
        # what others that share the ranking read beyond its longest cut-off is not part of its lists
        own = self.first(max(measurement.protocol.cutoffs))
        ranked = replace(users, hits=own.hits, gains=own.gains, lengths=own.lengths, items=own.items, scores=own.scores)
        if measurement.needs("known") and fit_part is not None and own.items is not None:
            known, trained = known_items(cases, own.items, fit_part)
            ranked = replace(ranked, known=known, trained=trained)
        if not self.ranks or not measurement.needs_ranks:
            return ranked
        ranks = RelevantRanks.gather(self.ranks, torch.cat(self.index))
        ranked = replace(ranked, relevant_ranks=ranks)
        if measurement.is_expectation:
            hits, gains, ties = expected_hits(ranks, own.hits.shape[1], truth.grades)
            ranked = replace(ranked, hits=hits, gains=gains, ties=ties)
        return ranked


def known_items(cases: Cases, items: Tensor, fit_part: Part) -> tuple[Tensor, Tensor]:
    """[U, K] whether the user has the item in the part, and [U] whether the user has any."""
    n_users = fit_part.items.n_rows
    inside = (cases.users >= 0) & (cases.users < n_users)
    lengths = torch.where(inside, fit_part.items.lengths[cases.users.clamp(0, max(n_users - 1, 0))], 0)
    keys = torch.unique(fit_part.items.rows * cases.n_items + fit_part.items.values)
    wanted = cases.users[:, None] * cases.n_items + items
    known = torch.isin(wanted, keys) & inside[:, None] & (items >= 0)
    return known, lengths > 0
