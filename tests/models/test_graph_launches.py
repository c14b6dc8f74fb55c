"""A training step of models of users, items and nodes on an accelerator: operators that it
launches, reads in it.

Their tensors are all on the device. So they can be counted on the host, on the path of
accelerators, where ``meta`` lacks operators: a product with a sparse matrix is one operator there
as on a card. The first step, which makes what is kept (adjacencies and their transposes, the views
of an epoch), is not counted.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from collaborative_cases import SPACE, planted, with_relations
from launches import Count, count, on_meta

from recgraph import registry
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.base import TrainableModel
from recgraph.models.collaborative.base import CollaborativeModel
from recgraph.models.heterogeneous.base import GraphModel
from recgraph.rng import Generators
from recgraph.sparse.device import accelerator_path
from recgraph.train.config import TrainConfig, make_accelerator
from recgraph.train.trainer import Trainer

PATHS = ("paper-author-paper", "paper-subject-paper")
BATCH = 24
NODES = {"metapaths": PATHS}
CLUSTERED = {**NODES, "prototypes": {"n_clusters": (4, 9)}}
BATCHES = {"mini_batch": True}
SHARED: dict[str, Any] = {"loss": {"n_negatives": 40, "shared": True}}
#: launches of a step with the settings that a model has by default, and a few; less is better, and
#: then stands here
LAUNCHES: list[tuple[str, dict[str, Any], int]] = [
    ("bprmf", {}, 56),
    ("bprmf", {"loss": "sampled_softmax"}, 77),
    ("lightgcn", {}, 70),
    ("lightgcn", {"loss": "full_softmax"}, 77),
    ("lightgcn", {"loss": "bce"}, 73),
    ("sgl", {}, 227),
    ("sgl", {"each_layer": True}, 227),
    ("simgcl", {}, 275),
    ("xsimgcl", {}, 227),
    ("ncl", {}, 203),
    ("ncl", {"prototypes": {"n_clusters": (3,)}, "warm_up_epochs": 0}, 294),
    ("ultragcn", {}, 98),
    ("bprmf", {"loss": "ccl", **SHARED}, 118),
    ("ultragcn", SHARED, 118),
    ("meow", CLUSTERED, 1491),
    ("adameow", NODES, 1055),
    ("meowrec", {"prototypes": {"n_clusters": (3, 5)}}, 1600),
    ("adameowrec", {}, 1000),
]
#: models that draw neighbours on the device in each step, or take the histories of a batch's users
#: there: launches, and reads of how many there are
DRAWN: list[tuple[str, dict[str, Any], int, int]] = [
    ("simplex", {}, 119, 1),
    ("heco", NODES, 661, 14),
    ("meow", CLUSTERED | BATCHES, 1163, 33),
    ("adameow", NODES | BATCHES, 1396, 32),
]
#: the counts depend a little on torch: operators may be written out in others
MARGIN = 1.05


def graph() -> HeteroGraph:
    """60 papers with features, 35 authors, 5 subjects."""
    draw = torch.Generator().manual_seed(0)
    pairs = {
        ("paper", "by", "author"): (
            torch.arange(150) % 60,
            torch.randint(35, (150,), generator=draw),
        ),
        ("paper", "on", "subject"): (torch.arange(60), torch.randint(5, (60,), generator=draw)),
    }
    x = {"paper": torch.rand(60, 12, generator=draw), "author": torch.rand(35, 9, generator=draw)}
    return HeteroGraph.from_edge_lists({"paper": 60, "author": 35, "subject": 5}, pairs, features=x)


def trainer_of(
    name: str, settings: dict[str, Any], device: str = "cpu"
) -> tuple[Trainer, list[Any]]:
    """A trainer, and the first two batches, of which the first is stepped."""
    model: TrainableModel = registry.load("model", name)(**settings)
    train = None if isinstance(model, GraphModel) else planted()[0]
    space = graph() if train is None else with_relations(train) if model.reads_graph else SPACE
    model.build(space, seed=0)
    generators = Generators(0, device)
    batches = model.batches(train, BATCH, generators)
    config = TrainConfig.of(metric="loss")
    trainer = Trainer(model, batches, config, generators, accelerator=make_accelerator(device))
    trainer.module.train()
    first, second, *_ = [*batches.epoch(0), *batches.epoch(1)]
    return trainer, [trainer.prepare(first), trainer.prepare(second)]


def on_host(name: str, settings: dict[str, Any]) -> Count:
    with accelerator_path():
        trainer, (first, second) = trainer_of(name, settings)
        trainer.step(first)
        return count(lambda: trainer.step(second), "cpu")


@pytest.mark.parametrize(("name", "settings", "launches"), LAUNCHES)
def test_a_step_launches_so_many_kernels_and_reads_nothing(
    name: str, settings: dict[str, Any], launches: int
) -> None:
    found = on_host(name, settings)
    assert found.n_kernels <= MARGIN * launches, found.kernels.most_common()
    assert not found.reads


@pytest.mark.parametrize(("name", "settings", "launches", "reads"), DRAWN)
def test_what_draws_neighbours_reads_so_often(
    name: str, settings: dict[str, Any], launches: int, reads: int
) -> None:
    found = on_host(name, settings)
    assert found.n_kernels <= MARGIN * launches, found.kernels.most_common()
    assert found.n_reads <= reads, found.reads


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, {}) for name in ("bprmf", "lightgcn", "ncl", "simgcl", "ultragcn", "xsimgcl")),
        ("bprmf", SHARED),
    ],
)
def test_no_copy_to_the_device_blocks(name: str, settings: dict[str, Any]) -> None:
    """On ``meta``, where tensors of the host are told apart from those of the device."""
    model: TrainableModel = registry.load("model", name)(**settings).build(SPACE, seed=0)
    generators = Generators(0)
    batches = model.batches(planted()[0], BATCH, generators)
    first, second, *_ = batches.epoch(0)
    with on_meta(model) as accelerator:
        trainer = Trainer(
            model, batches, TrainConfig.of(metric="loss"), generators, accelerator=accelerator
        )
        trainer.module.train()
        for batch in (first, second):
            model.prepare(batch)
        assert count(lambda: trainer.step(first)).n_kernels
        assert not count(lambda: trainer.step(second)).reads


def test_every_model_of_pairs_and_nodes_is_counted() -> None:
    models = {name: registry.load("model", name) for name in registry.names("model")}
    found = {
        name
        for name, cls in models.items()
        if issubclass(cls, CollaborativeModel | GraphModel)
        and cls.__module__.startswith("recgraph.")
    }
    assert found == {name for name, *_ in (*LAUNCHES, *DRAWN)}


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "settings"), [(name, settings) for name, settings, _ in LAUNCHES])
def test_a_card_waits_for_nothing_in_a_step(name: str, settings: dict[str, Any]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no device: not run")
    trainer, (first, second) = trainer_of(name, settings, "cuda")
    trainer.step(first)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.step(second)
    finally:
        torch.cuda.set_sync_debug_mode("default")
