"""Trainings that run on one rank or on several: a function that others start on ranks, and its
cases.
"""

from __future__ import annotations

import math
import os
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recgraph import registry
from recgraph.data.part import Part
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.base import Model, Space
from recgraph.models.heterogeneous.base import GraphModel, GraphSpace
from recgraph.models.sequence.sasrec import SASRec
from recgraph.ranks import Ranks
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged
from recgraph.train.config import TrainConfig, make_accelerator
from recgraph.train.observers import Observer, TrainingInterrupted
from recgraph.train.trainer import NonFinite, Trainer

N_USERS, N_ITEMS = 23, 30
SMALL: dict[str, Any] = {
    "hidden_dim": 8,
    "dropout": 0.0,
    "max_len": 6,
    "encoder": {"n_layers": 1, "n_heads": 2, "inner_dim": 16},
}
SMALL["encoder"] |= {"attention_dropout": 0.0}


@dataclass(frozen=True)
class Case:
    """One training.

    Attributes:
        model: its name.
        settings: of the model.
        training: settings of the training; by default two epochs in batches of 8, of which the last
            has 7 rows.
        resumes: continue from the folder.
    """

    model: str
    settings: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    resumes: bool = False


def random_train(n_users: int = N_USERS) -> Part:
    drawn = torch.Generator().manual_seed(5)
    lengths = torch.randint(2, 9, (n_users,), generator=drawn)
    values = torch.randint(N_ITEMS, (int(lengths.sum()),), generator=drawn)
    return Part(Ragged.from_lengths(values, lengths), N_ITEMS)


def _space_of(model: Model) -> Space:
    """The sizes; with a graph of users and items, or of papers, for a model that reads one."""
    sizes = {"n_users": N_USERS, "n_items": N_ITEMS}
    drawn = torch.Generator().manual_seed(1)
    if isinstance(model, GraphModel):
        pairs = {
            ("paper", "by", "author"): (
                torch.arange(80) % 40,
                torch.randint(15, (80,), generator=drawn),
            )
        }
        features = {"paper": torch.rand(40, 6, generator=drawn)}
        graph = HeteroGraph.from_edge_lists({"paper": 40, "author": 15}, pairs, features=features)
        return GraphSpace(n_users=0, n_items=40, graph=graph)
    if not model.reads_graph:
        return Space(**sizes)
    items = random_train().items
    pairs = {
        ("user", "interacts", "item"): (items.rows, items.values),
        ("item", "of", "genre"): (
            torch.arange(N_ITEMS),
            torch.randint(4, (N_ITEMS,), generator=drawn),
        ),
    }
    return GraphSpace(
        **sizes,
        graph=HeteroGraph.from_edge_lists({"user": N_USERS, "item": N_ITEMS, "genre": 4}, pairs),
    )


def made(case: Case) -> Trainer:
    """The trainer of a case, on as many ranks as are connected."""
    model = registry.load("model", case.model)(**case.settings)
    model.build(_space_of(model), seed=0).double()
    settings = {
        "metric": "last",
        "max_epochs": 2,
        "patience": None,
        "batch_size": 8,
        "learning_rate": 0.01,
    }
    config = TrainConfig.of(settings | case.training)
    accelerator = make_accelerator("cpu")
    generators = Generators(3)
    batches = model.batches(random_train(), config.batch_size, generators)
    trainer = Trainer(
        model, batches, config, generators, folder=case.folder, accelerator=accelerator
    )
    if case.resumes:
        assert trainer.resume()
    return trainer


@dataclass(frozen=True)
class Result:
    """What a training gives: the weights at its end, and its history without times."""

    weights: dict[str, Tensor]
    history: list[dict[str, float]]
    ranks: Ranks


def trained(case: Case) -> Result:
    trainer = made(case)
    history = trainer.fit()
    weights = {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}
    return Result(weights, history, Ranks.here())


def each_trained(cases: list[Case]) -> list[Result]:
    torch.set_num_threads(1)
    return [trained(case) for case in cases]


def all_trained(cases: list[Case], folder: Path) -> dict[str, Any]:
    """The cases; and what else is done on ranks, as these are slow to start."""
    return {
        "cases": each_trained(cases),
        "broken": broken(folder / "broken"),
        "alike": alike(),
        **trained_with_stops(folder),
    }


DROPOUT = Case(
    "mclrec",
    {**SMALL, "dropout": 0.3, "encoder": {**SMALL["encoder"], "attention_dropout": 0.3}},
    {"max_epochs": 3, "batch_size": 5},
)


WITHOUT_DROPOUT = Case("mclrec", SMALL, {"max_epochs": 3, "batch_size": 5})


class StopAt(Observer):
    """Sends SIGINT to the process after so many batches."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def advance(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


def stopped(case: Case, rank: int, after: int) -> tuple[int, int, str]:
    """Train until one rank gets SIGINT: the epoch and batch of the checkpoint, and what is said."""
    trainer = made(case)
    if trainer.ranks.index == rank:
        trainer.observers = [StopAt(after)]
    with pytest.raises(TrainingInterrupted) as interrupted:
        trainer.fit()
    return trainer.progress.epoch, trainer.progress.batch, str(interrupted.value)


def trained_with_stops(folder: Path) -> dict[str, Any]:
    """Whole; stopped by a signal to one rank and gone on; stopped for others to go on."""
    own = replace(DROPOUT, folder=folder / "two")
    return {
        "whole": trained(DROPOUT),
        "stopped": stopped(own, rank=1, after=7),
        "resumed": trained(replace(own, resumes=True)),
        "left": stopped(replace(WITHOUT_DROPOUT, folder=folder / "moved"), 1, 7),
    }


class Broken(SASRec):
    """SASRec whose loss is not a number on one rank, from the third batch on."""

    rank, seen = 1, 0

    def next_item_loss(self, batch: Any, states: Tensor) -> Tensor:
        self.seen += 1
        loss = super().next_item_loss(batch, states)
        return loss * math.nan if self.seen > 2 and Ranks.here().index == self.rank else loss


def broken(folder: Path) -> str:
    """What is raised where one rank's loss is not a number."""
    model = Broken(**SMALL).build(Space(n_users=N_USERS, n_items=N_ITEMS), seed=0)
    generators = Generators(3)
    config = TrainConfig.of(metric="last", max_epochs=2, patience=None, batch_size=8)
    batches = model.batches(random_train(), config.batch_size, generators)
    with pytest.raises(NonFinite) as raised:
        Trainer(
            model, batches, config, generators, folder=folder, accelerator=make_accelerator("cpu")
        ).fit()
    return str(raised.value)


def alike() -> str:
    """What all ranks are told where each has another batch size."""
    with pytest.raises(ValueError) as raised:
        made(Case("sasrec", SMALL, {"batch_size": 8 + Ranks.here().index}))
    return str(raised.value)
