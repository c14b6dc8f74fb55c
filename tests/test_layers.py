"""Who may import whom, from below. Parsed, not run: an import in a function or under TYPE_CHECKING
counts too.
"""

from __future__ import annotations

import ast
import configparser
import graphlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "recgraph"

#: from below: a package imports those of lower levels, and one on its own level only where BESIDE
#: says so
LEVELS: tuple[tuple[str, ...], ...] = (
    ("sparse",),
    ("root", "pages"),
    ("data", "graph"),
    ("augment", "encoders", "contrast", "losses"),
    ("models",),
    ("evaluate",),
    ("serve",),
    ("train",),
    ("explain",),
    ("tuning",),
    ("leaderboard",),
    ("cli",),
)
BESIDE = {("graph", "data"), ("losses", "contrast"), ("contrast", "losses")}
#: the one module that imports upwards
UPWARDS = {("data.catalog", "graph")}
LEVEL = {package: level for level, packages in enumerate(LEVELS) for package in packages}
#: optional, or slow to import: inside functions alone
LAZY = {
    *(
        "IPython",
        "torch_geometric",
        "dgl",
        "faiss",
        "onnx",
        "onnxscript",
        "tensorboard",
        "optuna",
        "psycopg",
        "ray",
    ),
    *(
        "sklearn",
        "fastapi",
        "starlette",
        "uvicorn",
        "prometheus_client",
        "captum",
        "mlflow",
        "wandb",
    ),
}
#: modules that import optional packages at their top, and are imported lazily themselves
OWN_FILES = {"serve.http"}
#: name that is imported -> name of the distribution
DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "torch_geometric": "torch-geometric",
    "faiss": "faiss-cpu",
    "IPython": "ipykernel",
    "requests": "pooch",
    "starlette": "fastapi",
    "pydantic_core": "pydantic",
    "prometheus_client": "prometheus-client",
    "mlflow": "mlflow-skinny",
}


@dataclass(frozen=True)
class Edge:
    source: str  # module, without the leading "recgraph."
    target: str  # the same for the library's own, else the third-party package
    where: str
    own: bool
    lazy: bool


def _module(path: Path) -> str:
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name if name == "__init__" else name.removesuffix(".__init__")


def _is_module(name: str) -> bool:
    path = ROOT / Path(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def _targets(node: ast.AST) -> list[str]:
    """The full names of the modules that a node imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        inner = [f"{node.module}.{alias.name}" for alias in node.names]
        return [name if _is_module(name) else f"{node.module}" for name in inner]
    return []


def _walk(node: ast.AST, lazy: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        inner = (
            lazy
            or typing_only
            or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        )
        yield child, inner
        yield from _walk(child, inner)


@cache
def edges() -> tuple[Edge, ...]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node, lazy in _walk(ast.parse(path.read_text(encoding="utf-8"))):
            for target in _targets(node):
                own = target.split(".")[0] == "recgraph"
                name = (
                    target.removeprefix("recgraph").removeprefix(".")
                    if own
                    else target.split(".")[0]
                )
                where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
                found.append(Edge(_module(path), name, where, own, lazy))
    return tuple(found)


def _package(module: str) -> str:
    first = module.split(".")[0]
    return first if (PACKAGE / first).is_dir() else "root"


def allowed(source: str, target: str) -> bool:
    """Whether a module of the library may import another."""
    above, below = _package(source), _package(target)
    if (
        source in ("__init__", "__main__")
        or target == ""
        or above == below
        or (above, below) in BESIDE
    ):
        return True
    is_open = any(source.startswith(module) and below == package for module, package in UPWARDS)
    return is_open or LEVEL[below] < LEVEL[above]


def test_the_library_imports_downwards_only() -> None:
    assert {_package(edge.source) for edge in edges()} <= {*LEVEL}, (
        "a new package: say in LEVELS where it stands"
    )
    wrong = [edge for edge in edges() if edge.own and not allowed(edge.source, edge.target)]
    assert [f"{edge.where}: {edge.source} may not import {edge.target}" for edge in wrong] == []
    assert not allowed("data.split", "models.base")
    assert not allowed("rng", "data.split")


def test_no_modules_import_one_another_in_a_circle() -> None:
    """Imports inside functions and for types count."""
    graph: dict[str, set[str]] = {}
    for edge in edges():
        if edge.own and edge.source != "__init__" and edge.target:
            graph.setdefault(edge.source, set()).add(edge.target)
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the modules of a circle


def test_optional_packages_are_imported_lazily() -> None:
    eager = [e for e in edges() if not e.lazy]
    assert [
        e.where for e in eager if not e.own and e.target in LAZY and e.source not in OWN_FILES
    ] == []
    assert [e.where for e in eager if e.target in OWN_FILES] == []
    light = ("__init__", "config", "registry", "files")
    assert [
        e.where for e in edges() if e.source in light and e.target == "torch" and not e.lazy
    ] == []


def test_third_party_packages_are_declared() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = " ".join(config["options.extras_require"].values())
    lines = f"{config['options']['install_requires']}\n{extras}".splitlines()
    declared = {re.split(r"[<>=;\[ ]", line.strip())[0].lower() for line in lines if line.strip()}
    used = {e.target for e in edges() if not e.own and e.target not in sys.stdlib_module_names}
    assert {DISTRIBUTIONS.get(name, name) for name in used} <= declared
