"""Mixtures of experts: routes, balance and categories against slow oracles, and training by configuration."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor

from recgraph import registry
from recgraph.accelerated import accelerator_path
from recgraph.data.ids import IdMap
from recgraph.data.item_categories import item_categories
from recgraph.data.item_features import ItemFeatures
from recgraph.data.part import Part
from recgraph.encoders.experts import ExpertLayer, Experts, ExpertTransformer, assign_categories, balance
from recgraph.models.base import FeatureSpace, Space
from recgraph.models.sequence.base import SequenceModel
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged
from recgraph.train.config import TrainConfig
from recgraph.train.phases import make_optimisers, total_loss

N_ITEMS = 12
SMALL: dict[str, Any] = {
    "hidden_dim": 8,
    "n_layers": 2,
    "n_heads": 1,
    "inner_dim": 8,
    "max_len": 8,
    "encoder": "expert_transformer",
}


def features() -> ItemFeatures:
    """Items 0 to 9 of three genres, item 4 of two, item 10 of none, item 11 without a row."""
    genres: list[list[str] | None] = [[["a"], ["b"], ["c"]][item % 3] for item in range(10)]
    genres[4], genres[9] = ["c", "a"], None
    frame = pl.DataFrame({"item": [str(item) for item in range(10)], "price": range(10), "genre": genres})
    items = IdMap(pl.Series([str(item) for item in range(N_ITEMS)]))
    known = torch.ones(N_ITEMS, dtype=torch.bool)
    return ItemFeatures.learn(frame, "item", items, known, ("price", "genre"))


def train() -> Part:
    draw = torch.Generator().manual_seed(5)
    lengths = torch.randint(2, 10, (24,), generator=draw)
    return Part(Ragged.from_lengths(torch.randint(0, N_ITEMS, (int(lengths.sum()),), generator=draw), lengths), N_ITEMS)


def built(name: str, with_features: bool = False, **options: Any) -> SequenceModel:
    settings = {**SMALL, "encoder_options": {"n_experts": 3, **options}}
    if with_features:
        settings["item_features"] = ("price", "genre")
    model: SequenceModel = registry.load("model", name)(**settings)
    sizes = {"n_users": 24, "n_items": N_ITEMS}
    return model.build(FeatureSpace(**sizes, features=features()) if with_features else Space(**sizes), seed=0)


@pytest.mark.parametrize("n_rows", [0, 1, 40])
def test_rows_take_their_expert(n_rows: int, device: torch.device) -> None:
    torch.manual_seed(0)
    experts = Experts(5, 6, 7).to(device, torch.float64)
    torch.nn.init.normal_(experts.up_bias)
    x = torch.randn(n_rows, 6, dtype=torch.float64, device=device, requires_grad=True)
    route = torch.randint(0, 4, (n_rows,), device=device)  # one expert has no row
    expected = [
        experts.down[e] @ torch.nn.functional.gelu(experts.up[e] @ row + experts.up_bias[e]) + experts.down_bias[e]
        for row, e in zip(x, route.tolist(), strict=True)
    ]
    wanted = torch.stack(expected) if expected else x
    found, dense = experts(x, route), experts.dense(x, route)
    with accelerator_path():
        torch.testing.assert_close(experts(x, route), wanted)
    for one in (found, dense):
        torch.testing.assert_close(one, wanted)
        if n_rows:
            of = (x, *experts.parameters())
            ours = torch.autograd.grad(one.square().sum(), of, retain_graph=True)
            theirs = torch.autograd.grad(wanted.square().sum(), of, retain_graph=True)
            torch.testing.assert_close(ours, theirs)


def test_balance_is_that_of_a_loop_over_what_counts() -> None:
    draw = torch.Generator().manual_seed(1)
    p = torch.softmax(torch.randn(30, 4, generator=draw, dtype=torch.float64), 1).requires_grad_()
    route, counted = p.detach().argmax(1), torch.rand(30, generator=draw) > 0.3
    n = int(counted.sum())
    expected = torch.zeros((), dtype=torch.float64)
    for expert in range(4):
        share = sum(1 for row in range(30) if counted[row] and route[row] == expert) / n
        expected = expected + 4 * share * sum(p[row, expert] for row in range(30) if counted[row]) / n
    torch.testing.assert_close(balance(p, route, counted), expected)
    even = torch.full((8, 4), 0.25)
    assert float(balance(even, torch.arange(8) % 4, torch.ones(8, dtype=torch.bool))) == 1
    assert torch.autograd.gradcheck(lambda p: balance(p, route, counted), p)


def test_categories_are_shared_out_by_interactions() -> None:
    categories = torch.tensor([0, 0, 1, 2, 2, -1, 3])
    counts = torch.tensor([5, 5, 8, 3, 2, 4, 1])
    # 0: 10, 1: 8, 2: 5, none: 4, 3: 1
    assert assign_categories(categories, counts, 2).tolist() == [0, 1, 1, 1, 0]
    assert assign_categories(categories, counts, 1).tolist() == [0] * 5
    assert assign_categories(torch.full((3,), -1), counts[:3], 2).tolist() == [0]


def test_the_category_of_an_item_is_that_of_its_features() -> None:
    found = item_categories(features())
    assert found is not None
    genre = features().schema.columns[1]
    order = {value: place for place, value in enumerate(genre.values)}
    wanted = [order["abc"[item % 3]] for item in range(9)] + [-1] * 3
    wanted[4] = min(order["a"], order["c"])
    assert found.tolist() == wanted


def test_the_encoder_routes_by_category() -> None:
    model = built("SASRec", with_features=True, routing="category")
    model.setup(train())
    encoder = model.encoder
    assert isinstance(encoder, ExpertTransformer)
    categories = item_categories(features())
    assert categories is not None
    experts = assign_categories(categories, train().item_counts(), 3)
    for layer in encoder._layers:
        assert layer.expert_of.tolist() == [int(experts[-1]), *experts[categories].tolist()]
    assert encoder.penalty_weight == 0
    with pytest.raises(ValueError, match="an export has not"):
        model.padded_form()


def test_what_routing_needs_is_said() -> None:
    with pytest.raises(ValueError, match=r"routing = 'category' needs categories .* item_features"):
        built("SASRec", routing="category").setup(train())
    with pytest.raises(ValueError, match="routing = 'random' must be one of learned, category"):
        ExpertTransformer(routing="random")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"balance = -1\.0 must be at least 0"):
        built("SASRec", balance=-1.0)
    with pytest.raises(ValueError, match="n_experts = 0"):
        ExpertTransformer(n_experts=0)


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[ExpertLayer, Tensor, Tensor]]:
    """What expert layers mix from here on: layer, rows [N, D] and their tokens."""
    mixed, mixture = [], ExpertLayer._mixture

    def kept(layer: ExpertLayer, x: Tensor, tokens: Tensor, generator: torch.Generator | None) -> Tensor:
        mixed.append((layer, x.detach(), tokens))
        return mixture(layer, x, tokens, generator)

    monkeypatch.setattr(ExpertLayer, "_mixture", kept)
    return mixed


def slow_balance(layer: ExpertLayer, x: Tensor, tokens: Tensor) -> float:
    """``E sum_e f_e P_e``, row by row."""
    assert layer.router is not None
    rows = [torch.softmax(layer.router.weight.double() @ row, 0).tolist() for row in x[tokens != 0].double()]
    n_experts = len(rows[0])
    shares = [sum(row.index(max(row)) == expert for row in rows) / len(rows) for expert in range(n_experts)]
    means = [sum(row[expert] for row in rows) / len(rows) for expert in range(n_experts)]
    return n_experts * sum(share * mean for share, mean in zip(shares, means, strict=True))


@pytest.mark.parametrize("name", ["SASRec", "CL4SRec", "DuoRec", "MCLRec"])
@pytest.mark.parametrize("routing", ["learned", "category"])
def test_models_train_their_experts(name: str, routing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = recorded(monkeypatch)
    model = built(name, with_features=routing == "category", routing=routing)
    batch = next(iter(model.batches(train(), 24, Generators(0)).epoch(0)))
    make_optimisers(model, TrainConfig(learning_rate=0.01))
    for phase in model.phases:
        assert ("balance" in phase.terms) == (routing == "learned" and "rec" in phase.terms)
        mixed.clear()
        terms = model(batch, tuple(phase.terms))
        total_loss(terms, phase).backward()
        if "balance" in terms:
            values = [slow_balance(*of_call) for of_call in mixed]
            assert len(values) >= 2  # of each layer
            assert float(terms["balance"].detach()) == pytest.approx(sum(values) / len(values), rel=1e-5)
    for parameter in model.encoder.parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad.isfinite().all())
    again = built(name, with_features=routing == "category", routing=routing)
    again.load_state_dict(model.state_dict())
    rows = Ragged.from_lists([[1, 5, 3], [2]])
    model.eval(), again.eval()
    table = model.token_table()
    assert torch.equal(model.encoder(rows, table), again.encoder(rows, table))
