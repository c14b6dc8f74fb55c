"""The options by which commands are given an engine: where independent pieces of their work run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from recgraph.engine import Engine

__all__ = ["EngineOption", "EngineSetOption", "given_engine"]

_ENGINE = "Where pieces run: local; ray; ray://HOST:10001, a Ray cluster.  [default: local]"
_SET = "A setting of the engine, e.g. workers=4, threads=2 or memory_mib=2000; may be given many times."
EngineOption = Annotated[str | None, typer.Option("--engine", metavar="ENGINE", help=_ENGINE)]
EngineSetOption = Annotated[list[str] | None, typer.Option("--engine-set", metavar="KEY=VALUE", help=_SET)]


def given_engine(name: str | None, settings: list[str] | None) -> Engine | None:
    """The engine of a command; None where it is this process.

    Raises:
        ValueError: no such engine, or a setting that it does not have.
    """
    if not (name or settings):
        return None
    from recgraph.config import parse_settings
    from recgraph.engine import Local
    from recgraph.workers.engines import engine_of

    engine = engine_of(name, parse_settings(settings or []))
    return None if isinstance(engine, Local) else engine
