"""Item features inside every sequence model that the registry finds: inputs, scores, losses, cold
items, bundles.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from refusing import refused
from small_settings import with_small

import recgraph as rg
from recgraph import registry
from recgraph.data.item_features import ItemFeatures
from recgraph.data.part import Part
from recgraph.models.base import FeatureSpace
from recgraph.models.sequence.base import SequenceModel
from recgraph.rng import Generators
from recgraph.train.phases import freeze_all_but, total_loss

NAMES = [
    name
    for name in registry.names("model")
    if issubclass(registry.load("model", name), SequenceModel)
]
SMALL = {"hidden_dim": 8, "encoder.n_layers": 1, "encoder.inner_dim": 12, "max_len": 8}
N_USERS, N_WARM, N_ITEMS = 20, 14, 16
GROUPS = [item % 3 for item in range(N_ITEMS)]


def log(n_warm: int = N_WARM) -> rg.Interactions:
    """Users who stay within a group of items; the last items have no interaction."""
    draw = torch.Generator().manual_seed(0)
    rows = []
    for user in range(N_USERS):
        own = [item for item in range(n_warm) if GROUPS[item] == user % 3]
        for time, place in enumerate(torch.randint(len(own), (6,), generator=draw).tolist()):
            rows.append((user, own[place] + 100, time * 60 + user))
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    features = pl.DataFrame(
        {
            "item": range(100, 100 + N_ITEMS),
            "group": [f"g{group}" for group in GROUPS],
            "price": [1.0 + item for item in range(N_ITEMS)],
            "text": [[float(group == 0), float(group == 1)] for group in GROUPS],
        }
    )
    made = rg.Interactions.from_frame(
        frame, user="user", item="item", timestamp="time", item_features=features
    )
    return made.with_ids(items=features["item"])


LOG = log()
TRAIN = Part(LOG.ordered.items, LOG.n_items, times=LOG.ordered.times)
KNOWN = TRAIN.item_counts() > 0


def built(
    name: str, device: torch.device | str = "cpu", seed: int = 0, **settings: Any
) -> SequenceModel:
    cls = registry.load("model", name)
    model = cls(**with_small(cls, SMALL, {"items.features": "all", **settings}))
    features = ItemFeatures.learn(
        LOG.item_features, "item", LOG.items, KNOWN, model.wanted_features
    )
    made: SequenceModel = model.build(
        FeatureSpace(n_users=LOG.n_users, n_items=LOG.n_items, features=features), seed
    )
    return made.to(device)


def a_step(model: SequenceModel, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    batches = model.batches(TRAIN, 8, Generators(0, device))
    batch = next(iter(batches.epoch(0))).to(device)
    groups, values = model.train().parameter_groups(), {}
    for phase in model.phases:
        with freeze_all_but(groups, phase.groups):
            values = model(batch, tuple(phase.terms))
            total_loss(values, phase).backward()
    return values


def test_one_table_a_step_and_in_evaluation_until_something_changes() -> None:
    model = built("sasrec", items={"id_dropout": 0.5})
    batch = next(iter(model.batches(TRAIN, 8, Generators(0)).epoch(0)))
    tables: list[torch.Tensor] = []
    model.losses = lambda *_: tables.extend(model.token_table(batch) for _ in range(2)) or {}  # type: ignore
    model.train()(batch, ("rec",)), model(batch, ("rec",))
    assert tables[0] is tables[1]
    assert tables[2] is tables[3]
    assert not torch.equal(tables[0], tables[2])
    tower = model.eval().item_tower
    assert tower is not None
    assert model.token_table() is not model.token_table(), "with gradients nothing is kept"
    with torch.no_grad():
        seen = [model.token_table()]
        assert model.token_table() is seen[0]
        for change in (
            lambda: tower.values.weight[1].add_(1),
            lambda: model.item_embedding.weight[1].add_(1),
            lambda: tower.setup(torch.ones(N_ITEMS)),
            lambda: model.load_state_dict(built("sasrec", seed=1).state_dict()),
        ):
            change()
            seen.append(model.token_table())
            assert not torch.equal(seen[-1], seen[-2])
        assert model.double().token_table().dtype == torch.float64


@pytest.mark.parametrize("name", NAMES)
def test_features_get_gradients_and_cold_items_are_not_scored_in_training(
    name: str, device: torch.device
) -> None:
    model = built(name, device, items={"id_dropout": 0.0})
    a_step(model, device)
    tower = model.item_tower
    assert tower is not None
    assert tower.project is not None
    for grad in (
        tower.values.weight.grad,
        tower.project.weight.grad,
        model.item_embedding.weight.grad,
    ):
        assert grad is not None
        assert bool(grad.isfinite().all())
        assert bool(grad.any())
    assert tower.known_items.tolist() == KNOWN.tolist()
    assert model.item_embedding.weight.grad is not None
    assert not model.item_embedding.weight.grad[1:][~KNOWN].any()


def test_the_loss_of_a_step_is_that_of_the_warm_items_alone() -> None:
    """A slow oracle: cross-entropy over the mask token and the items of the training part."""
    settings = {"dropout": 0.0, "encoder": {"attention_dropout": 0.0}, "items.id_dropout": 0.0}
    model = built("sasrec", **settings).double()
    batch = next(iter(model.batches(TRAIN, 100, Generators(0)).epoch(0)))
    loss = model.train()(batch, ("rec",))["rec"]
    states, table = model.encode(batch.sequences, batch, False), model.token_table(batch)
    scored = [0, *(item + 1 for item in range(N_ITEMS) if KNOWN[item])]
    losses = [
        torch.logsumexp(torch.stack([state @ table[token] for token in scored]), 0)
        - state @ table[target]
        for state, target in zip(states, batch.targets.tolist(), strict=True)
    ]
    torch.testing.assert_close(loss, torch.stack(losses).mean())


@pytest.mark.parametrize("name", NAMES)
def test_items_of_the_same_features_and_no_interactions_have_the_same_vector(name: str) -> None:
    model = built(name, items={"features": ("group",)})
    a_step(model)
    vectors = model.eval().encode_items()
    cold = [item for item in range(N_ITEMS) if not KNOWN[item]]
    by_id = {int(LOG.items.ids([item])[0]) - 100: item for item in cold}
    assert len(by_id) >= 2
    tower, own = model.item_tower, model.item_embedding.weight[1:][KNOWN].mean(0)
    assert tower is not None
    for original, item in by_id.items():
        torch.testing.assert_close(vectors[item], own + tower.values.weight[1 + GROUPS[original]])


@pytest.mark.parametrize("name", NAMES)
def test_a_run_recommends_cold_items_and_a_bundle_needs_no_frame(name: str, tmp_path: Path) -> None:
    cls = registry.load("model", name)
    model = cls(**with_small(cls, SMALL, {"items.features": ("group", "price")}))
    split = LOG.split("leave-one-out")
    run = rg.fit(
        model, split, seed=0, max_epochs=1, batch_size=8, progress=False, out=tmp_path / "run"
    )
    cold = [int(LOG.items.ids([item])[0]) for item in range(N_ITEMS) if not KNOWN[item]]
    found = run.recommend(users=[0, 1], k=N_ITEMS)
    assert set(cold) <= set(found["item"].to_list())
    # a history of cold items alone is enough to rank by
    assert rg.load(tmp_path / "run" / "bundle").recommend(histories={"new": cold}, k=3).height == 3
    again = rg.load(tmp_path / "run" / "bundle")
    assert again.recommend(users=[0, 1], k=N_ITEMS).equals(found)
    space = again.model.space
    assert isinstance(space, FeatureSpace)
    assert space.features.schema == model.space.features.schema
    (tmp_path / "run" / "bundle" / "features.safetensors").write_bytes(b"damaged")
    with refused("features.safetensors"):
        rg.load(tmp_path / "run" / "bundle")
