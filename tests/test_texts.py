"""Texts of others do nothing where they are shown."""

from __future__ import annotations

import html
import json
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from recgraph.texts import for_markdown, for_spreadsheet, for_terminal, listed, markdown_block, markdown_code

SEQUENCES = [
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\x9b2J",
    "a\rb",
    "a\x08b",
    "\u202ecod",
    "\u2066x\u2069",
    "\u2028",
    "\ufeff",
]
#: pieces that have a meaning in Markdown or HTML, beside any text
PIECES = st.sampled_from(
    [*"\\`*_<>[]()!#+-=|~$&:{}'\"\n\t 1.a", "http://x.y", "<b>", "&lt;", "](", "]: ", "```", "<!--"]
)
TEXTS = st.lists(PIECES | st.text(max_size=3), max_size=12).map("".join)


@pytest.mark.parametrize("text", SEQUENCES)
def test_sequences_are_written_out(text: str) -> None:
    shown = for_terminal(text)
    assert (shown.isprintable() and "\\u" in shown) or "\\r" in shown or "\\b" in shown


def test_scripts_and_emoji_stay() -> None:
    for text in ("naïve café", "नी", "می‌خواهم", "👩‍👩‍👧", "日本語\u3000本", "a\tb\nc", "\ue000"):
        assert for_terminal(text) == text
    assert for_terminal("a\tb\nc", lines=False) == r"a\tb\nc"


@given(st.text())
def test_nothing_but_glyphs_goes_to_a_terminal(text: str) -> None:
    shown = for_terminal(text, lines=False)
    assert not {unicodedata.category(each) for each in shown} & {"Cc", "Cs", "Zl", "Zp"}
    assert {each for each in shown if unicodedata.category(each) == "Cf"} <= {"\u200c", "\u200d"}
    assert for_terminal(shown) == shown


@given(st.dictionaries(st.text(), st.text()))
def test_json_for_a_terminal_is_the_same_json(values: dict[str, str]) -> None:
    assert json.loads(for_terminal(json.dumps(values, ensure_ascii=False, indent=1))) == values


def _shown(rendered: str) -> str:
    """The text of HTML without tags of its own."""
    found = re.fullmatch(r"(?:<p>(.*)</p>\n)?", rendered, re.DOTALL)
    assert found is not None, rendered
    assert "<" not in (found[1] or ""), rendered
    return html.unescape(found[1] or "")


@given(TEXTS)
def test_markdown_shows_the_text_and_nothing_else(text: str) -> None:
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    expected = for_terminal(" ".join(text.split("\n")), lines=False).strip()
    assert _shown(parser.render(for_markdown(text))) == expected
    # in the cell of a table, too
    rows = parser.render(f"| a |\n| --- |\n| x{for_markdown(text).replace('|', chr(92) + '|')} |\n")
    assert (
        html.unescape(re.sub(r"</?(table|thead|tbody|tr|th|td)>|\n", "", rows)).removeprefix("a")
        == f"x{expected}".strip()
    )


@given(TEXTS)
def test_code_shows_the_text_and_nothing_else(text: str) -> None:
    parser = MarkdownIt("commonmark", {"html": True})
    rendered = parser.render(f"x {markdown_code(text)} x")
    found = re.fullmatch(r"<p>x <code>(.*)</code> x</p>\n", rendered)
    assert found is not None
    assert html.unescape(found[1]).strip(" ") == for_terminal(text, lines=False).strip(" ")
    block = re.fullmatch(
        r'<pre><code class="language-bash">(.*)</code></pre>\n', parser.render(markdown_block(text, "bash")), re.DOTALL
    )
    assert block is not None


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1"])
def test_formulas_become_texts(text: str) -> None:
    assert for_spreadsheet(text) == f"'{text}"


@pytest.mark.parametrize("value", ["a=1", "-1.5e-3", "+7", "-.5", "", "'=1", -3, None, 2.5, True])
def test_other_cells_stay(value: object) -> None:
    assert for_spreadsheet(value) is value


def test_many_names_are_not_all_listed() -> None:
    assert listed(["a", "it's"]) == "'a', \"it's\""
    assert listed(range(23)).endswith("'19' and 3 more")
    assert listed(["\x1b" * 100]) == repr("\x1b" * 60 + "...")
