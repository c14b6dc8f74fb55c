"""Training speed of a model, through the library's trainer as ``recgraph.fit`` uses it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from experiments.bench.work import mean_step
from recgraph import Split, load_data, registry
from recgraph.data.batches import Batches
from recgraph.models.base import Space
from recgraph.rng import Generators
from recgraph.train.config import TrainConfig, make_accelerator
from recgraph.train.trainer import Trainer

#: batches whose mean work is that of a step
_SAMPLE = 8


class NextBatches:
    """An epoch is the next ``steps`` batches of an endless training; counts what it hands out."""

    def __init__(self, batches: Batches, contrastive: bool) -> None:
        self._stream = self._endless(batches)
        self._contrastive = contrastive
        self.steps = 0
        self.counts: dict[str, float] = {}

    @staticmethod
    def _endless(batches: Batches) -> Iterator[Any]:
        number = 0
        while True:
            yield from batches.epoch(number)
            number += 1

    def next(self, steps: int) -> None:
        self.steps = steps
        self.counts = {"targets": 0.0}
        if self._contrastive:
            self.counts["contrastive pairs"] = 0.0

    def __len__(self) -> int:
        return self.steps

    def epoch(self, number: int, start: int = 0) -> Iterator[Any]:
        for _ in range(start, self.steps):
            batch = next(self._stream)
            self.counts["targets"] += batch.n_targets
            if self._contrastive:
                self.counts["contrastive pairs"] += batch.contrast.n_rows
            yield batch


def beauty(path: str) -> Split:
    """Leave-one-out on the sequence file of Amazon Beauty."""
    return load_data(path, format="sequences").split("leave-one-out")


def movielens(path: str) -> Split:
    """The random 80 / 10 / 10 split of the ``.inter`` file, as RecBole's default."""
    return load_data(path).split("ratio")


def train(options: dict[str, Any]) -> Any:
    split = {"beauty": beauty, "movielens": movielens}[options.get("split", "beauty")](
        options["data"]
    )
    model = registry.load("model", options["model"])(**options["settings"])
    model.build(Space(n_users=split.n_users, n_items=split.n_items), seed=0)
    generators = Generators(0, device=options["device"])
    contrastive = any(set(phase.terms) - {"rec", "l2"} for phase in model.phases)
    batches = NextBatches(
        model.batches(split.train, options["batch_size"], generators), contrastive
    )
    samples = model.batches(split.train, options["batch_size"], Generators(0)).epoch(0)
    one = mean_step(model, islice(samples, _SAMPLE))
    config = TrainConfig(
        batch_size=options["batch_size"],
        max_epochs=1,
        metric="loss",
        patience=None,
        precision=options.get("precision", "no"),
    )

    def run(steps: int) -> dict[str, float]:
        batches.next(steps)
        accelerator = make_accelerator(options["device"], config.precision)
        Trainer(model, batches, config, generators, accelerator=accelerator).fit()
        return {**batches.counts, **one.times(steps).counts()}

    return run
