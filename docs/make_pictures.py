"""Draw the pictures of README and docs: ``python docs/make_pictures.py [NAME ...]``.

Boards are drawn from the committed records. The page that explains a recommendation and the curves
come from trainings that take half a minute of CPU time each, on MovieLens 100K, with the commands
that docs/inspect.md and docs/training.md show. It needs Chromium, and `pip install
'recgraph[browser,docs]'`: Playwright, and Pillow, which makes files smaller.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

DOCS = Path(__file__).resolve().parent
PICTURES = DOCS / "pictures"
#: the most bytes of a picture
MOST = 200_000
#: of a page of a board and of an explanation; and colours
_WIDE, _NARROW, _COLOURS = 1280, 1180, 96
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def opened(page: Path, width: int) -> Iterator[Page]:
    """A page in a browser of a width, in its light colours."""
    from playwright.sync_api import sync_playwright

    program = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if program is None:
        raise SystemExit("no Chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        try:
            shown = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="light")
            shown.goto(page.resolve().as_uri())
            yield shown
        finally:
            browser.close()


def shoot(page: Page, path: Path, top: float, bottom: float) -> None:
    """Save what lies between two heights of a page, with few colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = page.viewport_size
    assert size is not None
    clip = {"x": 0, "y": top, "width": size["width"], "height": bottom - top}
    page.screenshot(path=path, clip=clip, full_page=True)  # type: ignore[arg-type]
    from PIL import Image

    with Image.open(path) as image:
        few = image.convert("RGB").quantize(
            _COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
        )
    few.save(path, optimize=True)
    n_bytes = path.stat().st_size
    if n_bytes > MOST:
        raise SystemExit(f"{path} has {n_bytes:,} bytes, more than {MOST:,}")
    print(f"{path.relative_to(DOCS)}: {n_bytes / 1000:.0f} kB")


def boards(work: Path) -> None:
    """The tables and charts of every data set of a board that has records."""
    import write_leaderboard

    from recgraph.leaderboard.page import render

    for board in write_leaderboard.boards():
        page = render(board, work / f"{board.name}.html")
        with opened(page, _WIDE) as shown:
            for sheet in write_leaderboard.sheets(board):
                section = shown.locator(f"section#{sheet.spec.name}")
                ends = section.locator("h3", has_text=re.compile("Groups of users|Model cards"))
                path = PICTURES / write_leaderboard.picture(sheet)
                shoot(shown, path, _top(section) + 12, _top(ends.first) - 12)


def command(line: str) -> None:
    """Run a command as the documentation shows it."""
    print(f"$ recgraph {line}")
    subprocess.run([sys.executable, "-m", "recgraph", "-q", *shlex.split(line)], check=True)


def explanation(work: Path) -> None:
    """The page of `recgraph inspect`: the commands of docs/inspect.md."""
    settings = (
        "--set max_epochs=30 --set batch_size=8192 --set learning_rate=0.01 --seed 0 --device cpu"
    )
    command(f"train MEOWRec --dataset ml-100k {settings} --out {work / 'meowrec'}")
    command(f"inspect {work / 'meowrec'} --user 196 --k 3 --out {work / 'why.html'} --format json")
    with opened(work / "why.html", _NARROW) as shown:
        second_row = _top(shown.get_by_role("heading", name="user-gender-user").first)
        shoot(shown, PICTURES / "explanation.png", 0, second_row - 26)


def _top(element: Locator) -> float:
    box = element.bounding_box()
    assert box is not None
    return box["y"]


def curves(work: Path) -> None:
    """The charts of a run: the commands of docs/training.md."""
    settings = (
        "--set learning_rate=0.003 --set max_epochs=40 --set patience=5 --seed 0 --device cpu"
    )
    command(f"train sasrec --dataset ml-100k {settings} --out {work / 'sasrec'}")
    command(f"plot {work / 'sasrec'} --out {PICTURES / 'curves.svg'}")


PARTS: dict[str, Callable[[Path], None]] = {
    "boards": boards,
    "explanation": explanation,
    "curves": curves,
}


def main(names: list[str]) -> None:
    """Draw the pictures of some parts, by default of all."""
    with tempfile.TemporaryDirectory() as work:
        for name in names or [*PARTS]:
            PARTS[name](Path(work))


if __name__ == "__main__":
    sys.path.insert(0, str(DOCS))
    main(sys.argv[1:])
