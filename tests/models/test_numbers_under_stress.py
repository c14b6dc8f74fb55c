"""Numbers at the edges: every model on tiny catalogues, with extreme settings, and with deterministic kernels.

A training ends with finite weights, or says with an error what became NaN or infinite; it never goes on with neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from every_model import CLOSED_FORM, OF_NODES, RECOMMENDERS, TRAINABLE, of_nodes, part, recommender
from test_non_finite import model_of, train

from recgraph import registry
from recgraph.contrast.term import ContrastiveTerm
from recgraph.contrast.views import About
from recgraph.data.batches import Query
from recgraph.data.part import Part
from recgraph.evaluate.metrics.accuracy import NDCG
from recgraph.finite import NonFinite, not_finite
from recgraph.models.base import ClosedFormModel, Model, Space, TrainableModel
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged


def said_by(call: Callable[[], object], error: type[Exception] = ValueError) -> str | None:
    """The message of the error that a call raises; None: it raises none."""
    try:
        call()
    except error as raised:
        return str(raised)
    return None


@pytest.mark.parametrize("name", [*TRAINABLE, *OF_NODES])
def test_a_learning_rate_of_a_million_ends_finite_or_in_an_error(name: str) -> None:
    trainer = train(model_of(name), None, learning_rate=1e6, max_epochs=3)
    said = said_by(trainer.fit, NonFinite)
    if said is None:
        assert not not_finite(trainer.model.state_dict())
    else:
        assert "try a smaller learning_rate" in said


WITH_TEMPERATURE = [
    name for name in (*TRAINABLE, *OF_NODES) if "temperature" in registry.load("model", name).Config.model_fields
]


@pytest.mark.parametrize("name", WITH_TEMPERATURE)
def test_a_temperature_near_zero_has_finite_terms_and_gradients(name: str) -> None:
    """Similarities of up to a million: the sums of their exponentials are taken beside the greatest."""
    make = of_nodes if name in OF_NODES else recommender
    model: Any = make(name, temperature=1e-6)
    generators = Generators(1)
    batch = next(iter(model.batches(None if name in OF_NODES else part(), 16, generators).epoch(0)))
    for phase in model.train().phases:
        terms = model(batch, phase.terms)
        assert all(bool(value.isfinite()) for value in terms.values()), terms
        torch.stack([weight * terms[term] for term, weight in phase.terms.items()]).sum().backward()
    assert not not_finite({key: p.grad for key, p in model.named_parameters() if p.grad is not None})


def _one_item(name: str) -> tuple[Model, Part]:
    cls = registry.load("model", name)
    settings = {key: 8 for key in ("hidden_dim",) if key in cls.Config.model_fields}
    rows = Part(Ragged.from_lists([[0, 0, 0], [0, 0], []]), 1)
    return cls(**settings).build(Space(n_users=3, n_items=1)), rows


@pytest.mark.parametrize("name", [name for name in RECOMMENDERS if not registry.load("model", name).reads_graph])
def test_a_catalogue_of_one_item(name: str) -> None:
    """There is no negative but the positive itself: nothing waits for another one."""
    model, rows = _one_item(name)

    def fit() -> None:
        if isinstance(model, ClosedFormModel):
            model.fit(rows)
            return
        assert isinstance(model, TrainableModel)
        for batch in model.batches(rows, 4, Generators(0)).epoch(0):
            model.train()(batch, model.phases[0].terms)

    fit()
    model.eval()
    with torch.no_grad():
        scores = model.score(Query(torch.tensor([0, 1]), Ragged.from_lists([[0], [0]])))
    assert scores.shape == (2, 1)
    assert bool(scores.isfinite().all())


@pytest.mark.parametrize("name", CLOSED_FORM)
@pytest.mark.parametrize("rows", [[[], [], []], [[0], [1], [2]]], ids=["empty", "one each"])
def test_parts_without_pairs_of_items(name: str, rows: list[list[int]]) -> None:
    model = registry.load("model", name)().build(Space(n_users=3, n_items=5))
    model.fit(Part(Ragged.from_lists(rows), 5))
    assert not not_finite(model.state_dict())


@pytest.mark.parametrize("name", [*TRAINABLE, *OF_NODES])
def test_deterministic_algorithms_train_every_model(name: str) -> None:
    """What torch may not do deterministically is an error in this mode: there is none, on the host."""
    model = model_of(name)
    torch.use_deterministic_algorithms(True)
    try:
        train(model, None, max_epochs=1).fit()
    finally:
        torch.use_deterministic_algorithms(False)
    assert not not_finite(model.state_dict())


def test_the_mean_of_many_values_is_exact_to_twelve_digits() -> None:
    """NumPy sums float64 pairwise: the error grows with the logarithm of the number of values."""
    values = torch.rand(3_000_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1e-3 + 0.1
    exact = math.fsum(values.tolist()) / len(values)
    assert NDCG().mean(values) == pytest.approx(exact, rel=1e-12, abs=0)


@pytest.mark.parametrize("objective", registry.names("objective"))
def test_vectors_of_zeros_have_a_finite_cosine(objective: str) -> None:
    """They have no direction: their similarity to everything is 0, and their gradient is a number."""
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(6, 4, generator=draw), torch.randn(6, 4, generator=draw)
    a[2], b[2], b[4] = 0, 0, 0
    a.requires_grad_()
    b.requires_grad_()
    term = ContrastiveTerm(objective=objective, similarity="cosine", temperature=0.1, dim=4)
    labels = torch.arange(6.0)
    term.setup(About(labels))
    value = term(a, b, labels_a=labels, labels_b=labels)
    value.backward()
    assert bool(value.isfinite())
    assert not not_finite({"a": a.grad, "b": b.grad})  # type: ignore[dict-item]
