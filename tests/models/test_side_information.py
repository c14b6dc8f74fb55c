"""Item features inside every sequence model that the registry finds: inputs, scores, losses, cold items, bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from small_settings import with_small

import recgraph as rg
from experiments.cold_items import over_users_by_model
from recgraph import registry
from recgraph.config import ConfigError
from recgraph.data.batches import Query
from recgraph.data.errors import DataError
from recgraph.data.item_features import ItemFeatures
from recgraph.data.part import Part
from recgraph.models.base import FeatureSpace, Space
from recgraph.models.sequence.base import SequenceModel
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged
from recgraph.train.phases import freeze_all_but, total_loss

NAMES = [name for name in registry.names("model") if issubclass(registry.load("model", name), SequenceModel)]
SMALL = {"hidden_dim": 8, "n_layers": 1, "inner_dim": 12, "max_len": 8, "n_negatives": 6}
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
    made = rg.Interactions.from_frame(frame, user="user", item="item", timestamp="time", item_features=features)
    return made.with_ids(items=features["item"])


LOG = log()
TRAIN = Part(LOG.ordered.items, LOG.n_items, times=LOG.ordered.times)
KNOWN = TRAIN.item_counts() > 0


def small_sasrec(**settings: Any) -> SequenceModel:
    return rg.models.SASRec(**with_small(rg.models.SASRec, SMALL, settings))


def built(name: str, device: torch.device | str = "cpu", seed: int = 0, **settings: Any) -> SequenceModel:
    cls = registry.load("model", name)
    model = cls(**with_small(cls, SMALL, {"item_features": "all", **settings}))
    features = ItemFeatures.learn(LOG.item_features, "item", LOG.items, KNOWN, model.wanted_features)
    made: SequenceModel = model.build(FeatureSpace(n_users=LOG.n_users, n_items=LOG.n_items, features=features), seed)
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


@pytest.mark.parametrize("name", NAMES)
def test_the_only_table_is_that_of_the_tower(name: str, device: torch.device) -> None:
    model = built(name, device).eval()
    query = Query(torch.tensor([0, -1]), Ragged.from_lists([[3, 4, 15], [1]])).to(device)
    with torch.no_grad():
        before, items = model.score(query), model.encode_items()
        assert items.shape == (N_ITEMS, 8)
        torch.testing.assert_close(before, model.encode_users(query) @ items.T)
        assert model.item_tower is not None
        model.item_tower.values.weight.add_(0.5 * torch.arange(8, device=device))
        after = model.score(query)
    assert not torch.allclose(before, after), "scores read the features"


@pytest.mark.parametrize("name", NAMES)
def test_features_get_gradients_and_cold_items_are_not_scored_in_training(name: str, device: torch.device) -> None:
    model = built(name, device, item_id_dropout=0.0)
    a_step(model, device)
    tower = model.item_tower
    assert tower is not None
    assert tower.project is not None
    for grad in (tower.values.weight.grad, tower.project.weight.grad, model.item_embedding.weight.grad):
        assert grad is not None
        assert bool(grad.isfinite().all())
        assert bool(grad.any())
    assert tower.known_items.tolist() == KNOWN.tolist()
    assert model.item_embedding.weight.grad is not None
    assert not model.item_embedding.weight.grad[1:][~KNOWN].any()


@pytest.mark.parametrize("loss", registry.names("loss"))
@pytest.mark.parametrize("own", [True, False])
def test_every_loss_reads_the_table(loss: str, own: bool) -> None:
    model = built("sasrec", loss=loss, item_id_embedding=own)
    assert model.item_embedding.weight.shape == (N_ITEMS + 1 if own else 1, 8)
    values = a_step(model)
    assert bool(values["rec"].isfinite())
    assert model.item_tower is not None
    grad = model.item_tower.values.weight.grad
    assert grad is not None
    assert bool(grad.any())


def test_the_loss_of_a_step_is_that_of_the_warm_items_alone() -> None:
    """A slow oracle: cross-entropy over the mask token and the items of the training part."""
    settings = {"dropout": 0.0, "attention_dropout": 0.0, "item_id_dropout": 0.0}
    model = built("sasrec", **settings).double()
    batch = next(iter(model.batches(TRAIN, 100, Generators(0)).epoch(0)))
    loss = model.train()(batch, ("rec",))["rec"]
    states, table = model.training_states(batch), model.token_table(batch)
    scored = [0, *(item + 1 for item in range(N_ITEMS) if KNOWN[item])]
    losses = [
        torch.logsumexp(torch.stack([state @ table[token] for token in scored]), 0) - state @ table[target]
        for state, target in zip(states, batch.targets.tolist(), strict=True)
    ]
    torch.testing.assert_close(loss, torch.stack(losses).mean())


@pytest.mark.parametrize("name", NAMES)
def test_items_of_the_same_features_and_no_interactions_have_the_same_vector(name: str) -> None:
    model = built(name, item_features=("group",))
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
    model = cls(**with_small(cls, SMALL, {"item_features": ("group", "price")}))
    split = LOG.split("leave-one-out")
    run = rg.fit(model, split, seed=0, max_epochs=1, batch_size=8, progress=False, out=tmp_path / "run")
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
    with pytest.raises(ValueError, match=r"features\.safetensors is damaged"):
        rg.load(tmp_path / "run" / "bundle")


def test_cold_items_go_to_the_users_of_their_group() -> None:
    model = small_sasrec(dropout=0.1, attention_dropout=0.1, item_features=("group",))
    run = rg.fit(
        model, LOG.split("leave-one-out"), seed=0, max_epochs=60, learning_rate=0.01, metric="loss", progress=False
    )
    cold = [int(LOG.items.ids([item])[0]) for item in range(N_ITEMS) if not KNOWN[item]]
    for user in range(3):
        own = [item for item in cold if GROUPS[item - 100] == user]
        others = [item for item in cold if GROUPS[item - 100] != user]
        frame = run.recommend(users=[user], k=N_ITEMS, allow=cold)
        scores = dict(zip(frame["item"], frame["score"], strict=True))
        if own:
            assert min(scores[item] for item in own) > max(scores[item] for item in others)


def test_without_features_nothing_is_asked_for_and_settings_are_checked() -> None:
    assert rg.models.SASRec().wanted_features == ()
    plain = small_sasrec().build(Space(n_users=2, n_items=3))
    assert not [name for name in plain.state_dict() if "tower" in name]
    assert "item_features" not in rg.models.SASRec().config.identity()
    assert "item_features" in rg.models.SASRec(item_features=["group"]).config.identity()
    with pytest.raises(ConfigError, match=r"give 'all' or a list of columns, as \['group'\]"):
        rg.models.SASRec(item_features="group")
    with pytest.raises(ConfigError, match="item_id_embedding = False leaves nothing"):
        rg.models.SASRec(item_id_embedding=False)
    with pytest.raises(ValueError, match="needs the features: build"):
        rg.models.SASRec(item_features=["group"]).build(Space(n_users=2, n_items=3))
    with pytest.raises(ValueError, match="no vectors of their own that init_items could set"):
        built("sasrec", item_id_embedding=False).item_table()
    bare = rg.Interactions.from_frame(LOG.to_frame(), user="user", item="item", timestamp="time")
    with pytest.raises(DataError, match="the log has no item features"):
        rg.fit(rg.models.SASRec(item_features="all"), bare.split(), seed=0)
    with pytest.raises(DataError, match="no column 'colour'; the columns are 'group', 'price', 'text'"):
        rg.fit(rg.models.SASRec(item_features=["colour"]), LOG.split(), seed=0)


def test_models_of_the_study_of_cold_items_are_not_seeds_of_one() -> None:
    """``python experiments/cold_items.py warm --model A B`` compared the variants with the mean over A and B."""
    noise = [0.02, 0.01, 0.03, 0.02]

    def run(model: str, variant: str, seed: int, value: float) -> dict[str, Any]:
        users = {"ndcg@10": [value + seed * one for one in noise]}
        return {"model": model, "variant": variant, "seed": seed, "test": {"per_user": users}}

    better = {"one": 0.1, "two": -0.3}
    runs = [
        run(model, variant, seed, 0.5 + (gain + 0.01 * seed if variant == "id" else 0.0))
        for model, gain in better.items()
        for variant in ("none", "id")
        for seed in (0, 1)
    ]
    found = over_users_by_model(runs)
    assert {model: own["id"]["ndcg@10"]["difference"] for model, own in found.items()} == pytest.approx(
        {model: gain + 0.005 for model, gain in better.items()}
    )
    del runs[0]["test"]["per_user"]  # of a record whose values of users are gone
    assert set(over_users_by_model(runs)) == {"two"}
