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
from recgraph.tuning.space import SearchSpace


@pytest.mark.parametrize("model", ["meow", "adameow", "meowrec"])
@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"augmenter": "conv"}, "augmenter = 'conv' has no effect on twin = 'masked'"),
        ({"augmenter_options": {"nonsense": 3}}, "augmenter_options = .* has no effect on twin = 'masked'"),
        ({"twin": "latent", "augmentations": ("node_drop",)}, "augmentations = .* has no effect on twin = 'latent'"),
        ({"twin": "none", "augmenter": "conv"}, "augmenter = 'conv' has no effect on twin = 'none'"),
        ({"twin": "latent", "feature_mask": 0.1}, r"feature_mask = 0\.1 has no effect on twin = 'latent'"),
        (
            {"twin": "none", "context_dropout": "separate"},
            "context_dropout = 'separate' has no effect on twin = 'none'",
        ),
        ({"top_k": None, "ties": "cosine"}, "ties = 'cosine' has no effect without top_k"),
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
        {"queue_size": 100},
    ],
)
def test_of_batches_that_are_not_made(model: str, settings: dict[str, Any]) -> None:
    cls, (name,) = registry.load("model", model), settings
    with pytest.raises(ConfigError, match=f"{name} = .* has no effect without mini_batch = True; set it"):
        cls(**settings)
    assert cls.Config.of(cls(mini_batch=True, **settings).config.model_dump()).mini_batch


@pytest.mark.parametrize("model", ["meow", "adameow", "heco"])
@pytest.mark.parametrize("settings", [{"pseudo_weight": 0.5}, {"pseudo_temperature": 0.5}])
def test_of_classes_that_are_not_learned(model: str, settings: dict[str, Any]) -> None:
    cls, (name,) = registry.load("model", model), settings
    with pytest.raises(ConfigError, match=f"{name} = 0.5 has no effect without n_classes; give it"):
        cls(**settings)
    assert cls(n_classes=3, **settings).config.n_classes == 3


@pytest.mark.parametrize("model", ["sasrec", "bprmf"])
@pytest.mark.parametrize(
    "settings",
    [
        {"distil_weight": 5.0},
        {"distil_by": "regression"},
        {"distil_temperature": 2.0},
        {"distil_candidates": 64},
    ],
)
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


@pytest.mark.parametrize(
    ("model", "settings", "match"),
    [
        ("sasrec", {"encoder": "gru", "n_heads": 4}, "n_heads = 4 has no effect with encoder = 'gru'"),
        ("sasrec", {"encoder": "hstu", "inner_dim": 8}, "inner_dim = 8 has no effect with encoder = 'hstu'"),
        ("bsarec", {"encoder": "transformer", "alpha": 0.1}, r"alpha = 0\.1 has no effect with encoder"),
        ("gru4rec", {"encoder": "hstu", "inner_dim": 8}, "inner_dim = 8 has no effect with encoder"),
        ("fuxialpha", {"encoder": "hstu", "inner_dim": 8}, "inner_dim = 8 has no effect with encoder"),
        ("sasrec", {"n_negatives": 8}, "n_negatives = 8 has no effect with loss = 'full_softmax', which draws none"),
        ("bprmf", {"loss": "full_softmax", "popularity_power": 0.5}, "popularity_power = .* has no effect with loss"),
        ("cl4srec", {"temperature_epochs": 3}, "temperature_epochs = 3 has no effect without a schedule"),
        ("meow", {"twin": "latent", "redraw_masks": True}, "redraw_masks = True has no effect on twin = 'latent'"),
        (
            "bprmf",
            {"teacher": "runs/one", "distil_by": "regression", "distil_temperature": 2.0},
            r"distil_temperature = 2\.0 has no effect with distil_by = 'regression'",
        ),
        (
            "sasrec",
            {"item_features": ["kind"], "item_id_embedding": False, "item_id_dropout": 0.5},
            "item_id_dropout = .* has no effect where item_id_embedding = False",
        ),
        ("duorec", {"augmentations": ("crop",)}, "augmentations = .* has no effect in DuoRec"),
        ("cl4srec", {"regime": "prefix", "contrast_of": "sequence"}, "contrast_of = .* in regime = 'prefix'"),
        ("sgl", {"augmentations": ("edge_drop",), "graph_view": "node_drop"}, "graph_view = 'node_drop' has no effect"),
        (
            "sgl",
            {"augmentations": ({"name": "edge_drop", "ratio": 0.2},), "drop_rate": 0.3},
            "drop_rate = 0.3 has no effect with augmentations that have a ratio each",
        ),
        (
            "heco",
            {"objective": "nt_xent", "n_positives": 1, "schema_weight": 0.3},
            "schema_weight = 0.3 has no effect with objective = 'nt_xent'",
        ),
        (
            "cl4srec",
            {"objective": "sim_siam", "temperature_schedule": "linear", "temperature_end": 0.1},
            "temperature_schedule = 'linear' has no effect with objective = 'sim_siam'",
        ),
    ],
)
def test_of_parts_that_do_not_read_them(model: str, settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        registry.load("model", model)(**settings)


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("sasrec", {"encoder": "gru", "n_layers": 1, "inner_dim": 8}),
        ("sasrec", {"loss": "bce", "n_negatives": 8}),
        ("mclrec", {"objective": "vicreg", "temperature": 0.5}),  # the margin reads it
        ("cl4srec", {"objective": "vicreg", "temperature": 0.5}),  # as records have it
        ("sgl", {"augmentations": ("edge_drop",), "graph_view": "random_walk", "drop_rate": 0.3}),
        # beside a weight of 0, so that an ablation changes the weight alone
        ("mclrec", {"latent_weight": 0.0, "margin_weight": 0.3, "shared_augmenter": True}),
        ("ncl", {"proto_weight": 0.0, "n_clusters": (7,)}),
        ("ultragcn", {"neighbour_weight": 0.0, "n_neighbours": 3}),
        ("simplex", {"own_weight": 1.0, "aggregator": "self_attention"}),
    ],
)
def test_what_is_read_is_taken(model: str, settings: dict[str, Any]) -> None:
    assert registry.load("model", model)(**settings).config.model_dump().items() >= settings.items()


@pytest.mark.parametrize(
    ("model", "settings", "unread"),
    [
        ("mclrec", {"latent_weight": 0.0}, {"margin_weight"}),
        ("mclrec", {"latent_weight": 0.0, "view_weight": 0.0}, {"margin_weight", "temperature"}),
        ("xsimgcl", {"contrast_weight": 0.0}, {"temperature"}),
        ("cl4srec", {"contrast_weight": 0.0}, {"temperature"}),
        ("duorec", {"supervised_weight": 0.0, "unsupervised_weight": 0.0}, {"temperature"}),
        ("meowrec", {"contrast_weight": 0.0}, {"temperature"}),
        ("bsarec", {"alpha": 0.0}, {"c"}),
        ("bert4rec", {"last_share": 1.0}, {"mask_ratio"}),
        ("ncl", {"proto_weight": 0.0}, {"n_clusters"}),
        ("ultragcn", {"neighbour_weight": 0.0}, {"n_neighbours"}),
        ("simplex", {"own_weight": 1.0}, {"aggregator"}),
    ],
)
def test_what_a_weight_of_0_leaves_is_not_searched(model: str, settings: dict[str, Any], unread: set[str]) -> None:
    parts = {"model": registry.load("model", model).Config}
    assert unread <= SearchSpace.of(parts, {}).dimensions.keys()
    assert not unread & SearchSpace.of(parts, settings).dimensions.keys()


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_no_setting_is_infinite(value: float) -> None:
    with pytest.raises(ConfigError, match=r"temperature = \w+: Input should be a finite number"):
        rg.models.CL4SRec(temperature=value)
    for kind, name, option in (
        ("regulariser", "alignment", "coefficient"),
        ("objective", "barlow_twins", "redundancy"),
        ("loss", "ccl", "negative_weight"),
        ("augmentation", "crop", "ratio"),
    ):
        with pytest.raises(ConfigError, match=f"{option} = "):
            registry.make(kind, {"name": name, option: value})
