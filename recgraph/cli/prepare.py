"""``recgraph data prepare``: split a large log in shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recgraph.cli.data_options import GivenFile
from recgraph.cli.machine import EngineOption, EngineSetOption, MemoryLimitOption, given_engine, take
from recgraph.cli.output import FormatOption, note, show

__all__ = ["prepare"]

_SET = "A parameter of the split, e.g. valid_from=2024-05-01; may be given many times."


def prepare(
    context: typer.Context,
    source: GivenFile,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder of the split; a split that is there is replaced.")
    ],
    split: Annotated[str, typer.Option(help="leave-one-out, ratio, time or all.")] = "leave-one-out",
    settings: Annotated[list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help=_SET)] = None,
    shard_rows: Annotated[int, typer.Option(min=1, help="Rows of a Parquet file that are read at a time.")] = 5_000_000,
    range_rows: Annotated[int, typer.Option(min=1, help="About so many are sorted and written at a time.")] = 5_000_000,
    engine: EngineOption = None,
    engine_set: EngineSetOption = None,
    memory_limit: MemoryLimitOption = None,
    form: FormatOption = None,
) -> None:
    """Split a log that is larger than memory, file by file, and keep the split as Parquet files by users.

    It is the split that `recgraph train --data` makes, with the same hash: of csv, tsv, jsonl and Parquet, where the
    part of an interaction depends on its user's alone. Python reads it: SealedSplit.load(FOLDER).
    """
    take(context, memory_limit=memory_limit)
    from recgraph.data.log_file import LogFile
    from recgraph.data.preparing import prepare as run
    from recgraph.setting_texts import parse_settings

    with source.shown():
        made = run(
            LogFile(source.path, source.reading),
            out,
            split,
            params=parse_settings(settings or []),
            engine=given_engine(engine, engine_set),
            shard_rows=shard_rows,
            range_rows=range_rows,
        )
    note(f"{made.n_shards} shards read, {made.n_ranges} ranges of users written to {out}")
    counts = {"users": made.n_users, "items": made.n_items, "interactions": made.n_interactions}
    show([{"folder": str(out), **counts, "hash": made.hash[:12]}], form)
