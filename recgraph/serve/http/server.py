"""The process that serves: a socket, signals, and the application on uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

from recgraph.serve.http.app import make_app
from recgraph.serve.http.service import Service

#: seconds that requests in flight have when the service is asked to stop
_GRACE_S = 30


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, before a bundle is read; port 0 takes a free one.

    Raises:
        ValueError: the port is taken or not allowed, or the host is no address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # with the protocol: asyncio sends what is small at once by sockets that are of TCP by name
        listening = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"--host {host} --port {port}: {error}") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise ValueError(f"--host {host} --port {port}: {error.strerror}") from None
    return listening


def run(service: Service, listening: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; requests in flight are answered first. SIGHUP reads the bundle again.

    Args:
        service: to be served.
        listening: from :func:`listen`; closed at the end.
        ready: called once requests are answered.

    Raises:
        ImportError: the extra ``api`` is not installed.
    """
    try:
        import uvicorn
    except ImportError:
        raise ImportError("uvicorn is not installed; pip install 'recgraph[api]'") from None

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            # uvicorn's own raises the signal again at the end, so that the process would not end with exit code 0
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.handle_exit, number, None)
            loop.add_signal_handler(signal.SIGHUP, lambda: tasks.add(loop.create_task(service.reload())))
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready()

    tasks: set[asyncio.Task[Any]] = set()
    config = uvicorn.Config(
        make_app(service),
        log_config=None,
        access_log=False,
        lifespan="on",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    with listening:
        asyncio.run(Server(config).serve([listening]))
