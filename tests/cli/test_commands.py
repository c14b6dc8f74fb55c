"""Each command once, from getting data to recommending, on the synthetic data set."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer
from command_line import call, refused, works
from safetensors.torch import load_file
from small_settings import make_card

from recgraph import __version__, registry
from recgraph.cli.app import app
from recgraph.evaluate.results import load_users

SMALL = "--set hidden_dim=16 --set max_epochs=1 --set batch_size=128 --set encoder.n_heads=1"


def rows(line: str, *more: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(works(line, *more, "--format", "json").stdout)
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


@pytest.fixture(scope="module")
def run(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained run."""
    out = tmp_path_factory.mktemp("runs") / "sasrec"
    assert (
        "try next: recgraph evaluate"
        in works(f"train sasrec -d synthetic -o {out} {SMALL} --seed 3").stderr
    )
    return out


def test_version_and_doctor() -> None:
    assert works("--version").stdout.strip() == __version__
    facts = {row["name"]: row["value"] for row in rows("doctor")}
    assert facts["recgraph"] == __version__
    assert {"torch", "threads", "cpu", "prepared data", "faiss-cpu", "fastapi", "onnx"} <= set(
        facts
    )


def test_data(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "synthetic" in {row["name"] for row in rows("data list")}
    (row,) = rows("data get synthetic")
    assert (row["users"], row["items"]) == (600, 300)
    assert Path(row["folder"]).is_relative_to(home)
    facts = {row["key"]: row["value"] for row in rows("data info ml-100k")}
    assert (facts["expected.users"], facts["sources.1.kind"]) == (943, "url")
    monkeypatch.chdir(tmp_path)
    lines = [f"{user},{item},{user + item}" for user in range(9) for item in range(5)]
    Path("log.csv").write_text("\n".join(["user,item,timestamp", *lines]) + "\n")
    (row,) = rows("data init log.csv")
    assert (row["card"], row["users"]) == ("log.toml", 9)
    works("data get log.toml")


def test_models_and_parts() -> None:
    found = {row["model"]: row for row in rows("models")}
    assert list(found) == registry.names("model")
    assert {row["model"]: row["update"] for row in found.values()}["ease"] == "fitted again"
    own = {row["setting"]: row for row in rows("models MCLRec")}
    assert next(iter(own)) == "view_weight"
    assert own["dropout"]["allowed"] == ">= 0 and < 1"
    every = {row["setting"]: row for row in rows("models MCLRec --all")}
    assert {"max_epochs", "encoder.n_layers"} < {*every} - {*own}
    assert every["max_epochs"]["of"] == "training"
    assert [row["part"] for row in rows("parts graph")] == ["hetero_graph"]
    assert {row["kind"] for row in rows("parts weight")} == {"weight"}


def test_lists_of_models_fit_on_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = works("models", "--format", "table").stdout.strip().splitlines()
    assert [line.split()[0] for line in lines[2:]] == registry.names("model"), "a line a model"
    for line in ("models mclrec", "models ncl --all"):
        names = {row["setting"] for row in rows(line)}
        assert len(names) <= 20 or "--all" in line
        table = works(line, "--format", "table").stdout.splitlines()
        assert max(map(len, table)) <= 80
        assert names == {
            text.split()[0] for text in table[3:] if text.strip() and not text.startswith("  ")
        }


def test_words_that_people_type(run: Path, tmp_path: Path) -> None:
    options = "--lr 0.02 --epochs 1 --batch-size=64 --hidden-dim 4 --loss bce --loss.n-negatives 2"
    works(f"train bprmf -d synthetic -o {tmp_path / 'run'} {options}")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    training = config["training"]
    assert (config["config"]["hidden_dim"], config["config"]["loss"]["n_negatives"]) == (4, 2)
    assert (training["learning_rate"], training["max_epochs"], training["batch_size"]) == (
        0.02,
        1,
        64,
    )
    several = works(f"evaluate {run} {tmp_path / 'run'}").stderr
    assert several.count("unsealed") == 1
    assert several.count("seen kept:") == 1


def test_train_resolves_its_settings_and_goes_on(run: Path, tmp_path: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    assert (config["model"], config["seed"], config["data"]["dataset"]) == (
        "sasrec",
        3,
        "synthetic",
    )
    again = f"train sasrec -d synthetic -o {run} {SMALL} --seed 3"
    assert "--resume" in refused(again)
    works(f"{again} --resume")
    file = tmp_path / "settings.toml"
    file.write_text(
        "hidden_dim = 8\nmax_epochs = 1\nbatch_size = 256\npatience = 'none'\n[loss]\nshared = false\n"
    )
    options = f"-d synthetic -o {tmp_path / 'run'} --config {file} --set hidden_dim=4 --set loss.n_negatives=3"
    works(f"train bprmf {options}")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["config"]["hidden_dim"], config["training"]["batch_size"]) == (4, 256)
    assert config["training"]["patience"] is None
    assert config["config"]["loss"]["n_negatives"] == 3


def test_fit_on_all_and_refit(tmp_path: Path) -> None:
    works(f"train popularity -d synthetic -o {tmp_path / 'all'} --fit-on all")
    assert len(rows(f"recommend {tmp_path / 'all'} -u 1 -k 3")) == 3
    refused(f"evaluate {tmp_path / 'all'}")
    told = works(f"train sasrec -d synthetic -o {tmp_path / 'refit'} {SMALL} --refit").stderr
    assert f"recgraph evaluate {tmp_path / 'refit' / 'selection'}" in told


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ("--set hidden_dims=3", "hidden_dim"),
        ("--set dropout=1.5", "dropout"),
        ("--set dropout", "dropout"),
        ("--config /nowhere.toml", "/nowhere.toml"),
        ("--dataset nope", "nope"),
        ("--data log.csv", "--data"),
        ("--set split=sideways", "sideways"),
        (f"--out {__file__}", "test_commands.py"),
    ],
)
def test_a_mistake_names_the_value(tmp_path: Path, options: str, name: str) -> None:
    assert name in refused(f"train sasrec --dataset synthetic --out {tmp_path / 'run'} {options}")


def test_usage_errors(tmp_path: Path) -> None:
    assert call("fly").exit_code == 2
    assert call("train sasrec").exit_code == 2
    assert "sasrec" in refused(f"train sasreck -d synthetic -o {tmp_path / 'run'}")
    assert "--resume" in call("train sasrec --resum --out x").stderr
    assert "hidden_dim" in refused(
        f"train sasrec -d synthetic --hidden-dims 3 -o {tmp_path / 'run'}"
    )
    assert isinstance(call("--debug data info nope").exception, ValueError)


def test_ctrl_c_ends_with_130_and_a_loss_that_is_not_finite_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recgraph.models.base import NonFinite
    from recgraph.train import fit

    for error, code in (
        (KeyboardInterrupt("saved in runs/a"), 130),
        (NonFinite("rec is nan at step 3"), 1),
    ):

        def fails(*_: object, error: BaseException = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(fit, "train", fails)
        done = call(f"train sasrec -d synthetic -o {tmp_path / 'run'}")
        assert (done.exit_code, str(error) in done.stderr) == (code, True)


def test_evaluate(run: Path, tmp_path: Path) -> None:
    found = {row["metric"]: row for row in rows(f"evaluate {run}")}
    assert set(found["ndcg@10"]) == {"metric", "seen kept", "seen excluded"}
    valid = rows(f"evaluate {run} --split valid --seen exclude")
    assert set(valid[0]) == {"metric", "seen excluded"}
    short = {
        row["metric"]: row for row in rows(f"evaluate {run} --cutoff 3 --cutoff 10 -m auc -m ndcg")
    }
    assert {*short} == {"auc", "ndcg@3", "ndcg@10"}
    assert short["ndcg@10"] == found["ndcg@10"]
    told = works(f"evaluate {run} --seen exclude -m ndcg@10 --rerank dpp --save-users {tmp_path}")
    assert "600 users, protocol " in told.stderr
    assert load_users(tmp_path / "sasrec-test-exclude-dpp.parquet").protocol.rerank
    assert "ndcg" in refused(f"evaluate {run} -m ndgc@5")
    assert str(tmp_path) in refused(f"evaluate {tmp_path}")


def test_runs_are_compared_and_their_seeds_are_one_model(run: Path, tmp_path: Path) -> None:
    works(f"train sasrec -d synthetic -o {tmp_path / 'other'} {SMALL} --seed 4")
    works(f"train popularity -d synthetic -o {tmp_path / 'popularity'}")
    found = rows(f"evaluate {run} {tmp_path / 'other'} {tmp_path / 'popularity'} -m ndcg@10")
    assert {row["model"] for row in found} == {f"{run} and 1 more", str(tmp_path / "popularity")}
    assert {type(row["ndcg@10"]) for row in found} == {float}
    assert {row["ndcg@10 mark"] for row in found} <= {"best", "tied", ""}
    assert "seed" in works("evaluate --help").stdout
    checks = {row["check"]: row["status"] for row in rows("check synthetic")}
    assert {*checks.values()} <= {"ok", "warn", "skipped"}
    assert {"tied times", "branching", "gain of histories", "gain of their order"} <= checks.keys()
    log = tmp_path / "sorted.csv"
    log.write_text(
        "user,item,time\n"
        + "".join(f"{u},{u + 7 * i},{i // 3}\n" for u in range(30) for i in range(9))
    )
    failed = call(f"check --data {log}")
    assert (failed.exit_code, "tied times" in failed.stderr) == (1, True)


def test_evaluate_by_a_metric_of_a_users_own(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("first_hit", "parallel_tasks:FirstHit", "recgraph.metric")
    monkeypatch.setattr(
        registry.metadata, "entry_points", lambda group: [point] if group == point.group else []
    )
    registry._entry_points.cache_clear()
    found = rows(f"evaluate {run} -m FirstHit@5 -m precision@1")
    assert found[0]["seen kept"] == found[1]["seen kept"]
    registry._entry_points.cache_clear()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("log.csv", "user_id,item_id,timestamp\n7,3,1\n7,4,2\n8,9,1\n"),
        (
            "log.jsonl",
            '{"user_id": 7, "item_id": 3}\n{"user_id": 7, "item_id": 4}\n{"user_id": 8, "item_id": 9}\n',
        ),
        ("log.txt", "7 3 4\n8 9\n"),
    ],
)
def test_recommend_to_users_and_histories(run: Path, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    found = rows(f"recommend {run} --histories {tmp_path / name} -k 2")
    assert [row["user_id"] for row in found] == [7, 7, 8, 8]
    assert not {row["item_id"] for row in found if row["user_id"] == 7} & {3, 4}
    assert [row["user_id"] for row in rows(f"recommend {run} -u 1 -u 5 -k 2")] == [1, 1, 5, 5]
    assert len(rows(f"recommend {run} -u 999999 --popular -k 4")) == 4


@pytest.mark.parametrize("ending", ["parquet", "json", "tsv"])
def test_recommend_to_all_users(run: Path, tmp_path: Path, ending: str) -> None:
    readers: dict[str, Any] = {
        "parquet": pl.read_parquet,
        "json": pl.read_json,
        "tsv": lambda path: pl.read_csv(path, separator="\t"),
    }
    told = works(f"recommend {run} --all -k 4 --out {tmp_path / f'recs.{ending}'}").stderr
    assert "2400 rows written" in told
    found = readers[ending](tmp_path / f"recs.{ending}")
    assert found.columns == ["user_id", "item_id", "score", "rank"]
    one = pl.DataFrame(rows(f"recommend {run} -u 7 -k 4"))
    assert found.filter(user_id=7)["item_id"].to_list() == one["item_id"].to_list()


def test_recommend_to_all_users_by_an_approximate_index(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    exact, near = tmp_path / "exact.parquet", tmp_path / "near.parquet"
    works(f"recommend {run} --all -k 4 --out {exact}")
    assert (
        "exact lists 100.0% are found"
        in works(f"recommend {run} --all -k 4 --ann --out {near}").stderr
    )
    both = pl.read_parquet(near).join(pl.read_parquet(exact), on=["user_id", "item_id", "rank"])
    assert len(both) > 0.9 * 2400


def test_recommend_by_rules(run: Path, tmp_path: Path) -> None:
    plain = [row["item_id"] for row in rows(f"recommend {run} -u 1 -k 20 --with group")]
    options = (
        f"--rule max_per.group=1 --block {plain[0]} --rule boost.place=0.001 --rule diversity=0.2"
    )
    found = rows(f"recommend {run} -u 1 -k 4 --with group {options}")
    assert len({row["group"] for row in found}) == 4
    assert plain[0] not in {row["item_id"] for row in found}
    file = tmp_path / "rules.toml"
    file.write_text(
        f"block = [{plain[0]}]\ndiversity = 0.2\nmax_per = {{ group = 1 }}\nboost = {{ place = 0.001 }}\n"
    )
    assert rows(f"recommend {run} -u 1 -k 4 --with group --rules {file}") == found
    assert rows(f"recommend {run} -u 1 -k 4 --rules {file} --rule max_per.group=2") != found
    short = rows(f"recommend {run} -u 1 -k 4 --rule diversity=0.2")
    assert (
        rows(f"recommend {run} -u 1 -k 4 --rule rerank.name=mmr --rule rerank.strength=0.2")
        == short
    )


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ("", "--user"),
        ("-u 1 --all --out x.csv", "--user"),
        ("--all", "--out"),
        ("--all --out x.xls", "x.xls"),
        ("-u ann", "ann"),
        ("-u 1 --rule max_per.kind=1", "kind"),
        ("-u 1 --rule boost.place=much", "much"),
        ("-u 1 --rule rerank=mmx", "mmr"),
    ],
)
def test_mistakes_of_recommend(run: Path, options: str, name: str) -> None:
    assert name in refused(f"recommend {run} {options}")


def test_similar_and_vectors(run: Path, tmp_path: Path) -> None:
    found = rows(f"similar {run} --item 7 -i 3 -k 4 --by co_occurrence --block 5")
    assert [row["item_id"] for row in found] == [7] * 4 + [3] * 4
    assert 5 not in {row["similar"] for row in found}
    assert "--item" in refused(f"similar {run}")
    (tmp_path / "new.csv").write_text("user_id,item_id\nx,3\nx,4\ny,5\n")
    for name, options, n_rows in (
        ("item_id", "", 300),
        ("user_id", "--users", 600),
        ("user_id", f"--histories {tmp_path / 'new.csv'}", 2),
    ):
        works(f"vectors {run} {options} --out {tmp_path / 'vectors.parquet'}")
        frame = pl.read_parquet(tmp_path / "vectors.parquet")
        assert (frame.columns, frame.height, len(frame["vector"][0])) == (
            [name, "vector"],
            n_rows,
            16,
        )


def test_export(run: Path, tmp_path: Path) -> None:
    pytest.importorskip(
        "onnxscript", reason="onnxscript is not installed; pip install 'recgraph[export]'"
    )
    works(f"export {run} --out {tmp_path / 'out'}")
    assert {"model.onnx", "model.pt2", "manifest.json"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }


def test_inspect_and_plot(run: Path, tmp_path: Path) -> None:
    found = json.loads(
        works(f"inspect {run} --user 1 -k 3 --format json --out {tmp_path / 'page.html'}").stdout
    )
    assert len(found["recommendations"]) == 3
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    works(f"plot {run} --out {tmp_path / 'curves.svg'}")
    assert (tmp_path / "curves.svg").read_text().startswith("<svg")


def test_update(run: Path, tmp_path: Path) -> None:
    lines = [f"{user},{item},{10**10 + item}" for user in range(1, 30) for item in range(3, 9)]
    (tmp_path / "new.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]) + "\n")
    told = works(
        f"update {run} --data {tmp_path / 'new.csv'} --out {tmp_path / 'newer'} --force --epochs 1"
    ).stderr
    assert "new: " in told
    (weights,) = (path.name for path in (run / "bundle").glob("model*.safetensors"))
    before, after = (load_file(one / "bundle" / weights) for one in (run, tmp_path / "newer"))
    assert before.keys() == after.keys()
    assert len(rows(f"recommend {tmp_path / 'newer'} -u 1 -k 2")) == 2
    assert "--replace" in refused(f"update {run} --data {tmp_path / 'new.csv'}")


def test_the_commands_of_the_first_page() -> None:
    first, more = works("--help").stdout.split("Further commands")
    known = typer.main.get_group(app).commands
    shown = [name for name, command in known.items() if not command.hidden]
    assert len(shown) == 12
    assert all(f" {name} " in first for name in shown)
    assert all(name in more for name in known if name not in shown)


def test_tune(tmp_path: Path) -> None:
    space = tmp_path / "space.toml"
    space.write_text('"*" = "fixed"\nlearning_rate = [1e-3, 1e-2]\n')
    out = tmp_path / "study"
    line = f"tune sasrec -d synthetic -o {out} --space {space} --sampler grid --test-seeds 1 --trials 2 {SMALL}"
    done = works(f"{line} --format json")
    assert "best: trial " in done.stderr
    table = {(row["metric"], row["seen"]): row for row in json.loads(done.stdout)}
    assert table["ndcg@10", "exclude"]["tuned"] > 0
    assert json.loads(works(f"{line} --format json").stdout) == list(table.values())
    works(f"study {out}")


def test_leaderboard(tmp_path: Path) -> None:
    board = tmp_path / "tiny" / "synthetic.toml"
    board.parent.mkdir()
    board.write_text(
        'title = "Tiny"\nseeds = [3]\nmetrics = ["ndcg@10"]\n[protocol]\ncutoffs = [10]\n'
        '[[models]]\nmodel = "popularity"\n'
    )
    told = works(f"board run {board.parent} --device cpu").stderr
    assert "1 made" in told
    assert told.count("unsealed") == 1
    works(f"board render {board.parent} --out {tmp_path / 'tiny.md'}")
    assert "Popularity" in (tmp_path / "tiny.md").read_text()


@pytest.mark.usefixtures("ray_cluster")
def test_a_ray_job_gives_the_numbers_of_one_process(run: Path) -> None:
    assert rows(f"evaluate {run} --engine ray --engine-set workers=2") == rows(f"evaluate {run}")


@pytest.fixture
def nodes(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A run on a graph with classes of nodes."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("RECGRAPH_CARDS", str(folder))
    make_card(folder)
    works(f"data get tiny --from {folder / 'tiny'}")
    probe = "--set probe.learning_rate=0.1 --set probe.repeats=4"
    told = works(
        f"train MEOW -d tiny -o {tmp_path / 'meow'} --set hidden_dim=8 --set max_epochs=4 {probe} --device cpu",
        *("--set", "prototypes.n_clusters=[3, 5]"),
    )
    assert f"try next: recgraph evaluate {tmp_path / 'meow'}" in told.stderr
    return tmp_path / "meow"


def test_the_node_task(nodes: Path) -> None:
    config = json.loads((nodes / "config.json").read_text())
    assert (config["config"]["metapaths"], config["config"]["raw_features"]) == (
        ["paper-author-paper"],
        ["paper"],
    )
    assert (config["task"], config["fitted_on"], config["training"]["metric"]) == (
        "nodes",
        "graph",
        "loss",
    )
    assert config["evaluation"]["probe"]["learning_rate"] == 0.1
    found = rows(f"evaluate {nodes}")
    assert [(row["probe"], row["labels"]) for row in found] == [
        ("linear", "10"),
        ("logistic", "10"),
        ("k-means", "none"),
    ]
    assert found[1]["macro_f1"] > 0.6
    record = json.loads((nodes / "record.json").read_text())
    assert record["results"]["nodes"]["protocol"]["probe"]["repeats"] == 4
    assert record["unsealed"]
    told = works(f"evaluate {nodes} --set probe.learning_rate=0.05").stderr
    assert (
        "linear probe: learning_rate 0.05, weight_decay 0.0, repeats 4, steps 200; protocol "
        in told
    )
    assert "recommender" in refused(f"recommend {nodes} -u 1")
    assert "--node" in refused(f"similar {nodes} --item 1")
    assert json.loads(works(f"inspect {nodes} --node 1 -k 3 --format json").stdout)["neighbours"]
    record["data"]["dataset"] = None  # as of a graph that was made in Python
    (nodes / "record.json").write_text(json.dumps(record))
    assert ".evaluate(data)" in refused(f"evaluate {nodes}")
