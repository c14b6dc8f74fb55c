"""Records of a data file are not mixed with those of another one of the same name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from made_up import BOARD, fill, store_of, write_board

import recgraph as rg
from recgraph.config import ConfigError
from recgraph.leaderboard.board import Board
from recgraph.leaderboard.origin import check_origin, keep_origin
from recgraph.leaderboard.sheet import open_sheet

LOG = "user,item,time\n" + "".join(f"{n % 9},{n % 7},{n}\n" for n in range(90))


def board_in(folder: Path) -> Board:
    folder.mkdir()
    (folder / "log.csv").write_text(LOG)
    return write_board(folder, "data = '../log.csv'\n" + BOARD, "log")


def test_another_file_of_the_same_name_is_refused(tmp_path: Path) -> None:
    one, other, results = board_in(tmp_path / "one"), board_in(tmp_path / "other"), tmp_path / "results"
    rg.leaderboard.run(one.folder, results=results, only=["popularity"], budget=0)
    place = one.folder_of(one.sheets[0], results)
    assert place == other.folder_of(other.sheets[0], results)
    for read in (
        lambda: rg.leaderboard.run(other.folder, results=results, only=["popularity"], budget=0),
        lambda: open_sheet(other, other.sheets[0], results),
    ):
        with pytest.raises(
            ConfigError, match=r"the records of '.*one/log.csv', and this board is of '.*other/log.csv'"
        ):
            read()
    open_sheet(one, one.sheets[0], results)
    # what is gone was moved: the board and its file may be in another place
    shutil.rmtree(tmp_path / "one")
    keep_origin(place, other.sheets[0], "d" * 16)
    check_origin(place, other.sheets[0])


def test_a_project_that_is_moved_keeps_its_records(tmp_path: Path) -> None:
    board = board_in(tmp_path / "before")
    fill(board)
    keep_origin(store_of(board).folder, board.sheets[0], "d" * 16)
    shutil.copytree(tmp_path / "before", tmp_path / "after")  # the first one is still there
    moved = rg.leaderboard.load_board(tmp_path / "after" / "shop")
    assert open_sheet(moved, moved.sheets[0]).n_done == 7


def test_records_of_the_data_that_the_file_holds_now_are_shown(tmp_path: Path) -> None:
    """Not those of the newest record, which may be of an earlier state of the file."""
    board = board_in(tmp_path / "one")
    for log, only in ((LOG, ["popularity"]), (LOG + "0,6,90\n", ["bprmf"]), (LOG, ["popularity"])):
        (tmp_path / "one" / "log.csv").write_text(log)
        summary = rg.leaderboard.run(board, only=only, device="cpu")
    assert len(summary.kept) == 1
    sheet = open_sheet(board, board.sheets[0])
    assert [entry.name for entry in sheet.entries if entry.records] == ["Popularity"]
    assert {one.entry: one.reason for one in sheet.missing}["BPRMF"] == "made with other data, to be run again"
