"""What the next run of a board keeps: trainings whose test failed, metrics of other files, none of another teacher."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import recgraph as rg
from recgraph.leaderboard import worker
from recgraph.leaderboard.board import load_board
from recgraph.leaderboard.job import Job
from recgraph.leaderboard.plan import jobs_of, load_data_hashes
from recgraph.leaderboard.store import Store
from recgraph.workers.pool import DONE, FAILED

LOG = "user,item\n" + "".join(f"{u},{(3 * u + i) % 9}\n" for u in range(12) for i in range(5))


def write(folder: Path, name: str, models: str, metrics: str = '["ndcg@10"]') -> Path:
    (folder / "log.csv").write_text(LOG)
    path = folder / "tiny" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"data = '../log.csv'\nseeds = [0]\nmetrics = {metrics}\n[training]\nmax_epochs = 2\n{models}")
    return path


def only_job(path: Path) -> tuple[Job, Store, str]:
    board = load_board(path)
    (sheet,) = board.sheets
    (job,) = jobs_of(sheet, sheet.models[0])
    return job, Store(board.folder_of(sheet)), load_data_hashes(sheet).data


def made(path: Path) -> int:
    return len(rg.leaderboard.run(path, device="cpu").made)


BPRMF = '[[models]]\nmodel = "bprmf"\nsettings = { hidden_dim = 4 }\n'


def test_a_training_whose_test_fails_is_tested_the_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, store, data_hash = only_job(write(tmp_path, "a.toml", BPRMF))

    def fail(*_: object) -> None:
        raise KeyError("a metric of one's own")

    with monkeypatch.context() as patch:
        patch.setattr(worker, "_test", fail)
        assert worker.run_job(job, store, data_hash, values=False, device="cpu") == FAILED
    failure = store.failure(job)
    assert failure is not None
    assert failure["error"] == "KeyError"
    assert "FailedTest" not in failure["traceback"]
    assert (store.work(job) / "run" / "record.json").is_file()
    with monkeypatch.context() as patch:
        patch.setattr(worker, "train", fail)  # it is trained already
        assert worker.run_job(job, store, data_hash, values=False, device="cpu") == DONE
    assert store.failure(job) is None


def test_a_training_of_other_data_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, store, data_hash = only_job(write(tmp_path, "a.toml", BPRMF))
    with monkeypatch.context() as patch:
        patch.setattr(worker, "_evaluate", lambda *_: 1 / 0)
        assert worker.run_job(job, store, data_hash, values=False, device="cpu") == FAILED
    path = write(tmp_path, "a.toml", BPRMF)
    (tmp_path / "log.csv").write_text(LOG + "0,8\n3,1\n")
    job, store, changed = only_job(path)
    assert changed != data_hash
    assert worker.run_job(job, store, changed, values=False, device="cpu") == DONE


def test_two_files_of_one_data_set_keep_the_metrics_of_both(tmp_path: Path) -> None:
    ease = '[[models]]\nmodel = "ease"\n'
    first = write(tmp_path, "a.toml", ease, '["ndcg@10", "novelty@10"]')
    second = write(tmp_path, "b.toml", ease, '["ndcg@10", "coverage@10"]')
    assert [made(path) for path in (first, second, first, second)] == [1, 1, 0, 0]
    job, store, _ = only_job(first)
    record = store.record(job)
    assert record is not None
    assert {"novelty@10", "catalogue_coverage@10"} <= record["scores"]["seen kept"].keys()


@pytest.mark.parametrize("setting", ["init_items"])
def test_a_model_that_was_trained_anew_is_read_again(tmp_path: Path, setting: str) -> None:
    settings = f'hidden_dim = 8, n_heads = 1, {setting} = "../given"'
    path = write(tmp_path, "a.toml", f'[[models]]\nmodel = "sasrec"\nsettings = {{ {settings} }}\n')

    def train(seed: int) -> None:
        split = rg.load_data(tmp_path / "log.csv").split()
        run = rg.fit(rg.registry.load("model", "bprmf")(hidden_dim=8), split, seed=seed, max_epochs=1)
        shutil.rmtree(tmp_path / "given", ignore_errors=True)
        run.save(tmp_path / "given")

    train(0)
    assert [made(path), made(path)] == [1, 0]
    job, store, _ = only_job(path)
    before = store.record(job)
    train(1)
    assert [made(path), made(path)] == [1, 0]
    after = store.record(job)
    assert before is not None
    assert after is not None
    assert before["inputs"] != after["inputs"]
    assert before["identity"] == after["identity"]
    assert "../given" in f"{after['identity']}"
