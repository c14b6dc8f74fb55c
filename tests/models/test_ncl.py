"""NCL: both of its contrasts beside slow ones from the paper's equations, the clusters of an epoch, and other parts."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import torch.nn.functional as F
from collaborative_cases import SPACE, first_batch, made, planted
from torch import Tensor

import recgraph as rg
from recgraph.contrast.prototypes import Prototypes, proto_nce, prototypes_of
from recgraph.contrast.term import ContrastiveTerm
from recgraph.data.batches import PairBatch
from recgraph.models.collaborative.ncl import NCL
from recgraph.rng import Generators
from recgraph.train.callbacks import Observer, TrainingInterrupted
from recgraph.train.config import TrainConfig
from recgraph.train.trainer import Trainer

N_USERS, N_ITEMS = SPACE.n_users, SPACE.n_items
CLUSTERED: dict[str, Any] = {"n_clusters": (3, 5), "warm_up_epochs": 0, "kmeans_iterations": 100}


def ncl(**settings: Any) -> NCL:
    model = made("ncl", **settings)
    assert isinstance(model, NCL)
    return model.double()


def value(model: NCL, name: str, batch: PairBatch | None = None) -> Tensor:
    return model(first_batch(model) if batch is None else batch, [name])[name]


def layers(table: Tensor, k: int) -> list[list[Tensor]]:
    """z^0 ... z^k of users and of items, by sums over neighbours with 1 / sqrt(degree degree)."""
    rows = planted()[0].items.to_lists()
    adjacent = torch.zeros(N_USERS, N_ITEMS, dtype=torch.float64)
    for user, items in enumerate(rows):
        for item in items:
            adjacent[user, item] = 1 / math.sqrt(len(items) * sum(item in other for other in rows))
    found = [[table[:N_USERS], table[N_USERS:]]]
    for _ in range(k):
        users, items_ = found[-1]
        found.append([adjacent @ items_, adjacent.T @ users])
    return found


def cosine(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum() / (x.norm() * y.norm())


def info_nce(anchors: dict[int, Tensor], candidates: Tensor, own: dict[int, int], tau: float) -> Tensor:
    """The mean over anchors of -log(e^{s / tau} of the own candidate / the sum over all)."""
    losses = []
    for number, x in anchors.items():
        shares = torch.stack([(cosine(x, y) / tau).exp() for y in candidates])
        losses.append(-(shares[own[number]] / shares.sum()).log())
    return torch.stack(losses).mean()


def assert_same(found: Tensor, expected: Tensor, table: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    (of_found,) = torch.autograd.grad(found, table)
    (of_expected,) = torch.autograd.grad(expected, table)
    torch.testing.assert_close(of_found, of_expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("k", "n_layers"), [(2, 3), (2, 1), (4, 2)])
def test_the_structural_contrast_is_that_of_the_paper(k: int, n_layers: int) -> None:
    model = ncl(contrast_layer=k, n_layers=n_layers, temperature=0.3, item_weight=0.4)
    batch, table = first_batch(model), model.embedding.weight
    every, parts = layers(table, k), []
    for kind, of_batch in enumerate((batch.users, batch.items)):
        chosen = sorted(set(of_batch.tolist()))
        anchors = {node: every[k][kind][node] for node in chosen}
        parts.append(info_nce(anchors, every[0][kind], {node: node for node in chosen}, 0.3))
    assert_same(value(model, "cl", batch), parts[0] + 0.4 * parts[1], table)
    # further layers are of the contrast alone
    mean = torch.stack([torch.cat(layer) for layer in every[: n_layers + 1]]).mean(0) if n_layers <= k else None
    if mean is not None:
        torch.testing.assert_close(model.nodes(), mean)
        scores = [mean[:N_USERS][batch.users] * mean[N_USERS:][items] for items in (batch.items, batch.negatives[:, 0])]
        expected = F.softplus(scores[1].sum(1) - scores[0].sum(1)).mean()
        torch.testing.assert_close(value(model, "rec", batch), expected)


@pytest.mark.parametrize("n_clusters", [(4,), (3, 5)])
def test_the_semantic_contrast_is_that_of_the_paper(n_clusters: tuple[int, ...]) -> None:
    model = ncl(**{**CLUSTERED, "n_clusters": n_clusters}, temperature=0.3, item_weight=0.4)
    batch, table = first_batch(model), model.embedding.weight
    found = value(model, "proto", batch)
    parts = []
    for kind, of_batch in enumerate((batch.users, batch.items)):
        rows = torch.split(table, [N_USERS, N_ITEMS])[kind]
        directions = F.normalize(rows.detach(), dim=1)
        memory, of_each = model._memories()[kind], []
        for t, k in enumerate(n_clusters):
            own = memory.assignments[t].tolist()
            # k-means has ended: centroids are means of their members, and these are nearest to them
            centroids = torch.stack([directions[[own[i] == c for i in range(len(own))]].mean(0) for c in range(k)])
            assert (directions @ centroids.T).argmax(1).tolist() == own
            chosen = sorted(set(of_batch.tolist()))
            of_each.append(info_nce({i: rows[i] for i in chosen}, centroids, {i: own[i] for i in chosen}, 0.3))
        parts.append(torch.stack(of_each).mean())
    assert_same(found, parts[0] + 0.4 * parts[1], table)


def test_clusters_by_distances_are_of_the_vectors_themselves() -> None:
    model = ncl(**CLUSTERED, kmeans="scikit-learn")
    value(model, "proto")
    tables = torch.split(model.embedding.weight.detach(), [N_USERS, N_ITEMS])
    for memory, rows in zip(model._memories(), tables, strict=True):
        own = memory.assignments[0]
        centroids = torch.stack([rows[own == c].mean(0) for c in range(3)])
        assert torch.equal(torch.cdist(rows, centroids).argmin(1), own)
        torch.testing.assert_close(memory.directions_0, F.normalize(centroids, dim=1))


def test_before_the_warm_up_ends_there_are_no_clusters() -> None:
    model = ncl(**{**CLUSTERED, "warm_up_epochs": 2})
    for epoch in (0, 1):
        terms = model(first_batch(model, epoch=epoch), list(model.phases[0].terms))
        assert not terms["proto"]
        assert [int(memory.epoch) for memory in model._memories()] == [-1, -1]
    assert value(model, "proto", first_batch(model, epoch=2)) > 0
    assert [int(memory.epoch) for memory in model._memories()] == [2, 2]


def test_clusters_are_of_the_vectors_in_the_first_step_of_each_epoch() -> None:
    model = ncl(**CLUSTERED)
    batches = model.batches(planted()[0], 32, Generators(5))

    def directions() -> list[Tensor]:
        return [memory.directions_0.clone() for memory in model._memories()]

    seen = []
    for epoch in range(2):
        first, second, *_ = batches.epoch(epoch)
        at_start = model.embedding.weight.detach().clone()
        value(model, "proto", first)
        seen.append(directions())
        with torch.no_grad():
            model.embedding.weight.mul_(torch.linspace(-1, 1, 16, dtype=torch.float64))
        value(model, "proto", second)
        for kind, rows in enumerate(torch.split(at_start, [N_USERS, N_ITEMS])):
            x = F.normalize(rows, dim=1)
            wanted = prototypes_of(Prototypes(n_clusters=(3, 5), iterations=100, restarts=1)(x), x, 1.0)
            assert torch.equal(model._memories()[kind].assignments, torch.stack([one.assignments for one in wanted]))
            torch.testing.assert_close(directions()[kind], wanted[0].directions)
    assert not torch.allclose(seen[0][0], seen[1][0])
    # another training begins without them
    model.batches(planted()[0], 32, Generators(5))
    assert [int(memory.epoch) for memory in model._memories()] == [-1, -1]


def test_the_clusters_of_the_second_epoch_follow_from_the_recorded_seed(tmp_path: Path) -> None:
    items = enumerate(planted()[0].items.to_lists())
    rows = [(user, item, place) for user, row in items for place, item in enumerate(row)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    split = rg.Interactions.from_frame(frame, user="user", item="item", timestamp="time").split("leave-one-out")
    settings: dict[str, Any] = {"hidden_dim": 8, **CLUSTERED}
    how: dict[str, Any] = {"batch_size": 32, "metric": "last", "device": "cpu", "progress": False}
    run = rg.fit(NCL(**settings), split, seed=7, max_epochs=2, out=tmp_path / "run", **how)
    seed = json.loads((tmp_path / "run" / "record.json").read_text())["seed"]
    after_one = rg.fit(NCL(**settings), split, seed=seed, max_epochs=1, **how).model
    assert isinstance(after_one, NCL)
    assert isinstance(run.model, NCL)
    for kind, memory in enumerate(run.model._memories()):
        assert int(memory.epoch) == 1
        wanted = torch.stack([one.assignments for one in after_one._prototypes_of(kind, 1)])
        assert torch.equal(memory.assignments, wanted)


class StopAt(Observer):
    """Sends SIGINT to the process after so many batches."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def advance(self) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_training_that_is_stopped_within_an_epoch_keeps_its_clusters(tmp_path: Path) -> None:
    def trainer(folder: Path | None = None) -> Trainer:
        model, generators = made("ncl", n_clusters=(2, 3), warm_up_epochs=1, proto_weight=0.5), Generators(2)
        config = TrainConfig(batch_size=32, max_epochs=2, metric="loss", patience=None)
        return Trainer(model, model.batches(planted()[0], 32, generators), config, generators, folder=folder)

    whole = trainer()
    whole.fit()
    stopped = trainer(tmp_path)
    stopped.observers = [StopAt(len(list(stopped.batches.epoch(0))) + 2)]
    with pytest.raises(TrainingInterrupted):
        stopped.fit()
    assert (stopped.progress.epoch, stopped.progress.batch) == (1, 2)
    again = trainer(tmp_path)
    assert again.resume()
    again.fit()
    found = again.model.state_dict()
    assert all(torch.equal(one, found[name]) for name, one in whole.model.state_dict().items())


# --- other parts ------------------------------------------------------------------------------------


def test_parts_of_the_structural_contrast_read_the_clusters() -> None:
    model = ncl(**CLUSTERED, weight="cluster")
    value(model, "cl").backward()
    for term, memory in zip((model.contrast_users, model.contrast_items), model._memories(), strict=True):
        assert torch.equal(term.weight.assignments, memory.assignments)
    plain = ncl(**CLUSTERED)
    assert not torch.allclose(value(model, "cl"), value(plain, "cl"))
    # none of the parts of this one does
    assert int(plain._memories()[0].epoch) == -1


@pytest.mark.parametrize(
    "parts",
    [
        {"objective": "debiased_info_nce"},
        {"objective_settings": {"count_positive": False}},
        {"weight": "hardness"},
        {"similarity": "dot"},
        {"temperature": 1.0},
        {"regularisers": {"alignment": 0.5}},
    ],
)
def test_the_contrast_with_prototypes_takes_other_parts(parts: dict[str, Any]) -> None:
    model = ncl(**CLUSTERED, proto_contrast=parts)
    batch = first_batch(model)
    found = value(model, "proto", batch)
    found.backward()
    assert bool(torch.isfinite(model.embedding.weight.grad).all())  # type: ignore[arg-type]
    plain = value(ncl(**CLUSTERED), "proto", batch)
    assert not torch.allclose(found, plain)


def test_a_weight_knows_prototypes_by_their_clusters() -> None:
    """To mask one's own takes the prototype of one's cluster from the candidates."""
    masked = {"weight": "self_mask", "objective_settings": {"weigh_positive": True}}
    found = value(ncl(**CLUSTERED, proto_contrast=masked), "proto")
    expected = value(ncl(**CLUSTERED, proto_contrast={"objective_settings": {"count_positive": False}}), "proto")
    torch.testing.assert_close(found, expected)


def test_the_temperature_of_prototypes_follows_the_density() -> None:
    dense = ncl(**CLUSTERED, concentration=True, temperature=0.3)
    batch = first_batch(dense)
    users, _ = batch.distinct()
    table = dense.embedding.weight[:N_USERS]
    x = F.normalize(table.detach(), dim=1)
    prototypes = prototypes_of(Prototypes(n_clusters=(3, 5), iterations=100, restarts=1)(x), x, 0.3)
    term = ContrastiveTerm(objective="info_nce", similarity="cosine")
    only_users = ncl(**CLUSTERED, concentration=True, temperature=0.3, item_weight=0.0)
    torch.testing.assert_close(value(only_users, "proto", batch), proto_nce(term, table[users], prototypes, users))
    assert not torch.allclose(value(dense, "proto", batch), value(ncl(**CLUSTERED, temperature=0.3), "proto", batch))
