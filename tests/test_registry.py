"""The registry: files, decorators and entry points."""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from recgraph import registry
from recgraph.config import ConfigError


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A kind with two members in two modules."""
    folder = tmp_path / "fake_metrics"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "hits.py").write_text("class Base: ...\nclass HitRate(Base): ...\n")
    (folder / "gains.py").write_text("class NDCG: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    members = {"fake_metrics.hits": ("HitRate",), "fake_metrics.gains": ("NDCG",)}
    monkeypatch.setitem(registry._MEMBERS, "metric", members)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "fake_metrics"]:
        del sys.modules[name]


@pytest.mark.usefixtures("package")
def test_members_are_found_by_name() -> None:
    assert registry.names("metric") == ["hitrate", "ndcg"]
    for name in ("hit_rate", "HitRate", "hit-rate", "HITRATE"):
        assert registry.load("metric", name).__name__ == "HitRate"


@pytest.mark.usefixtures("package")
def test_names_import_nothing() -> None:
    registry.names("metric")
    assert "fake_metrics" not in sys.modules


@pytest.mark.usefixtures("package")
def test_unknown_name_lists_what_exists() -> None:
    with pytest.raises(ValueError, match="metric 'map' does not exist; there are hit_rate, ndcg"):
        registry.load("metric", "map")


@pytest.mark.usefixtures("package")
def test_a_name_that_is_nearly_right_is_proposed() -> None:
    with pytest.raises(
        ValueError, match=r"metric 'hitrat' does not exist; did you mean hit_rate\? There are hit_rate, n"
    ):
        registry.load("metric", "hitrat")


@pytest.mark.parametrize("kind", registry.kinds())
def test_a_written_name_is_read_again_and_proposed(kind: str) -> None:
    for name in registry.written(kind):
        assert registry.key(name) in registry.names(kind)
        (again,) = registry.written(kind, name)
        assert again == name
        with pytest.raises(ValueError, match=rf"{kind} '{name}y' does not exist; did you mean .*{name}"):
            registry.load(kind, f"{name}y")


def test_names_are_written_with_underscores_and_models_in_one_word() -> None:
    assert {"catalogue_coverage", "hit_rate", "partial_auc", "r_precision", "ndcg"} <= set(registry.written("metric"))
    assert {"lightgcn", "itemknn", "mclrec"} <= set(registry.written("model"))
    assert {"info_nce", "nt_xent", "barlow_twins"} <= set(registry.written("objective"))
    assert {"swav", "vicreg", "conr", "simsiam", "sepclr"} <= set(registry.written("objective"))
    assert "supremix" in registry.written("mixture")
    assert "autotcl" in registry.written("augmenter")
    assert registry.load("objective", "sw_av") is registry.load("objective", "SwAV"), "all forms are read"
    registry.register("metric", "My-Own_metric")(type("Whatever", (), {}))
    assert registry.written("metric", "myownmetric") == ["my_own_metric"]


def test_pages_write_names_of_one_word_as_the_registry_does() -> None:
    root = Path(__file__).parents[1]
    apart = {registry._snake(name) for of in registry._MEMBERS.values() for names in of.values() for name in names}
    apart = {name for name in apart if registry.key(name) in registry._ONE_WORD} - registry._ONE_WORD
    assert {"sw_av", "vic_reg", "auto_tcl"} <= apart
    for page in (root / "README.md", root / "CHANGELOG.md", *sorted((root / "docs").rglob("*.md"))):
        found = apart & set(re.findall(r"\w+", page.read_text()))
        assert not found, f"{page.name} writes {found}"


def test_a_class_that_is_defined_again_takes_its_own_place() -> None:
    def define(value: int) -> None:
        @registry.register("metric")
        class Mine:
            held = value

    define(1)
    define(2)
    assert registry.load("metric", "mine").held == 2
    with pytest.raises(ValueError, match="metric 'mine' exists already"):

        @registry.register("metric", "mine")
        class Another: ...


def test_a_setting_that_a_part_has_not_is_an_error_of_configuration() -> None:
    with pytest.raises(ConfigError, match=r"loss SampledSoftmax has no setting n_negative; did you mean n_negatives\?"):
        registry.make("loss", {"name": "sampled_softmax", "n_negative": 3})


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
    assert registry.names("metric") == ["hitrate", "mymetric", "myother", "ndcg"]


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


def test_packages_are_looked_through_once_and_again_when_one_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    looks, look = [], registry.metadata.entry_points
    monkeypatch.setattr(registry.metadata, "entry_points", lambda: (looks.append(1), look())[1])
    monkeypatch.syspath_prepend(tmp_path)
    for kind in ("metric", "model", "metric"):
        registry.names(kind)
    assert len(looks) == 1
    installed = tmp_path / "mine-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Name: mine\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[recgraph.metric]\nmy_map = collections:OrderedDict\n")
    assert registry.load("metric", "MyMap").__name__ == "OrderedDict"
    assert len(looks) == 2
    monkeypatch.setattr(sys, "path", sys.path[1:])
    assert "mymap" not in registry.names("metric")


@pytest.mark.usefixtures("package")
def test_a_class_with_an_entry_point_may_be_decorated_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine: ...

    point = EntryPoint("mine", f"{Mine.__module__}:{Mine.__qualname__}", "recgraph.metric")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == point.group else [])
    assert registry.register("metric")(Mine) is Mine
    assert registry.load("metric", "mine") is Mine

    class Other: ...

    with pytest.raises(ValueError, match="metric 'mine' exists already"):
        registry.register("metric", "mine")(Other)


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


def test_the_key_of_a_member_of_the_library_is_found_without_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    def looked(group: str) -> list[object]:
        raise AssertionError(f"entry points of {group} were looked up")

    monkeypatch.setattr(registry, "entry_points", looked)
    library = registry.load("reranker", "mmr")
    assert registry.key_of("reranker", library) == "mmr"
    assert registry.key_of("view", registry.load("view", "crop")) == "crop"


@pytest.mark.parametrize("kind", registry.kinds())
def test_every_member_loads(kind: str) -> None:
    for name in registry.names(kind):
        assert registry.key(registry.load(kind, name).__name__) == name


BASES = {
    "augmenter": ("recgraph.augment.latent", "Augmenter"),
    "loss": ("recgraph.losses.base", "NextItemLoss"),
    "metric": ("recgraph.evaluate.metrics.base", "Metric"),
    "model": ("recgraph.models.base", "Model"),
    "objective": ("recgraph.contrast.objectives", "Objective"),
    "ranker": ("recgraph.models.two_stage.rankers", "Ranker"),
    "regulariser": ("recgraph.contrast.regularisers", "Regulariser"),
    "reranker": ("recgraph.rerank.base", "Reranker"),
    "weight": ("recgraph.contrast.weights", "Weight"),
}
# what members share is no member itself
SHARED = {
    "Aggregate",
    "Discounted",
    "OwnNegatives",
    "ClosedFormModel",
    "CollaborativeModel",
    "ContrastiveModel",
    "ContrastiveSequenceModel",
    "GraphContrastiveModel",
    "GraphModel",
    "LearnsClasses",
    "MetaPathModel",
    "MetaPathRecommender",
    "NeighbourModel",
    "PlannedModel",
    "SequenceModel",
    "TrainableModel",
}


@pytest.mark.parametrize("kind", sorted(BASES))
def test_no_member_is_missing_from_the_list(kind: str) -> None:
    """A class that was written but not listed could not be asked for by name."""
    module, name = BASES[kind]
    base = getattr(importlib.import_module(module), name)
    folder = (
        module.rpartition(".")[0]
        if kind not in ("metric", "model")
        else {"metric": "recgraph.evaluate.metrics"}.get(kind, "recgraph.models")
    )
    package = importlib.import_module(folder)
    names = [info.name for info in pkgutil.walk_packages(package.__path__, f"{folder}.") if not info.ispkg]
    found = {
        value
        for each in names
        for value in vars(importlib.import_module(each)).values()
        if isinstance(value, type) and issubclass(value, base) and value is not base and value.__module__ == each
    }
    written = {value.__name__ for value in found if not value.__name__.startswith("_")} - SHARED
    listed = {name for members in registry._MEMBERS[kind].values() for name in members}
    assert written == listed


def test_the_earlier_name_of_a_kind_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    @registry.register("view")
    class Mine: ...

    points = [EntryPoint("one", "fractions:Fraction", "recgraph.view")]
    points.append(EntryPoint("two", "decimal:Decimal", "recgraph.augmentation"))
    monkeypatch.setattr(registry, "entry_points", lambda group: [point for point in points if point.group == group])
    for kind in ("view", "augmentation"):
        assert registry.load(kind, "mine") is Mine
        assert registry.key_of(kind, Mine) == "mine"
        assert {"crop", "mine", "one", "two"} <= set(registry.names(kind))
        assert registry.load(kind, "one").__name__ == "Fraction"
    assert "view" not in registry.kinds()


def test_an_instance_is_written_as_its_specification() -> None:
    from recgraph.augment.sequence import Crop, Mask, SequenceAugmentation

    assert registry.specification("augmentation", "crop") == "crop"
    assert registry.specification("augmentation", Mask()) == {"name": "mask"}
    made = registry.make("augmentation", registry.specification("augmentation", Crop(ratio=0.3)))
    assert isinstance(made, Crop)
    assert made.config.ratio == 0.3

    class Own(SequenceAugmentation): ...

    with pytest.raises(ValueError, match=r"augmentation Own is not registered; decorate the class with @register"):
        registry.specification("augmentation", Own())


def test_make_reads_a_specification() -> None:
    crop = registry.make("augmentation", {"name": "crop", "ratio": 0.3})
    assert crop.config.ratio == 0.3
    assert registry.make("weight", "learned", dim=8, unknown_to_it=1).config.dim == 8
    with pytest.raises(ValueError, match="augmentation Crop has no setting width; it has ratio"):
        registry.make("augmentation", {"name": "crop", "width": 3})
    with pytest.raises(ValueError, match="must be a name or have one"):
        registry.make("augmentation", {"ratio": 0.3})


def test_a_specification_goes_before_defaults_and_not_before_what_is_given() -> None:
    spec = {"name": "learned", "inner_dim": 4}
    assert registry.make("weight", spec, {"inner_dim": 2, "normalise": True}).config.inner_dim == 4
    assert registry.make("weight", spec, {"inner_dim": 2, "normalise": True}).config.normalise
    with pytest.raises(ConfigError, match="weight Learned has no setting inner_dim; it has dim, "):
        registry.make("weight", spec, inner_dim=2)


def test_arguments_of_a_constructor_are_read_as_settings_are() -> None:
    made = registry.make("encoder", {"name": "hstu", "time_bias": "false", "n_heads": "2", "dropout": 0})
    assert (made.time_bias, made.dropout) == (False, 0.0)
    for name, value in (("time_bias", "perhaps"), ("n_heads", 1.5), ("dropout", [])):
        with pytest.raises(ConfigError, match=rf"^{name} = {re.escape(repr(value))}: Input should be a valid "):
            registry.make("encoder", {"name": "hstu", name: value})
    with pytest.raises(ConfigError, match="routing = 'random': Input should be 'learned' or 'category'"):
        registry.make("encoder", {"name": "expert_transformer", "routing": "random"})


def test_arguments_without_a_name_are_no_settings() -> None:
    from recgraph.encoders.graph import Propagation

    assert registry.settings_of(Propagation) == []
    with pytest.raises(ConfigError, match="encoder Propagation has no setting args; it has none"):
        registry.make("encoder", {"name": "propagation", "args": 1})


def test_what_another_process_has_registered_is_no_class_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise AssertionError("it is not to be imported")

    monkeypatch.setattr(registry, "_elsewhere", {})
    registry.expect("model", "theirs", missing)
    assert "theirs" in registry.names("model")
    found = dict(registry.classes("model"))
    assert "theirs" not in found
    assert found["sasrec"] is registry.load("model", "sasrec")
