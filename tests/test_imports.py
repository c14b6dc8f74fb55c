"""Files of a user's own: imported once, by one name, with errors that name the line, and known to other processes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from refusing import refused

import recgraph as rg
from recgraph import registry
from recgraph.registry import ImportFailed

METRIC = """
import recgraph as rg
from recgraph.evaluate.metrics import Metric

runs = []


@rg.register("metric")
class Mine(Metric):
    name = "mine"


runs.append(1)
"""


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(registry, "_imported", {})
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(path: Path, text: str = METRIC) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_is_run_once_and_named_in_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "twice.py")
    monkeypatch.chdir(tmp_path)
    module = rg.import_file("twice.py")
    for name in ("./twice.py", path, "twice"):
        assert rg.import_file(name) is module
    assert module.runs == [1]
    assert registry.load("metric", "mine") is module.Mine
    (found,) = registry.imported()
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.to_dict() == {"module": "twice", "file": "twice.py", "sha256": sha256}


def test_a_file_that_has_changed_is_run_again(tmp_path: Path) -> None:
    path = write(tmp_path / "changed.py")
    rg.import_file(path)
    write(path, METRIC.replace('"mine"', '"mine"\n    higher_is_better = False'))
    rg.import_file(path)
    assert not registry.load("metric", "mine").higher_is_better


def test_a_file_may_be_called_like_a_module_and_import_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path / "neighbour_of_mine.py", "VALUE = 3\n")
    module = rg.import_file(write(tmp_path / "json.py", "from neighbour_of_mine import VALUE\n"))
    assert module.VALUE == 3
    assert sys.modules["json"] is json


@pytest.mark.parametrize(
    ("text", "line"), [("x = 1\n\nx.y\n", 3), ("x = (\n", 1), (METRIC + "raise SystemExit(3)", 14)]
)
def test_an_error_is_shown_with_its_line_and_leaves_nothing(tmp_path: Path, text: str, line: int) -> None:
    path = write(tmp_path / "bad.py", text)
    with refused(f"bad.py, line {line}", by=ImportFailed):
        rg.import_file(path)
    assert "bad" not in sys.modules
    assert registry.imported() == []
    assert "mine" not in registry.names("metric")


def test_what_is_not_there_is_named() -> None:
    for name in ("nothing.py", "no_such_module"):
        with refused(name, by=ImportFailed):
            rg.import_file(name)


def test_another_process_imports_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rg.import_file(write(tmp_path / "theirs.py"))
    write(tmp_path / "usual.py", METRIC.replace("Mine", "Usual"))
    monkeypatch.syspath_prepend(tmp_path)
    import usual  # type: ignore[import-not-found]  # noqa: F401

    text = (
        "import json, sys; from recgraph import registry; registry.import_all(json.load(sys.stdin));"
        "print(registry.load('metric', 'mine').__module__, registry.load('metric', 'usual').__module__)"
    )
    orders = json.dumps(registry.to_import())
    done = subprocess.run([sys.executable, "-c", text], input=orders, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == ["theirs", "usual"], done.stderr
