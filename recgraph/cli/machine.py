"""The options that say where and with what a command computes: its engine, its threads, its limit of memory."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from recgraph.parallel import Engine

PANEL = "Of the machine"
_THREADS = "Cores to compute with; by default as OMP_NUM_THREADS says, else all."
_MEMORY = "The most memory that this process may take, e.g. 8GiB: beyond it, it ends."
_ENGINE = "Where pieces run: local; ray; ray://HOST:10001, a Ray cluster.  [default: local]"
_ENGINE_SET = "A setting of the engine, e.g. workers=4, threads=2 or memory_mib=2000; may be given many times."

#: of the root and of every command
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, rich_help_panel=PANEL, metavar="N", help=_THREADS)
]
MemoryLimitOption = Annotated[
    str | None, typer.Option("--memory-limit", rich_help_panel=PANEL, metavar="SIZE", help=_MEMORY)
]
EngineOption = Annotated[str | None, typer.Option("--engine", metavar="ENGINE", help=_ENGINE)]
EngineSetOption = Annotated[list[str] | None, typer.Option("--engine-set", metavar="KEY=VALUE", help=_ENGINE_SET)]
DeviceOption = Annotated[str | None, typer.Option(help="Where to compute, e.g. cuda:1; else cuda or cpu.")]
RunArgument = typer.Argument(metavar="RUN", help="A folder that `recgraph train` wrote, or a bundle.")


def given_engine(name: str | None, settings: list[str] | None) -> Engine | None:
    """The engine of a command; None where it is this process.

    Raises:
        ValueError: no such engine, or a setting that it does not have.
    """
    if not (name or settings):
        return None
    from recgraph.config import parse_settings
    from recgraph.parallel import Engine

    engine = Engine.of({"name": name or "local", **parse_settings(settings or [], option="--engine-set")})
    return None if engine == Engine() else engine


def take(context: Any, threads: int | None = None, memory_limit: str | None = None) -> None:
    """Bound what the command takes until it ends; to be called before anything that computes is imported.

    Raises:
        ValueError: the limit is no size.
    """
    if memory_limit is not None:
        import resource

        size, before = _bytes(memory_limit), resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (size, before[1]))
        context.call_on_close(lambda: resource.setrlimit(resource.RLIMIT_AS, before))
    if threads is not None:
        # torch, its libraries and polars read them when they are imported, also in worker processes
        names = ("OMP_NUM_THREADS", "POLARS_MAX_THREADS")
        kept = {name: os.environ.get(name) for name in names}
        os.environ.update(dict.fromkeys(names, str(threads)))
        import torch

        count = torch.get_num_threads()
        torch.set_num_threads(threads)
        context.call_on_close(lambda: _give_back(kept, count))


def _give_back(names: dict[str, str | None], count: int) -> None:
    import torch

    torch.set_num_threads(count)
    for name, value in names.items():
        os.environ.pop(name)
        if value is not None:
            os.environ[name] = value


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", text.strip(), re.IGNORECASE)
    if found is None:
        raise ValueError(f"--memory-limit {text!r} is no size; write it as 8GiB or 500MB")
    number, unit, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(unit.upper() or " "))
