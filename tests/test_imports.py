"""Files of a user's own: imported once, by one name, with errors that name the line, and known to other processes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import recgraph as rg
from recgraph import imports, registry
from recgraph.imports import ImportFailed

METRIC = """
import recgraph as rg
from recgraph.evaluate.metrics.base import Metric

runs = []


@rg.register("metric")
class Mine(Metric):
    name = "mine"


runs.append(1)
"""


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(registry, "_elsewhere", {})
    monkeypatch.setattr(imports, "_imported", {})
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(path: Path, text: str = METRIC) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_what_a_file_registers_is_known_and_the_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "my_metric.py")
    module = rg.import_file(path)
    assert registry.load("metric", "mine") is module.Mine
    (found,) = imports.imported()
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.to_dict() == {"module": "my_metric", "file": "my_metric.py", "sha256": sha256}
    from recgraph.runs.record import provenance

    assert provenance()["imports"] == [found.to_dict()]


def test_a_file_is_run_once_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "twice.py")
    monkeypatch.chdir(tmp_path)
    first = rg.import_file("twice.py")
    for name in ("./twice.py", tmp_path / "twice.py", "twice"):
        assert rg.import_file(name) is first
    import twice  # type: ignore[import-not-found]

    assert twice is first
    assert first.runs == [1]
    assert [each.module for each in imports.imported()] == ["twice"]


def test_a_file_that_has_changed_is_run_again(tmp_path: Path) -> None:
    path = write(tmp_path / "changed.py")
    rg.import_file(path)
    write(path, METRIC.replace('"mine"', '"mine"\n    higher_is_better = False'))
    rg.import_file(path)
    assert not registry.load("metric", "mine").higher_is_better


def test_a_file_may_be_called_like_a_module_and_import_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path / "neighbour_of_mine.py", "VALUE = 3\n")
    path = write(tmp_path / "json.py", f"from neighbour_of_mine import VALUE\n{METRIC}")
    module = rg.import_file(path)
    assert module.__name__ == "own_json_1"
    assert module.VALUE == 3
    assert sys.modules["json"] is json
    # a second file of the same name is another module
    other = rg.import_file(write(tmp_path / "b" / "json.py", "VALUE = 4\n"))
    assert (other.__name__, other.VALUE) == ("own_json_2", 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n\nx.y\n", r"bad\.py, line 3: AttributeError: 'int' object has no attribute 'y'"),
        ("x = (\n", r"bad\.py, line 1: SyntaxError: '\(' was never closed"),
        ("\nimport no_such_package\n", r"bad\.py, line 2: ModuleNotFoundError: No module named 'no_such_package'"),
        (METRIC + "raise SystemExit(3)", r"bad\.py, line 14: SystemExit: 3"),
        (
            METRIC.replace('"metric")', '"metric", "ndcg")'),
            r"bad\.py, line 8: ValueError: metric 'ndcg' exists already",
        ),
    ],
)
def test_an_error_is_shown_with_its_line_and_leaves_nothing(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "bad.py", text)
    with pytest.raises(ImportFailed, match=message):
        rg.import_file(path)
    assert "bad" not in sys.modules
    assert imports.imported() == []
    assert "mine" not in registry.names("metric")


def test_what_is_not_there_is_an_error_that_proposes(tmp_path: Path) -> None:
    with pytest.raises(ImportFailed, match=r"cannot import 'nothing\.py': there is no such file"):
        rg.import_file("nothing.py")
    with pytest.raises(ImportFailed, match=r"cannot import 'no_such_module': there is no such module"):
        rg.import_file("no_such_module")
    with pytest.raises(ImportFailed, match=r"give a Python file \(\.py\)"):
        rg.import_file(write(tmp_path / "notes.txt", "x"))


def in_another_process(text: str, orders: object = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", text], input=json.dumps(orders), capture_output=True, text=True, check=False
    )


FOLLOW = "import json, sys; from recgraph import imports, registry; imports.follow(json.load(sys.stdin));"


def test_another_process_imports_the_same_files(tmp_path: Path) -> None:
    rg.import_file(write(tmp_path / "theirs.py"))
    done = in_another_process(f"{FOLLOW} print(registry.load('metric', 'mine').__module__)", imports.orders())
    assert done.stdout.strip() == "theirs", done.stderr


def test_another_process_finds_what_was_registered_by_a_usual_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "usual.py")
    monkeypatch.syspath_prepend(tmp_path)
    import usual  # type: ignore[import-not-found]  # noqa: F401

    asked = "print('usual' in sys.modules, registry.load('metric', 'Mine').__module__)"
    done = in_another_process(f"{FOLLOW} {asked}", imports.orders())
    assert done.stdout.strip() == "False usual", done.stderr


def test_a_class_of_the_script_is_refused_where_it_is_asked_for(tmp_path: Path) -> None:
    script = METRIC + "import json\nfrom recgraph import imports\nprint(json.dumps(imports.orders()))\n"
    path = write(tmp_path / "script.py", script)
    made = subprocess.run([sys.executable, path], capture_output=True, text=True, check=True)
    done = in_another_process(f"{FOLLOW} print(1); registry.load('metric', 'mine')", json.loads(made.stdout))
    assert done.stdout.strip() == "1"
    assert "metric 'mine' is the class Mine of script.py, which worker processes do not run" in done.stderr
    assert "rg.import_file" in done.stderr
