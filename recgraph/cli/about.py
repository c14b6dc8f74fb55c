"""``recgraph data`` (data sets), ``recgraph models`` (models and settings), ``recgraph doctor``
(for bug reports).
"""

from __future__ import annotations

import inspect
import os
import platform
import re
import shlex
import sys
import textwrap
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer

from recgraph import __version__
from recgraph.cli.options import FOUND, Source, takes_file
from recgraph.cli.output import Format, FormatOption, default_format, note, notes_of, show

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from recgraph.config import Config


data = typer.Typer(
    no_args_is_help=True, help="Data sets: list, get, info; init writes a card of your own file."
)

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The name of a card, or the path of your own.")
]
_CARD = "The card, which ends in .toml; by default called like the file, in the current folder."


@data.command("list")
def list_(form: FormatOption = None) -> None:
    """List the data sets that have a card."""
    from recgraph.data import catalog

    show(catalog.rows(), form)


@data.command()
def info(name: NameArgument, form: FormatOption = None) -> None:
    """Show the card of a data set: licence, citation, sources, expected counts, folder."""
    from recgraph.data import catalog

    show(_facts(catalog.info(name)), form)


@data.command()
def get(
    name: NameArgument,
    from_path: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FILE", help="Prepare this file (or folder), as it was published."
        ),
    ] = None,
    form: FormatOption = None,
) -> None:
    """Fetch, check and prepare a data set, and keep it under RECGRAPH_HOME."""
    from recgraph.data import catalog

    prepared = catalog.get(name, from_path)
    if prepared.card.acknowledgement:
        note(f"{prepared.card.acknowledgement.strip()}\n")
    row = {
        "name": prepared.card.name,
        **prepared.counts,
        "source": prepared.source,
        "state": "was prepared already" if prepared.cached else "prepared",
        "folder": str(prepared.path),
    }
    show([row], form)


def init(
    source: Source,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help=_CARD)] = None,
    form: FormatOption = None,
) -> None:
    """Write a card of a log of your own, which you then refine: how it is read, filters, expected
    counts.
    """
    from recgraph.data.catalog.logs import write_card
    from recgraph.data.read import Reading

    with notes_of(*FOUND):
        card, found = write_card(source.dataset, out, Reading.of(source.reading))
    show(
        [
            {
                "card": str(card),
                "users": found.n_users,
                "items": found.n_items,
                "interactions": len(found),
            }
        ],
        form,
    )
    note(
        f"try next: recgraph train popularity --dataset {shlex.quote(str(card))} --out runs/popularity"
    )


data.command("init", no_args_is_help=True)(takes_file(init))


def _facts(card: dict[str, Any], prefix: str = "") -> Iterator[dict[str, Any]]:
    """A card as rows of key and value; nested keys are joined by dots, the layout of files is left
    out.
    """
    for key, value in card.items():
        if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
            value = {str(place): entry for place, entry in enumerate(value, 1)}
        if isinstance(value, dict) and key not in ("layout", "files"):
            yield from _facts(value, f"{prefix}{key}.")
        elif key not in ("layout", "files"):
            yield {"key": prefix + key, "value": value.strip() if isinstance(value, str) else value}


def models(
    name: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Show this one in detail.")
    ] = None,
    whole: Annotated[
        bool, typer.Option("--all", help="With MODEL, also those of its parts and of training.")
    ] = False,
    form: FormatOption = None,
) -> None:
    """List the models; with MODEL, its settings, its own before those that it shares with
    others.
    """
    from recgraph import registry
    from recgraph.train.fit import parts_of

    rows: list[dict[str, Any]] = []
    if name is None:
        width = (
            1000
            if (form or default_format()) != "table"
            else max(9, 58 - max(map(len, registry.names("model"))))
        )
        for each in (registry.load("model", key) for key in registry.names("model")):
            update = _UPDATES[None if each.reads_graph else each.updated_by]
            what = textwrap.shorten(_first_line(each), width, placeholder="…")
            rows.append({"model": each.key(), "update": update, "what": what})
        show(rows, form)
        note("their settings: recgraph models MODEL")
        return
    model = registry.load("model", name)
    note(_first_line(model))
    parts = {"model": model.Config, **(parts_of(model) if whole else {})}
    rows = [row for part, config in parts.items() for row in _settings(part, config, whole)]
    _show_settings(rows if whole else rows[:_SCREEN], form)
    if not whole:
        note(
            f"all, those of its parts and of training (learning_rate, max_epochs, ...): recgraph models {name} --all"
        )


#: settings of a model that stand on a screen
_SCREEN = 20
#: how `recgraph update` takes in a new log
_UPDATES = {"training": "trained on", "fitting": "fitted again", None: "no"}


def _settings(part: str, config: type[Config], whole: bool = False) -> list[dict[str, Any]]:
    """Rows of a configuration, first what the class itself says, then what it inherits."""
    from recgraph.config import search_of, walk

    declared = [name for cls in config.__mro__ for name in inspect.get_annotations(cls)]
    found = [each for each in walk(config) if whole or "." not in each[0]]
    return [
        {
            "of": part,
            "setting": name,
            "default": "required" if field.is_required() else _default(value),
            "type": _type(field),
            "allowed": _allowed(field),
            "searched": str(search_of(field) or ""),
            "meaning": field.description or "",
        }
        for name, field, value in sorted(
            found, key=lambda each: declared.index(each[0].partition(".")[0])
        )
    ]


def _show_settings(rows: list[dict[str, Any]], form: Format | None) -> None:
    """Print settings; in a table their types and ranges stand behind their meanings, so that 80
    characters suffice.
    """
    if (form or default_format()) == "table":
        for row in rows:
            if values := row["allowed"] or (row["type"] if row["type"][0].islower() else ""):
                row["meaning"] += f" ({values})"
        rows = [{name: row[name] for name in ("setting", "default", "meaning")} for row in rows]
    show(rows, form)


def _default(value: Any) -> str:
    from recgraph.config import Config

    if isinstance(value, tuple) and value:
        return ", ".join(map(_default, value))
    if isinstance(value, Config):
        return str(getattr(value, "part_name", "see --all"))
    return "none" if value is None else str(value)


def _allowed(field: FieldInfo) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "a multiple of"}
    bounds = (
        (sign, getattr(meta, key, None)) for meta in field.metadata for key, sign in signs.items()
    )
    return " and ".join(f"{sign} {bound}" for sign, bound in bounds if bound is not None)


def _type(field: FieldInfo) -> str:
    """The annotation in words; the kind where it is a part's."""
    annotation = field.annotation
    if kind := next((each.kind for each in field.metadata if hasattr(each, "kind")), None):
        return str(kind)
    if isinstance(annotation, type) and not getattr(annotation, "__args__", None):
        return annotation.__name__
    if get_origin(annotation) is Literal:
        return ", ".join(map(str, get_args(annotation)))
    text = re.sub(r"Annotated\[[\w.]+PartConfig, part\(kind='(\w+)'\)\]", r"\1", str(annotation))
    return text.replace("typing.", "").replace("NoneType", "None")


def parts(
    kind: Annotated[
        str | None, typer.Argument(metavar="[KIND]", help="Show those of this kind alone.")
    ] = None,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Show all settings of this one.")
    ] = None,
    form: FormatOption = None,
) -> None:
    """List the parts that models are made of, by kind; with KIND and NAME, all settings of one."""
    from recgraph import registry

    if kind is not None and name is not None:
        note(_first_line(registry.load(kind, name)))
        _show_settings(_settings(kind, registry.part_class(kind, name)), form)
        return
    of_models = [each for each in registry.KINDS if each not in ("graph", "metric", "model")]
    kinds = of_models if kind is None else [kind]
    found = [registry.part_class(each, key) for each in kinds for key in registry.names(each)]
    columns = (
        {
            "kind": part.part_kind,
            "part": part.part_name,
            "what": _first_line(part),
            "settings": [*part.model_fields],
        }
        for part in found
    )
    show(columns, form)


def _first_line(model: type[Any]) -> str:
    return (model.__doc__ or "").strip().partition("\n")[0].replace("``", "")


def doctor(form: FormatOption = None) -> None:
    """Show what to put into a bug report: versions, devices, threads, caches, optional packages."""
    import torch

    from recgraph.data.catalog import home
    from recgraph.train.record import machine

    installed = {
        each.name.lower().replace("_", "-"): each.version for each in metadata.distributions()
    }
    required = [
        each
        for each in metadata.requires("recgraph") or ()
        if not re.search("extra == .(dev|docs)", each)
    ]
    packages = dict.fromkeys(re.split(r"[^\w-]", each, maxsplit=1)[0].lower() for each in required)
    rows = [
        ("version", "recgraph", __version__),
        ("version", "python", f"{platform.python_version()} ({sys.executable})"),
        *(("package", name, installed.get(name, "not installed")) for name in packages),
        ("machine", "platform", platform.platform()),
        (
            "machine",
            "threads",
            f"{torch.get_num_threads()} (OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', '')})",
        ),
        ("device", "cpu", f"{machine()}, {torch.backends.cpu.get_cpu_capability()}"),
        *(
            ("device", f"cuda:{n}", torch.cuda.get_device_name(n))
            for n in range(torch.cuda.device_count())
        ),
        (
            "cache",
            "prepared data",
            f"{home()} (RECGRAPH_HOME={os.environ.get('RECGRAPH_HOME', '')})",
        ),
    ]
    show(({"part": part, "name": name, "value": value} for part, name, value in rows), form)
