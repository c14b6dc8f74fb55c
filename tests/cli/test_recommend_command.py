"""What `recgraph recommend` makes of categories, histories, rules and an index; options of other commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from command_line import call, refused, works

import recgraph as rg
from recgraph.cli.rules import rules_of
from recgraph.data.errors import MissingIdError
from recgraph.explain import attribute
from recgraph.serve.rules import Rules

N_ITEMS = 12


def frame(timestamp: str | None = None) -> pl.DataFrame:
    rows = [(user, (user * 5 + place * (user % 3 + 1)) % N_ITEMS, place) for user in range(20) for place in range(6)]
    made = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    return made.drop("time") if timestamp is None else made.rename({"time": timestamp})


def features() -> pl.DataFrame:
    texts = ["A|B", "C|A", "C"] * 4
    return pl.DataFrame({"item": range(N_ITEMS), "txt": texts}).with_columns(
        cat=pl.col("txt").cast(pl.Categorical), many=pl.col("txt").str.split("|").cast(pl.List(pl.Categorical))
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a log without times, with features of categories."""
    out = tmp_path_factory.mktemp("runs") / "sasrec"
    data = rg.Interactions.from_frame(frame(), user="user", item="item").with_features(item_features=features())
    rg.fit(rg.models.SASRec(hidden_dim=8), data, seed=0, out=out, max_epochs=2)
    return out


def rows(line: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(works(f"{line} --format json").stdout)
    return found


@pytest.mark.parametrize("column", ["cat", "many"])
def test_categories_are_texts(run: Path, column: str) -> None:
    """Rules read them as they read texts, which are split by the separator of the rules."""
    rules = Rules(separator="|", max_per={column: 1}, boost=[{"column": column, "value": "A", "weight": 1.0}])
    as_texts = Rules(separator="|", max_per={"txt": 1}, boost=[{"column": "txt", "value": "A", "weight": 1.0}])
    served = rg.load(run)
    found, expected = (served.recommend([3], k=6, rules=given) for given in (rules, as_texts))
    assert found["item"].to_list() == expected["item"].to_list()
    assert len(found) < 6
    assert served.item_features is not None
    assert served.item_features.schema["cat"] == pl.String


def test_histories_are_read_by_their_times_where_the_run_has_none(run: Path, tmp_path: Path) -> None:
    history = frame("time").filter(pl.col("user") == 4)
    lists = []
    for name, given in (("sorted", history), ("reversed", history.reverse())):
        given.write_csv(tmp_path / f"{name}.csv")
        lists.append(rows(f"recommend {run} --histories {tmp_path / f'{name}.csv'} -k 4"))
    assert lists[0] == lists[1]


def test_lists_of_single_users_win_over_the_rules_file(run: Path, tmp_path: Path) -> None:
    best = rows(f"recommend {run} --user 3 -k 1")[0]["item"]
    (tmp_path / "r.toml").write_text("[block_for]\n3 = [0]\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text(f"user,item\n3,{best}\n", encoding="utf-8")
    line = f"recommend {run} --user 3 -k 20 --keep-seen --rules {tmp_path / 'r.toml'}"
    assert 0 not in [row["item"] for row in rows(line)]
    found = [row["item"] for row in rows(f"{line} --block-for {tmp_path / 'b.csv'}")]
    assert 0 in found
    assert best not in found


@pytest.mark.parametrize(("name", "text"), [("x.csv", "user,item\n3,5\n3,\n"), ("x.txt", "3 5\n4\n")])
def test_a_missing_id_of_a_request_names_no_option_of_a_log(name: str, text: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    form = "--data-format sequences" if name == "x.txt" else ""
    for option in ("--user 3 --allow-for", "--histories"):
        message = refused(f"recommend {run} {option} {tmp_path / name}")
        assert "take such rows out" in message
        assert "drop" not in message
    assert "--drop-missing-ids" in refused(f"train popularity --data {tmp_path / name} --out {tmp_path / 'r'} {form}")
    with pytest.raises(MissingIdError, match=r"fill them in, or take such rows out$"):
        rg.load(run).recommend(histories=pl.DataFrame({"user": [3, 3], "item": [5, None]}))


def test_options_stand_beside_the_rules_file(run: Path, tmp_path: Path) -> None:
    """What the file blocks stays blocked, and its rules for columns that no option names hold."""
    path, plain = tmp_path / "r.toml", [row["item"] for row in rows(f"recommend {run} --user 3 -k 4")]
    path.write_text(
        f"block = [{plain[0]}]\nmax_per = {{ txt = 2, cat = 3 }}\ndiversity = 0.2\nallow = [{plain[1]}]\n"
        '[[boost]]\ncolumn = "txt"\nvalue = "C"\n[[boost]]\ncolumn = "cat"\nvalue = "C"\n',
        encoding="utf-8",
    )
    made = rules_of(path, None, ["11"], ["cat=1"], ["txt:C=0.5"], None, None)
    assert made == Rules(
        block=[str(plain[0]), "11"],
        max_per={"txt": 2, "cat": 1},
        boost=[{"column": "cat", "value": "C"}, {"column": "txt", "value": "C", "weight": 0.5}],
        diversity=0.2,
        allow=[plain[1]],
    )
    done = works(
        f"recommend {run} --user 3 --keep-seen -k 12 --format json --rules {path} --block {plain[1]} --allow 0"
    )
    assert [row["item"] for row in json.loads(done.stdout)] == [0]
    assert f"--allow replaces allow in {path}" in done.stderr
    assert "block" not in done.stderr


def test_rules_of_the_file_that_options_replace_are_named(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(
        "max_per = { txt = 2, cat = 3 }\ndiversity = 0.2\nboost = { place = 0.1 }\n[block_for]\n3 = [0]\n",
        encoding="utf-8",
    )
    (tmp_path / "b.csv").write_text("user,item\n3,5\n", encoding="utf-8")
    line = f"recommend {run} --user 3 --rules {path} --max-per cat=1 --rerank dpp --boost place=0.5"
    told = " ".join(call(f"{line} --block-for {tmp_path / 'b.csv'}").stderr.split())
    for said in ("--max-per replaces max_per of column 'cat'", "--boost replaces boost of column 'place'"):
        assert f"{said} in {path}" in told
    assert f"--rerank replaces diversity in {path}" in told
    assert f"--block-for replaces block_for in {path}" in told
    assert "'txt'" not in told.partition("--max-per")[2].partition(" in ")[0]


def test_an_index_that_rules_leave_unused_is_not_built(run: Path, tmp_path: Path) -> None:
    done = works(f"recommend {run} --all -k 2 --ann --max-per txt=1 --out {tmp_path / 'x.csv'}")
    assert "--ann is not used: lists under rules are ranked exactly" in done.stderr
    assert "approximate lists" not in done.stderr


def test_vectors_in_a_pipe_are_cells_as_in_a_file(run: Path, tmp_path: Path) -> None:
    works(f"vectors {run} --out {tmp_path / 'x.csv'}")
    assert works(f"vectors {run} --format csv").stdout == (tmp_path / "x.csv").read_text(encoding="utf-8")


def test_values_of_users_are_named_by_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame("time").write_csv(tmp_path / "log.csv")
    works(f"train popularity --data {tmp_path / 'log.csv'} --out {tmp_path / 'mine'}")
    monkeypatch.chdir(tmp_path / "mine")
    works(f"evaluate . --split valid --save-users {tmp_path / 'users'}")
    names = {path.name for path in (tmp_path / "users").iterdir()}
    assert names == {"mine-valid-keep.parquet", "mine-valid-exclude.parquet"}


def test_a_form_of_numbers_that_are_not_printed_is_refused(run: Path, tmp_path: Path) -> None:
    message = refused(f"plot {run} --out {tmp_path / 'p.svg'} --format json")
    assert "--format json is of the numbers: add --numbers" in message


def test_one_id_is_one_item() -> None:
    texts = frame("time").with_columns(pl.col("item").cast(pl.String))
    log = rg.Interactions.from_frame(texts, user="user", item="item", timestamp="time")
    run = rg.fit(rg.models.SASRec(hidden_dim=8), log, seed=0, max_epochs=1)
    assert [found.item.id for found in attribute(run, 3, items="11")] == ["11"]
    assert [found.item.id for found in attribute(run, 3, items=["11", "1"])] == ["11", "1"]


def test_ids_of_bytes_are_exported_as_they_are_served(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed; pip install 'recgraph[export]'")
    raw = frame("time").with_columns(pl.format("x{}", "item").cast(pl.Binary).alias("item"))
    log = rg.Interactions.from_frame(raw, user="user", item="item", timestamp="time")
    rg.fit(rg.models.SASRec(hidden_dim=8), log, seed=0, max_epochs=1).export(tmp_path / "out")
    written = json.loads((tmp_path / "out" / "item_ids.json").read_text(encoding="utf-8"))
    assert set(written) == {f"x{item}" for item in range(N_ITEMS)}
