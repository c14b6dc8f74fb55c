"""How a training step grows with the number of items, and with the negatives of each target.

The batches stay the same size: a step that touches only some rows costs the same over any table.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from experiments.bench.growth import Stage

ITEMS = (19_465, 172_046, 500_000, 1_500_000)
NEGATIVES = (16, 64, 256, 1024)
N_USERS, BATCHES, BATCH_SIZE, LENGTH = 2_560, 20, 128, 14
#: the largest exponent of steps that touch as many rows of any table: a larger one misses caches
#: more often
_NEAR_0 = 0.15


def prepare_step(
    model: str, settings: Mapping[str, Any], sparse_tables: bool, batch_size: int, n_items: int
) -> Any:
    """A trainer that has made its first steps, and the batches of the next."""
    import torch

    from recgraph import registry
    from recgraph.data.part import Part
    from recgraph.models.base import Space
    from recgraph.rng import Generators
    from recgraph.sparse.ragged import Ragged
    from recgraph.train.config import TrainConfig
    from recgraph.train.trainer import Trainer

    g = torch.Generator().manual_seed(0)
    items = torch.randint(n_items, (N_USERS * LENGTH,), generator=g)
    part = Part(Ragged.from_lengths(items, torch.full((N_USERS,), LENGTH)), n_items)
    built = registry.load("model", model)(**settings)
    built.build(Space(n_users=N_USERS, n_items=n_items), seed=0)
    generators = Generators(0)
    config = TrainConfig.of(
        {
            "batch_size": batch_size,
            "metric": "last",
            "patience": None,
            "sparse_tables": sparse_tables,
        }
    )
    batches = built.batches(part, batch_size, generators)
    trainer = Trainer(built, batches, config, generators)
    drawn = [batch for batch, _ in zip(batches.epoch(0), range(BATCHES), strict=False)]
    trainer.model.train()
    trainer.step(drawn[0])
    return trainer, drawn


def steps(prepared: Any) -> None:
    trainer, drawn = prepared
    for batch in drawn:
        trainer.step(batch)


def prepare_negatives(loss: str, n_negatives: int) -> Any:
    return prepare_step(
        "sasrec", {"loss": {"name": loss, "n_negatives": n_negatives}}, False, BATCH_SIZE, ITEMS[0]
    )


def prepare_cosines(shared: bool, n_negatives: int) -> Any:
    settings = {"loss": {"name": "ccl", "n_negatives": n_negatives, "shared": shared}}
    return prepare_step("bprmf", settings, False, 1_792, ITEMS[0])


def stages() -> list[Stage]:
    sampled = {"loss": {"name": "sampled_softmax", "n_negatives": 512}}
    of_items = [
        ("sasrec", sampled, BATCH_SIZE),
        ("bprmf", {"loss": {"name": "bpr", "n_negatives": 1}}, 1_792),
    ]
    found = []
    for model, settings, batch_size in of_items:
        prepare = partial(prepare_step, model, settings, True, batch_size)
        found.append(
            Stage(f"steps-{model}-sparse-tables", ITEMS, "items", steps, prepare, most=_NEAR_0)
        )
    for loss in ("bce", "bpr"):
        prepare = partial(prepare_negatives, loss)
        found.append(Stage(f"steps-sasrec-{loss}", NEGATIVES, "negatives a target", steps, prepare))
    for name, shared in (("steps-bprmf-ccl", False), ("steps-bprmf-ccl-shared", True)):
        found.append(Stage(name, NEGATIVES, "negatives", steps, partial(prepare_cosines, shared)))
    return found
