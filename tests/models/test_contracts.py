"""The contract of every recommender that the registry finds; a new model inherits it by being
there.

Models of typed graphs have one of their own, in test_node_contracts.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from every_model import OF_NODES, RECOMMENDERS, SPACE, TRAINABLE, part, recommender, regimes_of
from refusing import refused
from torch import Tensor

from recgraph import registry
from recgraph.data.batches import Query
from recgraph.models.base import ClosedFormModel, Model, Phase, TrainableModel
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged


def _query(device: torch.device | str = "cpu") -> Query:
    """Known and unknown users, with and without history, one longer than any ``max_len`` here, one
    with repeats.
    """
    rows = [[3], [], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], [], [29, 0], [5, 5, 8, 5]]
    return Query(torch.tensor([0, 1, 2, -1, -1, 23]), Ragged.from_lists(rows)).to(device)


def _scores(model: Model, query: Query) -> Tensor:
    model.eval()
    with torch.no_grad():
        return model.score(query)


def _fit(model: Model) -> Model:
    return model.fit(part()) if isinstance(model, ClosedFormModel) else model


# --- every model


@pytest.mark.parametrize("name", [*RECOMMENDERS, *OF_NODES])
def test_settings_are_documented_and_checked(name: str) -> None:
    cls = registry.load("model", name)
    assert cls.__doc__
    assert cls.key() == name
    for setting, field in cls.Config.model_fields.items():
        assert field.description, f"{name}: setting {setting} has no description"
        assert not field.is_required(), f"{name}: setting {setting} has no default"
    with refused("no_such_setting"):
        cls(no_such_setting=1)


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("name", RECOMMENDERS)
def test_scores(name: str, fitted: bool, device: torch.device) -> None:
    model, query = recommender(name, device), _query(device)
    scores = _scores(_fit(model) if fitted else model, query)
    assert scores.shape == (len(query), SPACE.n_items)
    assert scores.device.type == device.type
    assert scores.is_floating_point()
    assert bool(scores.isfinite().all())
    assert torch.equal(scores, _scores(model, query)), "scoring must not draw random numbers"


@pytest.mark.parametrize("name", RECOMMENDERS)
def test_vectors_give_the_scores(name: str, device: torch.device) -> None:
    model, query = _fit(recommender(name, device)), _query(device)
    model.eval()
    if not model.has_vectors:
        with pytest.raises(TypeError):
            model.encode_users(query)
        return
    with torch.no_grad():
        users, items = model.encode_users(query), model.encode_items()
    assert users.shape[0] == len(query)
    assert items.shape == (SPACE.n_items, users.shape[1])
    torch.testing.assert_close(users @ items.T, _scores(model, query))


@pytest.mark.parametrize("name", RECOMMENDERS)
def test_build_depends_on_its_seed_alone(name: str) -> None:
    before = torch.random.get_rng_state()
    first = recommender(name, seed=3).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(1)
    second = recommender(name, seed=3).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    with pytest.raises(ValueError):
        recommender(name).build(SPACE)


# --- trainable models


def _phases() -> Iterator[tuple[str, Phase]]:
    for name in TRAINABLE:
        model = recommender(name)
        assert isinstance(model, TrainableModel)
        for phase in dict.fromkeys(phase.name for phase in model.phases):
            yield name, next(made for made in model.phases if made.name == phase)


PHASES = [pytest.param(name, phase, id=f"{name}-{phase.name}") for name, phase in _phases()]


def _training(
    name: str, device: torch.device | str, **settings: object
) -> tuple[TrainableModel, object]:
    """A model in training mode and a batch for it."""
    model = recommender(name, device, **settings)
    assert isinstance(model, TrainableModel)
    generators = Generators(5, device)
    batch = next(iter(model.batches(part(), 16, generators).epoch(0))).to(device)
    return model.train(), batch


@pytest.mark.parametrize("name", TRAINABLE)
def test_parameter_groups_hold_every_parameter_once(name: str) -> None:
    model = recommender(name)
    assert isinstance(model, TrainableModel)
    grouped = [id(p) for group in model.parameter_groups().values() for p in group]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters()}
    for phase in model.phases:
        assert phase.groups
        assert phase.terms
        assert set(phase.groups) <= set(model.parameter_groups())


@pytest.mark.parametrize(("name", "phase"), PHASES)
def test_forward_gives_exactly_the_terms_asked_for(
    name: str, phase: Phase, device: torch.device
) -> None:
    model, batch = _training(name, device)
    for asked in (list(phase.terms), *([term] for term in phase.terms)):
        terms = model(batch, asked)
        assert set(terms) == set(asked)
        for term, value in terms.items():
            assert value.shape == (), f"{term} is not a scalar"
            assert bool(value.isfinite()), f"{term} = {value}"
            assert value.requires_grad, f"{term} has no gradient"
            assert value.device.type == device.type


@pytest.mark.parametrize(("name", "phase"), PHASES)
def test_gradients_reach_the_groups_of_the_phase_alone(
    name: str, phase: Phase, device: torch.device
) -> None:
    model, batch = _training(name, device)
    groups = model.parameter_groups()
    for group, parameters in groups.items():
        for parameter in parameters:
            parameter.requires_grad_(group in phase.groups)
    terms = model(batch, phase.terms)
    torch.stack([phase.terms[term] * value for term, value in terms.items()]).sum().backward()
    for group, parameters in groups.items():
        reached = [p.grad for p in parameters if p.grad is not None]
        if group in phase.groups:
            assert any(bool(grad.any()) for grad in reached), f"{group} gets no gradient"
            assert all(bool(grad.isfinite().all()) for grad in reached)
        else:
            assert not reached, f"{group} is frozen but gets a gradient"


@pytest.mark.parametrize(("name", "phase"), PHASES)
def test_training_draws_from_the_generators_alone(
    name: str, phase: Phase, device: torch.device
) -> None:
    seen = []
    for _ in range(2):
        model, batch = _training(name, device)
        before = torch.random.get_rng_state()
        seen.append(model(batch, phase.terms))
        assert torch.equal(before, torch.random.get_rng_state()), (
            "draws from torch's global generator"
        )
    assert all(torch.equal(value, seen[1][term]) for term, value in seen[0].items())


@pytest.mark.parametrize(("name", "phase"), PHASES)
def test_a_step_of_mixed_precision(name: str, phase: Phase, device: torch.device) -> None:
    model, batch = _training(name, device)
    exact = model(batch, phase.terms)
    model, batch = _training(name, device)
    with torch.autocast(device.type, torch.bfloat16):
        terms = model(batch, phase.terms)
        loss = torch.stack(
            [phase.terms[term] * value.float() for term, value in terms.items()]
        ).sum()
    loss.backward()
    for term, value in terms.items():
        torch.testing.assert_close(
            value.float(), exact[term], rtol=0.1, atol=0.02, msg=f"{term}: {value}"
        )
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert any(bool(grad.any()) for grad in grads)
    assert all(bool(grad.isfinite().all()) for grad in grads)


@pytest.mark.parametrize("regime", ["prefix", "causal", "cloze"])
@pytest.mark.parametrize("name", TRAINABLE)
def test_a_few_steps_lower_the_loss(name: str, regime: str) -> None:
    if regime not in regimes_of(name):
        pytest.skip("the model has no such regime")
    model, batch = _training(name, "cpu", regime=regime, dropout=0.0)
    terms = model.phases[0].terms
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        optimiser.zero_grad()
        loss = torch.stack(
            [terms[term] * value for term, value in model(batch, terms).items()]
        ).sum()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.97 * losses[0]
