"""What holds for the project as a whole: sizes of files, docstrings, names, and what the wheel carries."""

from __future__ import annotations

import ast
import configparser
import importlib
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "recgraph").rglob("*.py"))
MAX_LINES = 400


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_file_is_long() -> None:
    lengths = {_name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: n for name, n in lengths.items() if n > MAX_LINES} == {}


def _exempt(name: str) -> bool:
    """Private classes, and configurations, whose fields describe themselves."""
    return name.startswith("_") or name.endswith("Config")


def test_modules_and_public_classes_have_docstrings() -> None:
    missing: list[str] = []
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if tree.body and not ast.get_docstring(tree):  # an empty __init__.py says nothing
            missing.append(_name(path))
        missing += [
            f"{_name(path)}:{node.lineno} {node.name}"
            for node in tree.body
            if isinstance(node, ast.ClassDef) and not _exempt(node.name) and not ast.get_docstring(node)
        ]
    assert missing == []


def test_names_say_what_is_inside() -> None:
    vague = {"utils", "util", "helpers", "misc", "common"}
    assert [_name(path) for path in FILES if path.stem in vague] == []


def test_no_code_branches_on_a_data_set() -> None:
    pattern = re.compile(r"\bdataset\s*(==|!=|in)\s*[\"'(\[{]")
    assert [_name(path) for path in FILES if pattern.search(path.read_text(encoding="utf-8"))] == []


EXPERIMENTS = [path for part in ("", "bench/") for path in sorted(ROOT.glob(f"experiments/{part}*.py"))]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=_name)
def test_experiments_find_what_they_import(path: Path) -> None:
    """What else runs them takes hours; what stands in front of them is found here."""
    importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))


def _packages() -> dict[str, Path]:
    """Package name -> folder, as setup.cfg declares them."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    mapping = dict(re.split(r"\s*=\s*", line) for line in config["options"]["package_dir"].splitlines() if line.strip())
    names = config["options"]["packages"].split()
    return {name: ROOT / mapping.get(name, name.replace(".", "/")) for name in names}


def test_setup_declares_every_package() -> None:
    declared = {folder for name, folder in _packages().items() if name != "recgraph.catalog"}
    assert declared == {path.parent for path in FILES}, "add the new folder to packages in setup.cfg"
    assert all((folder / "__init__.py").is_file() for folder in declared)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel, built from a copy of what it is made of."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in ("recgraph", "datasets", "tests", "experiments"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(source)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(source / done.stdout.split()[-1]) as opened:
        yield opened


def test_the_wheel_has_one_top_level_package(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"recgraph"}


def test_the_wheel_carries_code_cards_and_types(wheel: zipfile.ZipFile) -> None:
    cards = {f"recgraph/catalog/{path.name}" for path in (ROOT / "datasets").glob("*.toml")}
    assert cards
    assert {*map(_name, FILES), *cards, "recgraph/py.typed"} <= set(wheel.namelist())


def test_the_wheel_installs_the_command(wheel: zipfile.ZipFile) -> None:
    (entry,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "recgraph = recgraph.cli.app:main" in wheel.read(entry).decode()


def test_readme_and_ci_name_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for command in ("make demo", "make test"):
        assert command in readme
        assert command in ci


def test_every_documented_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        assert set(re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8"))) <= targets
