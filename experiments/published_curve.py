"""What a published log shows of a training on Gowalla, epoch by epoch, beside the same training here.

    python -m experiments.published_curve FOLDER "MF-CCL" --epochs 18 --out experiments/results/gowalla-curves.jsonl

``train.txt``, ``valid.txt`` and ``test.txt`` of the folder have lines of ``user item item ...``, numbered from 0. An
entry of the board ``published`` is fitted to train and valid with its settings at a constant rate, and evaluated on the
test part after each epoch, as the published code is. This compares two programs: it chooses nothing, and no row of a
board comes from it. Each entry has one line in the file; a new run replaces it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import recgraph as rg
from experiments.closed_form_split import frame_of, read
from experiments.drawn_test import keep_line
from experiments.published_rows import METRICS, settings_of


def curve(entry: str, folder: Path, epochs: int) -> list[dict[str, float]]:
    """Epoch, mean loss of the training's recommendation term, and the metrics of the test part after it."""
    parts = read(folder)
    split = rg.Split.from_parts(frame_of(parts["train"], parts["valid"]), frame_of(parts["test"]))
    model, training = settings_of(entry)
    training |= {"schedule": "constant", "drop_after": (), "max_epochs": epochs}
    training |= {"metric": METRICS[0], "patience": None}
    run = rg.fit(model, split, seed=0, **training)
    return [{"epoch": row["epoch"], "loss": row["rec"], **{one: row[one] for one in METRICS}} for row in run.history]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.published_curve", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("entry", help="of the board published")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    found = [
        {name: value if name == "epoch" else round(value, 5) for name, value in row.items()}
        for row in curve(asked.entry, asked.folder, asked.epochs)
    ]
    line: dict[str, Any] = {"entry": asked.entry, "curve": found}
    print(json.dumps(line), flush=True)
    keep_line(asked.out, line, ("entry",))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
