"""``recgraph recommend``: items for users of a trained run, or for histories never seen in training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recgraph.cli.output import FileFormatOption, note, show_frame

if TYPE_CHECKING:
    from recgraph.serve.recommender import Recommender

_USER = "A user of the training data; may be given many times."
_HISTORIES = "A log of histories (csv, tsv, jsonl, parquet, .inter) or, as .txt, lines of 'user item item ...'."
_FALLBACK = "Popular items for users without a history."


def recommend(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `recgraph train` wrote, or a bundle.")],
    user: Annotated[list[str] | None, typer.Option("--user", "-u", metavar="ID", help=_USER)] = None,
    histories: Annotated[Path | None, typer.Option(metavar="FILE", help=_HISTORIES)] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many items for each.")] = 10,
    keep_seen: Annotated[bool, typer.Option("--keep-seen", help="Also items that the user has had.")] = False,
    popular: Annotated[bool, typer.Option("--popular", help=_FALLBACK)] = False,
    output: Annotated[Path | None, typer.Option("--output", help="Write to this file.")] = None,
    form: FileFormatOption = None,
) -> None:
    """Recommend items to users of a run, by --user ID or by --histories FILE."""
    if bool(user) == (histories is not None):
        raise ValueError("say for whom: --user ID (once or more), or else --histories FILE")
