"""A study that takes seconds, for tests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

import recgraph as rg
from recgraph.data.split import Split

SPACE = {"*": "fixed", "learning_rate": {}, "dropout": {}}
SETTINGS = {"max_epochs": 2, "hidden_dim": 8, "n_layers": 1, "n_heads": 1, "patience": None, "batch_size": 256}
#: long enough to be stopped in the middle
LONG = {**SETTINGS, "max_epochs": 10}
#: of studies of which nothing is trained
RANGES = {
    "learning_rate": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
    "n_layers": optuna.distributions.IntDistribution(1, 4),
    "views": optuna.distributions.CategoricalDistribution(['["crop", "mask"]', None, "<b>&"]),
}


def synthetic() -> Split:
    return rg.load_dataset("synthetic").split("leave-one-out")


def tune(split: Split, out: Path | None = None, n_trials: int = 3, **options: Any) -> optuna.Study:
    given = {"model": "sasrec", "space": SPACE, "settings": SETTINGS, "test_seeds": 0, "study": "s", **options}
    return rg.tune(split=split, n_trials=n_trials, out=out, **given)


def states(study: optuna.Study) -> Counter[str]:
    return Counter(trial.state.name for trial in study.trials)


def sampled(n_trials: int, n_objectives: int = 1) -> optuna.Study:
    """A study whose trials are drawn at random and told made-up values; some were pruned, some failed."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = ["maximize", "minimize"][:n_objectives]
    study = optuna.create_study(
        study_name="a <study>", directions=directions, sampler=optuna.samplers.RandomSampler(seed=0)
    )
    for number_ in range(n_trials):
        trial = study.ask(RANGES)
        if n_objectives == 1:
            trial.report(0.01, 1)
            trial.report(0.02, 2)
        if number_ % 5 == 3 and n_objectives == 1:
            trial.set_user_attr("reason", "pruned after epoch 2")
            study.tell(trial, state=TrialState.PRUNED)
        elif number_ % 5 == 4:
            trial.set_user_attr("reason", "its worker is gone")
            study.tell(trial, state=TrialState.FAIL)
        else:
            quality = trial.params["learning_rate"] + 0.01 * trial.params["n_layers"]
            study.tell(trial, [quality, 100 * quality**2][:n_objectives])
    return study
