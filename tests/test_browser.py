"""The harness itself: what it is there to find, it finds."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import Chromium, violations

PAGE = '<!doctype html><html lang="en"><head><title>t</title></head><body><main><h1>t</h1>{}</main></body></html>'


def written(folder: Path, body: str) -> Path:
    path = folder / "page.html"
    path.write_text(PAGE.format(body), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "body",
    [
        "<script>console.error('no')</script>",
        "<script>undefined_name()</script>",
        "<img alt='' src='other.png'>",
        "<script>fetch('http://127.0.0.1:9/').catch(() => 0)</script>",
    ],
)
def test_a_page_that_complains_or_asks_for_more_fails(chromium: Chromium, tmp_path: Path, body: str) -> None:
    with pytest.raises(AssertionError), chromium.opened(written(tmp_path, body)) as page:
        page.wait_for_timeout(100)


def test_a_page_that_cannot_be_read_is_found_out(chromium: Chromium, tmp_path: Path) -> None:
    with chromium.opened(written(tmp_path, "<p>fine</p>")) as page:
        assert violations(page) == []
    with chromium.opened(written(tmp_path, '<p style="color: #bbb; background: #fff">pale</p><input>')) as page:
        assert {found.partition(":")[0] for found in violations(page)} == {"color-contrast", "label"}
