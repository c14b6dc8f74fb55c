"""Metrics of frames and of score matrices: examples by hand, and agreement with ``evaluate``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.sparse
import torch

import recgraph as rg
from recgraph.evaluate import frame, matrix
from recgraph.evaluate.frames import ScoreMatrix
from recgraph.evaluate.metrics.accuracy import Precision
from recgraph.evaluate.metrics.base import Metric, RankedHits

RECS = pl.DataFrame(
    {"user_id": ["a", "b", "a", "a", "b"], "item_id": [1, 9, 2, 3, 1], "score": [0.9, 0.2, 0.1, 0.5, 0.8]}
)
# a's list is 1, 3, 2 and b's is 1, 9; c is recommended nothing
TRUTH = pl.DataFrame({"user_id": ["a", "a", "b", "c"], "item_id": [3, 7, 9, 1]})


def convert(table: pl.DataFrame, kind: str) -> Any:
    return {"polars": lambda: table, "pandas": table.to_pandas, "pyarrow": table.to_arrow, "lazy": table.lazy}[kind]()


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


def test_conventions_and_options() -> None:
    lenskit = frame(RECS, TRUTH, score="score", cutoffs=(5,), metrics=["precision", "recall"], convention="lenskit")
    # by the length of the lists, 3 and 2; the empty list has no value and counts as 0
    assert lenskit["precision@5"] == pytest.approx((1 / 3 + 1 / 2) / 3)
    assert lenskit.users_frame()["precision@5"].is_nan().to_list() == [False, False, True]
    own = frame(RECS, TRUTH, score="score", cutoffs=(5,), metrics=[Precision(divide_by="listed")])
    assert own["precision(divide_by=listed)@5"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    with pytest.raises(ValueError, match="is of convention 'lenskit'"):
        frame(RECS, TRUTH, metrics=[Precision("lenskit")])
    with pytest.raises(ValueError, match="'auc' reads the whole ranking, which lists do not hold"):
        frame(RECS, TRUTH, metrics=["auc"])


def test_the_default_metrics_of_a_convention_are_those_that_lists_give() -> None:
    recs = pl.DataFrame({"user_id": ["a", "a", "b"], "item_id": [1, 2, 3], "rank": [2, 1, 1]})
    truth = pl.DataFrame({"user_id": ["a", "b"], "item_id": [1, 3]})
    found = rg.evaluate.frame(recs, truth, cutoffs=[2], convention="cornac")
    assert "ndcg@2" in found.metrics
    assert not [name for name in found.metrics if name.startswith("map")]  # Cornac's reads the whole ranking


def test_a_convention_that_reads_scores() -> None:
    # the scores of both hits are below 0: TorchMetrics counts such items as irrelevant
    recs = pl.DataFrame({"user_id": [1, 2, 2], "item_id": [1, 1, 0], "score": [-0.1, -0.2, 0.3]})
    truth = pl.DataFrame({"user_id": [0, 1, 2], "item_id": [0, 1, 1]})
    asked: dict[str, Any] = {"cutoffs": (2,), "metrics": ["precision", "recall", "mrr", "map", "auc", "hit_rate"]}
    found = frame(recs, truth, score="score", convention="torchmetrics", **asked)
    assert found["precision@2"] == found["recall@2"] == found["mrr@2"] == found["map@2"] == 0
    assert found["hit_rate@2"] == 2 / 3
    scores = np.array([[-np.inf, -np.inf], [-np.inf, -0.1], [0.3, -0.2]])
    assert found["precision@2"] == matrix(scores, [[0], [1], [1]], convention="torchmetrics", **asked)[0]["precision@2"]
    above = frame(recs.with_columns(pl.col("score") + 1), truth, score="score", convention="torchmetrics", **asked)
    assert above["precision@2"] == pytest.approx((0 + 1 / 2 + 1 / 2) / 3)


def test_equal_scores_of_lists_are_half_a_pair_each_whatever_the_order_of_rows() -> None:
    recs = pl.DataFrame({"user_id": "a", "item_id": [1, 2, 3], "score": [0.5, 0.5, 0.25], "rank": [1, 2, 3]})
    truth = pl.DataFrame({"user_id": ["a"], "item_id": [1]})
    asked: dict[str, Any] = {"cutoffs": (3,), "metrics": ["auc"], "convention": "torchmetrics"}
    for rows in (recs, recs.reverse()):
        assert frame(rows, truth, score="score", **asked)["auc@3"] == (1 / 2 + 1) / 2
    assert frame(recs, truth, score="score", rank="rank", **asked)["auc@3"] == (1 / 2 + 1) / 2
    for options, message in (
        ({}, "convention = 'torchmetrics' reads the scores of lists; give score, the column that has them"),
        ({"rank": "rank"}, "convention = 'torchmetrics' reads the scores of lists; give score"),
        ({"rank": "rank", "score": "points"}, "recommendations has no column 'points'"),
    ):
        with pytest.raises(ValueError, match=message):
            frame(recs, truth, **asked, **options)


def test_order_of_rows_and_rank() -> None:
    plain = frame(RECS, TRUTH, cutoffs=(2,), metrics=["mrr"])
    assert plain.users_frame()["mrr@2"].to_list() == [0, 1, 0]
    ranks = RECS.with_columns(rank=pl.Series([3, 1, 2, 1, 2]))
    assert frame(ranks, TRUTH, rank="rank", cutoffs=(2,), metrics=["mrr"]).users_frame()["mrr@2"].to_list() == [1, 1, 0]


def test_users_without_truth() -> None:
    truth = TRUTH.filter(pl.col("user_id") != "b")
    values = frame(RECS, truth, score="score", cutoffs=(2,), metrics=["recall", "catalogue_coverage"])
    assert values["recall@2"] == pytest.approx((1 / 2 + 0) / 2)
    # b's list still shows items: 1, 3 and 9 of 1, 2, 3, 7, 9
    assert values["catalogue_coverage@2"] == 3 / 5
    assert frame(RECS, truth, score="score", cutoffs=(2,), metrics=["recall"], convention="replay")["recall@2"] == 1 / 6
    ranx = frame(RECS, truth, score="score", cutoffs=(2,), metrics=["recall"], convention="ranx")
    assert ranx.users_frame()["user_id"].to_list() == ["a", "c"]


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
        metrics=["ndcg", "average_popularity", "new_items", "intra_list_diversity", "gini", "novelty"],
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


@pytest.mark.parametrize(
    ("recs", "truth", "options", "message"),
    [
        (RECS, TRUTH, {"user": "who"}, "recommendations has no column 'who'"),
        (RECS, TRUTH, {"grade": "grade"}, "truth has no column 'grade'"),
        (pl.concat([RECS, RECS[:1]]), TRUTH, {}, "name item 1 twice for user 'a'"),
        (RECS, TRUTH.with_columns(item_id=pl.lit("x")), {}, "holds integers and texts"),
        (RECS, TRUTH.with_columns(item_id=pl.lit(None, dtype=pl.Int64)), {}, "missing value"),
        (RECS, TRUTH[:0], {}, "truth is empty"),
        (RECS, TRUTH, {"n_items": 3}, "n_items = 3 is smaller than the 5"),
    ],
)
def test_frames_that_do_not_fit(recs: pl.DataFrame, truth: pl.DataFrame, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frame(recs, truth, **options)


NAN, TEXTS = [0.5, 0.1, math.nan, 0.2, 0.3], ["9", "10", "1", "2", "3"]


@pytest.mark.parametrize(
    ("recs", "truth", "options", "message"),
    [
        (
            RECS.with_columns(score=pl.Series(NAN)),
            TRUTH,
            {"score": "score"},
            "recommendations has NaN .*'score', row 2",
        ),
        (RECS.with_columns(rank=pl.Series(NAN)), TRUTH, {"rank": "rank"}, "recommendations has NaN .*'rank', row 2"),
        (
            RECS.with_columns(rank=pl.Series(TEXTS)),
            TRUTH,
            {"rank": "rank"},
            "recommendations has texts in column 'rank', e.g. '9' in row 0; turn them into numbers",
        ),
        (RECS, TRUTH.with_columns(grade=pl.Series(NAN[1:])), {"grade": "grade"}, "truth has NaN .*'grade', row 1"),
        (RECS, TRUTH.with_columns(grade=pl.lit(True)), {"grade": "grade"}, "truth has booleans in column 'grade'"),
        (
            RECS.with_columns(score=pl.Series([0.5, None, 0.1, 0.2, 0.3])),
            TRUTH,
            {"score": "score"},
            "recommendations has a missing value in column 'score', row 1",
        ),
    ],
)
def test_scores_ranks_and_grades_are_numbers(
    recs: pl.DataFrame, truth: pl.DataFrame, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        frame(recs, truth, **options)


def test_recommendations_without_rows() -> None:
    empty = RECS.with_columns(score=pl.lit(None, dtype=pl.String))[:0]
    assert frame(empty, TRUTH, score="score", cutoffs=(2,), metrics=["recall"])["recall@2"] == 0


@pytest.mark.parametrize(
    ("metric", "needed", "of_frame", "of_matrix"),
    [
        ("novelty", "what the model was fitted on", "train", "seen_items"),
        ("new_items", "what the model was fitted on", "train", "seen_items"),
        ("intra_list_diversity", "features of items", "features", "features"),
    ],
)
def test_what_a_metric_needs_is_named(metric: str, needed: str, of_frame: str, of_matrix: str) -> None:
    with pytest.raises(ValueError, match=f"metric '{metric}' needs {needed}; give {of_frame}"):
        frame(RECS, TRUTH, metrics=[metric])
    with pytest.raises(ValueError, match=f"metric '{metric}' needs {needed}; give {of_matrix}"):
        matrix(np.eye(4), np.eye(4), metrics=[metric])


@pytest.mark.parametrize("convention", ["lenskit", "recpack"])
def test_embeddings_are_no_memberships(convention: str) -> None:
    """The entropy of negative shares is no number, which LensKit's mean counts as 0."""
    asked: dict[str, Any] = {"metrics": ["intra_list_diversity"], "cutoffs": (2,), "convention": convention}
    with pytest.raises(ValueError, match=r"features: column 1 of item index 2 is -0.5; distance = '\w+' reads what"):
        matrix(np.eye(3), np.eye(3), features=np.array([[1.0, 0.0], [0.0, 1.0], [0.5, -0.5]]), **asked)


def test_features_of_a_matrix_may_be_an_array() -> None:
    names = ["intra_list_diversity"]
    values = [
        matrix(np.eye(4), np.eye(4), metrics=names, cutoffs=(2,), features=features)[0].metrics
        for features in (np.eye(4), torch.eye(4), np.eye(4, dtype=int).tolist())
    ]
    assert values == [{"intra_list_diversity@2": 1}] * 3


def test_large_integers_stay_apart() -> None:
    # as float32 the first two scores are equal, and so are the last two
    scores = np.array([[2**24, 2**24 + 1, 2**40, 2**40 + 1]] * 2)
    relevant = [[3], [1]]
    result = matrix(scores, relevant, cutoffs=(1, 3), metrics=["mrr", "auc"], ties="expectation")[0]
    assert result.per_user["mrr@1"].tolist() == [1, 0]
    assert result.per_user["mrr@3"].tolist() == [1, pytest.approx(1 / 3)]
    assert result.per_user["auc"].tolist() == [1, pytest.approx(1 / 3)]


def test_lists_of_a_matrix_in_a_frame_have_the_values_of_the_matrix() -> None:
    rng = np.random.default_rng(0)
    scores, relevant = rng.normal(size=(50, 80)), rng.random((50, 80)) < 0.05
    relevant[:, 0] = True
    known = (rng.random((50, 80)) < 0.1) & ~relevant
    names = ["ndcg", "map", "recall", "catalogue_coverage", "novelty", "new_items", "stratified_recall"]
    results = matrix(scores, scipy.sparse.csr_array(relevant), seen_items=known, metrics=names, cutoffs=(10,))
    for seen, table in (("keep", scores), ("exclude", np.where(known, -np.inf, scores))):
        top = np.argsort(-table, axis=1)[:, :10]
        recs = pl.DataFrame({"user_id": np.repeat(np.arange(50), 10), "item_id": top.ravel()})
        pairs = [
            pl.DataFrame(dict(zip(("user_id", "item_id"), part.nonzero(), strict=True))) for part in (relevant, known)
        ]
        result = frame(recs, pairs[0], train=pairs[1], metrics=names, cutoffs=(10,), n_items=80)
        assert result.metrics == pytest.approx(results[seen].metrics)


def test_matrix_forms() -> None:
    rng = np.random.default_rng(1)
    scores, relevant = rng.normal(size=(20, 30)), rng.random((20, 30)) < 0.1
    relevant[0], relevant[1, 3] = False, True
    lists = [row.nonzero()[0].tolist() for row in relevant]
    same = [matrix(scores, form)[0].metrics for form in (relevant, scipy.sparse.coo_array(relevant), lists)]
    assert same[0] == same[1] == same[2]
    result = matrix(torch.from_numpy(scores), lists, metrics=["auc"], ties="expectation")
    assert 0 not in result[0].users
    assert len(result) == 1
    grades = np.where(relevant, rng.integers(1, 5, relevant.shape), 0)
    assert matrix(scores, grades)[0]["ndcg@10"] != same[0]["ndcg@10"]
    with pytest.raises(TypeError, match="no vectors"):
        ScoreMatrix(torch.zeros(1, 1)).encode_items()
    for bad, message in (
        (relevant[:3], "truth must be"),
        ([[30]] * 20, "outside 0 to 29"),
        ([[]] * 20, "truth is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            matrix(scores, bad)
    with pytest.raises(ValueError, match="scores must be"):
        matrix(scores[0], relevant)


def test_items_of_a_matrix_are_integers() -> None:
    with pytest.raises(ValueError, match=r"truth holds \[1.9\]; give indices of items, which are integers"):
        matrix([[0.0, 1.0, 2.0]], [[1.9]])


def test_seen_items_that_are_not_given_are_not_left_out() -> None:
    with pytest.raises(ValueError, match="give seen_items, or take seen="):
        matrix(np.eye(4), np.eye(4), seen=["exclude"])


FEATURES = pl.DataFrame({"item_id": [1, 2, 3, 7, 9], "a": [1.0, 0, 0, 1, 1], "b": [False, True, True, True, False]})


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (FEATURES.with_columns(a=pl.Series([1.0, None, 0, 1, 1])), "features has a missing value in column 'a', row 1"),
        (FEATURES.with_columns(a=pl.Series([1.0, 0, math.nan, 1, 1])), "features has NaN in column 'a', row 2"),
        (FEATURES.with_columns(b=pl.Series([True, None, True, True, True])), "a missing value in column 'b', row 1"),
        (FEATURES.with_columns(a=pl.Series([1.0, 0, 0, math.inf, 1])), "an infinite number in column 'a', row 3"),
        (FEATURES.with_columns(a=pl.lit("x")), "features has String in column 'a'; turn it into numbers"),
        (pl.concat([FEATURES, FEATURES[1:2]]), "features has an item a second time in column 'item_id', row 5"),
        (FEATURES.select("item_id"), "features has no column beside 'item_id'"),
    ],
)
def test_features_that_describe_no_list(features: pl.DataFrame, message: str) -> None:
    settings = {"metrics": ["intra_list_diversity"], "cutoffs": (2,)}
    assert not math.isnan(frame(RECS, TRUTH, features=FEATURES, **settings)["intra_list_diversity@2"])
    with pytest.raises(ValueError, match=message):
        frame(RECS, TRUTH, features=features, **settings)


@pytest.mark.parametrize("kind", ["polars", "pandas"])
def test_ids_may_be_categories(kind: str) -> None:
    recs, truth = (table.with_columns(pl.col("item_id").cast(pl.String)) for table in (RECS, TRUTH))
    plain = frame(recs, truth, score="score", cutoffs=(2,))
    as_category = pl.col("user_id", "item_id").cast(pl.Categorical)
    for own in (truth, truth.with_columns(as_category)):
        found = frame(convert(recs.with_columns(as_category), kind), convert(own, kind), score="score", cutoffs=(2,))
        assert found.metrics == plain.metrics
        assert found.users_frame()["user_id"].to_list() == ["a", "b", "c"]


class TopScore(Metric):
    """The mean of the scores of the first k."""

    name = "top_score"
    needs = frozenset({"scores"})
    needs_truth = False

    def compute(self, ranked: RankedHits, k: int) -> torch.Tensor:
        assert ranked.scores is not None
        return ranked.scores[:, :k].double().mean(1)


def test_whole_decimals_are_the_integers_that_they_stand_for() -> None:
    plain = pl.DataFrame({"user_id": [1, 2], "item_id": [5, 6]})
    decimals = plain.with_columns(pl.all().cast(pl.Decimal(38, 0)))
    for recs in (decimals, plain):
        result = frame(recs, decimals, cutoffs=(1,))
        assert result["recall@1"] == 1
        assert result.users_frame()["user_id"].to_list() == [1, 2]


@pytest.mark.parametrize("argument", ["scores", "truth", "seen_items", "features"])
def test_a_matrix_that_is_a_frame_or_sparse_is_refused(argument: str) -> None:
    plain = {name: np.eye(3) for name in ("scores", "truth", "seen_items", "features")}
    for made in (pl.DataFrame(np.eye(3)), pl.DataFrame(np.eye(3)).to_pandas(), pl.DataFrame(np.eye(3)).to_arrow()):
        with pytest.raises(ValueError, match=rf"{argument} is a frame; give .* array, e\.g\. {argument}\.to_numpy"):
            matrix(**{**plain, argument: made})
    if argument in ("scores", "features"):
        with pytest.raises(ValueError, match=rf"{argument} is sparse \(csr_matrix\); .*{argument}\.toarray\(\)"):
            matrix(**{**plain, argument: scipy.sparse.csr_matrix(np.eye(3))})


def test_a_matrix_without_rows_has_no_truth() -> None:
    for truth in ([], np.zeros((0, 3))):
        with pytest.raises(ValueError, match="truth is empty: no user has a relevant item"):
            matrix(np.zeros((0, 3)), truth)


def test_a_metric_of_ones_own_may_read_scores() -> None:
    scores, settings = np.array([[0.5, 3, 1], [2, 0.25, -1]]), {"metrics": [TopScore()], "cutoffs": (2,)}
    assert matrix(scores, [[0], [1]], **settings)[0].per_user["top_score@2"].tolist() == [2, 1.125]
    recs = pl.DataFrame({"user_id": [7, 7, 8, 8], "item_id": [1, 2, 0, 1], "points": [3.0, 1, 2, 0.25]})
    truth = pl.DataFrame({"user_id": [7, 8], "item_id": [0, 1]})
    found = frame(recs, truth, score="points", **settings)
    assert found.per_user["top_score@2"].tolist() == [2, 1.125]
    with pytest.raises(ValueError, match="metric 'top_score' reads the scores of lists; give score, the column"):
        frame(recs, truth, **settings)


def test_a_metric_of_ones_own_has_a_number_for_each_user() -> None:
    class Found(Metric):
        name = "found"

        def __init__(self, made: Callable[[torch.Tensor], Any]) -> None:
            super().__init__()
            object.__setattr__(self, "made", made)

        def compute(self, ranked: RankedHits, k: int) -> torch.Tensor:
            made: torch.Tensor = self.made(ranked.hits[:, :k])  # type: ignore[attr-defined]
            return made

    def of(made: Callable[[torch.Tensor], Any]) -> np.ndarray:
        return matrix(np.eye(3), [[0], [1], [0, 2]], metrics=[Found(made)], cutoffs=(3,))[0].per_user["found@3"]

    for made in (lambda hits: hits.sum(1), lambda hits: hits.sum(1).numpy(), lambda hits: hits.sum(1).float()):
        assert of(made).dtype == np.float64
        assert of(made).tolist() == [1, 1, 2]
    assert of(lambda hits: hits.any(1)).tolist() == [1, 1, 1]
    for wrong in (lambda hits: hits.float().mean(), lambda hits: hits.float()):
        with pytest.raises(ValueError, match=r"metric 'found': compute gave \[.*\] numbers for 3 users; give one"):
            of(wrong)
