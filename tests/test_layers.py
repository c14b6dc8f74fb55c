"""Who may import whom. Parsed, not run: an import in a function or under TYPE_CHECKING is an edge too."""

from __future__ import annotations

import ast
import configparser
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "recgraph"

# Open to all, and importing nothing of the library themselves but "accelerated" and what their own line says.
OPEN = {
    "accelerated",
    "arguments",
    "blocks",
    "bounded",
    "config",
    "engine",
    "files",
    "finite",
    "imports",
    "launcher",
    "meeting",
    "memory",
    "notebook",
    "parts",
    "ranks",
    "registry",
    "rng",
    "rows",
    "setting_texts",
    "shards",
    "sparse.ragged",
    "texts",
    "unit_length",
}

# A layer -> the layers (or single modules) of recgraph that it may import, besides itself and OPEN. A module with a
# line of its own is a layer of its own.
MAY_IMPORT: dict[str, set[str]] = {
    "accelerated": set(),
    "arguments": set(),
    "blocks": set(),
    # errors of files, and the limit of memory
    "bounded": {"data.errors", "files"},
    "config": {"bounded", "data.errors"},
    "files": {"data.errors"},
    "engine": set(),
    "finite": {"texts"},
    "imports": {"arguments", "registry"},
    "launcher": set(),
    "meeting": {"launcher"},
    "memory": set(),
    "notebook": {"texts"},
    "parts": {"config", "registry"},
    "ranks": {"blocks", "launcher", "meeting"},
    "registry": {"config"},
    "rng": {"ranks"},
    "rows": {"blocks", "shards"},
    "setting_texts": {"config"},
    "shards": set(),
    "texts": set(),
    "unit_length": set(),
    "pages": set(),
    "sparse": set(),
    "contrast": {"sparse.pair_products"},
    "losses": {"contrast.blockwise", "sparse.pair_products"},
    "data": {"sparse"},
    "graph": {"data", "sparse"},
    "data.catalog": {"data", "graph", "sparse"},
    "encoders": {"sparse"},
    "augment": {"data", "sparse"},
    "models": {"data", "graph", "augment", "encoders", "contrast", "losses", "sparse"},
    "train": {"data", "models.base"},
    "rerank": {"data", "sparse"},
    "evaluate": {"data", "graph", "rerank", "sparse"},
    "serve": {
        "data",
        "graph",
        "models.base",
        "models.heterogeneous.base",
        "models.settings",
        "evaluate",
        "rerank",
        "sparse",
    },
}
MAY_IMPORT["workers"] = {"data"}
BELOW_RUNS = {*MAY_IMPORT} - {"pages"}
# a run draws itself
MAY_IMPORT["runs"] = {"pages", *BELOW_RUNS}
MAY_IMPORT["explain"] = {
    "data",
    "graph",
    "models.base",
    "models.heterogeneous.base",
    "models.reading",
    "evaluate",
    "rerank",
    "serve",
    "sparse",
    "pages",
}
MAY_IMPORT["tuning"] = {"runs", "pages", *BELOW_RUNS}
MAY_IMPORT["leaderboard"] = {"runs", "pages", "tuning", *BELOW_RUNS}
ALL = set(MAY_IMPORT)
MAY_IMPORT["cli"] = ALL
MAY_IMPORT["__main__"] = {"cli"}
# the public names: each is imported when it is first used
MAY_IMPORT["__init__"] = ALL

# Third-party package -> the layers or modules that may import it; "*" is all of recgraph.
THIRD_PARTY: dict[str, set[str]] = {
    "torch": {"*"},
    "numpy": {"*"},
    "pydantic": {"*"},
    "scipy": {"bounded", "data", "sparse", "models", "evaluate", "explain.attribution.agreement"},
    "sklearn": {
        "contrast.clustering",
        "evaluate.node_probe",
        "explain.projection",
        "models.closed_form.linear",
        "models.two_stage.rankers",
    },
    "torch_geometric": {"graph.io", "sparse.backends.pyg"},
    "dgl": {"sparse.backends.dgl"},
    "accelerate": {"train"},
    "filelock": {"files"},
    "optuna": {"tuning", "cli.training"},
    "cmaes": {"tuning.cma_es"},
    "polars": {"bounded", "files", "data", "graph", "evaluate", "serve", "explain", "leaderboard", "runs", "cli"},
    "narwhals": {"data", "serve"},
    "pooch": {"data"},
    "requests": {"data"},
    "safetensors": {"bounded", "files", "serve", "train"},
    "faiss": {"serve.ann"},
    "onnx": {"serve.export"},
    "onnxscript": {"serve.export"},
    "typer": {"cli"},
    "rich": {"cli", "train", "tuning"},
    "IPython": {"train.display"},
    "jinja2": {"pages"},
    "tensorboard": {"train"},
    "mlflow": {"train.trackers"},
    "wandb": {"train.trackers"},
    "packaging": {"sparse.backends.dgl"},
    "psutil": {"memory", "workers"},
    "psycopg": {"tuning.storage"},
    "ray": {"workers.engines"},
    "fastapi": {"serve.http"},
    "starlette": {"serve.http"},
    "uvicorn": {"serve.http"},
    "prometheus_client": {"serve.http"},
}
# Optional, or slow to import: inside a function alone.
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
        "sklearn",
    ),
    *("fastapi", "starlette", "uvicorn", "prometheus_client", "onnx", "onnxscript"),
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


def _targets(node: ast.AST, path: Path) -> list[str]:
    """The full names of the modules that a node imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parents = path.relative_to(ROOT).parts[: -node.level]
            base = ".".join([*parents, base]) if base else ".".join(parents)
        inner = [f"{base}.{alias.name}" for alias in node.names]
        return [name if _is_module(name) else base for name in inner]
    # importlib.import_module("...") with the name written out
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
        first = node.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            return [first.value]
    return []


def _walk(node: ast.AST, lazy: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        inner = lazy or typing_only or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield child, inner
        yield from _walk(child, inner)


@cache
def edges() -> tuple[Edge, ...]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node, lazy in _walk(ast.parse(path.read_text(encoding="utf-8"))):
            for target in _targets(node, path):
                own = target.split(".")[0] == "recgraph"
                name = target.removeprefix("recgraph").removeprefix(".") if own else target.split(".")[0]
                where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
                found.append(Edge(_module(path), name, where, own, lazy))
    return tuple(found)


def _within(module: str, places: Iterable[str]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def _layer(module: str) -> str:
    """The line of the table that a module belongs to: the longest name that it begins with."""
    return max((name for name in MAY_IMPORT if _within(module, {name})), key=len, default=module.split(".")[0])


def allowed(edge: Edge) -> bool:
    """Whether an edge inside the library is in the table."""
    source, target = _layer(edge.source), _layer(edge.target)
    if edge.target == "":  # `from recgraph import __version__`; its lazy names are modules of their own
        return True
    # "sparse.ragged" too imports nothing else
    if opened := next((name for name in OPEN if _within(edge.source, {name})), None):
        return _within(edge.target, {opened, "accelerated", *MAY_IMPORT.get(opened, set())})
    if source == target or _within(edge.target, OPEN):
        return True
    # "data" does not open "data.catalog", a layer of its own; "models.base" opens a part of a layer
    return _within(edge.target, (place for place in MAY_IMPORT.get(source, set()) if len(place) >= len(target)))


def test_every_layer_is_in_the_table() -> None:
    layers = {_module(path).split(".")[0] for path in PACKAGE.rglob("*.py")}
    assert layers <= set(MAY_IMPORT), "a new layer: say in MAY_IMPORT whom it may import"


def test_the_library_imports_downwards_only() -> None:
    wrong = [edge for edge in edges() if edge.own and not allowed(edge)]
    assert [f"{edge.where}: {edge.source} may not import {edge.target}" for edge in wrong] == []


def _cycle(graph: dict[str, set[str]]) -> list[str]:
    """A cycle of the graph, its first node again at the end; empty where there is none."""
    done: set[str] = set()

    def search(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node not in done:
            for target in sorted(graph.get(node, ())):
                if found := search(target, [*path, node]):
                    return found
            done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := search(node, []))), [])


def test_no_modules_import_one_another_in_a_circle() -> None:
    """Imports inside functions and for types count."""
    graph: dict[str, set[str]] = {}
    for edge in edges():
        if edge.own and edge.source != "__init__" and edge.target:
            graph.setdefault(edge.source, set()).add(edge.target)
    assert " -> ".join(_cycle(graph)) == ""


def test_a_circle_is_found() -> None:
    assert _cycle({"a": {"b", "c"}, "b": {"c"}, "c": {"d"}}) == []
    assert _cycle({"a": {"b"}, "b": {"c"}, "c": {"d", "b"}}) == ["b", "c", "b"]


def test_nothing_imports_the_command_line() -> None:
    users = [edge for edge in edges() if edge.own and _within(edge.target, {"cli"})]
    assert [edge.where for edge in users if not _within(edge.source, {"cli", "__main__"})] == []


def test_third_party_packages_stay_in_their_place() -> None:
    wrong = []
    for edge in edges():
        if edge.own or edge.target in sys.stdlib_module_names:
            continue
        places = THIRD_PARTY.get(edge.target, set())
        if "*" not in places and not _within(edge.source, places):
            wrong.append(f"{edge.where}: {edge.source} may not import {edge.target} (allowed: {sorted(places)})")
    assert wrong == []


def test_optional_packages_are_imported_lazily() -> None:
    assert [e.where for e in edges() if not e.own and e.target in LAZY and not e.lazy] == []


def test_the_config_the_registry_and_the_launcher_do_not_need_torch() -> None:
    light = ("__init__", "config", "registry", "launcher")
    assert [e.where for e in edges() if e.source in light and e.target == "torch"] == []


def test_third_party_packages_are_declared() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = " ".join(config["options.extras_require"].values())
    lines = f"{config['options']['install_requires']}\n{extras}".splitlines()
    declared = {re.split(r"[<>=;\[ ]", line.strip())[0].lower() for line in lines if line.strip()}
    names = {
        "sklearn": "scikit-learn",
        "torch_geometric": "torch-geometric",
        "faiss": "faiss-cpu",
        "IPython": "ipykernel",
        "requests": "pooch",
        "starlette": "fastapi",
        "prometheus_client": "prometheus-client",
    }
    used = {e.target for e in edges() if not e.own and e.target not in sys.stdlib_module_names}
    assert {names.get(name, name) for name in used} <= declared


@pytest.mark.parametrize(
    ("source", "target", "fine"),
    [
        ("data.split", "rng", True),
        ("data.split", "graph.hetero", False),
        ("data.split", "data.catalog.cards", False),
        ("data.catalog.graphs", "graph.hetero", True),
        ("graph.hetero", "data.ids", True),
        ("graph.hetero", "data.catalog", False),
        ("runs.fit", "data.catalog.graphs", True),
        ("contrast.term", "sparse.ragged", True),
        ("contrast.term", "sparse.csr", False),
        ("train.trainer", "models.base", True),
        ("train.trainer", "models.sequence.mclrec", False),
        ("train.trainer", "evaluate.protocol", False),
        ("models.closed_form.linear", "train.trainer", False),
        ("rng", "config", False),
        ("registry", "config", True),
        ("config", "registry", False),
        ("imports", "registry", True),
        ("imports", "data", False),
        ("sparse.ragged", "sparse.csr", False),
        ("runs.fit", "serve.bundle", True),
        ("runs.fit", "cli.app", False),
        ("runs.fit", "tuning.study", False),
        ("serve.bundle", "", True),
        ("cli.training", "runs.fit", True),
        ("tuning.study", "runs.fit", True),
        ("tuning.study", "leaderboard.plan", False),
    ],
)
def test_the_rule_itself(source: str, target: str, fine: bool) -> None:
    assert allowed(Edge(source, target, "", True, False)) is fine
