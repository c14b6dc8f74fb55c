"""``page``: a board as one self-contained HTML file, which depends on the records alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial

from recgraph.leaderboard.board import Board
from recgraph.leaderboard.cheapest import cheapest
from recgraph.leaderboard.compare import MARKS
from recgraph.leaderboard.costs import COSTS, WATTS_PER_CORE, WATTS_PER_GIB
from recgraph.leaderboard.entry import Entry
from recgraph.leaderboard.figures import N_COLOURS, cost_figures, curve_figure, curve_figures
from recgraph.leaderboard.frame import Number
from recgraph.leaderboard.repeats import named
from recgraph.leaderboard.score_tables import ScoreTable
from recgraph.leaderboard.sheet import Sheet
from recgraph.leaderboard.tables import (
    anchors,
    duration,
    group_tables,
    listed,
    marks_of,
    memory,
    metric_name,
    score_table,
    short_hash,
    shown_scores,
    spread,
)
from recgraph.pages import environment

__all__ = ["page"]

#: what a screen reader says for the sign of a mark
_SPOKEN = {
    "best": "significantly best",
    "tied": "not significantly worse than the best",
    "untested": "not tested",
}


def page(sheets: Sequence[Sheet], board: Board) -> str:
    """The page as text.

    Args:
        sheets: of the board's data sets, from :func:`recgraph.leaderboard.sheet.open_sheet`.
    """
    entries = [entry for sheet in sheets for entry in sheet.entries]
    times = [time for entry in entries for time in entry.times.values()]
    templates = environment("leaderboard")
    templates.filters |= {
        "metric_name": metric_name,
        "named": named,
        "spread": spread,
        "pretty": partial(json.dumps, indent=1),
    }
    return templates.get_template("page.html.j2").render(
        board=board,
        sections=list(zip(sheets, anchors(sheet.spec.name for sheet in sheets), strict=True)),
        newest=max(times, default="")[:10],
        commits=list(dict.fromkeys(commit for entry in entries for commit in entry.commits)),
        machines=list(dict.fromkeys(machine for entry in entries for machine in entry.machines)),
        conventions=any(table.n_users is not None for sheet in sheets for table in sheet.tables),
        has_folds=any(sheet.spec.protocol.n_folds is not None for sheet in sheets),
        most_seeds=max((len(entry.seeds) for entry in entries), default=1),
        n_colours=N_COLOURS,
        marks=MARKS,
        spoken=_SPOKEN,
        card_ids=_card_ids,
        cheapest=cheapest,
        cost_figures=cost_figures,
        costs=_costs,
        curve_figure=curve_figure,
        curve_figures=curve_figures,
        group_tables=group_tables,
        leader=_leader,
        marks_of=marks_of,
        progress=_progress,
        protocol_fields=_protocol_fields,
        score_table=score_table,
        short_hash=short_hash,
        shown_scores=shown_scores,
        standing=_standing,
    )


def _card_ids(sheet: Sheet, anchor: str) -> dict[str, str]:
    """Name of an entry -> the HTML id of its card."""
    names = [entry.name for entry in sheet.entries]
    return {name: f"{anchor}--{own}" for name, own in zip(names, anchors(names), strict=True)}


def _leader(sheet: Sheet) -> Number | None:
    """The first entry's score in the first column, which is the best one; None where there is none."""
    if not sheet.tables:
        return None
    return shown_scores(sheet, sheet.entries[0].name, sheet.tables[0]).get(sheet.tables[0].metrics[0])


def _standing(sheet: Sheet) -> str:
    """How the first entry compares with the others in the first column."""
    title, metric = sheet.tables[0].title, sheet.tables[0].metrics[0]
    scores = {entry.name: own for entry in sheet.entries if (own := sheet.score(entry.name, title, metric))}
    best = scores.pop(sheet.entries[0].name)
    tied = [name for name, own in scores.items() if own.mark == "tied"]
    untested = [name for name, own in scores.items() if own.mark == "untested"]
    left_out = f"; {listed(untested)} not tested" if untested else ""
    if not scores:
        return "the only entry"
    if best.mark == "best":
        n = f"{len(scores) - len(untested)} of {len(scores)}" if untested else f"all {len(scores)}"
        return f"significantly better than {n} others{left_out}"
    return f"no significant difference from {listed(tied)}{left_out}" if best.mark == "tied" else "not tested"


def _costs(sheet: Sheet, entry: Entry) -> dict[str, str]:
    """The costs of an entry as text, for its card."""
    found = {name: sheet.cost(entry.name, name) for name in COSTS}
    costs = {name: number for name, number in found.items() if number is not None}
    if not costs:
        return {}
    texts = {
        "training": _seconds(costs["training_seconds"], costs["training_cpu_seconds"]),
        **({"energy of training": _energy(costs["training_wh"])} if "training_wh" in costs else {}),
        "inference": _seconds(costs["inference_seconds"], costs["inference_cpu_seconds"]),
        "peak memory": _over_seeds(costs["peak_memory_mb"], memory),
        "parameters": f"{costs['n_parameters'].mean:,.0f}",
    }
    if "epochs" in costs:
        texts["epochs"] = ", ".join(f"{n:.0f}" for n in costs["epochs"].by_seed.values())
    return texts


def _seconds(wall: Number, processor: Number) -> str:
    return f"{_over_seeds(wall, duration)}; processor {_over_seeds(processor, duration)}"


def _energy(number: Number) -> str:
    return (
        f"{_over_seeds(number, '{:.3g} Wh'.format)}, an estimate from CPU time and memory "
        f"({WATTS_PER_CORE:g} W a core, {WATTS_PER_GIB:g} W a GiB)"
    )


def _over_seeds(number: Number, text: Callable[[float], str]) -> str:
    return text(number.mean) + (f" ± {text(number.sd)}" if number.sd else "")


def _progress(sheet: Sheet) -> str:
    """The number of trainings that are done."""
    done, asked = sheet.n_done, sheet.n_asked
    return f"{done} of {asked} trainings" if done < asked else f"all {asked} trainings"


def _protocol_fields(table: ScoreTable) -> dict[str, str]:
    """The fields of a protocol as text, with its users."""
    fields = {name: short_hash(text) for name, text in table.protocol.items()}
    if table.n_users is not None:
        fields["users"] = f"{table.n_users:,}"
        fields["of them unreachable, counted as misses"] = f"{table.n_unreachable_users:,}"
    return fields
