"""Defaults of training that are a model's own: in a fit, on the command line, in a board's address and in a search."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

import recgraph as rg
from recgraph import registry
from recgraph.cli.app import app
from recgraph.config import ConfigError
from recgraph.leaderboard.board import EntrySpec, SheetSpec
from recgraph.leaderboard.plan import jobs_of
from recgraph.models.base import TrainableModel
from recgraph.runs.fit import parts_of
from recgraph.train.config import TrainConfig
from recgraph.tuning.plan import Plan

#: a model with own defaults, and one without
OWN, GENERAL = "lightgcn", "sasrec"
NAMES = ("batch_size", "learning_rate")


def defaults(name: str) -> dict[str, Any]:
    return {each: getattr(parts_of(registry.load("model", name))["training"](), each) for each in NAMES}


def test_models_of_pairs_take_large_batches_at_a_high_rate() -> None:
    assert defaults(OWN) == defaults("meowrec") == defaults("bprmf") == {"batch_size": 4096, "learning_rate": 0.01}
    assert defaults(GENERAL) == TrainConfig().model_dump(include={*NAMES})
    assert parts_of(registry.load("model", "heco"))["training"]().model_dump(include={*NAMES}) == defaults(GENERAL)


def test_own_defaults_are_settings_of_training_with_a_range() -> None:
    for name in registry.names("model"):
        model = registry.load("model", name)
        for setting, (default, search) in getattr(model, "training_defaults", {}).items():
            TrainConfig.of({setting: default})
            ends = search.choices or (search.low, search.high)
            assert min(ends) <= default <= max(ends)


@pytest.mark.parametrize("given", [{}, {"batch_size": 16}, {"learning_rate": 0.1, "batch_size": 8}])
def test_what_is_given_comes_before_what_is_the_models_own(given: dict[str, Any]) -> None:
    rows = [(user, (user + step) % 9, step) for user in range(12) for step in range(6)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    split = rg.Interactions.from_frame(frame, user="user", item="item", timestamp="time").split("leave-one-out")
    run = rg.fit(OWN, split, seed=0, device="cpu", max_epochs=1, **given)
    assert {name: run.record["training"][name] for name in NAMES} == defaults(OWN) | given
    with pytest.raises(ConfigError, match=r"batch_size = 0: .*>= 1"):
        rg.fit(OWN, split, seed=0, device="cpu", max_epochs=1, batch_size=0)


def test_the_command_line_shows_them() -> None:
    shown = CliRunner().invoke(app, ["models", OWN, "--format", "json"])
    rows = {row["setting"]: row["default"] for row in json.loads(shown.stdout)}
    assert {name: float(rows[name]) for name in NAMES} == defaults(OWN)


def test_they_are_in_the_address_of_a_boards_entry() -> None:
    def address(**settings: Any) -> str:
        entry = EntrySpec.of({"model": OWN, "settings": settings})
        sheet = SheetSpec.of({"dataset": "synthetic", "metrics": ["ndcg@10"], "models": [entry.model_dump()]})
        return jobs_of(sheet, entry)[0].entry

    assert address() == address(**defaults(OWN)) != address(**defaults(GENERAL))


def test_a_search_has_their_ranges() -> None:
    spaces = {name: Plan("s", registry.load("model", name), ("ndcg@10",), 1).space for name in (OWN, GENERAL)}
    for setting in NAMES:
        dimension = spaces[OWN].dimensions[setting]
        own = registry.load("model", OWN).training_defaults[setting][1]
        assert (dimension.low, dimension.high, dimension.choices) == (own.low, own.high, own.choices)
        assert spaces[GENERAL].dimensions[setting] != dimension
    assert issubclass(registry.load("model", OWN), TrainableModel)
