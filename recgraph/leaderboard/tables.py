"""A board's records as Markdown, or as CSV with one line for each number and all digits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from recgraph.data.row_files import csv_line
from recgraph.leaderboard.compare import MARKS, Comparison
from recgraph.leaderboard.sheet import (
    COSTS,
    NEAR,
    WATTS_PER_CORE,
    WATTS_PER_GIB,
    Number,
    Sheet,
)
from recgraph.pages import environment, for_terminal

__all__ = ["COLUMNS", "markdown", "rows", "to_csv"]

#: kind of groups of users -> heading
GROUPS = {"history": "Interactions known of a user", "popularity": "Popularity of what is looked for"}
_TEST = ("n", "low", "high", "p_value", "p_adjusted", "effect")
#: columns of the CSV: ``sheet`` is called as its file; ``kind`` is score, group, cost, failure or missing; ``values``
#: are ``seed:value``; fields that do not apply are empty
COLUMNS = (
    *("board", "sheet", "dataset", "entry", "model", "address", "kind", "table", "protocol", "group", "name"),
    *("mean", "sd", "n_seeds", "values", "mark", "difference"),
    *(f"{over}_{name}" for over in ("users", "seeds") for name in _TEST),
    "message",
)
#: maximum number of score columns in one table of Markdown; with more, each protocol has its own table
_WIDEST = 6
_ABBREVIATIONS = {"ndcg", "mrr", "map", "auc", "nmi", "ari", "rbp", "dcg", "ncrr", "f1"}


#: of a cell that a spreadsheet takes for a formula, or whose beginning it skips; and of a number
_FORMULA = re.compile(r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def to_csv(sheets: Sequence[Sheet]) -> str:
    """All sheets as CSV with a header; a text that a spreadsheet would compute gets an apostrophe before it."""
    cells = [[for_spreadsheet(row.get(name, "")) for name in COLUMNS] for sheet in sheets for row in rows(sheet)]
    return "".join(map(csv_line, [COLUMNS, *cells]))


def for_spreadsheet(value: Any) -> Any:
    is_formula = isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value)
    return f"'{value}" if is_formula else value


def rows(sheet: Sheet) -> Iterator[dict[str, Any]]:
    """The CSV rows of a sheet: scores, groups, costs, failures and missing seeds."""
    of_sheet = {"board": sheet.board, "sheet": sheet.spec.name, "dataset": sheet.spec.dataset}
    entries = {
        one.name: {**of_sheet, "entry": one.name, "model": one.jobs[0].model, "address": one.address}
        for one in sheet.entries
    }
    protocols = {table.title: {"table": table.title, "protocol": table.protocol_hash} for table in sheet.tables}
    for name, fields in entries.items():
        for title, where in protocols.items():
            for metric, number in sheet.scores(name, title).items():
                yield {**fields, **where, "kind": "score", "name": metric, **_cells(number), "mark": number.mark}
    for groups in sheet.groups:
        for name, own in groups.rows.items():
            for group, number in own.items():
                where = {**protocols[groups.table], "kind": "group", "group": f"{groups.kind} {group}"}
                yield {**entries[name], **where, "name": groups.metric, **_cells(number)}
    for name, fields in entries.items():
        for cost in COSTS:
            if (spent := sheet.cost(name, cost)) is not None:
                yield {**fields, "kind": "cost", "name": cost, **_cells(spent)}
    for entry, job, record in sheet.failures:
        message = f"{record['error']}: {record['message']}"
        yield {**entries[entry.name], "kind": "failure", "name": f"seed {job.seed}", "message": message}
    for entry, seeds, reason in sheet.missing:
        for seed in seeds:
            yield {**entries[entry.name], "kind": "missing", "name": f"seed {seed}", "message": reason}


def _cells(number: Number) -> dict[str, Any]:
    values = " ".join(f"{seed}:{value!r}" for seed, value in number.by_seed.items())
    found: dict[str, Any] = {"mean": number.mean, "sd": number.sd, "n_seeds": len(number.by_seed), "values": values}
    for test in number.versus:
        found["difference"] = test.difference
        found |= {f"{test.over}_{name}": getattr(test, name) for name in _TEST}
    return {name: "" if value is None else value for name, value in found.items()}


def markdown(sheets: Sequence[Sheet], board: str, level: int = 1) -> str:
    """The board as Markdown that ends with a line break; ``level``: of the first heading."""
    templates = environment("leaderboard").overlay(autoescape=False)
    templates.filters |= {"text": for_markdown, "code": markdown_code, "cell": _cell, "cost": cost_text}
    text = templates.get_template("board.md.j2").render(
        board=board,
        sheets=sheets,
        level=level,
        widest=_WIDEST,
        marks=MARKS,
        costs=("n_parameters", "epochs", *COSTS[:5], "peak_memory_mb"),
        watts=(WATTS_PER_CORE, WATTS_PER_GIB),
        kinds=GROUPS,
        facts=_facts,
        differences=_differences,
        places=_places,
        block=markdown_block,
        cheapest_text=cheapest_text,
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"


#: what has a meaning within a line: code, emphasis, HTML, mathematics, strikes, entities, the end of a link's text
_INLINE = re.compile(r"([\\`*<$~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|&(?=#?\w+;)|\](?=[(\[:]))")
#: and at the beginning of a block: headings, quotes, lists, tables, rules
_BEGINNING = re.compile(r"^(?=[#>|:=]|[-+](?:[\s-]|$))|^(\d+)(?=[.)](?:\s|$))")


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


def _cell(text: str) -> str:
    return for_markdown(text).replace("|", "\\|")


def _facts(values: Mapping[str, str]) -> list[str]:
    return [f"{name} {short_hash(text)}" for name, text in values.items()]


def _differences(sheet: Sheet) -> list[tuple[str, str, str, Comparison]]:
    """The comparisons of the first metric of each table, with the pair of entries."""
    found = []
    for table in sheet.tables:
        metric, ranked = table.metrics[0], sheet.ranked(table)
        for entry in ranked:
            pair = f"{ranked[0].name} less {entry.name}"
            versus = sheet.numbers[entry.name, table.title, "", "", metric].versus
            found += [(table.title, metric, pair, test) for test in versus]
    return found


def _places(sheet: Sheet) -> list[str]:
    """The machines of the records, and the versions of their packages."""
    found = [entry.provenance for entry in sheet.entries]
    return list(dict.fromkeys(text for made in found for text in (*made["machine"], *made["versions"])))


def cost_text(number: Number | None, name: str) -> str:
    """A cost as text; watt hours and parameters without their deviation."""
    if number is None:
        return "–"
    if name in ("training_wh", "n_parameters"):
        return f"{number.mean:.2g}" if name == "training_wh" else f"{number.mean:,.0f}"
    return number.text(0 if number.mean >= 100 else 1 if number.mean >= 10 else 2)


def cheapest_text(sheet: Sheet) -> str:
    """A sentence on the cheapest entry that is nearly the best; empty where there are no two."""
    found = sheet.cheapest
    if found is None:
        return ""
    column, (best, entry) = f"{found.metric}, {found.table}", (found.best, found.entry)
    if entry == best:
        return f"Nothing that trains in less CPU time is within {NEAR:.0%} of the best, {best} ({column})."
    score, best_score = (sheet.scores(name, found.table)[found.metric].mean for name in (entry, best))
    cost, best_cost = (sheet.numbers[name, "", "", "", "training_cpu_seconds"].mean for name in (entry, best))
    return (
        f"The cheapest within {NEAR:.0%} of the best ({column}): {entry}, {score:.4f} for {cost:.3g} CPU seconds of "
        f"training; the best, {best}, has {best_score:.4f} for {best_cost:.3g}, {best_cost / cost:.3g} times as many."
    )


def metric_name(metric: str) -> str:
    """``NDCG@10`` of ``ndcg@10``, ``Macro F1`` of ``macro_f1``."""
    name, at, cutoff = metric.partition("@")
    text = " ".join(part.upper() if part in _ABBREVIATIONS else part for part in name.split("_"))
    return f"{text[:1].upper()}{text[1:]}{at}{cutoff}"


def short_hash(text: str) -> str:
    """The text with long hashes cut to 12 digits."""
    return re.sub(r"[0-9a-f]{32,}", lambda found: found[0][:12], text)
