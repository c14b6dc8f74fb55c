"""Conventions: what nine libraries mean by a metric, as options of the metrics here.

The golden values of ``tests/evaluate/test_metric_parity.py`` were computed by these libraries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import nan
from typing import Any, Literal

from recgraph.evaluate.metrics.discounts import LATE
from recgraph.evaluate.protocol import Convention

__all__ = ["LIBRARIES", "Library", "options_of"]


@dataclass(frozen=True)
class Library:
    """The definitions of a library.

    Attributes:
        version: the library and the version whose values the definitions reproduce; empty for this library.
        metrics: the metrics that it has, by their names here -> options in place of the default ones. Two class
            attributes are set in the same way: ``needs_truth`` and ``positive_scores_only``.
        no_truth: the value of a user without relevant items; NaN leaves the user out of the mean.
        undefined: what a user without a value does to the mean: nothing (``skip``), counts as 0 (``zero``), or makes it
            NaN if the user has relevant items (``nan``).
        reads_scores: whether the scores of the listed items matter.
    """

    version: str
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    no_truth: float = nan
    undefined: Literal["skip", "zero", "nan"] = "skip"
    reads_scores: bool = False


def _as_here(names: str) -> dict[str, dict[str, Any]]:
    """The named metrics, which are defined as they are here."""
    return {name: {} for name in names.split()}


_POSITIVE = {"positive_scores_only": True}

LIBRARIES: dict[Convention, Library] = {
    "recgraph": Library(""),
    "recbole": Library(
        "RecBole 1.2.1",
        {
            **_as_here("hit_rate precision recall mrr map ndcg average_popularity tail_share"),
            "auc": {"weigh_users": True},  # GAUC
            "catalogue_coverage": {"padding_item": True},
            "gini": {"padding_item": True},
            "entropy": {"per_item": True},
        },
    ),
    "rectools": Library(
        "RecTools 0.19.0",
        {
            **_as_here("hit_rate precision recall f1 mrr partial_auc average_popularity novelty serendipity"),
            "map": {"divide_by": "relevant"},
            "ndcg": {"ideal": "full"},
            "catalogue_coverage": {"normalize": False},
            "intra_list_diversity": {"distance": "hamming"},
        },
    ),
    "replay": Library(
        "RePlay 0.22.0",
        {
            **_as_here("hit_rate precision recall mrr map ndcg"),
            "auc": {"within_list": True, "ties": "order", "all_hits": 1.0},
            "catalogue_coverage": {"known_only": True},
            "novelty": {"normalize": True},
            "new_items": {"trained_only": True},
            "unexpectedness": {"divide_by_k": True},
            "intra_list_diversity": {"distance": "categories"},
        },
        no_truth=0.0,
    ),
    "lenskit": Library(
        "LensKit 2025.8.1",
        {
            **_as_here("hit_rate mrr gini"),
            "precision": {"divide_by": "listed", "needs_truth": False},
            "recall": {"bounded": True},
            "map": {"divide_by": "listed"},
            "ndcg": {"discount": LATE},
            "dcg": {"discount": LATE, "needs_truth": False},
            "rbp": {"normalize": False, "within_list": True},
            "average_popularity": {"by_rank": True},
            "intra_list_diversity": {"distance": "entropy"},
        },
        undefined="zero",
    ),
    "pyg": Library(
        "PyTorch Geometric 2.8.1",
        {
            **_as_here(
                "hit_rate precision recall f1 mrr map ndcg catalogue_coverage personalization average_popularity"
            ),
            "intra_list_diversity": {"distance": "category pairs"},
        },
    ),
    "torchmetrics": Library(
        "TorchMetrics 1.9.0",
        {
            **_as_here("hit_rate ndcg r_precision"),
            "precision": _POSITIVE,
            "recall": _POSITIVE,
            "mrr": _POSITIVE,
            "map": {"divide_by": "hits", **_POSITIVE},
            "auc": {"within_list": True},
        },
        no_truth=0.0,
        reads_scores=True,
    ),
    "ranx": Library(
        "ranx 0.3.21",
        {
            **_as_here("hit_rate precision recall f1 mrr ndcg dcg r_precision"),
            "map": {"divide_by": "relevant"},
            "rbp": {"normalize": False, "graded": True},
        },
        no_truth=0.0,
    ),
    "cornac": Library(
        "Cornac 3.0.1",
        {
            **_as_here("hit_rate precision recall f1 ndcg"),
            "mrr": {"needs_hit": True},
            "map": {"whole": True},
            "ncrr": {"within_list": True},
            "auc": {"ties": "lose"},
        },
        undefined="nan",
    ),
    "recpack": Library(
        "RecPack 0.3.6",
        {
            **_as_here("precision recall mrr ndcg dcg"),
            "hit_rate": {"count": True},  # HitK
            "stratified_recall": {"inverse_share": True},  # IPSHitRateK
            "catalogue_coverage": {"with_truth_only": True},
            "intra_list_diversity": {"distance": "jaccard", "needs_truth": True},
        },
    ),
}


def options_of(metric: str) -> dict[Convention, Mapping[str, Any]]:
    """The conventions under which a metric of the library is defined, each with its options; none for other names."""
    own = {name: library.metrics[metric] for name, library in LIBRARIES.items() if metric in library.metrics}
    return {"recgraph": {}, **own} if own else {}
