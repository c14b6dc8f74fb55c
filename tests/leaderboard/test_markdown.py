"""Texts of others do nothing where they are shown."""

from __future__ import annotations

import html
import re
import unicodedata

import pytest
from markdown_it import MarkdownIt

from recgraph.leaderboard.rendering import for_markdown, for_spreadsheet, markdown_block, markdown_code
from recgraph.pages import for_terminal

HOSTILE = [
    *("\x1b[31mred", "\x1b]0;title\x07", "\x9b2J", "a\rb", "a\x08b", "\u202ecod", "\u2066x\u2069", "\u2028", "\ufeff"),
    *("<b>x</b>", "[a](http://x.y)", "`code`", "``", "# head", "1. one", "| a |", "*a* _b_", "~~x~~", "&lt;", "a\nb"),
]


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_but_glyphs_goes_to_a_terminal(text: str) -> None:
    shown = for_terminal(text, lines=False)
    assert not {unicodedata.category(each) for each in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


def test_scripts_and_emoji_stay() -> None:
    for text in ("naïve café", "नी", "می‌خواهم", "👩‍👩‍👧", "日本語\u3000本", "a\tb\nc", "\ue000"):
        assert for_terminal(text) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_shows_the_text_and_nothing_else(text: str) -> None:
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    rendered = parser.render(for_markdown(text)).removeprefix("<p>").removesuffix("</p>\n")
    assert "<" not in rendered
    assert html.unescape(rendered) == for_terminal(" ".join(text.split("\n")), lines=False).strip()
    code = re.fullmatch(r"<p>x <code>(.*)</code> x</p>\n", parser.render(f"x {markdown_code(text)} x"))
    assert code is not None
    assert html.unescape(code[1]).strip(" ") == for_terminal(text, lines=False).strip(" ")
    assert parser.render(markdown_block(text, "bash")).startswith('<pre><code class="language-bash">')


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1"])
def test_formulas_become_texts(text: str) -> None:
    assert for_spreadsheet(text) == f"'{text}"


@pytest.mark.parametrize("value", ["a=1", "-1.5e-3", "+7", "-.5", "", "'=1", -3, None, 2.5, True])
def test_other_cells_stay(value: object) -> None:
    assert for_spreadsheet(value) is value
