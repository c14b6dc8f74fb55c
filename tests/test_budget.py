"""The library stays one that is held in one head: tokens of code, decisions, and ``raise``
statements have limits.

Tokens are names, numbers, strings and operators; brackets, commas, colons, comments and docstrings
are free, so that layout and explanations cost nothing. Decisions are ``if``, ternaries, loops,
comprehensions and their filters, ``and`` and ``or``, ``except`` and ``case``. The limits are of the
whole; ``python tests/test_budget.py`` prints the packages.
"""

from __future__ import annotations

import ast
import io
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: top folder -> tokens and decisions at most
LIMITS = {"recgraph": (202_000, 6_400), "experiments": (48_000, 1_200), "tests": (175_000, 3_400)}
#: ``raise`` statements in recgraph/, at most
RAISES = 450

_FREE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
_BRANCHES = (ast.If, ast.IfExp, ast.For, ast.While, ast.ExceptHandler, ast.match_case)
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Size(NamedTuple):
    """What one file or one package holds."""

    tokens: int
    decisions: int
    raises: int


def tracked_sources() -> dict[Path, str]:
    """Tracked file -> its text; a folder without git has no stray files either."""
    command = ["git", "-C", str(ROOT), "ls-files", "*.py"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    names = [Path(name) for name in listed]
    if not names:
        every = (path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
        names = [path for path in every if path.parts[0] in LIMITS]
    return {
        name: (ROOT / name).read_text(encoding="utf-8") for name in names if (ROOT / name).is_file()
    }


def docstring_places(tree: ast.Module) -> Iterator[tuple[int, int]]:
    """Line and column of each docstring."""
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            yield node.body[0].lineno, node.body[0].col_offset


def count_decisions(tree: ast.Module) -> int:
    count = 0
    for node in ast.walk(tree):
        if isinstance(node, _BRANCHES):
            count += 1
        elif isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            count += 1 + len(node.ifs)
    return count


def measure(source: str) -> Size:
    tree = ast.parse(source)
    docstrings = set(docstring_places(tree))
    tokens = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in _FREE or token.string in "()[]{},:":
            continue
        if token.type == tokenize.STRING and token.start in docstrings:
            continue
        tokens += 1
    raises = sum(isinstance(node, ast.Raise) for node in ast.walk(tree))
    return Size(tokens, count_decisions(tree), raises)


def total(sizes: dict[Path, Size], folder: str) -> Size:
    """The sum over all files of a folder."""
    own = [size for name, size in sizes.items() if name.is_relative_to(folder)]
    assert own, f"no tracked file in {folder}"
    return Size(*(sum(column) for column in zip(*own, strict=True)))


@pytest.fixture(scope="module")
def sizes() -> dict[Path, Size]:
    return {name: measure(text) for name, text in tracked_sources().items()}


@pytest.mark.parametrize("folder", LIMITS)
def test_a_top_folder_is_within_its_tokens_and_decisions(
    folder: str, sizes: dict[Path, Size]
) -> None:
    size = total(sizes, folder)
    tokens, decisions = LIMITS[folder]
    assert size.tokens <= tokens, f"{size.tokens:,} tokens of code of {tokens:,}"
    assert size.decisions <= decisions, f"{size.decisions:,} decisions of {decisions:,}"


def test_the_library_refuses_no_more_than_it_must(sizes: dict[Path, Size]) -> None:
    assert total(sizes, "recgraph").raises <= RAISES


def test_layout_and_explanations_are_free() -> None:
    dense = "def f(a):\n    return a[0] if a and a[1] else 0\n"
    spread = (
        '"""A module."""\n\n\ndef f(\n    a,\n):\n    """A function."""\n'
        "    # why\n    return (\n        a[0] if a and a[1] else 0\n    )\n"
    )
    assert measure(dense) == measure(spread) == Size(tokens=13, decisions=2, raises=0)


if __name__ == "__main__":
    all_sizes = {name: measure(text) for name, text in tracked_sources().items()}
    packages = sorted({str(Path(*name.parts[:2])) for name in all_sizes if len(name.parts) > 2})
    for package in (*LIMITS, *packages):
        size = total(all_sizes, package)
        print(f"{package:24} {size.tokens:9,} tokens {size.decisions:7,} decisions")
