"""A board as Markdown: the tables of its page. The same records give the same text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from recgraph.leaderboard.comparisons import Versus
from recgraph.leaderboard.entry import MARKS, Cost, Entry
from recgraph.leaderboard.grouped import Groups
from recgraph.leaderboard.sheet import Sheet, Table, by_score
from recgraph.leaderboard.stat import Stat

__all__ = ["markdown"]

#: the most columns of scores beside one another; tables of more protocols stand below one another
_WIDEST = 6
_LEGEND = "Means ± standard deviations over seeds. {marks}"


def markdown(sheets: Sequence[Sheet], board: str, level: int = 1) -> str:
    """The board as text that ends with a line break.

    Args:
        sheets: of its data sets.
        board: its name.
        level: of the first heading.
    """
    parts = [f"{'#' * level} Leaderboard `{board}`"]
    for sheet in sheets:
        parts += _sheet(sheet, level + 1)
    return "\n\n".join(parts) + "\n"


def _sheet(sheet: Sheet, level: int) -> list[str]:
    head = "#" * (level + 1)
    parts = [f"{'#' * level} {_plain(sheet.title)}", *([_plain(sheet.note)] if sheet.note else []), _facts(sheet)]
    if sheet.tables:
        parts += _scores(sheet)
        parts += [_protocols(sheet), f"{head} Differences", _plain(sheet.tested), *_differences(sheet)]
        parts += [f"{head} Cost", _where(sheet), _cost(sheet)]
        for groups in sheet.groups:
            parts += [f"{head} {groups.label}, {groups.metric}, {groups.title}", _groups(groups)]
    parts += [f"{head} Models", *(_card(entry) for entry in sheet.entries)]
    return [*parts, *_not_there(sheet, head)]


def _facts(sheet: Sheet) -> str:
    done = f"{sheet.n_done} of {sheet.n_asked} trainings are done"
    told = [done, *(f"{name} {_short(text)}" for name, text in sheet.data.items())]
    return f"Data set `{sheet.dataset}`: {', '.join(told)}."


def _scores(sheet: Sheet) -> list[str]:
    entries = [entry for entry in sheet.entries if entry.done]
    together = sum(len(table.metrics) for table in sheet.tables) <= _WIDEST
    blocks = [sheet.tables] if together else [(table,) for table in sheet.tables]
    marks = "; ".join(f"{sign}{': ' if sign else ''}{meaning}" for sign, meaning in MARKS.values())
    return [*(_block(entries, tables) for tables in blocks), _LEGEND.format(marks=f"{marks[0].upper()}{marks[1:]}.")]


def _block(entries: Iterable[Entry], tables: Sequence[Table]) -> str:
    heads = [f"{table.title}: {metric}" for table in tables for metric in table.metrics]
    rows = [[entry.name, f"{len(entry.done)}", *_cells(entry, tables)] for entry in entries]
    return _table(["model", "seeds", *heads], rows)


def _cells(entry: Entry, tables: Iterable[Table]) -> list[str]:
    found = [entry.score(table.title, metric) for table in tables for metric in table.metrics]
    return ["–" if score is None else f"{score.text()} {score.sign}".rstrip() for score in found]


def _protocols(sheet: Sheet) -> str:
    """A line a protocol; tables of one protocol together."""
    titles: dict[str, list[str]] = {}
    for table in sheet.tables:
        titles.setdefault(table.protocol_hash, []).append(table.title)
    tables = {table.protocol_hash: table for table in sheet.tables}
    return "\n".join(f"- {', '.join(own)}: {_protocol(tables[key])}" for key, own in titles.items())


def _protocol(table: Table) -> str:
    users = "" if table.n_users is None else f", {table.n_users} users"
    unreachable = table.n_unreachable_users
    missed = f" ({unreachable} of them with items that cannot be reached, counted as misses)" if unreachable else ""
    fields = ", ".join(f"{name} {_short(text)}" for name, text in table.protocol.items())
    return f"protocol `{table.protocol_hash}`{users}{missed}: {fields}"


def _differences(sheet: Sheet) -> list[str]:
    """Of each table's first metric: the best mean less each other one."""
    rows = []
    for table in sheet.tables:
        metric = table.metrics[0]
        scored = by_score(sheet.entries, table.title, metric)
        for entry in scored:
            name, tests = f"{scored[0].name} less {entry.name}", entry.scores[table.title][metric].versus
            rows += [[table.title, metric, name, *_test(test)] for test in tests]
    heads = ["table", "metric", "", "over", "n", "difference", "95 % interval", "p", "p adjusted", "effect"]
    return [_table(heads, rows)] if rows else []


def _test(test: Versus) -> list[str]:
    name = "d" if test.over == "users" else "g"
    return [
        test.over,
        f"{test.n}",
        f"{test.difference:+.4f}",
        f"[{test.low:+.4f}, {test.high:+.4f}]",
        f"{test.p_value:.2g}",
        f"{test.p_adjusted:.2g}",
        "–" if test.effect is None else f"{name} = {test.effect:.2f}",
    ]


def _cost(sheet: Sheet) -> str:
    seconds = ["training, s", "training, CPU s", "test, s", "test, CPU s"]
    rows = [[entry.name, *_costs(entry.cost)] for entry in sheet.entries if entry.cost is not None]
    return _table(["model", "parameters", "epochs", *seconds, "peak memory, MiB"], rows)


def _where(sheet: Sheet) -> str:
    told = [text for entry in sheet.entries for text in (*entry.machines, *entry.versions)]
    return f"Of one seed, means ± standard deviations, on {'; '.join(dict.fromkeys(told))}."


def _costs(cost: Cost) -> list[str]:
    seconds = (cost.training_seconds, cost.training_cpu_seconds, cost.inference_seconds, cost.inference_cpu_seconds)
    epochs = "–" if cost.epochs is None else _number(cost.epochs)
    return [f"{cost.n_parameters.mean:,.0f}", epochs, *map(_number, seconds), _number(cost.peak_memory_mb)]


def _number(stat: Stat) -> str:
    return stat.text(0 if stat.mean >= 100 else 1 if stat.mean >= 10 else 2)


def _groups(groups: Groups) -> str:
    heads = ["model", *(f"{group} ({size} users)" for group, size in groups.sizes.items())]
    rows = [
        [name, *("–" if group not in own else own[group].text() for group in groups.sizes)]
        for name, own in groups.rows.items()
    ]
    return _table(heads, rows)


def _card(entry: Entry) -> str:
    """What the model is, and how its numbers are made again."""
    said = [f"**{_plain(entry.name)}** ({entry.class_name}): {_plain(entry.text.summary)}"]
    said += [f"Source: {_plain(entry.text.source)}." if entry.text.source else ""]
    said += [f"Departures: {_plain(entry.text.departures)}" if entry.text.departures else ""]
    said += [_plain(entry.note), f"Settings: the best trial of `{entry.study}`." if entry.study else ""]
    records = ", ".join(f"`{name}`" for name in entry.records.values())
    lines = [" ".join(part for part in said if part)]
    if entry.done:
        lines += [f"Records {records}; commit {', '.join(entry.commits)}."]
    return "\n\n".join([*lines, f"```console\n{_console(entry)}\n```"])


def _console(entry: Entry) -> str:
    others = ", ".join(map(str, entry.seeds[1:]))
    seed = f"$ seed={entry.seeds[0]}" + (f"  # or {others}" if others else "")
    return "\n".join(
        [seed, *(f"{'> ' if line.startswith(' ') else '$ '}{line}" for line in entry.command.splitlines())]
    )


def _not_there(sheet: Sheet, head: str) -> list[str]:
    rows = [[one.entry, f"{one.seed}", f"{one.error}: {one.message}", one.at] for one in sheet.failures]
    failed = [f"{head} Failures", _table(["model", "seed", "error", "at"], rows)] if rows else []
    gone = [[one.entry, ", ".join(map(str, one.seeds)), one.reason] for one in sheet.missing]
    return [*failed, *([f"{head} Not there", _table(["model", "seeds", "why"], gone)] if gone else [])]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(heads), ["---", *("--:" if len(heads) > 1 else "" for _ in heads[1:])], *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text if set(text) <= set("-:") else _plain(text).replace("|", "\\|").replace("\n", " ")


def _plain(text: str) -> str:
    """Text whose signs mean nothing to Markdown."""
    return re.sub(r"([\\`*<$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", text)


def _short(text: str) -> str:
    """Hashes by their first digits."""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{20,}\b", r"\1", text)
