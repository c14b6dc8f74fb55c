"""A folder with a board, its data and its records keeps them when it is moved: addresses hold no path of a machine.

Those of earlier versions did, where a board named files of its own; they are found, and moved to today's.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_up import BOARD, MEANS, fail, fill, jobs, store_of, write_board

import recgraph as rg
from recgraph.config import ConfigError
from recgraph.data.catalog.cards import card_files
from recgraph.data.imprint import load_json
from recgraph.leaderboard.adopting import adopt
from recgraph.leaderboard.board import Board, load_board
from recgraph.leaderboard.job import digest
from recgraph.leaderboard.plan import jobs_of
from recgraph.leaderboard.sheet import Sheet, open_sheet, update_comparisons

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
DATA = "data = { train = '../data/log.csv', test = '../data/./test.csv', item_features = '../data/items.csv' }\n"


@pytest.fixture(scope="module", autouse=True)
def _workers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def of_files(folder: Path) -> Board:
    return write_board(folder, DATA + BOARD, "log")


def as_earlier(board: Board) -> Board:
    """The board as an earlier version read it, whose addresses held absolute paths."""
    (sheet,) = board.sheets
    return Board(board.name, board.folder, (sheet.model_copy(update={"data_places": {}}),))


def opened(board: Board) -> Sheet:
    return open_sheet(board, board.sheets[0])


def marks(sheet: Sheet) -> dict[str, str]:
    found = ((entry.name, sheet.score(entry.name, "seen excluded", "ndcg@10")) for entry in sheet.entries)
    return {name: score.mark for name, score in found if score is not None}


def files_of(board: Board) -> set[str]:
    folder = store_of(board).folder
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_the_records_of_the_project_have_the_addresses_that_its_boards_give() -> None:
    """None of them may move: they name data sets, not paths."""
    n_records = 0
    for folder in sorted({path.parent for path in EXPERIMENTS.glob("*/*.toml")} - {EXPERIMENTS / "configs"}):
        board = load_board(folder)
        for place in {board.folder_of(sheet) for sheet in board.sheets}:
            sheets = [sheet for sheet in board.sheets if board.folder_of(sheet) == place]
            planned = [job for sheet in sheets for entry in sheet.models for job in jobs_of(sheet, entry)]
            assert all(job.earlier is None for job in planned)
            identities = {job.stem: job.identity for job in planned}
            for path in place.glob("*-seed*.json"):
                kept = load_json(path)["identity"]
                stem = path.name.removesuffix(".json").removesuffix(".failed")
                assert stem.split("-")[-2] == digest(kept)
                assert identities[stem] == json.loads(json.dumps(kept)), path
                assert '"/' not in json.dumps(kept)
                n_records += 1
    assert n_records >= 223


def test_an_address_holds_paths_from_the_boards_file_on(tmp_path: Path) -> None:
    one, two = (jobs(of_files(tmp_path / name)) for name in ("one", "two"))
    for name, own in one.items():
        assert [job.stem for job in own] == [job.stem for job in two[name]]
        for job in own:
            assert str(tmp_path) not in json.dumps(job.identity)
            assert str(tmp_path) in json.dumps(job.settings)  # what a worker reads
    reading = one["LightGCN"][0].identity["data"]["reading"]
    assert (reading["test"], reading["item_features"]) == ("../data/test.csv", "../data/items.csv")
    # other files are another job, and a path that is absolute stays so
    other = write_board(tmp_path / "one", DATA.replace("items.csv", "others.csv") + BOARD, "log")
    assert jobs(other)["LightGCN"][0].entry != one["LightGCN"][0].entry
    absolute = write_board(tmp_path / "one", DATA.replace("../data/items", f"{tmp_path}/items") + BOARD, "log")
    (job, *_) = jobs(absolute)["LightGCN"]
    assert job.identity["data"]["reading"]["item_features"] == f"{tmp_path}/items.csv"
    earlier = jobs(as_earlier(of_files(tmp_path / "one")))["LightGCN"][0]
    before = one["LightGCN"][0].before
    assert before is not None
    assert before.stem == earlier.stem
    assert earlier.identity["data"]["reading"]["item_features"] == str(tmp_path / "one" / "data" / "items.csv")
    assert earlier.before is None


def test_earlier_addresses_had_absolute_paths_of_data_alone(tmp_path: Path) -> None:
    """Those of ``[protocol] reading`` were as they are written, also where a board has both; then ``data`` counts."""
    reading = "[protocol]\nreading = { user_features = '../data/./users.csv', item_features = '../data/./items.csv' }\n"
    both = BOARD.replace("[protocol]\n", reading)
    (job, *_) = jobs(write_board(tmp_path, DATA + both, "log"))["LightGCN"]
    assert job.before is not None
    earlier, now = (each.identity["data"]["reading"] for each in (job.before, job))
    names = ("test", "item_features", "user_features")
    assert [now[name] for name in names] == ["../data/test.csv", "../data/items.csv", "../data/./users.csv"]
    data = tmp_path / "data"
    assert [earlier[name] for name in names] == [f"{data}/test.csv", f"{data}/items.csv", "../data/./users.csv"]
    (alone, *_) = jobs(write_board(tmp_path, "data = '../data/log.csv'\n" + both, "log"))["LightGCN"]
    assert alone.before is None


def test_records_of_earlier_versions_are_shown_where_they_lie(tmp_path: Path) -> None:
    board = of_files(tmp_path)
    earlier = as_earlier(board)
    fill(earlier)
    fail(earlier, "BPRMF", 0)
    before = update_comparisons(opened(earlier))
    there = files_of(board)
    sheet = opened(board)
    assert (sheet.n_done, sheet.is_compared, len(sheet.failures)) == (before.n_done, True, 1)
    assert marks(sheet) == marks(before)
    assert set(marks(sheet).values()) != {"untested"}
    assert files_of(board) == there


def test_records_of_earlier_versions_move_with_the_folder_once_they_are_adopted(tmp_path: Path) -> None:
    board = of_files(tmp_path / "one")
    earlier = as_earlier(board)
    fill(earlier)
    fail(earlier, "BPRMF", 0)
    before = update_comparisons(opened(earlier))
    (begun,) = [job for job in jobs(earlier)["BPRMF"] if job.seed == 1]
    store_of(earlier).work(begun).mkdir(parents=True)
    (store_of(earlier).work(begun) / "log.txt").write_text("half of it")
    n_files = len(files_of(board))
    for _ in range(2):  # the second time nothing is left to do
        adopt(board, board.sheets[0])
        assert len(files_of(board)) == n_files
        assert not {
            name for own in jobs(earlier).values() for job in own for name in files_of(board) if job.stem in name
        }
    assert (store_of(board).work(jobs(board)["BPRMF"][1]) / "log.txt").read_text() == "half of it"
    for path in store_of(board).folder.glob("*.parquet"):
        path.unlink()  # as in git: the comparisons are all that is left of the values
    shutil.move(tmp_path / "one", tmp_path / "two")
    sheet = opened(load_board(tmp_path / "two" / "shop"))
    assert (sheet.n_done, sheet.is_compared, len(sheet.failures)) == (before.n_done, True, 1)
    assert marks(sheet) == marks(before)
    text = (sheet.folder / sheet.entries[0].records[0]).read_text()
    assert str(tmp_path) not in json.dumps(json.loads(text)["identity"])


def test_what_a_process_works_on_is_left_to_it_and_what_is_there_stays(tmp_path: Path) -> None:
    board = of_files(tmp_path)
    earlier = as_earlier(board)
    fill(earlier)
    fill(board, {"LightGCN": [0.9]})
    there = files_of(board)
    old, new = (jobs(each)["LightGCN"][0] for each in (earlier, board))
    kept = store_of(board).record(new)
    with store_of(earlier).lock(jobs(earlier)["Popularity"][0]):
        adopt(board, board.sheets[0])
    popularity = jobs(earlier)["Popularity"][0].stem
    assert {name for name in files_of(board) if popularity in name} == {name for name in there if popularity in name}
    assert store_of(board).record(new) == kept
    assert store_of(board).record(old) is not None
    assert opened(board).n_done == sum(map(len, MEANS.values()))


def test_a_board_that_has_run_is_moved(tmp_path: Path) -> None:
    data = tmp_path / "one" / "data"
    data.mkdir(parents=True)
    for name in ("log", "test"):
        shift = len(name)
        rows = "".join(f"{u},{(u + i + shift) % 9}\n" for u in range(9) for i in range(5))
        (data / f"{name}.csv").write_text("user,item\n" + rows)
    (data / "items.csv").write_text("item,kind\n" + "".join(f"{i},{i % 2}\n" for i in range(9)))
    write_board(tmp_path / "one", f"{DATA}seeds = [0]\n[[models]]\nmodel = 'popularity'\n", "log")
    assert len(rg.leaderboard.run(tmp_path / "one" / "shop", device="cpu").made) == 1
    shutil.move(tmp_path / "one", tmp_path / "two")
    assert len(rg.leaderboard.run(tmp_path / "two" / "shop", device="cpu").kept) == 1
    assert opened(load_board(tmp_path / "two" / "shop")).n_done == 1


def test_the_path_of_a_card_counts_from_the_boards_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "dataset = '../cards/mine.toml'\nseeds = [0]\n[[models]]\nmodel = 'popularity'\n"
    card = card_files()["synthetic"].read_text(encoding="utf-8").replace('"synthetic"', '"mine"', 1)
    (tmp_path / "one" / "cards").mkdir(parents=True)
    (tmp_path / "one" / "cards" / "mine.toml").write_text(card)
    (job,) = jobs(write_board(tmp_path / "one", text, "ours"))["Popularity"]
    assert job.dataset == str(tmp_path / "one" / "cards" / "mine.toml")
    assert job.identity["dataset"] == "../cards/mine.toml"  # as in earlier versions
    assert job.earlier is None
    # from the current folder on alone
    monkeypatch.chdir(tmp_path / "one" / "shop")
    (other,) = jobs(write_board(tmp_path / "two", text, "ours"))["Popularity"]
    assert other.dataset == "../cards/mine.toml"
    assert other.entry == job.entry
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"two/cards/mine\.toml"):
        write_board(tmp_path / "two", text, "ours")


def test_other_paths_count_from_the_boards_file_and_addresses_keep_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of ``[protocol] reading`` and init_itemss counted from the current folder, as which addresses have them."""
    text = (
        "dataset = '../data/log.csv'\nseeds = [0]\n[protocol]\nreading = { item_features = '../data/./items.csv' }\n"
        "[training]\ninit_items = '../runs/one'\n[[models]]\nmodel = 'bprmf'\n"
        "[[models]]\nmodel = 'lightgcn'\nsettings = { init_items = '../runs/two' }\n"
    )
    found = jobs(write_board(tmp_path / "one", text, "log"))
    for name, init_items in (("BPRMF", "one"), ("LightGCN", "two")):
        (job,) = found[name]
        assert job.settings["reading"]["item_features"] == str(tmp_path / "one" / "data" / "items.csv")
        assert job.identity["data"]["reading"]["item_features"] == "../data/./items.csv"
        assert job.settings["init_items"] == str(tmp_path / "one" / "runs" / init_items)
        assert job.identity["items"]["init_items"] == f"../runs/{init_items}"
    # from the current folder on alone
    for place in ("data", "runs/one", "runs/two"):
        (tmp_path / "two" / place).mkdir(parents=True)
    (tmp_path / "two" / "data" / "items.csv").touch()
    (tmp_path / "two" / "shop").mkdir()
    monkeypatch.chdir(tmp_path / "two" / "shop")
    for name, (job,) in jobs(write_board(tmp_path / "three", text, "log")).items():
        assert job.entry == found[name][0].entry
        assert job.settings["reading"]["item_features"] == "../data/./items.csv"
        assert job.settings["init_items"] == found[name][0].identity["items"]["init_items"]


def test_patterns_count_as_other_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "dataset = '../data/log.csv'\nseeds = [0]\n[protocol]\nreading = { test = '../data/test-*.csv' }\n"
        "[[models]]\nmodel = 'popularity'\n"
    )
    for place in ("one/data", "two/data", "two/shop"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "two" / "data" / "test-1.csv").touch()
    monkeypatch.chdir(tmp_path / "two" / "shop")
    # from the current folder on alone
    (job,) = jobs(write_board(tmp_path / "one", text, "log"))["Popularity"]
    assert job.settings["reading"]["test"] == job.identity["data"]["reading"]["test"] == "../data/test-*.csv"
    (tmp_path / "one" / "data" / "test-1.csv").touch()
    (other,) = jobs(write_board(tmp_path / "one", text, "log"))["Popularity"]
    assert other.settings["reading"]["test"] == str(tmp_path / "one" / "data" / "test-*.csv")
    assert other.entry == job.entry


@pytest.mark.parametrize("name", ["file", "places", "data_places"])
def test_what_reading_the_file_sets_is_no_setting(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} = 'x' is no setting of a board"):
        write_board(tmp_path, f"{name} = 'x'\n[[models]]\nmodel = 'popularity'\n")
