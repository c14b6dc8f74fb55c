"""Metrics of frames and of score matrices: examples by hand, and agreement with ``evaluate``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.sparse
import torch
from refusing import refused

import recgraph as rg
from recgraph.evaluate import frame, matrix
from recgraph.evaluate.metrics import Metric, RankedHits

RECS = pl.DataFrame(
    {
        "user_id": ["a", "b", "a", "a", "b"],
        "item_id": [1, 9, 2, 3, 1],
        "score": [0.9, 0.2, 0.1, 0.5, 0.8],
    }
)
# a's list is 1, 3, 2 and b's is 1, 9; c is recommended nothing
TRUTH = pl.DataFrame({"user_id": ["a", "a", "b", "c"], "item_id": [3, 7, 9, 1]})


def convert(table: pl.DataFrame, kind: str) -> Any:
    return {
        "polars": lambda: table,
        "pandas": table.to_pandas,
        "pyarrow": table.to_arrow,
        "lazy": table.lazy,
    }[kind]()


@pytest.mark.parametrize("kind", ["polars", "pandas", "pyarrow", "lazy"])
def test_a_worked_example(kind: str) -> None:
    recs, truth = convert(RECS, kind), convert(TRUTH, kind)
    result = rg.evaluate.frame(recs, truth, score="score", cutoffs=(2,))
    users = result.users_frame()
    assert users["user_id"].to_list() == ["a", "b", "c"]
    assert users["recall@2"].to_list() == [1 / 2, 1, 0]
    assert users["mrr@2"].to_list() == [1 / 2, 1 / 2, 0]
    assert result["precision@2"] == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    best = 1 + 1 / math.log2(3)
    assert result["ndcg@2"] == pytest.approx((1 / math.log2(3) / best + 1 / math.log2(3)) / 3)


def test_order_of_rows_and_rank() -> None:
    plain = frame(RECS, TRUTH, cutoffs=(2,), metrics=["mrr"])
    assert plain.users_frame()["mrr@2"].to_list() == [0, 1, 0]
    ranks = RECS.with_columns(rank=pl.Series([3, 1, 2, 1, 2]))
    assert frame(ranks, TRUTH, rank="rank", cutoffs=(2,), metrics=["mrr"]).users_frame()[
        "mrr@2"
    ].to_list() == [1, 1, 0]


def test_grades_training_data_and_features() -> None:
    truth = TRUTH.with_columns(grade=pl.Series([1.0, 3, 2, 1]))
    train = pl.DataFrame({"user_id": ["a", "z", "z", "a"], "item_id": [1, 1, 2, 40]})
    features = pl.DataFrame({"item_id": [1, 3, 9, 2], "x": [1, 0, 1, 0], "y": [0, 1, 0, 2]})
    result = frame(
        RECS,
        truth,
        score="score",
        grade="grade",
        train=train,
        features=features,
        n_items=10,
        cutoffs=(2,),
        metrics=[
            "ndcg",
            "average_popularity",
            "new_items",
            "intra_list_diversity",
            "gini",
            "novelty",
        ],
    )
    users = result.users_frame()
    assert users["ndcg@2"][0] == pytest.approx((1 / math.log2(3)) / (3 + 1 / math.log2(3)))
    assert users["average_popularity@2"].to_list()[:2] == [1, 1]
    assert users["new_items@2"].to_list()[:2] == [1 / 2, 1]
    assert users["intra_list_diversity@2"].to_list()[:2] == pytest.approx([1, 0])
    # two users have training data: item 1 is known to both, the other to nobody
    assert users["novelty@2"].to_list()[:2] == pytest.approx([1 / 2, 1 / 2])
    # items 3 and 9 are shown once and item 1 twice, of ten
    assert result["gini@2"] == pytest.approx((5 * 1 + 7 * 1 + 9 * 2) / (10 * 4))


def test_lists_of_a_matrix_in_a_frame_have_the_values_of_the_matrix() -> None:
    rng = np.random.default_rng(0)
    scores, relevant = rng.normal(size=(50, 80)), rng.random((50, 80)) < 0.05
    relevant[:, 0] = True
    known = (rng.random((50, 80)) < 0.1) & ~relevant
    names = ["ndcg", "map", "recall", "catalogue_coverage", "novelty", "new_items"]
    results = matrix(
        scores, scipy.sparse.csr_array(relevant), seen_items=known, metrics=names, cutoffs=(10,)
    )
    for seen, table in (("keep", scores), ("exclude", np.where(known, -np.inf, scores))):
        top = np.argsort(-table, axis=1)[:, :10]
        recs = pl.DataFrame({"user_id": np.repeat(np.arange(50), 10), "item_id": top.ravel()})
        pairs = [
            pl.DataFrame(dict(zip(("user_id", "item_id"), part.nonzero(), strict=True)))
            for part in (relevant, known)
        ]
        result = frame(recs, pairs[0], train=pairs[1], metrics=names, cutoffs=(10,), n_items=80)
        assert result.metrics == pytest.approx(results[seen].metrics)


class TopScore(Metric):
    """The mean of the scores of the first k."""

    name = "top_score"
    needs = frozenset({"scores"})
    needs_truth = False

    def compute(self, ranked: RankedHits, k: int) -> torch.Tensor:
        assert ranked.scores is not None
        return ranked.scores[:, :k].double().mean(1)


def test_a_metric_of_ones_own_may_read_scores() -> None:
    scores, settings = (
        np.array([[0.5, 3, 1], [2, 0.25, -1]]),
        {"metrics": [TopScore()], "cutoffs": (2,)},
    )
    assert matrix(scores, [[0], [1]], **settings)[0].per_user["top_score@2"].tolist() == [2, 1.125]
    recs = pl.DataFrame(
        {"user_id": [7, 7, 8, 8], "item_id": [1, 2, 0, 1], "points": [3.0, 1, 2, 0.25]}
    )
    truth = pl.DataFrame({"user_id": [7, 8], "item_id": [0, 1]})
    found = frame(recs, truth, score="points", **settings)
    assert found.per_user["top_score@2"].tolist() == [2, 1.125]
    with refused("top_score", "scores"):
        frame(recs, truth, **settings)


@pytest.mark.parametrize(
    ("recs", "truth", "options", "names"),
    [
        (RECS, TRUTH, {"user": "who"}, ["recommendations", "who"]),
        (pl.concat([RECS, RECS[:1]]), TRUTH, {}, ["item 1", "user 'a'"]),
        (
            RECS,
            TRUTH.with_columns(item_id=pl.lit(None, dtype=pl.Int64)),
            {},
            ["truth", "item_id", "row 0"],
        ),
        (
            RECS.with_columns(score=pl.Series([0.5, 0.1, math.nan, 0.2, 0.3])),
            TRUTH,
            {"score": "score"},
            ["row 2"],
        ),
        (RECS, TRUTH, {"n_items": 3}, ["n_items"]),
        (RECS, TRUTH, {"metrics": ["auc"]}, ["auc"]),
        (RECS, TRUTH, {"metrics": ["novelty"]}, ["novelty", "train"]),
    ],
)
def test_frames_that_do_not_fit(
    recs: pl.DataFrame, truth: pl.DataFrame, options: dict[str, Any], names: list[str]
) -> None:
    with refused(*names):
        frame(recs, truth, **options)
