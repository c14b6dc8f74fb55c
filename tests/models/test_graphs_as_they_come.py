"""Graphs of one node, of nodes that are all alike, of weights that are 0 or negative: what models make of them."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from every_model import OF_NODES, of_nodes

from recgraph import registry
from recgraph.accelerated import accelerator_path
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import PathTooLargeError
from recgraph.models.heterogeneous import meow
from recgraph.models.heterogeneous.base import GraphModel
from recgraph.models.heterogeneous.meow import MEOW
from recgraph.models.heterogeneous.node_model import MetaPathModel
from recgraph.rng import Generators


def alike(n: int) -> HeteroGraph:
    """n papers of one author and on one subject, with the same features."""
    pairs = torch.arange(n), torch.zeros(n, dtype=torch.int64)
    return HeteroGraph.from_edge_lists(
        {"paper": n, "author": 1, "subject": 1},
        {("paper", "by", "author"): pairs, ("paper", "on", "subject"): pairs},
        features={"paper": torch.ones(n, 3)},
    )


def step(model: GraphModel, nodes: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """The terms of a training step, after it has been differentiated."""
    batch = next(iter(model.batches(None, 16, Generators(5)).epoch(0)))
    terms = model.train()(batch if nodes is None else replace(batch, nodes=nodes), model.phases[0].terms)
    loss = torch.stack([*terms.values()]).sum()
    if loss.requires_grad:
        loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or bool(parameter.grad.isfinite().all()), name
    return {name: value.detach() for name, value in terms.items()}


@pytest.mark.parametrize("name", OF_NODES)
def test_a_path_is_named_once(name: str) -> None:
    with pytest.raises(ValueError, match=r"holds 'paper-author-paper' twice; name each path once"):
        of_nodes(name, of=alike(4), metapaths=("paper-author-paper", "paper-author-paper"))
    other = "paper>by>author<by<paper"
    with pytest.raises(ValueError, match=rf"holds '{other}' twice, once as 'paper-author-paper'; name each path once"):
        of_nodes(name, of=alike(4), metapaths=("paper-author-paper", other))


def test_a_path_that_is_too_large_is_answered_with_a_setting_that_the_model_has() -> None:
    with pytest.raises(PathTooLargeError, match="a larger max_memory_mib"):
        of_nodes("heco", of=alike(40), metapaths=("paper-author-paper",), max_memory_mib=1e-4)


@pytest.mark.parametrize(("augmenter", "needs"), [("attention", "the states of a sequence"), ("conv", "exactly")])
def test_an_augmenter_that_views_of_nodes_cannot_feed_is_refused(augmenter: str, needs: str) -> None:
    settings: dict[str, Any] = {"twin": "latent", "augmenter": augmenter, "metapaths": ("paper-author-paper",)}
    if augmenter == "conv":
        settings["augmenter_options"] = {"variant": "published"}
    with pytest.raises(ValueError, match=f"augmenter = '{augmenter}' with variant = .* needs {needs}"):
        MEOW(**settings).build(alike(4), seed=0)
    fits = {"variant": "published"} if augmenter == "attention" else {}
    step(MEOW(**{**settings, "augmenter_options": fits}).build(alike(4), seed=0))


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("name", OF_NODES)
def test_one_target_or_identical_ones(name: str, n: int) -> None:
    """No node has a candidate in another cluster, where all are in one: the contrast is 0, and training goes on."""
    known = registry.load("model", name).Config.model_fields
    masks: dict[str, Any] = {key: 0.0 for key in ("feature_mask", "edge_mask") if key in known}
    model = of_nodes(name, of=alike(n), dropout=0.0, **masks)
    terms = step(model)
    assert all(bool(value.isfinite()) for value in terms.values())
    model.eval()
    assert bool(model.embed().isfinite().all())
    if name == "meow":
        assert isinstance(model, MEOW)
        assert float(terms["info"]) == 0
        assert model.contrast.outcome is not None
        assert int(model.contrast.outcome.left_out) == model.contrast.outcome.n_anchors == n


@pytest.mark.parametrize("settings", [{}, {"objective_options": {"n_candidates": 2}}], ids=str)
@pytest.mark.parametrize("accelerated", [False, True])
def test_a_batch_inside_one_cluster(
    accelerated: bool, settings: dict[str, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = of_nodes("meow", mini_batch=True, queue_size=0, dropout=0.0, **settings)
    assert isinstance(model, MetaPathModel)
    clusters = torch.zeros(1, 30, dtype=torch.int64)
    monkeypatch.setattr(meow, "offer", lambda term, *_: term.prepare(lambda: clusters))
    nodes = torch.tensor([3, 4, 7])
    if accelerated:
        with accelerator_path():
            assert float(step(model, nodes)["info"]) == 0
    else:
        with caplog.at_level(logging.WARNING):
            terms = [step(model, nodes) for _ in range(2)]
        assert float(terms[0]["info"]) == float(terms[1]["info"]) == 0
        assert sum("none of the 3 anchors has a candidate" in line for line in caplog.messages) == 1
    clusters[0, 7] = 1
    assert float(step(model, nodes)["info"]) != 0
