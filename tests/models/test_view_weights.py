"""What models of nodes say of their views and rows of weights: attention, parts of scores, spectral
coordinates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from collaborative_cases import made, planted

import recgraph as rg
from recgraph import registry
from recgraph.data.batches import Query
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.spectral import coordinates
from recgraph.models.base import PathKey
from recgraph.models.heterogeneous.base import GraphModel
from recgraph.models.heterogeneous.recommender import MetaPathRecommender
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged

RECOMMENDERS = ("meowrec", "adameowrec")


def recommender(name: str, **settings: Any) -> MetaPathRecommender:
    model = made(name, **settings)
    assert isinstance(model, MetaPathRecommender)
    model.setup(planted()[0])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.3
            )
    return model.double().eval()


@pytest.mark.parametrize("encoder", [None, "gcn"])
@pytest.mark.parametrize("twin", ["masked", "latent", "none"])
@pytest.mark.parametrize("name", RECOMMENDERS)
def test_attention_and_parts_of_recommenders(name: str, twin: str, encoder: str | None) -> None:
    for by in ("interactions", "fine", "both"):
        model = recommender(name, twins={"kind": twin}, view_encoder=encoder, recommend_by=by)
        weights = model.path_weights()
        paths = {
            "user": ("user-user", "user-item-user"),
            "item": ("item-genre-item", "item-user-item"),
        }
        assert set(weights) >= {
            PathKey(side, path) for side, names in paths.items() for path in names
        }
        for side in ("user", "item"):
            assert sum(
                weight for view, weight in weights.items() if view.node_type == side
            ) == pytest.approx(1)
        model.known_users[5] = False
        # a known user, one who is not in the data, one of whom nothing is known, and one with
        # friends alone
        query = Query(torch.tensor([3, -1, -1, 5]), Ragged.from_lists([[0], [4, 7], [], []]))
        items = torch.tensor([[1, 9], [5, 5], [0, 29], [2, 3]])
        parts = model.score_parts(query, items)
        named = {"interactions": set(), "fine": set(weights), "both": set(weights)}[by]
        assert set(parts) == named | (set() if by == "fine" else {PathKey()})
        scores = torch.stack(list(parts.values())).sum(0)
        torch.testing.assert_close(scores, model.score(query).gather(1, items))


def test_a_part_is_the_shapley_value_of_its_view() -> None:
    """The mean over all orders of what the score gains when the view joins, by brute force."""
    from itertools import permutations

    model = recommender(
        "meowrec", item_metapaths=("item-genre-item",), user_metapaths=("user-user",)
    )
    query, items = Query(torch.tensor([3]), Ragged.from_lists([[0]])), torch.tensor([[9]])
    addends = {view: nodes.detach() for view, nodes in model._addends().items()}
    n_users = planted()[0].n_users

    def worth(views: tuple[PathKey, ...]) -> float:
        nodes = sum((addends[view] for view in views), torch.zeros_like(addends[PathKey()]))
        return float(nodes[3] @ nodes[n_users + 9])

    parts = model.score_parts(query, items)
    orders = list(permutations(addends))
    for view, value in parts.items():
        gains = [
            worth(order[: order.index(view) + 1]) - worth(order[: order.index(view)])
            for order in orders
        ]
        assert float(value) == pytest.approx(sum(gains) / len(orders))


@pytest.mark.parametrize("name", ["MEOW", "AdaMEOW", "HeCo"])
def test_attention_of_models_of_nodes(name: str) -> None:
    graph = HeteroGraph.from_edge_lists(
        {"paper": 6, "author": 3, "subject": 2},
        {
            ("paper", "by", "author"): ([0, 1, 2, 3, 4, 5, 5], [0, 0, 1, 1, 2, 2, 0]),
            ("paper", "on", "subject"): ([0, 1, 2, 3, 4, 5], [0, 0, 1, 1, 0, 1]),
        },
    )
    paths = ("paper-author-paper", "paper-subject-paper")
    model = registry.load("model", name)(metapaths=paths, hidden_dim=8).build(graph, seed=0)
    assert isinstance(model, GraphModel)
    before = model.train().state_dict()
    weights = model.path_weights()
    assert model.training
    assert list(weights) == [PathKey("paper", path) for path in paths]
    assert sum(weights.values()) == pytest.approx(1)
    torch.testing.assert_close(model.state_dict(), before)
    assert model.path_weights() == weights


# How rows of weights of nodes without features begin: resolved by the graph, recorded, and the
# user's word first


SMALL: dict[str, dict[str, Any]] = {
    "meow": {"prototypes": {"n_clusters": (2,)}},
    "adameow": {},
    "heco": {},
}


def graph(features: bool = False) -> HeteroGraph:
    draw = torch.Generator().manual_seed(0)
    ends = torch.arange(60) % 20, torch.randint(12, (60,), generator=draw)
    made = HeteroGraph.from_edge_lists(
        {"paper": 20, "author": 12}, {("paper", "by", "author"): ends}
    )
    return made.with_features({"paper": torch.rand(20, 5, generator=draw)}) if features else made


def built(name: str, of: HeteroGraph, **settings: Any) -> GraphModel:
    cls = registry.load("model", name)
    made: GraphModel = cls(
        metapaths=("paper-author-paper",), hidden_dim=8, **{**SMALL[name], **settings}
    )
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
    model = registry.load("model", "heco")(
        metapaths=("paper-author-paper",), hidden_dim=8, dropout=0.3
    )
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
