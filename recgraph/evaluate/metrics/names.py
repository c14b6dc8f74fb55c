"""Metrics by name: ``"ndcg@10"`` in settings, on the command line and in columns of results.

Every metric of the registry has a name: the library's own, those that a package adds by an entry point, and those that
a program registers with ``@rg.register("metric")``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recgraph import registry
from recgraph.evaluate.metrics.base import Metric

#: what is computed where the caller names no metrics
DEFAULT_METRICS = ("recall", "hit_rate", "ndcg", "mrr", "map", "precision")
#: short name -> name
_SHORT = {"coverage": "catalogue_coverage", "popularity": "average_popularity", "diversity": "intra_list_diversity"}


def metric_class(name: str) -> type[Metric]:
    """The class of a metric by its name, without a cut-off.

    Raises:
        ValueError: there is none, or it is registered under another name than its own.
    """
    if registry.key(name) not in registry.names("metric"):
        if registry.key(name) not in _SHORT:
            raise registry.unknown("metric", name, _SHORT)
        name = _SHORT[registry.key(name)]
    found: type[Metric] = registry.load("metric", name)
    own = getattr(found, "name", None)
    if own is None or registry.key(own) != registry.key(name):
        raise ValueError(
            f"metric {name!r} is {found.__name__}, whose attribute name is {own!r}; give both the same name"
        )
    return found


@dataclass(frozen=True)
class Asked:
    """What a caller asks for: metrics by name, with a cut-off (``"ndcg@10"``) or at all cut-offs, or as they are.

    Attributes:
        metrics: without cut-offs, each once.
        lengths: label -> its cut-offs, of metrics that are asked for at cut-offs of their own alone.
        named: all cut-offs that metrics name.
    """

    metrics: tuple[Metric, ...]
    lengths: Mapping[str, tuple[int, ...]]
    named: frozenset[int]

    @classmethod
    def of(cls, wanted: Sequence[str | Metric] | None) -> Asked:
        """Read names; None for the default metrics.

        Raises:
            ValueError: no such metric, or one that has no cut-off is given one.
        """
        if isinstance(wanted, str):
            raise ValueError(f"metrics = {wanted!r} must be a list of names, as metrics=({wanted!r},)")
        metrics: dict[str, Metric] = {}
        lengths: dict[str, set[int]] = {}
        everywhere: set[str] = set()
        for each in DEFAULT_METRICS if wanted is None else wanted:
            name, k = split_metric(each) if isinstance(each, str) and "@" in each else (each, None)
            metric = name if isinstance(name, Metric) else metric_class(name)()
            if k is not None and not metric.cut:
                raise ValueError(f"metric {each!r} reads the whole ranking and has no cut-off; write {name!r}")
            metrics.setdefault(metric.label, metric)
            if k is None:
                everywhere.add(metric.label)
            else:
                lengths.setdefault(metric.label, set()).add(k)
        own = {label: tuple(sorted(ks)) for label, ks in lengths.items() if label not in everywhere}
        return cls(tuple(metrics.values()), own, frozenset[int]().union(*lengths.values()))

    def cutoffs(self, given: Sequence[int] | None, default: Sequence[int]) -> tuple[int, ...]:
        """The cut-offs of a protocol: those that are given, or else the default ones where a metric asks for none of
        its own; and those that metrics ask for."""
        if given is None:
            is_plain = any(metric.cut and metric.label not in self.lengths for metric in self.metrics)
            given = default if is_plain or not self.named else ()
        return tuple(sorted({*given, *self.named}))

    def columns(self, metric: Metric, cutoffs: Sequence[int]) -> tuple[int | None, ...]:
        """The cut-offs at which a metric is computed; None where it has none."""
        return self.lengths.get(metric.label, tuple(cutoffs)) if metric.cut else (None,)


def split_metric(text: str) -> tuple[str, int | None]:
    """``"coverage@20"`` -> ``("catalogue_coverage", 20)``; ``"auc"`` -> ``("auc", None)``, as it has no cut-off.

    Raises:
        ValueError: not of the form ``name@k``, or no such metric.
    """
    name, sign, k = text.partition("@")
    if sign and k.isdigit() and int(k) >= 1:
        return metric_class(name).name, int(k)
    if not sign and registry.key(name) in registry.names("metric") and not metric_class(name).cut:
        return metric_class(name).name, None
    raise ValueError(f"metric {text!r} must be of the form name@k, e.g. ndcg@10")


def full_name(text: str) -> str:
    """``"coverage@20"`` -> ``"catalogue_coverage@20"``; raises as :func:`split_metric`."""
    name, k = split_metric(text)
    return name if k is None else f"{name}@{k}"


def value_of(metrics: Mapping[str, float], text: str) -> float:
    """The value of ``"coverage@20"`` among the values of a result; a metric without cut-off has none in its name."""
    name, _ = split_metric(text)
    return metrics[name if name in metrics else full_name(text)]


def metric_of(column: str) -> type[Metric] | None:
    """The metric of a column, e.g. ``"gini@5"``, ``"auc"`` or ``"f1(beta=2.0)@10"``; None where it is of none."""
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
