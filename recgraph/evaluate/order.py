"""Which of several models is best in a column of a table: the metric says which way, and no number is never best."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from recgraph import registry
from recgraph.evaluate.metrics.base import Metric

__all__ = ["best_first", "higher_is_better", "metric_of"]


def metric_of(column: str) -> type[Metric] | None:
    """The metric of a column, e.g. ``"gini@5"``, ``"auc"`` or ``"map(divide_by=k)@10"``; None where it is of none."""
    name = re.split("[@(]", column, maxsplit=1)[0]
    if registry.key(name) not in registry.names("metric"):
        return None
    found: type[Metric] = registry.load("metric", name)
    return found


def higher_is_better(column: str) -> bool:
    """Whether more is better in a column; it is in one of no metric."""
    metric = metric_of(column)
    return metric is None or metric.higher_is_better


def best_first(means: Mapping[str, float], column: str) -> list[str]:
    """Names by their means in a column, the best first and NaN last; equals keep their order."""
    sign = -1 if higher_is_better(column) else 1
    return sorted(means, key=lambda name: (math.isnan(means[name]), sign * means[name]))
