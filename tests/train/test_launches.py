"""A training step on an accelerator: how many kernels it launches, and that it reads nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from launches import Count, count, counting, on_meta
from torch import Tensor

from recgraph import registry
from recgraph.data.part import Part
from recgraph.models.base import Space
from recgraph.models.sequence.base import SequenceModel
from recgraph.rng import Generators
from recgraph.sparse.device import accelerator_path, to_device
from recgraph.sparse.ragged import Ragged
from recgraph.train.config import TrainConfig, make_accelerator
from recgraph.train.phases import total_loss
from recgraph.train.trainer import Trainer

N_USERS, N_ITEMS, BATCH = 60, 50, 24
#: launches of a step with the settings that a model has by default; less is better, and then stands here
LAUNCHES = {
    ("sasrec", "causal"): 125,
    ("sasrec", "prefix"): 139,
    ("mclrec", "causal"): 1299,
    ("mclrec", "prefix"): 1079,
}
#: what may launch at most so much, whatever its settings
SETTINGS: list[tuple[str, dict[str, Any], int]] = [
    *(("sasrec", {"loss": {"name": name, "n_negatives": 8}}, 300) for name in ("sampled_softmax", "bce", "bpr")),
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
        trainer = Trainer(model, batches, TrainConfig.of(metric="loss"), generators, accelerator=accelerator)
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


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).all()),
        lambda x: x[x > 0],
        lambda x: x.to("cpu"),
    ],
)
def test_a_read_is_an_error_where_there_are_no_values(read: Any) -> None:
    with counting(), pytest.raises((RuntimeError, NotImplementedError)):
        read(torch.ones(3, device="meta"))


def test_what_is_counted() -> None:
    host = torch.arange(6.0)

    def work() -> None:
        x = to_device(host, "meta").view(2, 3).t()
        torch.empty_like(x).copy_(x + 1)
        host.add(1)  # of the host alone

    assert count(work).kernels == {"upload": 1, "add": 1, "copy_": 1}
    assert not count(work).reads
    x = torch.ones(6, device="meta")
    for wait, name in [
        (lambda: host.to("meta"), "blocking upload"),
        (lambda: x[torch.tensor([0, 2])], "index with a tensor of the host"),
        (lambda: x.clone().index_put_((x > 0,), x[:1]), "index_put_ by a mask"),
    ]:
        assert list(count(wait).reads) == [name]
    on_host = count(lambda: (host.tolist(), bool(host.sum() > 0)), "cpu")
    assert dict(on_host.reads) == {"tolist": 1, "_local_scalar_dense": 1}


def terms_and_gradients(name: str, settings: dict[str, Any], scale: float, dtype: torch.dtype) -> list[Tensor]:
    off = dict.fromkeys({"dropout", "attention_dropout"} & registry.load("model", name).Config.model_fields.keys(), 0.0)
    model: SequenceModel = registry.load("model", name)(hidden_dim=16, **off, **settings)
    model.build(Space(n_users=N_USERS, n_items=N_ITEMS), seed=0).to(dtype).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    batch = next(iter(model.batches(log(), BATCH, Generators(0)).epoch(0)))
    losses = [total_loss(model(batch, tuple(phase.terms)), phase) for phase in model.phases]
    torch.stack(losses).sum().backward()
    return [*losses, *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, {"regime": regime}) for name in ("sasrec", "mclrec") for regime in ("causal", "prefix")),
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
@pytest.mark.parametrize(("name", "settings"), [("sasrec", {}), ("mclrec", {}), *(each[:2] for each in SETTINGS)])
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
