"""``page``: a board as one HTML file that needs nothing else. The same records give the same text."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from recgraph.leaderboard.board import Board
from recgraph.leaderboard.compare import MARKS
from recgraph.leaderboard.entry import Entry
from recgraph.leaderboard.figures import N_COLOURS, cost_figures, curve_figure, curve_figures
from recgraph.leaderboard.frame import COSTS, Number
from recgraph.leaderboard.grid import (
    Grid,
    anchors,
    duration,
    group_grids,
    listed,
    marks_of,
    memory,
    metric_name,
    score_grid,
    short_hash,
    shown_scores,
    spread,
)
from recgraph.leaderboard.sheet import ScoreTable, Sheet
from recgraph.pages import environment
from recgraph.pages.charts import Figure

__all__ = ["page"]

#: what a mark's sign says to those who cannot see it
_HEARD = {
    "best": "significantly best",
    "tied": "not significantly below the highest",
    "untested": "not tested",
}


@dataclass(frozen=True)
class _Leader:
    """The entry with the highest mean of a sheet's first column, and how it compares with the others."""

    entry: Entry
    metric: str
    title: str
    number: Number
    sign: str
    standing: str


@dataclass(frozen=True)
class _Section:
    """A sheet with what its part of the page shows; ``cards`` are the HTML ids of the entries' cards."""

    sheet: Sheet
    anchor: str
    leader: _Leader | None
    progress: str
    scores: Grid
    marks: list[tuple[str, str]]
    breakdowns: list[Grid]
    figures: list[Figure]
    curves: list[Figure]
    cards: dict[str, str]
    protocols: list[tuple[str, str, dict[str, str]]]


def page(sheets: Sequence[Sheet], board: Board) -> str:
    """The page as text.

    Args:
        sheets: of the board's data sets, from :func:`recgraph.leaderboard.sheet.open_sheet`.
    """
    names = anchors(sheet.dataset for sheet in sheets)
    entries = [entry for sheet in sheets for entry in sheet.entries]
    times = [time for entry in entries for time in entry.times.values()]
    templates = environment("leaderboard")
    templates.filters |= {"metric_name": metric_name, "spread": spread, "pretty": partial(json.dumps, indent=1)}
    return templates.get_template("page.html.j2").render(
        board=board,
        sections=[_section(sheet, anchor) for sheet, anchor in zip(sheets, names, strict=True)],
        newest=max(times, default="")[:10],
        commits=list(dict.fromkeys(commit for entry in entries for commit in entry.commits)),
        machines=list(dict.fromkeys(machine for entry in entries for machine in entry.machines)),
        conventions=any(table.n_users is not None for sheet in sheets for table in sheet.tables),
        most_seeds=max((len(entry.seeds) for entry in entries), default=1),
        n_colours=N_COLOURS,
        short_hash=short_hash,
        heard=_HEARD,
        costs=_costs,
        curve_figure=curve_figure,
        shown_scores=shown_scores,
    )


def _section(sheet: Sheet, anchor: str) -> _Section:
    names = [entry.name for entry in sheet.entries]
    return _Section(
        sheet=sheet,
        anchor=anchor,
        leader=_leader(sheet),
        progress=_progress(sheet),
        scores=score_grid(sheet),
        marks=[MARKS[mark] for mark in marks_of(sheet)],
        breakdowns=group_grids(sheet),
        figures=cost_figures(sheet),
        curves=curve_figures(sheet),
        cards={name: f"{anchor}--{own}" for name, own in zip(names, anchors(names), strict=True)},
        protocols=_protocols(sheet),
    )


def _leader(sheet: Sheet) -> _Leader | None:
    if not sheet.tables:
        return None
    title, metric = sheet.tables[0].title, sheet.tables[0].metrics[0]
    scores = {entry.name: own for entry in sheet.entries if (own := sheet.score(entry.name, title, metric))}
    best = sheet.entries[0]
    if best.name not in scores:
        return None
    number = scores.pop(best.name)
    tied = [name for name, own in scores.items() if own.mark == "tied"]
    untested = [name for name, own in scores.items() if own.mark == "untested"]
    left_out = f"; {listed(untested)} not tested" if untested else ""
    if not scores:
        standing = "the only entry"
    elif number.mark == "best":
        n = f"{len(scores) - len(untested)} of {len(scores)}" if untested else f"all {len(scores)}"
        standing = f"significantly better than {n} others{left_out}"
    elif number.mark == "tied":
        standing = f"no significant difference from {listed(tied)}{left_out}"
    else:
        standing = "not tested"
    return _Leader(best, metric_name(metric), title, number, number.sign if marks_of(sheet) else "", standing)


def _costs(sheet: Sheet, entry: Entry) -> dict[str, str]:
    """What the entry's card says of its cost."""
    found = {name: sheet.cost(entry.name, name) for name in COSTS}
    costs = {name: number for name, number in found.items() if number is not None}
    if not costs:
        return {}
    texts = {
        "training": _seconds(costs["training_seconds"], costs["training_cpu_seconds"]),
        "inference": _seconds(costs["inference_seconds"], costs["inference_cpu_seconds"]),
        "peak memory": _over_seeds(costs["peak_memory_mb"], memory),
        "parameters": f"{costs['n_parameters'].mean:,.0f}",
    }
    if "epochs" in costs:
        texts["epochs"] = ", ".join(f"{n:.0f}" for n in costs["epochs"].by_seed.values())
    return texts


def _seconds(wall: Number, processor: Number) -> str:
    return f"{_over_seeds(wall, duration)}; processor {_over_seeds(processor, duration)}"


def _over_seeds(number: Number, text: Callable[[float], str]) -> str:
    return text(number.mean) + (f" ± {text(number.sd)}" if number.sd else "")


def _progress(sheet: Sheet) -> str:
    """How much of the board is done."""
    done, asked = sheet.n_done, sheet.n_asked
    return f"{done} of {asked} trainings" if done < asked else f"all {asked} trainings"


def _protocols(sheet: Sheet) -> list[tuple[str, str, dict[str, str]]]:
    """Titles, hash and fields; tables of one protocol together."""
    titles: dict[str, list[str]] = {}
    for table in sheet.tables:
        titles.setdefault(table.protocol_hash, []).append(table.title)
    fields = {table.protocol_hash: {**table.protocol, **_users(table)} for table in sheet.tables}
    return [
        (", ".join(own), key, {name: short_hash(text) for name, text in fields[key].items()})
        for key, own in titles.items()
    ]


def _users(table: ScoreTable) -> dict[str, str]:
    if table.n_users is None:
        return {}
    return {"users": f"{table.n_users:,}", "of them unreachable, counted as misses": f"{table.n_unreachable_users:,}"}
