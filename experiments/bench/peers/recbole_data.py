"""RecBole 1.2.1 on Beauty with the libraries of today: its configuration, its data, its SASRec and its trainer."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import beauty
import recbole_imports  # noqa: F401
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer
from recbole.utils import init_seed

SETTINGS: dict[str, Any] = {
    "model": "SASRec",
    "dataset": "beauty",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    "train_neg_sample_args": None,
    "loss_type": "CE",
    "MAX_ITEM_LIST_LENGTH": beauty.MAX_LEN,
    "hidden_size": 64,
    "inner_size": 256,
    "n_layers": 2,
    "n_heads": 2,
    "hidden_dropout_prob": 0.5,
    "attn_dropout_prob": 0.5,
    "metrics": ["Recall", "NDCG", "MRR", "Hit"],
    "topk": [5, 10, 20],
    "valid_metric": "MRR@10",
    "use_gpu": False,
    "show_progress": False,
    "reproducibility": False,
    "state": "ERROR",
}


def write_atomic_file(path: str, folder: Path) -> None:
    """RecBole's own format; the place in the sequence stands for the time."""
    target = folder / "beauty" / "beauty.inter"
    target.parent.mkdir()
    with target.open("w") as out:
        out.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user, items in enumerate(beauty.sequences(path)):
            out.writelines(f"{user}\t{item}\t{place}\n" for place, item in enumerate(items))


def recbole(options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Its trainer with a fresh SASRec, its training batches and its test batches."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        write_atomic_file(options["data"], Path(folder))
        settings = {
            **SETTINGS,
            "data_path": folder,
            "checkpoint_dir": folder,
            "train_batch_size": options["batch_size"],
            "eval_batch_size": options.get("eval_batch_size", 4096),
        }
        config = Config(config_dict=settings)
        init_seed(config["seed"], reproducibility=False)
        data = create_dataset(config)
        train, _, test = data_preparation(config, data)
        model = SASRec(config, train.dataset).to(torch.device("cpu"))
        return Trainer(config, model), train, test
