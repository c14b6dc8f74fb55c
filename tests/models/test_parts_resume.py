"""Parts that keep something from step to step, or draw: a training that was stopped goes on bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

import recgraph as rg
from recgraph import registry
from recgraph.data.split import Split

COSINE: dict[str, Any] = {"similarity": "cosine", "temperature": 0.5}
SWAV: dict[str, Any] = {"n_prototypes": 4, "frozen_epochs": 1, "queue": 12, "queue_from": 1}
#: model and settings
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "swav": ("cl4srec", {**COSINE, "objective": "swav", "objective_options": SWAV}),
    "multi_head": ("cl4srec", {**COSINE, "objective": "multi_head", "objective_options": {"n_heads": 2}}),
    "centre": ("cl4srec", {**COSINE, "transform": "centre"}),
    "shuffled_group_whitening": (
        "cl4srec",
        {**COSINE, "transform": "shuffled_group_whitening", "transform_options": {"group_size": 4}},
    ),
    "gate": ("cl4srec", {**COSINE, "transform": "gate", "item_features": ("kind",)}),
    "autotcl": ("mclrec", {"augmenter": "autotcl"}),
    "experts by category": (
        "sasrec",
        {
            "encoder": "expert_transformer",
            "encoder_options": {"n_experts": 2, "routing": "category"},
            "item_features": ("kind",),
        },
    ),
    "experts by a router": (
        "sasrec",
        {"encoder": "expert_transformer", "encoder_options": {"n_experts": 2, "routing": "learned"}},
    ),
    "masked items": ("bert4rec", {"mask_ratio": 0.4, "last_share": 0.3, "window_step": 0.7, "max_len": 3}),
    "gate of users and items": ("simgcl", {**COSINE, "transform": "gate", "category_features": "all"}),
    "a slow copy and its queue": (
        "cl4srec",
        {**COSINE, "objective": "info_nce", "queue_size": 9, "target_momentum": 0.9},
    ),
    "a slow copy without candidates": (
        "simgcl",
        {**COSINE, "objective": "simsiam", "objective_options": {"projector": [6]}, "target_momentum": 0.9},
    ),
    "prototypes of an epoch": ("ncl", {"n_clusters": (2, 3), "warm_up_epochs": 0, "weight": "cluster"}),
    "swav of users and items": ("simgcl", {**COSINE, "objective": "swav", "objective_options": SWAV}),
}


@pytest.fixture(scope="module")
def split() -> Split:
    rows = [(user, (user * 5 + 3 * place) % 12, place) for user in range(16) for place in range(5 + user % 3)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    kinds = pl.DataFrame({"item": range(12), "kind": [["a"], ["b"], ["c"]] * 4})
    log = rg.Interactions.from_frame(frame, user="user", item="item", timestamp="time", item_features=kinds)
    return log.split("leave-one-out")


@pytest.mark.parametrize("case", CASES)
def test_a_stopped_training_goes_on_bit_for_bit(case: str, split: Split, tmp_path: Path) -> None:
    name, settings = CASES[case]
    cls = registry.load("model", name)
    sizes = {"hidden_dim": 8, "n_layers": 1, "n_heads": 1, "inner_dim": 8, "max_len": 6}
    given = {**{key: value for key, value in sizes.items() if key in cls.Config.model_fields}, **settings}
    how: dict[str, Any] = {"seed": 0, "batch_size": 6, "metric": "last", "device": "cpu", "progress": False}
    whole = rg.fit(cls(**given), split, max_epochs=2, **how)
    rg.fit(cls(**given), split, max_epochs=1, out=tmp_path / "run", **how)
    resumed = rg.fit(cls(**given), split, max_epochs=2, out=tmp_path / "run", resume=True, **how)
    expected, found = whole.model.state_dict(), resumed.model.state_dict()
    assert expected.keys() == found.keys()
    differing = [key for key, value in expected.items() if not torch.equal(value, found[key])]
    assert not differing
