"""Batches prepared ahead: their order, what is drawn for them, errors in the thread, and where a training stops."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recgraph.data.part import Part
from recgraph.models.base import Space
from recgraph.models.sequence.mclrec import MCLRec
from recgraph.rng import Generators
from recgraph.sparse.device import accelerator_path
from recgraph.sparse.ragged import Ragged
from recgraph.train.config import TrainConfig, make_accelerator
from recgraph.train.trainer import Trainer, prepared_ahead

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _forced() -> Iterator[None]:
    with accelerator_path():
        yield
    assert not any(thread.name.startswith("prepared-ahead") for thread in threading.enumerate())


def drawing(generators: Generators) -> Callable[[int], tuple[int, int]]:
    """A batch with a number that is drawn for it on the host."""
    return lambda batch: (batch, int(torch.randint(1000, (1,), generator=generators.on_host("views"))))


def test_batches_come_in_order_with_what_would_be_drawn_without_the_thread() -> None:
    own, other = Generators(3), Generators(3)
    with prepared_ahead(range(9), drawing(own), own, CPU) as ready:
        found = list(ready)
    assert found == [drawing(other)(batch) for batch in range(9)]
    assert torch.equal(own.state_dict()["views"], other.state_dict()["views"])


@pytest.mark.parametrize("n_taken", [0, 1, 5])
@pytest.mark.parametrize("n_before", [0, 2])
def test_streams_stand_after_the_batch_that_was_taken_last(n_taken: int, n_before: int) -> None:
    own, other = Generators(3), Generators(3)
    for generators, n in ((own, n_before), (other, n_before + n_taken)):
        for batch in range(n):
            drawing(generators)(batch)
    with prepared_ahead(range(9), drawing(own), own, CPU) as ready:
        for _ in range(n_taken):
            next(ready)
        threading.Event().wait(0.05)  # the thread is ahead by now
        within = own.state_dict()
    wanted = other.state_dict()
    assert within.keys() == wanted.keys() == own.state_dict().keys()
    for name, state in wanted.items():
        assert torch.equal(within[name], state)
        assert torch.equal(own.state_dict()[name], state)


@pytest.mark.parametrize("where", ["batches", "prepare"])
def test_an_error_is_raised_where_its_batch_would_have_come(where: str) -> None:
    generators = Generators(3)

    def batches() -> Iterator[int]:
        yield from range(3)
        if where == "batches":
            raise ValueError("the log ends here")
        yield from range(3, 9)

    def prepare(batch: int) -> int:
        if batch == 3:
            raise ValueError("the log ends here")
        return batch

    with prepared_ahead(batches(), prepare, generators, CPU) as ready:
        assert [next(ready) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="the log ends here"):
            next(ready)


def test_an_error_of_the_step_ends_the_thread() -> None:
    generators = Generators(3)

    def train() -> None:
        with prepared_ahead(iter(int, 1), lambda batch: batch, generators, CPU) as ready:  # batches without an end
            next(ready)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()


def trained(folder: Path | None = None, stop_after: int | None = None, **settings: Any) -> tuple[Trainer, list[Tensor]]:
    """MCLRec with dropout, whose views are drawn on the host; stopped in the middle of an epoch where asked."""
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(2, 12, (40,), generator=generator)
    train = Part(Ragged.from_lengths(torch.randint(0, 25, (int(lengths.sum()),), generator=generator), lengths), 25)
    model = MCLRec(hidden_dim=8, encoder={"inner_dim": 12}, max_len=10).build(Space(n_users=40, n_items=25), seed=0)
    generators = Generators(0)
    config = TrainConfig.of(metric="loss", max_epochs=3, patience=None, **settings)
    batches = model.batches(train, 8, generators)
    trainer = Trainer(model, batches, config, generators, folder=folder, accelerator=make_accelerator("cpu"))
    trainer.resume()
    if stop_after is not None:
        steps, step = [], trainer.step

        def stopping(batch: Any) -> None:
            if len(steps) == stop_after:
                raise KeyboardInterrupt
            steps.append(step(batch))

        trainer.step = stopping  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            trainer.fit()
    else:
        trainer.fit()
    return trainer, [parameter.detach().clone() for parameter in model.parameters()]


def test_a_training_that_stopped_in_an_epoch_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    _, whole = trained(tmp_path / "whole", checkpoint_every=2)
    trained(tmp_path / "parts", stop_after=8, checkpoint_every=2)
    resumed, parts = trained(tmp_path / "parts", checkpoint_every=2)
    assert resumed.progress.epoch == 3
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))
