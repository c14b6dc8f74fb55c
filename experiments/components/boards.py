"""The boards of the study: one file for each data set and base, whose entries are the best trials of the searches."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from experiments.components.plan import BASES, ITSELF, Component
from experiments.components.search import study_record
from recgraph.data.files import replace_text
from recgraph.setting_texts import toml_text

FOLDER = Path(__file__).parent
SEEDS = (0, 1, 2)


def board_file(dataset: str, base: str) -> Path:
    return FOLDER / f"{dataset}-{base}.toml"


def write_board(dataset: str, base: str, found: Iterable[Component], trials: int) -> Path:
    """Write the board of those components that have a study."""
    chosen, path = BASES[base], board_file(dataset, base)
    cutoff = 10 if chosen.plain == "sasrec" else 20
    lines = [
        f"title = {json.dumps(f'Components of {base} on {dataset}')}",
        "note = "
        + json.dumps(
            f"Each entry is the base with one component, its settings the best of {trials} trials on the valid part, "
            "the base itself searched alike. Written by experiments/components."
        ),
        f"dataset = {json.dumps(dataset)}",
        f"seeds = {list(SEEDS)}",
        f'metrics = ["ndcg@{cutoff}", "recall@{cutoff}"]',
        "",
        "[protocol]",
        f"cutoffs = [{cutoff}]",
        *(f"{name} = {toml_text(value)}" for name, value in chosen.split.get(dataset, {}).items()),
    ]
    plain = {name: value for name, value in chosen.settings[dataset].items() if name != "recommend_by"}
    lines += ["", "[[models]]", f"model = {json.dumps(chosen.plain)}", 'name = "no contrast"']
    lines += [f"settings = {toml_text(plain)}"]
    for component in (ITSELF, *found):
        record = study_record(dataset, base, component)
        if record.exists():
            place = os.path.relpath(record, FOLDER)
            lines += ["", "[[models]]", f"model = {json.dumps(chosen.model)}", f"name = {json.dumps(component.title)}"]
            lines += [f"study = {json.dumps(place)}"]
    replace_text("\n".join(lines) + "\n", path)
    return path
