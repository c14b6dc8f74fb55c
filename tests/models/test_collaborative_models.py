"""Models of users and items by index: losses, unknown users, kept vectors, views, and learning a planted structure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph import registry
from recgraph.config import ConfigError
from recgraph.data.batch import PairBatch, Query
from recgraph.data.pairs import PairBatches
from recgraph.data.part import Cases, Part
from recgraph.encoders.lightgcn import LightGCN as Encoder
from recgraph.evaluate.evaluator import evaluate
from recgraph.models.base import Space
from recgraph.models.base_collaborative import CollaborativeModel
from recgraph.models.bpr_mf import BPRMF
from recgraph.models.lightgcn import LightGCN
from recgraph.models.sgl import SGL
from recgraph.models.simgcl import SimGCL
from recgraph.models.xsimgcl import XSimGCL
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged
from recgraph.train.config import TrainConfig
from recgraph.train.trainer import Trainer

SPACE = Space(n_users=24, n_items=30)
NAMES = [name for name in registry.names("model") if issubclass(registry.load("model", name), CollaborativeModel)]
CONTRASTIVE = ("sgl", "simgcl", "xsimgcl")


def planted(n_groups: int = 3) -> tuple[Part, Cases]:
    """Users and items of one group belong together: each user has 6 of its group's 10 items, 2 are to be found."""
    g = torch.Generator().manual_seed(0)
    rows, truth = [], []
    for user in range(SPACE.n_users):
        own = torch.arange(user % n_groups, SPACE.n_items, n_groups)[torch.randperm(10, generator=g)].tolist()
        rows.append(own[:6])
        truth.append(own[6:8])
    history = Ragged.from_lists(rows)
    cases = Cases(torch.arange(SPACE.n_users), history, Ragged.from_lists(truth), SPACE.n_items)
    return Part(history, SPACE.n_items), cases


def made(name: str, seed: int = 0, **settings: Any) -> CollaborativeModel:
    model: CollaborativeModel = registry.load("model", name)(**{"hidden_dim": 16, **settings})
    return model.build(SPACE, seed)


def first_batch(model: CollaborativeModel, seed: int = 5, epoch: int = 0) -> PairBatch:
    batch: PairBatch = next(model.batches(planted()[0], 32, Generators(seed)).epoch(epoch))
    return batch


def query(users: list[int], histories: list[list[int]]) -> Query:
    return Query(torch.tensor(users), Ragged.from_lists(histories))


def test_all_are_here() -> None:
    assert {"bprmf", "lightgcn", "sgl", "simgcl", "xsimgcl"} <= set(NAMES)


# --- learning ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_learns_a_planted_structure(name: str) -> None:
    train, cases = planted()
    # where the few users of a group are negatives of each other, a strong contrast outweighs what they have in common
    model = made(name, **({"contrast_weight": 0.02} if name in CONTRASTIVE else {}))
    generators = Generators(0)
    config = TrainConfig(batch_size=32, learning_rate=0.02, max_epochs=30, metric="loss", patience=None)
    Trainer(model, model.batches(train, 32, generators), config, generators).fit()
    result = evaluate(model, cases, seen=("exclude",), cutoffs=(4,))[0].metrics
    # of 24 unseen items 4 are the user's group's: by chance a sixth of the truth is in the first four
    assert result["recall@4"] > 0.9
    strangers = Cases(torch.full_like(cases.users, -1), cases.history, cases.truth, cases.n_items)
    assert evaluate(model, strangers, seen=("exclude",), cutoffs=(4,))[0].metrics["recall@4"] > 0.9


@pytest.mark.parametrize("loss", registry.names("loss"))
@pytest.mark.parametrize("name", ["bprmf", "lightgcn"])
def test_learns_with_every_loss(name: str, loss: str) -> None:
    train, _ = planted()
    model = made(name, loss=loss, l2=0)
    batches = model.batches(train, 32, Generators(0))
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-2)
    means = []
    for epoch in range(12):
        losses = []
        for batch in batches.epoch(epoch):
            optimiser.zero_grad()
            value = model(batch, ["rec"])["rec"]
            value.backward()
            optimiser.step()
            losses.append(float(value.detach()))
        means.append(sum(losses) / len(losses))
    assert means[-1] < 0.8 * means[0]


# --- terms ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bprmf", "lightgcn"])
@pytest.mark.parametrize("k", [1, 3])
def test_bpr_and_l2_equal_lookups_under_autograd(name: str, k: int) -> None:
    model = made(name, n_negatives=k, popularity_power=0.5).double()
    batch = first_batch(model)
    table = model.embedding.weight
    users, items = torch.split(model.nodes(), [SPACE.n_users, SPACE.n_items])
    positive = (users[batch.users] * items[batch.items]).sum(1)
    negative = (users[batch.users][:, None] * items[batch.negatives]).sum(2)
    own = [table[batch.users], table[SPACE.n_users + batch.items], table[SPACE.n_users + batch.negatives].flatten(0, 1)]
    expected = {
        "rec": F.softplus(negative - positive[:, None]).mean(),
        "l2": sum(part.square().sum(1).mean() for part in own) / 2,
    }
    for term, value in model(batch, ["rec", "l2"]).items():
        torch.testing.assert_close(value, expected[term], rtol=1e-12, atol=1e-12)
        (grad,) = torch.autograd.grad(value, table)
        (expected_grad,) = torch.autograd.grad(expected[term], table, retain_graph=True)
        torch.testing.assert_close(grad, expected_grad, rtol=1e-10, atol=1e-14)


def test_softmax_over_all_items_has_no_padding() -> None:
    model = made("lightgcn", loss="full_softmax").double()
    batch = first_batch(model)
    assert batch.negatives.shape == (32, 0)
    users, items = torch.split(model.nodes(), [SPACE.n_users, SPACE.n_items])
    expected = F.cross_entropy(users[batch.users] @ items.T, batch.items)
    torch.testing.assert_close(model(batch, ["rec"])["rec"], expected)


@pytest.mark.parametrize("candidates", ["batch", "all"])
@pytest.mark.parametrize("name", CONTRASTIVE)
def test_the_contrastive_term_is_infonce_of_users_and_items(name: str, candidates: str) -> None:
    model = made(name, candidates=candidates, temperature=0.3).double()
    assert isinstance(model, SGL | SimGCL)
    batch = first_batch(model)
    value = model(batch, ["cl"])["cl"]
    twin = made(name, candidates=candidates, temperature=0.3).double()
    assert isinstance(twin, SGL | SimGCL)
    again = first_batch(twin)
    if isinstance(twin, XSimGCL):
        layers = twin._noisy_layers(again)[1:]
        a, b = torch.stack(layers).mean(0), layers[0]
    else:
        a, b = twin._views(again)
    expected = torch.zeros((), dtype=torch.float64)
    for start, size, chosen in ((0, SPACE.n_users, batch.users), (SPACE.n_users, SPACE.n_items, batch.items)):
        chosen = chosen.unique()
        x, y = (F.normalize(view[start : start + size]) for view in (a, b))
        if candidates == "batch":
            expected = expected + F.cross_entropy(x[chosen] @ y[chosen].T / 0.3, torch.arange(len(chosen)))
        else:
            expected = expected + F.cross_entropy(x[chosen] @ y.T / 0.3, chosen)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)


def test_negatives_can_be_weighted() -> None:
    model = made("simgcl", weight="self_mask")
    batch = first_batch(model)
    model(batch, ["cl"])["cl"].backward()
    assert model.embedding.weight.grad is not None
    assert [key for key in model.state_dict() if "contrast" in key] == []


# --- views ------------------------------------------------------------------------------------------


def edge_set(encoder: Encoder, adjacency: Any) -> set[tuple[int, int]]:
    upper = adjacency.rows < encoder.n_users
    items = adjacency.indices[upper] - encoder.n_users
    return set(zip(adjacency.rows[upper].tolist(), items.tolist(), strict=True))


@pytest.mark.parametrize("view", ["edge_drop", "node_drop", "random_walk"])
def test_views_of_sgl_are_subgraphs(view: str) -> None:
    model = made("sgl", graph_view=view, drop_rate=0.3)
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


def test_views_of_sgl_are_drawn_once_an_epoch_and_depend_on_it_alone() -> None:
    model = made("sgl")
    assert isinstance(model, SGL)
    batches = list(model.batches(planted()[0], 32, Generators(5)).epoch(1))
    drawn = [model._subgraphs(batch) for batch in batches]
    assert all(views is drawn[0] for views in drawn)
    resumed = made("sgl", seed=3)
    assert isinstance(resumed, SGL)
    again = resumed._subgraphs(first_batch(resumed, epoch=1))
    other = resumed._subgraphs(first_batch(resumed, epoch=2))
    assert torch.equal(again[0][0].indices, drawn[0][0][0].indices)
    assert edge_set(resumed.encoder, again[0][0]) != edge_set(resumed.encoder, other[0][0])


@pytest.mark.parametrize("name", ["simgcl", "xsimgcl"])
def test_noise_has_its_length_and_stays_in_the_orthant(name: str) -> None:
    model = made(name, noise=0.25, n_layers=1)
    assert isinstance(model, SimGCL)
    batch = first_batch(model)
    clean = model.encoder.layers(model.embedding.weight)[1]
    noisy = model._noisy_layers(batch)[1]
    connected = clean.abs().sum(1) > 0
    moved = (noisy - clean)[connected]
    torch.testing.assert_close(moved.norm(dim=1), torch.full((len(moved),), 0.25))
    assert bool((moved * clean[connected] >= 0).all())
    model.eval()
    torch.testing.assert_close(model.encode_items(), clean[SPACE.n_users :].detach())


def test_xsimgcl_makes_one_propagation_for_all_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made("xsimgcl")
    batch = first_batch(model)
    calls = []
    layers = Encoder.layers
    monkeypatch.setattr(Encoder, "layers", lambda *args, **more: calls.append(1) or layers(*args, **more))
    model(batch, ["rec", "l2", "cl"])
    assert len(calls) == 1


def test_a_contrasted_layer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="contrast_layer = 3 must be at most n_layers = 2"):
        XSimGCL(n_layers=2, contrast_layer=3)


# --- ranking ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_unknown_users_are_the_mean_of_their_items(name: str) -> None:
    model = made(name)
    rows = planted()[0].items.to_lists()
    rows[3] = []
    model.setup(Part(Ragged.from_lists(rows), SPACE.n_items))
    model.eval()
    items = model.encode_items()
    found = model.encode_users(query([-1, 3, 0, -1], [[4, 9], [7], [7], []]))
    users = torch.split(model.nodes(), [SPACE.n_users, SPACE.n_items])[0].detach()
    torch.testing.assert_close(found[0], items[[4, 9]].mean(0))
    # a user without a training interaction has no trained vector
    torch.testing.assert_close(found[1], items[7])
    torch.testing.assert_close(found[2], users[0])
    trained = [user for user in range(SPACE.n_users) if user != 3]
    torch.testing.assert_close(found[3], users[trained].mean(0))


@pytest.mark.parametrize("name", NAMES)
def test_vectors_are_kept_in_evaluation_and_follow_the_weights(name: str) -> None:
    model = made(name)
    model.setup(planted()[0])
    model.eval()
    with torch.inference_mode():
        kept = model.encode_items()
    assert kept.data_ptr() == model.encode_items().data_ptr()
    assert not kept.requires_grad
    before = kept.clone()
    with torch.no_grad():
        model.embedding.weight.mul_(2)
    torch.testing.assert_close(model.encode_items(), 2 * before)
    model.load_state_dict(made(name, seed=9).state_dict() | {"known_users": model.known_users})
    assert not torch.allclose(model.encode_items(), 2 * before)
    model.train()
    assert model._ranking is None
    assert model.encode_items().requires_grad
    first_batch(model)
    model(first_batch(model), ["rec"])["rec"].backward()


@pytest.mark.parametrize("name", NAMES)
def test_training_is_the_same_again_and_after_a_resume(name: str, tmp_path: Path) -> None:
    train, _ = planted()

    def trained(folder: Path | None, epochs: int, resume: bool = False) -> Tensor:
        model, generators = made(name), Generators(2)
        config = TrainConfig(batch_size=32, max_epochs=epochs, metric="loss", patience=None)
        trainer = Trainer(model, model.batches(train, 32, generators), config, generators, folder=folder)
        assert not resume or trainer.resume()
        trainer.fit()
        return model.embedding.weight.detach()

    whole = trained(None, 3)
    trained(tmp_path, 2)
    assert torch.equal(whole, trained(tmp_path, 3, resume=True))
    assert torch.equal(whole, trained(None, 3))


def test_a_training_part_of_other_sizes_is_refused() -> None:
    with pytest.raises(ValueError, match="built for"):
        made("bprmf").batches(Part(planted()[0].items, 31), 8, Generators(0))


def test_tables_start_by_xavier() -> None:
    for model in (BPRMF(hidden_dim=16).build(SPACE), LightGCN(hidden_dim=16).build(SPACE)):
        users, items = torch.split(model.embedding.weight.detach(), [SPACE.n_users, SPACE.n_items])
        for table in (users, items):
            bound = (6 / sum(table.shape)) ** 0.5
            assert 0.9 * bound < float(table.abs().max()) <= bound


def test_batches_of_pairs_are_those_of_the_loss() -> None:
    batches = made("bprmf", n_negatives=3).batches(planted()[0], 8, Generators(0))
    assert isinstance(batches, PairBatches)
    assert batches.n_negatives == 3
    assert made("bprmf", loss="sampled_softmax").batches(planted()[0], 8, Generators(0)).n_negatives == 0
