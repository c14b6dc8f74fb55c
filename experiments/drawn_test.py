"""How much a board's numbers are of the way its test part was drawn: Gowalla's, drawn anew.

    python -m experiments.drawn_test FOLDER "GFCF" "SLIM" "SimpleX" --out experiments/results/gowalla-drawn-test.jsonl

``train.txt``, ``valid.txt`` and ``test.txt`` of the folder have lines of ``user item item ...``, numbered from 0. Each
user's items of all three are put in a random order, and as many as the published test part has of that user are held
out. Entries of the board ``published`` are fitted to the rest with the settings and the number of epochs that they have
there, and each adds a line to the file, in the place of the one that it may have. Nothing is chosen on a test part.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import recgraph as rg
from experiments.closed_form_split import frame_of, read
from experiments.published_rows import METRICS, settings_of, sheet_of
from recgraph.files import write_text
from recgraph.models.base import TrainableModel
from recgraph.sparse.ragged import Ragged

#: the places chosen most often, whose share in a test part is told
POPULAR = 100


def drawn(parts: dict[str, Ragged], seed: int) -> tuple[Ragged, Ragged]:
    """All interactions with a test part of the published size for each user -> train, test."""
    users = torch.cat([part.rows for part in parts.values()])
    items = torch.cat([part.values for part in parts.values()])
    order = torch.randperm(len(users), generator=torch.Generator().manual_seed(seed))
    order = order[torch.argsort(users[order], stable=True)]
    every = Ragged.from_lengths(items[order], torch.bincount(users, minlength=parts["train"].n_rows))
    held_out = every.positions < parts["test"].lengths[every.rows]
    return every.filter(~held_out), every.filter(held_out)


def share_of_popular(part: Ragged, counts: Tensor) -> float:
    """Which share of a part's interactions is with the places of the greatest counts."""
    popular = torch.argsort(counts, descending=True, stable=True)[:POPULAR]
    return float(torch.isin(part.values, popular).double().mean())


def measured(entry: str, split: rg.Split) -> dict[str, float]:
    """Fit an entry of the board to all but the test part, and test it."""
    model, training = settings_of(entry)
    if isinstance(model, TrainableModel) and training.get("metric") != "last":
        (of_board,) = (each for each in sheet_of("published").entries if each.name == entry)
        if training.get("schedule", "constant") != "constant":
            training["schedule_epochs"] = training["max_epochs"]
        (epochs,) = of_board.best_epochs.values()
        training |= {"metric": "last", "patience": None, "max_epochs": epochs}
    run = rg.fit(model, split, seed=0, fit_on="train+valid", **training)
    found = run.evaluate("test", seen="exclude", cutoffs=(20,), metrics=("recall", "ndcg"))["exclude"]
    return {name: round(float(found[name]), 5) for name in METRICS}


def keep_line(path: Path, line: Mapping[str, Any], by: Sequence[str]) -> None:
    """Add a line to a file of JSON lines, in the place of the one that is equal in ``by``."""
    kept = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [each for each in kept if any(json.loads(each)[name] != line[name] for name in by)]
    write_text("".join(f"{each}\n" for each in [*kept, json.dumps(line)]), path)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.drawn_test", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("entries", nargs="+", help="of the board published")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    parts = read(asked.folder)
    train, test = drawn(parts, asked.seed)
    counts = sum(torch.bincount(part.values, minlength=1 + int(train.values.max())) for part in (train, test))
    facts = {"seed": asked.seed, "popular": POPULAR, "n_interactions": len(train.values) + len(test.values)}
    facts |= {
        f"{name}_share": round(share_of_popular(part, counts), 4)
        for name, part in (("published", parts["test"]), ("drawn", test))
    }
    split = rg.Split.from_parts(frame_of(train), None, frame_of(test))
    for entry in asked.entries:
        line: dict[str, Any] = {"entry": entry, **measured(entry, split), **facts}
        print(json.dumps(line), flush=True)
        keep_line(asked.out, line, ("entry", "seed"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
