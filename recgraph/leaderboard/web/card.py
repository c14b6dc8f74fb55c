"""The card of an entry: what it is, all its numbers, what it cost, and how to make it again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from recgraph.leaderboard.comparisons import Versus
from recgraph.leaderboard.entry import Cost, Entry, Score
from recgraph.leaderboard.sheet import Sheet, Table
from recgraph.leaderboard.stat import Stat
from recgraph.leaderboard.web.figures import Figure, curve_figure
from recgraph.leaderboard.web.grid import marks_of
from recgraph.leaderboard.web.words import duration, memory, metric_name, spread

__all__ = ["Behind", "Block", "Card", "Command", "Line", "card_of"]


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
