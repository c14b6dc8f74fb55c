"""A study that takes seconds, for tests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import optuna

import recgraph as rg
from recgraph.data.split import Split

SPACE = {"*": "fixed", "learning_rate": {}, "dropout": {}}
SETTINGS = {
    "max_epochs": 2,
    "hidden_dim": 8,
    "encoder": {"n_layers": 1, "n_heads": 1},
    "patience": None,
    "batch_size": 256,
}


def synthetic() -> Split:
    return rg.load_dataset("synthetic").split("leave-one-out")


def tune(split: Split, out: Path | None = None, n_trials: int = 3, **options: Any) -> optuna.Study:
    given = {"model": "sasrec", "space": SPACE, "settings": SETTINGS, "test_seeds": 0, "study": "s", **options}
    return rg.tune(split=split, n_trials=n_trials, out=out, **given)


def states(study: optuna.Study) -> Counter[str]:
    return Counter(trial.state.name for trial in study.trials)
