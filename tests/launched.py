"""Run a function on several connected ranks, as a launcher would."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_SCRIPT = """
import pickle, sys
import torch.distributed as dist
function, arguments, out = pickle.loads(open(sys.argv[1], "rb").read())
dist.init_process_group("gloo")
try:
    result = function(*arguments)
    pickle.dump(result, open(f"{out}.{dist.get_rank()}", "wb"))
finally:
    dist.destroy_process_group()
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
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
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task, out = folder / "task", folder / "out"
        task.write_bytes(pickle.dumps((function, arguments, str(out))))
        printed = [folder / f"printed.{rank}" for rank in range(count)]
        ranks = []
        for rank in range(count):
            with printed[rank].open("wb") as file:
                command = [sys.executable, "-c", _SCRIPT, str(task)]
                ranks.append(
                    subprocess.Popen(command, env=environment(rank, count, port), stdout=file, stderr=subprocess.STDOUT)
                )
        try:
            _wait(ranks, seconds)
        finally:
            for process in ranks:
                process.kill()
                process.wait()
        failed = [
            f"rank {rank} ended with {process.returncode}:\n{printed[rank].read_text()}"
            for rank, process in enumerate(ranks)
            if process.returncode
        ]
        assert not failed, "\n".join(failed)
        return [pickle.loads(Path(f"{out}.{rank}").read_bytes()) for rank in range(count)]


def _wait(ranks: list[subprocess.Popen[bytes]], seconds: float) -> None:
    """Until all have ended; the others have ten seconds from when one fails."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(process.poll() is None for process in ranks):
        if any(process.poll() for process in ranks):
            end = min(end, time.monotonic() + 10)
        time.sleep(0.05)
