"""The page of a leaderboard in a real browser. Each test also fails on an error in the console and on any request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import NARROW, WIDE, Chromium, expect, violations
from made_board import FAILS, NEVER_RUN, QUALITY, made_board, made_sheets

from recgraph.leaderboard.page import page as text_of
from recgraph.leaderboard.sheet import Sheet

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

ORDER = [*QUALITY, FAILS, NEVER_RUN]
SAMPLED = "SASRec, <b>sampled</b> & more"


@pytest.fixture(scope="module")
def sheets(tmp_path_factory: pytest.TempPathFactory) -> list[Sheet]:
    folder = tmp_path_factory.mktemp("board")
    return made_sheets(made_board(folder), folder / "results")


@pytest.fixture(scope="module")
def path(sheets: list[Sheet], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    found = folder / "page.html"
    found.write_text(text_of(sheets, made_board(folder)), encoding="utf-8")
    return found


def table(page: Page) -> Locator:
    return page.get_by_role("table", name="Results on Made-up users")


def shown(page: Page) -> list[str]:
    """The models of the first table, in the order in which they are seen."""
    return table(page).locator("tbody th:visible").all_inner_texts()


def sorter(page: Page, name: str, nth: int = 0) -> Locator:
    return table(page).get_by_role("button", name=name, exact=True).nth(nth)


def order_of(button: Locator) -> str | None:
    return button.locator("xpath=ancestor::th").get_attribute("aria-sort")


def open_everything(page: Page) -> None:
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = true")


@pytest.mark.parametrize(("dark", "width"), [(False, WIDE), (True, WIDE), (False, NARROW)])
def test_labels_and_contrast(chromium: Chromium, path: Path, dark: bool, width: int) -> None:
    with chromium.opened(path, dark=dark, width=width) as page:
        # one of each kind: axe looks at every element
        page.evaluate(
            "document.querySelectorAll('.card:first-child, .card:first-child .more, .failure, section:first-of-type "
            "> .more, .reading').forEach((each) => { each.open = true; })"
        )
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_sorting(chromium: Chromium, path: Path) -> None:
    by: Callable[[int], Callable[[str], float]] = lambda protocol: lambda name: -QUALITY[name][protocol]  # noqa: E731
    with chromium.opened(path) as page:
        excluded, kept = sorter(page, "NDCG@10"), sorter(page, "NDCG@10", 1)
        assert (order_of(excluded), order_of(kept)) == ("descending", "none")
        assert shown(page) == ORDER
        kept.click()
        assert (order_of(excluded), order_of(kept)) == ("none", "descending")
        assert shown(page) == [*sorted(QUALITY, key=by(1)), FAILS, NEVER_RUN]
        assert page.locator("#said").inner_text() == "Sorted by NDCG@10, descending."
        kept.click()
        assert order_of(kept) == "ascending"
        # those without a value stay last
        assert shown(page) == [*sorted(QUALITY, key=by(1), reverse=True), FAILS, NEVER_RUN]
        training = sorter(page, "Training")
        training.click()
        assert order_of(training) == "ascending"
        # each is faster than the one before it
        assert shown(page) == [*reversed(QUALITY), FAILS, NEVER_RUN]
        sorter(page, "Model").click()
        assert shown(page) == sorted(ORDER, key=str.lower)
        sorter(page, "Seeds").click()
        assert {*shown(page)[:3]} == {"SASRec", SAMPLED, "LightGCN"}


def test_filtering(chromium: Chromium, path: Path) -> None:
    with chromium.opened(path) as page:
        field = page.get_by_label("Filter models")
        field.fill("sasrec")
        assert shown(page) == ["SASRec", SAMPLED]
        assert page.locator("#found").inner_text() == "2 of 9"
        field.fill("  more SASREC ")
        assert shown(page) == [SAMPLED]
        assert page.locator("details.card:visible").count() == 1
        # sorting keeps what is hidden hidden
        sorter(page, "Training").click()
        assert shown(page) == [SAMPLED]
        field.fill("nothing is called so")
        assert shown(page) == []
        field.fill("")
        assert {*shown(page)} == {*ORDER}
        assert page.locator("#found").inner_text() == ""


def test_columns_come_and_go(chromium: Chromium, path: Path) -> None:
    with chromium.opened(path) as page:
        nodes = page.get_by_role("table", name="Results on Made-up nodes")
        heads = nodes.locator("thead tr:first-child th.group:visible")
        assert heads.count() == 4
        chips = page.get_by_role("group", name="Columns shown").nth(1)
        chip = chips.get_by_role("button", name="k-means")
        assert chip.get_attribute("aria-pressed") == "false"
        chip.focus()
        page.keyboard.press("Space")
        assert chip.get_attribute("aria-pressed") == "true"
        assert heads.count() == 5
        assert nodes.get_by_role("button", name="NMI").is_visible()
        chips.get_by_role("button", name="20 labels a class").click()
        assert heads.count() == 4
        # what is hidden has no role: those of 40 and of 60 labels
        assert nodes.get_by_role("button", name="Macro F1").count() == 2


def card_of(page: Page, name: str) -> Locator:
    return page.locator("#synthetic").locator("details.card", has=page.get_by_role("heading", name=name, exact=True))


def test_a_card_is_opened_by_keyboard_and_says_how_to_make_the_numbers(
    chromium: Chromium, path: Path, sheets: list[Sheet]
) -> None:
    entry = sheets[0].entries[0]
    with chromium.opened(path) as page:
        card = card_of(page, entry.name)
        assert card.get_attribute("open") is None
        table(page).get_by_role("link", name=entry.name, exact=True).focus()
        page.keyboard.press("Enter")
        expect(card.locator("summary").first).to_be_focused()
        assert card.get_attribute("open") is not None
        assert card.locator("summary").first.is_visible()
        assert card.locator("code:visible", has_text="recgraph train").inner_text() == entry.commands[0]
        radio = card.get_by_role("radio", name="0")
        radio.focus()
        page.keyboard.press("ArrowRight")
        assert card.locator("code:visible", has_text="recgraph train").inner_text() == entry.commands[1]
        assert card.get_by_text(entry.records[1]).is_visible()
        score = sheets[0].score(entry.name, "seen kept", "ndcg@10")
        assert score is not None
        kept = repr(score.by_seed[1])
        assert card.locator(".outcome:visible").get_by_text(kept, exact=True).is_visible()
        # closed, and opened again by the same link
        card.locator("summary").first.click()
        assert card.get_attribute("open") is None
        table(page).get_by_role("link", name=entry.name, exact=True).click()
        expect(card.locator("summary").first).to_be_focused()
        assert card.get_attribute("open") is not None


@pytest.mark.parametrize("clipboard", [True, False])
def test_a_command_is_copied(chromium: Chromium, path: Path, sheets: list[Sheet], clipboard: bool) -> None:
    without = "delete Navigator.prototype.clipboard"
    with chromium.opened(path, script="" if clipboard else without) as page:
        assert page.evaluate("'clipboard' in navigator") == clipboard
        open_everything(page)
        button = card_of(page, "SASRec").get_by_role("button", name="Copy").first
        button.click()
        expect(page.locator("#said")).to_have_text("Copied.")
        page.evaluate("document.body.append(document.createElement('textarea'))")
        page.locator("textarea").focus()
        page.keyboard.press("Control+V")
        assert page.locator("textarea").input_value() == sheets[0].entries[0].commands[0]


def test_failures_are_shown(chromium: Chromium, path: Path) -> None:
    with chromium.opened(path) as page:
        page.get_by_role("link", name="1 failed").first.click()
        failed = page.locator("details.failure")
        assert failed.get_by_text("it <i>broke</i>").is_visible()
        failed.locator("summary").click()
        assert failed.get_by_text("Traceback:").is_visible()
        assert "recgraph train gru4rec" in failed.locator("code:visible", has_text="recgraph").inner_text()


def test_the_keyboard_reaches_all(chromium: Chromium, path: Path) -> None:
    with chromium.opened(path) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
        page.keyboard.press("Enter")
        expect(page.locator("#results")).to_be_focused()
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.closest('table')?.id ?? document.activeElement.tagName"))
        assert {"synthetic-scores", "SUMMARY", "BUTTON"} <= reached


def test_it_can_be_read_without_its_script(chromium: Chromium, path: Path, sheets: list[Sheet]) -> None:
    with chromium.opened(path, scripts=False) as page:
        assert shown(page) == ORDER
        assert page.get_by_role("table", name="Results on Made-up nodes").get_by_text("NMI").is_visible()
        assert not page.get_by_label("Filter models").is_visible()
        assert page.get_by_role("button", name="Copy").count() == 0
        card = card_of(page, "SASRec")
        card.locator("summary").first.click()
        card.get_by_role("radio", name="2").check(force=True)
        assert card.locator("code:visible", has_text="recgraph train").inner_text() == sheets[0].entries[0].commands[2]


def test_it_prints_with_its_cards_open(chromium: Chromium, path: Path) -> None:
    with chromium.opened(path) as page:
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("details.card:not([open])").count() == 0
        assert not page.get_by_label("Filter models").is_visible()
        assert page.pdf()[:5] == b"%PDF-"
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.locator("details.card[open]").count() == 0
