"""Whitened and gated contrasts on both lines, and what meta-paths say of categories."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
import torch
from every_model import SPACE, graph, of_nodes, part, recommender

from recgraph import registry
from recgraph.data.ids import IdMap
from recgraph.data.item_categories import user_categories
from recgraph.data.item_features import ItemFeatures
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath
from recgraph.models.base import FeatureSpace, TrainableModel
from recgraph.models.heterogeneous.categories import about_nodes
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged
from recgraph.train.phases import total_loss

WHITENED: dict[str, Any] = {"transform": "shuffled_group_whitening", "transform_options": {"group_size": 4}}
GATED: dict[str, Any] = {"transform": "gate"}


def space() -> FeatureSpace:
    ids = [str(item) for item in range(SPACE.n_items)]
    frame = pl.DataFrame({"item": ids, "genre": [["a"], ["b"], ["c"]] * 10})
    known = torch.ones(SPACE.n_items, dtype=torch.bool)
    features = ItemFeatures.learn(frame, "item", IdMap(pl.Series(ids)), known, ("genre",))
    return FeatureSpace(n_users=SPACE.n_users, n_items=SPACE.n_items, features=features)


def step(model: TrainableModel, batch: Any) -> None:
    model.train()
    for phase in model.phases:
        loss = total_loss(model(batch, tuple(phase.terms)), phase)
        loss.backward()
        assert torch.isfinite(loss), phase
    gradients = [parameter.grad for name, parameter in model.named_parameters() if "transform" in name]
    assert all(grad is not None and bool(grad.any()) for grad in gradients)


@pytest.mark.parametrize("settings", [WHITENED, GATED], ids=["whitened", "gated"])
@pytest.mark.parametrize("name", ["CL4SRec", "MCLRec"])
def test_sequences(name: str, settings: dict[str, Any]) -> None:
    model = registry.load("model", name)(
        hidden_dim=8, n_layers=1, n_heads=1, inner_dim=8, max_len=8, item_features=("genre",), **settings
    )
    model.build(space())
    step(model, next(iter(model.batches(part(), 24, Generators(0)).epoch(0))))


@pytest.mark.parametrize("settings", [WHITENED, GATED], ids=["whitened", "gated"])
@pytest.mark.parametrize("name", ["meow", "adameow", "heco"])
def test_nodes(name: str, settings: dict[str, Any]) -> None:
    model = of_nodes(name, **settings)
    step(model, next(iter(model.batches(None, 8, Generators(0)).epoch(0))))


@pytest.mark.parametrize("name", ["sgl", "simgcl", "meowrec"])
def test_users_and_items_whitened(name: str) -> None:
    model = recommender(name, **WHITENED)
    assert isinstance(model, TrainableModel)
    step(model, next(iter(model.batches(part(), 64, Generators(0)).epoch(0))))


@pytest.mark.parametrize("name", ["ncl", "sgl", "simgcl", "xsimgcl"])
def test_users_and_items_gated(name: str) -> None:
    model = registry.load("model", name)(hidden_dim=8, category_features=("genre",), **GATED)
    model.build(space())
    step(model, next(iter(model.batches(part(), 64, Generators(0)).epoch(0))))
    of_users = model.contrast_users.transform._categories - 1
    for user, items in enumerate(part().items.to_lists()):
        genres = [item % 3 for item in items]
        assert int(of_users[user]) == min(set(genres), key=lambda genre: (-genres.count(genre), genre), default=-1)


def test_categories_of_users() -> None:
    items = Ragged.from_lists([[0, 1, 2], [3, 3, 0], [4], [], [1, 2, 4]])
    found = user_categories(items, torch.tensor([5, 2, 2, 7, -1]))
    assert found.tolist() == [2, 7, -1, -1, 2]
    assert user_categories(items, torch.full((5,), -1)).tolist() == [-1] * 5
    assert user_categories(Ragged.from_lists([[], []]), torch.tensor([1])).tolist() == [-1, -1]


def test_users_and_items_without_categories_are_refused() -> None:
    settings: dict[str, Any] = {"hidden_dim": 8, **GATED}
    model = registry.load("model", "simgcl")(**settings).build(SPACE)
    with pytest.raises(ValueError, match="SGL and SimGCL of category_features"):
        model.batches(part(), 64, Generators(0))
    with pytest.raises(ValueError, match=r"needs the features: build\(FeatureSpace"):
        registry.load("model", "simgcl")(category_features="all", **settings).build(SPACE)
    frame = pl.DataFrame({"item": [str(item) for item in range(SPACE.n_items)], "price": range(SPACE.n_items)})
    known = torch.ones(SPACE.n_items, dtype=torch.bool)
    features = ItemFeatures.learn(frame, "item", IdMap(frame["item"]), known, ("price",))
    given = FeatureSpace(n_users=SPACE.n_users, n_items=SPACE.n_items, features=features)
    with pytest.raises(ValueError, match=r"no column of categories: price \(number\)"):
        registry.load("model", "simgcl")(category_features=("price",), **settings).build(given)


def test_the_category_of_a_node_is_its_neighbour_of_most_neighbours() -> None:
    given = graph()
    paths = [MetaPath("paper-author-paper"), MetaPath("paper-subject-paper")]
    found = about_nodes(given, "paper", paths)
    assert found.categories is not None
    subjects = paths[1].route(given)[0].matrix(given).to_dense()
    authors = paths[0].route(given)[0].matrix(given).to_dense()
    sizes = (subjects > 0).sum(0).tolist()
    ranked = sorted(range(4), key=lambda one: (-sizes[one], one))
    for paper, row in enumerate(subjects > 0):
        numbers = [ranked.index(subject) for subject in range(4) if row[subject]]
        assert int(found.categories[paper]) == min(numbers, default=-1)
        assert float(found.counts[paper]) == int((row).sum()) + int((authors[paper] > 0).sum())
    assert about_nodes(given, "paper", paths, ("author", "subject")).categories is None


def test_all_relations_to_a_type_make_its_categories() -> None:
    on = torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0])
    about = torch.tensor([0, 2, 3, 3]), torch.tensor([2, 2, 2, 1])
    given = HeteroGraph.from_edge_lists(
        {"paper": 5, "subject": 3}, {("paper", "on", "subject"): on, ("paper", "about", "subject"): about}
    )
    paths = [MetaPath(f"paper>{name}>subject<{name}<paper") for name in ("on", "about")]
    for ordered in (paths, paths[::-1]):
        found = about_nodes(given, "paper", ordered)
        assert found.counts.tolist() == [2, 2, 1, 2, 0]
        # subject 2 has three edges, 0 and 1 two each
        assert found.categories is not None
        assert found.categories.tolist() == [0, 1, 0, 0, -1]
