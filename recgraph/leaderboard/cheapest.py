"""The cheapest entry of a board that is nearly as good as the best."""

from __future__ import annotations

import math
from dataclasses import dataclass

from recgraph.evaluate.metrics.names import higher_is_better
from recgraph.leaderboard.frame import Number
from recgraph.leaderboard.sheet import Sheet

__all__ = ["NEAR", "Cheapest", "cheapest"]

#: an entry is nearly the best where it is within this share of the best mean
NEAR = 0.01


@dataclass(frozen=True)
class Cheapest:
    """The entry that trains in the least CPU time of those nearly as good as the best in the first column.

    Attributes:
        entry, best: names; the same where nothing cheaper is nearly as good.
        table, metric: of the first column.
        score, best_score: their means there.
        cost, best_cost: their CPU seconds of a training; searches for settings are not counted.
    """

    entry: str
    best: str
    table: str
    metric: str
    score: Number
    best_score: Number
    cost: Number
    best_cost: Number

    @property
    def text(self) -> str:
        """The finding in a sentence."""
        column = f"{self.metric}, {self.table}"
        if self.entry == self.best:
            return f"Nothing that trains in less CPU time is within {NEAR:.0%} of the best, {self.best} ({column})."
        return (
            f"The cheapest within {NEAR:.0%} of the best ({column}): {self.entry}, {self.score.mean:.4f} for "
            f"{self.cost.mean:.3g} CPU seconds of training; the best, {self.best}, has {self.best_score.mean:.4f} for "
            f"{self.best_cost.mean:.3g}, {self.best_cost.mean / self.cost.mean:.3g} times as many."
        )


def cheapest(sheet: Sheet) -> Cheapest | None:
    """The cheapest entry that is nearly the best; None where fewer than two entries have a score and a cost."""
    if not sheet.tables:
        return None
    title, metric = sheet.tables[0].title, sheet.tables[0].metrics[0]
    found = {
        one.name: (score, cost)
        for one in sheet.ranked(title, metric)
        if (score := sheet.score(one.name, title, metric))
        and math.isfinite(score.mean)
        and (cost := sheet.cost(one.name, "training_cpu_seconds"))
    }
    if len(found) < 2:
        return None
    best, (best_score, best_cost) = next(iter(found.items()))
    sign = 1 if higher_is_better(metric) else -1
    edge = sign * best_score.mean - NEAR * abs(best_score.mean)
    near = [name for name, (score, _) in found.items() if sign * score.mean >= edge]
    entry = min(near, key=lambda name: found[name][1].mean)
    score, cost = found[entry]
    return Cheapest(entry, best, title, metric, score, best_score, cost, best_cost)
