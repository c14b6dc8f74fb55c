"""LightGCN with a contrastive task: the term, SGL's subgraphs, the noise of SimGCL and XSimGCL."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from collaborative_cases import CONTRASTIVE, SPACE, first_batch, made
from torch import Tensor

from recgraph.data.batches import PairBatch
from recgraph.encoders.graph import LightGCN as Encoder
from recgraph.models.collaborative.contrastive import SGL, GraphContrastiveModel, SimGCL, XSimGCL
from recgraph.models.collaborative.ncl import NCL


def _views(model: GraphContrastiveModel, batch: PairBatch) -> tuple[Tensor, Tensor]:
    if isinstance(model, NCL):
        layers = model._layers()
        return layers[model.config.contrast_layer], layers[0]
    return model.views(batch)


@pytest.mark.parametrize("candidates", ["batch", "all"])
@pytest.mark.parametrize("name", CONTRASTIVE)
def test_the_contrastive_term_is_infonce_of_users_and_items(name: str, candidates: str) -> None:
    model = made(name, candidates=candidates, contrast={"temperature": 0.3}).double()
    assert isinstance(model, GraphContrastiveModel)
    batch = first_batch(model)
    value = model(batch, ["cl"])["cl"]
    twin = made(name, candidates=candidates, contrast={"temperature": 0.3}).double()
    assert isinstance(twin, GraphContrastiveModel)
    again = first_batch(twin)
    if isinstance(twin, XSimGCL):
        layers = twin._noisy_layers(again)[1:]
        a, b = torch.stack(layers).mean(0), layers[0]
    else:
        a, b = _views(twin, again)
    expected = torch.zeros((), dtype=torch.float64)
    for start, size, chosen in ((0, SPACE.n_users, batch.users), (SPACE.n_users, SPACE.n_items, batch.items)):
        chosen = chosen.unique()
        x, y = (F.normalize(view[start : start + size]) for view in (a, b))
        if candidates == "batch":
            expected = expected + F.cross_entropy(x[chosen] @ y[chosen].T / 0.3, torch.arange(len(chosen)))
        else:
            expected = expected + F.cross_entropy(x[chosen] @ y.T / 0.3, chosen)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)


def edge_set(encoder: Encoder, adjacency: Any) -> set[tuple[int, int]]:
    upper = adjacency.rows < encoder.n_users
    items = adjacency.indices[upper] - encoder.n_users
    return set(zip(adjacency.rows[upper].tolist(), items.tolist(), strict=True))


@pytest.mark.parametrize("view", ["edge_drop", "node_drop", "random_walk"])
def test_views_of_sgl_are_subgraphs(view: str) -> None:
    drop = "node_drop" if view == "node_drop" else "edge_drop"
    model = made("sgl", each_layer=view == "random_walk", augmentations=[{"name": drop, "ratio": 0.3}])
    assert isinstance(model, SGL)
    batch = first_batch(model)
    encoder, views = model.encoder, model._subgraphs(batch)
    whole = edge_set(encoder, encoder.adjacency())
    assert len(views) == 2
    for layers in views:
        assert len(layers) == encoder.n_layers
        for adjacency in layers:
            kept = edge_set(encoder, adjacency)
            assert kept < whole
            there = adjacency.to_dense()
            torch.testing.assert_close(there, there.T)
            degrees = (there > 0).sum(1)
            root = degrees.clamp(min=1).rsqrt()
            torch.testing.assert_close(there, (there > 0) * root[:, None] * root)
            if view == "node_drop":
                gone = {user for user in range(SPACE.n_users) if not degrees[user]}
                assert len(gone) >= int(0.3 * SPACE.n_users)
                lost = whole - kept
                items = {item for item in range(SPACE.n_items) if not degrees[SPACE.n_users + item]}
                assert all(user in gone or item in items for user, item in lost)
            else:
                assert len(kept) == len(whole) - int(0.3 * len(whole))
        different = len({frozenset(edge_set(encoder, adjacency)) for adjacency in layers})
        assert different == (encoder.n_layers if view == "random_walk" else 1)
    first, second = (edge_set(encoder, layers[0]) for layers in views)
    assert first != second


@pytest.mark.parametrize(("name", "n_layers"), [("simgcl", 1), ("xsimgcl", 2)])
def test_noise_has_its_length_and_stays_in_the_orthant(name: str, n_layers: int) -> None:
    model = made(name, noise=0.25, n_layers=n_layers)
    assert isinstance(model, SimGCL)
    batch = first_batch(model)
    every = model.encoder.layers(model.embedding.weight)[1:]
    clean, noisy = every[0], model._noisy_layers(batch)[1]
    connected = clean.abs().sum(1) > 0
    moved = (noisy - clean)[connected]
    torch.testing.assert_close(moved.norm(dim=1), torch.full((len(moved),), 0.25))
    assert bool((moved * clean[connected] >= 0).all())
    model.eval()
    torch.testing.assert_close(model.encode_items(), torch.stack(every).mean(0)[SPACE.n_users :].detach())


@pytest.mark.parametrize("name", ["ncl", "xsimgcl"])
def test_one_propagation_is_made_for_all_terms(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(name)
    batch = first_batch(model)
    calls = []
    layers = Encoder.layers
    monkeypatch.setattr(Encoder, "layers", lambda *args, **more: calls.append(1) or layers(*args, **more))
    model(batch, list(model.phases[0].terms))
    assert len(calls) == 1
