"""Run a function on several connected ranks, as a launcher would; or a command under torchrun."""

from __future__ import annotations

import os
import pickle
import random
import runpy
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import forked
from forked import ROOT

__all__ = ["ROOT", "environment", "free_port", "on_ranks", "torchrun"]


def free_port() -> int:
    """A port at which nobody listens, below those that Linux gives to whoever asks for any (from 32,768 on)."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_768)
        with socket.socket() as found, suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun tells a process, with the tests and the library in reach."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": "1",
    }


def on_ranks(count: int, function: Callable[..., Any], *arguments: Any, seconds: float = 240) -> list[Any]:
    """What ``function(*arguments)``, of a module that can be imported, gives on each of ``count`` gloo ranks.

    Raises:
        AssertionError: a rank failed; with what it printed.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as name, ExitStack() as ends:
        task, out = Path(name, "task"), Path(name, "out")
        task.write_bytes(pickle.dumps((function, arguments, str(out))))
        ranks = [
            ends.enter_context(forked.call("launched", "on_a_rank", str(task), env=environment(rank, count, port)))
            for rank in range(count)
        ]
        end = time.monotonic() + seconds
        while time.monotonic() < end and any(one.poll() is None for one in ranks):
            if any(one.poll() for one in ranks):  # the others have ten seconds from when one fails
                end = min(end, time.monotonic() + 10)
            time.sleep(0.02)
        for one in ranks:
            one.kill()
        failed = [
            f"rank {rank} ended with {one.returncode}:\n{one.said}" for rank, one in enumerate(ranks) if one.returncode
        ]
        assert not failed, "\n".join(failed)
        return [pickle.loads(Path(f"{out}.{rank}").read_bytes()) for rank in range(count)]


def on_a_rank(task: str) -> None:
    """In a process of :func:`on_ranks`: join the others, call the function, write what it gives."""
    import torch.distributed as dist

    function, arguments, out = pickle.loads(Path(task).read_bytes())
    # a file, not a port: of two tests that look for a free port both may find one
    rank, count = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    dist.init_process_group("gloo", init_method=f"file://{out}.store", rank=rank, world_size=count)
    try:
        Path(f"{out}.{dist.get_rank()}").write_bytes(pickle.dumps(function(*arguments)))
    finally:
        dist.destroy_process_group()


def torchrun(count: int, *arguments: object, env: dict[str, str]) -> forked.Printing:
    """Start ``torchrun --nproc-per-node count -m recgraph arguments``, whose processes are forks, too."""
    return forked.call("launched", "as_torchrun", str(count), [str(one) for one in arguments], env=env)


def as_torchrun(count: str, arguments: list[str]) -> None:
    """In the process of :func:`torchrun`: what torchrun does, with a function for the program that it starts."""
    from torch.distributed import run
    from torch.distributed.launcher.api import elastic_launch

    options = ["--nproc-per-node", count, "--master-port", str(free_port()), "--start-method", "fork"]
    config, _, _ = run.config_from_args(run.parse_args([*options, "-m", "recgraph", *arguments]))
    elastic_launch(config, entrypoint=_command)(*arguments)


def _command(*arguments: str) -> None:
    """In a process that torchrun starts; it begins without the launcher's handlers, as a new program does."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[1:] = arguments
    runpy.run_module("recgraph", run_name="__main__", alter_sys=True)
