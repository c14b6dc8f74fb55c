"""Storages, locks and expired trials: the number of trials is exact although workers die."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
from pathlib import Path
from typing import Any

import forked
import optuna
import pytest
from optuna.trial import TrialState

from recgraph import registry
from recgraph.config import ConfigError
from recgraph.tuning.passwords import is_masked, without_password, without_secrets
from recgraph.tuning.plan import Plan
from recgraph.tuning.storage import StorageFailed, StudyStorage, dashboard_of, open_storage, storage_url, telling
from recgraph.tuning.trials import Trials
from recgraph.workers.heartbeat import Expiry

PLAN = Plan("s", registry.load("model", "sasrec"), ("ndcg@10",), 8, given={"*": "fixed", "dropout": {}})


@pytest.fixture(params=["journal", "sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        found: str = request.getfixturevalue("postgres")
        return found
    return f"{request.param}:///{tmp_path}/study.{request.param}"


@pytest.fixture
def storage(url: str) -> Any:
    found = open_storage(url)
    try:
        yield found
        optuna.delete_study(study_name="s", storage=found.optuna)
    finally:
        found.close()


def trials_of(storage: StudyStorage, **expiry: Any) -> Trials:
    study = optuna.create_study(study_name="s", storage=storage.optuna, direction="maximize", load_if_exists=True)
    return Trials(study, storage, PLAN, Expiry(**expiry) if expiry else None)


def test_many_workers_make_exactly_the_trials_that_are_wanted(storage: StudyStorage, url: str) -> None:
    trials_of(storage)

    def work(name: str) -> None:
        own = open_storage(url)
        trials = trials_of(own)
        while (taken := trials.ask(name)) is not None:
            trials.tell(taken[0], TrialState.COMPLETE, [0.5])
        own.close()

    threads = [threading.Thread(target=work, args=(f"{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    trials = trials_of(storage)
    counts = trials.counts()
    assert (counts.complete, counts.running, counts.waiting, counts.failed) == (PLAN.n_trials, 0, 0, 0)
    assert [trial.number for trial in trials.study.trials] == list(range(PLAN.n_trials))
    # four workers with one stream of draws would propose two values in eight trials
    assert len({trial.params["dropout"] for trial in trials.study.trials}) > 2


def gone() -> dict[str, Any]:
    """The heartbeat of a process that has ended."""
    code = "from recgraph.workers.process import this_process as t; import json; print(json.dumps(t().to_dict()))"
    found: dict[str, Any] = json.loads(forked.code(code))
    return {**found, "beat": 3}


def test_a_trial_whose_process_is_gone_is_failed_and_replaced_once(storage: StudyStorage) -> None:
    trials = trials_of(storage)
    taken = trials.ask("a")
    assert taken is not None
    taken[0].report(0.25, 1)
    assert trials.replace_expired() == 0
    taken[0].set_user_attr("lease", gone())
    assert trials.replace_expired() == 1
    assert trials.replace_expired() == 0
    assert (trials.counts().failed, trials.counts().waiting) == (1, 1)
    assert not trials.tell(taken[0], TrialState.COMPLETE, [0.5])
    again = trials.ask("b")
    assert again is not None
    assert again[0].params == taken[0].params
    frozen = trials.study.trials[1]
    assert frozen.system_attrs["failed_trial"] == 0
    assert frozen.intermediate_values == {1: 0.25}
    assert trials.study.trials[0].user_attrs["reason"] == "its worker is gone"
    assert trials.counts().waiting == 0


@pytest.mark.parametrize("before", ["reason", "queued", "failed"])
def test_a_kill_between_the_steps_of_a_replacement_loses_no_parameters(
    storage: StudyStorage, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = trials_of(storage)
    taken = trials.ask("a")
    assert taken is not None
    taken[0].report(0.25, 1)
    taken[0].set_user_attr("lease", gone())

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    at, name = {
        "reason": (storage.optuna, "set_trial_user_attr"),
        "queued": (trials.study, "add_trial"),
        "failed": (storage.optuna, "set_trial_state_values"),
    }[before]
    with monkeypatch.context() as patch:
        patch.setattr(at, name, killed)
        with pytest.raises(KeyboardInterrupt):
            trials.replace_expired()
    assert trials.replace_expired() == 1
    assert (trials.counts().failed, trials.counts().waiting, trials.counts().running) == (1, 1, 0)
    again = trials.ask("b")
    assert again is not None
    assert again[0].params == taken[0].params
    assert trials.study.trials[again[0].number].intermediate_values == {1: 0.25}


def test_a_trial_without_a_heartbeat_is_failed_and_not_tried_again(storage: StudyStorage) -> None:
    trials = trials_of(storage)
    trials.study.ask(PLAN.space.distributions)  # its worker dies here
    taken = trials.ask("a")
    assert taken is not None
    assert taken[0].number == 1
    assert (trials.counts().failed, trials.counts().running, trials.counts().waiting) == (1, 1, 0)


@pytest.mark.parametrize("queued_by", ["another worker", "the user"])
def test_queued_parameters_over_which_a_worker_dies_at_once_are_queued_again(
    storage: StudyStorage, queued_by: str
) -> None:
    trials = trials_of(storage)
    if queued_by == "the user":
        trials.study.enqueue_trial({"dropout": 0.3})
    else:
        first = trials.ask("a")
        assert first is not None
        first[0].report(0.5, 1)
        trials.give_back(first[0], "interrupted")
    lost = trials.study.ask(PLAN.space.distributions)  # its worker dies here
    again = trials.ask("b")
    assert again is not None
    assert again[0].params == lost.params
    assert trials.study.trials[again[0].number].intermediate_values == ({} if queued_by == "the user" else {1: 0.5})
    assert (trials.counts().running, trials.counts().waiting) == (1, 0)


def test_another_machines_heartbeat_expires_after_the_grace_period(storage: StudyStorage) -> None:
    now = [0.0]
    trials = trials_of(storage, grace=60, clock=lambda: now[0])
    taken = trials.ask("a")
    assert taken is not None
    heartbeat = {"host": "elsewhere", "pid": 1, "started": "7", "beat": 0}
    taken[0].set_user_attr("lease", heartbeat)
    assert trials.replace_expired() == 0
    now[0] = 59
    assert trials.replace_expired() == 0
    taken[0].set_user_attr("lease", {**heartbeat, "beat": 1})
    now[0] = 61
    assert trials.replace_expired() == 0
    now[0] = 122
    assert trials.replace_expired() == 1


def test_what_is_given_back_is_taken_again(storage: StudyStorage) -> None:
    trials = trials_of(storage)
    for _ in range(5):  # Ctrl-C, however often, loses nothing
        taken = trials.ask("a")
        assert taken is not None
        trials.give_back(taken[0], "interrupted")
    assert len({trial.params["dropout"] for trial in trials.study.trials}) == 1
    assert (trials.counts().failed, trials.counts().waiting, trials.counts().running) == (5, 1, 0)


def test_parameters_over_which_workers_die_are_given_up(storage: StudyStorage) -> None:
    trials, heartbeat = trials_of(storage), gone()
    for _ in range(4):
        taken = trials.ask("a")
        assert taken is not None
        taken[0].set_user_attr("lease", heartbeat)
        trials.replace_expired()
    assert trials.counts().waiting == 0


def test_interruptions_are_no_reason_to_give_parameters_up(storage: StudyStorage) -> None:
    trials, heartbeat = trials_of(storage), gone()
    for _ in range(5):
        taken = trials.ask("a")
        assert taken is not None
        trials.give_back(taken[0], "interrupted")
    waiting = []
    for _ in range(4):
        taken = trials.ask("a")
        assert taken is not None
        taken[0].set_user_attr("lease", heartbeat)
        trials.replace_expired()
        waiting.append(trials.counts().waiting)
    assert waiting == [1, 1, 1, 0]


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes"])
def test_a_study_that_is_interrupted_draws_what_it_would_have_drawn(sampler: str) -> None:
    space = {"*": "fixed", "learning_rate": {"low": 1e-4, "high": 1e-1}, "dropout": {}}
    plan = dataclasses.replace(PLAN, sampler=sampler, n_trials=16, given=space)

    def drawn(losses: dict[int, str]) -> list[dict[str, Any]]:
        """The parameters of the trials that end; trials of some numbers are lost before, in a way each."""
        with contextlib.closing(open_storage(None)) as storage:
            study = optuna.create_study(storage=storage.optuna, direction="maximize")
            study.enqueue_trial({"learning_rate": 0.01, "dropout": 0.5})
            trials = Trials(study, storage, plan)
            while (taken := trials.ask("a")) is not None:
                trial, way = taken[0], losses.get(taken[0].number, "")
                if way == "given back":
                    trials.give_back(trial, "interrupted")
                elif way:
                    trial.set_user_attr("lease", gone() if way == "killed" else None)
                else:
                    trials.tell(trial, TrialState.COMPLETE, [-((trial.params["learning_rate"] - 0.02) ** 2)])
            return [trial.params for trial in study.trials if trial.state == TrialState.COMPLETE]

    whole = drawn({})
    assert len({params["learning_rate"] for params in whole}) == plan.n_trials
    assert drawn({0: "not begun", 3: "given back", 4: "given back", 8: "not begun", 15: "killed"}) == whole


def hold(url: str, mark: str) -> None:
    """Until the process is killed."""
    with open_storage(url).exclusive():
        Path(mark).touch()
        time.sleep(600)


def test_the_lock_of_a_killed_process_is_free(url: str, tmp_path: Path) -> None:
    mark = tmp_path / "locked"
    with forked.call("test_storage", "hold", url, str(mark)) as process:
        while not mark.exists():
            assert process.poll() is None, process.error
            time.sleep(0.01)
        process.kill()
    storage = open_storage(url)
    with storage.exclusive():
        pass
    storage.close()


def test_a_line_that_a_crash_left_unfinished_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    storage = open_storage(None, tmp_path)
    trials_of(storage)
    with path.open("a") as file:
        file.write('{"op_code": 4, "worker')
    again = open_storage(str(path))
    taken = trials_of(again).ask("a")
    assert taken is not None
    assert len(trials_of(open_storage(str(path))).study.trials) == 1


def test_urls() -> None:
    assert without_password("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert without_password("postgresql://me@host/db") == "postgresql://me@host/db"
    for wrong in ("mysql://me:secret@host/db", "postgresql:me:secret@host/db"):
        with pytest.raises(ConfigError, match=r"me:\*\*\*@host/db' must be journal:///PATH") as refused:
            open_storage(wrong)
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:sec@ret@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u:sec/ret@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u:sec?ret@h/db?a=b", "postgresql://u:***@h/db?a=b"),
        ("postgresql://u:sec/?ret@h/db", "postgresql://u:***@h/db"),
        ("postgresql+psycopg://u:p@h:1,h2:2/db", "postgresql+psycopg://u:***@h:1,h2:2/db"),
        ("postgresql://h:5432/db?application_name=a@b", "postgresql://h:5432/db?application_name=a@b"),
        ("postgresql://[::1]:5432/db?user=u", "postgresql://[::1]:5432/db?user=u"),
        ("postgres://h/db?user=u&password=p&sslmode=prefer", "postgres://h/db?user=u&password=***&sslmode=prefer"),
        (
            "postgresql://h/?p%61ssword=p&q&sslpassword=r&passfile=/s",
            "/?p%61ssword=***&***&sslpassword=***&passfile=***",
        ),
        ("--storage=postgresql://u:p@h/db", "--storage=postgresql://u:***@h/db"),
        ("journal:////a:b@c/x?password=y", "journal:////a:b@c/x?password=y"),
        ("a:b@c/study.journal", "a:b@c/study.journal"),
    ],
)
def test_a_password_is_shown_wherever_it_stands_as_stars(url: str, shown: str) -> None:
    assert without_password(url).endswith(shown)
    assert without_password(without_password(url)) == without_password(url)
    assert is_masked(without_password(url)) == ("***" in shown)
    assert without_password(dashboard_of(url)) == dashboard_of(url)


def test_errors_of_a_database_do_not_say_its_password() -> None:
    url = "postgresql://u:top%40secret@h/db?sslpassword=hid%zz"
    assert without_secrets("no 'top@secret', top%40secret or hid%zz; u, h", url) == "no '***', *** or ***; u, h"
    pytest.importorskip("psycopg")
    for asked in ("u:topsecret@127.0.0.1:1/db", "127.0.0.1:1/db?user=u&password=topsecret", "u:%topsecret@h/db"):
        with (
            pytest.raises(StorageFailed, match=r"the storage postgresql://.*\*\*\*.* failed: ") as failed,
            telling(f"postgresql://{asked}"),
        ):
            open_storage(f"postgresql://{asked}")
        assert "topsecret" not in str(failed.value)


@pytest.mark.parametrize("user", ["u:sec@ret", "u:sec/ret", "u:p@sec@ret"])
def test_a_password_that_is_not_escaped_is_refused(user: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^storage = 'postgresql://u:\*\*\*@h/db' has an @ or a /.* as %40"
    ) as refused:
        storage_url(f"postgresql://{user}@h/db")
    assert "ret" not in str(refused.value)
    assert storage_url("postgresql://u:sec%40ret@h/db") == "postgresql://u:sec%40ret@h/db"


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_what_is_no_file_of_a_storage_is_told_and_left_as_it_is(kind: str, tmp_path: Path) -> None:
    log = tmp_path / "small.csv"
    log.write_text("user,item\n1,2")
    what = "journal" if kind == "journal" else "database of SQLite"
    wrong = {
        f"{log}": f"it is no {what}; give another file",
        f"{tmp_path}": "it is a folder; give a file in it: --storage",
        f"{log}/study.db": "small.csv is a file and no folder",
    }
    for path, message in wrong.items():
        with pytest.raises(StorageFailed, match=f"the storage {kind}:///{path} holds no study: .*{message}"):
            open_storage(f"{kind}:///{path}")
    assert log.read_text() == "user,item\n1,2"
    assert [path.name for path in tmp_path.iterdir()] == ["small.csv"]


@pytest.mark.parametrize("line", ["no json", "[1]", '{"op_code":0}', "\xff"])
def test_a_journal_with_a_line_that_is_none_is_told(line: str, tmp_path: Path) -> None:
    trials_of(open_storage(None, tmp_path)).ask("a")
    path = tmp_path / "study.journal"
    with path.open("a", encoding="latin-1") as file:
        file.write(f"{line}\n" * 2)
    with pytest.raises(StorageFailed, match=r"study.journal holds no study: a line is not readable"):
        open_storage(None, tmp_path)
