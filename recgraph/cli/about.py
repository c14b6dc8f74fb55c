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
from itertools import chain
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
    state = "was prepared already" if prepared.cached else "prepared"
    row = {
        "name": prepared.card.name,
        **prepared.counts,
        "source": prepared.source,
        "state": state,
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
        card, log = write_card(source.dataset, out, Reading.of(source.reading))
    row = {
        "card": str(card),
        "users": log.n_users,
        "items": log.n_items,
        "interactions": len(log),
    }
    show([row], form)
    note(
        f"try next: recgraph train popularity --dataset {shlex.quote(str(card))} --out runs/popularity"
    )


data.command("init", no_args_is_help=True)(takes_file(init))


#: keys of a card that say how files are laid out
_LAYOUT = ("layout", "files")


def _facts(card: dict[str, Any], prefix: str = "") -> Iterator[dict[str, Any]]:
    """A card as rows of key and value; nested keys are joined by dots, the layout of files is left
    out.
    """
    for key, value in card.items():
        if key in _LAYOUT:
            continue
        if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
            value = {str(place): entry for place, entry in enumerate(value, 1)}
        if isinstance(value, dict):
            yield from _facts(value, f"{prefix}{key}.")
        else:
            if isinstance(value, str):
                value = value.strip()
            yield {"key": prefix + key, "value": value}


def models(
    name: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Show this one in detail.")
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="With MODEL, also those of its parts and of training.")
    ] = False,
    form: FormatOption = None,
) -> None:
    """List the models; with MODEL, its settings, its own before those that it shares with
    others.
    """
    from recgraph import registry
    from recgraph.train.fit import parts_of

    if name is None:
        _list_models(form or default_format())
        return
    model = registry.load("model", name)
    note(_first_line(model))
    parts = {"model": model.Config}
    if all_:
        parts |= parts_of(model)
    rows = []
    for part, config in parts.items():
        rows += _settings(part, config, all_)
    if all_:
        _show_settings(rows, form)
        return
    _show_settings(rows[:_SCREEN], form)
    note(
        f"all, those of its parts and of training (learning_rate, max_epochs, ...): recgraph models {name} --all"
    )


def _list_models(form: Format) -> None:
    from recgraph import registry

    names = registry.names("model")
    width = 1000
    if form == "table":
        width = max(9, 58 - max(map(len, names)))
    rows = []
    for name in names:
        model = registry.load("model", name)
        rows.append(
            {
                "model": name,
                "update": "no" if model.reads_graph else _UPDATES[model.updated_by],
                "what": textwrap.shorten(_first_line(model), width, placeholder="…"),
            }
        )
    show(rows, form)
    note("their settings: recgraph models MODEL")


#: settings of a model that stand on a screen
_SCREEN = 20
#: how `recgraph update` takes in a new log
_UPDATES = {"training": "trained on", "fitting": "fitted again", None: "no"}


def _settings(part: str, config: type[Config], all_: bool = False) -> list[dict[str, Any]]:
    """Rows of a configuration, first what the class itself says, then what it inherits; ``all_``:
    also of the parts in it.
    """
    from recgraph.config import search_of, walk

    declared = list(chain.from_iterable(map(inspect.get_annotations, config.__mro__)))
    rows = []
    for name, field, value in walk(config):
        if "." in name and not all_:
            continue
        default = "required" if field.is_required() else _default(value)
        rows.append(
            {
                "of": part,
                "setting": name,
                "default": default,
                "type": _type(field),
                "allowed": _allowed(field),
                "searched": str(search_of(field) or ""),
                "meaning": field.description or "",
            }
        )
    return sorted(rows, key=lambda row: declared.index(row["setting"].partition(".")[0]))


def _show_settings(rows: list[dict[str, Any]], form: Format | None) -> None:
    """Print settings; in a table their types and ranges stand behind their meanings, so that 80
    characters suffice.
    """
    form = form or default_format()
    if form == "table":
        rows = list(map(_short_setting, rows))
    show(rows, form)


def _short_setting(row: dict[str, Any]) -> dict[str, Any]:
    meaning = row["meaning"]
    if row["allowed"]:
        meaning += f" ({row['allowed']})"
    elif row["type"][0].islower():
        meaning += f" ({row['type']})"
    return {"setting": row["setting"], "default": row["default"], "meaning": meaning}


def _default(value: Any) -> str:
    from recgraph.config import Config

    if value is None:
        return "none"
    if isinstance(value, tuple) and value:
        return ", ".join(map(_default, value))
    if isinstance(value, Config):
        return str(getattr(value, "part_name", "see --all"))
    return str(value)


def _allowed(field: FieldInfo) -> str:
    bounds = []
    for bound in field.metadata:
        for key, sign in _SIGNS.items():
            if hasattr(bound, key):
                bounds.append(f"{sign} {getattr(bound, key)}")
    return " and ".join(bounds)


#: of a bound of pydantic
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "a multiple of"}


def _type(field: FieldInfo) -> str:
    """The annotation in words; the kind where it is a part's."""
    annotation = field.annotation
    for entry in field.metadata:
        if hasattr(entry, "kind"):
            return str(entry.kind)
    if isinstance(annotation, type) and not get_args(annotation):
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
    if kind is None:
        kinds = [each for each in registry.KINDS if each not in ("graph", "metric", "model")]
    else:
        kinds = [kind]
    rows = []
    for each in kinds:
        for key in registry.names(each):
            part = registry.part_class(each, key)
            rows.append(
                {
                    "kind": part.part_kind,
                    "part": part.part_name,
                    "what": _first_line(part),
                    "settings": list(part.model_fields),
                }
            )
    show(rows, form)


def _first_line(model: type[Any]) -> str:
    return (model.__doc__ or "").strip().partition("\n")[0].replace("``", "")


def doctor(form: FormatOption = None) -> None:
    """Show what to put into a bug report: versions, devices, threads, caches, optional packages."""
    import torch

    from recgraph.data.catalog import home
    from recgraph.train.record import machine

    rows = [
        ("version", "recgraph", __version__),
        ("version", "python", f"{platform.python_version()} ({sys.executable})"),
    ]
    for name in _dependencies():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            version = "not installed"
        rows.append(("package", name, version))
    omp_threads = os.environ.get("OMP_NUM_THREADS", "")
    recgraph_home = os.environ.get("RECGRAPH_HOME", "")
    rows += [
        ("machine", "platform", platform.platform()),
        ("machine", "threads", f"{torch.get_num_threads()} (OMP_NUM_THREADS={omp_threads})"),
        ("device", "cpu", f"{machine()}, {torch.backends.cpu.get_cpu_capability()}"),
    ]
    for number in range(torch.cuda.device_count()):
        rows.append(("device", f"cuda:{number}", torch.cuda.get_device_name(number)))
    rows.append(("cache", "prepared data", f"{home()} (RECGRAPH_HOME={recgraph_home})"))
    show((dict(zip(("part", "name", "value"), row, strict=True)) for row in rows), form)


def _dependencies() -> list[str]:
    """The packages that recgraph needs, or may use, each once."""
    names = dict[str, None]()
    for requirement in metadata.requires("recgraph") or ():
        if not re.search("extra == .(dev|docs)", requirement):
            names[re.split(r"[^\w-]", requirement, maxsplit=1)[0].lower()] = None
    return list(names)
