"""The pages for users of other libraries: their commands and code run on the data of those
libraries' quick starts.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from command_line import works
from test_docs import run, shown_commands

NAMES = ["user", "item", "rating", "timestamp"]
#: RecBole's documentation, one run of its quick start on the test part
RECBOLE = {
    "recall@10": 0.2523,
    "mrr@10": 0.4855,
    "ndcg@10": 0.2920,
    "hit_rate@10": 0.7953,
    "precision@10": 0.1962,
}


@pytest.fixture
def films(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pl.DataFrame:
    """MovieLens-100k in the forms of the pages, in the working directory."""
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for name in ("inter", "user", "item"):
        shutil.copy(shared / "data" / "ml-100k" / f"ml-100k.{name}", tmp_path)
    return pl.read_csv("ml-100k.inter", separator="\t", new_columns=NAMES)


def commands(page: str) -> None:
    """Run the commands of a page, each training for an epoch."""
    for name, words in shown_commands():
        if name == f"docs/from/{page}.md":
            trained = words[0] == "train" and words[1] != "itemknn"
            works("", *words, *(["--set", "max_epochs=1", "--seed", "0"] if trained else []))


def toml(page: str) -> str:
    text = (Path(__file__).parents[1] / "docs" / "from" / page).read_text("utf-8")
    return re.findall(r"^```toml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[0]


def test_from_recbole(films: pl.DataFrame) -> None:
    Path("quick.toml").write_text(toml("recbole.md"))
    commands("recbole")


@pytest.mark.slow
def test_the_quick_start_of_recbole_gives_its_numbers(films: pl.DataFrame) -> None:
    Path("quick.toml").write_text(toml("recbole.md"))
    works("train bprmf --data ml-100k.inter --config quick.toml --seed 0 --out run")
    rows = json.loads(works("evaluate run --cutoff 10 --format json").stdout)
    found = {row["metric"]: row["seen excluded"] for row in rows}
    # of another split and another start: three standard errors over 943 users are .04
    assert {name: found[name] for name in RECBOLE} == pytest.approx(RECBOLE, abs=0.05)


def test_from_rectools(films: pl.DataFrame) -> None:
    Path("ml-1m").mkdir()
    lines = films.select(pl.concat_str(pl.all().cast(pl.Int64), separator="::"))
    Path("ml-1m/ratings.dat").write_text("\n".join(lines.to_series()) + "\n")
    new_films = films.tail(300).with_columns(pl.col("item") + 5000, pl.col("timestamp") + 10**8)
    new_films.rename({"timestamp": "time"}).write_csv("tuesday.csv")
    commands("rectools")
    assert pl.read_parquet("recs.parquet").height == 9430


def test_from_implicit_and_lightfm(films: pl.DataFrame) -> None:
    draws = np.random.default_rng(0).random(len(films))

    def matrix(rows: pl.DataFrame) -> Any:
        entries = (rows["rating"].to_numpy(), (rows["user"].to_numpy(), rows["item"].to_numpy()))
        return sp.coo_matrix(entries, shape=(944, 1683))

    scope = {"train": matrix(films.filter(draws < 0.9)), "test": matrix(films.filter(draws >= 0.9))}
    assert (
        run("from/implicit-lightfm.md", scope)["run"].evaluate("test")["exclude"]["precision@10"]
        > 0.1
    )
    new = films.tail(300).select(user_id="user", item_id=pl.col("item") + 5000)
    new.write_csv("tuesday.csv")
    commands("implicit-lightfm")


def test_from_transformers4rec(films: pl.DataFrame) -> None:
    # as Yoochoose's file: session, time in ISO form, item, category
    times = pl.from_epoch("timestamp").dt.to_string("%Y-%m-%dT%H:%M:%S%.3fZ")
    clicks = films.select("user", times.alias("timestamp"), "item", pl.lit(0).alias("category"))
    clicks.write_csv("yoochoose-clicks.dat", include_header=False)
    clicks.head(5).select(session=pl.lit(-1), item="item", timestamp="timestamp").write_csv(
        "open.csv"
    )
    commands("transformers4rec")


def test_from_lenskit(films: pl.DataFrame) -> None:
    films.write_csv("u.data", separator="\t", include_header=False)
    commands("lenskit")
