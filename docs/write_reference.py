"""Write the reference of the built documentation, as reStructuredText: ``python
docs/write_reference.py FOLDER``.

Commands, models, parts, metrics and Python names come from the library itself, the examples from
``docs/examples``. ``docs/conf.py`` calls it for each build; nothing that it writes is kept in git.
"""

from __future__ import annotations

import ast
import inspect
import json
import pkgutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command
from typer.testing import CliRunner

import recgraph as rg
from recgraph.cli.app import app
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath, propose
from recgraph.graph.node_task import NodeTask
from recgraph.train.observers import Observer

EXAMPLES = Path(__file__).with_name("examples")
#: title -> names; a module with ``__all__`` stands for its names
_LIBRARY: dict[str, list[Any]] = {
    "Data": [rg.Interactions, rg.load_data, rg.load_dataset, rg.load_split, rg.Split, rg.folds],
    "Graphs": [HeteroGraph, MetaPath, propose, NodeTask],
    "Fitting": [rg.fit, rg.fit_graph, rg.Run, rg.tune, Observer],
    "Serving": [rg.load, rg.Recommender, rg.Rules, rg.Embedder],
    "Evaluation": [rg.evaluate],
    "Explaining": [rg.explain],
    "Leaderboards": [rg.leaderboard],
    "Parts of your own": [rg.Contrast, rg.register, rg.import_file],
}
#: classes whose methods are shown
_WITH_MEMBERS = {
    rg.Interactions,
    rg.Split,
    rg.Run,
    rg.Recommender,
    rg.Embedder,
    HeteroGraph,
    Observer,
}


def _heading(title: str, line: str = "=") -> str:
    return f"{title}\n{line * len(title)}\n"


def _text(value: str) -> str:
    """As a paragraph in which nothing is markup but code between backticks."""
    parts = " ".join(value.split()).split("`")
    if len(parts) % 2 == 0:
        parts = ["\\`".join(parts)]
    told = [
        "".join(f"\\{letter}" if letter in "\\*_|@" else letter for letter in part)
        for part in parts[::2]
    ]
    code = [f"``{part}``\\ " for part in parts[1::2]]
    return "".join(text for pair in zip(told, [*code, ""], strict=True) for text in pair)


def _table(columns: list[str], rows: Iterable[Iterable[Any]], widths: str = "auto") -> str:
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in (columns, *rows):
        cells = [_text("" if cell is None else str(cell)) for cell in row]
        lines += [
            f"   {'* ' if not place else '  '}- {cell}".rstrip() for place, cell in enumerate(cells)
        ]
    return "\n".join(lines) + "\n"


def _said(*words: str) -> list[dict[str, Any]]:
    """What a command prints as JSON."""
    done = CliRunner().invoke(app, [*words, "--format", "json"], catch_exceptions=False)
    if done.exit_code:
        raise RuntimeError(f"recgraph {' '.join(words)}: {done.output}")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def commands() -> str:
    """Every command with its options."""
    parts = [_heading("Commands"), "``recgraph COMMAND --help`` shows the same.\n"]
    for name, command in _commands(get_command(app), "recgraph"):
        usage = " ".join(
            param.name.upper() for param in command.params if param.param_type_name == "argument"
        )
        parts += [
            _heading(name, "-"),
            f"``{name} {usage} [OPTIONS]``\n",
            _text(command.help or "") + "\n",
        ]
        options = [
            (
                ", ".join(f"`{name}`" for name in (*param.opts, *param.secondary_opts)),
                param.help or "",
            )
            for param in command.params
            if param.param_type_name == "option" and not param.hidden
        ]
        parts.append(_table(["option", "meaning"], options, "30 70"))
    return "\n".join(parts)


def _commands(group: Any, name: str) -> Iterator[tuple[str, Any]]:
    for key, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{name} {key}")
        else:
            yield f"{name} {key}", command


_SETTINGS = ["setting", "default", "allowed", "searched", "meaning"]


def _settings(rows: list[dict[str, Any]]) -> str:
    chosen = [[row.get(column, "") for column in _SETTINGS] for row in rows]
    return _table(_SETTINGS, chosen, "20 15 15 15 35") if chosen else "It has no settings.\n"


def models() -> str:
    """Every model with its own settings."""
    parts = [
        _heading("Models"),
        "``rg.models.NAME(setting=...)``; ``recgraph models NAME --all`` has training, too.\n",
    ]
    for row in _said("models"):
        own = [
            found
            for found in _said("models", row["model"], "--all")
            if found["of"] not in ("data", "training")
        ]
        parts += [
            _heading(row["model"], "-"),
            f"{_text(row['what'])} Update: {row['update']}.\n",
            _settings(own),
        ]
    return "\n".join(parts)


def parts() -> str:
    """Every part by its kind, metrics among them."""
    written = [
        _heading("Parts and metrics"),
        "A part is a value, a name or a table in the field of a model.\n",
    ]
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in [*_said("parts"), *_said("parts", "metric")]:
        kinds.setdefault(row["kind"], []).append(row)
    for kind, rows in kinds.items():
        told = [(row["part"], row["what"], ", ".join(row["settings"])) for row in rows]
        written += [_heading(kind, "-"), _table(["name", "what", "settings"], told, "20 50 30")]
    return "\n".join(written)


def library() -> str:
    """What ``import recgraph as rg`` offers, by its docstrings."""
    written = [_heading("The library"), "The names are imported when they are first used.\n"]
    for title, names in _LIBRARY.items():
        written.append(_heading(title, "-"))
        for name in names:
            found = (
                [getattr(name, each) for each in name.__all__] if inspect.ismodule(name) else [name]
            )
            written += [_documented(each) for each in found]
    return "\n".join(written)


def _documented(value: Any) -> str:
    kind = "autoclass" if inspect.isclass(value) else "autofunction"
    public = getattr(rg, value.__qualname__, None) is value
    path = (
        f"recgraph.{value.__qualname__}" if public else f"{value.__module__}.{value.__qualname__}"
    )
    assert pkgutil.resolve_name(path) is value
    options = (
        ("   :members:\n" if value in _WITH_MEMBERS else "   :no-members:\n")
        if kind == "autoclass"
        else ""
    )
    return f".. {kind}:: {path}\n{options}"


def examples() -> str:
    """The programs of ``docs/examples``, with their docstrings."""
    written = [
        _heading("A whole training on one screen"),
        "Public parts and a plain loop; the tests run each.\n",
    ]
    for path in sorted(EXAMPLES.glob("*.py")):
        said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        include = f".. literalinclude:: ../examples/{path.name}\n   :language: python\n"
        written += [_heading(path.name, "-"), _text(said.partition("\n\n")[0]) + "\n", include]
    return "\n".join(written)


PAGES = {
    "commands": commands,
    "models": models,
    "parts": parts,
    "library": library,
    "examples": examples,
}


def write(folder: Path) -> None:
    """Write all pages into a folder."""
    folder.mkdir(exist_ok=True)
    for name, made in PAGES.items():
        (folder / f"{name}.rst").write_text(made(), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
