"""A team's own log, from the first minute to the hundredth day: what they type, command after
command.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import forked
import numpy as np
import polars as pl
import pytest
from command_line import refused, works

import recgraph as rg
from recgraph import registry

SMALL = ("--set", "hidden_dim=8", "--set", "encoder.n_layers=1", "--set", "encoder.n_heads=1")
TINY = (*SMALL, "--set", "max_epochs=2")
USERS, ITEMS = 60, 40


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the team's log, in which their commands run; dates, ids of a warehouse, users
    with one event.
    """
    folder = tmp_path_factory.mktemp("team")
    draws = np.random.default_rng(0)
    rows = []
    for user in range(USERS):
        length = 1 if user % 15 == 0 else 12
        items = draws.choice(ITEMS, size=length, replace=False)
        rows += [
            (1000 + user, 500 + int(item), f"2026-01-{day + 1:02}T08:00:00")
            for day, item in enumerate(items)
        ]
    pl.DataFrame(rows, schema=["customer_id", "sku", "event_time"], orient="row").write_csv(
        folder / "log.csv"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECGRAPH_HOME", str(folder / "home"))
        patch.setenv("COLUMNS", "200")
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def served(team: Path) -> Path:
    """A run that was fitted on all of the log."""
    works("train sasrec --data log.csv --fit-on all --out served --seed 1", *TINY)
    return team / "served"


@pytest.fixture(scope="module")
def tested(team: Path) -> Path:
    """A run that was fitted on the training part."""
    works("train sasrec --data log.csv --out tested --seed 1", *TINY)
    return team / "tested"


def test_the_served_model_knows_each_users_newest_item(team: Path, served: Path) -> None:
    log = pl.read_csv(team / "log.csv")
    newest = log.group_by("customer_id").agg(pl.col("sku").last())
    works("recommend served --all -k 10 --out recommendations.parquet")
    found = pl.read_parquet(team / "recommendations.parquet")
    assert found["customer_id"].n_unique() == USERS
    assert found.join(newest, on=["customer_id", "sku"]).is_empty()
    # the same in Python, from a frame
    data = rg.Interactions.from_frame(log, user="customer_id", item="sku", timestamp="event_time")
    run = rg.fit(rg.models.Popularity(), data, seed=0)
    assert run.recommend(users="all", k=10).join(newest, on=["customer_id", "sku"]).is_empty()


def test_the_command_line_trains_on_a_file_and_sees_new_rows(team: Path) -> None:
    (team / "growing.csv").write_text((team / "log.csv").read_text())
    works("train popularity --data growing.csv --out before")
    works("data init growing.csv")
    works("train popularity --dataset growing.toml --out from-card-before")
    with (team / "growing.csv").open("a") as file:
        file.write("1001,9999,2026-02-01T08:00:00\n")
    for given, out in (
        ("--data growing.csv", "after"),
        ("--dataset growing.toml", "from-card-after"),
    ):
        works(f"train popularity {given} --out {out}")
        n_items = [
            json.loads((team / run / "record.json").read_text())["data"]["n_items"]
            for run in ("before", out)
        ]
        assert n_items[1] == n_items[0] + 1
    assert "hash" in refused("evaluate before")


def test_a_second_day(team: Path, served: Path) -> None:
    new = [
        (1001 + user, 500 + (user + step) % (ITEMS + 3), step)
        for user in range(40)
        for step in range(4)
    ]
    frame = pl.DataFrame(new, schema=["customer_id", "sku", "day"], orient="row")
    frame = frame.select(
        "customer_id",
        "sku",
        pl.format("2026-02-{}T08:00:00", pl.col("day") + 10).alias("event_time"),
    )
    frame.write_parquet(team / "new.parquet")
    works("update served --data new.parquet --out second --force")
    bundle = rg.load("second")
    assert {1040, 540} <= {*bundle.users.values.to_list(), *bundle.items.values.to_list()}
    assert len(bundle.items) > len(rg.load("served").items)
    # more epochs on a finished run; a run that stopped for another reason names what differs
    again = "train sasrec --data log.csv --fit-on all --out served --seed 1 --resume"
    works(again, *SMALL, "--set", "max_epochs=3")
    assert len(rg.Run.open("served").history) == 3
    assert refused(again, *TINY, "--set", "dropout=0.1")


def test_a_training_is_seen(team: Path, tested: Path) -> None:
    arguments = [
        "train",
        "sasrec",
        "--data",
        "log.csv",
        "--out",
        "seen",
        "--log-file",
        "train.log",
        *TINY,
    ]
    with forked.module("recgraph", *arguments, cwd=team) as piped:
        assert piped.wait() == 0, piped.error
        assert len(re.findall(r"epoch +\d", piped.error)) >= 1
    assert "epoch" in (team / "train.log").read_text()
    run = rg.Run.open("tested")
    for shown in (run, run.evaluate("valid"), rg.load_data("log.csv"), run.split):
        assert " at 0x" not in repr(shown)
        assert shown._repr_html_().startswith('<div class="recgraph">')
    assert "<svg" in run.plot()._repr_html_()


def test_parts_of_ones_own_in_one_file(team: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (team / "mine.py").write_text(
        "import recgraph as rg\n"
        "from recgraph.evaluate.metrics import Metric\n\n\n"
        "@rg.register('model')\nclass Mine(rg.models.Popularity):\n    'Popularity by another name.'\n\n\n"
        "@rg.register('metric')\nclass Foremost(Metric):\n    'Whether the first item is relevant.'\n\n"
        "    name = 'foremost'\n\n"
        "    def compute(self, ranked, k):\n        return ranked.hits[:, 0].double()\n"
    )
    works("train mine --data log.csv --out own --import mine.py")
    assert "foremost@5" in works("evaluate own --import mine.py -m foremost@5").stdout
    monkeypatch.setattr(registry, "_registered", {})  # as in a new process
    assert "--import" in refused("recommend own --user 1001")


def test_bundles_can_be_read_and_damage_is_named(team: Path, served: Path, tested: Path) -> None:
    modes = {
        stat.S_IMODE(path.stat().st_mode)
        for path in (served / "bundle").rglob("*")
        if path.is_file()
    }
    assert len(modes) == 1
    (team / "damaged").mkdir()
    (team / "damaged" / "record.json").write_text("{")
    assert "record.json" in refused("evaluate damaged")
