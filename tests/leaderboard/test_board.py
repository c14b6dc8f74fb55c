"""Boards: how they are found and read, what is refused, and what addresses a job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_up import BOARD, jobs, write_board

from recgraph.config import ConfigError
from recgraph.leaderboard.board import load_board
from recgraph.leaderboard.plan import Job, jobs_of
from recgraph.models.lightgcn import LightGCN

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
BOARDS = sorted({path.parent.name for path in EXPERIMENTS.glob("*/*.toml")} - {"configs"})


@pytest.mark.parametrize("name", BOARDS)
def test_every_board_of_the_project_can_be_planned(name: str) -> None:
    board = load_board(name)
    assert board.results == EXPERIMENTS / "results"
    for sheet in board.sheets:
        found = [job for entry in sheet.models for job in jobs_of(sheet, entry)]
        assert len({job.stem for job in found}) == len(found), "two entries are the same"


def test_a_board_by_name_folder_and_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_board(tmp_path / "experiments")
    monkeypatch.chdir(tmp_path)
    places = ["shop", tmp_path / "experiments" / "shop", tmp_path / "experiments" / "shop" / "synthetic.toml"]
    for place in places:
        found = load_board(place)
        assert (found.name, [sheet.title for sheet in found.sheets]) == ("shop", ["A shop | with signs"])
        assert found.results == tmp_path / "experiments" / "results"


def test_a_board_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match=r"board 'nothing' does not exist; .* collaborative, heterogeneous, .*smoke"):
        load_board("nothing")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = [0, 1, 2]", "sedes = [0]", "sedes"),
        ('name = "LightGCN, three layers"', 'name = "LightGCN"', "two are called 'LightGCN'"),
        ('model = "bprmf"', 'model = "bpr-forest"', "bpr-forest"),
        ("max_epochs = 3", "max_epochs = 3\n[x]", "x"),
        ("title = ", "title ", "TOML"),
    ],
)
def test_a_board_that_is_wrong(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_board(tmp_path, BOARD.replace(old, new))


def test_a_setting_that_does_not_exist_names_the_entry(tmp_path: Path) -> None:
    board = write_board(tmp_path, BOARD.replace("n_layers = 2", "n_layer = 2"))
    with pytest.raises(ConfigError, match=r"board on 'synthetic', model 'LightGCN': .*n_layer"):
        jobs(board)


def light(tmp_path: Path, old: str = "", new: str = "") -> Job:
    return jobs(write_board(tmp_path, BOARD.replace(old, new) if old else BOARD))["LightGCN"][0]


def test_the_address_is_of_what_decides_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = light(tmp_path)
    same = jobs(write_board(tmp_path))["LightGCN"]
    assert {job.entry for job in same} == {own.entry}
    assert len({job.stem for job in same}) == 3
    # words, and settings that are the defaults, decide nothing
    assert light(tmp_path, "Two layers.", "Else.").entry == own.entry
    assert light(tmp_path, "n_layers = 2", "n_layers = 2, hidden_dim = 64").entry == own.entry
    changes = [("n_layers = 2", "n_layers = 4"), ("max_epochs = 3", "max_epochs = 4"), ("[10]", "[10, 20]")]
    for old, new in changes:
        assert light(tmp_path, old, new).entry != own.entry
    monkeypatch.setattr(LightGCN, "revision", LightGCN.revision + 1)
    assert light(tmp_path).entry != own.entry


def test_what_is_not_trained_does_not_depend_on_training(tmp_path: Path) -> None:
    before = jobs(write_board(tmp_path))["Popularity"][0]
    after = jobs(write_board(tmp_path, BOARD.replace("max_epochs = 3", "max_epochs = 4")))["Popularity"][0]
    assert before == after


def test_the_best_trial_of_a_study(tmp_path: Path) -> None:
    record = {"unsealed": [{"settings": {"tuned": {"n_layers": 1}}}], "source": {"settings": {"max_epochs": 7}}}
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "study.json").write_text(json.dumps(record))
    text = BOARD.replace("settings = { n_layers = 2 }", 'study = "study.json"\nsettings = { hidden_dim = 8 }')
    job = light(tmp_path, BOARD, text)
    config, training = job.identity["config"], job.identity["training"]
    assert (config["n_layers"], config["hidden_dim"], training["max_epochs"]) == (1, 8, 7)


def test_a_job_travels_as_plain_values(tmp_path: Path) -> None:
    job = light(tmp_path)
    again = Job.from_dict(json.loads(json.dumps(job.to_dict())))
    assert (again, again.stem) == (job, job.stem)
