"""Attributions beside slow ways to get them; what every method keeps on every model; agreement and
faithfulness.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from explain_cases import (
    GRAPHS,
    SEQUENCES,
    histories,
    model_of,
    query_of,
    recommender_of,
    subject_of,
)
from refusing import refused
from torch import Tensor

import recgraph as rg
from recgraph import registry
from recgraph.data.batches import Query
from recgraph.explain import attribution
from recgraph.explain.attribution import Attention, IntegratedGradients, LeaveOneOut
from recgraph.explain.explanation import agreement_rows, faithfulness_rows
from recgraph.explain.paths import Walks
from recgraph.models.base import Model
from recgraph.sparse.ragged import Ragged

ROWS = histories()
USER, TARGETS = 4, (1, 20)
LENGTH = {name: settings["max_len"] for name, settings in SEQUENCES.items()}
MODELS = {**SEQUENCES, **GRAPHS}
#: methods that a model refuses
REFUSED = {("gru4rec", "attention"), ("lightgcn", "attention")}
CASES = [
    (name, method)
    for name in MODELS
    for method in ("attention", "integrated_gradients", "leave_one_out")
]
NONE = torch.Generator()


def make(method: str, **settings: Any) -> attribution.Attribution:
    if method == "integrated_gradients":
        pytest.importorskip("captum")
    made: attribution.Attribution = registry.make("attribution", {"name": method, **settings})
    return made


@pytest.mark.parametrize(("name", "method"), CASES)
def test_what_every_method_keeps_on_every_model(
    name: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"steps": 3} if method == "integrated_gradients" else {}
    model, made = model_of(name, ROWS, **MODELS[name]), make(method, **few)
    if (name, method) in REFUSED:
        with refused(method):
            made.attribute(subject_of(model, ROWS, USER), NONE)
        return
    before = {key: value.clone() for key, value in model.state_dict().items()}
    subject = subject_of(model, ROWS, USER)
    values = made.attribute(subject, NONE)
    assert values.shape == (2, subject.n_events)
    assert bool(values.isfinite().all())
    assert not values.requires_grad
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    if method == "attention":
        assert float(values.min()) >= 0
        assert float(values.sum(1).max()) <= 1 + 1e-9
    monkeypatch.setattr(attribution, "_BLOCK_ROWS", 3)
    assert torch.allclose(made.attribute(subject_of(model, ROWS, USER), NONE), values, atol=1e-9)
    alone = made.attribute(subject_of(model, ROWS, USER, [20]), NONE)
    assert torch.allclose(alone, values[1:], atol=1e-9)
    # a history of one event, and the scores that the model ranks by
    assert made.attribute(subject_of(model, ROWS, len(ROWS) - 1), NONE).shape == (2, 1)
    whole = subject_of(model.eval(), ROWS, USER, of="score")
    with torch.no_grad():
        assert torch.allclose(whole.full, model.score(query_of(ROWS, USER))[0][whole.targets])


def test_models_that_a_method_does_not_apply_to() -> None:
    for name in ("bprmf", "popularity"):
        with refused(registry.load("model", name).__name__):
            subject_of(model_of(name, ROWS, double=False), ROWS, USER)
    served = recommender_of(model_of("ease", ROWS, double=False).eval(), ROWS)
    (why,) = rg.explain.attribute(served, "u4", k=1)
    assert [one.method for one in why.methods] == ["leave_one_out"]
    for asked in (
        {"user": "u99"},
        {"user": "u4", "items": ["i99"]},
        {"user": "u4", "methods": ["leave_two_out"]},
    ):
        with refused(str(list(asked.values())[-1]).strip("[']")):
            rg.explain.attribute(served, **asked)


def log_probabilities(model: Model, history: list[int]) -> Tensor:
    """[n_items] of a history, by the model's own ranking."""
    model.eval()
    with torch.no_grad():
        return torch.log_softmax(
            model.score(Query(torch.tensor([-1]), Ragged.from_lists([history])))[0], 0
        )


@pytest.mark.parametrize("name", [*SEQUENCES, "ials"])
def test_leave_one_out_of_a_history(name: str) -> None:
    model = model_of(name, ROWS, **SEQUENCES.get(name, {"hidden_dim": 4}))
    history = ROWS[USER][-LENGTH.get(name, 99) :]
    whole = log_probabilities(model, history)
    found = LeaveOneOut().attribute(subject_of(model, ROWS, USER, TARGETS), NONE)
    for place in range(len(history)):
        without = log_probabilities(model, history[:place] + history[place + 1 :])
        assert found[:, place].tolist() == pytest.approx(
            (whole - without)[list(TARGETS)].tolist(), abs=1e-9
        )


@pytest.mark.parametrize("name", ["lightgcn", "meowrec"])
@torch.no_grad()
def test_leave_one_out_of_a_row_of_a_graph(name: str) -> None:
    """Of a model of meta-paths the fine views stay as they were fitted."""
    model = model_of(name, ROWS, **GRAPHS[name]).eval()
    own = model.embedding.weight if name == "lightgcn" else model.own_vectors()  # type: ignore[union-attr, operator]
    views = 0 if name == "lightgcn" else model.fine_vectors(own, None)  # type: ignore[operator]
    layers = model.encoder.layers(own + views)  # type: ignore[union-attr, operator]
    subject = subject_of(model, ROWS, USER, TARGETS)
    items, vectors = subject.items.tolist(), model.encode_items()

    def values(kept: list[int]) -> Tensor:
        """Each layer one addend after the other (:class:`EdgeReading`)."""
        total = layers[0][USER].clone()
        for layer in layers[:-1]:
            for item in kept:
                degree = sum(item in row for row in ROWS)
                total += layer[len(ROWS) + item] / math.sqrt(len(kept) * degree)
        return torch.log_softmax(vectors @ (total / len(layers)), 0)[list(TARGETS)]

    slow = torch.stack(
        [values(items) - values([one for one in items if one != item]) for item in items], 1
    )
    assert torch.allclose(LeaveOneOut().attribute(subject, NONE), slow, atol=1e-9)


@pytest.mark.parametrize("name", ["sasrec", "gru4rec", "meowrec"])
def test_integrated_gradients_by_differences(name: str) -> None:
    """One step, one coordinate at a time, with central differences."""
    pytest.importorskip("captum")
    model = model_of(name, ROWS, **MODELS[name])
    user = len(ROWS) - 2
    subject = subject_of(model, ROWS, user, [20])
    found = IntegratedGradients(steps=2).attribute(subject, NONE)[0]
    model.eval()
    with torch.no_grad():
        ends, begin = subject.reading.inputs(), subject.reading.baseline()
        for event in range(len(ends)):
            total = 0.0
            for step in range(2):
                at = begin + (step + 0.5) / 2 * (ends - begin)
                for column in range(ends.shape[1]):
                    moved = at.repeat(2, 1, 1)
                    moved[0, event, column] += 1e-5
                    moved[1, event, column] -= 1e-5
                    above, below = subject.value_of(subject.reading.of_inputs(moved))[:, 0]
                    slope = float(above - below) / 2e-5
                    total += slope * float(ends[event, column] - begin[event, column]) / 2
            assert float(found[event]) == pytest.approx(total, abs=1e-6)


@pytest.mark.parametrize("name", ["sasrec", "esasrec"])
@torch.no_grad()
def test_attention_of_transformers(name: str) -> None:
    """By loops over layers, heads and places."""
    model = model_of(name, ROWS, **SEQUENCES[name]).eval()
    subject = subject_of(model, ROWS, USER, TARGETS)
    x = model.encoder.norm(
        subject.reading.inputs() + model.encoder.position_embedding.weight[: subject.n_events]
    )  # type: ignore[union-attr, operator, index]
    flow = torch.eye(subject.n_events, dtype=x.dtype)
    for layer in model.encoder.layers:  # type: ignore[union-attr]
        read = layer.attention_norm(x) if name == "esasrec" else x
        queries, keys, _ = layer.qkv(read).chunk(3, 1)
        width = x.shape[1] // layer.n_heads
        mean = torch.zeros_like(flow)
        for head in range(layer.n_heads):
            columns = slice(head * width, (head + 1) * width)
            for place in range(len(x)):
                raw = [
                    float(queries[place, columns] @ keys[j, columns]) / math.sqrt(width)
                    for j in range(place + 1)
                ]
                odds = [math.exp(each - max(raw)) for each in raw]
                mean[place, : place + 1] += (
                    torch.tensor(odds, dtype=x.dtype) / sum(odds) / layer.n_heads
                )
        flow = (mean + torch.eye(len(x))) / 2 @ flow
        x = layer.padded(x[None], torch.ones(1, len(x), dtype=torch.bool))[0]
    found = Attention().attribute(subject, NONE)
    assert torch.allclose(found, flow[-1].expand(2, -1), atol=1e-6)
    assert found.sum(1).tolist() == pytest.approx([1, 1])


def test_attention_of_meta_paths() -> None:
    """The attention of each path times the evidence through each item, path by path."""
    model = model_of("meowrec", ROWS, **GRAPHS["meowrec"]).eval()
    subject = subject_of(model, ROWS, USER, TARGETS)
    graph = model.space.graph  # type: ignore[union-attr]
    rows = [set(row) for row in ROWS]
    slow = torch.zeros(2, subject.n_events, dtype=torch.float64)
    for key, weight in model.path_weights().items():
        walks = Walks(key.path, graph)
        for number, target in enumerate(TARGETS):
            evidence = []
            for item in subject.items.tolist():
                total = 0.0
                if key.node_type == "item":
                    for _, ends, similarities, _ in walks.reach(torch.tensor([item])):
                        total += float(similarities[ends == target].sum())
                elif key.path == "user-item-user":
                    for other in range(len(rows)):
                        shared = rows[USER] & rows[other]
                        if other != USER and target in rows[other] and item in shared:
                            alike = 2 * len(shared) / (len(rows[USER]) + len(rows[other]))
                            total += alike / len(shared)
                evidence.append(total)
            if sum(evidence):
                slow[number] += (
                    weight / 2 * torch.tensor(evidence, dtype=torch.float64) / sum(evidence)
                )
    found = Attention().attribute(subject, NONE)
    assert float(slow.sum()) > 0
    assert torch.allclose(found, slow)


@pytest.mark.parametrize("name", ["sasrec", "meowrec"])
def test_agreement_and_faithfulness_by_loops(name: str) -> None:
    recommender = recommender_of(model_of(name, ROWS, double=False, **MODELS[name]).eval(), ROWS)
    found = rg.explain.attribute(
        recommender, "u4", ["i1", "i20"], ["leave_one_out", "attention"], seed=5
    )
    assert found == rg.explain.attribute(
        recommender, "u4", ["i1", "i20"], ["leave_one_out", "attention"], seed=5
    )
    subject = subject_of(recommender.model, ROWS, USER, TARGETS)
    n = subject.n_events
    assert [node.id for node in found[0].events] == [f"i{item}" for item in subject.items]

    def value(kept: Sequence[int], target: int) -> float:
        return float(
            subject.values(torch.tensor([[place in kept for place in range(n)]]))[0, target]
        )

    def ranks(values: Sequence[float]) -> list[float]:
        return [sum(x < y for x in values) + (sum(x == y for x in values) + 1) / 2 for y in values]

    for target, each in enumerate(found):
        full = value(range(n), target)
        assert each.value == pytest.approx(full, abs=1e-6)
        for one in each.methods:
            assert list(one.order) == sorted(
                range(n), key=lambda place, of=one: (-of.values[place], -place)
            )  # type: ignore[misc]
            taken = [one.order[: math.ceil(share * n)] for share in (0.01, 0.05, 0.1, 0.2, 0.5)]
            rest = [[place for place in one.order if place not in part] for part in taken]
            gone = [full - value(part, target) for part in rest]
            left = [full - value(part, target) for part in taken]
            assert one.faithfulness.comprehensiveness == pytest.approx(sum(gone) / 5, abs=1e-5)
            assert one.faithfulness.sufficiency == pytest.approx(sum(left) / 5, abs=1e-5)
        ((first, second, correlation),) = each.agreement
        assert (first, second) == ("leave_one_out", "attention")
        a, b = (torch.tensor(ranks(one.values), dtype=torch.float64) for one in each.methods)
        assert correlation == pytest.approx(float(torch.corrcoef(torch.stack([a, b]))[0, 1]))
    (row,) = agreement_rows(found)
    assert row["Spearman"] == pytest.approx(sum(each.agreement[0][2] or 0 for each in found) / 2)
    assert [row["method"] for row in faithfulness_rows(found)] == [
        "leave_one_out",
        "attention",
        "random order",
    ]
    assert found[0]._repr_html_().count("<caption>") == 3
