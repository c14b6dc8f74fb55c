"""A board's records as Markdown, or as CSV with one line for each number and all digits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from recgraph.data.row_files import csv_line
from recgraph.leaderboard.compare import MARKS
from recgraph.leaderboard.sheet import NEAR, Number, Sheet
from recgraph.pages import environment, for_terminal

__all__ = ["COLUMNS", "markdown", "rows", "to_csv"]

_TEST = ("n", "low", "high", "p_value", "p_adjusted", "effect")
#: columns of the CSV: ``sheet`` is called as its file; ``kind`` is score, group, cost, failure or missing; ``values``
#: are ``seed:value``; fields that do not apply are empty
COLUMNS = (
    *("board", "sheet", "dataset", "entry", "model", "address", "kind", "table", "protocol", "group", "name"),
    *("mean", "sd", "n_seeds", "values", "mark", "difference"),
    *(f"{over}_{name}" for over in ("users", "seeds") for name in _TEST),
    "message",
)
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
    protocols = {table.title: table.protocol_hash for table in sheet.tables}
    for (entry, title, kind, group, name), number in sheet.numbers.items():
        what = {"kind": "group" if kind else "score" if title else "cost", "group": f"{kind} {group}".strip()}
        where = {"table": title, "protocol": protocols.get(title, "")}
        yield {**entries[entry], **where, **what, "name": name, **_cells(number)}
    for of_entry, job, failure in sheet.lacking:
        message = "not run" if failure is None else f"{failure['error']}: {failure['message']}"
        kind = "missing" if failure is None else "failure"
        yield {**entries[of_entry.name], "kind": kind, "name": f"seed {job.seed}", "message": message}


def _cells(number: Number) -> dict[str, Any]:
    values = " ".join(f"{seed}:{value!r}" for seed, value in number.by_seed.items())
    found: dict[str, Any] = {"mean": number.mean, "sd": number.sd, "n_seeds": len(number.by_seed), "values": values}
    found["mark"] = number.mark
    for test in number.versus:
        found["difference"] = test.difference
        found |= {f"{test.over}_{name}": getattr(test, name) for name in _TEST}
    return {name: "" if value is None else value for name, value in found.items()}


def markdown(sheets: Sequence[Sheet], board: str, level: int = 1) -> str:
    """The scores and costs of a board as Markdown that ends with a line break; ``level``: of the first heading."""
    templates = environment("leaderboard").overlay(autoescape=False)
    templates.filters |= {"text": for_markdown, "code": markdown_code, "cell": _cell, "cost": cost_text}
    text = templates.get_template("board.md.j2").render(
        board=board, sheets=sheets, level=level, marks=MARKS, near=NEAR, short_hash=short_hash
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


def _cell(text: str) -> str:
    return for_markdown(text).replace("|", "\\|")


def cost_text(number: Number | None, name: str) -> str:
    """A cost as text; watt hours and parameters without their deviation."""
    if number is None:
        return "–"
    if name in ("training_wh", "n_parameters"):
        return f"{number.mean:.2g}" if name == "training_wh" else f"{number.mean:,.0f}"
    return number.text(0 if number.mean >= 100 else 1 if number.mean >= 10 else 2)


def metric_name(metric: str) -> str:
    """``NDCG@10`` of ``ndcg@10``, ``Macro F1`` of ``macro_f1``."""
    name, at, cutoff = metric.partition("@")
    text = " ".join(part.upper() if part in _ABBREVIATIONS else part for part in name.split("_"))
    return f"{text[:1].upper()}{text[1:]}{at}{cutoff}"


def short_hash(text: str) -> str:
    """The text with long hashes cut to 12 digits."""
    return re.sub(r"[0-9a-f]{32,}", lambda found: found[0][:12], text)
