"""The options that say where and with what a command computes: its engine, its threads, its limit of memory."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from recgraph.cli.output import notes_of

if TYPE_CHECKING:
    from recgraph.parallel import Engine

__all__ = ["EngineOption", "EngineSetOption", "MemoryLimitOption", "ThreadsOption", "given_engine", "take"]

PANEL = "Of the machine"
_THREADS = "Cores to compute with; by default as OMP_NUM_THREADS says, else all."
_MEMORY = "The largest address space of a process, e.g. 8GiB: what does not fit ends the command."
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, rich_help_panel=PANEL, metavar="N", help=_THREADS)
]
MemoryLimitOption = Annotated[
    str | None, typer.Option("--memory-limit", rich_help_panel=PANEL, metavar="SIZE", help=_MEMORY)
]
_ENGINE = "Where pieces run: local; ray; ray://HOST:10001, a Ray cluster.  [default: local]"
_ENGINE_SET = "A setting of the engine, e.g. workers=4, threads=2 or memory_mib=2000; may be given many times."
EngineOption = Annotated[str | None, typer.Option("--engine", metavar="ENGINE", help=_ENGINE)]
EngineSetOption = Annotated[list[str] | None, typer.Option("--engine-set", metavar="KEY=VALUE", help=_ENGINE_SET)]
#: the modules that log what they predict
_PREDICTING: tuple[str, ...] = ()
#: what torch, its libraries and polars read when they are imported, also those of worker processes
_POOLS = ("OMP_NUM_THREADS", "POLARS_MAX_THREADS")


def given_engine(name: str | None, settings: list[str] | None) -> Engine | None:
    """The engine of a command; None where it is this process.

    Raises:
        ValueError: no such engine, or a setting that it does not have.
    """
    if not (name or settings):
        return None
    from recgraph.parallel import Engine
    from recgraph.setting_texts import parse_settings

    engine = Engine.of({"name": name or "local", **parse_settings(settings or [], option="--engine-set")})
    return None if engine == Engine() else engine


def take(context: typer.Context, threads: int | None = None, memory_limit: str | None = None) -> None:
    """Bound what the command takes until it ends; to be called before anything that computes is imported.

    Raises:
        ValueError: the limit is no size.
    """
    if threads is not None:
        context.with_resource(_threads(threads))
    if memory_limit is not None:
        context.with_resource(_limit(memory_limit))
        for name in _PREDICTING:
            context.with_resource(notes_of(name))


@contextmanager
def _threads(n: int) -> Iterator[None]:
    with _environment(dict.fromkeys(_POOLS, str(n))):
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(n)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@contextmanager
def _limit(size: str) -> Iterator[None]:
    """Bound the address space of this process and of those that it starts."""
    import resource

    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(K|M|G|T)(?:i?B)?", size)
    if match is None:
        raise ValueError(f"--memory-limit {size!r} is no size; write a number and a unit, e.g. 8GiB")
    before = resource.getrlimit(resource.RLIMIT_AS)
    n_bytes = int(float(match[1]) * 2 ** (10 * (1 + "KMGT".index(match[2]))))
    resource.setrlimit(resource.RLIMIT_AS, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
