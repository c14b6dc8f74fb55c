"""The card of an entry: what it is, all its numbers, what it cost, and how to make it again.

``page``: a board as one HTML file that needs nothing else. The same records give the same text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from recgraph.leaderboard.board import Board
from recgraph.leaderboard.comparisons import Versus
from recgraph.leaderboard.entry import MARKS, Cost, Entry, Score, Stat
from recgraph.leaderboard.figures import N_COLOURS, Figure, cost_figures, curve_figure, curve_figures
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
    spread,
)
from recgraph.leaderboard.sheet import Sheet, Table
from recgraph.pages import environment

__all__ = ["Behind", "Block", "Card", "Command", "Line", "card_of", "page"]


@dataclass(frozen=True)
class Line:
    """A metric on a card: its mean, and a value a seed."""

    metric: str
    mean: str
    spread: str
    sign: str
    seeds: tuple[str, ...]


@dataclass(frozen=True)
class Behind:
    """How far a metric lies behind the highest of its column, with the 95 % interval."""

    metric: str
    difference: str
    interval: str
    p_adjusted: str
    effect: str
    over: str


@dataclass(frozen=True)
class Block:
    """The metrics under one protocol."""

    title: str
    lines: tuple[Line, ...]
    behind: tuple[Behind, ...]


@dataclass(frozen=True)
class Command:
    """How one seed's numbers are made again, and what comes out.

    Attributes:
        record: the file; empty where the seed is not done.
        at: when it was made.
        values: a number a protocol to the last digit: title, metric, value.
    """

    seed: int
    text: str
    record: str
    at: str
    values: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Card:
    """All that a card shows besides the entry's own texts."""

    entry: Entry
    anchor: str
    blocks: tuple[Block, ...]
    commands: tuple[Command, ...]
    cost: dict[str, str]
    configuration: dict[str, str]
    figure: Figure | None


def card_of(sheet: Sheet, entry: Entry, anchor: str) -> Card:
    """The card of an entry of a sheet."""
    return Card(
        entry,
        anchor,
        tuple(_block(entry, table, bool(marks_of(sheet))) for table in sheet.tables if entry.scores.get(table.title)),
        tuple(_command(sheet, entry, seed) for seed in entry.commands),
        {} if entry.cost is None else _cost(entry.cost),
        {part: json.dumps(values, indent=1) for part, values in entry.configuration.items()},
        curve_figure(entry),
    )


def _block(entry: Entry, table: Table, are_marked: bool) -> Block:
    scores = entry.scores[table.title]
    # those that are compared first
    names = dict.fromkeys([*(metric for metric in table.metrics if metric in scores), *scores])
    return Block(
        table.title,
        tuple(_line(entry, scores[name], are_marked) for name in names),
        tuple(_behind(name, versus) for name in names for versus in scores[name].versus),
    )


def _line(entry: Entry, score: Score, is_marked: bool) -> Line:
    seeds = tuple(f"{score.by_seed[seed]:.6f}" if seed in score.by_seed else "" for seed in entry.done)
    sign = score.sign if is_marked else ""
    return Line(metric_name(score.metric), f"{score.mean:.4f}", spread(score), sign, seeds)


def _behind(metric: str, versus: Versus) -> Behind:
    kind = "d" if versus.over == "users" else "g"
    return Behind(
        metric_name(metric),
        f"{versus.difference:.4f}",
        f"{versus.low:.4f} to {versus.high:.4f}",
        "< 0.0001" if versus.p_adjusted < 1e-4 else f"{versus.p_adjusted:.4f}",
        "" if versus.effect is None else f"{kind} = {versus.effect:.2f}",
        f"{versus.n:,} {versus.over}",
    )


def _command(sheet: Sheet, entry: Entry, seed: int) -> Command:
    values = [
        (table.title, metric_name(metric), repr(score.by_seed[seed]))
        for table in sheet.tables
        for metric in table.metrics[:1]
        if (score := entry.score(table.title, metric)) is not None and seed in score.by_seed
    ]
    return Command(seed, entry.commands[seed], entry.records.get(seed, ""), entry.times.get(seed, ""), tuple(values))


def _cost(cost: Cost) -> dict[str, str]:
    told = {
        "training": _time(cost.training_seconds, cost.training_cpu_seconds),
        "inference": _time(cost.inference_seconds, cost.inference_cpu_seconds),
        "peak memory": _over(cost.peak_memory_mb, memory),
        "parameters": f"{cost.n_parameters.mean:,.0f}",
    }
    if cost.epochs is not None:
        told["epochs"] = ", ".join(f"{n:.0f}" for n in cost.epochs.by_seed.values())
    return told


def _time(wall: Stat, processor: Stat) -> str:
    return f"{_over(wall, duration)}; processor {_over(processor, duration)}"


def _over(stat: Stat, text: Callable[[float], str]) -> str:
    return text(stat.mean) + (f" ± {text(stat.sd)}" if stat.sd else "")


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
        environment("leaderboard")
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
