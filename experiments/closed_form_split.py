"""A closed-form model on a split that lies in three files, with its peak memory: LightGCN's Gowalla, for one.

    python -m experiments.closed_form_split FOLDER EASE --set l2=200 [--fit-on train] [--items 8000]

``train.txt``, ``valid.txt`` and ``test.txt`` of the folder have lines of ``user item item ...``, numbered from 0.
A model that is fitted to train and valid is evaluated on test, one that is fitted to train on valid (to choose
settings); seen items are excluded, as in the published numbers. ``--items`` keeps the items chosen most often in train
alone. Prints a JSON object: metrics, CPU time of the fit, and peak memory above what the process held before the model
was built.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import torch

from experiments.bench.ours.growth_stage import forget_peak, peak_mb
from recgraph import registry
from recgraph.data.part import Cases, Part
from recgraph.evaluate import evaluate
from recgraph.models.base import Space
from recgraph.config import parse_settings
from recgraph.sparse.ragged import Ragged
from recgraph.train.new_log import after

FIT_ON = ("train", "train+valid")


def rows_of(path: Path, n_users: int) -> Ragged:
    """The items of each user; users without a line have none."""
    lists: list[list[int]] = [[] for _ in range(n_users)]
    for line in path.read_text(encoding="ascii").splitlines():
        user, *items = map(int, line.split())
        lists[user].extend(items)
    return Ragged.from_lists(lists)


def read(folder: Path) -> dict[str, Ragged]:
    """The parts, for the users of all three."""
    files = {name: folder / f"{name}.txt" for name in ("train", "valid", "test")}
    last = max(int(line.split(None, 1)[0]) for path in files.values() for line in path.open(encoding="ascii"))
    return {name: rows_of(path, last + 1) for name, path in files.items()}


def frame_of(*parts: Ragged) -> pl.DataFrame:
    """The pairs of parts, with columns ``user`` and ``item``."""
    users, items = (torch.cat([getattr(part, name) for part in parts]) for name in ("rows", "values"))
    return pl.DataFrame({"user": users.numpy(), "item": items.numpy()})


def restricted(parts: dict[str, Ragged], n_items: int) -> dict[str, Ragged]:
    """The parts with those items alone that are chosen most often in train, numbered anew."""
    counts = torch.bincount(parts["train"].values, minlength=1 + max(int(part.values.max()) for part in parts.values()))
    number = torch.full_like(counts, -1)
    number[torch.argsort(counts, descending=True, stable=True)[:n_items]] = torch.arange(n_items)
    renumbered = (part.with_values(number[part.values]) for part in parts.values())
    return dict(zip(parts, (part.filter(part.values >= 0) for part in renumbered), strict=True))


def measured(make: Callable[[Space], Any], parts: dict[str, Ragged], fit_on: str) -> dict[str, Any]:
    """Fit and evaluate."""
    n_items = 1 + max(int(part.values.max()) for part in parts.values())
    fitted_to, truth = (
        (parts["train"], parts["valid"])
        if fit_on == "train"
        else (after(parts["train"], parts["valid"]), parts["test"])
    )
    users = torch.nonzero((truth.lengths > 0) & (fitted_to.lengths > 0)).flatten()
    cases = Cases(users, fitted_to.take(users), truth.take(users), n_items)
    forget_peak()
    before, began = peak_mb(), time.process_time()
    model = make(Space(n_users=fitted_to.n_rows, n_items=n_items)).fit(Part(fitted_to, n_items))
    fit_s, fit_mb = time.process_time() - began, peak_mb() - before
    results = evaluate(model.eval(), cases, seen=("exclude",), cutoffs=(20,), metrics=("recall", "ndcg"))
    return {
        "n_users": len(users),
        "n_items": n_items,
        "fitted_on": fit_on,
        **{name: round(float(results["exclude"][name]), 5) for name in ("recall@20", "ndcg@20")},
        "fit_cpu_s": round(fit_s, 1),
        "fit_peak_mb": round(fit_mb),
        "peak_mb": round(peak_mb() - before),
        "matrix_mb": round(4 * n_items**2 / 2**20),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.closed_form_split", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("model")
    parser.add_argument("--set", dest="settings", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--fit-on", choices=FIT_ON, default="train+valid")
    parser.add_argument("--items", type=int, help="restrict to so many items")
    chosen = parser.parse_args(argv)
    parts = read(chosen.folder)
    if chosen.items is not None:
        parts = restricted(parts, chosen.items)
    settings = parse_settings(chosen.settings)
    line = measured(
        lambda space: registry.load("model", chosen.model)(**settings).build(space, 0), parts, chosen.fit_on
    )
    print(json.dumps({"model": chosen.model, "settings": settings, **line}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
