"""The plan, the searches, the boards and the report of the study of components (``experiments/components``)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.components import __main__ as commands
from experiments.components import boards, page, report, search
from experiments.components.plan import BASES, ITSELF, Base, Component, components
from experiments.marked import marked
from recgraph import leaderboard, registry
from recgraph.config import ConfigError
from recgraph.train.config import TrainConfig
from recgraph.tuning.space import SearchSpace

PAIRS = [(dataset, name) for name, base in BASES.items() for dataset in base.settings]


@pytest.mark.parametrize("name", BASES)
def test_each_component_is_a_configuration_of_its_base(name: str) -> None:
    base = BASES[name]
    model = registry.load("model", base.model)
    found = list(components(base))
    assert len({one.title for one in found}) == len(found) > 10
    training = {"batch_size", "learning_rate", "metric", "max_epochs", "patience"}
    for settings in base.settings.values():
        for one in found:
            fixed = {key: value for key, value in settings.items() if key not in training}
            assert model(**{**fixed, **one.settings}).config is not None
            for option in one.space:
                assert one.name in one.settings[option.partition(".")[0]]
            parts = {"model": model.Config, "training": TrainConfig}
            space = {**base.common, **one.space, "*": "fixed"}
            searched = SearchSpace.of(parts, {**settings, **one.settings}, space)
            # the first trial has the defaults of the base and of the part
            assert (searched.default() or {}).keys() == searched.dimensions.keys(), one.title


def _study(folder: Path, dataset: str, base: str, component: Component, value: float, **params: object) -> None:
    trial = {"number": 0, "state": "complete", "values": [value], "params": params}
    path = folder / "studies" / dataset / base / f"{component.stem}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"trials": [trial, {"state": "pruned", "values": None}]}))


def test_the_best_of_each_kind_that_gained_on_valid_are_taken_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "RESULTS", tmp_path)
    weights = [Component("weight", name, {"weight": name}) for name in ("learned", "self_mask")]
    terms = Component("regulariser", "alignment")
    objective = Component("objective", "info_nce", {"objective": "info_nce"})
    _study(tmp_path, "ml-100k", "sasrec", ITSELF, 0.10, temperature=0.5)
    _study(tmp_path, "ml-100k", "sasrec", weights[0], 0.11, temperature=0.3, **{"weight.normalise": True})
    _study(tmp_path, "ml-100k", "sasrec", weights[1], 0.12, temperature=0.4)
    _study(tmp_path, "ml-100k", "sasrec", terms, 0.105, regularisers='{"alignment": 0.1}')
    _study(tmp_path, "ml-100k", "sasrec", objective, 0.09)
    best = search.together("ml-100k", "sasrec", [*weights, terms, objective])
    assert best is not None
    assert best.settings == {"weight": "self_mask", "regularisers": {"alignment": 0.1}}
    assert search.together("ml-100k", "sasrec", [objective]) is None
    # no candidates, so none to weigh: the second best kind that goes with it is taken instead
    alone = Component("objective", "barlow_twins", {"objective": "barlow_twins", "weight": None})
    _study(tmp_path, "ml-100k", "sasrec", alone, 0.13)
    best = search.together("ml-100k", "sasrec", [*weights, terms, alone])
    assert best is not None
    assert best.title == "together: objective: barlow_twins + regulariser: alignment"
    # the best weight is taken, so that what sets the weight otherwise is not
    slow = Component("slow copy", "byol", {"target_momentum": 0.99, "weight": None})
    _study(tmp_path, "ml-100k", "sasrec", slow, 0.115)
    best = search.together("ml-100k", "sasrec", [*weights, terms, slow])
    assert best is not None
    assert best.title == "together: weight: self_mask + regulariser: alignment"
    all_four = [*weights, terms, objective]
    assert search.tested("ml-100k", "sasrec", all_four, 1) == [weights[1], terms, objective]
    assert search.tested("ml-100k", "sasrec", all_four, 2) == [weights[1], weights[0], terms, objective]


def test_the_best_of_other_data_sets_are_those_that_gained_most_on_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "RESULTS", tmp_path)
    steady, lucky, once = (Component("weight", name) for name in ("learned", "self_mask", "hardness"))
    for dataset, own, values in (("ml-100k", 0.1, (0.11, 0.13)), ("lastfm-hin", 0.2, (0.24, 0.16))):
        _study(tmp_path, dataset, "lightgcn", ITSELF, own)
        for component, value in zip((steady, lucky), values, strict=True):
            _study(tmp_path, dataset, "lightgcn", component, value)
    _study(tmp_path, "ml-100k", "lightgcn", once, 0.2)
    found = [once, lucky, steady]
    assert search.best_of(["ml-100k"], "lightgcn", found, 2) == [once, lucky]
    assert search.best_of(["ml-100k", "lastfm-hin"], "lightgcn", found, 2) == [steady, lucky]
    with pytest.raises(ConfigError, match="yelp-hin has no study of the base"):
        search.best_of(["ml-100k", "yelp-hin"], "lightgcn", found, 2)


def test_the_page_has_what_was_found() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert marked(text, "components", page.tables()) == text
    for dataset, base in PAIRS:
        if searched := page.valid_table(dataset, base):
            assert searched in text
            assert searched.count("\n| ") > 2


@pytest.mark.slow
def test_from_the_searches_to_the_differences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"regime": "causal", "metric": "ndcg@10", "max_epochs": 2, "batch_size": 64}
    small = Base("cl4srec", "sasrec", {"temperature": {"low": 0.3, "high": 1.0}}, {"synthetic": settings})
    monkeypatch.setitem(BASES, "small", small)
    monkeypatch.setattr(search, "RESULTS", tmp_path / "results" / "components")
    monkeypatch.setattr(boards, "FOLDER", tmp_path / "components")
    (tmp_path / "components").mkdir()
    chosen = [ITSELF, Component("similarity", "cosine", {"similarity": "cosine"})]
    for component in chosen:
        assert search.search("synthetic", "small", component, 2, tmp_path / "work") == "made"
        assert search.search("synthetic", "small", component, 2, tmp_path / "work") == "kept"
    file = boards.write_board("synthetic", "small", chosen[1:], 2)
    summary = leaderboard.run(str(file), results=tmp_path / "results", device="cpu")
    assert not summary.failed
    found = report.differences([("synthetic", "small")], tmp_path / "results")
    assert {one.component for one in found} == {"no contrast", "similarity: cosine"}
    assert all(0 <= one.p <= one.p_adjusted <= 1 for one in found)
    assert all(one.low <= one.mean - one.base_mean <= one.high for one in found)
    assert report.table(found, "seen excluded").count("\n") == 2 + 2
    for path in (tmp_path / "results").rglob("*.parquet"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="run the board with --values"):
        report.differences([("synthetic", "small")], tmp_path / "results")
    assert report.differences([("synthetic", "small")], tmp_path / "results", before=found) == found


def test_a_search_of_some_components_keeps_their_order(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    searched: list[str] = []

    def one(dataset: str, base: str, component: Component, trials: int, work: Path) -> str:
        searched.append(component.title)
        return "made"

    monkeypatch.setattr(commands, "search", one)
    asked = ["search", "--base", "lightgcn", "--only"]
    assert commands.main([*asked, "objective: barlow_twins", "base", "weight: cluster"]) == 0
    assert searched == ["objective: barlow_twins", "base", "weight: cluster"]
    with pytest.raises(SystemExit):
        commands.main([*asked, "weight: clusters"])
    assert "'weight: clusters' is no component of lightgcn" in capsys.readouterr().err
