"""Search spaces: from annotations, narrowed, extended and fixed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import optuna
import pytest
from pydantic import Field
from scipy import stats
from small_study import SETTINGS, synthetic, tune

import recgraph as rg
from recgraph import registry
from recgraph.config import Config, ConfigError, Search
from recgraph.leaderboard.plan import load_tuned
from recgraph.models.heterogeneous.base import GraphModel
from recgraph.train.config import TrainConfig
from recgraph.tuning.dimension import Dimension
from recgraph.tuning.options import plain
from recgraph.tuning.plan import Plan
from recgraph.tuning.samplers import PRUNERS, SAMPLERS, check, make_pruner, make_sampler
from recgraph.tuning.space import SearchSpace
from recgraph.tuning.wilcoxon import p_of_signed_ranks

SASRec = registry.load("model", "sasrec")


def space(given: Any = None, **fixed: Any) -> SearchSpace:
    return SearchSpace.of({"model": SASRec.Config, "training": TrainConfig}, fixed, given)


def test_annotations_make_the_space() -> None:
    found = space().dimensions
    assert {"learning_rate", "batch_size", "hidden_dim", "dropout", "n_layers", "n_heads"} <= set(found)
    assert found["learning_rate"] == Dimension("learning_rate", 3e-4, 1e-2, log=True)
    assert found["n_layers"] == Dimension("n_layers", 1, 4, whole=True)
    assert found["batch_size"].choices == (64, 128, 256, 512)
    assert "max_epochs" not in found


def test_a_pruner_reads_the_most_epochs_wherever_they_are_given() -> None:
    def most(**given: Any) -> int:
        return Plan("s", SASRec, ("ndcg@10",), 1, **given).max_epochs

    assert most() == TrainConfig().max_epochs
    assert most(fixed={"max_epochs": 8}) == most(given={"max_epochs": 8}) == 8
    assert most(given={"max_epochs": [4, 30]}) == 30


def test_every_model_has_a_space_or_says_that_it_has_none() -> None:
    for name in registry.names("model"):
        plan = Plan("s", registry.load("model", name), ("ndcg@10",), 1)
        try:
            default = plan.space.default()
        except ConfigError as error:
            assert "the space is empty" in str(error)  # noqa: PT017
            continue
        if issubclass(plan.model, GraphModel):  # they are not tuned
            continue
        assert default is not None, f"no trial of {name} would be its default configuration"
        assert plan.space.shared(plan.space.settings(default))


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("ncl", ([10], [30], [100], [300], [1000])),
        ("meow", ([100, 300], [200, 700], [500, 700], [500, 1200])),
        ("meowrec", ([5, 15], [10, 30], [20, 60], [50, 150], [100, 300])),
    ],
)
def test_lists_may_be_the_choices_of_an_annotation(name: str, choices: tuple[list[int], ...]) -> None:
    config = registry.load("model", name).Config
    found = SearchSpace.of({"model": config}, {})
    assert found.dimensions["n_clusters"].choices == choices
    default = found.default()
    assert default is not None
    assert config.of(found.settings(default)) == config()
    last = {**default, "n_clusters": json.dumps(choices[-1])}
    assert config.of(found.settings(last)).n_clusters == tuple(choices[-1])


@pytest.mark.parametrize("given", [{"loss": ["bce", "nosuch"]}, {"loss": "nosuch"}])
def test_names_of_parts_are_known_before_a_trial_begins(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="space of 'loss': loss 'nosuch' does not exist; there are bce, bpr"):
        space(given)
    with pytest.raises(ConfigError, match="loss 'nosuch' does not exist"):
        space({}, loss="nosuch")


def test_options_that_are_called_as_settings_of_the_model() -> None:
    found = space({"item_graph.n_layers": [1, 3], "*": "fixed"}, item_graph="transitions").dimensions
    assert set(found) == {"item_graph.n_layers"}
    with pytest.raises(ConfigError, match="unknown setting 'n_items'"):
        space({"item_graph.n_items": [1, 3]}, item_graph="transitions")


def test_whether_a_scale_is_logarithmic_is_true_or_false() -> None:
    with pytest.raises(ConfigError, match="log = 'false' must be true or false"):
        space({"learning_rate": {"low": 1e-4, "high": 1e-1, "log": "false"}})


def test_a_file_narrows_extends_and_fixes(tmp_path: Path) -> None:
    file = tmp_path / "space.toml"
    file.write_text(
        "learning_rate = {high = 2e-3}\nweight_decay = {low = 1e-6, high = 1e-2, log = true}\n"
        "hidden_dim = [16, 32]\ndropout = 0.2\nbatch_size = {low = 32, high = 64}\n"
    )
    found = space(file, max_epochs=3)
    assert found.dimensions["learning_rate"] == Dimension("learning_rate", 3e-4, 2e-3, log=True)
    assert found.dimensions["weight_decay"] == Dimension("weight_decay", 1e-6, 1e-2, log=True)
    assert found.dimensions["hidden_dim"].choices == (16, 32)
    assert found.dimensions["batch_size"] == Dimension("batch_size", 32, 64, whole=True)
    assert found.fixed == {"dropout": 0.2, "max_epochs": 3}
    assert "dropout" not in found.dimensions
    assert found.default() is None  # 64 is not among the widths


@pytest.mark.parametrize(
    ("given", "fixed"),
    [
        ({"drop_after": [[1], [2, 3]]}, {"schedule": "step"}),
        ({"schedule": ["constant", "step"]}, {"drop_after": [1]}),
        ({"max_epochs": [10, 20]}, {"schedule": "cosine", "schedule_epochs": 20}),
        ({"max_epochs": {"low": 10, "high": 40}}, {"schedule": "cosine", "schedule_epochs": 20}),
    ],
)
def test_what_is_fixed_need_not_fit_the_defaults_of_what_is_searched(given: dict[str, Any], fixed: Any) -> None:
    space = SearchSpace.of({"training": TrainConfig}, fixed, {"*": "fixed", **given})
    assert list(space.dimensions) == list(given)
    with pytest.raises(ConfigError, match="schedule_epochs = 5: the rate would be 0"):
        SearchSpace.of(
            {"training": TrainConfig}, {"schedule": "cosine", "schedule_epochs": 5}, {"max_epochs": [10, 20]}
        )


def test_the_rest_can_be_fixed() -> None:
    found = space({"*": "fixed", "dropout": {}, "n_layers": [1, 2]})
    assert set(found.dimensions) == {"dropout", "n_layers"}
    assert found.default() == {"dropout": 0.5, "n_layers": 2}


def test_choices_of_any_kind_come_back_as_they_were() -> None:
    found = space({"*": "fixed", "loss_options": {"choices": [{}, {"a": [1, 2]}]}, "clip_norm": [None, 1.0]})
    study = optuna.create_study(sampler=make_sampler("random", 0, found, 0, "one"))
    seen = []
    for _ in range(8):
        trial = study.ask(found.distributions)
        seen.append(found.settings(trial.params))
        study.tell(trial, 0.0)
    assert {type(values["clip_norm"]) for values in seen} == {type(None), float}
    assert all(values["loss_options"] in ({}, {"a": [1, 2]}) for values in seen)


@pytest.mark.parametrize(
    ("given", "fixed", "message"),
    [
        ({"dropouts": 0.1}, {}, "unknown setting 'dropouts'; did you mean dropout"),
        ({"dropout": {"low": 0.0, "high": 1.5}}, {}, "1.5 is not allowed"),
        ({"dropout": 1.5}, {}, "dropout = 1.5"),
        ({"dropout": {"lo": 0.0, "high": 0.5}}, {}, "unknown setting 'lo'"),
        ({"dropout": {"low": 0.5, "high": 0.1}}, {}, "low = 0.5 is above high = 0.1"),
        ({"weight_decay": {"low": 0.1}}, {}, "needs low and high"),
        ({"n_layers": {"low": 1.5}}, {}, "whole numbers"),
        ({"dropout": {"low": 0.0, "log": True}}, {}, "needs low > 0"),
        ({"dropout": []}, {}, "has none"),
        ({"hidden_dim": {"low": "16", "high": 64}}, {}, "space of 'hidden_dim': low = '16' must be a number"),
        ({"dropout": {"low": 0.0, "high": float("nan")}}, {}, "high = nan must be a number"),
        ({"dropout": {"low": 0.0, "high": 0.5, "step": "0.1"}}, {}, "step = '0.1' must be a number"),
        ({"dropout": {"low": 0.0, "high": 0.5, "step": 0}}, {}, "step = 0 must be above 0"),
        ({"hidden_dim": {"low": 16, "high": 64, "step": -8}}, {}, "step = -8 must be above 0"),
        ({"dropout": {"choices": 0.5}}, {}, "space of 'dropout': choices = 0.5 must be a list"),
        ({"dropout": [0.1]}, {"dropout": 0.2}, "both set and in the space"),
        ({"*": "frozen"}, {}, "must be 'fixed' or 'searched'"),
        ({"*": "fixed"}, {}, r"the space is empty: .*\(--space FILE\)"),
        (
            {},
            {"batch_size": [64, 128]},
            r"batch_size = .*integer.*; values .* \(--space FILE\): batch_size = \[64, 128\]$",
        ),
        ({}, {"dropout": 2}, r"dropout = 2: [^;]*$"),
    ],
)
def test_mistakes_name_the_field(given: dict[str, Any], fixed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        space(given, **fixed)


class Parts(Config):
    """Settings that choose parts; ``views`` was the name of ``augmentations``."""

    renamed: ClassVar[dict[str, str]] = {"views": "augmentations"}
    weight: str | None = "cluster"
    weight_options: Annotated[dict[str, Any], Field(default_factory=dict)]
    encoder: str = "transformer"
    encoder_options: Annotated[dict[str, Any], Field(default_factory=dict)]
    augmentations: tuple[str | dict[str, Any], ...] = ("crop", "mask")
    size: Annotated[int, Search(1, 4)] = 2


def parts(given: Any, **fixed: Any) -> SearchSpace:
    return SearchSpace.of({"model": Parts}, fixed, {"*": "fixed", **given})


@pytest.fixture
def _augmentations(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry knows the parts of ``augmentations``."""
    members = registry._MEMBERS.get("augmentation") or registry._MEMBERS["view"]
    monkeypatch.setitem(registry._MEMBERS, "augmentation", members)


def test_options_of_a_part_are_searched_where_they_are_named() -> None:
    given = {"weight.n_clusters": {"choices": [[5], [5, 10]]}, "weight.iterations": 7}
    found = parts({**given, "encoder.alpha": {"low": 0.1, "high": 0.9}}, encoder="filtered_transformer")
    assert set(found.distributions) == {"weight.n_clusters", "encoder.alpha"}
    settings = found.settings({"weight.n_clusters": "[5, 10]", "encoder.alpha": 0.5})
    assert settings["weight_options"] == {"n_clusters": [5, 10], "iterations": 7}
    assert settings["encoder_options"] == {"alpha": 0.5}
    assert found.default() is None or set(found.default() or ()) == set(found.distributions)
    # the tables that TOML makes of names without quotes
    assert parts({"weight": {"n_clusters": [[5]]}}).dimensions["weight.n_clusters"].choices == ([5],)
    assert "weight.n_clusters" not in space().dimensions


@pytest.mark.usefixtures("_augmentations")
def test_options_of_one_of_several_parts() -> None:
    found = parts({"augmentations.crop.ratio": {}})
    assert found.dimensions["augmentations.crop.ratio"] == Dimension("augmentations.crop.ratio", 0.1, 0.9)
    settings = found.settings({"augmentations.crop.ratio": 0.25})
    assert settings["augmentations"] == [{"name": "crop", "ratio": 0.25}, "mask"]
    assert found.default() == {"augmentations.crop.ratio": 0.5}
    assert parts({"views": {"crop": {"ratio": {}}}}).dimensions == found.dimensions
    given = [{"name": "crop", "ratio": 0.7}, "mask"]
    assert parts({"augmentations.crop.ratio": {}}, augmentations=given).default() == {"augmentations.crop.ratio": 0.7}


@pytest.mark.parametrize("given", [{}, 0.1, {"coefficient": 0.1}])
def test_options_of_regularisers(given: Any) -> None:
    config, regularisers = {"model": registry.load("model", "CL4SRec").Config}, {"margin": {}, "alignment": given}
    options = {"regularisers.alignment.coefficient": {"low": 0.5, "high": 4.0}}
    found = SearchSpace.of(config, {"regularisers": regularisers}, {**options, "*": "fixed"})
    assert found.default() == ({"regularisers.alignment.coefficient": 1.0} if given == {} else None)
    merged = found.settings({"regularisers.alignment.coefficient": 2.0})["regularisers"]
    assert merged == {"margin": {}, "alignment": {"coefficient": 2.0}}
    with pytest.raises(ConfigError, match="'uniformity' is not among regularisers; there is margin, alignment"):
        SearchSpace.of(config, {"regularisers": regularisers}, {"regularisers.uniformity.t": [1.0], "*": "fixed"})


def test_settings_by_their_earlier_names() -> None:
    old, new = (parts({name: [["crop"], ["mask"]]}, size=1) for name in ("views", "augmentations"))
    assert old.to_dict() == new.to_dict()
    assert set(old.to_dict()["searched"]) == {"views"}, "as studies from before have it"
    assert new.settings({"views": '["crop"]'}) == {"size": 1, "augmentations": ["crop"]}
    assert parts({"size": {}}, augmentations=["crop"]).to_dict()["fixed"] == {"views": ["crop"]}
    with pytest.raises(ConfigError, match="are one setting"):
        parts({"size": {}}, views=["crop"], augmentations=["crop"])


@pytest.mark.usefixtures("_augmentations")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"wieght.n_clusters": {}}, "unknown setting 'wieght'; did you mean weight"),
        ({"weight.n_cluster": [[5]]}, "weight Cluster: unknown setting 'n_cluster'; did you mean n_clusters"),
        ({"encoder.beta": {"low": 0, "high": 1}}, "encoder Transformer: unknown setting 'beta'"),
        ({"size.a": {}}, "size chooses no part"),
        ({"size": {}, "weight.iterations": 0}, "0 is not allowed"),
        ({"augmentations.corp.ratio": {}}, "'corp' is not among augmentations; there is crop"),
        ({"augmentations.ratio": {}}, "must be of the form augmentations.PART.OPTION"),
        ({"augmentations.crop.ratio": {"low": 0.1, "high": 2.0}}, "2.0 is not allowed"),
        ({"weight": ["cluster", "learned"], "weight.n_clusters": [[5]]}, "weight is searched, too"),
        ({"weight": {"choices": [None]}, "size": {}, "weight.n_clusters": [[5]]}, "weight is searched, too"),
    ],
)
def test_mistakes_in_options_name_the_nearest(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parts(given)
    with pytest.raises(ConfigError, match="weight is none; fix it"):
        parts({"weight.n_clusters": [[5]]}, weight=None)
    twice = ["crop", {"name": "Crop", "ratio": 0.5}]
    with pytest.raises(ConfigError, match="'crop' is among augmentations more than once; search whole lists"):
        parts({"augmentations.crop.ratio": {}}, augmentations=twice)


def test_an_option_of_a_real_model_is_tuned_from_its_annotation(tmp_path: Path) -> None:
    split = synthetic()
    settings = {**SETTINGS, "loss": "sampled_softmax", "max_epochs": 1}
    given = {"*": "fixed", "loss.popularity_power": {"low": 0.0, "high": 1.0}}
    study = tune(split, tmp_path / "s", 2, space=given, settings=settings, sampler="random", test_seeds=1)
    name = "loss.popularity_power"
    assert [set(trial.params) for trial in study.trials] == [{name}, {name}]
    config = json.loads((tmp_path / "s" / "trials" / "0001" / "config.json").read_text())["config"]
    assert config["loss_options"] == {"popularity_power": study.trials[1].params[name]}
    best = load_tuned("s", tmp_path).settings
    assert best["loss_options"] == {"popularity_power": study.best_params[name]}


def test_grids() -> None:
    assert Dimension("a", 0.0, 0.7, step=0.1).grid() == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert Dimension("a", 1, 4, whole=True).grid() == [1, 2, 3, 4]
    with pytest.raises(ConfigError, match="needs choices or a step"):
        Dimension("a", 0.0, 1.0).grid()


@pytest.mark.parametrize(("step", "is_inside"), [(0.1, True), (0.25, True), (0.2, False)])
def test_a_default_between_two_steps_lies_outside(step: float, is_inside: bool) -> None:
    found = space({"*": "fixed", "dropout": {"low": 0.0, "high": 0.8, "step": step}})
    assert found.default() == ({"dropout": 0.5} if is_inside else None)


SMALL = {"*": "fixed", "learning_rate": {}, "dropout": {}, "n_heads": [1, 2]}


def drawn(sampler: str, seed: int, worker: str = "one", n: int = 12) -> list[dict[str, Any]]:
    """Parameters that a study draws, a sampler for each trial as workers make them."""
    given = SMALL if sampler != "grid" else {**SMALL, "learning_rate": [1e-3, 1e-2]}
    found = space(given)
    study = optuna.create_study(direction="maximize")
    for number in range(n):
        study.sampler = make_sampler(sampler, seed, found, number, worker)
        trial = study.ask(found.distributions)
        study.tell(trial, -abs(trial.params["dropout"] - 0.3))
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_draw_by_their_seed(sampler: str) -> None:
    first = drawn(sampler, 1)
    assert drawn(sampler, 1) == first
    assert drawn(sampler, 2) != first
    if sampler == "grid":
        assert len({tuple(params.values()) for params in first}) == len(first)
    else:
        assert drawn(sampler, 1, "another") != first


def test_the_median_pruner_leaves_each_trial_its_first_epochs() -> None:
    study = optuna.create_study(direction="maximize", pruner=make_pruner("median", 30))
    for _ in range(6):
        trial = study.ask()
        for epoch in range(1, 6):
            trial.report(0.5, epoch)
        study.tell(trial, 0.5)
    trial, pruned = study.ask(), []
    for epoch in range(1, 6):
        trial.report(0.1, epoch)
        pruned.append(trial.should_prune())
    assert pruned == [False, False, True, True, True]


@pytest.mark.parametrize("pruner", PRUNERS)
def test_pruners_are_made(pruner: str) -> None:
    assert isinstance(make_pruner(pruner, 10), optuna.pruners.BasePruner)


@pytest.mark.parametrize("pruner", ["median", "hyperband", "halving"])
def test_pruners_end_what_is_worse_by_its_epochs(pruner: str) -> None:
    """After good trials, trials that are ever worse end early."""
    study = optuna.create_study(study_name="s", direction="maximize", pruner=make_pruner(pruner, 9))
    lived = []
    for quality in [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, *[0.4 - 0.01 * number for number in range(12)]]:
        trial = study.ask()
        for epoch in range(1, 10):
            trial.report(quality * epoch / 9, epoch)
            if trial.should_prune():
                break
        lived.append(epoch)
        state = optuna.trial.TrialState.COMPLETE if epoch == 9 else optuna.trial.TrialState.PRUNED
        study.tell(trial, quality if epoch == 9 else None, state)
    assert lived[0] == 9
    assert sum(epochs < 9 for epochs in lived[6:]) >= 6  # one of hyperband's brackets prunes nothing


def test_wilcoxon_ends_what_is_worse_on_the_same_users() -> None:
    """Blocks of users differ much more among themselves than the trials do: only pairs can tell them apart."""
    study = optuna.create_study(direction="maximize", pruner=make_pruner("wilcoxon", 9))
    generator = np.random.default_rng(0)
    hardness = generator.uniform(0, 1, 20)

    def blocks(offset: float) -> int:
        """How many blocks are evaluated."""
        trial, values = study.ask(), hardness + offset + generator.normal(0, 0.005, 20)
        for number, value in enumerate(values):
            trial.report(value, number)
            if number + 1 < len(values) and trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                return number + 1
        study.tell(trial, float(values.mean()))
        return len(values)

    assert blocks(0.0) == 20
    assert 6 <= blocks(-0.05) < 20
    assert blocks(0.05) == 20


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_blocks_are_pruned_as_by_optunas_pruner(direction: str) -> None:
    """Of few values, so that SciPy tries all signs as well."""
    generator = np.random.default_rng(1)
    kinds = (make_pruner("wilcoxon", 9), optuna.pruners.WilcoxonPruner(p_threshold=0.05, n_startup_steps=6))
    study = optuna.create_study(direction=direction)
    sign = 1 if direction == "maximize" else -1
    decisions = []
    for number in range(16):
        trial, values = study.ask(), sign * (generator.integers(0, 4, 8) - 1.2 * (number % 4 > 0))
        for step, value in enumerate(values):
            trial.report(float(value), step)
            frozen = study.trials[-1]
            decisions.append([each.prune(study, frozen) for each in kinds])
        study.tell(trial, float(values.mean()))
    assert all(ours == theirs for ours, theirs in decisions)
    assert 3 < sum(ours for ours, _ in decisions) < len(decisions) / 2


def test_the_chance_of_signed_ranks_is_scipys() -> None:
    generator = np.random.default_rng(0)
    for number in range(60):
        n = int(generator.integers(2, 9))
        gains = generator.integers(-3, 4, n) / 10 if number % 2 else generator.normal(size=n)
        expected = stats.wilcoxon(gains, alternative="less", zero_method="zsplit").pvalue
        assert p_of_signed_ranks(gains) == pytest.approx(expected)


def test_blocks_without_a_number_or_a_best_trial_prune_nothing() -> None:
    study, pruner = optuna.create_study(direction="maximize"), make_pruner("wilcoxon", 9)
    for values in (np.ones(9), np.full(9, -np.inf), np.zeros(9)):
        trial = study.ask()
        for step, value in enumerate(values):
            trial.report(float(value), step)
        decided = pruner.prune(study, study.trials[-1])
        told = (
            {"values": float(values.mean())} if np.isfinite(values).all() else {"state": optuna.trial.TrialState.FAIL}
        )
        study.tell(trial, **told)
        assert decided == (trial.number == 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tpy", "none", 1, 5), "sampler = 'tpy' does not exist; did you mean tpe\\? There are tpe,"),
        (("tpe", "mean", 1, 5), "pruner = 'mean' does not exist"),
        (("nsga2", "median", 2, 5), "are not pruned"),
        (("cmaes", "none", 2, 5), "for one objective"),
        (("grid", "none", 1, 99), "99 is more than the 32 points"),
    ],
)
def test_what_cannot_work_together_is_refused(arguments: tuple[str, str, int, int], message: str) -> None:
    sampler, pruner, n_objectives, n_trials = arguments
    with pytest.raises(ConfigError, match=message):
        check(sampler, pruner, space({**SMALL, "learning_rate": [1e-3, 1e-2]}), n_objectives, n_trials)


def test_a_value_that_is_given_twice_is_one_point_of_a_grid() -> None:
    given = {"*": "fixed", "dropout": [0.1, 0.1, 0.2], "n_layers": [1, 2, 1]}
    twice = space(given)
    check("grid", "none", twice, 1, 4)
    with pytest.raises(ConfigError, match="5 is more than the 4 points"):
        check("grid", "none", twice, 1, 5)
    study = optuna.create_study()
    for number in range(4):
        study.sampler = make_sampler("grid", 0, twice, number, "a")
        study.tell(study.ask(twice.distributions), 0.0)
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 4


def test_objects_are_kept_by_their_specifications() -> None:
    given = {
        "models": [rg.models.EASE(l2=5), "popularity", {"name": "itemknn"}],
        "augmentations": (registry.make("augmentation", {"name": "crop", "ratio": 0.3}),),
        "dropout": np.linspace(0, 0.5, 3),
        "hidden_dim": {"choices": [np.int64(8), 16]},
        "views": ("crop", "mask"),
    }
    assert plain(given) == {
        "models": [{"name": "ease", "l2": 5.0}, "popularity", {"name": "itemknn"}],
        "augmentations": [{"name": "crop", "ratio": 0.3}],
        "dropout": [0.0, 0.25, 0.5],
        "hidden_dim": {"choices": [8, 16]},
        "views": ("crop", "mask"),
    }


def test_objects_that_a_study_cannot_keep() -> None:
    class Own(rg.models.EASE):
        pass

    with pytest.raises(ValueError, match=r"model Own is not registered; decorate the class with @register\('model'\)"):
        plain({"models": [Own()]})
    for value in (object(), [rg.models.EASE()], {"a": {1, 2}}):
        with pytest.raises(ConfigError, match="'loss_options': a study keeps numbers, texts, lists and dictionaries"):
            plain({"loss_options": value})
