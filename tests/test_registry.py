"""The registry: the library's own members, decorators and entry points."""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import EntryPoint

import pytest
from refusing import refused

from recgraph import augment, registry
from recgraph.config import ConfigError


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})


@pytest.mark.parametrize("kind", registry.kinds())
def test_every_member_loads_and_a_written_name_is_read_again(kind: str) -> None:
    for name in registry.names(kind):
        cls = registry.load(kind, name)
        assert registry.key(cls.__name__) == name == registry.key_of(kind, cls)
    for name in registry.written(kind):
        assert registry.key(name) in registry.names(kind)
        assert registry.written(kind, name) == [name]
        with refused(kind, name):  # it proposes the name that is nearly right
            registry.load(kind, f"{name}y")


def test_case_and_underscores_do_not_matter() -> None:
    found = {registry.load("metric", name) for name in ("hit_rate", "HitRate", "hit-rate", "HITRATE")}
    assert len(found) == 1
    assert {"catalogue_coverage", "r_precision", "ndcg"} <= set(registry.written("metric"))
    assert {"lightgcn", "itemknn", "mclrec"} <= set(registry.written("model"))


def test_register() -> None:
    @registry.register("metric")
    class MyMetric: ...

    @registry.register("metric", "my-other")
    class Whatever: ...

    assert registry.load("metric", "my_metric") is MyMetric
    assert registry.load("metric", "MyOther") is Whatever
    assert registry.key_of("metric", Whatever) == "myother"
    assert registry.written("metric", "myother") == ["my_other"]
    with refused("metric", "ndcg"):
        registry.register("metric", "NDCG")(type("Mine", (), {}))
    with refused("colour"):
        registry.register("colour")


def test_a_class_that_is_defined_again_takes_its_own_place() -> None:
    def define(value: int) -> None:
        @registry.register("metric")
        class Mine:
            held = value

    define(1)
    define(2)
    assert registry.load("metric", "mine").held == 2


def test_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine: ...

    points = [
        EntryPoint("my_map", "collections:OrderedDict", "recgraph.metric"),
        EntryPoint("mine", f"{Mine.__module__}:{Mine.__qualname__}", "recgraph.metric"),
    ]
    monkeypatch.setattr(registry.metadata, "entry_points", lambda group: [p for p in points if p.group == group])
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
    """A class that was written but not listed could not be chosen by name; what members share has subclasses."""
    folder, module, name = BASES[kind]
    base = getattr(importlib.import_module(module), name)
    package = importlib.import_module(folder)
    names = [info.name for info in pkgutil.walk_packages(package.__path__, f"{folder}.") if not info.ispkg]
    found = {
        value
        for each in names
        for value in vars(importlib.import_module(each)).values()
        if isinstance(value, type) and issubclass(value, base) and value is not base and value.__module__ == each
    }
    members = {name for of in registry._MEMBERS[kind].values() for name in of}
    unlisted = {cls for cls in found if cls.__name__ not in members and not cls.__name__.startswith("_")}
    assert {cls.__name__ for cls in unlisted if not any(issubclass(each, cls) for each in found - {cls})} == set()


def test_make_takes_a_name_a_table_or_a_value() -> None:
    crop = registry.make("augmentation", {"name": "crop", "ratio": 0.3})
    assert crop.config.ratio == registry.make("augmentation", augment.Crop(ratio=0.3)).config.ratio == 0.3
    weight = registry.make("weight", {"name": "learned", "inner_dim": 4}, dim=8, other=1)
    assert (weight.config.inner_dim, weight.config.dim) == (4, 8)
    for spec, named in (({"name": "learned", "inner": 4}, "inner"), ({"ratio": 0.3}, "augmentation"), ("nope", "nope")):
        with refused(named):
            registry.make("weight" if named == "inner" else "augmentation", spec)


def test_parameters_of_a_constructor_with_a_default_are_settings() -> None:
    part = registry.part_class("encoder", "hstu")
    assert set(part.model_fields) == {"n_layers", "n_heads", "time_bias"}
    made = part(time_bias="false", n_heads="2").build(hidden_dim=8, max_len=5, dropout=0.0, causal=True)
    assert (made.time_bias, made.dropout) == (False, 0.0)
    with refused("n_heads", by=ConfigError):
        part(n_heads=1.5)
