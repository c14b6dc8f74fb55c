"""A split that is prepared in shards is the one that one process makes at once: ids, order, labels, files and hash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from recgraph.data.errors import DataError, EmptyLogError, MissingIdError, MixedIdError, RatingError, TimestampError
from recgraph.data.imprint import load_json
from recgraph.data.interactions import Interactions
from recgraph.data.log_file import LogFile
from recgraph.data.preparing import prepare
from recgraph.data.reading import Reading
from recgraph.data.split import SealedSplit, Split
from recgraph.parallel import Engine


def log(n: int = 3000, n_users: int = 150, n_items: int = 80, fractions: bool = False) -> pl.DataFrame:
    draw = np.random.default_rng(5)
    times = draw.integers(0, 400, n)  # many alike, so that rows decide
    return pl.DataFrame(
        {
            "user": draw.integers(0, n_users, n) * 7,
            "item": [f"item {number}" for number in draw.integers(0, n_items, n)],
            "timestamp": times + (draw.random(n).round(2) if fractions else 0),
            "rating": draw.integers(1, 6, n).astype(float),
        }
    )


def written(frame: pl.DataFrame, folder: Path, form: str, n_files: int = 4) -> str:
    folder.mkdir()
    size = -(-frame.height // n_files)
    for number in range(n_files):
        part, path = frame.slice(number * size, size), folder / f"part-{number}.{form}"
        {"csv": part.write_csv, "parquet": part.write_parquet, "jsonl": part.write_ndjson}[form](path)
    return str(folder)


def same(folder: Path, whole: Split, tmp_path: Path) -> None:
    found = SealedSplit.load(folder)
    assert found.hash == whole.hash
    assert found.users.values.equals(whole.users.values)
    assert found.items.values.equals(whole.items.values)
    assert found.users.values.dtype == whole.users.values.dtype
    assert (found.strategy, found.name, found.seed) == (whole.strategy, whole.name, whole.seed)
    opened = found.unseal("the test compares")
    assert opened.interactions.log.equals(whole.interactions.log)
    assert torch.equal(opened.labels, whole.labels)
    assert opened.interactions.time_unit == whole.interactions.time_unit
    whole.save(tmp_path / "whole")
    description = "interactions.json"
    assert (folder / description).read_text() == (tmp_path / "whole" / description).read_text()
    heads = [load_json(each / "split.json") for each in (folder, tmp_path / "whole")]
    assert [set(head.pop("files")) for head in heads][1] == {"open.parquet", description}
    assert heads[0] == heads[1]
    assert not (folder / "work").exists()


@pytest.mark.parametrize(
    ("form", "strategy", "params"),
    [
        ("csv", "leave-one-out", {}),
        ("parquet", "ratio", {"order": "time", "valid": 0.2}),
        ("jsonl", "time", {"valid_from": 250, "test_from": 350}),
        ("parquet", "all", {}),
        ("parquet", "leave-one-out", {"grades": "rating"}),
    ],
)
def test_it_is_the_split_of_one_process(
    form: str, strategy: str, params: dict[str, Any], engine: Engine, tmp_path: Path
) -> None:
    path = written(log(), tmp_path / "log", form)
    files = LogFile(path, Reading())
    made = prepare(files, tmp_path / "split", strategy, params=params, engine=engine, shard_rows=400, range_rows=1000)
    whole = Interactions.from_files(files).split(strategy, **params)
    assert made.hash == whole.hash
    assert (made.n_users, made.n_items, made.n_interactions) == (whole.n_users, whole.n_items, 3000)
    assert made.n_shards == (8 if form == "parquet" else 4)
    assert made.n_ranges == len([*(tmp_path / "split" / "open").iterdir()]) == 3
    same(tmp_path / "split", whole, tmp_path)


def test_what_all_shards_together_decide(engine: Engine, tmp_path: Path) -> None:
    """Whole seconds in a file and fractions in another; users short of interactions; rows without ids; features."""
    folder = tmp_path / "log"
    folder.mkdir()
    log(400, fractions=False).write_csv(folder / "a.csv")
    log(900, 300, fractions=True).write_csv(folder / "b.csv")
    pl.DataFrame({"user": [None, None], "item": ["x", "y"], "timestamp": [1, 2], "rating": [1, 2]}).write_csv(
        folder / "c.csv"
    )
    log(100).write_csv(folder / "d.csv")
    features = tmp_path / "features.csv"
    pl.DataFrame({"item": ["item 3", "item 4"], "title": ["three", "four"]}).write_csv(features)
    reading = Reading(missing_ids="drop", item_features=str(features), rating="none")
    files = LogFile(str(folder / "*.csv"), reading)
    made = prepare(files, tmp_path / "split", engine=engine, range_rows=500)
    whole = Interactions.from_files(files).split()
    assert whole.interactions.time_unit == "seconds"
    assert whole.params["short_users"] == "train"
    assert made.hash == whole.hash
    same(tmp_path / "split", whole, tmp_path)
    found = SealedSplit.load(tmp_path / "split").interactions.item_features
    assert found is not None
    assert found.equals(whole.interactions.item_features)


def test_one_file_and_a_split_that_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    for n in (500, 800):
        log(n).write_csv(path)
        made = prepare(LogFile(str(path)), tmp_path / "split")
        same(tmp_path / "split", Interactions.from_files(LogFile(str(path))).split(), tmp_path)
        assert made.n_shards == made.n_ranges == 1


def test_a_folder_with_anything_else_in_it_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    log(50).write_csv(path)
    with pytest.raises(ValueError, match=r"holds 'log\.csv', which is no part of a split"):
        prepare(LogFile(str(path)), tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        prepare(LogFile(str(path)), path)
    saved, split = tmp_path / "saved", tmp_path / "split"
    Interactions.from_files(LogFile(str(path))).save(saved)
    with pytest.raises(ValueError, match=r"holds 'interactions\.json'"):
        prepare(LogFile(str(path)), saved)
    split.mkdir()
    prepare(LogFile(str(path)), split)
    features = tmp_path / "items.csv"
    pl.DataFrame({"item_id": [1], "genre": ["a"]}).write_csv(features)
    prepare(LogFile(str(path), Reading(item_features=str(features))), split)
    prepare(LogFile(str(path)), split)
    Interactions.from_files(LogFile(str(path))).split().save(split)
    prepare(LogFile(str(path)), split)
    (split / "notes.txt").write_text("of the user's own")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        prepare(LogFile(str(path)), split)
    assert (split / "notes.txt").exists()


@pytest.mark.parametrize("with_test", [True, False])
def test_a_split_saved_over_a_prepared_one_leaves_none_of_its_rows(with_test: bool, tmp_path: Path) -> None:
    path, folder = tmp_path / "log.csv", tmp_path / "split"
    log(500).write_csv(path)
    prepare(LogFile(str(path)), folder)
    split = SealedSplit.load(folder).unseal("it is saved again")
    kept = folder / "open" / "notes.txt"
    kept.write_text("of the user's own")
    (split if with_test else split.sealed()).save(folder)
    test = [folder / "test" / "test.parquet"] if with_test else []
    assert {*folder.rglob("*.*")} >= {folder / "open.parquet", kept, *test}
    assert not [*folder.rglob("users-*.parquet")]
    assert (folder / "test" / "test.parquet").exists() == with_test
    assert not (folder / "test" / "test").exists()
    assert SealedSplit.load(folder).hash == split.hash


def test_a_fit_reads_it(tmp_path: Path) -> None:
    import recgraph as rg

    path = written(log(), tmp_path / "log", "parquet")
    prepare(LogFile(path), tmp_path / "split", range_rows=700)
    run = rg.fit(rg.models.Popularity(), SealedSplit.load(tmp_path / "split"), seed=0)
    whole = rg.fit(rg.models.Popularity(), Interactions.from_files(LogFile(path)).split(), seed=0)
    assert run.evaluate("valid")[0].metrics == whole.evaluate("valid")[0].metrics


@pytest.mark.parametrize(
    ("strategy", "params"),
    [("ratio", {}), ("users", {}), ("time", {}), ("ratio", {"order": "random"})],
)
def test_splits_by_all_interactions_are_refused(strategy: str, params: dict[str, Any], tmp_path: Path) -> None:
    log(50).write_csv(tmp_path / "log.csv")
    with pytest.raises(ValueError, match="labels by all interactions"):
        prepare(LogFile(str(tmp_path / "log.csv")), tmp_path / "split", strategy, params=params)


def test_what_is_wrong_is_said(tmp_path: Path, engine: Engine) -> None:
    def made(**frames: pl.DataFrame) -> Path:
        folder = tmp_path / "-".join(frames)
        folder.mkdir()
        for name, frame in frames.items():
            frame.write_csv(folder / f"{name}.csv")
        return folder

    def refused(error: type[DataError], folder: Path, match: str, **options: Any) -> None:
        with pytest.raises(error, match=match):
            prepare(LogFile(str(folder)), tmp_path / "split", engine=engine, **options)
        assert not (tmp_path / "split").exists()
        assert not [*tmp_path.glob(".split*")]

    texts = log(30).with_columns(pl.lit("u").alias("user"))
    refused(MixedIdError, made(ints=log(30), texts=texts), "column 'user' holds texts, in the files before it integers")
    dates = log(30).with_columns(pl.lit("2024-01-01").alias("timestamp"))
    refused(TimestampError, made(times=log(30), dates=dates), "files hold times as own and as us")
    refused(EmptyLogError, made(nothing=log(0)), "there is no interaction")
    bad = log(30).with_columns(pl.lit("much").alias("rating"))
    refused(RatingError, made(good=log(30), bad=bad), r"bad.csv, line 2: the rating 'much'")
    never = {"strategy": "time", "params": {"valid_from": -2, "test_from": -1}}
    with pytest.raises(ValueError, match="leaves nothing to train on"):
        prepare(LogFile(str(made(early=log(30)))), tmp_path / "split", engine=engine, **never)
    never["params"] = {"valid_from": 10**12, "test_from": 10**13}
    with pytest.raises(ValueError, match="leaves nothing to test"):
        prepare(LogFile(str(tmp_path / "early")), tmp_path / "split", engine=engine, **never)
    with pytest.raises(ValueError, match="shard_rows = 0 must be at least 1"):
        prepare(LogFile(str(tmp_path / "early")), tmp_path / "split", shard_rows=0)
    (tmp_path / "lines.txt").write_text("u a b c\nv a b c\n")
    with pytest.raises(ValueError, match="format 'sequences' is read as a whole"):
        prepare(LogFile(str(tmp_path / "lines.txt"), Reading(format="sequences")), tmp_path / "split")


def test_rows_of_a_shard_are_named_by_their_place_in_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "log.parquet"
    frame = log(10).with_row_index("place")
    frame.with_columns(pl.when(pl.col("place") != 5).then("user")).write_parquet(path)
    with pytest.raises(MissingIdError, match=r"log\.parquet, row 5 .from 0.: the user id"):
        prepare(LogFile(str(path)), tmp_path / "split", shard_rows=4)
    prepare(LogFile(str(path), Reading(missing_ids="drop")), tmp_path / "split", "all", shard_rows=4)
    assert f"{path}, row 5 (from 0): 1 rows without a user or an item" in " ".join(caplog.messages)
    bad = pl.when(pl.col("place") == 9).then(float("nan")).otherwise("rating").alias("rating")
    frame.with_columns(bad).write_parquet(path)
    with pytest.raises(RatingError, match=r"log\.parquet, row 9 .from 0.: the rating nan"):
        prepare(LogFile(str(path)), tmp_path / "split", shard_rows=4)


@pytest.mark.parametrize("order", ["ab", "ba"])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"user": [2**53, 2**53 + 1, 7]}, {"user": [7.0, 8.0, 9.0]}),
        ({"timestamp": [2**60, 2**60 + 1, 2**60 + 2]}, {"timestamp": [1.0, 2.0, 3.0]}),
        ({"timestamp": [1, 2, 3]}, {"timestamp": [1.25, 2.5, 3.0]}),
        ({"item": [2**62, -1, 7]}, {"item": pl.Series([7, 8, 9], dtype=pl.UInt64)}),
    ],
)
def test_files_of_integers_beside_floats_or_other_integers(
    first: dict[str, Any], second: dict[str, Any], order: str, tmp_path: Path
) -> None:
    whole = {"user": [1, 2, 1], "item": [5, 6, 7], "timestamp": [3, 4, 5]}
    folder = tmp_path / "log"
    folder.mkdir()
    for name, columns in zip(order, (first, second), strict=True):
        pl.DataFrame({**whole, **columns}).write_parquet(folder / f"{name}.parquet")
    files = LogFile(str(folder), Reading())
    made = Interactions.from_files(files)
    assert made.users.values.dtype == made.items.values.dtype == pl.Int64
    for values, role in ((made.users.values, "user"), (made.items.values, "item")):
        assert set(values) == {int(value) for columns in (first, second) for value in columns.get(role, whole[role])}
    if "timestamp" in first:
        assert len(set(made.log["time"])) == len({*first["timestamp"], *second["timestamp"]})
    prepare(files, tmp_path / "split", "all")
    same(tmp_path / "split", made.split("all"), tmp_path)


def test_ids_that_are_no_integers_beside_those_that_are(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    files = LogFile(str(folder), Reading())
    of_integers = pl.DataFrame({"user": [1, 2, 3], "item": [5, 6, 7]})
    of_integers.write_parquet(folder / "a.parquet")
    others = (pl.Series([1.0, 2.5, 3.0]), pl.Series([1.0, 2.0, 2.0**53]), pl.Series([1, 2, 2**63], dtype=pl.UInt64))
    for users in others:
        of_integers.with_columns(user=users).write_parquet(folder / "b.parquet")
        for read in (Interactions.from_files, lambda given: prepare(given, tmp_path / "split", "all")):
            with pytest.raises(MixedIdError, match=rf"b\.parquet.*: column 'user' holds {users.max()!r}|holds 2\.5"):
                read(files)
    # floats alone are of one kind, whole or not
    of_integers.with_columns(pl.col("user").cast(pl.Float64)).write_parquet(folder / "a.parquet")
    of_integers.with_columns(user=others[0]).write_parquet(folder / "b.parquet")
    prepare(files, tmp_path / "split", "all")
    same(tmp_path / "split", Interactions.from_files(files).split("all"), tmp_path)


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_texts_of_whole_floats_are_the_ids_of_the_whole_log(form: str, tmp_path: Path) -> None:
    rows = pl.DataFrame({"user": ["1.0", "2.0", "beta", "1"] * 3, "item": ["5.0", "6.0", "7.0"] * 4})
    files = LogFile(written(rows.sort("user"), tmp_path / "log", form), Reading())
    made = prepare(files, tmp_path / "split", "all", shard_rows=4)
    assert made.hash == Interactions.from_files(files).split("all").hash
    assert (made.n_users, made.n_items) == (4, 3)


def test_whole_numbers_beside_fractions_of_seconds_are_seconds(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    nanoseconds = log(400).with_columns(pl.col("timestamp") + 17 * 10**17)
    nanoseconds.write_csv(folder / "a.csv")
    log(100, fractions=True).write_csv(folder / "b.csv")
    with pytest.raises(TimestampError, match=r"a\.csv.*is no number of seconds, which others have with fractions"):
        prepare(LogFile(str(folder / "*.csv")), tmp_path / "split")
