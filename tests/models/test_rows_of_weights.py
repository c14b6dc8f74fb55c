"""How rows of weights of nodes without features begin: resolved by the graph, recorded, and the user's word first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import recgraph as rg
from recgraph import registry
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.spectral import coordinates
from recgraph.models.heterogeneous.base import GraphModel
from recgraph.rng import Generators

SMALL: dict[str, dict[str, Any]] = {
    "meow": {"prototypes": {"n_clusters": (2,)}},
    "adameow": {},
    "heco": {},
}


def graph(features: bool = False) -> HeteroGraph:
    draw = torch.Generator().manual_seed(0)
    ends = torch.arange(60) % 20, torch.randint(12, (60,), generator=draw)
    made = HeteroGraph.from_edge_lists({"paper": 20, "author": 12}, {("paper", "by", "author"): ends})
    return made.with_features({"paper": torch.rand(20, 5, generator=draw)}) if features else made


def built(name: str, of: HeteroGraph, **settings: Any) -> GraphModel:
    cls = registry.load("model", name)
    made: GraphModel = cls(metapaths=("paper-author-paper",), hidden_dim=8, **{**SMALL[name], **settings})
    return made.build(of, seed=3)


@pytest.mark.parametrize("name", SMALL)
def test_without_features_of_the_target_rows_begin_at_spectral_coordinates(name: str) -> None:
    model = built(name, graph())
    assert model.resolved["rows"] == "spectral"
    expected = coordinates(graph(), 8, Generators(model._seed).fresh("rows"))
    layers: Any = dict(zip(model.types, model.type_layers, strict=True))  # type: ignore[arg-type]
    for node_type, layer in layers.items():
        assert torch.equal(layer.linear.weight, model.rows_std * expected[node_type].t())
        assert not bool(layer.linear.bias.any())


def test_what_the_user_sets_wins() -> None:
    given, auto = built("meow", graph(), rows="random"), built("meow", graph())
    assert given.resolved["rows"] == "random"
    assert float(given.type_layers[0].linear.bias.detach().abs().max()) > 0  # type: ignore[index, union-attr]
    # all that does not begin at coordinates is the same
    for key, value in given.state_dict().items():
        assert key.startswith("type_layers") or torch.equal(value, auto.state_dict()[key])
    with_features = built("meow", graph(features=True), rows="spectral")
    assert with_features.resolved["rows"] == "spectral"
    expected = coordinates(graph(features=True), 8, Generators(with_features._seed).fresh("rows"))
    author: Any = with_features.type_layers[with_features.types.index("author")]
    assert torch.equal(author.linear.weight, expected["author"].t())


def test_what_the_graph_decided_is_recorded(tmp_path: Path) -> None:
    model = registry.load("model", "heco")(metapaths=("paper-author-paper",), hidden_dim=8, dropout=0.3)
    run = rg.fit_graph(model, graph(), seed=0, max_epochs=1, out=tmp_path / "run")
    resolved = rg.Run.open(tmp_path / "run").record.resolved
    assert resolved is not None
    assert resolved["rows"] == "spectral"
    assert {"contrast.temperature", "n_positives", "attention_dropout"} <= set(resolved)
    assert "dropout" not in resolved  # it was given
    assert run.record.config["rows"] == "auto"
    # the bundle has the rows as they are after training
    again = rg.load(tmp_path / "run").model
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
