"""A training step on an accelerator: how many kernels it launches, that it reads nothing, and
compiled steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from launches import Count, count, on_meta
from small_settings import with_small
from torch import Tensor

from recgraph import registry
from recgraph.config import walk
from recgraph.contrast.term import ContrastiveTerm
from recgraph.data.part import Part
from recgraph.models.base import Space
from recgraph.models.sequence.base import SequenceModel, compile_parts
from recgraph.rng import Generators
from recgraph.sparse.device import accelerator_path
from recgraph.sparse.ragged import Ragged
from recgraph.train.config import TrainConfig, make_accelerator
from recgraph.train.phases import total_loss
from recgraph.train.trainer import Trainer

N_USERS, N_ITEMS, BATCH = 60, 50, 24


#: launches of a step with the settings that a model has by default; less is better, and then stands
#: here
LAUNCHES = {
    ("sasrec", "causal"): 135,
    ("sasrec", "prefix"): 140,
    ("mclrec", "causal"): 1299,
    ("mclrec", "prefix"): 1079,
}


#: what may launch at most so much, whatever its settings
SETTINGS: list[tuple[str, dict[str, Any], int]] = [
    *(
        ("sasrec", {"loss": {"name": name, "n_negatives": 8}}, 300)
        for name in ("sampled_softmax", "bce", "bpr")
    ),
    ("sasrec", {"time_gaps": True}, 300),
    ("mclrec", {"augmenter": "attention"}, 1500),
    ("mclrec", {"schedule_of_phases": "paper"}, 1500),
    ("bert4rec", {"regime": "cloze"}, 1500),
    ("cl4srec", {"regime": "prefix"}, 1500),
    ("duorec", {}, 1500),
    ("bsarec", {}, 1500),
    ("esasrec", {}, 1500),
    ("gru4rec", {}, 5000),
    ("hstu", {"regime": "prefix"}, 1500),
    ("fuxialpha", {}, 1500),
]


def log() -> Part:
    """Many short histories and a few long ones, as logs have them."""
    generator = torch.Generator().manual_seed(5)
    lengths = (2 + torch.rand(N_USERS, generator=generator) ** 3 * 58).long()
    values = torch.randint(0, N_ITEMS, (int(lengths.sum()),), generator=generator)
    times = torch.arange(len(values)) * 7
    return Part(Ragged.from_lengths(values, lengths), N_ITEMS, times=times)


def a_step(name: str, regime: str = "causal", precision: str = "no", **settings: Any) -> Count:
    """What the second step of a training asks of the device."""
    model: SequenceModel = registry.load("model", name)(regime=regime, **settings)
    model.build(Space(n_users=N_USERS, n_items=N_ITEMS), seed=0)
    generators = Generators(0)
    batches = model.batches(log(), BATCH, generators)
    with on_meta(model) as accelerator:
        trainer = Trainer(
            model, batches, TrainConfig.of(metric="loss"), generators, accelerator=accelerator
        )
        trainer.module.train()
        first, second, *_ = batches.epoch(0)
        trainer.step(first)
        return count(lambda: trainer.step(second))


@pytest.mark.parametrize(("name", "regime"), LAUNCHES)
def test_a_step_launches_so_many_kernels_and_reads_nothing(name: str, regime: str) -> None:
    found = a_step(name, regime)
    assert found.n_kernels <= LAUNCHES[name, regime], found.kernels.most_common()
    assert not found.reads


@pytest.mark.parametrize(("name", "settings", "most"), SETTINGS)
def test_other_settings_and_models_stay_below_a_ceiling_and_read_nothing(
    name: str, settings: dict[str, Any], most: int
) -> None:
    found = a_step(name, **settings)
    assert found.n_kernels <= most, found.kernels.most_common()
    assert not found.reads


def terms_and_gradients(
    name: str, settings: dict[str, Any], scale: float, dtype: torch.dtype
) -> list[Tensor]:
    cls = registry.load("model", name)
    off = dict.fromkeys([each for each, _, _ in walk(cls.Config) if each.endswith("dropout")], 0.0)
    model: SequenceModel = cls(**with_small(cls, {"hidden_dim": 16, **off}, settings))
    model.build(Space(n_users=N_USERS, n_items=N_ITEMS), seed=0).to(dtype).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    batch = next(iter(model.batches(log(), BATCH, Generators(0)).epoch(0)))
    losses = [total_loss(model(batch, tuple(phase.terms)), phase) for phase in model.phases]
    torch.stack(losses).sum().backward()
    return [
        *losses,
        *(parameter.grad for parameter in model.parameters() if parameter.grad is not None),
    ]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *(
            (name, {"regime": regime})
            for name in ("sasrec", "mclrec")
            for regime in ("causal", "prefix")
        ),
        *((name, settings) for name, settings, _ in SETTINGS),
    ],
)
def test_both_paths_give_the_same_terms_and_gradients(name: str, settings: dict[str, Any]) -> None:
    on_host = terms_and_gradients(name, settings, 3, torch.float64)
    with accelerator_path():
        there = terms_and_gradients(name, settings, 3, torch.float64)
    for one, other in zip(on_host, there, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("name", "settings"), [("sasrec", {}), ("mclrec", {}), *(each[:2] for each in SETTINGS)]
)
def test_a_card_waits_for_nothing_in_a_step(name: str, settings: dict[str, Any]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no device: not run")
    model: SequenceModel = registry.load("model", name)(**settings)
    model.build(Space(n_users=N_USERS, n_items=N_ITEMS), seed=0)
    generators = Generators(0, "cuda")
    batches = model.batches(log(), BATCH, generators)
    config = TrainConfig.of(metric="loss")
    trainer = Trainer(model, batches, config, generators, accelerator=make_accelerator("cuda"))
    trainer.module.train()
    first, second, *_ = batches.epoch(0)
    trainer.step(first)  # allocations, the state of the optimisers
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.step(second)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def compiling() -> Iterator[None]:
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
        found += [
            loss.detach(),
            *(parameter.grad for parameter in model.parameters() if parameter.grad is not None),
        ]
    return found


@pytest.mark.usefixtures("compiling")
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
    compile_parts(model, "aot_eager")
    for one, other in zip(plain, steps(model), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize("name", ["nt_xent", "info_nce"])
def test_a_compiled_contrast_is_the_one_that_is_not(name: str) -> None:
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(12, 8, generator=draw) for _ in range(2))
    found = []
    for backend in (None, "aot_eager"):
        term = ContrastiveTerm(objective=name, similarity="cosine", temperature=0.5)
        if backend is not None:
            term.objective.compile_parts(backend)
        inputs = [each.clone().requires_grad_() for each in (a, b)]
        value = term(*inputs)
        assert term.outcome is not None
        assert int(term.outcome.left_out) == 0
        found.append([value, *torch.autograd.grad(value, inputs)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one)
