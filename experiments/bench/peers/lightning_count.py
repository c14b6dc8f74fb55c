"""Count the real targets that a Lightning trainer goes through, and make trainers that do nothing but train."""

from __future__ import annotations

from typing import Any


def counting_trainer(lightning: Any, mask_of: Any, steps: int) -> tuple[Any, dict[str, float]]:
    """A trainer for ``steps`` batches, and the counts that it fills.

    Args:
        lightning: the module ``lightning`` or ``pytorch_lightning``, whichever the peer uses.
        mask_of: the mask of real targets of a batch.
        steps: batches.
    """
    counts = {"targets": 0.0}

    class Count(lightning.Callback):  # type: ignore[misc]
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
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
