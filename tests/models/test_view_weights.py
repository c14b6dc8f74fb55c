"""What models tell of their views: attention that sums to 1, and parts that sum to the scores."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from collaborative_cases import made, planted

from recgraph import registry
from recgraph.data.batches import Query
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.base import PathKey
from recgraph.models.heterogeneous.base import GraphModel
from recgraph.models.heterogeneous.recommender import MetaPathRecommender
from recgraph.sparse.ragged import Ragged

RECOMMENDERS = ("meowrec", "adameowrec")


def recommender(name: str, **settings: Any) -> MetaPathRecommender:
    model = made(name, **settings)
    assert isinstance(model, MetaPathRecommender)
    model.setup(planted()[0])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.3)
    return model.double().eval()


@pytest.mark.parametrize("encoder", [None, "gcn"])
@pytest.mark.parametrize("twin", ["masked", "latent", "none"])
@pytest.mark.parametrize("name", RECOMMENDERS)
def test_attention_and_parts_of_recommenders(name: str, twin: str, encoder: str | None) -> None:
    for by in ("interactions", "fine", "both"):
        model = recommender(name, twins={"kind": twin}, view_encoder=encoder, recommend_by=by)
        weights = model.path_weights()
        paths = {"user": ("user-user", "user-item-user"), "item": ("item-genre-item", "item-user-item")}
        assert set(weights) >= {PathKey(side, path) for side, names in paths.items() for path in names}
        for side in ("user", "item"):
            assert sum(weight for view, weight in weights.items() if view.node_type == side) == pytest.approx(1)
        model.known_users[5] = False
        # a known user, one who is not in the data, one of whom nothing is known, and one with friends alone
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

    model = recommender("meowrec", item_metapaths=("item-genre-item",), user_metapaths=("user-user",))
    query, items = Query(torch.tensor([3]), Ragged.from_lists([[0]])), torch.tensor([[9]])
    addends = {view: nodes.detach() for view, nodes in model._addends().items()}
    n_users = planted()[0].n_users

    def worth(views: tuple[PathKey, ...]) -> float:
        nodes = sum((addends[view] for view in views), torch.zeros_like(addends[PathKey()]))
        return float(nodes[3] @ nodes[n_users + 9])

    parts = model.score_parts(query, items)
    orders = list(permutations(addends))
    for view, value in parts.items():
        gains = [worth(order[: order.index(view) + 1]) - worth(order[: order.index(view)]) for order in orders]
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
