"""The node task: the probe equals classifiers trained one by one, and the authors' embeddings score
as published.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from refusing import refused
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor

from recgraph.evaluate import nodes as probe
from recgraph.evaluate.nodes import cluster_scores, evaluate_nodes, linear_probe, logistic_probe
from recgraph.graph.node_task import NodeSplit, NodeTask
from recgraph.rng import derive


def nodes(n: int = 150, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, NodeSplit]:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=draw)
    x = F.one_hot(labels, 5).float() + torch.randn(n, 5, generator=draw)
    order = torch.randperm(n, generator=draw)
    return x, labels, NodeSplit(order[:30], order[30:80], order[80:])


def one_by_one(
    x: Tensor, y: Tensor, split: NodeSplit, weight: Tensor, steps: int, lr: float, wd: float
) -> list[float]:
    """HeCo's evaluation of one classifier, with scikit-learn's metrics."""
    w, b = weight.clone().requires_grad_(), torch.zeros(len(weight)).requires_grad_()
    optimiser = torch.optim.Adam([w, b], lr=lr, weight_decay=wd)
    rows = []
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(x[split.train] @ w.T + b, y[split.train]).backward()
        optimiser.step()
        with torch.no_grad():
            valid, test = (x[part] @ w.T + b for part in (split.valid, split.test))
        row = [
            f1_score(y[part], logits.argmax(1), average=kind)
            for part, logits in ((split.valid, valid), (split.test, test))
            for kind in ("macro", "micro")
        ]
        rows.append([*row, roc_auc_score(y[split.test], test.softmax(1), multi_class="ovr")])
    table = np.array(rows)
    at_macro, at_micro = table[:, 0].argmax(), table[:, 1].argmax()
    return [table[at_macro, 2], table[at_micro, 3], table[at_micro, 4]]


def test_probes_together_equal_probes_one_by_one() -> None:
    x, y, split = nodes()
    settings = {"repeats": 2, "steps": 25, "learning_rate": 0.05, "weight_decay": 0.01}
    scores = linear_probe(x, y, split, probe.ProbeConfig.of(settings), seed=3)
    draw, bound = torch.Generator().manual_seed(derive(3, "probe")), (6 / (5 + 3)) ** 0.5
    first = torch.empty(3, 2, 5).uniform_(-bound, bound, generator=draw)
    for r in range(2):
        want = one_by_one(x, y, split, first[:, r], 25, 0.05, 0.01)
        got = [float(getattr(scores, name)[r]) for name in probe.SCORES]
        assert got == pytest.approx(want, abs=1e-6)


def test_area_counts_ties_half() -> None:
    draw = torch.Generator().manual_seed(1)
    labels = torch.randint(3, (60,), generator=draw)
    p = torch.randint(1, 4, (3, 2, 60), generator=draw).double()
    p = p / p.sum(0)
    areas = probe._areas(p, labels)
    for r in range(2):
        assert float(areas[r]) == pytest.approx(roc_auc_score(labels, p[:, r].T, multi_class="ovr"))


@pytest.mark.parametrize("part", ["train", "valid"])
def test_test_nodes_of_another_part_are_refused(part: str) -> None:
    x, y, split = nodes()
    seen = replace(split, test=torch.cat([split.test, getattr(split, part)[:3]]))
    with refused("split", part):
        evaluate_nodes(x, NodeTask("a", y, {"a": split, "b": seen}))


def test_logistic_regression_and_clusters() -> None:
    x, y, split = nodes(600)
    x = x + 3 * F.one_hot(y, 5)
    assert min(logistic_probe(x, y, split).mean().values()) > 0.9
    assert min(cluster_scores(x, y, repeats=2, n_init=2).values()) > 0.8


def test_arguments_are_checked() -> None:
    x, y, split = nodes()
    with refused("embedding"):
        linear_probe(x * torch.nan, y, split, probe.ProbeConfig())


# facts: Macro-F1, Micro-F1, area at 20, 40 and 60 labels a class; NMI
PUBLISHED = {
    "acm": (0.03, [(90.82, 90.53, 97.90), (91.02, 91.24, 97.98), (91.30, 91.26, 98.30)], 49.2),
    "dblp": (0.01, [(92.42, 92.96, 99.09), (91.12, 91.49, 98.80), (93.45, 93.90, 99.31)], 74.3),
}


@pytest.mark.slow
@pytest.mark.parametrize("dataset", sorted(PUBLISHED))
def test_the_authors_embeddings_score_as_published(dataset: str, shared: Path) -> None:
    rate, rows, nmi = PUBLISHED[dataset]
    embedding = torch.from_numpy(
        np.load(shared / "golden" / f"meow_embedding_{dataset}.npz")["embedding"]
    )
    folder = shared / "data" / "hin" / dataset
    y = torch.from_numpy(np.load(folder / "labels.npy")).long()
    for labels, want in zip(("20", "40", "60"), rows, strict=True):
        parts = (
            np.load(folder / f"{part}_{labels}.npy").astype(np.int64)
            for part in ("train", "val", "test")
        )
        split = NodeSplit(*(torch.from_numpy(part) for part in parts))
        scores = linear_probe(embedding, y, split, probe.ProbeConfig(learning_rate=rate)).mean()
        assert [100 * scores[name] for name in probe.SCORES] == pytest.approx(list(want), abs=0.3)
    assert 100 * cluster_scores(embedding, y)["nmi"] == pytest.approx(nmi, abs=0.7)
