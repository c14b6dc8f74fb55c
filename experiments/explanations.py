"""Do attributions agree, and are they faithful? SASRec and MEOWRec on MovieLens-100K, each user's first recommendation.

    python experiments/explanations.py OUT.jsonl [--models sasrec meowrec] [--users 200] [--seed 0]

Each model is fitted to the training part of a leave-one-out split. Of the users that it can rank for as many are drawn
as asked (``Generators(seed).fresh("users")``). The log-probability of each user's first recommendation is attributed to
the history by all methods, with their default settings; 20 random orders stand beside them. A line of OUT is one model:
means over users with 95 % bootstrap intervals, and the values of each user that they are made of. Faithfulness is given
as the difference from the user's random orders: a method that does no better than chance has an interval around 0.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import recgraph as rg
from recgraph import registry
from recgraph.data.catalog import load_dataset
from recgraph.data.dataframe import from_native
from recgraph.data.files import replace_text
from recgraph.evaluate.statistics import bootstrap
from recgraph.explain import Attributed
from recgraph.explain.attribution.faithfulness import Faithfulness
from recgraph.rng import Generators
from recgraph.runs.record import provenance

DATASET = "ml-100k"
METHODS = ("leave_one_out", "integrated_gradients", "attention", "reagent")
K = 10
#: first events that are compared between methods
N_FIRST = 5
#: model -> what it is trained with, beside its defaults
TRAINING: dict[str, dict[str, Any]] = {
    "sasrec": {"max_epochs": 20},
    "meowrec": {"max_epochs": 30, "batch_size": 8192, "learning_rate": 0.01},
}
NUMBERS = tuple(Faithfulness.__annotations__)


def summary(values: Sequence[float | None]) -> dict[str, Any]:
    """The mean over the users for whom a number is known, with its interval."""
    known = [value for value in values if value is not None]
    interval = bootstrap(known)
    return {"mean": sum(known) / len(known), "interval": [interval.low, interval.high], "n_users": len(known)}


def of_pairs(found: Sequence[Attributed]) -> dict[str, dict[str, list[float | None]]]:
    """Pair of methods -> measure -> a value a user."""
    return {
        f"{pair.first} and {pair.second}": {
            measure: [getattr(each.agreement[number], measure) for each in found]
            for measure in ("spearman", "kendall", "overlap")
        }
        for number, pair in enumerate(found[0].agreement)
    }


def of_methods(found: Sequence[Attributed]) -> dict[str, dict[str, list[float]]]:
    """Method -> number of faithfulness -> its difference from random orders, a value a user."""
    return {
        one.method: {
            name: [getattr(each.methods[number].faithfulness, name) - getattr(each.by_chance, name) for each in found]
            for name in NUMBERS
        }
        for number, one in enumerate(found[0].methods)
    }


def study(name: str, n_users: int, seed: int) -> dict[str, Any]:
    """The record of one model."""
    split = load_dataset(DATASET).split("leave-one-out")
    began = time.process_time()
    run = rg.fit(registry.load("model", name)(), split, seed=seed, progress=False, **TRAINING[name])
    fitted = time.process_time()
    first = from_native(run.recommend(users="all", k=1))
    users, items = first[:, 0].to_list(), first[:, 1].to_list()
    drawn = torch.randperm(len(users), generator=Generators(seed).fresh("users"))[:n_users].tolist()
    found = []
    for user in drawn:
        found += rg.explain.attribute(run, users[user], [items[user]], METHODS, k=K, n_first=N_FIRST, seed=seed)
    attributed = time.process_time()
    pairs, methods = of_pairs(found), of_methods(found)
    removals = [each.removal for each in found if each.removal is not None]
    return {
        "model": name,
        "dataset": DATASET,
        "split": "leave-one-out",
        "training": TRAINING[name],
        "seed": seed,
        "best_valid": run.record.best,
        "best_epoch": run.record.best_epoch,
        "methods": METHODS,
        "of": found[0].of,
        "k": K,
        "n_users": len(found),
        "mean_events": sum(len(each.events) for each in found) / len(found),
        "agreement": _summaries(pairs),
        "faithfulness": _summaries(methods),
        "half": {
            name: summary([each.methods[number].n_half / len(each.events) for each in found])
            for number, name in enumerate(METHODS)
        },
        "overlap_by_chance": sum(min(N_FIRST / len(each.events), 1) for each in found) / len(found),
        "leaves_the_list": sum(each.rank <= K < each.rank_without for each in removals) / len(found),
        "nothing_speaks_for_it": 1 - len(removals) / len(found),
        "cpu_seconds": {"fitting": round(fitted - began, 1), "attributing": round(attributed - fitted, 1)},
        "provenance": provenance(),
        "users": [f"{users[user]}" for user in drawn],
        "per_user": {"agreement": _rounded(pairs), "faithfulness": _rounded(methods)},
    }


def _summaries(values: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {key: {name: summary(of_users) for name, of_users in each.items()} for key, each in values.items()}


def _rounded(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _rounded(each) for key, each in values.items()}
    return [None if value is None else round(value, 4) for value in values]


def main() -> None:
    """Write a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", nargs="+", default=list(TRAINING), choices=list(TRAINING))
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    lines = []
    for name in arguments.models:
        lines.append(json.dumps(study(name, arguments.users, arguments.seed)))
        replace_text("\n".join(lines) + "\n", arguments.out)


if __name__ == "__main__":
    main()
