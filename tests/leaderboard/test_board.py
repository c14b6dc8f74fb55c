"""Boards: how they are found and read, what is refused, and what addresses a job."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from made_up import BOARD, jobs, record, store_of, write_board

import recgraph as rg
from recgraph import registry
from recgraph.config import ConfigError
from recgraph.data.catalog import load_dataset
from recgraph.data.catalog.cards import card_files
from recgraph.leaderboard import plan
from recgraph.leaderboard.board import Board, load_board
from recgraph.leaderboard.job import Job, digest
from recgraph.leaderboard.plan import check_study, jobs_of, load_data_hashes
from recgraph.leaderboard.sheet import open_sheet
from recgraph.leaderboard.studies import TunedSettings, shown_study
from recgraph.models.closed_form.neighbours import Popularity
from recgraph.models.collaborative.lightgcn import LightGCN
from recgraph.runs.settings import DataConfig

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


def test_none_is_written_as_a_text(tmp_path: Path) -> None:
    model = '[training]\npatience = "none"\n[[models]]\nmodel = "turbocf"\nsettings = { k = "none", power = 0.7 }\n'
    sheet = write_board(tmp_path, f'dataset = "synthetic"\n{model}').sheets[0]
    assert sheet.training == {"patience": None}
    assert sheet.models[0].settings == {"k": None, "power": 0.7}
    (job,) = (job for job in jobs_of(sheet, sheet.models[0]) if job.seed == 2020)
    assert " --set k=none \\\n" in job.command()


def test_two_data_sets_of_one_name_in_a_board(tmp_path: Path) -> None:
    """They would have the same records: their addresses hold the file's name alone."""
    model = "[[models]]\nmodel = 'popularity'\n"
    for name in ("one", "two"):
        write_board(tmp_path, f"data = '../{name}/ratings.csv'\n{model}", name)
    one, two = (re.escape(str(tmp_path / "shop" / f"{name}.toml")) for name in ("one", "two"))
    message = rf"board '{two}': data '.*two/ratings\.csv' has the same name, 'ratings', as '.*' of '{one}', .*: rename"
    with pytest.raises(ConfigError, match=message):
        load_board(tmp_path / "shop")
    parts = "data = {{ train = '../{}/ratings.csv', test = '../{}/test.csv' }}\n"
    write_board(tmp_path, parts.format("two", "two") + model, "two")
    with pytest.raises(ConfigError, match="to a board of its own"):
        load_board(tmp_path / "shop")
    # the same file may be in two sheets, however it is written
    for same in ("../one/ratings.csv", f"{tmp_path}/one/ratings.csv"):
        write_board(tmp_path, f"data = '{same}'\n{model}", "two")
        assert len(load_board(tmp_path / "shop").sheets) == 2


def test_a_board_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"board 'nothing' does not exist; .* collaborative, components, heterogeneous, .*smoke"
    ):
        load_board("nothing")
    (tmp_path / "board.csv").touch()
    with pytest.raises(ValueError, match=r"board '.*board\.csv' is no TOML file; give a TOML file, a folder of them"):
        load_board(tmp_path / "board.csv")
    with pytest.raises(ValueError, match=r"' is a folder without a TOML file; give "):
        load_board(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = [0, 1, 2]", "sedes = [0]", "sedes"),
        ("seeds = [0, 1, 2]", "seeds = [true]", "seeds.0 = True: Input should be a valid integer"),
        ('name = "LightGCN, three layers"', 'name = "LightGCN"', "two are called 'LightGCN'"),
        ('model = "bprmf"', 'model = "bpr-forest"', "bpr-forest"),
        ("max_epochs = 3", "max_epochs = 3\n[x]", "x"),
        ("title = ", "title ", "TOML"),
        ('metrics = ["ndcg@10", "recall@10"]', 'metrics = ["ndgc@10"]', r"synthetic\.toml': .*'ndgc'"),
        ('"recall@10"]', '"recall@5"]', r"synthetic\.toml': metrics: 'recall@5' is not computed .*cutoffs 10"),
        ('"recall@10"]', '"gini@5"]', "metrics: 'gini@5' is not computed .* cutoffs 10"),
        ('"recall@10"]', '"diversity@10"]', "metrics: 'diversity@10' needs features of items"),
        ('"recall@10"]', '"macro_f1"]', "metrics: 'macro_f1' is not computed"),
        ("cutoffs = [10]", "cutoffs = [0]", r"synthetic\.toml': protocol\.cutoffs = \[0\]: every cut-off .*least 1"),
        ('model = "bprmf"', 'model = "bprmf"\nstudy_name = "a"', r"synthetic\.toml': .*study_name = 'a' names a study"),
        ("cutoffs = [10]", "probe = { steps = 3 }", r"synthetic\.toml': protocol: probe is of nodes with classes"),
    ],
)
def test_a_board_that_is_wrong(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_board(tmp_path, BOARD.replace(old, new))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[models]\nmodel = 'popularity'\n", r"synthetic\.toml': models is one table; .*\[\[models\]\]"),
        ("models = ['popularity']\n", r"synthetic\.toml': models = 'popularity' must be a table"),
        ("models = 3\n", r"synthetic\.toml': models = 3 must be a list of tables"),
        ("dataset = 5\n", r"synthetic\.toml': dataset = 5 must be the name of a data set"),
        (
            "dataset = 'ml-100'\n[[models]]\nmodel = 'ease'\n",
            r"synthetic\.toml': dataset 'ml-100' has no card. Did you mean ml-100k",
        ),
        ("protocol = 3\ndata = { file = 'a.csv', user = 'u' }\n", r"synthetic\.toml': protocol = 3 .* \[protocol\]"),
    ],
)
def test_what_is_no_list_of_tables_or_no_data_set(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        write_board(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'metrics = ["ndcg@10"]',
            r"acm\.toml': metrics: 'ndcg@10' is not computed .* macro_f1, micro_f1, auc, nmi, ari",
        ),
        ("[protocol]\ncutoffs = [5]", "protocol: cutoffs is of users to recommend to"),
        ("[protocol]\nsplit_seed = 1", "protocol: split_seed is of users to recommend to"),
        ("[protocol]\nfit_on = 'train'", "protocol: fit_on is of users to recommend to"),
        ("[protocol]\nprobe = { step = 3 }", "acm.toml': protocol: probe: unknown setting 'step'; did you mean steps"),
    ],
)
def test_a_board_of_nodes_that_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        write_board(tmp_path, f"{text}\n[[models]]\nmodel = 'meow'\n", "acm")


@pytest.mark.parametrize(("model", "dataset"), [("sasrec", "acm"), ("meow", "synthetic")])
def test_a_model_for_other_data_is_refused(tmp_path: Path, model: str, dataset: str) -> None:
    board = write_board(tmp_path, f"[[models]]\nmodel = '{model}'\n", dataset)
    with pytest.raises(ConfigError, match=rf"board on '{dataset}', model '.*': dataset '{dataset}' is .*; use one of "):
        jobs(board)


def test_metrics_are_known_by_any_of_their_names(tmp_path: Path) -> None:
    text = BOARD.replace('"ndcg@10", "recall@10"', '"NDCG@10", "HitRate@10", "ndcg@10"')
    assert write_board(tmp_path, text).sheets[0].metrics == ("ndcg@10", "hit_rate@10")
    nodes = write_board(tmp_path, "metrics = ['Macro-F1', 'NMI']\n[[models]]\nmodel = 'meow'\n", "acm")
    assert nodes.sheets[0].metrics == ("macro_f1", "nmi")


def test_metrics_beside_the_default_ones_change_no_address(tmp_path: Path) -> None:
    plain = jobs(write_board(tmp_path))["LightGCN"][0]
    text = BOARD.replace('"recall@10"]', '"coverage@10", "auc", "FirstHit@10"]')
    with pytest.MonkeyPatch.context() as patch:
        point = EntryPoint("first_hit", "first_hit:FirstHit", "recgraph.metric")
        patch.setattr(registry, "entry_points", lambda group: [point] if group == point.group else [])
        board = write_board(tmp_path, text)
        assert board.sheets[0].metrics == ("ndcg@10", "catalogue_coverage@10", "auc", "first_hit@10")
        asking = jobs(board)["LightGCN"][0]
        assert (asking.stem, asking.identity) == (plain.stem, plain.identity)
        assert (plain.metrics, plain.modules) == ((), ())
        assert asking.metrics == ("catalogue_coverage@10", "auc", "first_hit@10")
        assert asking.modules == ("first_hit",)
        assert Job.from_dict(json.loads(json.dumps(asking.to_dict()))) == asking
        assert "--metric" not in plain.command()
        assert " --cutoff 10 --metric recall " in asking.command()
        assert " --metric first_hit --format json" in asking.command()
    # a record without them is made again
    store = store_of(board)
    protocols = {"seen kept": {"protocol": {}, "protocol_hash": ""}}
    made = record(plain, {"seen kept": {"ndcg@10": 0.1}}, protocols)
    store.save(plain, made)
    assert store.is_done(plain, made["data_hash"])
    assert not store.is_done(asking, made["data_hash"])
    store.save(plain, {**made, "scores": {"seen kept": dict.fromkeys(asking.metrics, 0.1)}})
    assert store.is_done(asking, made["data_hash"])


@pytest.mark.parametrize(("cutoffs", "k"), [("[5, 10, 20]", 10), ("[20, 50]", 50)])
def test_metrics_by_default_are_at_a_cutoff_of_the_protocol(tmp_path: Path, cutoffs: str, k: int) -> None:
    text = f"[protocol]\ncutoffs = {cutoffs}\n[[models]]\nmodel = 'popularity'\n"
    assert write_board(tmp_path, text).sheets[0].metrics == (f"ndcg@{k}", f"recall@{k}", f"mrr@{k}")


@pytest.mark.parametrize(
    ("board", "name", "message"),
    [
        (BOARD.replace("n_layers = 2", "n_layers = 2, split_seed = 7"), "synthetic", r"split_seed = 7 in its settings"),
        (BOARD.replace("max_epochs = 3", 'split = "ratio"'), "synthetic", r"split = 'ratio' in \[training\]"),
        ("[[models]]\nmodel = 'meow'\nsettings = { probe_steps = 3 }\n", "acm", "probe_steps = 3 in its settings"),
    ],
)
def test_the_protocol_is_the_same_for_all(tmp_path: Path, board: str, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"{message} .*protocol"):
        jobs(write_board(tmp_path, board, name))


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
    # notes and settings at their defaults are not part of the address
    assert light(tmp_path, "Two layers.", "Else.").entry == own.entry
    assert light(tmp_path, "n_layers = 2", "n_layers = 2, hidden_dim = 64").entry == own.entry
    changes = [("n_layers = 2", "n_layers = 4"), ("max_epochs = 3", "max_epochs = 4"), ("[10]", "[10, 20]")]
    for old, new in changes:
        assert light(tmp_path, old, new).entry != own.entry
    both = BOARD.replace('model = "popularity"', 'model = "twostage"')
    ensemble = jobs(write_board(tmp_path, both))["TwoStage"][0]
    monkeypatch.setattr(LightGCN, "revision", LightGCN.revision + 1)
    assert light(tmp_path).entry != own.entry
    monkeypatch.setattr(Popularity, "revision", Popularity.revision + 1)
    assert jobs(write_board(tmp_path, both))["TwoStage"][0].entry != ensemble.entry


def test_a_last_fit_to_more_has_addresses_and_commands_of_its_own(tmp_path: Path) -> None:
    plain, popular = (jobs(write_board(tmp_path))[name][0] for name in ("LightGCN", "Popularity"))
    more = jobs(write_board(tmp_path, BOARD.replace("cutoffs = [10]", 'cutoffs = [10]\nfit_on = "train+valid"')))
    again, at_once = more["LightGCN"][0], more["Popularity"][0]
    assert again.identity == plain.identity | {"protocols": again.identity["protocols"]}
    assert {again.entry, at_once.entry}.isdisjoint({plain.entry, popular.entry})
    assert "--fit-on" not in plain.command()
    assert " --fit-on train+valid --refit \\\n" in again.command()
    assert " --fit-on train+valid \\\n" in at_once.command()
    assert Job.from_dict(json.loads(json.dumps(again.to_dict()))) == again
    last = replace(again, settings={**again.settings, "metric": "last"})
    assert " --fit-on train+valid \\\n" in last.command()
    with pytest.raises(ConfigError, match="fit_on"):
        write_board(tmp_path, BOARD.replace("cutoffs = [10]", 'cutoffs = [10]\nfit_on = "all"'))


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


def of_study(tmp_path: Path, **changes: Any) -> Board:
    """A board whose one entry takes the best trial of a record."""
    record = {
        "unsealed": [{"settings": {"tuned": {"n_layers": 1}}}],
        "source": {"dataset": "synthetic", "settings": {"split": "ratio", "split_seed": 3}},
        "recgraph": {
            "model": "recgraph.models.collaborative.lightgcn:LightGCN",
            "metrics": ["mrr@5"],
            "split_hash": "5" * 64,
        },
    }
    record["recgraph"] |= changes  # type: ignore[operator]
    (tmp_path / "study.json").write_text(json.dumps(record))
    return write_board(tmp_path, 'seeds = [0]\n[[models]]\nmodel = "lightgcn"\nstudy = "../study.json"\n')


def test_the_board_splits_and_not_the_study(tmp_path: Path) -> None:
    ((job,),) = jobs(of_study(tmp_path)).values()
    assert job.settings == {"n_layers": 1, "metric": "mrr@5"}
    assert job.identity["data"] == {"split": None, "split_options": {}, "split_seed": 0}


def test_the_study_of_another_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model 'LightGCN': study '../study.json' is of SLIM, not of LightGCN"):
        jobs(of_study(tmp_path, model="recgraph.models.closed_form.linear:SLIM"))


def test_a_model_that_is_not_trained_takes_no_settings_of_training(tmp_path: Path) -> None:
    of_study(tmp_path, model="recgraph.models.closed_form.linear:EASE")  # its record names a metric, too
    record = json.loads((tmp_path / "study.json").read_text())
    record["unsealed"] = [{"settings": {"tuned": {"l2": 7.0}}}]
    (tmp_path / "study.json").write_text(json.dumps(record))
    text = 'seeds = [0]\n[[models]]\nmodel = "ease"\n'
    ((job,),) = jobs(write_board(tmp_path, text + 'study = "../study.json"\n')).values()
    assert job.settings == {"l2": 7.0}
    with pytest.raises(ConfigError, match=r"model 'EASE': EASE is fitted in one step .* leave out max_epochs; its "):
        jobs(write_board(tmp_path, text + "settings = { max_epochs = 3 }\n"))


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_one_of_several_studies_of_a_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    storage = f"{kind}:///{tmp_path}/shop/studies.{kind}"
    split = load_dataset("synthetic").split()
    for name, value in (("one", True), ("two", False)):
        space, more = {"normalise": [value]}, {"test_seeds": 0, "progress": False}
        rg.tune("itemknn", split, space, 1, sampler="random", storage=storage, study=name, **more)  # type: ignore[arg-type]
    text = f'seeds = [0]\n[[models]]\nmodel = "itemknn"\nstudy = "{kind}:///studies.{kind}"\n'
    with pytest.raises(ValueError, match=r"several studies; name one \(.*study_name\): one, two"):
        jobs(write_board(tmp_path, text))
    for name, value in (("one", True), ("two", False)):
        board = write_board(tmp_path, f'{text}study_name = "{name}"\n')
        ((job,),) = jobs(board).values()
        assert job.settings["normalise"] == value
        assert shown_study(board.sheets[0].models[0]) == f"{name} in {kind}:///studies.{kind}"
    # from the current folder on alone, as earlier versions had it
    monkeypatch.chdir(tmp_path)
    there = write_board(tmp_path, text.replace("studies.", "shop/studies.", 1) + 'study_name = "one"\n')
    assert jobs(there)["ItemKNN"][0].settings["normalise"] is True


def test_a_study_that_saw_other_parts_of_the_same_data(tmp_path: Path) -> None:
    """What is tested on here may have chosen its settings; of another data set nothing can have."""
    (sheet,) = of_study(tmp_path).sheets
    with pytest.raises(ConfigError, match=r"'\.\./study\.json' was tuned on another split of 'synthetic', 5{12}:"):
        check_study(sheet, sheet.models[0], load_data_hashes(sheet).tuning)
    check_study(sheet, sheet.models[0], digest("5" * 64))
    record = json.loads((tmp_path / "study.json").read_text())
    record["source"]["dataset"] = "ml-100k"
    (tmp_path / "study.json").write_text(json.dumps(record))
    check_study(sheet, sheet.models[0], load_data_hashes(sheet).tuning)


def test_a_data_set_by_the_path_of_its_card(tmp_path: Path) -> None:
    """Its records lie under its name, in the folder of results."""
    card = tmp_path / "mine.toml"
    card.write_text(card_files()["synthetic"].read_text(encoding="utf-8").replace('"synthetic"', '"mine"', 1))
    board = write_board(tmp_path, f"dataset = '{card}'\n[[models]]\nmodel = 'popularity'\n", "ours")
    (sheet,) = board.sheets
    assert board.folder_of(sheet) == tmp_path / "results" / "shop" / "mine"
    assert open_sheet(board, sheet).folder == tmp_path / "results" / "shop" / "mine"


def test_a_command_imports_a_file_of_the_board_from_anywhere(tmp_path: Path) -> None:
    """Where the board's file lies does not matter to whoever runs the command."""
    for folder, name in (("parts", "nothing_new"), ("shop", "nothing_either")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.py").write_text("")
    text = 'import = ["../parts/nothing_new.py", "nothing_either"]\nseeds = [0]\n[[models]]\nmodel = "popularity"\n'
    ((job,),) = jobs(write_board(tmp_path, text)).values()
    own = f" --import {tmp_path / 'parts' / 'nothing_new.py'} --import nothing_either"
    assert job.command().count(own) == 2


def test_a_changed_file_of_features_is_other_data(tmp_path: Path) -> None:
    """The hash of the split does not cover it; a study of the same split is still one."""
    (tmp_path / "log.csv").write_text("user,item\n" + "".join(f"{u},{i}\n" for u in range(4) for i in range(5)))
    features = tmp_path / "items.csv"
    plain, given = "data = '../log.csv'\n", "data = { file = '../log.csv', item_features = '../items.csv' }\n"
    entry = "seeds = [0]\n[[models]]\nmodel = 'popularity'\nstudy = '../study.json'\n"
    hashes = []
    for head, kind in ((plain, "a"), (given, "a"), (given, "b"), (given, "a")):
        features.write_text("item,kind\n" + "".join(f"{i},{kind}\n" for i in range(5)))
        (sheet,) = write_board(tmp_path, head + entry, "own").sheets
        hashes.append(load_data_hashes(sheet).tuning)
        split = DataConfig.of(sheet.protocol.model_dump(include={*DataConfig.model_fields})).split_of(sheet.dataset)
        for split_hash, is_same in ((split.hash, True), ("5" * 64, False)):
            record = {
                "unsealed": [{"settings": {"tuned": {}}}],
                "source": {"dataset": sheet.dataset},
                "recgraph": {"split_hash": split_hash},
            }
            (tmp_path / "study.json").write_text(json.dumps(record))
            with nullcontext() if is_same else pytest.raises(ConfigError, match="tuned on another split"):
                check_study(sheet, sheet.models[0], hashes[-1])
    assert hashes[0] == digest(split.hash)
    assert hashes[1] == hashes[3]
    assert len({*hashes}) == 3


def test_the_password_of_a_studys_address_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "postgresql://me:secret@host/studies"

    def tuned(place: str, folder: Path, name: str | None) -> TunedSettings:
        assert place == address
        return TunedSettings({}, model, None, None)

    monkeypatch.setattr(plan, "load_tuned", tuned)
    board = write_board(tmp_path, f"seeds = [0]\n[[models]]\nmodel = 'popularity'\nstudy = '{address}'\n")
    model = "Popularity"
    (entry,) = open_sheet(board, board.sheets[0]).entries
    assert entry.study == "postgresql://me:***@host/studies"
    model = "EASE"
    with pytest.raises(ConfigError, match=r"study 'postgresql://me:\*\*\*@host/studies' is of EASE"):
        jobs(board)


def test_a_job_travels_as_plain_values(tmp_path: Path) -> None:
    job = light(tmp_path)
    again = Job.from_dict(json.loads(json.dumps(job.to_dict())))
    assert (again, again.stem) == (job, job.stem)
