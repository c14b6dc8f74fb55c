"""The commands, from getting data to recommending, on the synthetic data set."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import forked
import polars as pl
import pytest
from typer.testing import CliRunner, Result

from recgraph import __version__, registry
from recgraph.cli.app import app
from recgraph.evaluate.results import load_users


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def rows(*arguments: object) -> list[dict[str, Any]]:
    done = call(*arguments, "--format", "json")
    assert done.exit_code == 0, done.output
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECGRAPH_HOME", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def _use_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(home))


SETTINGS = ("--set", "hidden_dim=16", "--set", "max_epochs=1", "--set", "batch_size=128")


@pytest.fixture(scope="module")
def run(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained run."""
    out = tmp_path_factory.mktemp("runs") / "sasrec"
    done = call("train", "sasrec", "--dataset", "synthetic", "--out", out, *SETTINGS, "--seed", 3)
    assert done.exit_code == 0, done.output
    assert f"try next: recgraph evaluate {out}" in done.stderr
    return out


def test_version() -> None:
    assert call("--version").stdout.strip() == __version__


def test_data_list_and_get(home: Path) -> None:
    assert "synthetic" in {row["name"] for row in rows("data", "list")}
    (row,) = rows("data", "get", "synthetic")
    assert (row["users"], row["items"]) == (600, 300)
    assert Path(row["folder"]).is_relative_to(home)
    assert rows("data", "get", "synthetic")[0]["state"] == "was prepared already"
    assert {row["name"]: row["prepared"] for row in rows("data", "list")}["synthetic"]


def test_data_get_prints_the_acknowledgement() -> None:
    done = call("data", "get", "synthetic")
    assert "Nothing has to be acknowledged." in done.stderr
    assert done.stdout.startswith("name\tusers\t")


def test_data_info() -> None:
    facts = {row["key"]: row["value"] for row in rows("data", "info", "ml-100k")}
    assert facts["expected.users"] == 943
    assert facts["sources.1.kind"] == "url"
    assert "GroupLens" in facts["acknowledgement"]


def test_data_get_from_a_wrong_file_names_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("1 2 3\n")
    done = call("data", "get", "amazon-beauty", "--from", path)
    assert done.exit_code == 2
    assert str(path) in done.stderr


def test_models_lists_all_with_their_settings() -> None:
    found = {row["model"]: row for row in rows("models")}
    assert list(found) == registry.names("model")
    assert "hidden_dim" in found["mclrec"]["settings"]
    assert all(row["what"] for row in found.values())


def test_models_shows_one() -> None:
    found = {row["setting"]: row for row in rows("models", "MCLRec")}
    assert found["max_epochs"]["of"] == "training"
    assert found["dropout"]["allowed"] == ">= 0 and < 1"
    assert found["split"]["of"] == "data"
    assert {row["of"] for row in rows("models", "ease")} == {"model", "data"}


def test_doctor() -> None:
    facts = {row["name"]: row["value"] for row in rows("doctor")}
    assert {"fastapi", "uvicorn", "prometheus-client", "onnx", "onnxscript"} <= set(facts)
    assert facts["recgraph"] == __version__
    assert {"torch", "threads", "cpu", "prepared data", "faiss-cpu", "mlflow-skinny", "wandb", "torch on cpu"} <= set(
        facts
    )


def test_doctor_while_another_process_deletes_prepared_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("kept", "going"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "log.parquet").write_bytes(b"12345")
    read = os.scandir

    def scandir(folder: Any) -> Any:
        if str(folder).endswith("going"):
            shutil.rmtree(folder)
        return read(folder)

    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path))
    monkeypatch.setattr(os, "scandir", scandir)
    (cache,) = (row["value"] for row in rows("doctor") if row["name"] == "prepared data")
    assert "(1 files, 0.0 MiB)" in cache


def test_train_writes_the_resolved_configuration(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    assert (config["model"], config["seed"], config["data"]["dataset"]) == ("sasrec", 3, "synthetic")
    assert (config["config"]["hidden_dim"], config["training"]["max_epochs"]) == (16, 1)


def test_config_file_and_set(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("hidden_dim = 8\nmax_epochs = 1\nbatch_size = 256\npatience = 'none'\n")
    out = tmp_path / "run"
    done = call("train", "sasrec", "-d", "synthetic", "-o", out, "--config", file, "--set", "hidden_dim=4")
    assert done.exit_code == 0, done.output
    config = json.loads((out / "config.json").read_text())
    assert (config["config"]["hidden_dim"], config["training"]["batch_size"]) == (4, 256)
    assert config["training"]["patience"] is None


def test_options_of_a_part_as_json_and_one_by_one(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("max_epochs = 1\n[loss_options]\nn_negatives = 3\nshared = false\n")

    def options(*sets: str) -> dict[str, Any]:
        out = tmp_path / "run"
        given = [text for pair in sets for text in ("--set", pair)]
        done = call("train", "bprmf", "-d", "synthetic", "-o", out, "--config", file, *given, "--set", "hidden_dim=4")
        assert done.exit_code == 0, done.output
        config = json.loads((out / "config.json").read_text())["config"]
        shutil.rmtree(out)
        found: dict[str, Any] = config["loss_options"]
        return found

    assert options() == {"n_negatives": 3, "shared": False}
    assert options('loss_options={"shared": true}') == {"shared": True}
    assert options("loss_options.shared=true") == {"n_negatives": 3, "shared": True}
    once_more = options("loss_options={shared=false}", "loss_options.n_negatives=2")
    assert once_more == {"shared": False, "n_negatives": 2}


def test_an_existing_run_is_refused_without_resume(run: Path) -> None:
    again = ("train", "sasrec", "--dataset", "synthetic", "--out", run, *SETTINGS, "--seed", 3)
    done = call(*again)
    assert done.exit_code == 2
    assert str(run) in done.stderr
    assert "--resume" in done.stderr
    done = call(*again, "--resume")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "hidden_dims=3"), "unknown setting 'hidden_dims'; did you mean hidden_dim"),
        (("--set", "dropout=1.5"), "dropout = 1.5"),
        (("--set", "dropout"), "'dropout' is not of the form key=value"),
        (("--config", "/nowhere.toml"), "'/nowhere.toml' does not exist"),
        (("--dataset", "nope"), "dataset 'nope' has no card"),
        (("--device", "abacus"), "abacus"),
        (("--set", "split=sideways"), "sideways"),
        (("--set", "seed=3"), "seed = 3 is no setting; give it as the option --seed"),
        (("--set", "loss.margin=3"), "its options are in loss_options"),
        (
            ("--set", "loss_options={shared: true}"),
            "--set 'loss_options={shared: true}': the value is neither TOML nor",
        ),
        (("--out", __file__), "test_commands.py is a file; the run is kept in a folder"),
    ],
)
def test_mistakes_name_the_value(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    done = call("train", "sasrec", "--dataset", "synthetic", "--out", tmp_path / "run", *arguments)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize("command", ["train", "tune"])
def test_settings_of_training_are_refused_where_nothing_is_trained(tmp_path: Path, command: str) -> None:
    done = call(command, "ease", "--dataset", "synthetic", "--out", tmp_path / "run", "--set", "max_epochs=3")
    assert done.exit_code == 2
    assert (
        "EASE is fitted in one step and takes no settings of training: leave out max_epochs; its own settings are l2"
        in done.stderr
    )
    assert not (tmp_path / "run").exists()


def test_an_unknown_model_lists_the_known(tmp_path: Path) -> None:
    done = call("train", "sasreck", "--dataset", "synthetic", "--out", tmp_path / "run")
    assert done.exit_code == 2
    assert "model 'sasreck' does not exist; did you mean sasrec or esasrec or bsarec? There are adameow," in done.stderr
    assert not (tmp_path / "run").exists()


def test_usage_errors_are_typers_own() -> None:
    assert call("train", "sasrec").exit_code == 2
    assert call("fly").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "sasrec", "--max-epochs", 3), "A setting is given by --set max_epochs=VALUE."),
        (
            ("tune", "sasrec", "ml-100k"),
            "Data are given by --dataset NAME or --data FILE, a setting by --set KEY=VALUE.",
        ),
        (("train", "sasrec", "--set", "max_epochs", 3), "a setting by --set KEY=VALUE."),
    ],
)
def test_usage_errors_say_how_settings_and_data_are_given(arguments: tuple[object, ...], message: str) -> None:
    done = call(*arguments, "--out", "x")
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())


def test_usage_errors_of_other_commands_do_not_speak_of_settings() -> None:
    assert "--set" not in call("recommend", "run", "--max-epochs", 3).stderr
    assert "--set" not in call("models", "sasrec", "more").stderr
    assert "Possible options: --seed" in " ".join(call("train", "sasrec", "--sed", 3).stderr.replace("│", " ").split())


def test_a_seed_of_tuning_is_an_option(tmp_path: Path) -> None:
    done = call("tune", "sasrec", "-d", "synthetic", "-o", tmp_path / "s", "--set", "seed=3")
    assert (done.exit_code, "seed = 3 is no setting; give it as the option --seed" in done.stderr) == (2, True)


def test_ctrl_c_ends_with_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt("saved in runs/a")

    from recgraph.runs import fit as experiment

    monkeypatch.setattr(experiment, "train", interrupted)
    done = call("train", "sasrec", "--dataset", "synthetic", "--out", tmp_path / "run")
    assert done.exit_code == 130
    assert "saved in runs/a" in done.stderr


def test_a_loss_that_is_not_finite_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recgraph.runs import fit as experiment
    from recgraph.train.progress import NonFiniteLoss

    def diverged(*_: object, **__: object) -> None:
        raise NonFiniteLoss("rec is nan at step 3")

    monkeypatch.setattr(experiment, "train", diverged)
    done = call("train", "sasrec", "--dataset", "synthetic", "--out", tmp_path / "run")
    assert (done.exit_code, done.stderr) == (1, "recgraph: rec is nan at step 3\n")


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = call("--debug", "data", "info", "nope")
    assert isinstance(done.exception, ValueError)


def test_evaluate(run: Path) -> None:
    found = {row["metric"]: row for row in rows("evaluate", run)}
    assert set(found["ndcg@10"]) == {"metric", "seen kept", "seen excluded"}
    assert 0 < found["ndcg@10"]["seen excluded"] < 1
    valid = rows("evaluate", run, "--split", "valid", "--seen", "exclude")
    assert set(valid[0]) == {"metric", "seen excluded"}
    short = {row["metric"]: row for row in rows("evaluate", run, "--cutoff", 3, "--cutoff", 10)}
    assert "ndcg@3" in short
    assert "ndcg@5" not in short
    assert short["ndcg@10"] == found["ndcg@10"]
    options = ("--seen", "exclude", "--rerank", "dpp", "--rerank-options")
    same = {row["metric"]: row["seen excluded, dpp"] for row in rows("evaluate", run, *options, "strength=0")}
    assert same["ndcg@10"] == found["ndcg@10"]["seen excluded"]
    other = {row["metric"]: row["seen excluded, dpp"] for row in rows("evaluate", run, *options, "strength=0.9")}
    assert other["ndcg@10"] != same["ndcg@10"]
    done = call("evaluate", run, "--seen", "keep")
    assert "600 users, protocol " in done.stderr
    assert done.stdout.startswith("metric\tseen kept\n")


def test_evaluate_by_a_metric_of_a_users_own(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("first_hit", "first_hit:FirstHit", "recgraph.metric")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == point.group else [])
    found = rows("evaluate", run, "-m", "FirstHit", "-m", "coverage@10", "-m", "auc")
    names = [f"first_hit@{k}" for k in (5, 10, 20)]
    assert [row["metric"] for row in found] == [*names, "catalogue_coverage@10", "auc"]
    precision = rows("evaluate", run, "--cutoff", 1, "-m", "precision")
    assert found[0]["seen kept"] == precision[0]["seen kept"]
    assert call("train", "popularity", "--dataset", "synthetic", "--out", tmp_path / "popularity").exit_code == 0
    columns = rows("evaluate", run, tmp_path / "popularity", "-m", "first_hit@10")
    assert set(columns[0]) == {"candidates", "model", "first_hit@10"}
    for asked, message in (
        ("no_such", "metric 'no_such' does not exist"),
        ("typo@5", "metric 'typo' does not exist"),
        ("ndgc@5", "metric 'ndgc' does not exist; did you mean "),
        ("auc@5", "metric 'auc@5' reads the whole ranking"),
    ):
        wrong = call("evaluate", run, "--metric", asked)
        assert (wrong.exit_code, message in wrong.stderr) == (2, True)


def test_evaluate_at_the_cut_off_that_a_metric_names(run: Path) -> None:
    found = {
        row["metric"]: row for row in rows("evaluate", run, "-m", "ndcg@7", "-m", "coverage@20", "-m", "novelty@3")
    }
    assert [*found] == ["ndcg@7", "catalogue_coverage@20", "novelty@3"]
    same = {row["metric"]: row for row in rows("evaluate", run, "--cutoff", 7, "-m", "ndcg")}
    assert found["ndcg@7"] == same["ndcg@7"]
    far = {row["metric"]: row for row in rows("evaluate", run, "--cutoff", 100000, "-m", "recall", "-m", "ndcg@10")}
    assert far["recall@100000"]["seen kept"] == 1.0
    assert far["ndcg@10"] == next(row for row in rows("evaluate", run) if row["metric"] == "ndcg@10")


def test_values_of_users_of_two_runs_do_not_get_into_one_file(tmp_path: Path) -> None:
    # neither is a run: the names are compared before anything is read
    done = call("evaluate", tmp_path / "a" / "run", tmp_path / "b" / "run", "--save-users", tmp_path / "users")
    assert done.exit_code == 2
    assert f"{tmp_path / 'a' / 'run'} and {tmp_path / 'b' / 'run'} are both called 'run'" in done.stderr
    assert "rename one of the folders" in done.stderr


def test_a_run_that_is_named_twice_is_evaluated_once(run: Path) -> None:
    assert rows("evaluate", run, run, "-m", "ndcg@10") == rows("evaluate", run, "-m", "ndcg@10")


def test_values_of_users_of_picked_lists_have_a_file_of_their_own(run: Path, tmp_path: Path) -> None:
    asked = ("evaluate", run, "--seen", "exclude", "-m", "ndcg@10", "--save-users", tmp_path)
    assert call(*asked).exit_code == call(*asked, "--rerank", "mmr").exit_code == 0
    plain, picked = (load_users(tmp_path / f"sasrec-test-exclude{of}.parquet") for of in ("", "-mmr"))
    assert (plain.protocol.rerank, "mmr" in picked.protocol.rerank) == ("", True)


def test_evaluate_what_is_no_run(tmp_path: Path) -> None:
    done = call("evaluate", tmp_path)
    assert done.exit_code == 2
    assert f"{tmp_path} is not a finished run: it has no record" in done.stderr
    assert f"{__file__} is not a finished run: it is a file" in call("evaluate", __file__).stderr
    assert f"{__file__} is no bundle: it is a file" in call("recommend", __file__, "-u", 1).stderr
    assert "is no bundle: there is no such folder" in call("recommend", tmp_path / "none", "-u", 1).stderr


def test_recommend_to_users(run: Path) -> None:
    users = [row["user_id"] for row in rows("recommend", run, "-u", 1, "-u", 5, "-k", 3)]
    assert users == [1, 1, 1, 5, 5, 5]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("log.csv", "user_id,item_id,timestamp\n7,3,1\n7,4,2\n8,9,1\n"),
        ("log.csv", "user_id,item_id\n7,3\n7,4\n8,9\n"),
        ("log.tsv", "user_id\titem_id\n7\t3\n7\t4\n8\t9\n"),
        ("log.jsonl", '{"user_id": 7, "item_id": 3}\n{"user_id": 7, "item_id": 4}\n{"user_id": 8, "item_id": 9}\n'),
        ("log.txt", "7 3 4\n8 9\n"),
        # names that are guessed, as those of a log that is trained on
        ("log.csv", "user,item,time\n7,3,1\n7,4,2\n8,9,1\n"),
    ],
)
def test_recommend_to_histories(run: Path, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    found = rows("recommend", run, "--histories", tmp_path / name, "-k", 2)
    assert [row["user_id"] for row in found] == [7, 7, 8, 8]
    assert not {row["item_id"] for row in found if row["user_id"] == 7} & {3, 4}


@pytest.mark.parametrize("ending", ["parquet", "json", "jsonl", "csv", "tsv"])
def test_recommend_to_all_users(run: Path, tmp_path: Path, ending: str) -> None:
    readers: dict[str, Any] = {
        "parquet": pl.read_parquet,
        "json": pl.read_json,
        "jsonl": pl.read_ndjson,
        "csv": pl.read_csv,
        "tsv": lambda path: pl.read_csv(path, separator="\t"),
    }
    done = call("recommend", run, "--all", "-k", 4, "--out", tmp_path / f"recs.{ending}")
    assert done.exit_code == 0, done.output
    assert "2400 rows written" in done.stderr
    found = readers[ending](tmp_path / f"recs.{ending}")
    assert found.columns == ["user_id", "item_id", "score", "rank"]
    assert found["user_id"].n_unique() == 600
    one = pl.DataFrame(rows("recommend", run, "-u", 7, "-k", 4))
    assert found.filter(user_id=7)["item_id"].to_list() == one["item_id"].to_list()


def test_recommend_to_all_users_by_an_approximate_index(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    for name, options in (("exact", ()), ("ann", ("--ann",))):
        done = call("recommend", run, "--all", "-k", 4, *options, "--out", tmp_path / f"{name}.parquet")
        assert done.exit_code == 0, done.output
        assert ("they contain 100.0% of the items of exact lists" in done.stderr) == (name == "ann")
    exact, near = (pl.read_parquet(tmp_path / f"{name}.parquet") for name in ("exact", "ann"))
    assert len(near.join(exact, on=["user_id", "item_id", "rank"])) > 0.9 * len(exact)


def test_an_index_whose_lists_cannot_be_compared_is_used_all_the_same(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")

    def of_nobody(*_: object) -> float:
        raise ValueError("no user of the recommender has a history")

    monkeypatch.setattr("recgraph.serve.recommender.recall_of_lists", of_nobody)
    done = call("recommend", run, "-u", 7, "-k", 4, "--ann")
    assert done.exit_code == 0, done.output
    assert "recall not measured: no user of the recommender has a history" in done.stderr
    assert len(done.stdout.splitlines()) == 5


def test_rules_that_leave_nothing_are_said(run: Path, tmp_path: Path) -> None:
    had = tmp_path / "had.csv"
    best = rows("recommend", run, "-u", 1, "-k", 1)[0]["item_id"]
    had.write_text(f"user_id,item_id\n1,{best}\n")
    done = call("recommend", run, "-u", 1, "--allow", best, "--block-for", had, "--format", "csv")
    assert (done.exit_code, done.stdout) == (0, "user_id,item_id,score,rank\n")
    assert "no item is left to recommend: what was seen and the rules leave none" in done.stderr


def test_recommend_by_rules(run: Path, tmp_path: Path) -> None:
    plain = [row["item_id"] for row in rows("recommend", run, "-u", 1, "-k", 20, "--with", "group")]
    options = ("--max-per", "group=1", "--block", plain[0], "--boost", "place=0.001", "--diversity", "0.2")
    found = rows("recommend", run, "-u", 1, "-k", 4, "--with", "group", *options)
    assert len({row["group"] for row in found}) == 4
    assert plain[0] not in {row["item_id"] for row in found}
    (tmp_path / "rules.toml").write_text(
        f"block = [{plain[0]}]\ndiversity = 0.2\nmax_per = {{ group = 1 }}\nboost = {{ place = 0.001 }}\n"
    )
    assert rows("recommend", run, "-u", 1, "-k", 4, "--with", "group", "--rules", tmp_path / "rules.toml") == found
    more = rows("recommend", run, "-u", 1, "-k", 4, "--rules", tmp_path / "rules.toml", "--max-per", "group=2")
    assert more != found
    short = rows("recommend", run, "-u", 1, "-k", 4, "--diversity", 0.2)
    long = ("--rerank", "mmr", "--rerank-options", "strength=0.2", "--rules", tmp_path / "mmr.toml")
    (tmp_path / "mmr.toml").write_text("diversity = 0.9\n")
    assert rows("recommend", run, "-u", 1, "-k", 4, *long) == short
    raised = rows("recommend", run, "-u", 1, "-k", 3, "--with", "group", "--boost", "group:3=100", "--allow", 300)
    assert [row["item_id"] for row in raised] == [300]
    raised = rows("recommend", run, "-u", 1, "-k", 3, "--with", "group", "--boost", "group:3*=100")
    assert {row["group"] for row in raised} == {3}
    (tmp_path / "block.csv").write_text(f"user_id,item_id\n1,{plain[0]}\n2,{plain[1]}\n")
    found = rows("recommend", run, "-u", 1, "-k", 2, "--block-for", tmp_path / "block.csv")
    assert [row["item_id"] for row in found] == plain[1:3]
    found = rows("recommend", run, "-u", 1, "-k", 2, "--allow-for", tmp_path / "block.csv")
    assert [row["item_id"] for row in found] == plain[:1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-u", 1, "--all", "--out", "x.csv"), "say for whom"),
        (("--all",), "--all writes a file: add --out FILE"),
        (("--all", "--out", "x.xls"), "end its name in .csv, .tsv, .json, .jsonl or .parquet"),
        (("-u", 1, "--max-per", "group"), "--max-per 'group' is not of the form COLUMN=NUMBER"),
        (("-u", 1, "--boost", "place=much"), "--boost 'place=much': 'much' is no number"),
        (("-u", 1, "--max-per", "kind=1"), "max_per: 'kind' is no column of the item features"),
        (("-u", 1, "--block", "x"), "block: 'x' cannot be an item"),
        (("-u", 1, "--diversity", "7"), "diversity = 7"),
        (("-u", 1, "--rules", "none.toml"), "none.toml"),
        (("-u", 1, "--rerank", "mmx"), "reranker 'mmx' does not exist; did you mean mmr?"),
        (("-u", 1, "--rerank-options", "strength=1"), "of which re-ranker? Give --rerank NAME"),
    ],
)
def test_recommend_rules_mistakes(run: Path, arguments: tuple[object, ...], message: str) -> None:
    done = call("recommend", run, *arguments)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert not Path("x.csv").exists()


def test_items_like_an_item(run: Path, tmp_path: Path) -> None:
    options = ("-k", 4, "--by", "co_occurrence", "--block", 5, "--format", "json")
    done = call("similar", run, "--item", 7, "-i", 3, *options)
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert [row["item_id"] for row in rows] == [7] * 4 + [3] * 4
    assert 5 not in {row["similar"] for row in rows}
    done = call("similar", run, "--all", "-k", 2, "--out", tmp_path / "all.parquet")
    assert done.exit_code == 0, done.output
    assert pl.read_parquet(tmp_path / "all.parquet").columns == ["item_id", "similar", "score", "rank"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say to which items"),
        (("--item", 7, "--all"), "say to which items"),
        (("--item", "x"), "--item 'x' is no item of this run"),
        (("--item", 4711), "items: 4711 is not known to the model"),
    ],
)
def test_similar_mistakes(run: Path, arguments: tuple[object, ...], message: str) -> None:
    done = call("similar", run, *arguments)
    assert (done.exit_code, message in done.stderr) == (2, True), done.output


@pytest.mark.parametrize("ending", ["parquet", "json", "csv"])
def test_vectors_of_items_users_and_histories(run: Path, tmp_path: Path, ending: str) -> None:
    readers: dict[str, Any] = {"parquet": pl.read_parquet, "json": pl.read_json, "csv": pl.read_csv}
    (tmp_path / "new.csv").write_text("user_id,item_id\nx,3\nx,4\ny,5\n")
    for name, options, n_rows in (
        ("item_id", (), 300),
        ("user_id", ("--users",), 600),
        ("user_id", ("--histories", tmp_path / "new.csv"), 2),
    ):
        path = tmp_path / f"vectors.{ending}"
        done = call("vectors", run, *options, "--out", path)
        assert done.exit_code == 0, done.output
        frame = readers[ending](path)
        assert (frame.columns, frame.height) == ([name, "vector"], n_rows)
        vector = frame["vector"][0]
        assert len(json.loads(vector) if ending == "csv" else vector) == 16


def test_vectors_mistakes(run: Path, tmp_path: Path) -> None:
    done = call("vectors", run, "--users", "--histories", tmp_path / "new.csv")
    assert (done.exit_code, "exclude each other" in done.stderr) == (2, True)


def test_export(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed; pip install 'recgraph[export]'")
    done = call("export", run, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "history to vectors: history ['batch', 'length'] to vectors ['batch', 16]" in done.stderr
    assert {"model.onnx", "model.pt2", "manifest.json"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert call("export", run, "--out", run).exit_code == 2


def test_recommend_into_parquet(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    done = call("recommend", run, "-u", 1, "--output", path, "--format", "parquet")
    assert done.exit_code == 0, done.output
    assert pl.read_parquet(path).height == 10
    assert done.stdout == ""


def test_a_parquet_file_can_be_piped(run: Path) -> None:
    with forked.module("recgraph.cli", "recommend", run, "-u", "1", "--format", "parquet") as done:
        assert done.wait() == 0, done.error
        assert pl.read_parquet(done.file("output")).height == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say for whom"),
        (("-u", "1", "--histories", "x.csv"), "say for whom"),
        (("-u", "ann"), "--user 'ann' is no user of this run: its ids are like"),
        (("-u", "999999"), "999999"),
        (("--histories", "/nowhere.csv"), "/nowhere.csv"),
        (("-u", "1", "--with", "colour"), "'colour'"),
    ],
)
def test_recommend_mistakes(run: Path, arguments: tuple[str, ...], message: str) -> None:
    done = call("recommend", run, *arguments)
    assert done.exit_code == 2, done.output
    assert message in done.stderr


def test_popular_items_for_the_unknown(run: Path) -> None:
    assert len(rows("recommend", run, "-u", 999999, "--popular", "-k", 4)) == 4
