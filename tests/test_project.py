"""What holds for the project as a whole: docstrings, names, what is never called, and what the
wheel carries.
"""

from __future__ import annotations

import ast
import configparser
import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "recgraph").rglob("*.py"))
#: run what a file holds
UNPICKLING = {
    "pickle.Unpickler",
    "shelve.open",
    "marshal.loads",
    "joblib.load",
    "yaml.load",
    "torch.load",
}
#: a worker's own parent or ranks wrote what these read
TRUSTING = {"recgraph/parallel.py", "recgraph/ranks.py"}


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_modules_and_public_classes_have_docstrings() -> None:
    missing: list[str] = []
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if tree.body and not ast.get_docstring(tree):  # an empty __init__.py says nothing
            missing.append(_name(path))
        missing += [
            f"{_name(path)}:{node.lineno} {node.name}"
            for node in tree.body
            if isinstance(node, ast.ClassDef)
            and not (
                node.name.startswith("_") or node.name.endswith("Config") or ast.get_docstring(node)
            )
        ]
    assert missing == []


def test_names_say_what_is_inside() -> None:
    vague = {"utils", "util", "helpers", "misc", "common"}
    assert [_name(path) for path in FILES if path.stem in vague] == []


def test_no_code_branches_on_a_data_set() -> None:
    pattern = re.compile(r"\bdataset\s*(==|!=|in)\s*[\"'(\[{]")
    assert [_name(path) for path in FILES if pattern.search(path.read_text(encoding="utf-8"))] == []


def test_nothing_that_a_file_holds_is_run() -> None:
    found = [
        f"{_name(path)}:{node.lineno}"
        for path in FILES
        if _name(path) not in TRUSTING
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in {*UNPICKLING, "pickle.load", "pickle.loads"}
        )
        or (
            isinstance(node, ast.keyword)
            and node.arg == "allow_pickle"
            and ast.unparse(node.value) != "False"
        )
    ]
    assert found == []


EXPERIMENTS = [
    path for part in ("", "bench/") for path in sorted(ROOT.glob(f"experiments/{part}*.py"))
]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=_name)
def test_experiments_find_what_they_import(path: Path) -> None:
    """What else runs them takes hours; what stands in front of them is found here."""
    importlib.import_module(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    )


def test_the_wheel_carries_code_cards_types_and_the_command(tmp_path: Path) -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    declared = {ROOT / name.replace(".", "/") for name in config["options"]["packages"].split()}
    assert declared - {ROOT / "recgraph/catalog"} == {path.parent for path in FILES}, (
        "packages in setup.cfg"
    )
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for folder in ("recgraph", "datasets"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    build = (
        "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    )
    command = [sys.executable, "-c", build, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / done.stdout.split()[-1]) as wheel:
        names = set(wheel.namelist())
        cards = {f"recgraph/catalog/{path.name}" for path in (ROOT / "datasets").glob("*.toml")}
        assert {*map(_name, FILES), *cards, "recgraph/py.typed"} <= names
        (entry,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "recgraph = recgraph.cli.app:main" in wheel.read(entry).decode()


def test_every_documented_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    named = {
        target
        for page in ("README.md", "CONTRIBUTING.md", "SECURITY.md", ".ci/run")
        for target in re.findall(
            r"(?:`|^)make ([a-z-]+)", (ROOT / page).read_text("utf-8"), re.MULTILINE
        )
    }
    assert {"demo", "test"} <= named <= targets


_spec = importlib.util.spec_from_file_location("devices", ROOT / "tests" / "checks" / "devices.py")
assert _spec is not None
assert _spec.loader is not None
devices = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(devices)


def test_the_library_names_no_device() -> None:
    assert devices.check() == []
    assert [
        name for name in devices.ALLOWED if not (devices.ROOT / "recgraph" / name).is_file()
    ] == []


HEAVY = {
    "accelerate",
    "numpy",
    "optuna",
    "pandas",
    "polars",
    "pydantic",
    "scipy",
    "sklearn",
    "torch",
}


def modules_after(code: str) -> set[str]:
    script = (
        f"import sys\n{code}\nprint('MODULES', *(name for name in sys.modules if '.' not in name))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(
        next(line for line in done.stdout.splitlines() if line.startswith("MODULES")).split()[1:]
    )


def test_import_recgraph_is_light_and_quick() -> None:
    timed = "import time; began = time.process_time(); import recgraph; dir(recgraph)\n"
    assert modules_after(f"{timed}assert time.process_time() - began < 0.1") & HEAVY == set()


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_help_is_light(arguments: list[str]) -> None:
    code = (
        "from recgraph.cli.app import main\n"
        f"sys.argv = ['recgraph', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code"
    )
    # typer itself looks whether parameters are pydantic models
    assert modules_after(code) & (HEAVY - {"pydantic"}) == set()


def test_public_names_are_found() -> None:
    import recgraph

    assert all(getattr(recgraph, name) is not None for name in recgraph.__all__)
    with pytest.raises(AttributeError):
        recgraph.nope  # noqa: B018
