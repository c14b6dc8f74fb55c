"""The second day of a run whose model reads item features and time gaps."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch
from refusing import refused

import recgraph as rg
from recgraph.data.batches import Query

NAMES = {"user": "who", "item": "what", "timestamp": "when"}
ITEMS = pl.DataFrame({"what": range(100, 114), "kind": [f"k{item % 3}" for item in range(14)]})

SMALL = {"n_heads": 1, "n_layers": 1, "inner_dim": 8}


def frame(users: range, steps: range, n_items: int = 12, shift: int = 0) -> pl.DataFrame:
    rows = [(f"u{user}", 100 + (user + step + shift) % n_items, 1000 * step + user) for user in users for step in steps]
    return pl.DataFrame(rows, schema=["who", "what", "when"], orient="row")


def log_of(rows: pl.DataFrame, items: pl.DataFrame = ITEMS) -> rg.Interactions:
    return rg.Interactions.from_frame(rows, user="who", item="what", timestamp="when", item_features=items)


OLD, NEW = frame(range(10), range(7)), frame(range(8, 12), range(7, 12), n_items=14, shift=-4)


def test_times_and_features_go_on(tmp_path: Path) -> None:
    model = rg.models.SASRec(
        hidden_dim=8,
        encoder=SMALL,
        max_len=8,
        items={"features": ["kind"]},
        time_gaps=True,
    )
    run = rg.fit(model, log_of(OLD, ITEMS.head(12)), seed=0, max_epochs=2, batch_size=8, out=tmp_path / "a")
    before = run.recommender
    assert before.items.index([112, 113]).max() < 0
    made = run.update(log_of(NEW), out=tmp_path / "b", force=True, valid=0.3, epochs=2)
    after = rg.load(tmp_path / "b" / "bundle")
    times = dict(pl.concat([OLD, NEW]).sort("when").group_by("who").agg("when").iter_rows())
    assert after.times is not None
    for name, when in zip(after.users.values, after.times.to_lists(), strict=True):
        assert when == times[name]
    tower = after.model.item_tower
    assert tower.known_items.shape == (14,)
    assert bool(tower.known_items[after.items.index([112, 113])].any())
    users = torch.arange(len(after.users))
    with torch.no_grad():
        timed = after.model.score(Query(users, after.seen, after.times))
        blind = after.model.score(Query(users, after.seen))
    assert not torch.allclose(timed, blind)
    answer = made.recommend(users=["u0", "u11"], k=3)
    assert answer.equals(after.recommend(users=["u0", "u11"], k=3))


def test_times_of_another_form_are_refused() -> None:
    model = rg.models.SASRec(hidden_dim=8, encoder=SMALL, max_len=8, time_gaps=True)
    run = rg.fit(model, log_of(OLD), seed=0, max_epochs=1)
    dates = log_of(NEW.with_columns(pl.from_epoch("when")))
    with refused("new_log", "times"):
        run.update(dates, force=True)
    bare = rg.Interactions.from_frame(NEW.drop("when"), user="who", item="what")
    with refused("new_log", "times"):
        run.update(bare, force=True)


def test_whole_seconds_of_a_new_log_are_those_of_a_run_with_fractions() -> None:
    model = rg.models.SASRec(hidden_dim=8, encoder=SMALL, max_len=8, time_gaps=True)
    run = rg.fit(model, log_of(OLD.with_columns(pl.col("when") + 0.5)), seed=0, max_epochs=1)
    updated = run.update(log_of(NEW), valid=0, force=True, epochs=1).recommender
    assert updated.times is not None
    times = updated.times.row(int(updated.users.index(["u9"])[0])).tolist()
    assert times == [10**6 * (1000 * step + 9) + 500_000 * (step < 7) for step in range(12)]


def test_features_that_a_new_log_lacks_stay(caplog: pytest.LogCaptureFixture) -> None:
    old = ITEMS.head(12).with_columns(year=pl.col("what") + 1900)
    run = rg.fit("ease", log_of(OLD, old), seed=0)
    after = run.update(log_of(NEW, ITEMS.with_columns(kind=pl.lit("new"))), force=True).recommender.item_features
    assert after is not None
    assert "have no column year" in caplog.text
    assert dict(after.select("what", "year").iter_rows()) == {
        what: what + 1900 if what < 112 else None for what in range(100, 114)
    }
    assert set(after["kind"]) == {"new"}
    with refused("item_features", "year"):
        run.update(log_of(NEW, ITEMS.with_columns(year=pl.lit("1999"))), force=True)


def test_features_may_be_a_file_or_a_frame_beside_the_log(tmp_path: Path) -> None:
    run = rg.fit("ease", log_of(OLD, ITEMS.head(12)), seed=0)
    fresh = ITEMS.tail(3).with_columns(kind=pl.lit("fresh"))
    fresh.write_csv(tmp_path / "items.csv")
    NEW.write_parquet(tmp_path / "news.parquet")
    expected = [f"k{item % 3}" for item in range(11)] + ["fresh"] * 3
    for given in (fresh, tmp_path / "items.csv", str(tmp_path / "items.csv")):
        for news in (NEW, tmp_path / "news.parquet"):
            made = run.update(news, item_features=given, force=True).recommender.item_features
            assert made is not None
            assert made.sort("what")["kind"].to_list() == expected
    with refused("none.csv", by=FileNotFoundError):
        run.update(NEW, item_features=tmp_path / "none.csv", force=True)


def test_texts_become_lists_as_in_the_file_of_the_run(tmp_path: Path) -> None:
    OLD.write_csv(tmp_path / "log.csv")
    of_kinds = ITEMS.head(12).with_columns(kind=pl.col("kind") + "| all ")
    of_kinds.write_csv(tmp_path / "items.csv")
    log = rg.load_data(tmp_path / "log.csv", item_features=tmp_path / "items.csv", lists={"kind": "|"}, **NAMES)
    run = rg.fit("ease", log, seed=0)
    fresh = ITEMS.tail(3).with_columns(kind=pl.lit("new| all"))
    fresh.write_csv(tmp_path / "fresh.csv")
    made = run.update(NEW, item_features=tmp_path / "fresh.csv", force=True).recommender.item_features
    assert made is not None
    kinds = made.sort("what")["kind"].to_list()
    assert (kinds[0], kinds[-1]) == (["k0", "all"], ["new", "all"])
