"""RecTools' SASRec under Lightning's trainer, fed by RecTools' own data preparation."""

from __future__ import annotations

from typing import Any

import beauty
import pandas as pd
import pytorch_lightning
from beauty import counting_trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel


def dataset(path: str) -> Dataset:
    rows = [
        (user, item, place)
        for user, items in enumerate(beauty.training(path))
        for place, item in enumerate(items)
    ]
    frame = pd.DataFrame(rows, columns=[Columns.User, Columns.Item, "place"])
    frame[Columns.Weight] = 1.0
    frame[Columns.Datetime] = pd.Timestamp("2020-01-01") + pd.to_timedelta(
        frame.pop("place"), unit="D"
    )
    return Dataset.construct(frame)


def one_batch() -> Any:
    """The trainer of RecTools' own ``fit``: it only has to build the model."""
    return counting_trainer(pytorch_lightning, lambda batch: batch["y"] != 0, steps=1)[0]


def prepare(options: dict[str, Any]) -> Any:
    pytorch_lightning.seed_everything(0)
    model = SASRecModel(
        n_factors=64,
        n_blocks=2,
        n_heads=2,
        dropout_rate=0.5,
        session_max_len=beauty.MAX_LEN,
        batch_size=options["batch_size"],
        loss=options["loss"],
        n_negatives=options.get("n_negatives", 1),
        get_trainer_func=one_batch,
    )
    model.fit(dataset(options["data"]))
    batches = model.data_preparator.get_dataloader_train()

    def run(steps: int) -> dict[str, float]:
        trainer, counts = counting_trainer(pytorch_lightning, lambda batch: batch["y"] != 0, steps)
        trainer.fit(model.lightning_model, batches)
        return counts

    return run
