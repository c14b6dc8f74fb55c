"""Compiled steps: one graph for the encoder, one for the loss, and the numbers of steps that are not compiled."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_launches import N_ITEMS, N_USERS, log
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from recgraph import registry
from recgraph.accelerated import accelerator_path
from recgraph.contrast.term import ContrastiveTerm
from recgraph.losses.softmax import SampledSoftmax
from recgraph.models.base import Space
from recgraph.models.sequence.base import SequenceModel
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged
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
        ("sasrec", "causal"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("sasrec", "prefix"),
                ("mclrec", "causal"),
                ("cl4srec", "prefix"),
                ("duorec", "prefix"),
                ("bsarec", "prefix"),
                ("esasrec", "causal"),
                ("hstu", "prefix"),
                ("hstu", "causal"),
                ("fuxialpha", "prefix"),
                ("bert4rec", "cloze"),
            )
        ),
    ],
)
def test_compiled_steps_are_those_that_are_not(name: str, regime: str) -> None:
    """``fullgraph=True``: a break in a graph would be an error."""
    plain = steps(built(name, regime=regime))
    model = built(name, regime=regime)
    model.compile_parts("aot_eager")
    for one, other in zip(plain, steps(model), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("log_q", [True, False])
def test_a_compiled_sampled_softmax_is_the_one_that_is_not(log_q: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    table, hidden = torch.randn(31, 8, generator=draw), torch.randn(20, 8, generator=draw)
    targets = torch.randint(1, 31, (20,), generator=draw)
    found = []
    for backend in (None, "aot_eager"):
        loss = SampledSoftmax(n_negatives=40, log_q=log_q)
        if backend is not None:
            loss.compile_parts(backend)
        inputs = [each.clone().requires_grad_() for each in (hidden, table)]
        value = loss(inputs[0], targets, inputs[1], torch.Generator().manual_seed(1))
        found.append([value, *torch.autograd.grad(value, inputs)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one)


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


@pytest.mark.slow
def test_batches_of_other_sizes_and_lengths_are_no_graphs_of_their_own() -> None:
    counter = CompileCounterWithBackend("eager")
    model = built("sasrec")
    model.compile_parts(counter)  # type: ignore[arg-type]
    for batch_size in (7, 11, 13, 24):
        steps(model, batch_size)
    # of encoder and loss each: the first shapes, and any
    assert counter.frame_count <= 6


def test_graphs_of_other_models_count_for_none() -> None:
    """torch holds graphs by the code of a function, those of all models together, and refuses one more than a limit."""
    history = Ragged.from_lists([[1, 2, 3], [4, 5]])
    with torch._dynamo.config.patch(recompile_limit=1, accumulated_recompile_limit=3):
        for n_heads in (1, 2):
            model, plain = (built("sasrec", n_layers=1, n_heads=n_heads) for _ in range(2))
            model.compile_parts("eager")
            for with_gradient in (True, False):
                with torch.set_grad_enabled(with_gradient):
                    found = [each.eval().encode_tokens(history) for each in (plain, model)]
                torch.testing.assert_close(found[1], found[0])


def test_a_copy_of_a_compiled_model_computes_with_its_own_weights() -> None:
    model = built("sasrec", n_layers=1)
    model.compile_parts("eager")
    other = copy.deepcopy(model).eval()
    torch.nn.init.zeros_(other.encoder.position_embedding.weight)
    history = Ragged.from_lists([[1, 2, 3], [4, 5]])
    assert not torch.allclose(other.encode_tokens(history), model.eval().encode_tokens(history))


def test_a_step_has_no_break_in_its_graphs() -> None:
    model = built("sasrec")
    batch = next(iter(model.batches(log(), 24, Generators(0)).epoch(0)))
    states, seen = type(model.encoder)._states, []

    def watched(*given: Any) -> Tensor:
        seen.append(given)
        return states(*given)

    model.encoder._compiled = watched
    model(batch, ("rec",))
    found = torch._dynamo.explain(states)(*seen[0])
    assert (found.graph_count, found.graph_break_count) == (1, 0)


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


def test_what_cannot_be_compiled_is_refused() -> None:
    with pytest.raises(ValueError, match="BPRMF has no part that is compiled; leave compile out"):
        trainer_of("bprmf")


@pytest.mark.slow
def test_the_default_backend_gives_the_same_losses() -> None:
    off = {"dropout": 0.0, "attention_dropout": 0.0}  # it draws by an order of its own
    plain = steps(built("sasrec", **off))
    model = built("sasrec", **off)
    model.compile_parts()
    for one, other in zip(plain, steps(model), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
