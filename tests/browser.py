"""A real browser: headless Chromium, driven by Playwright. A page that complains or asks the
network fails.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, LocatorAssertions, Page

__all__ = ["NARROW", "WIDE", "Chromium", "expect", "launched", "program", "violations"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: of the screen, in pixels: a desk's and a phone's
WIDE, NARROW = 1280, 390
_HEIGHT = 900
#: milliseconds after which a page that does not do as told fails
_PATIENCE = 120_000


def program() -> str | None:
    """The path of an installed Chromium; Playwright's own download is not used."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


@contextmanager
def launched(path: str) -> Iterator[Chromium]:
    """Run the browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        try:
            yield Chromium(browser)
        finally:
            browser.close()


class Chromium:
    """The browser that tests are given."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser

    @contextmanager
    def opened(self, path: Path, *, dark: bool = False, width: int = WIDE) -> Iterator[Page]:
        """A file, opened; at the end nothing must have gone to the console as an error or to the
        network.

        Args:
            dark: whether the reader prefers dark pages.
            width: of the window, in pixels; a narrow one is a phone with a touch screen.
        """
        phone = width <= NARROW
        context = self._browser.new_context(
            color_scheme="dark" if dark else "light",
            viewport={"width": width, "height": _HEIGHT},
            has_touch=phone,
            is_mobile=phone,
            reduced_motion="reduce",
        )
        context.set_default_timeout(_PATIENCE)
        errors: list[str] = []
        requests: list[str] = []
        try:
            page = context.new_page()
            page.on(
                "console",
                lambda said: (
                    errors.append(said.text) if said.type in ("error", "warning") else None
                ),
            )
            page.on("pageerror", lambda error: errors.append(f"{error}"))
            page.on("request", lambda request: requests.append(request.url))
            page.goto(path.resolve().as_uri())
            yield page
            own = path.resolve().as_uri()
            assert errors == []
            assert {url.partition("#")[0] for url in requests} == {own}
        finally:
            context.close()


def expect(locator: Locator) -> LocatorAssertions:
    """Playwright's assertions, which wait until they hold; imported where there is a browser."""
    from playwright.sync_api import expect as expect_it

    return expect_it(locator)


def violations(page: Page) -> list[str]:
    """What axe finds wrong for those who see little or use no mouse: a line an element, with the
    rule and its help.
    """
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{rule['id']}: {rule['help']}: {node['target']}: {node['html'][:200]}"
        for rule in found
        for node in rule["nodes"]
    ]
