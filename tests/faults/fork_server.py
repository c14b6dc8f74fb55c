"""A process that has imported the library and forks a child for each command: a case costs what the command does.

It reads requests, a JSON object a line, and answers each in a line:

    {"do": "start", "call": [module, function, arguments], "cwd", "env", "orders", "output", "error",
     "file_limit"}  -> a pid
    {"do": "wait", "pid", "seconds"}    -> exit code (or minus a signal) and CPU seconds, or null after so many seconds
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
import threading
import time
import traceback
from typing import Any, NoReturn

#: what a command imports when it needs it; nothing that begins threads
_MORE = (
    "narwhals._polars.dataframe",
    "onnxscript",
    "optuna.storages",
    "sklearn.cluster",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite",
    "torch._dynamo",
    "torch.onnx.operators",
    "torch.testing._internal.distributed.fake_pg",
    "typer._adapters",
)
#: need packages of their own, or work as they are imported
_NOT = ("recgraph.__main__", "recgraph.cli.__main__", "recgraph.sparse.backends.dgl", "recgraph.sparse.backends.pyg")


def import_all() -> None:
    """Import the library's modules, and what they import late."""
    import recgraph

    for module in pkgutil.walk_packages(recgraph.__path__, "recgraph."):
        if module.name not in _NOT and "ray" not in module.name:
            importlib.import_module(module.name)
    for name in _MORE:
        importlib.import_module(name)


def start(request: dict[str, Any]) -> int:
    """Fork a child that makes a call -> its pid; in the child it does not return."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name, number in (("output", 1), ("error", 2)):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if request.get("file_limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"],) * 2)
    if request["orders"]:
        os.environ["FAULT_ORDERS"] = request["orders"]
        assert ctypes.CDLL(None).faults_arm(request["orders"].encode()) == 0
    _exit(_call(*request["call"]))


def _call(module: str, name: str, arguments: list[Any]) -> int:
    """Make a call -> the exit code that Python would end with."""
    try:
        getattr(importlib.import_module(module), name)(*arguments)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _exit(code: int) -> NoReturn:
    """End as Python does, but for the second that it takes to tear the imported modules down."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def wait(pid: int, seconds: float) -> tuple[int, float] | None:
    """The exit code of a child, or minus the signal that ended it, and its CPU seconds; None: it still runs."""
    until = time.monotonic() + seconds
    while True:
        found, status, cost = os.wait4(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), cost.ru_utime + cost.ru_stime
        if time.monotonic() > until:
            return None
        time.sleep(0.002)


def main() -> None:
    """Serve until the requests end."""
    import_all()
    gc.collect()
    gc.freeze()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = start(request) if request["do"] == "start" else wait(request["pid"], request["seconds"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
