"""The registry: the library's own members, decorators, entry points, and files of a user's own."""

from __future__ import annotations

import hashlib
import importlib
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from refusing import refused

import recgraph as rg
from recgraph import registry
from recgraph.registry import ImportFailed


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(registry, "_imported", {})
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").is_relative_to(tmp_path):
            del sys.modules[name]


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_member_loads_and_a_written_name_is_read_again(kind: str) -> None:
    for name in registry.names(kind):
        cls = registry.load(kind, name)
        assert registry.key(cls.__name__) == name == registry.key(registry.name_of(kind, cls))
    for name in registry.members(kind).values():
        assert registry.key(name) in registry.names(kind)
        with refused(kind, name):  # it proposes the name that is nearly right
            registry.load(kind, f"{name}y")


def test_register() -> None:
    @registry.register("metric")
    class MyMetric: ...

    @registry.register("metric", "my-other")
    class Whatever: ...

    assert registry.load("metric", "my_metric") is MyMetric
    assert registry.load("metric", "MyOther") is Whatever
    assert registry.name_of("metric", Whatever) == "my_other"
    assert {"my_metric", "my_other"} <= {*registry.members("metric").values()}
    with refused("metric", "ndcg"):
        registry.register("metric", "NDCG")(type("Mine", (), {}))
    with refused("colour"):
        registry.register("colour")


def test_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine: ...

    points = [
        EntryPoint("my_map", "collections:OrderedDict", "recgraph.metric"),
        EntryPoint("mine", f"{Mine.__module__}:{Mine.__qualname__}", "recgraph.metric"),
    ]
    monkeypatch.setattr(
        registry.metadata, "entry_points", lambda group: [p for p in points if p.group == group]
    )
    registry._entry_points.cache_clear()
    assert "mymap" in registry.names("metric")
    assert registry.load("metric", "MyMap").__name__ == "OrderedDict"
    assert registry.register("metric")(Mine) is Mine, "decorated too"
    assert registry.load("metric", "mine") is Mine
    registry._entry_points.cache_clear()


#: kind -> where its members are, and the class that they share
BASES = {
    "augmenter": ("recgraph.augment", "recgraph.augment.latent", "Augmenter"),
    "loss": ("recgraph.losses", "recgraph.losses.base", "NextItemLoss"),
    "metric": ("recgraph.evaluate", "recgraph.evaluate.metrics", "Metric"),
    "model": ("recgraph.models", "recgraph.models.base", "Model"),
    "objective": ("recgraph.contrast", "recgraph.contrast.objectives", "Objective"),
    "regulariser": ("recgraph.contrast", "recgraph.contrast.regularisers", "Regulariser"),
    "weight": ("recgraph.contrast", "recgraph.contrast.weights", "Weight"),
}


@pytest.mark.parametrize("kind", sorted(BASES))
def test_no_member_is_missing_from_the_list(kind: str) -> None:
    """A class that was written but not listed could not be chosen by name; what members share has
    subclasses.
    """
    folder, module, name = BASES[kind]
    base = getattr(importlib.import_module(module), name)
    package = importlib.import_module(folder)
    names = [
        info.name
        for info in pkgutil.walk_packages(package.__path__, f"{folder}.")
        if not info.ispkg
    ]
    found = {
        value
        for each in names
        for value in vars(importlib.import_module(each)).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and value is not base
        and value.__module__ == each
    }
    members = {name for _, name, _ in registry._MEMBERS[kind].values()}
    unlisted = {
        cls for cls in found if cls.__name__ not in members and not cls.__name__.startswith("_")
    }
    assert {
        cls.__name__ for cls in unlisted if not any(issubclass(each, cls) for each in found - {cls})
    } == set()


METRIC = """
import recgraph as rg
from recgraph.evaluate.metrics import Metric

runs = []


@rg.register("metric")
class Mine(Metric):
    name = "mine"


runs.append(1)
"""


def write(path: Path, text: str = METRIC) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_is_run_once_and_named_in_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "twice.py")
    monkeypatch.chdir(tmp_path)
    module = rg.import_file("twice.py")
    for name in ("./twice.py", path, "twice"):
        assert rg.import_file(name) is module
    assert module.runs == [1]
    assert registry.load("metric", "mine") is module.Mine
    (found,) = registry.imported()
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found == {"module": "twice", "file": "twice.py", "sha256": sha256}


def test_a_file_that_has_changed_is_run_again(tmp_path: Path) -> None:
    path = write(tmp_path / "changed.py")
    rg.import_file(path)
    write(path, METRIC.replace('"mine"', '"mine"\n    higher_is_better = False'))
    rg.import_file(path)
    assert not registry.load("metric", "mine").higher_is_better


@pytest.mark.parametrize(
    ("text", "line"), [("x = 1\n\nx.y\n", 3), ("x = (\n", 1), (METRIC + "raise SystemExit(3)", 14)]
)
def test_an_error_is_shown_with_its_line_and_leaves_nothing(
    tmp_path: Path, text: str, line: int
) -> None:
    path = write(tmp_path / "bad.py", text)
    with refused(f"bad.py, line {line}", by=ImportFailed):
        rg.import_file(path)
    assert "bad" not in sys.modules
    assert registry.imported() == []


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
    done = subprocess.run(
        [sys.executable, "-c", text], input=orders, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.split() == ["theirs", "usual"], done.stderr
