"""Item graphs inside every sequence model that the registry finds: the table, its gradients, the
contrast, runs.
"""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
import torch
from small_settings import with_small

import recgraph as rg
from recgraph import registry
from recgraph.data.batches import Query
from recgraph.data.part import Part
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.heterogeneous.base import GraphSpace
from recgraph.models.sequence.base import SequenceModel
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged
from recgraph.train.phases import freeze_all_but, total_loss

GRAPHS = sorted(registry.members("item_graph").values())
SMALL = {"hidden_dim": 8, "encoder.n_layers": 1, "encoder.inner_dim": 12, "max_len": 8}
N_USERS, N_ITEMS = 20, 12


def log() -> rg.Interactions:
    """Users who stay within a group of items; the last item has no interaction."""
    draw = torch.Generator().manual_seed(0)
    rows = []
    for user in range(N_USERS):
        own = [item for item in range(N_ITEMS - 1) if item % 3 == user % 3]
        for time, place in enumerate(torch.randint(len(own), (7,), generator=draw).tolist()):
            rows.append((user, own[place], time * 60 + user))
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    features = pl.DataFrame(
        {"item": range(N_ITEMS), "group": [f"g{item % 3}" for item in range(N_ITEMS)]}
    )
    made = rg.Interactions.from_frame(
        frame, user="user", item="item", timestamp="time", item_features=features
    )
    return made.with_ids(items=features["item"])


LOG = log()
TRAIN = Part(LOG.ordered.items, LOG.n_items, times=LOG.ordered.times)
SPACE = GraphSpace(
    n_users=LOG.n_users, n_items=LOG.n_items, graph=HeteroGraph.from_interactions(LOG, TRAIN)
)


def built(
    name: str, item_graph: str | None, device: torch.device | str = "cpu", **items: Any
) -> SequenceModel:
    cls = registry.load("model", name)
    made: SequenceModel = (
        cls(**with_small(cls, SMALL, {"items": {"graph": item_graph, **items}}))
        .build(SPACE, 0)
        .to(device)
    )
    return made


def a_step(model: SequenceModel, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    batch = next(iter(model.batches(TRAIN, 8, Generators(0, device)).epoch(0))).to(device)
    groups, values = model.train().parameter_groups(), {}
    for phase in model.phases:
        with freeze_all_but(groups, phase.groups):
            values = {**values, **(found := model(batch, tuple(phase.terms)))}
            total_loss(found, phase).backward()
    return values


@pytest.mark.parametrize("item_graph", GRAPHS)
def test_inputs_and_scores_are_the_sum_of_both_views(item_graph: str, device: torch.device) -> None:
    model, plain = built("sasrec", item_graph, device), built("sasrec", None, device)
    model.setup(TRAIN)
    model.eval(), plain.eval()
    query = Query(torch.tensor([0, -1]), Ragged.from_lists([[3, 4, 9], [1]])).to(device)
    with torch.no_grad():
        own = model.item_embedding.weight
        assert model.item_graph is not None
        related = model.item_graph.graph(own[1:])
        assert related[:-1].any(1).all()
        table = torch.cat([own[:1], own[1:] + related])
        assert torch.equal(model.token_table(), table)
        # an ordinary model of that table is the same
        plain.load_state_dict({name: model.state_dict()[name] for name in plain.state_dict()})
        plain.item_embedding.weight.copy_(table)
        torch.testing.assert_close(model.score(query), plain.score(query))


def test_the_contrast_is_that_of_the_distinct_items_that_follow() -> None:
    model = built("sasrec", "transitions", graph_weight=0.1, contrast={"temperature": 0.5})
    batch = next(iter(model.batches(TRAIN, 16, Generators(0, "cpu")).epoch(0)))
    model.train()
    loss = model(batch, ("items",))["items"]
    own, _, related = model.item_tables(batch)
    ids = sorted({int(token) - 1 for token in batch.contrast_targets})
    assert len(ids) < len(batch.contrast_targets), "an item follows two rows"
    cosine = torch.nn.functional.cosine_similarity
    logits = torch.tensor(
        [[float(cosine(own[i + 1], related[j], dim=0)) / 0.5 for j in ids] for i in ids]
    )
    wanted = torch.nn.functional.cross_entropy(logits.double(), torch.arange(len(ids)))
    assert float(loss) == pytest.approx(float(wanted), rel=1e-5)
    of_all = built("sasrec", "transitions", graph_weight=0.1, candidates="all")
    of_all.setup(TRAIN)
    logits = (
        torch.nn.functional.normalize(own[1:], dim=1)[ids]
        @ torch.nn.functional.normalize(related, dim=1).T
        / 0.2
    )
    wanted = torch.nn.functional.cross_entropy(logits.double(), torch.tensor(ids))
    assert float(of_all.train()(batch, ("items",))["items"]) == pytest.approx(
        float(wanted), rel=1e-5
    )
    # told ahead, as for an accelerator, it is the same
    assert model.item_graph is not None
    model.item_graph.prepare(batch)
    assert model(batch, ("items",))["items"] == loss


@pytest.mark.parametrize("name", ["cl4srec", "mclrec"])
def test_a_learned_view_of_the_graph_is_trained(name: str) -> None:
    model = built(name, "interactions", graph_weight=0.1, augmenter="mlp")
    a_step(model)
    assert model.item_graph is not None
    learned = list(model.item_graph.augmenter.parameters())
    assert all(one.grad is not None and one.grad.any() for one in learned)
    group = model.parameter_groups()["augmenters" if name == "mclrec" else "model"]
    assert {id(one) for one in learned} <= {id(one) for one in group}
