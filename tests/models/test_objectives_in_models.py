"""Objectives beyond the softmax over candidates, by configuration in a model of each line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from collaborative_cases import first_batch, made, planted
from test_metapath_models import PATHS, SETTINGS, small
from test_sequence_parts import N_ITEMS, SMALL, step, train

from recgraph import registry
from recgraph.models.base import Space
from recgraph.models.heterogeneous.meow import MEOW, AdaMEOW
from recgraph.models.heterogeneous.node_model import MetaPathModel
from recgraph.rng import Generators

#: name -> settings, small enough for the models of tests
OBJECTIVES: dict[str, dict[str, Any]] = {
    "barlow_twins": {"projector": (6,)},
    "multi_head": {"n_heads": 2, "head_layers": 1},
    "simsiam": {"predictor_dim": 3},
    "swav": {"n_prototypes": 4, "queue": 8, "frozen_epochs": 0},
    "symile": {"block_rows": 7},
    "vicreg": {"deviation": None},
}


def moved(model: torch.nn.Module) -> None:
    """All gradients are finite, and parameters of the objective have one that is not 0."""
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert bool(parameter.grad.isfinite().all()), name
        if ".objective." in name:
            assert parameter.grad is not None, name
    of_objective = [p.grad for name, p in model.named_parameters() if ".objective." in name]
    assert not of_objective or any(bool(grad.any()) for grad in of_objective if grad is not None)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_of_sequences(name: str) -> None:
    options = {"objective": name, "objective_options": OBJECTIVES[name]}
    for model in ("MCLRec", "CL4SRec"):
        built = step(model, options)
        assert registry.key_of("objective", type(built.contrast.objective)) == registry.key(name)
        moved(built)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_of_users_and_items(name: str) -> None:
    options = {"objective": name, "objective_options": OBJECTIVES[name], "weight": None}
    for of, more in (("simgcl", {}), ("ncl", {"candidates": "batch"}), ("meowrec", {})):
        model = made(of, **options, **more)
        model.train()
        terms = model(first_batch(model), list(model.phases[0].terms))
        torch.stack(list(terms.values())).sum().backward()
        assert all(bool(value.isfinite()) for value in terms.values())
        moved(model)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_of_nodes(name: str) -> None:
    options = {"objective": name, "objective_options": OBJECTIVES[name], "weight": None}
    model = MEOW(**SETTINGS, **options, n_clusters=(4, 8)).build(small())
    model.train()
    batch = next(iter(model.batches(None, 20, Generators(3)).epoch(0)))
    terms = model(batch, list(model.phases[0].terms))
    torch.stack(list(terms.values())).sum().backward()
    assert all(bool(value.isfinite()) for value in terms.values())
    moved(model)


@pytest.mark.parametrize("cls", [MEOW, AdaMEOW])
def test_symile_of_nodes_contrasts_all_their_views(cls: type[MetaPathModel]) -> None:
    """The coarse and the fine view and that of each of the two paths; in batches, too."""
    more: dict[str, Any] = {"n_clusters": (4, 8)} if cls is MEOW else {}
    for mini in ({}, {"mini_batch": True, "queue_size": 0}):
        model = cls(**SETTINGS, **more, **mini, objective="symile", weight=None).build(small())
        model.train()
        batch = next(iter(model.batches(None, 20, Generators(3)).epoch(0)))
        views = model._projected(batch)
        assert len(views.paths) == len(PATHS)
        model(batch, ["info"])["info"].backward()
        assert model.contrast.outcome is not None
        assert model.contrast.outcome.n_anchors == (2 + len(PATHS)) * len(views.fine)
        assert not cls(**SETTINGS, **more, **mini).build(small())._projected(batch).paths


def test_symile_of_sequences_contrasts_the_sequence_itself_with_its_views() -> None:
    """Three views in cl1, and three in MCLRec's cl2: both latent views and the sequence."""
    model = step("MCLRec", {"objective": "symile", "temperature": 0.1})
    for term in (model.contrast, model.latent_contrast):
        assert term.outcome is not None
        assert term.outcome.n_anchors == 3 * 12
    assert not step("MCLRec", {}).reads_original
    of_two = step("DuoRec", {"objective": "symile", "weight": None})
    assert of_two.contrast.outcome is not None
    assert of_two.contrast.outcome.n_anchors == 2 * 12


def test_swav_takes_the_prototypes_of_meow() -> None:
    options = {"objective": "swav", "objective_options": {"prototypes": "clusters"}, "weight": None}
    model = MEOW(**SETTINGS, **options, n_clusters=(4, 8)).build(small())
    model.train()
    batch = next(iter(model.batches(None, 20, Generators(3)).epoch(0)))
    model(batch, ["info"])["info"].backward()
    assert [len(c) for c in model.contrast.objective._prototypes(torch.zeros(1, 8), 0)] == [4, 8]
    for name, more, term in (("meowrec", {}, "info"), ("ncl", {"candidates": "batch"}, "cl")):
        recommender = made(name, **options, **more)
        recommender.train()
        recommender(first_batch(recommender), [term])[term].backward()
    with pytest.raises(ValueError, match="needs a model that clusters"):
        step("CL4SRec", options)


RATED: list[dict[str, Any]] = [
    {"objective": "conr", "objective_options": {"near": -1.0}},
    {"weight": "label_distance", "mixture": "supremix", "mixture_options": {"n_negatives": 2}},
]


@pytest.mark.parametrize("settings", RATED)
def test_ratings_reach_the_contrast(settings: dict[str, Any]) -> None:
    """Of the target of a sequence, and the mean of a user's and an item's; a log without ratings is refused."""
    log = train()
    rated = replace(log, ratings=log.items.values % 5 + 1.0)
    for regime in ("prefix", "causal"):
        model = registry.load("model", "CL4SRec")(**SMALL, **settings, regime=regime)
        model.build(Space(n_users=24, n_items=N_ITEMS), seed=0)
        batch = next(iter(model.batches(rated, 12, Generators(0)).epoch(0)))
        assert torch.equal(torch.as_tensor(batch.labels), (batch.contrast_targets - 1) % 5 + 1.0)
        model(batch, ["cl1"])["cl1"].backward()
        moved(model)
    part = planted()[0]
    of_items = made("simgcl", **settings)
    loss = of_items(first_batch(of_items), ["cl"])["cl"]
    loss.backward()
    assert bool(loss.isfinite())
    users, items = of_items._labels
    assert torch.equal(items, torch.arange(30) % 5 + 1.0)
    assert float(users[3]) == pytest.approx(float(torch.as_tensor(part.ratings)[part.items.rows == 3].mean()))
    with pytest.raises(ValueError, match="reads an ordered label of each row, and there is none"):
        step("CL4SRec", settings)


def test_sep_clr_tells_who_is_active_from_the_rest() -> None:
    """Of sequences by the item that they lead to, and of users and items by themselves."""
    options = {"objective": "sepclr", "objective_options": {"least_count": 3}}
    model = registry.load("model", "CL4SRec")(**SMALL, **options).build(Space(n_users=24, n_items=N_ITEMS), seed=0)
    model.setup(train())
    counts = train().item_counts()
    assert torch.equal(model.contrast.objective.targets[1:], counts >= 3)
    batch = next(iter(model.batches(train(), 12, Generators(0)).epoch(0)))
    model(batch, ["cl1"])["cl1"].backward()
    moved(model)
    for name, weight in (("simgcl", None), ("meowrec", None)):
        of_items = made(name, **options, weight=weight)
        term = "cl" if name == "simgcl" else "info"
        of_items(first_batch(of_items), [term])[term].backward()
        moved(of_items)


@pytest.mark.parametrize("regulariser", ["mean_gap", "cross_uniformity"])
def test_terms_that_close_the_gap_in_models(regulariser: str) -> None:
    settings = {"regularisers": {regulariser: 0.5}, "transform": "centre"}
    assert regulariser in step("CL4SRec", settings).contrast.coefficients
    model = made("simgcl", **settings)
    model(first_batch(model), ["cl"])["cl"].backward()
    node = MEOW(**SETTINGS, **settings, n_clusters=(4, 8)).build(small())
    node(next(iter(node.batches(None, 20, Generators(3)).epoch(0))), ["info"])["info"].backward()


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if not registry.load("objective", name).pairwise])
def test_further_candidates_and_weights_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no candidates to weigh or to mix; use weight = None"):
        MEOW(**SETTINGS, objective=name).build(small())
    with pytest.raises(ValueError, match="takes no further candidates"):
        made("sgl", objective=name, candidates="all")


def test_a_batch_is_queued_once_a_step() -> None:
    """Whatever the number of phases and of pairs of views; the latent contrast, of three pairs each, has no queue."""
    swav = {"objective": "swav", "objective_options": {"n_prototypes": 4, "queue": 1000}, "weight": None}
    model = step("MCLRec", swav)
    assert int(model.contrast.objective.n_queued) == 12
    assert not model.latent_contrast.objective.config.queue
    twins = step("DuoRec", {**swav, "unsupervised_weight": 0.1})
    assert int(twins.contrast.objective.n_queued) == 12


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_mclrec_trains_with_a_schedule(schedule: str) -> None:
    """Of the contrast of its views; the latent one is at temperature 1 throughout."""
    over_time = {"temperature": 0.5, "temperature_schedule": schedule, "temperature_end": 0.1}
    model = step("MCLRec", over_time)
    assert model.contrast.similarity(50).temperature < 0.5
    assert model.latent_contrast.similarity(50).temperature == 1.0
