"""The graph line's benchmarks: the dense oracles agree with the library, every workload runs, goals are judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from workloads import BENCH, workload

from experiments.bench.graph_suite import graph_suite
from experiments.bench.harness import Side
from experiments.bench.parts import measured
from experiments.bench.report import Goal
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath
from recgraph.models.heterogeneous.meow import MEOW, AdaMEOW
from recgraph.models.heterogeneous.node_model import MetaPathModel
from recgraph.rng import Generators
from recgraph.sparse.csr import Csr

PATHS = ("paper-author-paper", "paper-subject-paper")


def graph() -> HeteroGraph:
    """60 papers, 35 authors, 5 subjects; authors have sparse features, subjects none."""
    draw = torch.Generator().manual_seed(0)
    pairs = {
        ("paper", "by", "author"): (torch.arange(150) % 60, torch.randint(35, (150,), generator=draw)),
        ("paper", "on", "subject"): (torch.arange(60), torch.randint(5, (60,), generator=draw)),
    }
    x: dict[str, Any] = {
        "paper": torch.rand(60, 12, generator=draw),
        "author": Csr.from_dense((torch.rand(35, 9, generator=draw) * 2).floor()),
    }
    return HeteroGraph.from_edge_lists({"paper": 60, "author": 35, "subject": 5}, pairs, features=x)


@pytest.mark.parametrize("cls", [MEOW, AdaMEOW])
def test_dense_step(cls: type[MetaPathModel], monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and every gradient to 1e-8 in float64; AdaMEOW in more than one block."""
    dense = workload("plain/dense_metapath.py")
    monkeypatch.setattr(dense, "_ROWS", 25)
    extra = {"n_clusters": (4, 9)} if cls is MEOW else {}
    settings = {"metapaths": PATHS, "top_k": (6, 20), "hidden_dim": 8, "dropout": 0.0, **extra}
    model = cls(**settings).build(graph(), seed=1).double().train()
    batch = next(iter(model.batches(None, 1, Generators(0)).epoch(0)))
    terms = model(batch, list(model.phases[0].terms))
    loss = torch.stack([terms[name] * w for name, w in model.phases[0].terms.items()]).sum()
    loss.backward()
    step = dense.DenseStep(model)
    torch.testing.assert_close(step.backward(), loss.detach(), rtol=1e-8, atol=1e-12)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(step.parameters[name].grad, parameter.grad, rtol=1e-8, atol=1e-11, msg=name)


@pytest.mark.parametrize("path", PATHS)
def test_dense_pathsim(path: str) -> None:
    """Ties at the cut included."""
    whole = graph()
    edges = whole.adjacency(next(kind for kind in whole.edge_types if kind[2] == path.split("-")[1]))
    theirs = workload("plain/dense_pathsim.py").adjacency(edges.to_scipy().astype(np.float64), 7)
    ours = MetaPath(path, top_k=7)(whole, torch.float64)
    assert isinstance(ours, Csr)
    torch.testing.assert_close(ours.to_dense(), torch.from_numpy(theirs), rtol=1e-12, atol=1e-12)


def test_every_workload_exists_and_data_free_ones_run() -> None:
    small = {"n_rows": 60, "n_cols": 50, "n_entries": 400, "width": 8, "mb": 1}
    for bench in graph_suite(Path("none")):
        for side in (bench.ours, bench.peer, *bench.others):
            assert (BENCH / side.workload).is_file()
            if "data" in side.options or side.options.get("backend") == "dgl":
                continue
            options = {name: small.get(name, value) for name, value in side.options.items()}
            assert workload(side.workload).prepare(options)(2)[bench.unit] > 0


def test_goals_of_rate_and_memory() -> None:
    assert Goal(3, peak_mb=700).judge(4.0, 1.0, 650)["met"] is True
    assert Goal(3, peak_mb=700).judge(4.0, 1.0, 701)["met"] is False
    assert Goal(3, least=2).judge(None, 1.0, 1)["met"] is False
    assert Goal(3, least=2).judge(None, 2.0, 1)["met"] is None
    assert Goal(least=0.5).judge(None, 0.5, None) == {"least": 0.5, "met": True}


def test_a_part_is_measured_in_a_fork() -> None:
    options = {
        "n_rows": 16,
        "width": 8,
        "device": "cpu",
        "steps": 1,
        "warmup": 1,
        "term": {"objective": "barlow_twins"},
    }
    found = measured(Side("cluster", "ours/contrast_parts.py", options), repeats=2)
    assert found.rates("pairs", "cpu")
    assert found.prepared_mb is not None
    assert found.samples[0].peak_mb >= found.prepared_mb
    wrong = measured(Side("wrong", "ours/contrast_parts.py", {**options, "term": {"objective": "none"}}), repeats=1)
    assert not wrong.ok
