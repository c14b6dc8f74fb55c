"""What every registered model says of a new log, and what it keeps where its tables grow."""

from __future__ import annotations

import pytest
import torch
from small_settings import with_small

from recgraph import registry
from recgraph.models.base import ClosedFormModel, Model, Space, TrainableModel, item_table
from recgraph.models.growth import grown, grown_optimiser
from recgraph.models.heterogeneous.base import NodeModel
from recgraph.models.two_stage import TwoStage
from recgraph.train.checkpoint import optimiser_tensors
from recgraph.train.config import TrainConfig
from recgraph.train.phases import make_optimisers

OLD, NEW = Space(n_users=6, n_items=9), Space(n_users=8, n_items=13)
# with every table
SMALL = {
    "hidden_dim": 8,
    "max_len": 5,
    "encoder.inner_dim": 8,
    "loss.n_negatives": 4,
    "history_table": True,
}
NAMES = registry.names("model")
GROWING = [name for name in NAMES if registry.load("model", name).updated_by == "training"]


def made(name: str, space: Space = OLD, seed: int = 1) -> Model:
    cls = registry.load("model", name)
    model: Model = cls(**with_small(cls, SMALL, {}))
    return model.build(space, seed)


@pytest.mark.parametrize("name", NAMES)
def test_every_model_says_whether_it_can_be_updated(name: str) -> None:
    cls = registry.load("model", name)
    if issubclass(cls, ClosedFormModel) and not issubclass(cls, NodeModel | TwoStage):
        assert cls.updated_by == "fitting"
    elif cls.reads_graph or issubclass(cls, NodeModel | TwoStage):
        assert cls.updated_by is None
    else:
        assert cls.updated_by == "training"


@pytest.mark.parametrize("name", GROWING)
def test_what_was_learned_stays_in_its_place(name: str, device: torch.device) -> None:
    model = made(name).to(device)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)).to(device)
            )
    larger = grown(model, NEW, seed=3)
    assert larger.space == NEW
    assert larger.seed == model.seed
    before, after = dict(model.named_parameters()), dict(larger.named_parameters())
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert after[key].device.type == device.type
        if key not in model.tables:
            assert torch.equal(value, after[key]), key
    old_items, items = item_table(model), item_table(larger)
    assert torch.equal(items[: OLD.n_items], old_items)
    new = items[OLD.n_items :]
    assert len(new) == NEW.n_items - OLD.n_items
    assert not torch.equal(new[0], new[1])
    spread = float(old_items.detach().std())
    torch.testing.assert_close(new.mean(0), old_items.mean(0), rtol=0, atol=spread)
    if "users" in next(iter(model.tables.values())):
        table, larger_table = (next(iter(each.parameters())) for each in (model, larger))
        assert torch.equal(larger_table[: OLD.n_users], table[: OLD.n_users])


@pytest.mark.parametrize("name", GROWING)
def test_the_moments_of_the_optimiser_move_with_their_rows(name: str) -> None:
    model = made(name)
    assert isinstance(model, TrainableModel)
    optimisers = make_optimisers(model, TrainConfig())
    for value in model.parameters():
        value.grad = torch.randn(value.shape, generator=torch.Generator().manual_seed(2))
    for optimiser in optimisers.values():
        optimiser.step()
    larger = grown(model, NEW, seed=3)
    moments = grown_optimiser(
        model, larger, optimiser_tensors(optimisers), model.parameter_groups()
    )
    names = {id(parameter): key for key, parameter in larger.named_parameters()}
    seen = set()
    for key, value in moments.items():
        group, index, entry = key.split("/")
        parameter = larger.parameter_groups()[group][int(index)]
        kind = names[id(parameter)]
        if entry == "step":
            continue
        assert value.shape == parameter.shape, key
        before = optimisers[group].state_dict()["state"][int(index)][entry]
        if kind in model.tables:
            seen.add(kind)
            moved = value[value.flatten(1).any(1)]
            assert torch.equal(moved, before), "old rows, in their order; all new rows are 0"
        else:
            assert torch.equal(value, before)
    assert seen == set(model.tables)
