"""Boards: how they are found and read, what is refused, and what addresses a job."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from made_up import BOARD, fill, jobs, opened, record, write_board
from refusing import refused

from experiments.published_rows import (
    PAGE,
    ROWS,
    UNFINISHED,
    Row,
    ending,
    is_close,
    page,
    ratios,
    scores_of,
    sheet_of,
)
from recgraph.config import ConfigError
from recgraph.leaderboard.board import load_board
from recgraph.leaderboard.plan import Job, digest, load_data_hashes, plan_of

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
BOARDS = sorted({path.parent.name for path in EXPERIMENTS.glob("*/*.toml")} - {"configs"})
LOG = "user,item,time\n" + "".join(f"{n % 9},{n % 7},{n}\n" for n in range(90))


@pytest.mark.parametrize("name", BOARDS)
def test_committed_records_are_found_at_their_addresses(name: str) -> None:
    board = load_board(name)
    assert board.results == EXPERIMENTS / "results"
    stems: dict[Path, set[str]] = {}
    for sheet in board.sheets:
        found = [job for _, jobs in plan_of(board, sheet) for job in jobs]
        assert len({job.stem for job in found}) == len(found), "two entries are the same"
        # the study keeps its records beside its sheets
        for results in (board.results, EXPERIMENTS / name / "results"):
            folder = board.folder_of(sheet, results)
            stems.setdefault(folder, set()).update(job.stem for job in found)
    for folder, known in stems.items():
        for path in folder.glob("*-seed*.json"):
            assert path.name.partition(".")[0] in known, path
            identity = json.loads(path.read_text(encoding="utf-8"))["identity"]
            assert digest(identity) in path.name, path


def test_a_board_by_name_folder_and_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_board(tmp_path / "experiments")
    monkeypatch.chdir(tmp_path)
    for place in (
        "shop",
        tmp_path / "experiments/shop",
        tmp_path / "experiments/shop/synthetic.toml",
    ):
        found = load_board(place)
        assert (found.name, [sheet.title for sheet in found.sheets]) == (
            "shop",
            ["A shop | with signs"],
        )
        assert found.results == tmp_path / "experiments" / "results"
    with refused("'nothing'", "smoke"):
        load_board("nothing")


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("seeds = [0, 1, 2]", "sedes = [0]", "sedes"),
        ('name = "LightGCN, three layers"', 'name = "LightGCN"', "'LightGCN'"),
        ('model = "bprmf"', 'model = "bpr-forest"', "bpr-forest"),
        ('"recall@10"]', '"recal@10"]', "'recal'"),
        ("[protocol]", "import = ['nowhere.py']\n[protocol]", "nowhere.py"),
    ],
)
def test_a_board_that_is_wrong(tmp_path: Path, old: str, new: str, named: str) -> None:
    with refused("synthetic.toml", named, by=ConfigError):
        write_board(tmp_path, BOARD.replace(old, new))


@pytest.mark.parametrize(
    ("text", "name", "named"),
    [
        (BOARD.replace("n_layers = 2", "n_layer = 2"), "synthetic", "n_layer"),
        (BOARD.replace("n_layers = 2", "split_seed = 7"), "synthetic", "split_seed"),
        ("[[models]]\nmodel = 'meow'\nsettings = { probe = { steps = 3 } }\n", "acm", "probe"),
    ],
)
def test_settings_that_are_wrong_name_the_entry(
    tmp_path: Path, text: str, name: str, named: str
) -> None:
    """Among them those of the protocol, which is the same for all."""
    with refused(f"board on '{name}', model", named, by=ConfigError):
        jobs(write_board(tmp_path, text, name))


def test_metrics(tmp_path: Path) -> None:
    text = BOARD.replace('"ndcg@10", "recall@10"', '"NDCG@10", "HitRate@10", "ndcg@10"')
    assert write_board(tmp_path, text).sheets[0].metrics == ("ndcg@10", "hit_rate@10")
    nodes = write_board(
        tmp_path, "metrics = ['Macro-F1', 'NMI']\n[[models]]\nmodel = 'meow'\n", "acm"
    )
    assert nodes.sheets[0].metrics == ("macro_f1", "nmi")
    without = "[protocol]\ncutoffs = [20, 50]\n[[models]]\nmodel = 'popularity'\n"
    assert write_board(tmp_path, without).sheets[0].metrics == ("ndcg@50", "recall@50", "mrr@50")


def test_metrics_beside_the_default_ones_change_no_address(tmp_path: Path) -> None:
    plain = jobs(write_board(tmp_path))["LightGCN"][0]
    board = write_board(tmp_path, BOARD.replace('"recall@10"]', '"coverage@10", "auc"]'))
    asking = jobs(board)["LightGCN"][0]
    assert (asking.stem, asking.metrics) == (plain.stem, ("catalogue_coverage@10", "auc"))
    assert "--metric" not in plain.command()
    assert " --cutoff 10 --metric recall " in asking.command()
    # a record without them is made again
    protocols = {"seen kept": {"protocol": {}, "protocol_hash": ""}}
    made = record(plain, {"seen kept": {"ndcg@10": 0.1}}, protocols)
    plain.save(made)
    assert plain.is_done(made["data_hash"])
    assert not asking.is_done(made["data_hash"])
    plain.save({**made, "scores": {"seen kept": dict.fromkeys(asking.metrics, 0.1)}})
    assert asking.is_done(made["data_hash"])


def light(tmp_path: Path, old: str = "", new: str = "") -> Job:
    return jobs(write_board(tmp_path, BOARD.replace(old, new) if old else BOARD))["LightGCN"][0]


def test_the_address_is_of_what_decides_the_numbers(tmp_path: Path) -> None:
    own = light(tmp_path)
    same = jobs(write_board(tmp_path))["LightGCN"]
    assert {job.address for job in same} == {own.address}
    assert len({job.stem for job in same}) == 3
    # notes and settings at their defaults are not part of the address
    assert light(tmp_path, "Two layers.", "Else.").address == own.address
    assert light(tmp_path, "n_layers = 2", "n_layers = 2, hidden_dim = 64").address == own.address
    changes = [
        ("n_layers = 2", "n_layers = 4"),
        ("max_epochs = 3", "max_epochs = 4"),
        ("[10]", "[10, 20]"),
    ]
    for old, new in changes:
        assert light(tmp_path, old, new).address != own.address
    # what is not trained does not depend on training
    changed = write_board(tmp_path, BOARD.replace("max_epochs = 3", "max_epochs = 4"))
    assert jobs(changed)["Popularity"] == jobs(write_board(tmp_path))["Popularity"]


def test_a_last_fit_to_more_has_addresses_and_commands_of_its_own(tmp_path: Path) -> None:
    plain = jobs(write_board(tmp_path))["LightGCN"][0]
    more = jobs(
        write_board(
            tmp_path, BOARD.replace("cutoffs = [10]", 'cutoffs = [10]\nfit_on = "train+valid"')
        )
    )
    again, at_once = more["LightGCN"][0], more["Popularity"][0]
    assert again.identity == plain.identity | {"protocols": again.identity["protocols"]}
    assert again.address != plain.address
    assert " --fit-on train+valid --refit \\\n" in again.command()
    assert " --fit-on train+valid \\\n" in at_once.command()


def test_a_folder_that_is_moved_keeps_its_addresses(tmp_path: Path) -> None:
    """Paths count from the board's file on, and addresses have them as they are written."""
    head = "data = { train = '../data/log.csv', test = '../data/test.csv', item_features = '../data/items.csv' }\n"
    head += "import = ['../data/nothing_new.py']\n"
    here = tmp_path / "before" / "data"
    here.mkdir(parents=True)
    for name, text in (
        ("log.csv", LOG),
        ("test.csv", "user,item\n0,1\n"),
        ("items.csv", "item,kind\n1,a\n"),
    ):
        (here / name).write_text(text)
    (here / "nothing_new.py").write_text("")
    board = write_board(tmp_path / "before", head + BOARD, "log")
    fill(board)
    job = jobs(board)["LightGCN"][0]
    assert job.settings["reading"]["test"] == str(here / "test.csv")
    assert job.dataset == str(here / "log.csv")
    assert job.command().count(f" --import {here / 'nothing_new.py'}") == 2
    shutil.copytree(tmp_path / "before", tmp_path / "after")
    moved = load_board(tmp_path / "after" / "shop")
    assert jobs(moved)["LightGCN"][0].address == job.address
    assert opened(moved).n_done == opened(board).n_done == 7


def test_a_changed_file_of_features_is_other_data(tmp_path: Path) -> None:
    """The hash of the split does not cover it."""
    (tmp_path / "log.csv").write_text(LOG)
    text = "data = { file = '../log.csv', item_features = '../items.csv' }\n[[models]]\nmodel = 'popularity'\n"
    hashes = []
    for kind in ("a", "b", "a"):
        (tmp_path / "items.csv").write_text(
            "item,kind\n" + "".join(f"{i},{kind}\n" for i in range(7))
        )
        (sheet,) = write_board(tmp_path, text, "own").sheets
        hashes.append(load_data_hashes(sheet))
    assert hashes[0] == hashes[2]
    assert hashes[0].data != hashes[1].data
    assert hashes[0].split == hashes[1].split


def test_the_page_has_what_the_records_have() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m experiments.published_rows"


def test_ours_learn_from_what_theirs_did() -> None:
    for board, fitted_on in (("published", "train+valid"), ("collaborative", "train")):
        for table in sheet_of(board).tables:
            assert (table.protocol["fitted_on"], table.protocol["history"]) == (
                fitted_on,
                "train+valid",
            )
            assert table.n_users == 29858


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.title)
def test_a_gap_has_a_cause_and_nothing_else_has_one(row: Row) -> None:
    found = ratios(row, scores_of(sheet_of("published"), row.entry))
    is_gap = row.theirs is not None and (found is None or not is_close(found))
    assert bool(row.gap) == is_gap, (
        "say why ours are not run or more than a hundredth below, and then alone"
    )
    assert row.gap.startswith("not run") == (is_gap and found is None)
    how = ending(sheet_of("published"), row.entry)
    is_cut = how is not None and how.is_cut
    assert row.gap.startswith(UNFINISHED) == (is_gap and is_cut), (
        "a training whose best epoch is its last was cut"
    )
