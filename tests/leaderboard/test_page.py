"""The page of a leaderboard as text; ``test_page_in_chromium.py`` opens it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from made_board import FAILS, NEVER_RUN, QUALITY, made_board, made_sheets
from markupsafe import escape

from recgraph.leaderboard.board import Board
from recgraph.leaderboard.compare import Column, Comparison
from recgraph.leaderboard.figures import cost_figures, cost_marks, curve_figure, curve_figures
from recgraph.leaderboard.frame import Number
from recgraph.leaderboard.page import page
from recgraph.leaderboard.sheet import Sheet
from recgraph.leaderboard.tables import (
    PageTable,
    anchors,
    count,
    duration,
    group_tables,
    listed,
    memory,
    metric_name,
    score_table,
    spread,
)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    return made_board(tmp_path_factory.mktemp("board"))


@pytest.fixture(scope="module")
def sheets(board: Board, tmp_path_factory: pytest.TempPathFactory) -> list[Sheet]:
    return made_sheets(board, tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def text(board: Board, sheets: list[Sheet]) -> str:
    return page(sheets, board)


def test_it_needs_nothing_and_forbids_what_it_does_not_need(text: str) -> None:
    assert not re.search(r"https?:|<img|<iframe|@import|url\(|\bsrc=", text)
    assert {*re.findall(r'<\w+ [^>]*href="([^#"][^"]*)"', text)} == {"data:,"}
    assert "default-src 'none'" in text
    assert 'name="viewport"' in text


def test_the_same_records_give_the_same_page(board: Board, sheets: list[Sheet], text: str) -> None:
    assert page(sheets, board) == text


def test_addresses_are_of_one_thing_each_and_lead_somewhere(text: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert {*re.findall(r'href="#([^"]+)"', text)} <= set(ids)


def test_sheets_of_one_data_set_are_called_as_their_files(board: Board, sheets: list[Sheet]) -> None:
    first = sheets[0]
    names = (f"{first.dataset}-of-sasrec", f"{first.dataset}-of-lightgcn")
    specs = [first.spec.model_copy(update={"file": Path(f"boards/{name}.toml")}) for name in names]
    text = page([replace(first, spec=spec) for spec in specs], board)
    for name in names:
        assert f'<section id="{name}"' in text
        assert text.count(f'<a href="#{name}">{name}</a>') == 2


def test_an_entry_called_like_another_ones_seed(board: Board, sheets: list[Sheet]) -> None:
    """``SASRec 2`` beside the button of seed 2 of ``SASRec``: both had one id, and the link led to the button."""
    other = sheets[0].entries[1].name
    entries = tuple(replace(each, name="SASRec 2" if each.name == other else each.name) for each in sheets[0].entries)
    frame = sheets[0].frame.with_columns(pl.col("entry").replace(other, "SASRec 2"))
    text = page([replace(sheets[0], entries=entries, frame=frame)], board)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert {*re.findall(r' for="([^"]+)"', text)} <= set(ids)


def test_a_number_that_is_none_is_sorted_as_none(tmp_path_factory: pytest.TempPathFactory, board: Board) -> None:
    sheet = made_sheets(board, tmp_path_factory.mktemp("nan"))[0]
    is_one = (pl.col("entry") == "EASE") & (pl.col("kind") == "score")
    values = pl.when(is_one).then(float("nan")).otherwise(pl.col("value"))
    text = page([replace(sheet, frame=sheet.frame.with_columns(values.alias("value")))], board)
    assert re.search(r'<td class="g0 score"[^>]*>nan<', text)
    assert not re.search(r'data-v="nan"', text)


def test_what_was_given_is_written_as_text(text: str) -> None:
    assert "<b>sampled</b>" not in text
    assert "<i>broke</i>" not in text
    assert escape("SASRec, <b>sampled</b> & more") in text


def columns(grid: PageTable) -> list[tuple[str, str]]:
    return [(group.title, column.label) for group in grid.groups for column in group.columns]


def test_a_column_holds_one_protocol(sheets: list[Sheet]) -> None:
    sheet = sheets[0]
    grid = score_table(sheet)
    titles = [group.title for group in grid.groups]
    assert titles == ["seen excluded", "seen kept", "cost of a seed"]
    assert columns(grid)[:4] == [
        (title, metric) for title in ("seen excluded", "seen kept") for metric in ("NDCG@10", "Recall@10")
    ]
    assert grid.entries == sheet.entries
    for place, title in enumerate(("seen excluded", "seen kept")):
        for metric, column in zip(("ndcg@10", "recall@10"), grid.groups[place].columns, strict=True):
            scores = {entry.name: sheet.score(entry.name, title, metric) for entry in sheet.entries}
            assert column.numbers == {name: score for name, score in scores.items() if score is not None}
            assert all(column.format(number.mean) == f"{number.mean:.4f}" for number in column.numbers.values())
    for grid in group_tables(sheet):
        assert [group.title for group in grid.groups] == ["seen excluded", "seen kept"]
        assert [column.label for column in grid.groups[0].columns] == ["1-4 (1,000)", "5+ (234)"]


def test_rows_begin_with_the_best_and_end_with_what_has_no_record(sheets: list[Sheet]) -> None:
    grid = score_table(sheets[0])
    names = [entry.name for entry in grid.entries]
    assert names == [*QUALITY, FAILS, NEVER_RUN]
    excluded, kept = (group.columns[0] for group in grid.groups[:2])
    signs = {name: excluded.numbers[name].sign for name in QUALITY}
    assert signs == {name: "≈" if name.startswith("SASRec") else "" for name in QUALITY}
    (best,) = [name for name, number in kept.numbers.items() if number.sign]
    assert best == "LightGCN"
    highest = [[name for name in names if column.is_best(name)] for column in (excluded, kept)]
    assert highest == [["SASRec"], ["LightGCN"]]


def test_a_sheet_without_tests_has_no_signs(sheets: list[Sheet], text: str) -> None:
    grid = score_table(sheets[1])
    columns = [column for group in grid.groups for column in group.columns]
    assert not any(number.sign for column in columns for number in column.numbers.values())
    assert [group.is_visible for group in grid.groups] == [True, True, True, False, False, True]
    assert escape(sheets[1].tested) in text


def test_all_that_a_sceptic_asks_for_is_there(sheets: list[Sheet], text: str) -> None:
    for sheet in sheets:
        assert escape(sheet.tested) in text or not sheet.tables
        for entry in sheet.entries:
            for command in entry.commands.values():
                assert escape(command) in text
            for record in entry.records.values():
                assert record in text
            for table in sheet.tables:
                for score in sheet.scores(entry.name, table.title).values():
                    assert all(f"{value:.6f}" in text for value in score.by_seed.values())
                    assert all(f"{versus.low:.4f} to {versus.high:.4f}" in text for versus in score.versus)
        for table in sheet.tables:
            assert table.protocol_hash in text
    failed = sheets[0].failures[0]
    assert escape(failed.message) in text
    assert "Traceback:" in text
    assert f"{NEVER_RUN}, seeds 0, 1, 2: not run" in text
    assert "significantly better" in text
    assert "no significant difference from SASRec, &lt;b&gt;sampled" in text
    assert "No record yet" in text


def with_marks(sheet: Sheet, p_values: dict[str, float]) -> Sheet:
    """The sheet with comparisons of its first column; entries that are not named were not tested.

    Args:
        p_values: name of an entry -> adjusted, of the first entry against it.
    """
    addresses = {entry.name: entry.address for entry in sheet.entries}
    versus: dict[str, tuple[Comparison, ...]] = {
        addresses[name]: (Comparison("users", 9, 0.1, 0.0, 0.2, p, p, None),) for name, p in p_values.items()
    }
    column = Column(sheet.entries[0].address, versus)
    return replace(sheet, comparisons={"seen excluded": {"ndcg@10": column}})


def test_the_leader_is_better_than_what_was_tested_alone(board: Board, sheets: list[Sheet]) -> None:
    other = [*QUALITY][1]
    some = {other: 0.001, "EASE": 0.001}
    text = page([with_marks(sheets[0], some), sheets[1]], board)
    assert "significantly better than 2 of 4 others; LightGCN and Popularity not tested" in text
    text = page([with_marks(sheets[0], {**some, "LightGCN": 0.001, "Popularity": 0.001}), sheets[1]], board)
    assert "significantly better than all 4 others<" in text
    text = page([with_marks(sheets[0], {**some, "EASE": 0.2}), sheets[1]], board)
    assert "no significant difference from EASE; LightGCN and Popularity not tested" in text


def test_a_board_of_one_sheet_and_of_none(board: Board, sheets: list[Sheet]) -> None:
    assert 'class="overview"' in page(sheets, board)
    for some in (sheets[1:2], []):
        assert 'class="overview"' not in page(some, board)


def test_the_front_is_drawn_through_what_nothing_beats(sheets: list[Sheet]) -> None:
    training, inference = cost_figures(sheets[0])
    for figure, cost in ((training, "training_seconds"), (inference, "inference_seconds")):
        marks = cost_marks(sheets[0], cost)
        assert figure.svg.count('class="front"') == sum(mark.kind == "front" for mark in marks)
        assert figure.svg.count("<circle") == len(marks) == len(QUALITY)
        # a whisker for each entry with several seeds
        assert figure.svg.count('class="whisker"') == 3
        assert figure.svg.count('class="mark"') == len(QUALITY)
    assert cost_figures(sheets[2]) == []


def test_curves_have_a_colour_an_entry_and_a_line_a_seed(sheets: list[Sheet]) -> None:
    (figure,) = curve_figures(sheets[0])
    assert [name for _, name in figure.key] == [*QUALITY][:3]
    for kind, _ in figure.key:
        assert figure.svg.count(f'class="curve {kind}"') == 3
    of_one = curve_figure(sheets[0], sheets[0].entries[0])
    assert of_one is not None
    assert of_one.svg.count('class="kept"') == 3
    assert curve_figure(sheets[0], sheets[0].entries[3]) is None
    (loss,) = curve_figures(sheets[1])
    assert "loss" in loss.title.lower()


def test_many_entries_share_the_last_colour(sheets: list[Sheet]) -> None:
    entry = sheets[0].entries[0]
    names = [f"{n}" for n in range(9)]
    rows = sheets[0].frame.filter(entry=entry.name)
    many = replace(
        sheets[0],
        entries=tuple(replace(entry, name=name) for name in names),
        frame=pl.concat([rows.with_columns(pl.lit(name).alias("entry")) for name in names]),
    )
    (figure,) = curve_figures(many)
    assert [kind for kind, _ in figure.key] == ["c1", "c2", "c3", "c4", "c5", "c6", "other"]
    assert figure.svg.count('class="curve other"') == 3 * 3


def test_numbers_just_below_a_thousand_are_no_powers() -> None:
    assert [duration(seconds) for seconds in (0.9997, 0.25, 119.96, 7199, 3.6e6)] == [
        "1000 ms",
        "250 ms",
        "120 s",
        "120 min",
        "1000 h",
    ]
    assert [count(number) for number in (999, 999_900, 999_950_000, 1_871_496)] == ["999", "1000 k", "1000 M", "1.87 M"]


def test_words() -> None:
    names = ("ndcg@10", "macro_f1", "hit_rate@5", "auc", "recall@20")
    assert [metric_name(name) for name in names] == ["NDCG@10", "Macro F1", "Hit rate@5", "AUC", "Recall@20"]
    assert [duration(s) for s in (0.0123, 1, 119, 120, 7200)] == ["12.3 ms", "1 s", "119 s", "2 min", "2 h"]
    assert [count(n) for n in (12, 1234, 1871496, 2e9)] == ["12", "1.23 k", "1.87 M", "2 G"]
    assert [memory(n) for n in (624.2, 2048)] == ["624 MiB", "2 GiB"]
    assert [listed(["a", "b", "c", "d", "e"][:n]) for n in (0, 1, 2, 3, 5)] == [
        "",
        "a",
        "a and b",
        "a, b and c",
        "a, b, c and 2 more",
    ]
    assert anchors(["A b", "a-b", "A B", "a-b-2", "<>", ""]) == ["a-b", "a-b-2", "a-b-3", "a-b-2-2", "entry", "entry-2"]
    assert anchors(["SASRec 2", "SASRec", "SASRec"]) == ["sasrec-2", "sasrec", "sasrec-3"]
    assert [spread(Number(dict(enumerate(values)))) for values in ((0.5,), (0.5, 0.5), (0.1, 0.2))] == [
        "",
        "±0",
        "±.0707",
    ]
