"""Search spaces: from annotations, narrowed, extended and fixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from refusing import refused

from recgraph import registry
from recgraph.config import ConfigError, search_of, walk
from recgraph.files import read_toml
from recgraph.models.heterogeneous.base import NodeModel
from recgraph.train.config import TrainConfig
from recgraph.tuning.plan import Plan
from recgraph.tuning.space import Dimension, SearchSpace

SASRec = registry.load("model", "sasrec")


def space(given: Any = None, **fixed: Any) -> SearchSpace:
    return SearchSpace.of({"model": SASRec.Config, "training": TrainConfig}, fixed, given)


def test_annotations_make_the_space() -> None:
    found = space()
    annotated = {
        name
        for name, field, _ in (*walk(SASRec.Config), *walk(TrainConfig))
        if search_of(field) is not None
    }
    assert (
        {"learning_rate", "batch_size", "hidden_dim", "dropout"}
        <= found.dimensions.keys()
        == annotated
    )
    assert found.dimensions["encoder.n_layers"].whole
    assert not found.dimensions["learning_rate"].whole


def test_every_model_has_a_space_with_its_default_in_it() -> None:
    for name in registry.names("model"):
        cls = registry.load("model", name)
        plan = Plan(study="s", model=cls, metrics=("ndcg@10",), n_trials=1)
        if issubclass(plan.model, NodeModel):  # they are not tuned
            continue
        try:
            default = plan.space.default()
        except ConfigError as error:
            assert "empty" in str(error), name  # noqa: PT017
            continue
        assert default is not None, f"no trial of {name} would be its default configuration"
        assert plan.space.settings(default)


def test_a_file_narrows_extends_and_fixes(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text(
        "learning_rate = {high = 2e-3}\nweight_decay = {low = 1e-6, high = 1e-2, log = true}\n"
        "hidden_dim = [16, 32]\ndropout = 0.2\nbatch_size = {low = 32, high = 64}\n"
    )
    found = space(read_toml(file), max_epochs=3)
    assert found.dimensions["learning_rate"] == Dimension("learning_rate", 3e-4, 2e-3, log=True)
    assert found.dimensions["weight_decay"] == Dimension("weight_decay", 1e-6, 1e-2, log=True)
    assert found.dimensions["hidden_dim"].choices == (16, 32)
    assert found.dimensions["batch_size"] == Dimension("batch_size", 32, 64, whole=True)
    assert found.fixed == {"dropout": 0.2, "max_epochs": 3}
    assert found.default() is None  # 64 is not among the widths
    rest = space({"*": "fixed", "dropout": {}, "encoder.n_layers": [1, 2]})
    assert rest.default() == {"dropout": 0.5, "encoder.n_layers": 2}
    for step, is_inside in ((0.1, True), (0.2, False)):
        found = space({"*": "fixed", "dropout": {"low": 0.0, "high": 0.8, "step": step}})
        assert found.default() == ({"dropout": 0.5} if is_inside else None)


def test_choices_of_any_kind_come_back_as_they_were() -> None:
    losses = ["bpr", {"name": "bpr", "n_negatives": 2}]
    found = space({"*": "fixed", "loss": losses, "clip_norm": [None, 1.0]})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = []
    for _ in range(8):
        trial = study.ask()
        for dimension in found.dimensions.values():
            dimension.suggest(trial)
        seen.append(found.settings(trial.params))
        study.tell(trial, 0.0)
    assert {type(values["clip_norm"]) for values in seen} == {type(None), float}
    assert all(values["loss"] in losses for values in seen)


@pytest.mark.parametrize(
    ("given", "fixed", "named"),
    [
        ({"dropouts": 0.1}, {}, "dropouts"),
        ({"dropout": {"low": 0.0, "high": 1.5}}, {}, "dropout"),
        ({"dropout": {"lo": 0.0, "high": 0.5}}, {}, "'lo'"),
        ({"weight_decay": {"low": 0.1}}, {}, "weight_decay"),
        ({"dropout": [0.1]}, {"dropout": 0.2}, "dropout"),
        ({"*": "fixed"}, {}, "empty"),
        ({"loss": ["bce", "nosuch"]}, {}, "nosuch"),
    ],
)
def test_mistakes_name_the_field(given: dict[str, Any], fixed: dict[str, Any], named: str) -> None:
    with refused(named, by=ConfigError):
        space(given, **fixed)


CL4SRec = registry.load("model", "cl4srec")


def parts(given: Any, **fixed: Any) -> SearchSpace:
    return SearchSpace.of({"model": CL4SRec.Config}, fixed, {"*": "fixed", **given})


def test_settings_of_a_part() -> None:
    given = {
        "contrast.weight.n_clusters": {"choices": [[5], [5, 10]]},
        "contrast.weight.iterations": 7,
    }
    fixed = {"contrast": {"weight": "cluster"}, "encoder": "bsa"}
    # as TOML makes of encoder.alpha
    found = parts({**given, "encoder": {"alpha": {"low": 0.1, "high": 0.9}}}, **fixed)
    assert set(found.dimensions) == {"contrast.weight.n_clusters", "encoder.alpha"}
    settings = found.settings({"contrast.weight.n_clusters": "[5, 10]", "encoder.alpha": 0.5})
    assert settings["contrast"]["weight"] == {
        "name": "cluster",
        "n_clusters": [5, 10],
        "iterations": 7,
    }
    assert settings["encoder"] == {"name": "bsa", "alpha": 0.5}
    assert CL4SRec.Config.of(settings).encoder.alpha == 0.5
    assert {name for name in parts({"*": "searched"}, **fixed).dimensions if "." in name} >= {
        "encoder.alpha"
    }


def test_settings_of_one_of_several_parts() -> None:
    found = parts({"augmentations.crop.ratio": {}})
    assert found.dimensions["augmentations.crop.ratio"] == Dimension(
        "augmentations.crop.ratio", 0.1, 0.9
    )
    settings = found.settings({"augmentations.crop.ratio": 0.25})
    assert settings["augmentations"][0] == {"name": "crop", "ratio": 0.25}
    assert found.default() == {"augmentations.crop.ratio": 0.5}
    given = [{"name": "crop", "ratio": 0.7}, "mask"]
    assert parts({"augmentations.crop.ratio": {}}, augmentations=given).default() == {
        "augmentations.crop.ratio": 0.7
    }
    weighed = {"contrast": {"regularisers": ["margin", "alignment"]}}
    found = parts(
        {"contrast.regularisers.alignment.coefficient": {"low": 0.5, "high": 4.0}}, **weighed
    )
    name = "contrast.regularisers.alignment.coefficient"
    assert CL4SRec.Config.of(found.settings({name: 2.0})).contrast.regularisers[1].coefficient == 2


def test_grids() -> None:
    assert Dimension("a", 0.0, 0.7, step=0.1).grid() == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert Dimension("a", 1, 4, whole=True).grid() == [1, 2, 3, 4]
    assert Dimension("a", choices=(1, 2, 1, None)).grid() == [1, 2, None]
    with refused("'a'", by=ConfigError):
        Dimension("a", 0.0, 1.0).grid()
