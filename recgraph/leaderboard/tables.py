"""A board's records as Markdown, and the words of numbers on its page."""

from __future__ import annotations

import re
from collections.abc import Sequence

from recgraph.leaderboard.compare import MARKS
from recgraph.leaderboard.sheet import NEAR, Number, Sheet
from recgraph.pages import environment, for_terminal

__all__ = ["cost_text", "markdown", "metric_name", "short_hash"]

_ABBREVIATIONS = {"ndcg", "mrr", "map", "auc", "nmi", "ari", "rbp", "dcg", "ncrr", "f1"}
#: what has a meaning within a line: code, emphasis, HTML, mathematics, strikes, entities, the end
#: of a link's text
_INLINE = re.compile(r"([\\`*<$~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|&(?=#?\w+;)|\](?=[(\[:]))")


def markdown(sheets: Sequence[Sheet], board: str, level: int = 1) -> str:
    """The scores and costs of a board as Markdown that ends with a line break; ``level``: of the
    first heading.
    """
    templates = environment("leaderboard").overlay(autoescape=False)
    templates.filters |= {"text": for_markdown, "cell": _cell, "cost": cost_text}
    text = templates.get_template("board.md.j2").render(
        board=board, sheets=sheets, level=level, marks=MARKS, near=NEAR, short_hash=short_hash
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n"


def for_markdown(text: str) -> str:
    """The text in one line of Markdown: it shows what it says, without markup, HTML or links of its
    own.
    """
    return _INLINE.sub(r"\\\1", for_terminal(" ".join(text.split("\n")), lines=False).strip())


def _cell(text: str) -> str:
    return for_markdown(text).replace("|", "\\|")


def cost_text(number: Number | None, name: str) -> str:
    """A cost as text; watt hours and parameters without their deviation."""
    if number is None:
        return "–"
    if name == "training_wh":
        return f"{number.mean:.2g}"
    if name == "n_parameters":
        return f"{number.mean:,.0f}"
    if number.mean >= 100:
        return number.text(0)
    return number.text(1 if number.mean >= 10 else 2)


def metric_name(metric: str) -> str:
    """``NDCG@10`` of ``ndcg@10``, ``Macro F1`` of ``macro_f1``."""
    name, at, cutoff = metric.partition("@")
    text = " ".join(part.upper() if part in _ABBREVIATIONS else part for part in name.split("_"))
    return f"{text[:1].upper()}{text[1:]}{at}{cutoff}"


def short_hash(text: str) -> str:
    """The text with long hashes cut to 12 digits."""
    return re.sub(r"[0-9a-f]{32,}", lambda found: found[0][:12], text)
