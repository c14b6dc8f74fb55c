"""``page``: a board as one HTML file that needs nothing else. The same records give the same text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recgraph.charts.pages import environment
from recgraph.leaderboard.board import Board
from recgraph.leaderboard.entry import MARKS, Entry
from recgraph.leaderboard.sheet import Sheet, Table
from recgraph.leaderboard.web.card import Card, card_of
from recgraph.leaderboard.web.figures import N_COLOURS, Figure, cost_figures, curve_figures
from recgraph.leaderboard.web.grid import Grid, group_grids, marks_of, score_grid
from recgraph.leaderboard.web.words import anchors, listed, metric_name, short_hash, spread

__all__ = ["page"]


@dataclass(frozen=True)
class _Leader:
    """The entry with the highest mean of a sheet's first column, and what that is worth."""

    entry: Entry
    metric: str
    title: str
    mean: str
    spread: str
    sign: str
    worth: str


@dataclass(frozen=True)
class _Section:
    """A sheet, laid out."""

    sheet: Sheet
    anchor: str
    leader: _Leader | None
    progress: str
    scores: Grid
    marks: list[tuple[str, str]]
    breakdowns: list[Grid]
    figures: list[Figure]
    curves: list[Figure]
    cards: dict[str, Card]
    protocols: list[tuple[str, str, dict[str, str]]]


def page(sheets: Sequence[Sheet], board: Board) -> str:
    """The page as text.

    Args:
        sheets: of the board's data sets, from :func:`recgraph.leaderboard.sheet.open_sheet`.
    """
    names = anchors(sheet.dataset for sheet in sheets)
    sections = [_section(sheet, anchor) for sheet, anchor in zip(sheets, names, strict=True)]
    entries = [entry for sheet in sheets for entry in sheet.entries]
    times = [time for entry in entries for time in entry.times.values()]
    return (
        environment("recgraph.leaderboard.web")
        .get_template("page.html.j2")
        .render(
            board=board,
            sections=sections,
            newest=max(times, default="")[:10],
            commits=list(dict.fromkeys(commit for entry in entries for commit in entry.commits)),
            machines=list(dict.fromkeys(machine for entry in entries for machine in entry.machines)),
            conventions=any(table.n_users is not None for sheet in sheets for table in sheet.tables),
            most_seeds=max((len(entry.seeds) for entry in entries), default=1),
            n_colours=N_COLOURS,
            short_hash=short_hash,
        )
    )


def _section(sheet: Sheet, anchor: str) -> _Section:
    own = anchors(entry.name for entry in sheet.entries)
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
        cards={
            entry.name: card_of(sheet, entry, f"{anchor}--{name}")
            for entry, name in zip(sheet.entries, own, strict=True)
        },
        protocols=_protocols(sheet),
    )


def _leader(sheet: Sheet) -> _Leader | None:
    if not sheet.tables:
        return None
    table = sheet.tables[0]
    metric = table.metrics[0]
    best = sheet.entries[0]
    score = best.score(table.title, metric)
    if score is None:
        return None
    others = [(entry, found) for entry in sheet.entries[1:] if (found := entry.score(table.title, metric)) is not None]
    tied = [entry.name for entry, found in others if found.mark == "tied"]
    untested = [entry.name for entry, found in others if found.mark == "untested"]
    left_out = f"; {listed(untested)} not tested" if untested else ""
    if not others:
        worth = "the only entry"
    elif score.mark == "best":
        n = f"{len(others) - len(untested)} of {len(others)}" if untested else f"all {len(others)}"
        worth = f"significantly better than {n} others{left_out}"
    elif score.mark == "tied":
        worth = f"no significant difference from {listed(tied)}{left_out}"
    else:
        worth = "not tested"
    text = f"{score.mean:.4f}"
    return _Leader(
        best, metric_name(metric), table.title, text, spread(score), score.sign if marks_of(sheet) else "", worth
    )


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


def _users(table: Table) -> dict[str, str]:
    if table.n_users is None:
        return {}
    return {"users": f"{table.n_users:,}", "of them unreachable, counted as misses": f"{table.n_unreachable_users:,}"}
