"""The page of a leaderboard in a real browser. Each test also fails on an error in the console and
on any request.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import NARROW, WIDE, Chromium, expect, violations
from made_up import fail, fill, opened, write_board

import recgraph as rg
from recgraph.leaderboard.board import Board

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

ORDER = ["LightGCN", "LightGCN, three layers", "Popularity", "BPRMF"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Board:
    board = write_board(tmp_path_factory.mktemp("board"))
    fill(board)
    fail(board, "BPRMF", 1)
    return board


@pytest.fixture(scope="module")
def path(made: Board) -> Path:
    return rg.leaderboard.render(made, made.folder / "page.html")


def table(page: Page) -> Locator:
    return page.get_by_role("table", name="Results on A shop")


def shown(page: Page) -> list[str]:
    """The models of the first table, in the order in which they are seen."""
    return table(page).locator("tbody th:visible").all_inner_texts()


@pytest.mark.parametrize(("dark", "width"), [(False, WIDE), (True, NARROW)])
def test_labels_and_contrast(chromium: Chromium, path: Path, dark: bool, width: int) -> None:
    with chromium.opened(path, dark=dark, width=width) as page:
        page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_sorting_and_filtering(chromium: Chromium, path: Path) -> None:
    with chromium.opened(path) as page:
        before = shown(page)
        assert {*before} == {*ORDER}
        assert before[-1] == "BPRMF", "without a value it stays last"
        for name, order in (("Model", "ascending"), ("Training, s", "ascending")):
            button = table(page).get_by_role("button", name=name, exact=True)
            button.click()
            assert button.locator("xpath=ancestor::th").get_attribute("aria-sort") == order
        assert shown(page)[0] == "Popularity", "it is the fastest"
        page.get_by_label("Filter models").fill("lightgcn")
        assert {*shown(page)} == {*ORDER[:2]}
        page.get_by_label("Filter models").fill("")
        assert {*shown(page)} == {*ORDER}


def test_a_card_is_opened_by_keyboard_and_says_how_to_make_the_numbers(
    chromium: Chromium, path: Path, made: Board
) -> None:
    (entry,) = [entry for entry in opened(made).entries if entry.name == "LightGCN"]
    with chromium.opened(path) as page:
        card = page.locator(
            "details.card", has=page.get_by_role("heading", name=entry.name, exact=True)
        )
        table(page).get_by_role("link", name=entry.name, exact=True).focus()
        page.keyboard.press("Enter")
        expect(card.locator("summary").first).to_be_focused()
        assert card.locator(
            "code:visible", has_text="recgraph train"
        ).inner_text() == entry.command(entry.jobs[0])
        card.get_by_role("radio", name="0").focus()
        page.keyboard.press("ArrowRight")
        assert card.locator(
            "code:visible", has_text="recgraph train"
        ).inner_text() == entry.command(entry.jobs[1])
        card.get_by_role("button", name="Copy").first.click()
        expect(page.locator("#said")).to_have_text("Copied.")
