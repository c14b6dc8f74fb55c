"""RecBole's LightGCN on MovieLens 100k, its own split, sampler and training loop."""

from __future__ import annotations

import itertools
import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import recbole_imports  # noqa: F401
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.general_recommender import LightGCN
from recbole.trainer import Trainer
from recbole.utils import init_seed

SETTINGS: dict[str, Any] = {
    "model": "LightGCN",
    "dataset": "ml-100k",
    "load_col": {"inter": ["user_id", "item_id"]},
    "eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"},
    "embedding_size": 64,
    "n_layers": 3,
    "reg_weight": 1e-4,
    "require_pow": True,
    "use_gpu": False,
    "show_progress": False,
    "reproducibility": False,
    "state": "ERROR",
}


def prepare(options: dict[str, Any]) -> Any:
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "ml-100k").mkdir()
        shutil.copy(options["data"], Path(folder) / "ml-100k" / "ml-100k.inter")
        sizes = {"train_batch_size": options["batch_size"], "data_path": folder, "checkpoint_dir": folder}
        config = Config(config_dict={**SETTINGS, **sizes})
        init_seed(config["seed"], reproducibility=False)
        train, _, _ = data_preparation(config, create_dataset(config))
        trainer = Trainer(config, LightGCN(config, train.dataset).to(torch.device("cpu")))

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
