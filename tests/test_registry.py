"""The registry: files, decorators and entry points."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from recgraph import registry


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package of metrics with two members, a base, a private part and a file that breaks the rule."""
    folder = tmp_path / "fake_metrics"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "base.py").write_text("class Base: ...\n")
    (folder / "_shared.py").touch()
    (folder / "hit_rate.py").write_text("from fake_metrics.base import Base\nclass HitRate(Base): ...\n")
    (folder / "ndcg.py").write_text("class NDCG: ...\n")
    (folder / "wrong.py").write_text("class Other: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry._PACKAGES, "metric", "fake_metrics")
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "fake_metrics"]:
        del sys.modules[name]


@pytest.mark.usefixtures("package")
def test_the_file_name_is_the_key() -> None:
    assert registry.names("metric") == ["hitrate", "ndcg", "wrong"]
    for name in ("hit_rate", "HitRate", "hit-rate", "HITRATE"):
        assert registry.load("metric", name).__name__ == "HitRate"


@pytest.mark.usefixtures("package")
def test_a_file_must_hold_its_class() -> None:
    with pytest.raises(ValueError, match=r"fake_metrics\.wrong must hold a class whose lower-case name is 'wrong'"):
        registry.load("metric", "wrong")


@pytest.mark.usefixtures("package")
def test_unknown_name_lists_what_exists() -> None:
    with pytest.raises(ValueError, match="metric 'map' does not exist; there are hitrate, ndcg, wrong"):
        registry.load("metric", "map")


@pytest.mark.parametrize("call", [registry.names, lambda kind: registry.load(kind, "a"), registry.register])
def test_unknown_kind(call: object) -> None:
    with pytest.raises(ValueError, match=r"kind 'colour' is not known; the kinds are .*model"):
        call("colour")  # type: ignore[operator]


@pytest.mark.usefixtures("package")
def test_register() -> None:
    @registry.register("metric")
    class MyMetric: ...

    @registry.register("metric", "my-other")
    class Whatever: ...

    assert registry.load("metric", "my_metric") is MyMetric
    assert registry.load("metric", "MyOther") is Whatever
    assert registry.names("metric") == ["hitrate", "mymetric", "myother", "ndcg", "wrong"]


@pytest.mark.usefixtures("package")
def test_a_taken_name_is_refused() -> None:
    with pytest.raises(ValueError, match="metric 'ndcg' exists already; register Mine under another name"):

        @registry.register("metric", "NDCG")
        class Mine: ...


@pytest.mark.usefixtures("package")
def test_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("my_map", "collections:OrderedDict", "recgraph.metric")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == point.group else [])
    assert "mymap" in registry.names("metric")
    assert registry.load("metric", "MyMap").__name__ == "OrderedDict"


@pytest.mark.usefixtures("package")
def test_the_key_of_a_class_is_the_name_that_it_is_found_under(monkeypatch: pytest.MonkeyPatch) -> None:
    @registry.register("metric", "my-ndcg")
    class NDCG: ...

    class Other: ...

    # through another module of the same package: the class itself is in a private one
    point = EntryPoint("my_counter", "fractions:Fraction", "recgraph.metric")
    elsewhere = EntryPoint("broken", "no_such_package:Thing", "recgraph.metric")
    monkeypatch.setattr(registry, "entry_points", lambda group: [elsewhere, point])
    library = registry.load("metric", "ndcg")
    assert registry.key_of("metric", NDCG) == "myndcg"
    assert registry.key_of("metric", library) == "ndcg"
    assert registry.key_of("metric", registry.load("metric", "my_counter")) == "mycounter"
    assert registry.key_of("metric", Other) == "other"
    assert registry.key_of("model", NDCG) == "ndcg"


@pytest.mark.parametrize("kind", registry.kinds())
def test_every_member_loads(kind: str) -> None:
    for name in registry.names(kind):
        assert registry.key(registry.load(kind, name).__name__) == name
