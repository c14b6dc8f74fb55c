"""RecBole's SASRec, one sample (one target) a prefix, through RecBole's own training loop."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from recbole_data import recbole


def prepare(options: dict[str, Any]) -> Any:
    trainer, train, _ = recbole(options)

    def forever() -> Iterator[Any]:
        while True:
            yield from train

    batches = forever()

    def run(steps: int) -> dict[str, float]:
        taken: list[int] = []

        def counted() -> Iterator[Any]:
            for batch in itertools.islice(batches, steps):
                taken.append(len(batch))
                yield batch

        trainer._train_epoch(counted(), 0, show_progress=False)
        return {"targets": float(sum(taken))}

    return run
