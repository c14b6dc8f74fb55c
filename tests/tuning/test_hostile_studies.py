"""Studies that a stranger made: looking at one creates, locks, writes and connects to nothing."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest
from command_line import refused, works

from recgraph.data.errors import CorruptFileError
from recgraph.tuning.finding import find_study, page_name
from recgraph.tuning.storage import open_storage

OLD = Path(__file__).parent / "old_study"
#: the record of one more trial, and its number
NEW = b'{"op_code": 4, "worker_id": "x", "study_id": 0, "datetime_start": "2026-01-01T00:00:00"}\n'
N_TRIALS = (OLD / "study.journal").read_text().count('"op_code":4,')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "study"))


def _told(folder: Path, **entries: Any) -> None:
    path = folder / "study.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_looking_at_a_study_leaves_its_folder_as_it_is(folder: Path) -> None:
    with (folder / "study.journal").open("ab") as file:
        file.write(b'{"op_code": 4')  # a worker writes
    before = _files(folder)
    with find_study(str(folder)) as (study, _):
        assert study.get_trials()
    assert _files(folder) == before


def test_an_unrelated_database_gets_no_tables(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "accounts.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE accounts (name TEXT)")
    connection.close()
    before = _files(tmp_path)
    for place in (f"sqlite:///{path}", str(folder)):
        _told(folder, storage=f"sqlite:///{path}")
        with pytest.raises(CorruptFileError, match="holds no study"), find_study(place):
            pass
        _told(folder, storage=None)
    after = _files(tmp_path)
    assert {name for name in after if after[name] != before.get(name)} == {str(folder / "study.json")}


@pytest.mark.parametrize("kind", ["sqlite:///{}/new/x.db", "journal:///{}/new/x.journal", "{}/new/x.journal"])
def test_a_storage_that_is_not_there_is_not_made(kind: str, folder: Path, tmp_path: Path) -> None:
    _told(folder, storage=kind.format(tmp_path))
    with pytest.raises(FileNotFoundError), find_study(str(folder)):
        pass
    assert not (tmp_path / "new").exists()


def test_no_file_says_what_to_connect_to(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        _told(folder, storage=f"postgresql://me@127.0.0.1:{server.getsockname()[1]}/x'; touch y")
        with pytest.raises(ValueError, match="no file says what to connect to") as refused, find_study(str(folder)):
            pass
        with pytest.raises(TimeoutError):
            server.accept()
    assert """recgraph study 'postgresql://me@127.0.0.1:""" in str(refused.value)
    assert """/x'"'"'; touch y' --study""" in str(refused.value)


def test_studies_in_files_and_databases_are_read(folder: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/copy.db"
    with find_study(str(folder)) as (study, kept):
        there = open_storage(url)
        optuna.copy_study(from_study_name=study.study_name, from_storage=kept.optuna, to_storage=there.optuna)
        there.close()
        trials = study.get_trials()
    before = _files(tmp_path)
    with find_study(url) as (study, _):
        assert [trial.params for trial in study.get_trials()] == [trial.params for trial in trials]
        with pytest.raises(Exception, match=r"readonly|read-only|invalid data"):
            study.set_user_attr("a", 1)
    assert _files(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("../../x", "_.._x.html"),
        ("/etc/passwd", "_etc_passwd.html"),
        ("..", "study.html"),
        ("sasrec-ndcg@10", "sasrec-ndcg@10.html"),
        ("x" * 999, "x" * 200 + ".html"),
    ],
)
def test_a_study_is_written_beside_nothing_else(name: str, page: str) -> None:
    assert page_name(name) == page


def test_the_page_of_a_study_whose_name_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{tmp_path}/s.journal"
    made = open_storage(url)
    optuna.create_study(study_name="../page", storage=made.optuna)
    made.close()
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    done = works("study", url)
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["_page.html"], done
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b"{}",
        b"null",
        b'{"op_code": 99, "worker_id": "x"}',
        b'{"op_code": 0, "worker_id": "x", "study_name": ["x"], "directions": [9]}',
        b'{"op_code": 4, "worker_id": "x", "study_id": 0, "datetime_start": "x"}',
        NEW + b'{"op_code": 5, "worker_id": "x", "trial_id": %d, "param_name": "p", "param_value_internal": 1, '
        b'"distribution": "{\\"name\\": \\"os.system\\"}"}' % N_TRIALS,
        b"\xff\xfe",
    ],
)
def test_records_that_are_none(line: bytes, folder: Path) -> None:
    path = folder / "study.journal"
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(CorruptFileError, match=r"study\.journal"), find_study(str(folder)):
        pass


def test_a_study_whose_name_is_no_text(folder: Path) -> None:
    path = folder / "study.journal"
    first, *lines = path.read_text().splitlines(keepends=True)
    path.write_text(json.dumps({**json.loads(first), "study_name": 7}) + "\n" + "".join(lines))
    with pytest.raises(CorruptFileError, match=r"study\.journal .*7, no text"), find_study(str(folder)):
        pass


@pytest.mark.parametrize("text", ["[]", "{}", "{", "[" * 100_000, '{"study": 3}', '{"study": "s", "storage": ["x"]}'])
def test_descriptions_that_are_none(text: str, folder: Path) -> None:
    (folder / "study.json").write_text(text)
    with pytest.raises(CorruptFileError, match=r"study\.json"), find_study(str(folder)):
        pass


@pytest.mark.parametrize(
    "attribute",
    [{"recgraph": 3}, {"recgraph": {"metrics": 5}}, {"asked": 7}, {"recgraph": {"model": []}}, {"unsealed": 1}],
)
def test_attributes_that_are_none_end_the_page_with_an_error(attribute: dict[str, Any], folder: Path) -> None:
    record = {"op_code": 2, "worker_id": "x", "study_id": 0, "user_attr": attribute}
    with (folder / "study.journal").open("a") as file:
        file.write(json.dumps(record) + "\n")
    message = refused("study", str(folder))
    assert "study.journal" in message


def test_no_attribute_is_unpickled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna's CMA-ES keeps its optimiser as a pickle in attributes of trials; nothing here reads one."""
    import pickle

    def refuse(*_: Any) -> Any:
        raise AssertionError("something was unpickled")

    attribute = {"cma:optimizer": pickle.dumps(print).hex()}
    record = {"op_code": 9, "worker_id": "x", "trial_id": N_TRIALS, "system_attr": attribute}
    with (folder / "study.journal").open("a") as file:
        file.write(NEW.decode() + json.dumps(record) + "\n")
    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    with find_study(str(folder)) as (study, _):
        assert any("cma:optimizer" in trial.system_attrs for trial in study.get_trials())


def test_a_value_that_is_none_of_the_choices() -> None:
    from recgraph.tuning.dimension import Dimension

    with pytest.raises(ValueError, match=r"loss = 'os\.system' is outside of its space"):
        Dimension("loss", choices=("bpr", "bce")).decode("os.system")
