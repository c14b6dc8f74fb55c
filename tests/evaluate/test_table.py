"""Values of users in files, and the table that marks what is significantly best."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from refusing import refused

from recgraph.evaluate import Protocol, ProtocolMismatch, Result, compare, load_users, save_users, table
from recgraph.evaluate.significance import holm, over_users, paired_t, randomisation

RNG = np.random.default_rng(1)
BASE = RNG.random(200)


def result(shift: float, seed: int = 0, protocol: Protocol | None = None, ids: pl.Series | None = None) -> Result:
    noise = np.random.default_rng(seed).normal(0, 0.05, 200)
    values = {"ndcg@10": BASE + shift + noise, "mrr@10": BASE + noise}
    return Result(protocol or Protocol(), np.arange(200) * 3, values, {"gini@10": 0.5 + shift}, 4, ids)


def test_a_file_gives_the_result_back(tmp_path: Path) -> None:
    protocol = Protocol(split="time", seen="exclude", cutoffs=(3, 10))
    for name, ids in (("plain", None), ("ids", pl.Series("user_id", [f"u{place}" for place in range(200)]))):
        own = result(0.1, protocol=protocol, ids=ids)
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


def test_files_are_compared_like_results(tmp_path: Path) -> None:
    save_users(result(0), tmp_path / "a.parquet")
    save_users(result(0.03, seed=1), tmp_path / "b.parquet")
    of_files = over_users(tmp_path / "a.parquet", str(tmp_path / "b.parquet"), "ndcg@10", n_draws=500)
    assert of_files == over_users(result(0), result(0.03, seed=1), "ndcg@10", n_draws=500)
    save_users(result(0, protocol=Protocol(seen="exclude")), tmp_path / "c.parquet")
    with refused("seen", by=ProtocolMismatch):
        over_users(tmp_path / "a.parquet", tmp_path / "c.parquet", "ndcg@10")


def test_marks_and_corrected_p_values() -> None:
    models = {"plain": result(0, 1), "near": result(0.1, 2), "good": result(0.1005, 3)}
    made = table(models, ["ndcg@10", "mrr@10", "gini@10"], n_draws=999)
    marks = {name: row["ndcg@10"].mark for name, row in made}
    assert marks == {"plain": "", "near": "tied", "good": "tied"}
    best = {metric: max(models, key=lambda name: models[name][metric]) for metric in ("ndcg@10", "mrr@10")}
    pairs = [(name, metric) for metric in best for name in models if name != best[metric]]
    raw = [
        randomisation(models[best[metric]].per_user[metric] - models[name].per_user[metric], n_draws=999)
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
    assert made.to_polars().height == 9


def test_the_best_alone_is_marked_so_and_seeds_are_averaged(tmp_path: Path) -> None:
    save_users(result(0.1, 3), tmp_path / "best.parquet")
    models = {"plain": [result(0, 1), result(0, 2)], "best": tmp_path / "best.parquet"}
    made = table(models, ["ndcg@10"], test="t")
    assert [row["ndcg@10"].mark for _, row in made] == ["", "best"]
    mean = (models["plain"][0].per_user["ndcg@10"] + models["plain"][1].per_user["ndcg@10"]) / 2
    expected = paired_t(result(0.1, 3).per_user["ndcg@10"] - mean)
    assert made.cells["plain"]["ndcg@10"].p_value == pytest.approx(expected)
    assert table({"one": result(0)}).cells["one"]["ndcg@10"].mark == ""
    with refused("results"):
        table({})
    with pytest.raises(ProtocolMismatch):
        table({"a": result(0), "b": result(0, protocol=Protocol(seen="exclude"))})


def of_metrics(**values: float) -> Result:
    """Forty users around a value of each metric."""
    noise = np.random.default_rng(7).normal(0, 0.01, 40)
    return Result(Protocol(), np.arange(40), {f"{name}@5": value + noise for name, value in values.items()})


def test_the_lowest_is_best_of_a_metric_that_is_better_so() -> None:
    models = {"biased": of_metrics(average_popularity=9, ndcg=0.2), "fair": of_metrics(average_popularity=3, ndcg=0.1)}
    made = table(models, ["average_popularity@5", "ndcg@5"], n_draws=199)
    assert [cell.mark for cell in made.cells["biased"].values()] == ["", "best"]
    assert [cell.mark for cell in made.cells["fair"].values()] == ["best", ""]
    assert made.cells["biased"]["average_popularity@5"].p_value == pytest.approx(2 / 200)


@pytest.mark.parametrize("order", [("none", "good", "bad"), ("good", "none", "bad")])
def test_a_mean_that_is_nan_is_not_best_and_not_tested(order: tuple[str, ...]) -> None:
    means = {"good": 0.9, "bad": 0.1, "none": np.nan}
    made = table({name: of_metrics(ndcg=means[name]) for name in order}, ["ndcg@5"], n_draws=199)
    cells = {name: row["ndcg@5"] for name, row in made}
    assert {name: cell.mark for name, cell in cells.items()} == {"good": "best", "bad": "", "none": ""}
    assert (cells["bad"].p_value, cells["none"].p_value) == (1 / 200, None)
    assert "over the 1 comparisons" in made.legend


def test_results_whose_lists_of_cut_offs_alone_differ_are_compared_where_both_have_a_number() -> None:
    def made(cutoffs: tuple[int, ...], **settings: object) -> Result:
        names = {f"ndcg@{k}": BASE / k for k in cutoffs}
        return Result(Protocol.of(settings, cutoffs=cutoffs), np.arange(200), names)

    one, other = made((10,)), made((5, 10, 20))
    assert one.hash != other.hash
    assert compare(one, other) == {"ndcg@10": 0}
    assert table({"a": one, "b": other}).cells["a"].keys() == {"ndcg@10"}
    for settings in ({"seen": "exclude"}, {"tie_seed": 1}, {"part": "valid"}, {"split_hash": "other"}):
        with refused(*settings, by=ProtocolMismatch):
            compare(one, made((5, 10, 20), **settings))
    with refused("cutoffs", by=ProtocolMismatch):
        compare(made((5,)), one)
