"""Settings that another one leaves without effect are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import recgraph as rg
from recgraph import registry
from recgraph.config import ConfigError


@pytest.mark.parametrize("model", ["meow", "adameow", "meowrec"])
@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"augmenter": "conv"}, "augmenter = 'conv' has no effect on twin = 'masked'"),
        ({"augmenter_options": {"nonsense": 3}}, "augmenter_options = .* has no effect on twin = 'masked'"),
        ({"twin": "latent", "augmentations": ("node_drop",)}, "augmentations = .* has no effect on twin = 'latent'"),
        ({"twin": "none", "augmenter": "conv"}, "augmenter = 'conv' has no effect on twin = 'none'"),
    ],
)
def test_of_twins_that_are_not_made(model: str, settings: dict[str, Any], match: str) -> None:
    cls = registry.load("model", model)
    with pytest.raises(ConfigError, match=match):
        cls(**settings)
    written = cls(twin="latent", augmenter="conv").config.model_dump()  # as bundles have it, with all defaults
    assert cls.Config.of(written).augmenter == "conv"


@pytest.mark.parametrize("model", ["meow", "adameow"])
@pytest.mark.parametrize(
    "settings",
    [
        {"fan_out": ((3,), (3,))},
        {"context_fan_out": (2,)},
        {"sample_with_replacement": True},
        {"context_cap": 8},
    ],
)
def test_of_batches_that_are_not_made(model: str, settings: dict[str, Any]) -> None:
    cls, (name,) = registry.load("model", model), settings
    with pytest.raises(ConfigError, match=f"{name} = .* has no effect without mini_batch = True; set it"):
        cls(**settings)
    assert cls.Config.of(cls(mini_batch=True, **settings).config.model_dump()).mini_batch


@pytest.mark.parametrize("model", ["sasrec", "bprmf"])
@pytest.mark.parametrize("settings", [{"distil_weight": 5.0}, {"distil_by": "regression"}, {"distil_temperature": 2.0}])
def test_of_a_teacher_that_is_not_there(model: str, settings: dict[str, Any]) -> None:
    cls, (name,) = registry.load("model", model), settings
    with pytest.raises(ConfigError, match=f"{name} = .* has no effect without a teacher"):
        cls(**settings)
    assert cls(teacher="runs/one", **settings).config.teacher == "runs/one"


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    """A bundle of a version that took a setting without effect is a model like any other."""
    log = rg.Interactions.from_frame(
        pl.DataFrame({"user": [0, 0, 0, 1, 1, 1], "item": [0, 1, 2, 1, 2, 0], "time": range(6)}),
        user="user", item="item", timestamp="time",
    )  # fmt: skip
    model = rg.models.SASRec(hidden_dim=4, n_heads=1, n_layers=1, max_len=4)
    rg.fit(model, log, seed=0, device="cpu", max_epochs=1).recommender.save(tmp_path / "bundle")
    before = rg.load(tmp_path / "bundle").recommend([0], k=1)
    place = tmp_path / "bundle" / "config.json"
    written = json.loads(place.read_text())
    written["model"]["config"] |= {"distil_weight": 3.0, "item_id_dropout": 0.5}
    del written["imprint"]  # of what was written
    place.write_text(json.dumps(written))
    assert rg.load(tmp_path / "bundle").recommend([0], k=1).equals(before)
    with pytest.raises(ConfigError, match="has no effect"):
        rg.models.SASRec(**written["model"]["config"])
