"""A board that is really run: what is kept, made again, failed, and goes on after a kill."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from refusing import refused

import recgraph as rg
from recgraph import parallel, registry
from recgraph.evaluate.results import popularity_groups
from recgraph.files import locked
from recgraph.leaderboard import runner as jobs
from recgraph.leaderboard.board import load_board
from recgraph.leaderboard.page import group_tables
from recgraph.leaderboard.plan import Job, plan_of
from recgraph.leaderboard.runner import Summary
from recgraph.leaderboard.sheet import Sheet, open_sheet

#: MEOWRec follows paths over genres, which this data has not; BPR-MF is long enough to be stopped
#: in the middle
HEAD = """
title = "Synthetic"
seeds = [3]
metrics = ["ndcg@10"]
[protocol]
cutoffs = [10]
[training]
max_epochs = 40
patience = 40
batch_size = 1024
"""
MEOWREC = '[[models]]\nmodel = "meowrec"\nsettings = { item_metapaths = ["item-genre-item"] }\n'
BPRMF = '[[models]]\nmodel = "bprmf"\nsettings = { hidden_dim = 8 }\n'
POPULARITY = '[[models]]\nmodel = "popularity"\n'
TEXT = HEAD + POPULARITY + MEOWREC + BPRMF
#: seconds; more than anything here takes on a busy machine
GRACE = 400.0


@pytest.fixture(scope="module", autouse=True)
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECGRAPH_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("RECGRAPH_TEST_HOME", os.environ["RECGRAPH_HOME"])
        # here and in other processes: numbers are the same with the same number of threads
        patch.setenv("OMP_NUM_THREADS", "1")
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)


def write(folder: Path, text: str = TEXT) -> Path:
    path = folder / "tiny" / "synthetic.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path.parent


def run(board: Path, **options: Any) -> Summary:
    return rg.leaderboard.run(board, device="cpu", **options)


def opened(board: Path) -> Sheet:
    found = load_board(board)
    return open_sheet(found, found.sheets[0])


def job_of(board: Path, place: int) -> Job:
    found = load_board(board)
    return plan_of(found, found.sheets[0])[place][1][0]


def records(board: Path) -> dict[str, dict[str, Any]]:
    """File -> record, without what differs from run to run."""
    costs = ("at", "inference", "peak_memory_mb", "provenance", "traceback")
    found = {}
    for path in sorted(board.parent.glob("results/tiny/synthetic/*-seed*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        for name in ("seconds", "cpu_seconds"):
            record.get("training", {}).pop(name, None)
        record.get("curve", {}).pop("seconds", None)
        found[path.name] = {name: value for name, value in record.items() if name not in costs}
    return found


def times(board: Path) -> dict[str, int]:
    return {
        path.name: path.stat().st_mtime_ns
        for path in board.parent.glob("results/tiny/synthetic/*-seed*.json")
    }


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    """The board from nothing, in one go."""
    board = write(tmp_path_factory.mktemp("whole"))
    return board, run(board, workers=2)


def copied(board: Path, folder: Path) -> Path:
    shutil.copytree(board.parent, folder, dirs_exist_ok=True)
    return folder / "tiny"


def test_from_nothing(ran: tuple[Path, Summary]) -> None:
    board, summary = ran
    assert sorted(summary.made) == ["synthetic / BPRMF / seed 3", "synthetic / Popularity / seed 3"]
    assert [*summary.failed] == ["synthetic / MEOWRec / seed 3"]
    sheet = opened(board)
    bpr, popularity = sheet.entries[:2]
    # the comparisons are made at the end of a run
    scores = [sheet.score(entry.name, "seen excluded", "ndcg@10") for entry in (bpr, popularity)]
    assert [
        (entry.name, score.mark)
        for entry, score in zip((bpr, popularity), scores, strict=True)
        if score
    ] == [
        ("BPRMF", "best"),
        ("Popularity", "worse"),
    ]
    for name, least in (("training_cpu_seconds", 0), ("peak_memory_mb", 100)):
        cost = sheet.cost("BPRMF", name)
        assert cost is not None
        assert cost.mean > least
    ((_, _, points),) = bpr.curves
    assert len(points) == 40
    assert group_tables(sheet)
    assert not [path for path in (sheet.folder / ".work").iterdir() if path.is_dir()], (
        "trainings that are done leave"
    )
    # a failure is recorded and shown, without paths of this machine
    ((entry, job, failure),) = sheet.lacking
    assert failure is not None
    assert (entry.name, job.seed, failure["error"]) == ("MEOWRec", 3, "UnknownTypeError")
    assert "Traceback" in failure["traceback"]
    assert str(Path(rg.__file__).parents[1]) not in failure["traceback"]


def test_a_cluster_makes_the_same_records(
    ran: tuple[Path, Summary], ray_cluster: None, tmp_path: Path
) -> None:
    board = write(tmp_path)
    summary = run(board, only=["popularity", "meowrec"], engine=parallel.Engine.of(name="ray"))
    assert (len(summary.made), len(summary.failed)) == (1, 1)
    found, expected = records(board), records(ran[0])
    assert found == {name: expected[name] for name in found}


def test_what_is_done_is_kept_and_what_changed_is_run_again(
    ran: tuple[Path, Summary], tmp_path: Path
) -> None:
    board = copied(ran[0], tmp_path)
    before, some = times(board), ["popularity", "bprmf"]
    summary = run(board, only=some)
    assert (summary.made, summary.failed, len(summary.kept)) == ([], {}, 2)
    assert times(board) == before
    # a word that was changed
    write(tmp_path, TEXT.replace('title = "Synthetic"', 'title = "Else"'))
    assert not run(board, only=some).made
    # a setting that was changed
    write(
        tmp_path,
        TEXT.replace("hidden_dim = 8", "hidden_dim = 4").replace(
            "max_epochs = 40", "max_epochs = 1"
        ),
    )
    summary = run(board, only=some)
    assert (summary.made, summary.kept) == (
        ["synthetic / BPRMF / seed 3"],
        ["synthetic / Popularity / seed 3"],
    )


def test_records_from_git_get_their_values_again(ran: tuple[Path, Summary], tmp_path: Path) -> None:
    """An entry that is new beside them is compared with them only then."""
    board = copied(ran[0], tmp_path)
    for path in board.parent.rglob("*.parquet"):
        path.unlink()
    write(tmp_path, HEAD + POPULARITY + BPRMF + '[[models]]\nmodel = "ease"\n')
    assert run(board).made == ["synthetic / EASE / seed 3"]
    assert not opened(board).is_compared
    before = records(board)
    summary = run(board, values=True)
    assert sorted(summary.made) == ["synthetic / BPRMF / seed 3", "synthetic / Popularity / seed 3"]
    assert opened(board).is_compared
    assert records(board) == before


def test_models_are_tested_after_a_last_fit_to_more(tmp_path: Path) -> None:
    text = (HEAD + POPULARITY + BPRMF).replace(
        "cutoffs = [10]", 'cutoffs = [10]\nfit_on = "train+valid"'
    )
    board = write(tmp_path, text.replace("= 40\n", "= 3\n"))
    assert len(run(board).made) == 2
    split = rg.load_dataset("synthetic").split("leave-one-out")
    for record in records(board).values():
        name = record["model"]
        settings = {"hidden_dim": 8} if name == "bprmf" else {}
        training = {"max_epochs": 3, "patience": 3, "batch_size": 1024} if name == "bprmf" else {}
        model = registry.load("model", name)(**settings)
        fitted = rg.fit(
            model,
            split,
            seed=3,
            device="cpu",
            fit_on="train+valid",
            refit=name == "bprmf",
            **training,
        )
        assert (
            record["scores"]["seen excluded"]["ndcg@10"]
            == fitted.evaluate(cutoffs=(10,))["exclude"]["ndcg@10"]
        )
        # popular is what is so in all that the model has learned from
        sizes = {
            group: one["n_users"]
            for group, one in record["groups"]["popularity"]["seen excluded"].items()
        }
        assert sizes == Counter(
            popularity_groups(split.test, split.fit_part("train+valid").item_counts())
        )
        if name == "bprmf":  # the curve and the best epoch are those of the training that chose
            assert record["training"]["best"] == max(record["curve"]["ndcg@10"])


def test_two_files_of_one_data_set(tmp_path: Path) -> None:
    """A job that two files ask for is done once, with the metrics of both."""
    board = write(tmp_path, HEAD + POPULARITY)
    head = 'dataset = "synthetic"\n' + HEAD
    (board / "other.toml").write_text(head.replace("ndcg@10", "gini@10") + POPULARITY)
    assert len(run(board).made) == 1
    found = load_board(board)
    for sheet, metric in zip(found.sheets, ("gini@10", "ndcg@10"), strict=True):
        assert open_sheet(found, sheet).score("Popularity", "seen kept", metric) is not None
    assert not run(board).made


def test_parts_of_a_users_own_are_imported_in_workers(tmp_path: Path) -> None:
    (tmp_path / "own_metric.py").write_text(
        "import recgraph as rg\nfrom recgraph.evaluate.metrics import HitRate\n\n\n"
        '@rg.register("metric")\nclass OneInOne(HitRate):\n    name = "one_in_one"\n'
    )
    text = 'import = ["../own_metric.py"]\n' + HEAD.replace("ndcg@10", "one_in_one@10")
    board = write(tmp_path, text + POPULARITY + '[[models]]\nmodel = "ease"\n')
    assert len(run(board, workers=2).made) == 2
    score = opened(board).score("EASE", "seen kept", "one_in_one@10")
    assert score is not None
    assert 0 < score.mean <= 1


def epochs_of(board: Path) -> list[dict[str, Any]]:
    """The epochs that BPR-MF's training has logged so far."""
    logs = [*board.parent.glob("results/tiny/synthetic/.work/bprmf*/*/log.jsonl")]
    lines = logs[0].read_text(encoding="utf-8").splitlines() if logs else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def test_a_board_that_is_killed_goes_on(ran: tuple[Path, Summary], tmp_path: Path) -> None:
    """The records of a run in other processes, and nothing is done twice, no epoch either."""
    board = write(tmp_path)
    with forked.module("recgraph", "board", "run", board, "--device", "cpu") as process:
        until = time.monotonic() + GRACE
        while len(epochs_of(board)) < 5:
            assert process.poll() is None, process.error
            assert time.monotonic() < until
            time.sleep(0.01)
        process.kill()
    done, epochs = times(board), epochs_of(board)
    assert len(done) == 2, "popularity and the failure were before it"
    assert len(epochs) < 40
    assert [*run(board).failed] == ["synthetic / MEOWRec / seed 3"]
    popularity = next(name for name in done if name.startswith("popularity"))
    assert times(board)[popularity] == done[popularity]
    assert records(board) == records(ran[0])
    record = job_of(board, 2).record
    assert record is not None
    assert record["curve"]["seconds"][0] == epochs[0]["seconds"], (
        "the first epoch is the one that was trained before"
    )


@pytest.mark.parametrize(
    ("error", "goes_on"), [(OSError(28, "full"), True), (ValueError("a setting"), False)]
)
def test_a_training_goes_on_where_the_machine_gave_out(
    tmp_path: Path, error: Exception, goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have taken days; what the training itself cannot do it begins anew."""
    board = write(tmp_path, HEAD + BPRMF)
    job = job_of(board, 0)
    checkpoint = job.work / "data" / "checkpoint"

    def fail(*_: object) -> None:
        checkpoint.mkdir(parents=True)
        raise error

    monkeypatch.setattr(jobs, "_train", fail)
    assert len(run(board).failed) == 1
    assert (job.failure or {})["error"] == type(error).__name__
    assert checkpoint.exists() == goes_on


def test_a_training_whose_test_fails_is_tested_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = write(tmp_path, HEAD + BPRMF)
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "_test", lambda *_: 1 / 0)
        assert len(run(board).failed) == 1
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "train", lambda *_, **__: 1 / 0)  # it is trained already
        assert len(run(board).made) == 1


def test_a_training_of_other_data_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = "user,item\n" + "".join(f"{u},{(3 * u + i) % 9}\n" for u in range(12) for i in range(5))
    (tmp_path / "log.csv").write_text(log)
    board = write(tmp_path, "data = '../log.csv'\n" + HEAD.replace("= 40\n", "= 2\n") + BPRMF)
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "_test", lambda *_: 1 / 0)
        assert len(run(board).failed) == 1
    (tmp_path / "log.csv").write_text(log + "0,8\n3,1\n")
    assert [len(run(board).made) for _ in range(2)] == [1, 0]


def test_a_job_that_another_runner_works_on_is_left_to_it(tmp_path: Path) -> None:
    board = write(tmp_path, HEAD.replace("[3]", "[3, 4]").replace("= 40\n", "= 1\n") + BPRMF)
    job = job_of(board, 0)
    with locked(job.folder / ".work" / f"{job.stem}.lock"):
        summary = run(board)
    assert (summary.made, summary.busy) == (
        ["synthetic / BPRMF / seed 4"],
        ["synthetic / BPRMF / seed 3"],
    )
    assert run(board).made == summary.busy


def test_a_model_is_asked_for_where_another_sheet_has_its_name(tmp_path: Path) -> None:
    board = write(tmp_path, HEAD + POPULARITY + 'name = "Mine"\n')
    other = HEAD + '[[models]]\nmodel = "itemknn"\nname = "Mine"\n'
    (board / "other.toml").write_text(f'dataset = "synthetic"{other}', encoding="utf-8")
    assert run(board, only=["itemknn"]).made == ["other / Mine / seed 3"]
    assert run(board, only=["Mine"]).made == ["synthetic / Mine / seed 3"]


def test_what_is_asked_for_wrongly_costs_nothing(tmp_path: Path) -> None:
    board = write(tmp_path)
    with refused("only", "lihgtgcn"):
        run(board, only=["popularity", "lihgtgcn"])
    with refused("device"):
        rg.leaderboard.run(board, device="gpu")
    write(tmp_path, TEXT + '[[models]]\nmodel = "popularity"\nname = "again"\nseeds = [4]\n')
    with refused("'Popularity'", "'again'"):
        run(board)
    assert not [*tmp_path.rglob("*.json")]
    write(tmp_path).joinpath("synthetic.toml").rename(board / "yelp-hin.toml")
    assert run(board).missing[0].startswith("yelp-hin")


@pytest.mark.slow
def test_the_command_beside_a_number_gives_it_to_the_last_digit(tmp_path: Path) -> None:
    board = load_board("smoke")
    rg.leaderboard.run(board, results=tmp_path / "results", only=["sasrec"], device="cpu")
    sheet = open_sheet(board, board.sheets[0], tmp_path / "results")
    (entry,) = [entry for entry in sheet.entries if entry.name == "SASRec"]
    seed = min(entry.records)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", entry.command(entry.jobs[0])],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    found = {row["metric"]: row for row in json.loads(done.stdout)}
    for table in sheet.tables:
        for metric, score in sheet.scores("SASRec", table.title).items():
            assert found[metric][table.title] == score.by_seed[seed]
        assert f"protocol {table.protocol_hash}" in done.stderr
