"""Epochs of a model of nodes (one step on the whole graph each), through the library's trainer."""

from __future__ import annotations

from typing import Any

import hin
import train

from experiments.bench.work import step
from recgraph.rng import Generators
from recgraph.train.config import TrainConfig, make_accelerator
from recgraph.train.trainer import Trainer


def prepare(options: dict[str, Any]) -> Any:
    model, optimiser = hin.build(options)
    generators = Generators(0, device=options["device"])
    batches = train.NextBatches(model.batches(None, 1, generators), contrastive=False)
    one = step(model, None)
    precision = options.get("precision", "no")
    config = TrainConfig(max_epochs=1, metric="loss", patience=None, precision=precision, **optimiser)

    def run(steps: int) -> dict[str, float]:
        batches.next(steps)
        accelerator = make_accelerator(options["device"], precision)
        Trainer(model, batches, config, generators, accelerator=accelerator).fit()
        return {"epochs": float(steps), **one.times(steps).counts()}

    return run
