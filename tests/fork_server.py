"""A process that has imported the library and forks a child for each command: it costs what the command does.

It serves at a Unix socket, until its stdin ends. A request is a JSON object on a line, and so is its answer:

    {"do": "start", "call": [module, function, arguments] or "module": [name, arguments], "cwd", "env", ...}  -> a pid
    {"do": "wait", "pid"}  -> exit code (or minus a signal) and CPU seconds, or null while it runs

``env`` is the whole environment; ``module`` is run as by ``python -m``, or, if it is a file, by ``python``. More of a
start: ``output`` and ``error``, files; ``fds``, what the file descriptors that come with the request are to be in the
child; ``parent``, the process that it takes for its parent; ``forks_workers``, whether the workers of its pools are
forks, too; ``file_limit`` and ``dies_of_it``; ``disk``, whose mounts it takes over; ``orders`` of the fault harness.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import importlib
import json
import os
import pkgutil
import resource
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path
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
#: children that have ended
_ended: dict[int, tuple[int, float]] = {}
#: the socket where it listens, and connections
_open: list[socket.socket] = []


def import_all() -> None:
    """Import the library's modules, and what they import late."""
    import recgraph

    found = (module.name for module in pkgutil.walk_packages(recgraph.__path__, "recgraph."))
    for name in (*(name for name in found if name not in _NOT and "ray" not in name), *_MORE):
        with suppress(ImportError):  # of a package that is not installed; who needs it says so
            importlib.import_module(name)


def _place(request: dict[str, Any], given: list[int]) -> None:
    """Give the child its files."""
    above = max([2, *request.get("fds", ())]) + 1
    files = dict(zip(request.get("fds", ()), given, strict=True))
    for number, name in ((1, request.get("output")), (2, request.get("error"))):
        if name is not None:
            files[number] = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    if 0 not in files:
        files[0] = os.open(os.devnull, os.O_RDONLY)
    moved = {number: fcntl.fcntl(file, fcntl.F_DUPFD, above) for number, file in files.items()}
    for file in files.values():
        os.close(file)
    for number, file in moved.items():
        os.dup2(file, number)
        os.close(file)


def _enter(pid: int, own_user: bool) -> None:
    """Take over the mounts of a process; its users first, where it has its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    for kind in ("user", "mnt") if own_user else ("mnt",):
        space = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
        if libc.setns(space, 0):
            raise OSError(ctypes.get_errno(), f"{kind} namespace of {pid}")
        os.close(space)


def _adoptive(parent: int) -> int:
    """The process that a child takes for its parent; 1 once it is gone."""
    try:
        os.kill(parent, 0)
    except ProcessLookupError:
        return 1
    return parent


def start(request: dict[str, Any], given: list[int]) -> int:
    """Fork a child that makes a call -> its pid; in the child it does not return."""
    pid = os.fork()
    if pid:
        return pid
    for connection in _open:
        connection.close()
    os.setsid()
    if request.get("disk"):
        _enter(**request["disk"])
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = dict.fromkeys([*paths, *sys.path])
    _place(request, given)
    if "parent" in request:
        os.getppid = partial(_adoptive, request["parent"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if request.get("file_limit"):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"],) * 2)
        if request.get("dies_of_it"):  # Python has it ignored, so that the call fails instead
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    if request.get("orders"):
        os.environ["FAULT_ORDERS"] = request["orders"]
        assert ctypes.CDLL(None).faults_arm(request["orders"].encode()) == 0
    _exit(_ends(request))


def _run(name: str, arguments: list[str]) -> None:
    """As ``python -m``, or a file as ``python``."""
    sys.argv[:] = [name, *arguments]
    if name.endswith(".py"):
        sys.path.insert(0, str(Path(name).parent))
        runpy.run_path(name, run_name="__main__")
        return
    sys.path.insert(0, os.getcwd())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* found in sys.modules", category=RuntimeWarning)
        runpy.run_module(name, run_name="__main__", alter_sys=True)


def _ends(request: dict[str, Any]) -> int:
    """Make a call, or run a module -> the exit code that Python would end with."""
    try:
        if request.get("forks_workers"):
            importlib.import_module("forked").fork_workers()
        if "call" in request:
            module, name, arguments = request["call"]
            getattr(importlib.import_module(module), name)(*arguments)
        else:
            _run(*request["module"])
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


def wait(pid: int) -> tuple[int, float] | None:
    """The exit code of a child, or minus the signal that ended it, and its CPU seconds; None: it still runs."""
    if pid not in _ended:
        found, status, cost = os.wait4(pid, os.WNOHANG)
        if found:
            _ended[pid] = os.waitstatus_to_exitcode(status), cost.ru_utime + cost.ru_stime
    return _ended.get(pid)


def answer(connection: socket.socket) -> bool:
    """Answer a request; False: there will be no more."""
    text, given = b"", []
    while not text.endswith(b"\n"):
        try:
            more, fds, _, _ = socket.recv_fds(connection, 2**20, 16)
        except ConnectionError:
            return False
        given += fds
        text += more
        if not more:
            return False
    request = json.loads(text)
    found = start(request, given) if request["do"] == "start" else wait(request["pid"])
    for fd in given:
        os.close(fd)
    with suppress(ConnectionError):
        connection.sendall(json.dumps(found).encode() + b"\n")
    return True


def main() -> None:
    """Serve until stdin ends."""
    import_all()
    gc.collect()
    gc.freeze()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(sys.argv[1])
    listening.listen(64)
    _open.append(listening)
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([0, *_open], [], [])
        if 0 in ready:
            return
        for connection in ready:
            if connection is listening:
                _open.append(listening.accept()[0])
            elif not answer(connection):
                _open.remove(connection)
                connection.close()


if __name__ == "__main__":
    main()
