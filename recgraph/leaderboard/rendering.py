"""``render``: a board's records as a page, as Markdown, or as CSV (one line for each number, with all digits).

The output depends on the records alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from recgraph.config import checked
from recgraph.data.row_files import csv_line
from recgraph.files import write_text
from recgraph.leaderboard.board import Board, load_board
from recgraph.leaderboard.compare import MARKS, Comparison
from recgraph.leaderboard.numbers import COSTS, WATTS_PER_CORE, WATTS_PER_GIB, Number, short_hash
from recgraph.leaderboard.plan import fold_of, named, seed_of
from recgraph.leaderboard.sheet import Entry, GroupTable, ScoreTable, Sheet, open_sheet, update_comparisons
from recgraph.pages import for_terminal

__all__ = ["COLUMNS", "markdown", "render", "rows", "to_csv"]

#: what has a meaning within a line: code, emphasis, HTML, mathematics, strikes, entities, the end of a link's text
_INLINE = re.compile(r"([\\`*<$~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|&(?=#?\w+;)|\](?=[(\[:]))")
#: and at the beginning of a block: headings, quotes, lists, tables, rules
_BEGINNING = re.compile(r"^(?=[#>|:=]|[-+](?:[\s-]|$))|^(\d+)(?=[.)](?:\s|$))")
#: of a cell that a spreadsheet takes for a formula, or whose beginning it skips; and of a number
_FORMULA = re.compile(r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_TEST = ("n", "low", "high", "p_value", "p_adjusted", "effect")
#: columns of the CSV: ``sheet`` is called as its file; ``kind`` is score, group, cost, failure or missing; ``values``
#: are ``seed:value``, or ``fold/seed:value``; fields that do not apply are empty
COLUMNS = (
    *("board", "sheet", "dataset", "entry", "model", "address", "kind", "table", "protocol", "group", "name"),
    *("mean", "sd", "n_seeds", "values", "mark", "difference"),
    *(f"{over}_{name}" for over in ("users", "seeds") for name in _TEST),
    "message",
)


def for_markdown(text: str) -> str:
    """The text in one line of Markdown: it shows what it says, without markup, HTML or links of its own."""
    plain = _INLINE.sub(r"\\\1", for_terminal(" ".join(text.split("\n")), lines=False).strip())
    return _BEGINNING.sub(lambda found: f"{found[1]}\\" if found[1] else "\\", plain)


def markdown_code(text: str) -> str:
    """The text as code within a line of Markdown."""
    plain = for_terminal(text, lines=False)
    fence = "`" * (1 + max(map(len, re.findall("`+", plain)), default=0))
    pad = " " if plain[:1] in ("`", " ") or plain[-1:] in ("`", " ") or not plain else ""
    return f"{fence}{pad}{plain}{pad}{fence}"


def markdown_block(text: str, language: str = "") -> str:
    """Lines as a block of code of Markdown."""
    plain = for_terminal(text)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", plain)), default=0))
    return f"{fence}{language}\n{plain}\n{fence}"


def for_spreadsheet(value: Any) -> Any:
    """A cell of a CSV that people open: a text that a spreadsheet would compute gets an apostrophe before it."""
    is_formula = isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value)
    return f"'{value}" if is_formula else value


def to_csv(sheets: Sequence[Sheet]) -> str:
    """All sheets as CSV with a header, :func:`for_spreadsheet`."""
    cells = [[for_spreadsheet(row.get(name, "")) for name in COLUMNS] for sheet in sheets for row in rows(sheet)]
    return "".join(map(csv_line, [COLUMNS, *cells]))


def rows(sheet: Sheet) -> Iterator[dict[str, Any]]:
    """The CSV rows of a sheet: scores, groups, costs, failures and missing seeds."""
    of_sheet = {"board": sheet.board, "sheet": sheet.spec.name, "dataset": sheet.spec.dataset}
    entries = {
        one.name: {**of_sheet, "entry": one.name, "model": one.model, "address": one.address} for one in sheet.entries
    }
    protocols = {table.title: {"table": table.title, "protocol": table.protocol_hash} for table in sheet.tables}
    for name, fields in entries.items():
        for title, where in protocols.items():
            for metric, number in sheet.scores(name, title).items():
                yield {**fields, **where, "kind": "score", "name": metric, **_over_seeds(number), "mark": number.mark}
    for groups in sheet.groups:
        for name, own in groups.rows.items():
            for group, number in own.items():
                where = {**protocols[groups.table], "kind": "group", "group": f"{groups.kind} {group}"}
                yield {**entries[name], **where, "name": groups.metric, **_over_seeds(number)}
    for name, fields in entries.items():
        for cost in COSTS:
            if (spent := sheet.cost(name, cost)) is not None:
                yield {**fields, "kind": "cost", "name": cost, **_over_seeds(spent)}
    for failure in sheet.failures:
        message = f"{failure.error}: {failure.message}"
        yield {**entries[failure.entry], "kind": "failure", "name": named(failure.seed), "message": message}
    for missing in sheet.missing:
        fields = entries.get(missing.entry, {**of_sheet, "entry": missing.entry})
        for seed in missing.seeds:
            yield {**fields, "kind": "missing", "name": named(seed), "message": missing.reason}


def _over_seeds(number: Number) -> dict[str, Any]:
    values = " ".join(f"{seed}:{value!r}" for seed, value in number.by_seed.items())
    found: dict[str, Any] = {"mean": number.mean, "sd": number.sd, "n_seeds": number.n, "values": values}
    for test in number.versus:
        found["difference"] = test.difference
        found |= {f"{test.over}_{name}": getattr(test, name) for name in _TEST}
    return {name: "" if value is None else value for name, value in found.items()}


#: maximum number of score columns in one table; with more, each protocol has its own table
_WIDEST = 6
#: costs that are shown without their deviation
_MEANS = {"training_wh": "{:.2g}", "n_parameters": "{:,.0f}"}


def markdown(sheets: Sequence[Sheet], board: str, level: int = 1) -> str:
    """The board as Markdown that ends with a line break; ``level``: of the first heading."""
    parts = [f"{'#' * level} Leaderboard {markdown_code(board)}"]
    for sheet in sheets:
        parts += _sheet(sheet, level + 1)
    return "\n\n".join(parts) + "\n"


def _sheet(sheet: Sheet, level: int) -> list[str]:
    head = "#" * (level + 1)
    note = [for_markdown(sheet.spec.note)] if sheet.spec.note else []
    parts = [f"{'#' * level} {for_markdown(sheet.spec.title)}", *note, _facts(sheet)]
    if sheet.tables:
        parts += _scores(sheet)
        parts += ["\n".join(_protocol(*each) for each in sheet.protocols)]
        parts += [f"{head} Differences", for_markdown(sheet.tested), *_differences(sheet)]
        parts += [f"{head} Cost", *_cost(sheet)]
        for groups in sheet.groups:
            title = for_markdown(f"{groups.label}, {groups.metric}, {groups.table}")
            parts += [f"{head} {title}", _group_table(groups)]
    parts += [f"{head} Models", *(_card(entry) for entry in sheet.entries)]
    return [*parts, *_undone(sheet, head)]


def _facts(sheet: Sheet) -> str:
    done = f"{sheet.n_done} of {sheet.n_asked} trainings are done"
    facts = [done, *(f"{name} {short_hash(text)}" for name, text in sheet.data.items())]
    return f"Data set {markdown_code(sheet.spec.dataset)}: {', '.join(map(for_markdown, facts))}."


def _scores(sheet: Sheet) -> list[str]:
    together = sum(len(table.metrics) for table in sheet.tables) <= _WIDEST
    blocks = [sheet.tables] if together else [(table,) for table in sheet.tables]
    marks = "; ".join(f"{sign}{': ' if sign else ''}{meaning}" for sign, meaning in MARKS.values())
    legend = f"Means ± standard deviations over {sheet.repeats}. {marks[0].upper()}{marks[1:]}."
    return [*(_block(sheet, tables) for tables in blocks), legend]


def _block(sheet: Sheet, tables: Sequence[ScoreTable]) -> str:
    columns = [(table.title, metric) for table in tables for metric in table.metrics]
    rows = []
    for entry in (each for each in sheet.entries if each.done):
        scores = [sheet.score(entry.name, *column) for column in columns]
        texts = ["–" if each is None else f"{each.text()} {each.sign}".rstrip() for each in scores]
        rows.append([entry.name, f"{len(entry.done)}", *texts])
    return _table(["model", sheet.repeats, *(f"{title}: {metric}" for title, metric in columns)], rows)


def _protocol(titles: str, table: ScoreTable) -> str:
    users = "" if table.n_users is None else f", {table.n_users} users{table.in_folds}"
    unreachable = table.n_unreachable_users
    missed = f" ({unreachable} of them with items that cannot be reached, counted as misses)" if unreachable else ""
    fields = ", ".join(f"{name} {short_hash(text)}" for name, text in table.protocol.items())
    of_tables = f"- {for_markdown(titles)}: protocol {markdown_code(table.protocol_hash)}"
    return f"{of_tables}{users}{missed}: {for_markdown(fields)}"


def _differences(sheet: Sheet) -> list[str]:
    rows = []
    for table in sheet.tables:
        metric = table.metrics[0]
        ranked = sheet.ranked(table.title, metric)
        for entry in ranked:
            versus = sheet.numbers[entry.name, table.title, "", "", metric].versus
            name = f"{ranked[0].name} less {entry.name}"
            rows += [[table.title, metric, name, *_test(test)] for test in versus]
    heads = ["table", "metric", "", "over", "n", "difference", "95 % interval", "p", "p adjusted", "effect"]
    return [_table(heads, rows)] if rows else []


def _test(test: Comparison) -> list[str]:
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


def _cost(sheet: Sheet) -> list[str]:
    machines = dict.fromkeys(text for entry in sheet.entries for text in (*entry.machines, *entry.versions))
    where = f"Of one seed, means ± standard deviations, on {for_markdown('; '.join(machines))}."
    heads = ["training, s", "training, CPU s", "training, Wh", "test, s", "test, CPU s"]
    names = ("n_parameters", "epochs", *COSTS[:5], "peak_memory_mb")
    done = [entry.name for entry in sheet.entries if entry.done]
    rows = [[entry, *(_cost_text(name, sheet.cost(entry, name)) for name in names)] for entry in done]
    table = _table(["model", "parameters", "epochs", *heads, "peak memory, MiB"], rows)
    estimate = (
        f"Wh: an estimate, {WATTS_PER_CORE:g} W of a core over the CPU time and {WATTS_PER_GIB:g} W a GiB of the peak."
    )
    found = sheet.cheapest
    return [where, table, estimate if found is None else f"{for_markdown(found.text)} {estimate}"]


def _cost_text(name: str, number: Number | None) -> str:
    if number is None:
        return "–"
    if name in _MEANS:
        return _MEANS[name].format(number.mean)
    return number.text(0 if number.mean >= 100 else 1 if number.mean >= 10 else 2)


def _group_table(groups: GroupTable) -> str:
    heads = ["model", *(f"{group} ({size} users)" for group, size in groups.sizes.items())]
    rows = [
        [name, *("–" if group not in own else own[group].text() for group in groups.sizes)]
        for name, own in groups.rows.items()
    ]
    return _table(heads, rows)


def _card(entry: Entry) -> str:
    text = {name: for_markdown(each) for name, each in entry.text.items()}
    parts = [
        f"**{for_markdown(entry.name)}** ({for_markdown(entry.class_name)}): {text['summary']}",
        f"Source: {text['source']}." if text["source"] else "",
        f"Departures: {text['departures']}" if text["departures"] else "",
        for_markdown(entry.note),
        f"Settings: the best trial of {markdown_code(entry.study)}." if entry.study else "",
    ]
    records = ", ".join(map(markdown_code, entry.records.values()))
    lines = [" ".join(part for part in parts if part)]
    if entry.done:
        lines += [f"Records {records}; commit {for_markdown(', '.join(entry.commits))}."]
    seeds = list(dict.fromkeys(map(seed_of, entry.seeds)))
    if len(entry.seeds) > 1:
        which = "with one of the seeds" if len(seeds) > 1 else "with the seed"
        fold = "" if fold_of(entry.seeds[0]) is None else "on fold 0 (`fold` in `split_options` says which), "
        lines += [f"To make it again, {fold}{which} {', '.join(map(str, seeds))}:"]
    # without prompts: the text can be pasted into a shell
    return "\n\n".join([*lines, markdown_block(f"seed={seeds[0]}\n{entry.command}", "bash")])


def _undone(sheet: Sheet, head: str) -> list[str]:
    rows = [[one.entry, f"{one.seed}", f"{one.error}: {one.message}", one.at] for one in sheet.failures]
    failed = [f"{head} Failures", _table(["model", "seed", "error", "at"], rows)] if rows else []
    gone = [[one.entry, ", ".join(map(str, one.seeds)), one.reason] for one in sheet.missing]
    return [*failed, *([f"{head} Not there", _table(["model", sheet.repeats, "why"], gone)] if gone else [])]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(heads), ["---", *("--:" if len(heads) > 1 else "" for _ in heads[1:])], *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text if set(text) <= set("-:") else for_markdown(text).replace("|", "\\|")


@checked
def render(board: str | Path | Board, out: str | Path, *, results: str | Path | None = None) -> Path:
    """Write the records of a board into one file and return its path.

    No model is trained and no data is read. Entries are compared again where their records have changed.

    Args:
        board: a name, a folder, a TOML file, or a board.
        out: ends in ``.html`` (one file that needs no network), ``.md`` or ``.csv`` (all numbers, a line each).
        results: the folder of records; by default ``results`` beside the board's folder.

    Raises:
        ValueError: the board does not exist, or ``out`` has another suffix.
    """
    path = Path(out)
    if path.suffix not in (".html", ".md", ".csv"):
        raise ValueError(f"out = {str(out)!r} must end in .html, .md or .csv")
    found = board if isinstance(board, Board) else load_board(board)
    sheets = [update_comparisons(open_sheet(found, sheet, results)) for sheet in found.sheets]
    if path.suffix == ".html":
        from recgraph.leaderboard.page import page

        write_text(page(sheets, found), path)
    else:
        write_text(markdown(sheets, found.name) if path.suffix == ".md" else to_csv(sheets), path)
    return path
