"""RecBole 1.2.1 with the libraries of today: its SASRec on Beauty, its LightGCN on MovieLens 100k,
its own loops.
"""

from __future__ import annotations

import itertools
import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import beauty
import numpy as np
import torch

# names that numpy has dropped and RecBole still reads while it is imported
for alias, kind in {
    "float": float,
    "int": int,
    "bool": bool,
    "object": object,
    "long": int,
}.items():
    if alias not in vars(np):
        setattr(np, alias, kind)

from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.model.general_recommender import LightGCN  # noqa: E402
from recbole.model.sequential_recommender import SASRec  # noqa: E402
from recbole.trainer import Trainer  # noqa: E402
from recbole.utils import init_seed  # noqa: E402

_COMMON: dict[str, Any] = {
    "use_gpu": False,
    "show_progress": False,
    "reproducibility": False,
    "state": "ERROR",
}
SASREC: dict[str, Any] = {
    **_COMMON,
    "model": "SASRec",
    "dataset": "beauty",
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "eval_args": {
        "split": {"LS": "valid_and_test"},
        "order": "TO",
        "group_by": "user",
        "mode": "full",
    },
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
}
LIGHTGCN: dict[str, Any] = {
    **_COMMON,
    "model": "LightGCN",
    "dataset": "ml-100k",
    "load_col": {"inter": ["user_id", "item_id"]},
    "eval_args": {
        "split": {"RS": [0.8, 0.1, 0.1]},
        "order": "RO",
        "group_by": "user",
        "mode": "full",
    },
    "embedding_size": 64,
    "n_layers": 3,
    "reg_weight": 1e-4,
    "require_pow": True,
}


def _write_beauty(path: str, target: Path) -> None:
    """RecBole's own format; the place in the sequence stands for the time."""
    with target.open("w") as out:
        out.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user, items in enumerate(beauty.sequences(path)):
            out.writelines(f"{user}\t{item}\t{place}\n" for place, item in enumerate(items))


def _prepared(
    settings: dict[str, Any], model: Any, options: dict[str, Any]
) -> tuple[Any, Any, Any]:
    """Its trainer with a fresh model, its training batches and its test batches."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, settings["dataset"], f"{settings['dataset']}.inter")
        file.parent.mkdir()
        if settings is SASREC:
            _write_beauty(options["data"], file)
        else:
            shutil.copy(options["data"], file)
        sizes = {
            "train_batch_size": options["batch_size"],
            "eval_batch_size": options.get("eval_batch_size", 4096),
        }
        config = Config(
            config_dict={**settings, **sizes, "data_path": folder, "checkpoint_dir": folder}
        )
        init_seed(config["seed"], reproducibility=False)
        train, _, test = data_preparation(config, create_dataset(config))
        return Trainer(config, model(config, train.dataset).to(torch.device("cpu"))), train, test


def _training(trainer: Any, train: Any) -> Any:
    batches = itertools.chain.from_iterable(itertools.repeat(train))

    def run(steps: int) -> dict[str, float]:
        taken: list[int] = []

        def counted() -> Iterator[Any]:
            for batch in itertools.islice(batches, steps):
                taken.append(len(batch))
                yield batch

        trainer._train_epoch(counted(), 0, show_progress=False)
        return {"targets": float(sum(taken))}

    return run


def recbole_sasrec(options: dict[str, Any]) -> Any:
    """SASRec, one sample (one target) a prefix."""
    trainer, train, _ = _prepared(SASREC, SASRec, options)
    return _training(trainer, train)


def recbole_lightgcn(options: dict[str, Any]) -> Any:
    """LightGCN on RecBole's own split, with its own sampler."""
    trainer, train, _ = _prepared(LIGHTGCN, LightGCN, options)
    return _training(trainer, train)


def recbole_ranking(options: dict[str, Any]) -> Any:
    """Full ranking of all test users end to end: encoding, scores, top-k and metrics; seen items
    stay in.
    """
    trainer, _, test = _prepared(SASREC, SASRec, options)

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            trainer.evaluate(test, load_best_model=False, show_progress=False)
        return {"users": float(len(test.dataset) * steps)}

    return run
