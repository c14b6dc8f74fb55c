"""Significance against scipy and by hand, values of users in files, and the table that marks what
is best.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from refusing import refused
from scipy import stats

from recgraph.evaluate import (
    Protocol,
    ProtocolMismatch,
    Result,
    compare,
    load_users,
    save_users,
    table,
)
from recgraph.evaluate.significance import (
    cohen_d,
    compare_values,
    holm,
    over_users,
    paired_t,
    randomisation,
    welch,
)

RNG = np.random.default_rng(0)
A = RNG.random(80)
B = A + RNG.normal(0.03, 0.1, 80)


def result(values: np.ndarray, protocol: Protocol | None = None) -> Result:
    return Result(
        protocol or Protocol(), np.arange(len(values)), {"ndcg@10": np.asarray(values, dtype=float)}
    )


def test_t_is_scipys() -> None:
    assert paired_t(B - A) == pytest.approx(stats.ttest_rel(B, A).pvalue)


def test_randomisation_is_scipys_permutation_test() -> None:
    few = (B - A)[:10]
    exact = stats.permutation_test(
        (few,), lambda x: x.mean(), permutation_type="samples", n_resamples=np.inf
    )
    assert randomisation(few) == pytest.approx(exact.pvalue)
    rng = np.random.default_rng(1)
    drawn = stats.permutation_test(
        (B - A,),
        lambda x, axis: x.mean(axis),
        permutation_type="samples",
        n_resamples=20_000,
        rng=rng,
        vectorized=True,
    )
    assert randomisation(B - A, n_draws=20_000) == pytest.approx(drawn.pvalue, abs=0.01)
    # 2 of 4 sign patterns of two equal differences are as great
    assert randomisation([1.0, 1.0]) == 0.5
    assert randomisation(np.zeros(100)) == 1
    assert randomisation(np.ones(100), n_draws=99) == 1 / 100


def test_the_interval_is_scipys_bootstrap() -> None:
    other = stats.bootstrap(
        (B - A,), np.mean, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    interval = compare_values(A, B).interval
    assert (interval.low, interval.high) == pytest.approx((other.low, other.high), abs=0.003)
    assert compare_values(A, B).interval == interval
    assert compare_values(A, B, seed=1).interval != interval


def test_holm_by_hand() -> None:
    # times 4, 3, 2, 1 in ascending order, never descending
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]).tolist() == [1, 1]
    assert holm([]).tolist() == []


def test_effect_sizes_by_hand() -> None:
    assert cohen_d([1, 2, 3]) == 2
    assert cohen_d([0, 0]) == 0
    assert cohen_d([1, 1]) == np.inf


def test_over_users() -> None:
    found = over_users(result(A), result(B), "ndcg@10")
    assert found.n == 80
    assert found.difference == pytest.approx((B - A).mean())
    assert found.interval.low < found.difference < found.interval.high
    assert found.p_values["t"] == paired_t(B - A)
    assert found == compare_values(A, B)
    several = over_users([result(A), result(A + 0.2), result(A / 7)], result(B), "ndcg@10")
    assert several.difference == pytest.approx((B - (A + A + 0.2 + A / 7) / 3).mean())
    assert several == over_users([result(A / 7), result(A), result(A + 0.2)], result(B), "ndcg@10")
    assert compare_values(np.zeros(4), [0.1, 0.2, 0.3, 0.4]).p_values["randomisation"] == 2 / 16
    missing = A.copy()
    missing[:5] = np.nan
    assert compare_values(missing, B).n == 75


def test_what_cannot_be_compared() -> None:
    with refused("seen", by=ProtocolMismatch):
        over_users(result(A), result(B, Protocol(seen="exclude")), "ndcg@10")
    with refused("users"):
        over_users(result(A), result(B[:50]), "ndcg@10")
    with refused("gini@10"):
        over_users(result(A), result(B), "gini@10")
    with refused("pairs"):
        compare_values([1.0], [2.0])


def test_welch_is_scipys() -> None:
    a, b = A[:5], B[5:12]
    found = welch(a, b)
    other = stats.ttest_ind(b, a, equal_var=False)
    assert found.p_value == pytest.approx(other.pvalue)
    assert (found.interval.low, found.interval.high) == pytest.approx(
        tuple(other.confidence_interval(0.95))
    )
    assert found.difference == pytest.approx(b.mean() - a.mean())


# --- files, and the table that marks what is significantly best

BASE = np.random.default_rng(1).random(200)


def shifted(
    shift: float, seed: int = 0, protocol: Protocol | None = None, ids: pl.Series | None = None
) -> Result:
    noise = np.random.default_rng(seed).normal(0, 0.05, 200)
    values = {"ndcg@10": BASE + shift + noise, "mrr@10": BASE + noise}
    return Result(
        protocol or Protocol(), np.arange(200) * 3, values, {"gini@10": 0.5 + shift}, 4, ids
    )


def test_a_file_gives_the_result_back(tmp_path: Path) -> None:
    protocol = Protocol(split="time", seen="exclude", cutoffs=(3, 10))
    for name, ids in (
        ("plain", None),
        ("ids", pl.Series("user_id", [f"u{place}" for place in range(200)])),
    ):
        own = shifted(0.1, protocol=protocol, ids=ids)
        own.per_user["mrr@10"][5] = np.nan
        path = tmp_path / "deep" / f"{name}.parquet"
        save_users(own, path)
        back = load_users(path)
        assert (back.hash, back.n_unreachable_users, back.protocol) == (own.hash, 4, protocol)
        assert back.metrics == pytest.approx(own.metrics, nan_ok=True)
        for metric, values in own.per_user.items():
            np.testing.assert_array_equal(back.per_user[metric], values)
        if ids is None:
            assert back.users.tolist() == own.users.tolist()
            assert pl.read_parquet(path).columns == ["user_idx", "ndcg@10", "mrr@10"]
        else:
            assert back.user_ids is not None
            assert back.user_ids.to_list() == ids.to_list()
    assert sorted(found.name for found in path.parent.iterdir()) == ["ids.parquet", "plain.parquet"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    pl.DataFrame({"user_idx": [1]}).write_parquet(tmp_path / "other.parquet")
    with refused("other.parquet"):
        load_users(tmp_path / "other.parquet")


def test_marks_and_corrected_p_values() -> None:
    models = {"plain": shifted(0, 1), "near": shifted(0.1, 2), "good": shifted(0.1005, 3)}
    made = table(models, ["ndcg@10", "mrr@10", "gini@10"], n_draws=999)
    marks = {name: row["ndcg@10"].mark for name, row in made.cells.items()}
    assert marks == {"plain": "", "near": "tied", "good": "tied"}
    best = {
        metric: max(models, key=lambda name: models[name][metric])
        for metric in ("ndcg@10", "mrr@10")
    }
    pairs = [(name, metric) for metric in best for name in models if name != best[metric]]
    raw = [
        randomisation(
            models[best[metric]].per_user[metric] - models[name].per_user[metric], n_draws=999
        )
        for name, metric in pairs
    ]
    for (name, metric), expected in zip(pairs, holm(raw), strict=True):
        assert made.cells[name][metric].p_value == pytest.approx(expected)
    assert made.cells["good"]["gini@10"].mark == ""
    assert made.cells["good"]["gini@10"].p_value is None
    text = str(made)
    assert text.splitlines()[0].split() == ["model", "ndcg@10", "mrr@10", "gini@10"]
    assert "over the 4 comparisons" in text
    assert f"{models['good']['ndcg@10']:.4f}=" in text


def test_the_best_alone_is_marked_so_and_seeds_are_averaged(tmp_path: Path) -> None:
    save_users(shifted(0.1, 3), tmp_path / "best.parquet")
    models = {"plain": [shifted(0, 1), shifted(0, 2)], "best": tmp_path / "best.parquet"}
    made = table(models, ["ndcg@10"], test="t")
    assert [row["ndcg@10"].mark for _, row in made.cells.items()] == ["", "best"]
    mean = (models["plain"][0].per_user["ndcg@10"] + models["plain"][1].per_user["ndcg@10"]) / 2
    expected = paired_t(shifted(0.1, 3).per_user["ndcg@10"] - mean)
    assert made.cells["plain"]["ndcg@10"].p_value == pytest.approx(expected)
    assert table({"one": shifted(0)}).cells["one"]["ndcg@10"].mark == ""
    with refused("results"):
        table({})
    with pytest.raises(ProtocolMismatch):
        table({"a": shifted(0), "b": shifted(0, protocol=Protocol(seen="exclude"))})


def test_results_whose_lists_of_cut_offs_alone_differ_are_compared_where_both_have_a_number() -> (
    None
):
    def made(cutoffs: tuple[int, ...], **settings: object) -> Result:
        names = {f"ndcg@{k}": BASE / k for k in cutoffs}
        return Result(Protocol.of(settings, cutoffs=cutoffs), np.arange(200), names)

    one, other = made((10,)), made((5, 10, 20))
    assert one.hash != other.hash
    assert compare(one, other) == {"ndcg@10": 0}
    assert table({"a": one, "b": other}).cells["a"].keys() == {"ndcg@10"}
    for settings in (
        {"seen": "exclude"},
        {"tie_seed": 1},
        {"part": "valid"},
        {"split_hash": "other"},
    ):
        with refused(*settings, by=ProtocolMismatch):
            compare(one, made((5, 10, 20), **settings))
    with refused("cutoffs", by=ProtocolMismatch):
        compare(made((5,)), one)
