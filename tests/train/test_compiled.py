"""Compiled steps: one graph for the encoder, one for the loss, and the numbers of steps that are not compiled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_launches import N_ITEMS, N_USERS, log
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from recgraph import registry
from recgraph.contrast.term import ContrastiveTerm
from recgraph.models.base import Space
from recgraph.models.sequence.base import SequenceModel
from recgraph.rng import Generators
from recgraph.sparse.device import accelerator_path
from recgraph.train.config import TrainConfig, make_accelerator
from recgraph.train.phases import total_loss
from recgraph.train.trainer import Trainer


@pytest.fixture(autouse=True)
def _forced() -> Iterator[None]:
    torch._dynamo.reset()
    with accelerator_path():
        yield
    torch._dynamo.reset()


def built(name: str, **settings: Any) -> SequenceModel:
    model: SequenceModel = registry.load("model", name)(hidden_dim=16, **settings)
    return model.build(Space(n_users=N_USERS, n_items=N_ITEMS), seed=0).train()


def steps(model: SequenceModel, batch_size: int = 24) -> list[Tensor]:
    """The losses and gradients of the batches of an epoch, with dropout."""
    found = []
    phase = model.phases[0]
    for batch in model.batches(log(), batch_size, Generators(0)).epoch(0):
        model.zero_grad(set_to_none=True)
        loss = total_loss(model(batch, tuple(phase.terms)), phase)
        loss.backward()
        found += [loss.detach(), *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]
    return found


@pytest.mark.parametrize(
    ("name", "regime"),
    [
        pytest.param("sasrec", "causal", marks=pytest.mark.slow),
        pytest.param("mclrec", "prefix", marks=pytest.mark.slow),
        pytest.param("hstu", "prefix", marks=pytest.mark.slow),
        pytest.param("bert4rec", "cloze", marks=pytest.mark.slow),
    ],
)
def test_compiled_steps_are_those_that_are_not(name: str, regime: str) -> None:
    """``fullgraph=True``: a break in a graph would be an error."""
    plain = steps(built(name, regime=regime))
    model = built(name, regime=regime)
    model.compile_parts("aot_eager")
    for one, other in zip(plain, steps(model), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["nt_xent", "info_nce"])
def test_a_compiled_contrast_is_the_one_that_is_not(name: str) -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(12, 8, generator=draw) for _ in range(2))
    found = []
    for backend in (None, "aot_eager"):
        term = ContrastiveTerm(objective=name, similarity="cosine", temperature=0.5)
        if backend is not None:
            term.compile_parts(backend)
        inputs = [each.clone().requires_grad_() for each in (a, b)]
        value = term(*inputs)
        assert term.outcome is not None
        assert int(term.outcome.left_out) == 0
        found.append([value, *torch.autograd.grad(value, inputs)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one)


def test_a_contrast_with_weights_is_computed_as_without() -> None:
    a, b = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    values, counter = [], CompileCounterWithBackend("eager")
    for compiled in (False, True):
        term = ContrastiveTerm(objective="nt_xent", weight="same_target")
        if compiled:
            term.compile_parts(counter)  # type: ignore[arg-type]
        values.append(term(a, b, torch.arange(12) % 5))
    assert torch.equal(*values)
    assert not counter.frame_count


def trainer_of(name: str) -> Trainer:
    model = registry.load("model", name)().build(Space(n_users=N_USERS, n_items=N_ITEMS), seed=0)
    generators, config = Generators(0), TrainConfig.of(metric="loss", compile=True)
    batches = model.batches(log(), 24, generators)
    return Trainer(model, batches, config, generators, accelerator=make_accelerator("cpu"))


def test_a_trainer_compiles_where_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(SequenceModel, "compile_parts", lambda model, backend="inductor": told.append(backend))
    trainer_of("sasrec")
    assert told == ["inductor"]


@pytest.mark.slow
def test_the_default_backend_gives_the_same_losses() -> None:
    off = {"dropout": 0.0, "encoder": {"attention_dropout": 0.0}}  # it draws by an order of its own
    plain = steps(built("sasrec", **off))
    model = built("sasrec", **off)
    model.compile_parts()
    for one, other in zip(plain, steps(model), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
