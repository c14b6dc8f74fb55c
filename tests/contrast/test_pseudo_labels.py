"""Pseudo-labels: the loss and the vote against loops, planted classes found, labels of the train part alone read."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import recgraph as rg
from recgraph.contrast.pseudo_labels import PseudoLabels, voted
from recgraph.evaluate.node_probe import ProbeConfig
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.node_task import NodeSplit, NodeTask
from recgraph.models.heterogeneous.base import GraphModel
from recgraph.models.heterogeneous.heco import HeCo
from recgraph.models.heterogeneous.meow import MEOW, AdaMEOW

N, D, K = 14, 5, 4


def views() -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    fine, coarse = (torch.randn(N, D, generator=draw, dtype=torch.float64) for _ in range(2))
    return fine, coarse, torch.tensor([0, -1, 1, -1, 0, -1, -1, 1, -1, -1, -1, -1, -1, -1])


def unit(x: Tensor) -> Tensor:
    return x / x.norm()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_vote_equals_a_loop(share: float, device: torch.device) -> None:
    fine, coarse, _ = views()
    f, c = F.normalize(fine, dim=1), F.normalize(coarse, dim=1)
    for i, found in enumerate(voted(f.to(device), c.to(device), share).tolist()):
        score = {j: float(share * c[i] @ c[j] + (1 - share) * f[i] @ f[j]) for j in range(N) if j != i}
        assert found == max(score, key=lambda j: score[j])


def test_the_loss_equals_a_loop() -> None:
    fine, coarse, labels = views()
    torch.manual_seed(0)
    pseudo = PseudoLabels(D, K, temperature=0.5).double()
    pseudo(fine, coarse, labels, torch.Generator().manual_seed(1))  # begins
    found = pseudo(fine, coarse, labels, torch.Generator().manual_seed(1))
    uniform = torch.rand(N, generator=torch.Generator().manual_seed(1)).tolist()
    w = [unit(row) for row in pseudo.prototypes.detach()]
    p = [torch.softmax(torch.stack([unit(row) @ one / 0.5 for one in w]), 0) for row in fine]
    q = [torch.softmax(torch.stack([unit(row) @ one / 0.5 for one in w]), 0) for row in coarse]
    partner = voted(F.normalize(fine, dim=1), F.normalize(coarse, dim=1), 0.5).tolist()
    n_known = int((labels >= 0).sum())
    expected = 0.0
    for i in range(N):
        if labels[i] >= 0:
            expected -= math.log(p[i][labels[i]]) / n_known
            continue
        total, drawn = 0.0, -1
        while total < uniform[i]:
            drawn += 1
            total += float(p[i][drawn])
        expected -= math.log(p[i] @ p[partner[i]]) / (N - n_known)
        expected -= float(p[i].max()) * math.log(q[i][drawn]) / (N - n_known)
    for k in range(K):
        m = sum(float(row[k]) for row in p) / N
        expected += m * math.log(K * m)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-9)


def test_gradients_flow_into_views_and_classes() -> None:
    fine, coarse, labels = views()
    pseudo = PseudoLabels(D, K, temperature=0.5).double()
    pseudo(fine, coarse, labels, torch.Generator())
    given = fine.requires_grad_(), coarse.requires_grad_()
    pseudo(*given, labels, torch.Generator().manual_seed(1)).backward()
    for tensor in (*given, pseudo.prototypes):
        assert tensor.grad is not None
        assert bool(tensor.grad.isfinite().all())
        assert bool(tensor.grad.any())
    for some in (torch.full((N,), -1), torch.zeros(N, dtype=torch.int64)):
        assert pseudo(fine, coarse, some, torch.Generator().manual_seed(1)).isfinite()


def test_autocast_rounds_no_product() -> None:
    fine, coarse, labels = views()
    pseudo = PseudoLabels(D, K, temperature=0.1)

    def value() -> Tensor:
        loss: Tensor = pseudo(fine.float(), coarse.float(), labels, torch.Generator().manual_seed(1))
        return loss

    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = value()
    torch.testing.assert_close(inside, value(), rtol=1e-6, atol=1e-6)


def test_classes_begin_at_their_nodes_and_new_ones_at_clusters() -> None:
    draw = torch.Generator().manual_seed(0)
    centres = torch.eye(8)[:4]
    truth = torch.arange(80) % 4
    x = centres[truth] + 0.05 * torch.randn(80, 8, generator=draw)
    labels = torch.where((truth < 2) & (torch.arange(80) < 24), truth, -1)  # of two classes no node is labelled
    pseudo = PseudoLabels(8, 4)
    pseudo(x, x, labels, draw)
    near = F.normalize(pseudo.prototypes.detach(), dim=1) @ centres.T
    assert near.argmax(1)[:2].tolist() == [0, 1]
    assert sorted(near.argmax(1).tolist()) == [0, 1, 2, 3]
    assert bool((near.amax(1) > 0.98).all())
    again = PseudoLabels(8, 4)
    again.load_state_dict(pseudo.state_dict())
    again(x, x, labels, draw)
    assert torch.equal(again.prototypes, pseudo.prototypes), "what has begun does not begin again"


def graph() -> HeteroGraph:
    draw = torch.Generator().manual_seed(0)
    by = torch.arange(60) % 30, torch.randint(20, (60,), generator=draw)
    on = torch.arange(30), torch.arange(30) % 3
    return HeteroGraph.from_edge_lists(
        {"paper": 30, "author": 20, "subject": 3},
        {("paper", "by", "author"): by, ("paper", "on", "subject"): on},
        features={"paper": torch.rand(30, 9, generator=draw)},
    )


def task(shift: int = 0) -> NodeTask:
    """Classes by subject; those of valid and test nodes are moved by ``shift``."""
    labels, split = torch.arange(30) % 3, NodeSplit(torch.arange(6), torch.arange(6, 12), torch.arange(12, 30))
    labels[6:] = (labels[6:] + shift) % 3
    return NodeTask("paper", labels, {"2": split})


def task_of_more() -> NodeTask:
    """With more train nodes."""
    return NodeTask(
        "paper", torch.arange(30) % 3, {"2": NodeSplit(torch.arange(9), torch.arange(9, 12), torch.arange(12, 30))}
    )


SETTINGS: dict[str, Any] = {"metapaths": ("paper-author-paper", "paper-subject-paper"), "hidden_dim": 8}


def fitted(cls: type[GraphModel], given: NodeTask, out: Path | None = None, n_epochs: int = 2, **more: Any) -> Any:
    settings = {**SETTINGS, "n_classes": 4, **({"n_clusters": (3,)} if cls is MEOW else {})}
    training = {"max_epochs": n_epochs, "device": "cpu", "seed": 0, **more}
    return rg.fit_graph(cls(**settings), graph(), task=given, labels="2", out=out, **training)


@pytest.mark.parametrize("cls", [MEOW, AdaMEOW, HeCo])
def test_labels_of_valid_and_test_nodes_change_nothing(cls: type[GraphModel]) -> None:
    run, other = fitted(cls, task(), n_epochs=1), fitted(cls, task(1), n_epochs=1)
    assert task().labels.tolist() != task(1).labels.tolist()
    for key, value in run.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[key])
    assert run.record.data == other.record.data
    assert run.record.data.settings["labels"]["n_labels"] == 6
    assert "train nodes of split '2'" in run.record.unsealed[0]


def test_it_goes_on_where_it_stopped_and_is_served_without_labels(tmp_path: Path) -> None:
    run = fitted(AdaMEOW, task(), tmp_path / "run")
    fitted(AdaMEOW, task(), tmp_path / "parts", n_epochs=1)
    with pytest.raises(ValueError, match=r"labels|data"):
        fitted(AdaMEOW, task_of_more(), tmp_path / "parts", resume=True)
    resumed = fitted(AdaMEOW, task(), tmp_path / "parts", resume=True)
    for key, value in run.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key])
    served = rg.load(tmp_path / "run")
    torch.testing.assert_close(served.vectors, run.embedder.vectors)


@pytest.mark.parametrize("cls", [AdaMEOW, HeCo])
def test_other_train_labels_change_the_model(cls: type[GraphModel]) -> None:
    moved = task()
    moved.labels[:6] = (moved.labels[:6] + 1) % 3
    one, two = (dict(fitted(cls, labels).model.named_parameters()) for labels in (task(), moved))
    # Adam's first step has the rate's length, whatever the gradient: what differs is what turned its sign
    far = {name for name in one if float((one[name] - two[name]).detach().abs().max()) > 1e-3}
    assert {name for name in far if not name.startswith("pseudo.")}


def test_a_split_whose_test_nodes_were_trained_with_is_not_measured(caplog: pytest.LogCaptureFixture) -> None:
    own = task()
    other = NodeSplit(torch.arange(6, 9), torch.arange(9, 12), torch.tensor([5, 20, 21]))
    both, run = replace(own, splits={**own.splits, "1": other}), fitted(AdaMEOW, own, n_epochs=1)
    with caplog.at_level("WARNING"):
        found = run.evaluate(both, probe=ProbeConfig(repeats=2, steps=5))
    assert "not measured: split 1, whose test nodes are in part train nodes of 2" in caplog.text
    assert found.linear.keys() == found.logistic.keys() == {"2"}
    assert found.protocol.task_hash == both.hash, "as of a run that has read none"
    for wrong in (replace(own, splits={"1": other}), replace(own, labels=(own.labels + 1) % 3)):
        with pytest.raises(ValueError, match="give the task that it was fitted with"):
            run.evaluate(wrong)
    assert len(run.record.unsealed) == 2
    assert run.evaluate(own, probe=ProbeConfig(repeats=2, steps=5)).rows()
