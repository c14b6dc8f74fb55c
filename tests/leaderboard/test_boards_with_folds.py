"""A board whose entries are trained and tested on each fold of a split."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up import write_board
from refusing import refused

import recgraph as rg
from recgraph.config import ConfigError
from recgraph.leaderboard.board import Board
from recgraph.leaderboard.plan import FoldSeed, check_study, load_data_hashes, mean_of
from recgraph.leaderboard.rendering import markdown, rows
from recgraph.leaderboard.runner import Summary
from recgraph.leaderboard.sheet import Sheet, open_sheet, update_comparisons

TEXT = """
data = "../log.csv"
seeds = [5, 6]
metrics = ["ndcg@10", "gini@10"]
[protocol]
split = "time"
split_options = { valid = 0.1, test = 0.2 }
n_folds = 2
cutoffs = [10]
[training]
max_epochs = 2
[[models]]
model = "popularity"
seeds = [0]
[[models]]
model = "itemknn"
seeds = [0]
[[models]]
model = "bprmf"
settings = { hidden_dim = 4 }
"""


def _log(folder: Path) -> None:
    rng = np.random.default_rng(3)
    items = np.minimum(rng.zipf(1.5, 900) - 1, 39)
    frame = {"user_id": rng.integers(40, size=900), "item_id": items, "timestamp": rng.permutation(900)}
    pd.DataFrame(frame).to_csv(folder / "log.csv", index=False)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Board, Summary]]:
    folder = tmp_path_factory.mktemp("folds")
    _log(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        board = write_board(folder, TEXT, "own")
        yield board, rg.leaderboard.run(board, device="cpu", workers=2)


def _sheet(board: Board) -> Sheet:
    return update_comparisons(open_sheet(board, board.sheets[0]))


def _records(sheet: Sheet) -> dict[str, dict[Any, dict[str, Any]]]:
    return {
        entry.name: {repeat: json.loads((sheet.folder / name).read_text()) for repeat, name in entry.records.items()}
        for entry in sheet.entries
    }


def test_each_entry_has_a_record_of_each_fold_and_seed(ran: tuple[Board, Summary]) -> None:
    board, summary = ran
    assert summary.is_complete, summary
    # of a seed a fold of every model before the next one of any
    order = [name.split(" / ", 1)[1] for name in rg.leaderboard.run(board, device="cpu").kept]
    assert order[:4] == [
        f"{name} / fold 0, seed {seed}" for name, seed in (("Popularity", 0), ("ItemKNN", 0), ("BPRMF", 5))
    ] + ["Popularity / fold 1, seed 0"]
    sheet = _sheet(board)
    assert {entry.name: set(entry.done) for entry in sheet.entries} == {
        "Popularity": {FoldSeed(0, 0), FoldSeed(1, 0)},
        "ItemKNN": {FoldSeed(0, 0), FoldSeed(1, 0)},
        "BPRMF": {FoldSeed(fold, seed) for fold in (0, 1) for seed in (5, 6)},
    }
    log = rg.load_data(board.folder.parent / "log.csv")
    splits = rg.folds(log, 2, "time", valid=0.1, test=0.2)
    for own in _records(sheet).values():
        for repeat, record in own.items():
            assert record["fold"] == repeat.fold
            assert record["data"]["split_hash"] == splits[repeat.fold].hash
            assert record["data_hash"] == load_data_hashes(board.sheets[0]).data
            (protocol, _) = record["protocols"].values()
            assert json.loads(protocol["protocol"]["split_facts"]) == {"fold": repeat.fold, "n_folds": 2}
            assert protocol["n_users"] == len(splits[repeat.fold].test)


def test_the_table_has_means_over_folds_and_seeds(ran: tuple[Board, Summary]) -> None:
    board, _ = ran
    sheet = _sheet(board)
    for name, own in _records(sheet).items():
        for table in sheet.tables:
            score = sheet.score(name, table.title, "ndcg@10")
            assert score is not None
            assert score.mean == pytest.approx(fmean(each["scores"][table.title]["ndcg@10"] for each in own.values()))
    (first, _) = sheet.tables
    assert first.n_folds == 2
    of_popularity = _records(sheet)["Popularity"].values()
    assert first.n_users == sum(each["protocols"][first.title]["n_users"] for each in of_popularity)
    assert first.protocol["folds"] == "0, 1 of 2; numbers are means over folds and seeds"
    assert not {"split_hash", "split_facts"} & first.protocol.keys()
    sizes = next(each.sizes for each in sheet.groups if each.kind == "history" and each.table == first.title)
    assert sum(sizes.values()) == first.n_users


def test_users_are_compared_by_what_they_add_to_the_means_over_folds(ran: tuple[Board, Summary]) -> None:
    board, _ = ran
    sheet = _sheet(board)
    title = sheet.tables[0].title
    scores = {entry.address: sheet.score(entry.name, title, "ndcg@10") for entry in sheet.entries}
    files = [name.replace(".json", "-exclude.parquet") for name in sheet.entries[0].records.values()]
    users = pd.concat(pd.read_parquet(sheet.folder / name).iloc[:, 0] for name in files)
    column = sheet.comparisons[title]["ndcg@10"]
    assert len(column.versus) == 2
    for address, tests in column.versus.items():
        best, other = scores[column.best], scores[address]
        assert best is not None
        assert other is not None
        assert (tests[0].over, tests[0].n) == ("users", users.nunique())
        assert tests[0].difference == pytest.approx(best.mean - other.mean)
    # a metric of all lists together is compared over seeds, which two entries have one of
    assert not any(tests for tests in sheet.comparisons[title]["gini@10"].versus.values())
    assert "each with all its folds and the mean over an entry's seeds" in sheet.tested


def test_what_is_shown_names_folds(ran: tuple[Board, Summary]) -> None:
    sheet = _sheet(ran[0])
    text = markdown([sheet], "shop")
    assert "| model | folds and seeds | " in text
    assert "with one of the seeds 5, 6:" in text
    values = next(row["values"] for row in rows(sheet) if row["entry"] == "BPRMF" and row["name"] == "ndcg@10")
    assert [each.partition(":")[0] for each in values.split()] == ["0/5", "0/6", "1/5", "1/6"]
    (bprmf,) = [entry for entry in sheet.entries if entry.name == "BPRMF"]
    assert '"fold" = 1' in bprmf.commands[FoldSeed(1, 5)]


def test_an_entry_that_lacks_a_fold_is_not_compared(ran: tuple[Board, Summary]) -> None:
    board, _ = ran
    sheet = _sheet(board)
    best = sheet.ranked(sheet.tables[0].title, "ndcg@10")[0]
    other = next(entry for entry in sheet.entries if entry.name != best.name)
    hidden = sheet.folder / other.records[max(other.records)]  # type: ignore[type-var]
    text = hidden.read_bytes()
    hidden.unlink()
    try:
        found = update_comparisons(open_sheet(board, board.sheets[0]))
        column = found.comparisons[sheet.tables[0].title]["ndcg@10"]
        assert len(column.versus) == (0 if other.address == column.best else 1)
        assert other.address not in column.versus
        assert [one.seeds for one in found.missing] == [(max(other.records),)]  # type: ignore[type-var]
    finally:
        hidden.write_bytes(text)
        update_comparisons(open_sheet(board, board.sheets[0]))


def test_folds_count_alike_where_a_seed_is_done_on_some_of_them() -> None:
    values = {FoldSeed(0, 5): 0.1, FoldSeed(0, 6): 0.3, FoldSeed(1, 5): 0.6}
    assert mean_of(values) == pytest.approx((0.2 + 0.6) / 2)


@pytest.mark.parametrize(("split", "allowed"), [("time", 2), ("ratio", None)])
def test_settings_are_tuned_where_no_fold_tests(tmp_path: Path, split: str, allowed: int | None) -> None:
    _log(tmp_path)
    text = f'data = "../log.csv"\n[protocol]\nsplit = "{split}"\nn_folds = 3\n'
    (sheet,) = write_board(tmp_path, f'{text}[[models]]\nmodel = "ease"\nstudy = "../study.json"\n', "own").sheets
    log = rg.load_data(tmp_path / "log.csv")
    for fold, each in enumerate([*rg.folds(log, 3, split), log.split(split)]):
        record = {
            "settings": {"tuned": {}},
            "source": {"dataset": sheet.dataset},
            "recgraph": {"split_hash": each.hash},
        }
        (tmp_path / "study.json").write_text(json.dumps(record))
        if fold == allowed:
            check_study(sheet, sheet.models[0], load_data_hashes(sheet).tuning)
            continue
        with refused("study", by=ConfigError):
            check_study(sheet, sheet.models[0], load_data_hashes(sheet).tuning)
