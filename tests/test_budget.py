"""The house stays small: lines and files of each package, and ``raise`` statements, counted over tracked Python files.

A change that needs more room in a package says so in this table, and takes it from another.
"""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: folder, without those below it where it ends with ``/*`` -> lines at most (docstrings included), files at most
BUDGET = {
    "recgraph": (40_000, 180),
    "recgraph/*": (1_500, 8),
    "recgraph/data": (5_000, 22),
    "recgraph/graph": (1_900, 8),
    "recgraph/sparse": (1_600, 12),
    "recgraph/augment": (800, 5),
    "recgraph/encoders": (2_400, 9),
    "recgraph/contrast": (2_500, 9),
    "recgraph/losses": (900, 5),
    "recgraph/models": (6_800, 32),
    "recgraph/train": (3_600, 14),
    "recgraph/evaluate": (3_500, 14),
    "recgraph/serve": (2_600, 11),
    "recgraph/explain": (1_400, 7),
    "recgraph/tuning": (1_600, 8),
    "recgraph/pages": (500, 4),
    "recgraph/leaderboard": (1_700, 8),
    "recgraph/cli": (1_600, 12),
    "experiments": (9_000, 80),
    "tests": (25_000, 150),
}
#: ``raise`` statements in recgraph/, at most
RAISES = 450


@pytest.fixture(scope="module")
def texts() -> dict[Path, str]:
    """Tracked file -> its text; a folder without git has no stray files either."""
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "*.py"], capture_output=True, text=True, check=False)
    names = [Path(name) for name in listed.stdout.split()]
    names = names or [path.relative_to(ROOT) for path in ROOT.rglob("*.py") if ".venv" not in path.parts]
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in names if (ROOT / name).is_file()}


@pytest.mark.parametrize("folder", BUDGET)
def test_a_package_is_within_its_lines_and_files(folder: str, texts: dict[Path, str]) -> None:
    place = Path(folder.removesuffix("/*"))
    own = [
        len(text.splitlines())
        for name, text in texts.items()
        if (name.parent == place if folder.endswith("/*") else name.is_relative_to(place))
    ]
    lines, files = BUDGET[folder]
    assert own
    assert (sum(own) <= lines, len(own) <= files) == (True, True), f"{sum(own):,} lines in {len(own)} files"


def test_the_library_refuses_no_more_than_it_must(texts: dict[Path, str]) -> None:
    library = [text for name, text in texts.items() if name.parts[0] == "recgraph"]
    assert sum(isinstance(node, ast.Raise) for text in library for node in ast.walk(ast.parse(text))) <= RAISES
