"""Measure `run.update` against a full refit, and write a record.

    python experiments/update.py old ml-100k sasrec --seed 0 --out FOLDER python
    experiments/update.py refit ml-100k sasrec --seed 0 --out FOLDER python experiments/update.py
    update ml-100k sasrec --seed 0 --out FOLDER --record FILE --set epochs=4

Each user's last interaction is the test, which nothing is fitted to, and of the rest the last tenth
is the new log: by time where there are times (ml-100k), else of each user (ml-1m, whose file has
orders alone). The old run knows the old part alone, its users and items included, and stops by each
user's last old interaction. The refit is a training from nothing on both parts. Both are validated
on the newest tenth of the new log, which neither trains on and both know as history at test time.
CPU times are those of the process (one thread), from the logs in memory to a model that can serve,
validation included. The settings of the update were chosen with each user's last interaction left
out.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import recgraph as rg
from recgraph import registry
from recgraph.config import parse_settings
from recgraph.data.part import Cases
from recgraph.data.split import Interactions, Split
from recgraph.data.strategies import Label, LeaveOneOut
from recgraph.evaluate import evaluate
from recgraph.files import write_text
from recgraph.models.base import Model
from recgraph.serve.recommender import Recommender
from recgraph.sparse.ragged import Ragged
from recgraph.train.record import RunRecord, provenance
from recgraph.train.run import Run
from recgraph.train.update import newest

SHARE = 0.1
CUTOFF = 10
SHARED = Path(os.environ.get("RECGRAPH_SHARED", "../shared"))
_SMALL = {"dropout": 0.2, "encoder": {"attention_dropout": 0.2}}
SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("ml-100k", "sasrec"): {"model": _SMALL, "training": {"learning_rate": 2e-3}},
    ("ml-100k", "mclrec"): {
        "model": {**_SMALL, "latent_weight": 0.05},
        "training": {"learning_rate": 1e-3, "max_epochs": 100},
    },
    ("ml-1m", "sasrec"): {
        "model": _SMALL,
        "training": {"learning_rate": 2e-3, "max_epochs": 60, "patience": 5},
    },
}
TRAINING = {"batch_size": 64, "metric": "ndcg@10", "max_epochs": 80, "patience": 10}


class Data:
    """The parts of a log.

    Attributes:
        pool: all but the test.
        old, new: the two parts of it; ``new`` keeps the indices of ``pool``.
        asked: [U] the user and [U] the item of each test case, as ids.
    """

    def __init__(self, dataset: str) -> None:
        sequences = SHARED / "data" / "sequences" / f"{dataset}.txt"
        is_ordered = dataset == "ml-1m"
        log = (
            rg.load_data(sequences, format="sequences") if is_ordered else rg.load_dataset(dataset)
        )
        last = _last(log)
        users, items = log.ordered.items.rows[last], log.ordered.items.values[last]
        self.asked = log.users.ids(users.numpy()), log.items.ids(items.numpy())
        self.pool = _kept(log, ~last)
        is_new = newest(self.pool.ordered, SHARE)
        self.old = _kept(self.pool, ~is_new)
        self.new = self.pool.masked(is_new.numpy())

    def cases(self, recommender: Recommender) -> Cases:
        """The test cases in a recommender's indices; items that the pool does not have are left
        out.
        """
        user = torch.from_numpy(recommender.users.index(self.asked[0]))
        item = torch.from_numpy(recommender.items.index(self.asked[1]))
        keep = (user >= 0) & (item >= 0)
        user, item = user[keep], item[keep]
        truth = Ragged.from_lengths(item, torch.ones_like(item))
        return Cases(user, recommender.seen.take(user), truth, len(recommender.items))

    def active(self) -> Any:
        """The ids of the users of the new part."""
        rows = self.new.ordered.items.lengths > 0
        return self.new.users.ids(rows.nonzero().flatten().numpy())


def _last(log: Interactions) -> torch.Tensor:
    items = log.ordered.items
    return items.positions == items.lengths[items.rows] - 1


def _kept(log: Interactions, keep: torch.Tensor) -> Interactions:
    """Some of the interactions, as a log of its own: users and items without any are no part of
    it.
    """
    columns = log.columns
    frame = log.masked(keep.numpy()).to_frame()
    return Interactions.from_frame(
        frame, user=columns.user, item=columns.item, timestamp=columns.timestamp
    )


def refit(data: Data, chosen: dict[str, Any], model: str, seed: int, out: Path) -> None:
    """A training from nothing on all that the update knows.

    The slice of ml-100k has few users, on whom a training from nothing would stop by chance: it
    stops by each user's last interaction, as the old run does.
    """
    is_new = newest(data.pool.ordered, SHARE)
    in_slice = torch.zeros_like(is_new)
    in_slice[is_new] = newest(data.pool.ordered.filter(is_new), SHARE)
    valid = in_slice if data.pool.ordered.times is None else _last(data.pool)
    _fit(data.pool, valid, chosen, model, seed, out / "refit")


def _fit(
    log: Interactions, valid: torch.Tensor, chosen: Any, model: str, seed: int, out: Path
) -> None:
    if (out / "cost.json").exists():
        return
    labels = torch.where(valid, int(Label.VALID), int(Label.TRAIN)).to(torch.uint8)
    split = Split(log, labels, LeaveOneOut(), "leave-one-out", None)
    made: Model = registry.load("model", model)(**chosen["model"])
    training = {**TRAINING, **chosen["training"]}
    began, resumed = time.process_time(), out.exists()
    run = rg.fit(made, split, seed=seed, out=out, device="cpu", resume=resumed, **training)
    seconds = time.process_time() - began
    if resumed:  # earlier processes have a part in it
        assert run.record.cost is not None
        seconds = run.record.cost.cpu_seconds
    write_text(json.dumps({"cpu_seconds": seconds}), out / "cost.json")


def updated(out: Path, data: Data, options: dict[str, Any]) -> tuple[Run, float]:
    """The old run, updated -> the new run and its CPU seconds."""
    old = Run.open(out / "old")
    assert isinstance(old, Run)
    new = data.new.to_frame()
    began = time.process_time()
    run = old.update(new, device="cpu", **options)
    return run, time.process_time() - began


def tested(recommender: Recommender, data: Data) -> dict[str, float]:
    """The metrics of all test users, and of those of the new log."""
    cases = data.cases(recommender)
    found = evaluate(
        recommender.model, cases, seen=("exclude",), cutoffs=(CUTOFF,), metrics=("ndcg", "recall")
    )[0]
    active = np.isin(cases.users.numpy(), recommender.users.index(data.active()))
    values = found.per_user["ndcg@10"]
    return {
        "ndcg@10": found.metrics["ndcg@10"],
        "recall@10": found.metrics["recall@10"],
        "users": len(cases),
        "ndcg@10 of active users": float(values[active].mean()),
        "active users": int(active.sum()),
    }


def compare(data: Data, given: argparse.Namespace) -> dict[str, Any]:
    """The record: what each side reached at what cost."""
    options = dict(parse_settings(given.set))
    run, seconds = updated(given.out, data, options)
    sides: dict[str, Any] = {
        "old": tested(Recommender.load(given.out / "old" / "bundle"), data),
        "update": {
            **tested(run.recommender, data),
            "cpu_seconds": seconds,
            "record": run.record.update,
        },
    }
    sides["update"]["record"]["parent"].pop("folder")
    if (given.out / "refit" / "cost.json").exists():
        cost = json.loads((given.out / "refit" / "cost.json").read_text(encoding="utf-8"))
        record = RunRecord.read(given.out / "refit")
        of_best = record.history[(record.best_epoch or 1) - 1]["cpu_seconds"]
        epochs = {
            "epochs": len(record.history),
            "best_epoch": record.best_epoch,
            "cpu_seconds_to_best": of_best,
        }
        sides["refit"] = {
            **tested(Recommender.load(given.out / "refit" / "bundle"), data),
            **cost,
            **epochs,
        }
        sides["ratios"] = {
            "ndcg@10": sides["update"]["ndcg@10"] / sides["refit"]["ndcg@10"],
            "cpu": seconds / cost["cpu_seconds"],
            "cpu, of the refit's epochs up to its best": seconds / of_best,
        }
    return {
        "dataset": given.dataset,
        "model": given.model,
        "seed": given.seed,
        "settings": SETTINGS[given.dataset, given.model],
        "training": TRAINING,
        "update_options": options,
        **sides,
        "provenance": provenance(),
    }


def main() -> None:
    """One stage."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("old", "refit", "update"))
    parser.add_argument("dataset", choices=sorted({dataset for dataset, _ in SETTINGS}))
    parser.add_argument("model", choices=sorted({model for _, model in SETTINGS}))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="where the runs are kept")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="an option of the update"
    )
    parser.add_argument(
        "--record", type=Path, help="a file of JSON lines, to which the comparison is appended"
    )
    given = parser.parse_args()
    data = Data(given.dataset)
    if given.stage == "update":
        record = compare(data, given)
        if given.record is not None:
            with given.record.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        shown = {
            side: record[side] for side in ("old", "update", "refit", "ratios") if side in record
        }
        print(json.dumps(shown, indent=1))
        return
    chosen = SETTINGS[given.dataset, given.model]
    if given.stage == "refit":
        refit(data, chosen, given.model, given.seed, given.out)
    else:
        _fit(data.old, _last(data.old), chosen, given.model, given.seed, given.out / "old")


if __name__ == "__main__":
    main()
