"""A board that is really run: what is kept, made again, failed, and goes on after a kill."""

from __future__ import annotations

import errno
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import forked
import pytest
from typer.testing import CliRunner

import recgraph as rg
from recgraph import registry
from recgraph.cli.app import app
from recgraph.config import ConfigError
from recgraph.data.disk import DiskError
from recgraph.data.imprint import load_json, replace_json
from recgraph.data.split import FitPart
from recgraph.evaluate.results import popularity_groups
from recgraph.leaderboard import worker
from recgraph.leaderboard.board import Board, load_board
from recgraph.leaderboard.job import Job
from recgraph.leaderboard.plan import jobs_of
from recgraph.leaderboard.runner import PendingJob, Summary
from recgraph.leaderboard.runner import _record_failure as failed
from recgraph.leaderboard.runner import _record_outcome as ended
from recgraph.leaderboard.sheet import open_sheet
from recgraph.leaderboard.store import Store
from recgraph.leaderboard.worker import train_and_test
from recgraph.memory import MemoryLimitError
from recgraph.models.closed_form.neighbours import Popularity
from recgraph.runs import fit
from recgraph.workers.pool import FAILED, Outcome

#: MEOWRec follows paths over genres, which this data has not; BPR-MF is long enough to be stopped in the middle
OF_GENRES = 'settings = { item_metapaths = ["item-genre-item"] }\n'
TEXT = f"""
title = "Synthetic"
seeds = [3]
metrics = ["ndcg@10"]
[protocol]
cutoffs = [10]
[training]
max_epochs = 100
patience = 100
batch_size = 1024
[[models]]
model = "popularity"
[[models]]
model = "meowrec"
{OF_GENRES}[[models]]
model = "bprmf"
settings = {{ hidden_dim = 8 }}
"""
_PARTS: tuple[FitPart, ...] = ("train", "train+valid")
#: seconds; more than anything here takes on a busy machine
GRACE = 400.0


@pytest.fixture(scope="module", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECGRAPH_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("RECGRAPH_TEST_HOME", os.environ["RECGRAPH_HOME"])
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def write(folder: Path, text: str = TEXT) -> Path:
    path = folder / "tiny" / "synthetic.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path.parent


def records(board: Path) -> dict[str, dict[str, Any]]:
    """File -> record, without what differs from run to run."""
    folder = board.parent / "results" / "tiny" / "synthetic"
    found = {path.name: load_json(path) for path in folder.glob("*-seed*.json")}
    return {name: comparable(one) for name, one in sorted(found.items())}


def comparable(record: dict[str, Any]) -> dict[str, Any]:
    costs = ("at", "inference", "peak_memory_mb", "provenance", "traceback")
    kept = {name: value for name, value in record.items() if name not in costs}
    for name in ("seconds", "cpu_seconds"):
        kept.get("training", {}).pop(name, None)
    kept.get("curve", {}).pop("seconds", None)
    return kept


def times(board: Path) -> dict[str, int]:
    # glob: rglob also walks the folders of work, which vanish while a worker works
    return {path.name: path.stat().st_mtime_ns for path in board.parent.glob("results/tiny/synthetic/*.json")}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    """The board from nothing, in one go."""
    board = write(tmp_path_factory.mktemp("whole"))
    return board, rg.leaderboard.run(board, device="cpu", workers=2)


def test_from_nothing(ran: tuple[Path, Summary]) -> None:
    board, summary = ran
    assert sorted(summary.made) == ["synthetic / BPRMF / seed 3", "synthetic / Popularity / seed 3"]
    assert summary.failed == ["synthetic / MEOWRec / seed 3"]
    assert not summary.is_complete
    found = load_board(board)
    sheet = open_sheet(found, found.sheets[0])
    bpr, popularity = sheet.entries[:2]
    assert (bpr.name, popularity.name) == ("BPRMF", "Popularity")
    # the comparisons are made at the end of a run
    scores = [sheet.score(entry.name, "seen excluded", "ndcg@10") for entry in (bpr, popularity)]
    assert [score.mark for score in scores if score is not None] == ["best", "worse"]
    for name, least in (("training_cpu_seconds", 0), ("peak_memory_mb", 100)):
        cost = sheet.cost("BPRMF", name)
        assert cost is not None
        assert cost.mean > least
    assert len(sheet.frame.filter(entry="BPRMF", kind="epoch")) == 100
    assert sheet.groups[0].rows["BPRMF"]
    store = Store(sheet.folder)
    assert not (store.folder / ".work" / "bprmf").exists()
    assert not [path for path in (store.folder / ".work").iterdir() if path.is_dir()], "trainings that are done leave"


def test_a_cluster_makes_the_same_records(
    ran: tuple[Path, Summary], ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board, _ = ran
    monkeypatch.chdir(tmp_path)
    write(Path())
    some = ("--only", "popularity", "--only", "meowrec")  # the one that trains takes long
    done = call("leaderboard", "run", "tiny", "--device", "cpu", *some, "--engine", "ray")
    assert done.exit_code == 1, done.output
    assert "1 made, 1 failed" in done.output
    found, expected = records(tmp_path / "tiny"), records(board)
    assert len(found) == 2
    assert found == {name: expected[name] for name in found}


def test_what_does_not_fit_the_limit_of_memory_fails_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers of a board have the limit of its command; within another the job is done, and its peak is said."""
    monkeypatch.chdir(tmp_path)
    write(Path())
    run = ("leaderboard", "run", "tiny", "--device", "cpu", "--only", "popularity")
    done = call(*run, "--memory-limit", "10MiB")
    assert done.exit_code == 1, done.output
    found = load_board(tmp_path / "tiny")
    (failure,) = open_sheet(found, found.sheets[0]).failures
    assert (failure.entry, failure.error) == ("Popularity", "MemoryLimitError")
    assert failure.message.startswith("memory_limit = 10.0 MiB: Popularity would take ")
    last = " ".join(done.stderr[done.stderr.rfind("recgraph: ") :].split())
    assert re.search(r"1 failed, 0 not at hand: .* below \S*results/tiny; .* the same command again", last)
    again = call(*run, "--memory-limit", "64GiB")
    assert again.exit_code == 0, again.output
    printed = [line.split() for line in again.stderr.splitlines()]
    assert [line[:2] for line in printed if line[-2:] == ["64.0", "GiB"]] == [["predicted", "peak"]]
    assert "synthetic / Popularity / seed 3: predicted memory of popularity:" in again.stderr


def test_models_are_tested_after_a_last_fit_to_more(tmp_path: Path) -> None:
    text = TEXT.replace("cutoffs = [10]", 'cutoffs = [10]\nfit_on = "train+valid"').replace("= 100\n", "= 3\n")
    board = write(tmp_path, text.replace("[training]", "[training]\nlearning_rate = 0.01"))
    assert len(rg.leaderboard.run(board, device="cpu", only=["popularity", "bprmf"]).made) == 2
    found = {record["model"]: record for record in records(board).values()}
    split = rg.load_dataset("synthetic").split("leave-one-out")
    for name, record in found.items():
        protocol = record["protocols"]["seen excluded"]["protocol"]
        assert (protocol["fitted_on"], protocol["history"]) == ("train+valid", "train+valid")
        settings = {"hidden_dim": 8} if name == "bprmf" else {}
        training = {"max_epochs": 3, "patience": 3, "batch_size": 1024, "learning_rate": 0.01}
        run = rg.fit(
            registry.load("model", name)(**settings),
            split,
            seed=3,
            device="cpu",
            fit_on="train+valid",
            refit=name == "bprmf",
            **(training if name == "bprmf" else {}),
        )
        expected = run.evaluate(cutoffs=(10,))["exclude"]
        assert record["scores"]["seen excluded"]["ndcg@10"] == expected["ndcg@10"]
        # popular is what is so in all that the model has learned from
        labels = {which: popularity_groups(split.test, split.fit_part(which).item_counts()) for which in _PARTS}
        sizes = {group: one["n_users"] for group, one in record["groups"]["popularity"]["seen excluded"].items()}
        assert sizes == Counter(labels["train+valid"]) != Counter(labels["train"])
    # what chooses no epoch is fitted once, and at once
    fixed = re.sub("patience = .*\n", "", text).replace(
        "[training]", '[training]\nmetric = "last"\nlearning_rate = 0.01'
    )
    at_once = write(tmp_path / "last", fixed)
    assert len(rg.leaderboard.run(at_once, device="cpu", only=["bprmf"]).made) == 1
    (last,) = records(at_once).values()
    model = registry.load("model", "bprmf")(hidden_dim=8)
    training = {"max_epochs": 3, "batch_size": 1024, "learning_rate": 0.01, "metric": "last"}
    run = rg.fit(model, split, seed=3, device="cpu", fit_on="train+valid", **training)
    assert last["scores"]["seen excluded"]["ndcg@10"] == run.evaluate(cutoffs=(10,))["exclude"]["ndcg@10"]
    assert sorted(last["curve"]) == ["epoch", "loss"]
    # the curve and the best epoch are those of the training that chose
    chosen = found["bprmf"]
    assert len(chosen["curve"]["ndcg@10"]) == chosen["training"]["epochs"] == 3
    assert chosen["training"]["best"] == max(chosen["curve"]["ndcg@10"])
    assert chosen["training"]["selected_by"] == "ndcg@10"


def test_entries_of_one_name_in_two_files_of_one_data_set(tmp_path: Path) -> None:
    """Each has its own outcome; a job that two files ask for is done once, with the metrics of both."""
    head = TEXT[: TEXT.index("[[models]]")]
    board = write(tmp_path, head + '[[models]]\nmodel = "popularity"\nname = "same"\n')
    of = 'dataset = "synthetic"\n'
    (board / "other.toml").write_text(f'{of}{head}[[models]]\nmodel = "meowrec"\nname = "same"\n{OF_GENRES}')
    gini = head.replace("ndcg@10", "gini@10")
    (board / "third.toml").write_text(f'{of}{gini}[[models]]\nmodel = "popularity"\nname = "again"\n')
    said: list[str] = []
    summary = rg.leaderboard.run(board, device="cpu", say=said.append)
    assert said[0].startswith("board tiny: 2 to do")
    popular, failing = ("synthetic (synthetic) / same / seed 3", "synthetic (other) / same / seed 3")
    assert (summary.made, summary.failed, summary.left) == ([popular], [failing], [])
    assert "there is no node type 'genre'" in summary.reasons[failing]
    found = load_board(board)
    other, synthetic, third = (open_sheet(found, sheet) for sheet in found.sheets)
    assert [failure.error for failure in other.failures] == ["UnknownTypeError"]
    for sheet, metric in ((synthetic, "ndcg@10"), (third, "gini@10")):
        assert (sheet.failures, sheet.missing) == ((), ())
        assert sheet.score(sheet.entries[0].name, "seen kept", metric) is not None
    again = rg.leaderboard.run(board, device="cpu", only=["popularity"])
    assert (again.made, again.kept) == ([], [popular])


def test_a_failure_is_recorded_and_shown(ran: tuple[Path, Summary]) -> None:
    board, _ = ran
    found = load_board(board)
    sheet = open_sheet(found, found.sheets[0])
    (failure,) = sheet.failures
    assert (failure.entry, failure.seed, failure.error) == ("MEOWRec", 3, "UnknownTypeError")
    assert "no node type 'genre'" in failure.message
    assert "Traceback" in failure.traceback
    assert str(Path(rg.__file__).parents[1]) not in failure.traceback, "no paths of this machine"
    text = rg.leaderboard.render(board, board.parent / "out.md").read_text(encoding="utf-8")
    assert failure.message[:40] in text


def test_what_is_done_is_not_done_again(ran: tuple[Path, Summary]) -> None:
    board, _ = ran
    before = times(board)
    summary = rg.leaderboard.run(board, device="cpu", only=["popularity", "BPRMF"])
    assert (summary.made, summary.failed, len(summary.kept)) == ([], [], 2)
    assert times(board) == before


def test_what_changed_is_run_again_and_the_rest_is_kept(
    ran: tuple[Path, Summary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = copied(ran[0], tmp_path)
    before = times(board)
    # a revision that was raised: popularity; a word that was changed: nothing
    monkeypatch.setattr(Popularity, "revision", Popularity.revision + 1)
    write(tmp_path, TEXT.replace('title = "Synthetic"', 'title = "Else"'))
    summary = rg.leaderboard.run(board, device="cpu", only=["popularity", "bprmf"])
    assert summary.made == ["synthetic / Popularity / seed 3"]
    assert summary.kept == ["synthetic / BPRMF / seed 3"]
    after = times(board)
    assert {name: after[name] for name in before if name != "comparisons.json"} == {
        name: time for name, time in before.items() if name != "comparisons.json"
    }
    # a setting that was changed
    write(tmp_path, TEXT.replace("hidden_dim = 8", "hidden_dim = 4").replace("max_epochs = 100", "max_epochs = 1"))
    summary = rg.leaderboard.run(board, device="cpu", only=["popularity", "bprmf"])
    assert summary.made == ["synthetic / BPRMF / seed 3"]
    assert summary.kept == ["synthetic / Popularity / seed 3"]


def test_records_from_git_get_their_values_again(ran: tuple[Path, Summary], tmp_path: Path) -> None:
    """An entry that is new beside them is compared with them only then."""
    board = copied(ran[0], tmp_path)
    for path in board.parent.rglob("*.parquet"):
        path.unlink()
    new = '[[models]]\nmodel = "ease"\n'
    write(tmp_path, TEXT.replace(f'[[models]]\nmodel = "meowrec"\n{OF_GENRES}', new))
    said: list[str] = []
    assert rg.leaderboard.run(board, device="cpu", say=said.append).made == ["synthetic / EASE / seed 3"]
    assert said[-1].startswith("synthetic: not compared")
    before, said = records(board), []
    summary = rg.leaderboard.run(board, device="cpu", values=True, say=said.append)
    assert sorted(summary.made) == ["synthetic / BPRMF / seed 3", "synthetic / Popularity / seed 3"]
    assert summary.kept == ["synthetic / EASE / seed 3"]
    assert "not compared" not in said[-1]
    assert records(board) == before
    assert rg.leaderboard.run(board, device="cpu", values=True).made == []


def test_a_metric_of_a_users_own_is_a_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "my_metrics.py"
    module.write_text(
        "import recgraph as rg\nfrom first_hit import FirstHit as Base\n\n\n"
        '@rg.register("metric")\nclass OneInOne(Base):\n    name = "one_in_one"\n',
        encoding="utf-8",
    )
    paths = [str(tmp_path), str(Path(__file__).parents[1])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("my_metrics")
    text = TEXT.split("[[models]]")[0].replace('["ndcg@10"]', '["one_in_one@10", "gini@10"]')
    board = write(tmp_path, text + '[[models]]\nmodel = "popularity"\n')
    assert rg.leaderboard.run(board, device="cpu").made == ["synthetic / Popularity / seed 3"]
    found = load_board(board)
    sheet = open_sheet(found, found.sheets[0])
    assert [table.metrics for table in sheet.tables] == [("one_in_one@10", "gini@10")] * 2
    score = sheet.score("Popularity", "seen kept", "one_in_one@10")
    assert score is not None
    assert 0 <= score.mean <= 1
    assert rg.leaderboard.run(board, device="cpu").made == []
    # the same record serves a board that asks for nothing more
    write(tmp_path, text.replace('"one_in_one@10", "gini@10"', '"ndcg@10"') + '[[models]]\nmodel = "popularity"\n')
    assert rg.leaderboard.run(board, device="cpu").made == []


def copied(board: Path, folder: Path) -> Path:
    import shutil

    shutil.copytree(board.parent, folder, dirs_exist_ok=True)
    return folder / "tiny"


def start(board: Path) -> forked.Printing:
    """``recgraph leaderboard run`` in a process of its own."""
    arguments = ("leaderboard", "run", board, "--device", "cpu")
    return forked.module("recgraph.cli", *arguments)


def working(board: Path) -> list[dict[str, Any]]:
    """The epochs that BPR-MF's training has logged so far."""
    logs = [*board.parent.glob("results/tiny/synthetic/.work/bprmf*/run/log.jsonl")]
    lines = logs[0].read_text(encoding="utf-8").splitlines() if logs else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def wait_until(what: Any, process: forked.Printing | None = None) -> None:
    until = time.monotonic() + GRACE
    while not what():
        assert process is None or process.poll() is None, process.error
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_runner_that_is_killed(ran: tuple[Path, Summary], tmp_path: Path) -> None:
    """The same records, and nothing is done twice: neither what was done, nor the epochs of what was not."""
    board = write(tmp_path)
    (job,) = jobs_of(load_board(board).sheets[0], load_board(board).sheets[0].models[2])
    with start(board) as process:
        wait_until(lambda: len(working(board)) >= 5, process)
        process.kill()
    done = times(board)
    assert len(done) == 2, "popularity and the failure were before it"
    # its worker notices, saves and ends: it holds the lock of the job no longer
    store = Store(board.parent / "results" / "tiny" / "synthetic")
    with store.lock(job):
        epochs = working(board)
        assert 5 <= len(epochs) < 100
        assert store.record(job) is None
    assert rg.leaderboard.run(board, device="cpu").failed == ["synthetic / MEOWRec / seed 3"]
    after = times(board)
    popularity = next(name for name in done if name.startswith("popularity"))
    assert after[popularity] == done[popularity]
    assert records(board) == records(ran[0])
    last = store.record(job)
    assert last is not None
    assert last["curve"]["seconds"][0] == epochs[0]["seconds"], "the first epoch is the one that was trained before"


def test_a_worker_that_is_killed_is_a_failure_that_is_tried_again(
    tmp_path: Path, forked_workers: list[forked.Worker]
) -> None:
    board = write(tmp_path, TEXT[: TEXT.index("[[models]]")] + TEXT[TEXT.rindex("[[models]]") :])

    def kill() -> None:
        wait_until(lambda: len(working(board)) >= 1)
        os.kill(forked_workers[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    summary = rg.leaderboard.run(board, device="cpu")
    killer.join()
    assert summary.failed == ["synthetic / BPRMF / seed 3"]
    found = load_board(board)
    (failure,) = open_sheet(found, found.sheets[0]).failures
    assert failure.error == "WorkerKilled"
    assert "the process was ended by SIGKILL" in failure.message


def test_a_budget_that_is_spent(ran: tuple[Path, Summary], tmp_path: Path) -> None:
    board = write(tmp_path)
    summary = rg.leaderboard.run(board, device="cpu", budget=0)
    assert len(summary.left) == 3
    assert (summary.made, summary.failed) == ([], [])
    assert records(board) == {}


def test_a_budget_of_one_training(tmp_path: Path) -> None:
    # longer than whoever watches the time sleeps
    text = TEXT.replace("seeds = [3]", "seeds = [3]\nbudget_hours = 1e-6").replace("= 100\n", "= 100000\n")
    board = write(tmp_path, text)
    summary = rg.leaderboard.run(board, device="cpu", only=["bprmf"])
    assert summary.failed == ["synthetic / BPRMF / seed 3"]
    found = load_board(board)
    (failure,) = open_sheet(found, found.sheets[0]).failures
    assert failure.error == "BudgetExceeded"
    assert "1e-06 hours" in failure.message


@pytest.mark.parametrize(
    ("error", "goes_on"),
    [
        (DiskError(errno.ENOSPC, Path("step-8")), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (MemoryLimitError("memory_limit = 1.0 GiB"), True),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "step-8"), False),
        (ValueError("a setting"), False),
    ],
)
def test_a_training_goes_on_where_the_machine_gave_out(
    tmp_path: Path, error: Exception, goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have taken days; what the training itself cannot do it begins anew."""
    board = load_board(write(tmp_path))
    (sheet,) = board.sheets
    store, (job,) = Store(board.folder_of(sheet)), jobs_of(sheet, sheet.models[2])
    checkpoint = store.work(job) / "run" / "checkpoint"
    checkpoint.mkdir(parents=True)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(worker, "train_and_test", fail)
    assert worker.run_job(job, store, "d" * 16, values=False, device="cpu") == FAILED
    assert (store.failure(job) or {})["error"] == type(error).__name__
    assert checkpoint.exists() == goes_on


def test_a_device_that_is_not_there_costs_no_unfinished_training(tmp_path: Path) -> None:
    """A job that fails begins anew: a word that is wrong must not fail all of them."""
    board = load_board(write(tmp_path))
    (sheet,) = board.sheets
    checkpoint = Store(board.folder_of(sheet)).work(jobs_of(sheet, sheet.models[2])[0]) / "run" / "checkpoint"
    checkpoint.mkdir(parents=True)
    with pytest.raises(ValueError, match="device = 'gpu' is not there; this machine has cpu"):
        rg.leaderboard.run(board, device="gpu", only=["bprmf"])
    for budget in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=f"budget = {budget} must be a number of hours, 0 or more"):
            rg.leaderboard.run(board, budget=budget)
    assert checkpoint.exists()
    assert not [*tmp_path.rglob("*.json")]


def test_only_what_the_board_has(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only = sasrec names no model of board 'tiny'; there are Popularity, MEOWRec"):
        rg.leaderboard.run(write(tmp_path), only=["sasrec"])
    # each of them, and before it is asked whether the data is at hand
    with pytest.raises(ValueError, match="only = lihgtgcn names no model of board 'tiny'"):
        rg.leaderboard.run(write(tmp_path), only=["popularity", "lihgtgcn"])
    far = write(tmp_path / "far")
    (far / "synthetic.toml").rename(far / "yelp-hin.toml")
    assert rg.leaderboard.run(far, only=["popularity"]).missing
    with pytest.raises(ValueError, match="workers = 0"):
        rg.leaderboard.run(write(tmp_path), workers=0)


def test_two_entries_of_one_configuration(tmp_path: Path) -> None:
    again = '\n[[models]]\nmodel = "popularity"\nname = "again"\nseeds = [4]\n'
    board = write(tmp_path, TEXT + again)
    with pytest.raises(ValueError, match="entries 'Popularity' and 'again' have the same configuration; leave one out"):
        rg.leaderboard.run(board)


def test_a_study_of_another_split_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    record = {
        "unsealed": [{"settings": {"tuned": {}}}],
        "source": {"dataset": "synthetic"},
        "recgraph": {"model": "recgraph.models.closed_form.neighbours:Popularity", "split_hash": "5" * 64},
    }
    (tmp_path / "study.json").write_text(json.dumps(record))
    entry = '[[models]]\nmodel = "popularity"\nstudy = "../study.json"\n'
    with pytest.raises(ValueError, match=r"study '\.\./study\.json' was tuned on another split"):
        rg.leaderboard.run(write(tmp_path, TEXT[: TEXT.index("[[models]]")] + entry))
    assert not [*tmp_path.rglob("results/**/*.json")]


@pytest.mark.parametrize("seen", [True, False])
def test_two_runners_divide_the_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: bool) -> None:
    """A job that another runner works on comes last, and is waited for; also where that one begins it unseen."""
    if not seen:
        looks = iter([True])
        is_free = PendingJob.is_free
        monkeypatch.setattr(PendingJob, "is_free", lambda self: next(looks, False) or is_free(self))
    seeds = TEXT[: TEXT.index("[[models]]")].replace("[3]", "[3, 4, 5]")
    board = load_board(write(tmp_path, f'{seeds}[[models]]\nmodel = "bprmf"\nsettings = {{ max_epochs = 1 }}\n'))
    store, jobs = Store(board.folder_of(board.sheets[0])), jobs_of(board.sheets[0], board.sheets[0].models[0])
    held = ExitStack()
    held.enter_context(store.lock(jobs[0]))

    def end(line: str) -> None:
        if line.startswith("[2/3]"):
            held.close()

    with held:
        summary = rg.leaderboard.run(board, device="cpu", say=end, budget=GRACE / 3600)
    assert [name.rpartition(" ")[2] for name in summary.made] == ["4", "5", "3"]


def test_what_another_runner_has_done_meanwhile_is_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = TEXT[: TEXT.index("[[models]]")].replace("[3]", "[3, 4]")
    board = write(tmp_path, f'{seeds}[[models]]\nmodel = "bprmf"\nsettings = {{ max_epochs = 1 }}\n')
    lines: list[str] = []
    is_done = PendingJob.is_done
    monkeypatch.setattr(PendingJob, "is_done", lambda self: (lines != [] and self.job.seed == 4) or is_done(self))
    summary = rg.leaderboard.run(board, device="cpu", say=lines.append)
    assert [[name.rpartition(" ")[2] for name in each] for each in (summary.made, summary.kept)] == [["3"], ["4"]]
    assert not summary.left
    assert any(line.startswith("[2/2] done by another run: ") for line in lines)


def test_a_failure_leaves_the_work_of_other_runners_alone(ran: tuple[Path, Summary], tmp_path: Path) -> None:
    found = load_board(copied(ran[0], tmp_path))
    (sheet,) = found.sheets
    store = Store(found.folder_of(sheet))
    done, other = (jobs_of(sheet, sheet.models[place])[0] for place in (0, 2))
    other = replace(other, seed=4)
    record = store.record(done)
    assert record is not None
    # it was done meanwhile
    assert failed(PendingJob("a", done, store, record["data_hash"]), "WorkerKilled", "") == "done"
    assert store.failure(done) is None
    # another process is at it
    checkpoint = store.work(other) / "run" / "checkpoint"
    checkpoint.mkdir(parents=True)
    task = PendingJob("b", other, store, record["data_hash"])
    with store.lock(other):
        assert failed(task, "BudgetExceeded", "late") == "stopped"
    assert (store.failure(other), checkpoint.exists()) == (None, True)
    # nobody is: what was killed goes on the next time, what took too long begins anew
    assert failed(task, "WorkerKilled", "by SIGKILL") == "failed"
    assert (store.failure(other) or {})["error"] == "WorkerKilled"
    assert checkpoint.exists()
    assert failed(task, "BudgetExceeded", "late") == "failed"
    assert not checkpoint.exists()


def test_the_reason_of_the_last_failure_is_told(ran: tuple[Path, Summary], tmp_path: Path) -> None:
    """Of a worker that fails before its job, as where it cannot import a part, beside the record of an earlier try."""
    found = load_board(copied(ran[0], tmp_path))
    (sheet,) = found.sheets
    store, (job,) = Store(found.folder_of(sheet)), jobs_of(sheet, sheet.models[1])
    task, before = PendingJob("a", job, store, "d" * 16), store.failure_written(job)
    assert "no node type 'genre'" in (store.failure(job) or {})["message"]
    assert ended(task, Outcome("failed", "ImportFailed: no mymodel.py"), before) == "failed"
    assert (store.failure(job) or {})["message"] == "ImportFailed: no mymodel.py"
    # what the worker has written itself stays
    assert ended(task, Outcome("failed", "the process ended with exit code 1"), None) == "failed"
    assert (store.failure(job) or {})["message"] == "ImportFailed: no mymodel.py"


def test_the_peak_of_memory_is_that_of_the_training_where_another_process_tests(tmp_path: Path) -> None:
    found = load_board(write(tmp_path))
    (sheet,) = found.sheets
    store, (job,) = Store(found.folder_of(sheet)), jobs_of(sheet, sheet.models[0])
    folder = store.work(job) / "run"
    fit.train(job.model, job.dataset, folder, settings=job.settings, seed=job.seed, device="cpu", progress=False)
    record = load_json(folder / "record.json")
    record["cost"]["peak_memory_mb"] = 1e6
    replace_json(record, folder / "record.json")
    assert train_and_test(job, store, "cpu")["peak_memory_mb"] == 1e6


def test_a_changed_file_of_features_is_run_again(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        "user,item\n" + "".join(f"{u},{(u + i) % 9}\n" for u in range(9) for i in range(5))
    )
    features = tmp_path / "items.csv"
    features.write_text("item,kind\n" + "".join(f"{i},{i % 2}\n" for i in range(9)))
    head = "data = { file = '../log.csv', item_features = '../items.csv' }\nseeds = [0]\n"
    board = write(tmp_path, f'{head}[[models]]\nmodel = "popularity"\n')

    def outcome() -> tuple[int, int]:
        summary = rg.leaderboard.run(board, device="cpu")
        return len(summary.made), len(summary.kept)

    assert [outcome(), outcome()] == [(1, 0), (0, 1)]
    features.write_text("item,kind\n" + "".join(f"{i},{i % 3}\n" for i in range(9)))
    assert [outcome(), outcome()] == [(1, 0), (0, 1)]


def test_data_that_is_not_at_hand(tmp_path: Path) -> None:
    board = write(tmp_path)
    (board / "synthetic.toml").rename(board / "yelp-hin.toml")
    summary = rg.leaderboard.run(board)
    (reason,) = summary.missing
    assert reason.startswith("yelp-hin: ")


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_commands(ran: tuple[Path, Summary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board, _ = ran
    done = call("leaderboard", "run", board, "--only", "popularity", "--workers", 2, "--budget", 1)
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (0, "1 kept")
    monkeypatch.chdir(tmp_path)
    done = call("leaderboard", "render", board)
    assert done.exit_code == 0
    assert (tmp_path / "tiny.html").is_file()
    assert call("leaderboard", "render", board, "--out", "tiny.csv").exit_code == 0
    assert (tmp_path / "tiny.csv").is_file()
    for wrong in (("run", "nothing"), ("render", "nothing"), ("render", board, "--out", "x.pdf")):
        failed = call("leaderboard", *wrong)
        assert failed.exit_code == 2
        assert "Traceback" not in failed.output


def smoke(model: str) -> tuple[Board, Job]:
    board = load_board("smoke")
    (sheet,) = board.sheets
    (entry,) = [entry for entry in sheet.models if entry.model == model]
    return board, jobs_of(sheet, entry)[0]


def test_the_command_beside_a_number_gives_it_to_the_last_digit(tmp_path: Path) -> None:
    board, job = smoke("sasrec")
    rg.leaderboard.run(board, results=tmp_path / "results", only=["sasrec"], device="cpu")
    sheet = open_sheet(board, board.sheets[0], tmp_path / "results")
    (entry,) = [entry for entry in sheet.entries if entry.name == "SASRec"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", entry.commands[job.seed]],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    found = {row["metric"]: row for row in json.loads(done.stdout)}
    assert len(found) > 10
    for table in sheet.tables:
        for metric, score in sheet.scores("SASRec", table.title).items():
            assert found[metric][table.title] == score.by_seed[job.seed]
        assert f"protocol {table.protocol_hash}" in done.stderr


def test_only_takes_the_entry_of_that_name_alone(tmp_path: Path) -> None:
    """Names that differ in signs are other entries; one that no entry has is a model, or a name written otherwise."""
    rows = "".join(f"[[models]]\nmodel = 'ease'\nname = '{name}'\nsettings = {{ l2 = {name[5:]} }}\n" for name in NAMES)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "synthetic.toml").write_text(f"seeds = [0]\n{rows}[[models]]\nmodel = 'popularity'\n")

    def left(*only: str) -> list[str]:
        return [name.split(" / ")[-2] for name in rg.leaderboard.run(tmp_path / "shop", only=only, budget=0).left]

    assert left("l2 = 1e2") == ["l2 = 1e2"]
    assert left("ease") == [*NAMES]
    assert left("L2 = 1e-2", "Popularity") == [*NAMES, "Popularity"]


NAMES = ("l2 = 1e2", "l2 = 1e-2")


def test_a_name_without_a_sign_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "synthetic.toml").write_text("[[models]]\nmodel = 'ease'\nname = ' '\n")
    with pytest.raises(ConfigError, match="name = ' ' shows nothing"):
        rg.leaderboard.load_board(tmp_path / "shop")
