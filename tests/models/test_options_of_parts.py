"""Options of parts are checked where a model is configured: against those of the part, without what the model gives."""

from __future__ import annotations

from typing import Any

import pytest

from recgraph import registry
from recgraph.config import ConfigError
from recgraph.models.sequence.sasrec import SASRec
from recgraph.models.settings import saved_settings
from recgraph.train.config import TrainConfig
from recgraph.tuning.space import SearchSpace


@pytest.mark.parametrize(
    ("model", "settings", "match"),
    [
        ("meow", {"objective_options": {"dim": 8}}, "objective_options of 'info_nce': unknown setting 'dim'"),
        ("meow", {"objective": "multi_head", "objective_options": {"dim": 8}}, "dim = 8 is given by the model; leave"),
        ("meow", {"weight": "cluster", "weight_options": {"n_cluster": 8}}, "did you mean n_clusters"),
        ("meow", {"encoder_options": {"dropout": 0.1}}, r"dropout = 0\.1 is given by the model; write dropout = 0\.1"),
        ("sasrec", {"item_graph": "transitions", "item_graph_options": {"n_items": 5}}, "n_items = 5 is given by"),
        ("lightgcn", {"loss": "ccl", "loss_options": {"margn": 0.5}}, "loss_options of 'ccl': .* did you mean margin"),
        ("mclrec", {"augmenter_options": {"hidden_dim": 8}}, "hidden_dim = 8 is given by the model"),
        ("mclrec", {"augmenter_options": {"variant": "row"}}, "variant = 'row' is given by the model; leave it out"),
        ("simplex", {"aggregator_options": {"hidden_dim": 8}}, "hidden_dim = 8 is given by the model"),
        ("twostage", {"models": ("ease",), "ranker_options": {"seed": 3}}, "seed = 3 is given by the model"),
    ],
)
def test_others_are_refused(model: str, settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        registry.load("model", model)(**settings)


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("meow", {"twin": "latent", "augmenter": "conv", "augmenter_options": {"variant": "published"}}),
        ("meowrec", {"encoder_options": {"n_layers": 2}}),
        ("sasrec", {"loss": "bce", "loss_options": {"popularity_power": 0.5, "n_negatives": 3}}),
        ("bprmf", {"loss_options": {"popularity_power": 0.5}}),
        ("simplex", {"dropout": 0.0, "loss_options": {"dropout": 0.1}}),
        ("sasrec", {"encoder": "one_of_a_file_to_come", "encoder_options": {"n_layers": 2}}),
    ],
)
def test_those_of_the_part_are_taken(model: str, settings: dict[str, Any]) -> None:
    assert registry.load("model", model)(**settings).config


def test_saved_ones_are_read_as_they_are() -> None:
    with saved_settings():
        assert SASRec(loss_options={"margn": 3}).config.loss_options == {"margn": 3}


def test_what_a_model_gives_is_not_searched() -> None:
    parts = {"model": SASRec.Config, "training": TrainConfig}
    with pytest.raises(ConfigError, match=r"space of 'encoder.dropout': .* unknown setting 'dropout'"):
        SearchSpace.of(parts, {}, {"encoder.dropout": [0.1, 0.2]})
    with pytest.raises(ConfigError, match=r"loss_options of 'bce': unknown setting 'powr'"):
        SearchSpace.of(parts, {"loss": "bce", "loss_options": {"powr": 1}}, {"hidden_dim": [8, 16]})
