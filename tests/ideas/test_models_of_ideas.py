"""Distillation, multistage contrast and pseudo-labels: slow versions of their equations, and a short training."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import recgraph as rg
from recgraph.contrast.parts import Pairs
from recgraph.graph.hetero import HeteroGraph
from recgraph.sparse.blocks import unit_length

Idea = Callable[[str], ModuleType]
SHORT = {"seed": 0, "device": "cpu", "batch_size": 512, "max_epochs": 2, "metric": "last"}


def split() -> Any:
    return rg.load_dataset("synthetic").split("leave-one-out")


def softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(x) for x in row)
    return [math.exp(x) / total for x in row]


def test_the_teachers_scores_are_learned_for_its_candidates(idea: Idea) -> None:
    module = idea("distillation")
    draw = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(3, 5, generator=draw), torch.randn(3, 5, generator=draw)
    expected = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = softmax([x / 2 for x in t]), softmax([x / 2 for x in s])
        expected += 4 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 3
    assert float(module.distil_loss(student, teacher, 2.0)) == pytest.approx(expected, rel=1e-5)

    run = rg.fit(rg.registry.load("model", "distilled_lightgcn")(hidden_dim=8), split(), **SHORT)
    assert run.history[1]["distil"] < run.history[0]["distil"]
    model, (teacher_model, rows) = run.model, run.model._taught
    items, scores = model.candidates(torch.tensor([4]), draw)
    every = teacher_model.score(rg.data.batches.Query(torch.tensor([4]), rows.take(torch.tensor([4]))))[0]
    assert scores[0].tolist() == every[items[0]].tolist()
    assert set(items[0, :64].tolist()) == set(every.topk(64).indices.tolist())


def test_stages_contrast_within_earlier_clusters(idea: Idea) -> None:
    weight = idea("multistage").EarlierClusters()
    weight.clusters = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]])
    ids, rows = torch.arange(4), torch.zeros(4, 2)
    found = weight.log_w(Pairs(ids, ids, rows, rows))
    for i in range(4):
        for j in range(4):
            is_near = all(of[i] == of[j] for of in weight.clusters.tolist())
            assert float(found[i, j]) == (0 if is_near else -math.inf)

    model = rg.registry.load("model", "multistage_simgcl")(hidden_dim=8, stage_epochs=1, stage_clusters=3)
    model = rg.fit(model, split(), **SHORT).model
    assert int(model.stage) == 1
    assert model.eval().nodes().shape[1] == 16
    first = torch.split(model.clusters[0], [model.space.n_users, model.space.n_items])
    assert [len(of.unique()) for of in first] == [3, 3]
    assert torch.equal(model.of_stage(1).contrast_items.weight.clusters[0], first[1])
    assert model.of_stage(0).contrast_items.weight is None


def test_pseudo_labels_are_drawn_and_count_by_their_confidence(idea: Idea, tmp_path: Path) -> None:
    module, draw, tau = idea("pseudo_labels"), torch.Generator().manual_seed(1), 0.3
    f, c, w = (unit_length(torch.randn(n, 4, generator=draw)) for n in (6, 6, 3))
    labels, uniform = torch.tensor([0, -1, 2, -1, -1, 0]), torch.rand(6, generator=draw)
    p, q = ([softmax([float(x @ k) / tau for k in w]) for x in view] for view in (f, c))
    labelled, others = [], []
    for i in range(6):
        if labels[i] >= 0:
            labelled.append(-math.log(p[i][labels[i]]))
            continue
        vote = max((j for j in range(6) if j != i), key=lambda j: float(c[i] @ c[j] + f[i] @ f[j]))
        drawn = next(k for k in range(3) if sum(p[i][: k + 1]) >= float(uniform[i]))
        agreed = sum(a * b for a, b in zip(p[i], p[vote], strict=True))
        others.append(-math.log(agreed) - max(p[i]) * math.log(q[i][drawn]))
    means = [sum(row[k] for row in p) / 6 for k in range(3)]
    expected = sum(labelled) / 3 + sum(others) / 3 + sum(m * math.log(3 * m) for m in means)
    assert float(module.pseudo_loss(f, c, w, labels, tau, uniform)) == pytest.approx(expected, rel=1e-4)

    ends = torch.arange(40) % 20, torch.randint(6, (40,), generator=draw)
    graph = HeteroGraph.from_edge_lists({"paper": 20, "author": 6}, {("paper", "by", "author"): ends})
    np.save(tmp_path / "labels.npy", np.where(np.arange(20) < 8, np.arange(20) % 2, -1))
    settings = {
        "metapaths": ("paper-author-paper",),
        "prototypes": {"n_clusters": (3,)},
        "hidden_dim": 8,
        "n_classes": 2,
    }
    model = rg.registry.load("model", "pseudo_labelled_meow")(known=f"{tmp_path / 'labels.npy'}", **settings)
    run = rg.fit_graph(model, graph, seed=0, max_epochs=3, device="cpu")
    assert bool(model.begun)
    assert {"info", "proto", "pseudo"} <= run.history[0].keys()
