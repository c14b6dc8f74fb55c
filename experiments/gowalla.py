"""Models beside published numbers on LightGCN's split of Gowalla, or another one that lies in three
files.

    python -m experiments.gowalla FOLDER fit EASE --set l2=200 [--fit-on train] [--items 8000]
    python -m experiments.gowalla FOLDER fit itemknn-means python -m experiments.gowalla FOLDER
    drawn "GFCF" "SLIM" --out experiments/results/gowalla-drawn-test.jsonl python -m
    experiments.gowalla FOLDER curve "MF-CCL" --epochs 18 --out
    experiments/results/gowalla-curves.jsonl

``train.txt``, ``valid.txt`` and ``test.txt`` of the folder have lines of ``user item item ...``,
numbered from 0.

**fit.** A closed-form model that is fitted to train and valid is evaluated on test, one that is
fitted to train on valid (to choose settings); seen items are excluded. ``--items`` keeps the items
chosen most often in train alone. With it go the CPU time of the fit, and the peak memory above what
the process held before the model was built. ``itemknn-means`` is ItemKNN as BARS writes it: it
shows whether the difference to the published figure is ours.

**drawn.** How much a board's numbers are of the way its test part was drawn: each user's items of
all three parts are put in a random order, and as many as the published test part has of that user
are held out. Entries of the board ``published`` are fitted to the rest with the settings and the
number of epochs that they have there.

**curve.** What a published log shows of a training, epoch by epoch: an entry of the board is fitted
to train and valid at a constant rate, and evaluated on the test part after each epoch, as the
published code is. This compares two programs: it chooses nothing, and no row of a board comes from
it.

Each line of a file takes the place of the earlier one of that entry.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import polars as pl
import torch
from torch import Tensor

import recgraph as rg
from experiments.bench.ours.growth_stage import forget_peak, peak_mb
from experiments.published_rows import METRICS, settings_of, sheet_of
from recgraph import registry
from recgraph.config import parse_settings
from recgraph.data.batches import Query
from recgraph.data.part import Cases, Part
from recgraph.evaluate import evaluate
from recgraph.files import write_text
from recgraph.models.base import Space, TrainableModel
from recgraph.models.closed_form.neighbours import ItemKNN, fit_matrix
from recgraph.sparse.ragged import Ragged
from recgraph.train.update import after

#: the places chosen most often, whose share in a test part is told
POPULAR = 100


def read(folder: Path) -> dict[str, Ragged]:
    """The items of each user, in each part; users without a line have none."""
    texts = {
        name: (folder / f"{name}.txt").read_text(encoding="ascii")
        for name in ("train", "valid", "test")
    }
    rows = {
        name: [[*map(int, line.split())] for line in text.splitlines()]
        for name, text in texts.items()
    }
    n_users = 1 + max(row[0] for part in rows.values() for row in part)
    found = {}
    for name, part in rows.items():
        lists: list[list[int]] = [[] for _ in range(n_users)]
        for user, *items in part:
            lists[user].extend(items)
        found[name] = Ragged.from_lists(lists)
    return found


def frame_of(*parts: Ragged) -> pl.DataFrame:
    """The pairs of parts, with columns ``user`` and ``item``."""
    users, items = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("rows", "values")
    )
    return pl.DataFrame({"user": users.numpy(), "item": items.numpy()})


# -- fit


class WithMeans(ItemKNN):
    """ItemKNN as BARS scores it: with m_i the share of users who have item i, ``m_i + sum_j s_ij
    (x_j - m_j)`` over the neighbours j of i, whose similarities s sum to 1; ours has no m. What the
    means add is the same for all users."""

    added: Tensor

    def fit(self, train: Part) -> Self:
        super().fit(train)
        rows = fit_matrix(self, train, self.similarities.device)
        means = torch.bincount(rows.indices, minlength=train.n_items) / rows.shape[0]
        self.added = means - (self.similarities * means[self.neighbours]).sum(1)
        return self

    def score(self, query: Query) -> Tensor:
        return super().score(query) + self.added


#: published form -> its class and its settings for Gowalla
FORMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "itemknn-means": (WithMeans, {"k": 100, "shrink": 0.0, "normalise": True})
}


def restricted(parts: dict[str, Ragged], n_items: int) -> dict[str, Ragged]:
    """The parts with those items alone that are chosen most often in train, numbered anew."""
    counts = torch.bincount(
        parts["train"].values, minlength=1 + max(int(part.values.max()) for part in parts.values())
    )
    number = torch.full_like(counts, -1)
    number[torch.argsort(counts, descending=True, stable=True)[:n_items]] = torch.arange(n_items)
    renumbered = (part.with_values(number[part.values]) for part in parts.values())
    return dict(zip(parts, (part.filter(part.values >= 0) for part in renumbered), strict=True))


def fit(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Fit a closed-form model and evaluate it."""
    parts = read(asked.folder)
    if asked.items is not None:
        parts = restricted(parts, asked.items)
    cls, settings = FORMS.get(asked.model) or (registry.load("model", asked.model), {})
    settings = settings | parse_settings(asked.settings)
    n_items = 1 + max(int(part.values.max()) for part in parts.values())
    fitted_to, truth = parts["train"], parts["valid"]
    if asked.fit_on == "train+valid":
        fitted_to, truth = after(parts["train"], parts["valid"]), parts["test"]
    users = torch.nonzero((truth.lengths > 0) & (fitted_to.lengths > 0)).flatten()
    cases = Cases(users, fitted_to.take(users), truth.take(users), n_items)
    forget_peak()
    before, began = peak_mb(), time.process_time()
    model = (
        cls(**settings)
        .build(Space(n_users=fitted_to.n_rows, n_items=n_items), 0)
        .fit(Part(fitted_to, n_items))
    )
    fit_s, fit_mb = time.process_time() - began, peak_mb() - before
    results = evaluate(
        model.eval(), cases, seen=("exclude",), cutoffs=(20,), metrics=("recall", "ndcg")
    )
    yield {
        "model": asked.model,
        "settings": settings,
        "n_users": len(users),
        "n_items": n_items,
        "fitted_on": asked.fit_on,
        **{name: round(float(results["exclude"][name]), 5) for name in METRICS},
        "fit_cpu_s": round(fit_s, 1),
        "fit_peak_mb": round(fit_mb),
        "peak_mb": round(peak_mb() - before),
        "matrix_mb": round(4 * n_items**2 / 2**20),
    }


# -- drawn


def draw(parts: dict[str, Ragged], seed: int) -> tuple[Ragged, Ragged]:
    """All interactions with a test part of the published size for each user -> train, test."""
    users = torch.cat([part.rows for part in parts.values()])
    items = torch.cat([part.values for part in parts.values()])
    order = torch.randperm(len(users), generator=torch.Generator().manual_seed(seed))
    order = order[torch.argsort(users[order], stable=True)]
    every = Ragged.from_lengths(
        items[order], torch.bincount(users, minlength=parts["train"].n_rows)
    )
    held_out = every.positions < parts["test"].lengths[every.rows]
    return every.filter(~held_out), every.filter(held_out)


def drawn(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Fit entries of the board to all but a drawn test part, and test them."""
    parts = read(asked.folder)
    train, test = draw(parts, asked.seed)
    counts = sum(
        torch.bincount(part.values, minlength=1 + int(train.values.max())) for part in (train, test)
    )
    popular = torch.argsort(torch.as_tensor(counts), descending=True, stable=True)[:POPULAR]
    facts = {
        "seed": asked.seed,
        "popular": POPULAR,
        "n_interactions": len(train.values) + len(test.values),
    }
    for name, part in (("published", parts["test"]), ("drawn", test)):
        facts[f"{name}_share"] = round(float(torch.isin(part.values, popular).double().mean()), 4)
    split = rg.Split.from_parts(frame_of(train), None, frame_of(test))
    for entry in asked.entries:
        model, training = settings_of(entry)
        if isinstance(model, TrainableModel) and training.get("metric") != "last":
            (of_board,) = (each for each in sheet_of("published").entries if each.name == entry)
            if training.get("schedule", "constant") != "constant":
                training["schedule_epochs"] = training["max_epochs"]
            (epochs,) = of_board.best_epochs.values()
            training |= {"metric": "last", "patience": None, "max_epochs": epochs}
        run = rg.fit(model, split, seed=0, fit_on="train+valid", **training)
        found = run.evaluate("test", seen="exclude", cutoffs=(20,), metrics=("recall", "ndcg"))[
            "exclude"
        ]
        yield {"entry": entry, **{name: round(float(found[name]), 5) for name in METRICS}, **facts}


# -- curve


def curve(asked: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Epoch, mean loss of the training's recommendation term, and the metrics of the test part
    after it.
    """
    parts = read(asked.folder)
    split = rg.Split.from_parts(frame_of(parts["train"], parts["valid"]), frame_of(parts["test"]))
    model, training = settings_of(asked.entry)
    training |= {"schedule": "constant", "drop_after": (), "max_epochs": asked.epochs}
    training |= {"metric": METRICS[0], "patience": None}
    history = rg.fit(model, split, seed=0, **training).history
    rows = [
        {
            "epoch": row["epoch"],
            "loss": round(row["rec"], 5),
            **{one: round(row[one], 5) for one in METRICS},
        }
        for row in history
    ]
    yield {"entry": asked.entry, "curve": rows}


def keep_line(path: Path, line: Mapping[str, Any], by: Sequence[str]) -> None:
    """Add a line to a file of JSON lines, in the place of the one that is equal in ``by``."""
    kept = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [each for each in kept if any(json.loads(each)[name] != line[name] for name in by)]
    write_text("".join(f"{each}\n" for each in [*kept, json.dumps(line)]), path)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.gowalla", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", type=Path)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("fit")
    one.add_argument("model")
    one.add_argument("--set", dest="settings", nargs="*", default=[], metavar="KEY=VALUE")
    one.add_argument("--fit-on", choices=("train", "train+valid"), default="train+valid")
    one.add_argument("--items", type=int, help="restrict to so many items")
    one.set_defaults(made=fit, out=None)
    one = commands.add_parser("drawn")
    one.add_argument("entries", nargs="+", help="of the board published")
    one.add_argument("--seed", type=int, default=0, help="of the draw")
    one.add_argument("--out", type=Path, required=True)
    one.set_defaults(made=drawn, by=("entry", "seed"))
    one = commands.add_parser("curve")
    one.add_argument("entry", help="of the board published")
    one.add_argument("--epochs", type=int, required=True)
    one.add_argument("--out", type=Path, required=True)
    one.set_defaults(made=curve, by=("entry",))
    asked = parser.parse_args()
    for line in asked.made(asked):
        print(json.dumps(line), flush=True)
        if asked.out is not None:
            keep_line(asked.out, line, asked.by)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
