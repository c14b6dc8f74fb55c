"""The page of a study in a real browser: it is silent, asks nobody, and can be read by all."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import NARROW, WIDE, Chromium, violations
from small_study import sampled

from recgraph.tuning.report import write_page


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pages")
    return [write_page(sampled(20, n), folder / f"{n}.html", "study.journal") for n in (1, 2)]


@pytest.mark.parametrize("dark", [False, True])
def test_labels_and_contrast(chromium: Chromium, pages: list[Path], dark: bool) -> None:
    for path in pages:
        with chromium.opened(path, dark=dark) as page:
            assert page.locator("svg circle").count() > 0
            assert violations(page) == []


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_it_is_no_wider_than_the_screen(chromium: Chromium, pages: list[Path], width: int) -> None:
    for path in pages:
        with chromium.opened(path, width=width) as page:
            assert page.evaluate("document.documentElement.scrollWidth") <= width
