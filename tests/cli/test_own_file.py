"""A log of one's own on the command line, as a user types it: trained, tuned, compared, served, changed, moved."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command_line import call, refused, works

import recgraph as rg

SMALL = ("--set", "max_epochs=1", "--set", "hidden_dim=16", "--set", "batch_size=128")


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def rows(line: str, *more: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(works(line, *more, "--format", "json").stdout)
    return found


def log(n_users: int = 40, n_items: int = 30, each: int = 12) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    n = n_users * each
    return pd.DataFrame(
        {
            "customer_id": np.repeat(1000 + np.arange(n_users), each),
            "sku": generator.integers(500, 500 + n_items, n),
            "stars": generator.integers(1, 6, n),
            "event_time": 1_700_000_000 + generator.permutation(n),
        }
    )


def test_from_a_file_to_recommendations_with_its_own_names() -> None:
    log().to_parquet("log.parquet")
    trained = works("train sasrec --data log.parquet --out run", *SMALL)
    assert "user = 'customer_id', item = 'sku', timestamp = 'event_time', rating = 'stars'" in trained.stderr
    # nothing has to be said again
    assert {row["metric"] for row in rows("evaluate run")} >= {"ndcg@10", "recall@10"}
    found = rows("recommend run --user 1000 -k 3")
    assert [list(row)[:2] for row in found] == [["customer_id", "sku"]] * 3
    assert all(isinstance(row["sku"], int) and row["customer_id"] == 1000 for row in found)
    assert works("inspect run --user 1000 -k 2").stdout
    assert {row["check"] for row in rows("check --data log.parquet --run run")} >= {"time leakage"}
    record = rg.Run.open("run").record.data
    assert record.dataset == str(Path("log.parquet").absolute())
    assert record.file is not None
    assert len(record.file["sha256"]) == 64
    assert record.settings["reading"] == {
        "user": "customer_id",
        "item": "sku",
        "timestamp": "event_time",
        "rating": "stars",
    }


def test_a_run_made_in_python_knows_its_file_too() -> None:
    log().to_csv("log.csv", index=False)
    data = rg.load_data("log.csv")
    rg.fit("popularity", data.split("ratio", test=0.2), seed=1, out="run")
    rg.fit("popularity", data, seed=1, out="all")
    assert rows("evaluate run")
    assert isinstance(rg.Run.open("all"), rg.Run)
    rg.fit("popularity", data.min_rating(3).split(), seed=1, out="filtered")  # not all of the file
    assert "opened without its data" in refused("evaluate filtered")
    assert "--data log.csv" in refused("data get log.csv")


@pytest.mark.parametrize("given", ["--user who --item what --time at --rating none", "--user who --item what"])
def test_columns_that_are_named(given: str) -> None:
    frame = log().rename(columns={"customer_id": "who", "sku": "what", "event_time": "at", "stars": "score"})
    frame.to_csv("log.csv", index=False)
    assert "--user NAME" in refused("train popularity --data log.csv --out run")
    works(f"train popularity --data log.csv {given} --out run")
    settings = rg.Run.open("run").record.data.settings["reading"]
    assert settings["timestamp"] == "at"
    assert settings["rating"] == ("none" if "none" in given else "score")
    assert [*rows("recommend run --user 1003 -k 1")[0]][:2] == ["who", "what"]


def test_what_excludes_one_another_or_is_not_there() -> None:
    log().to_csv("log.csv", index=False)
    assert "exclude one another" in refused("train popularity --data log.csv --dataset synthetic --out run")
    assert "--data FILE" in refused("train popularity --out run")
    assert "needs --data FILE" in refused("train popularity --dataset synthetic --user u --out run")
    assert "'nothing.csv' is not there" in refused("train popularity --data nothing.csv --out run").replace(
        f"{Path().absolute()}/", ""
    )
    assert "--data log.csv" in refused("train popularity --dataset nothing --out run")
    assert not Path("run").exists()
    works("train popularity --dataset log.csv --out run")  # a path is a data set, too
    works("train popularity --dataset synthetic --out other")
    assert "leave --data out" in refused("evaluate other --data log.csv")


def test_a_file_that_has_changed_or_is_gone() -> None:
    log().to_csv("log.csv", index=False)
    works("train popularity --data log.csv --out run")
    before = rows("evaluate run")
    with Path("log.csv").open("a") as file:
        file.write("1000,501,5,1800000000\n")
    message = refused("evaluate run")
    assert "is not the file that the run was made from" in message
    assert "--data FILE" in message
    with Path("log.csv").open("a") as file:
        file.write(",,,\n,1,2,3\n")
    assert "cannot be read now" in refused("evaluate run")
    Path("log.csv").unlink()
    assert "log.csv, which is not there; say where" in refused("evaluate run")
    log().to_parquet("moved.parquet")  # its content counts, not how it is written
    assert rows("evaluate run --data moved.parquet") == before
    log()[:-5].to_csv("moved.csv", index=False)
    assert "is not the file" in refused("evaluate run --data moved.csv")
    assert rows("recommend run --user 1000 -k 1")  # a bundle needs no data
    assert refused("train popularity --data moved.csv --out run --resume")


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ({"sep": ";"}, "--data-format csv --separator ;"),
        ({"header": False}, "--data-format csv --names customer_id,sku,stars,event_time"),
        ({"date_format": "%d.%m.%Y %H:%M:%S"}, "--data-format csv --time-format %d.%m.%Y_%H:%M:%S"),
    ],
)
def test_a_file_that_moved_with_a_name_of_no_format_or_into_another(text: dict[str, Any], options: str) -> None:
    frame = log().assign(event_time=lambda given: pd.to_datetime(given["event_time"], unit="s"))
    frame.to_csv("log.txt", index=False, **text)
    given = [part.replace("_%H", " %H") for part in options.split()]
    works("train popularity --data log.txt --out run", *given)
    before = rows("evaluate run")
    Path("log.txt").rename("archive.txt")
    assert rows("evaluate run --data archive.txt") == before
    frame.to_parquet("log.parquet")
    assert rows("evaluate run --data log.parquet") == before


def test_new_logs_are_read_like_that_of_the_run() -> None:
    frame = log().assign(event_time=lambda given: pd.to_datetime(given["event_time"], unit="s"))
    frame = frame.assign(sku="é" + frame["sku"].astype(str)).sort_values("event_time")
    names, form = "--names customer_id,sku,stars,event_time", "%d.%m.%Y %H:%M:%S"
    as_text: dict[str, Any] = {"index": False, "header": False, "date_format": form, "encoding": "latin-1"}
    frame[:300].to_csv("old.txt", **as_text)
    options = f"--data old.txt --data-format csv {names} --encoding latin-1 --out run"
    works(f"train itemknn {options}", "--time-format", form)
    frame[300:390].to_csv("new.txt", **as_text)
    assert "new: 90 interactions" in works("update run --data new.txt --out second --force").stderr
    frame[390:].to_csv("third.csv", **as_text)
    assert "new: 90 interactions" in works("update second --data third.csv --out third --force").stderr
    # one that is written in a usual way is read as it is
    frame[390:].to_parquet("third.parquet")
    frame[390:].to_csv("iso.csv", index=False)
    for file in ("third.parquet", "iso.csv"):
        works(f"update second --data {file} --out with-{file} --force")
        assert rows(f"recommend with-{file} --user 1003 -k 3") == rows("recommend third --user 1003 -k 3")


def test_tuning_on_a_file() -> None:
    log().to_csv("log.csv", index=False)
    line = "tune itemknn --data log.csv --time event_time --trials 2 --test-seeds 1 --format json"
    assert json.loads(works(line).stdout)
    folder = Path("runs/itemknn-log-ndcg@10")
    page = (folder / "study.html").read_text()
    assert f"--dataset {Path('log.csv').absolute()}" in page
    assert "reading=" in page
    run = rg.Run.open(next(folder.glob("final/*/*/record.json")).parent)
    assert isinstance(run, rg.Run)
    assert run.record.data.file is not None


def test_a_board_on_a_file() -> None:
    folder = Path("board")
    folder.mkdir()
    frame = log().rename(columns={"customer_id": "who"})
    frame.to_csv(folder / "log.csv", index=False)
    head = 'seeds = [1]\nmetrics = ["ndcg@10"]\n[[models]]\nmodel = "popularity"\n'
    (folder / "shop.toml").write_text('data = { file = "log.csv", user = "who" }\n' + head)
    works("leaderboard run board")
    works("leaderboard render board --out page.md")
    assert "Popularity" in Path("page.md").read_text()
    records = {path: path.read_text() for path in Path("results/board/log").glob("popularity-*.json")}
    assert len(records) == 1
    works("leaderboard run board")  # there is nothing to be done
    assert {path: path.read_text() for path in records} == records
    frame[:-7].to_csv(folder / "log.csv", index=False)
    works("leaderboard run board")
    assert {path: path.read_text() for path in records} != records
    (folder / "shop.toml").write_text('data = "log.csv"\ndataset = "synthetic"\n' + head)
    assert "exclude one another" in refused("leaderboard run board")


def test_dirty_ids_from_a_file_to_a_recommendation() -> None:
    frame = log()
    frame.loc[7, "customer_id"] = np.nan  # pandas writes all ids as floats now
    frame.to_csv("floats.csv", index=False)
    assert "1000.0" in Path("floats.csv").read_text()
    assert "line 9: the user id" in refused("train popularity --data floats.csv --out run")
    trained = works("train popularity --data floats.csv --drop-missing-ids --out run")
    assert trained.stderr.count("whole floats") == 1
    assert "1 rows without a user or an item are left out" in trained.stderr
    assert rows("recommend run --user 1000 -k 1")[0]["customer_id"] == 1000
    run = rg.Run.open("run")
    assert run.recommend(users=[1000], k=2, allow=[500, 501])["sku"].to_list()
    assert run.recommend(users=[1000.0], k=1)["customer_id"].to_list() == [1000]

    lines = log().to_csv(index=False).splitlines()
    lines[100] = lines[100].replace("1008", "guest", 1)
    Path("stray.csv").write_text("\n".join(lines) + "\n")
    trained = works("train popularity --data stray.csv --out stray")
    assert "stray.csv, line 101: the id 'guest'" in " ".join(trained.stderr.split())

    text = "customer_id;sku;sku\n1;2;3\n"
    Path("twice.csv").write_text(text)
    assert "'sku' 2 times, as columns 2, 3" in refused("train popularity --data twice.csv --out twice")

    named = log().assign(sku=lambda frame: "Käse " + frame["sku"].astype(str))
    for encoding, suffix in (("latin-1", ".gz"), ("utf-8-sig", "")):
        text = named.to_csv(index=False, sep=";")
        path = Path(f"named-{encoding}.csv{suffix}")
        data = text.encode(encoding)
        path.write_bytes(gzip.compress(data) if suffix else data)
    assert "--encoding latin-1" in refused("train popularity --data named-latin-1.csv.gz --out latin")
    works("train popularity --data named-latin-1.csv.gz --encoding latin-1 --out latin")
    works("train popularity --data named-utf-8-sig.csv --out bom")
    assert rows("recommend latin --user 1001 -k 5") == rows("recommend bom --user 1001 -k 5")
    assert rows("recommend latin --user 1001 -k 1")[0]["sku"].startswith("Käse ")


def test_item_features_beside_the_log() -> None:
    log().to_csv("log.csv", index=False)
    titles = pd.DataFrame({"sku": range(500, 540), "title": [f"Thing {n}" for n in range(40)]})
    titles.to_csv("things.csv", index=False)
    works("train popularity --data log.csv --item-features things.csv --out run")
    found = rows("recommend run --user 1000 -k 2 --with title")
    assert [row["title"] for row in found] == [f"Thing {row['sku'] - 500}" for row in found]
    assert rows("evaluate run")
    works("data init log.csv --item-features things.csv")
    assert 'item_features = "things.csv"' in Path("log.toml").read_text()
    works("train popularity --dataset log.toml --out other")
    assert rows("recommend other --user 1000 -k 2 --with title") == found
    titles.assign(title="Other").to_csv("things.csv", index=False)
    features = rg.load_dataset("log.toml").item_features
    assert features is not None
    assert features["title"].unique().to_list() == ["Other"]
    Path("things.csv").unlink()
    assert "things.csv" in refused("evaluate run")


def test_features_that_have_changed_or_moved() -> None:
    log().to_csv("log.csv", index=False)
    things = pd.DataFrame({"sku": range(500, 540), "kind": [f"k{n % 3}" for n in range(40)]})
    things.to_csv("things.csv", index=False)
    given = "--data log.csv --item-features things.csv"
    reads = ("--set", 'item_features=["kind"]', *SMALL)
    works(f"train sasrec {given} --out run", *reads)
    works(f"train popularity {given} --out plain")
    before = rows("evaluate run --split valid")
    Path("things.csv").rename("moved.csv")
    assert "things.csv" in refused("evaluate run")
    assert rows("evaluate run --split valid --item-features moved.csv") == before
    assert rows("evaluate run --split valid --data log.csv --item-features moved.csv") == before
    assert "leave it out" in refused("evaluate run --user-features moved.csv")
    things.assign(kind="k0").to_csv("things.csv", index=False)
    for message in (refused("evaluate run"), refused(f"train sasrec {given} --resume --out run", *reads)):
        assert "things.csv is not the file of item features that the run" in message
    assert "--item-features FILE" in refused("evaluate run")
    assert "things.csv is not the file of item features" in works("evaluate plain").stderr
    assert rows("recommend run --user 1000 -k 1")


def test_a_first_card_is_written_and_a_changed_file_is_prepared_again(caplog: pytest.LogCaptureFixture) -> None:
    Path("data").mkdir()
    log().rename(columns={"customer_id": "who"}).to_csv("data/my log.csv", index=False)
    assert rows("data init", "data/my log.csv", "--user", "who", "--out", "shop.toml") == [
        {"card": "shop.toml", "users": 40, "items": 30, "interactions": 480}
    ]
    assert "exists" in refused("data init", "data/my log.csv", "--user", "who", "--out", "shop.toml")
    assert "--out No Name.toml: " in refused("data init", "data/my log.csv", "--out", "No Name.toml")
    assert "such as no-name.toml" in refused("data init", "data/my log.csv", "--user", "who", "--out", "No Name.toml")
    assert 'file = "data/my log.csv"' in Path("shop.toml").read_text()
    assert rows("data get shop.toml")[0]["interactions"] == 480
    assert rows("data get shop.toml")[0]["state"] == "was prepared already"
    assert {row["key"]: row["value"] for row in rows("data info shop.toml")}["data.user"] == "who"
    works("train popularity --dataset shop.toml --out run")
    assert [*rows("recommend run --user 1001 -k 1")[0]][:2] == ["who", "sku"]

    with Path("data/my log.csv").open("a") as file:
        file.write("2000,501,5,1800000000\n" * 3)
    assert len(rg.load_dataset("shop.toml")) == 483
    assert rows("data get shop.toml")[0] | {"folder": ""} == {
        "name": "shop",
        "users": 41,
        "items": 30,
        "interactions": 483,
        "source": str(Path("data/my log.csv").absolute()),
        "state": "was prepared already",
        "folder": "",
    }
    # the same size, another content
    text = Path("data/my log.csv").read_text()
    Path("data/my log.csv").write_text(text.replace("2000,501", "2000,502"))
    assert rg.load_dataset("shop.toml").to_frame().row(-1)[:2] == (2000, 502)
    assert refused("evaluate run")  # the run was made from the file as it was

    card = Path("shop.toml").read_text().replace("# k_core = 5 ", "k_core = 5 ")
    card = card.replace("# [expected]", "[expected]").replace("# users = 40", "users = 41").replace("# items", "items")
    Path("shop.toml").write_text(card.replace("# interactions", "interactions"))
    assert "users: expected 41, got 40" in " ".join(call("data get shop.toml").output.split())
    shutil.rmtree("data")
    assert "is not there" in refused("data get shop.toml")


def test_a_local_file_behind_a_card_of_tables_is_noticed_too() -> None:
    card = """
name = "shop"
title = "t"
description = "d"
licence = "l"
citation = "c"
acknowledgement = "a"
[layout.interactions]
columns = { customer = "int", product = "text" }
rename = { customer = "user_id", product = "item_id" }
[[sources]]
kind = "local"
file = "orders.csv"
[sources.files.interactions]
format = "csv"
separator = ","
"""
    Path("shop.toml").write_text(card)  # without counts: nothing is checked
    Path("orders.csv").write_text("customer,product\n1,a\n2,b\n")
    assert rows("data get shop.toml --from orders.csv")[0]["interactions"] == 2
    with Path("orders.csv").open("a") as file:
        file.write("3,c\n")
    assert len(rg.load_dataset("shop.toml")) == 3
    Path("orders.csv").unlink()  # gone is not changed
    assert len(rg.load_dataset("shop.toml")) == 3
