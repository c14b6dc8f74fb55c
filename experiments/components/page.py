"""The tables of ``docs/what-helps.md``, written from the records of the searches and of the differences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from experiments.components.plan import BASES, ITSELF, Component, components
from experiments.components.report import saved, table
from experiments.components.search import best_valid, study_record
from experiments.marked import marked
from recgraph.data.files import replace_text

PAGE = Path(__file__).parents[2] / "docs" / "what-helps.md"


def tables() -> str:
    """For each data set and base: what was found on the valid part, and the differences on the test part."""
    rows = saved()
    parts = []
    for base, of in BASES.items():
        for dataset in of.settings:
            if not (on_valid := valid_table(dataset, base)):
                continue
            parts.append(f"## {base} on {dataset}\n\nOn the valid part, seed 0:\n\n{on_valid}")
            own = [one for one in rows if (one.dataset, one.base) == (dataset, base)]
            conventions = dict.fromkeys(one.seen for one in own)
            parts += [f"On the test part, {seen}:\n\n{table(own, seen)}" for seen in conventions]
    return "\n".join(parts).rstrip()


def valid_table(dataset: str, base: str) -> str:
    """The best value of each component on the valid part as a Markdown table, and which could not be searched."""
    own = best_valid(dataset, base, ITSELF)
    if own is None:
        return ""
    found = list(_searched(dataset, base))
    lines = ["| component | best on valid | against the base |", "| --- | --- | --- |"]
    for value, one in sorted(found, key=lambda of: -of[0]):
        lines.append(f"| {one.title} | {value:.4f} | {value / own[0] - 1:+.1%} |")
    missing = [one.title for one in components(BASES[base]) if not study_record(dataset, base, one).exists()]
    if missing:
        named = ", ".join(missing) if len(missing) < len(found) else f"the other {len(missing)}"
        lines.append(f"\nNot searched: {named}.")
    return "\n".join(lines) + "\n"


def _searched(dataset: str, base: str) -> Iterator[tuple[float, Component]]:
    for one in (ITSELF, *components(BASES[base])):
        if (best := best_valid(dataset, base, one)) is not None:
            yield best[0], one


def write() -> None:
    replace_text(marked(PAGE.read_text(encoding="utf-8"), "components", tables()), PAGE)
