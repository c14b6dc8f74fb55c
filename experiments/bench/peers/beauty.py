"""Amazon Beauty as the peers are given it, and Lightning trainers that count what they train on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MAX_LEN = 50


def sequences(path: str) -> list[list[int]]:
    """The items of each user, oldest first; ids from 1. The file holds ``user item item ...`` a
    line.
    """
    rows = [
        [int(field) for field in line.split()]
        for line in Path(path).read_text().splitlines()
        if line.strip()
    ]
    return [row[1:] for row in rows]


def training(path: str) -> list[list[int]]:
    """All but the last two items of each user: at most ``MAX_LEN`` targets and the item before the
    first.
    """
    return [items[:-2][-(MAX_LEN + 1) :] for items in sequences(path)]


def n_items(path: str) -> int:
    return max(max(items) for items in sequences(path))


def counting_trainer(lightning: Any, mask_of: Any, steps: int) -> tuple[Any, dict[str, float]]:
    """A trainer for ``steps`` batches, and the counts that it fills.

    Args:
        lightning: the module ``lightning`` or ``pytorch_lightning``, whichever the peer uses.
        mask_of: the mask of real targets of a batch.
        steps: batches.
    """
    counts = {"targets": 0.0}

    class Count(lightning.Callback):  # type: ignore[misc]
        def on_train_batch_start(
            self, trainer: Any, module: Any, batch: Any, batch_idx: int
        ) -> None:
            counts["targets"] += float(mask_of(batch).sum())

    trainer = lightning.Trainer(
        max_epochs=1,
        limit_train_batches=steps,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[Count()],
    )
    return trainer, counts
