"""The process that serves: a socket, signals, and the application on uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import signal
import socket
import sys
import termios
from collections.abc import Callable, Iterator
from typing import Any

from recgraph.serve.http.app import GONE, make_app
from recgraph.serve.http.service import Service

__all__ = ["bounded", "listen", "run"]

#: seconds that requests in flight have when the service is asked to stop
_GRACE_S = 30
#: bytes that a client must take of its answers in the seconds that it has
_SLOWEST = 1 << 17
_TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, before a bundle is read; port 0 takes a free one.

    Raises:
        ValueError: the port is taken or not allowed, or the host is no address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no name of a host"
        raise ValueError(f"--host {host}: {why}; take 127.0.0.1 (this machine) or 0.0.0.0 (all)") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"--port {port} is taken on {host}; choose another, or 0 for any that is free") from None
        raise ValueError(f"--host {host} --port {port}: {error.strerror}") from None
    return listening


def bounded(seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol, which closes connections that are held without a request.

    Args:
        seconds: until the line and the headers of a request are there, from the end of the one before; and until a
            client that is sent an answer has read all or 128 KiB more of it.

    Raises:
        ImportError: the extra ``api`` is not installed.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Bounded(H11Protocol):
        _late: asyncio.TimerHandle | None = None
        _stuck: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()
            self._watch_reader()

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self._late, self._stuck):
                if timer is not None:
                    timer.cancel()
            if self.cycle is not None:
                self.cycle.scope["state"][GONE] = True
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._watch_reader()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._watch_reader()

        def _watch_reader(self) -> None:
            """Check after some time how far the client has read; called whenever more is written."""
            if self._stuck is not None:
                self._stuck.cancel()
            has_unread = self.transport.get_write_buffer_size() > 0
            self._stuck = self.loop.call_later(seconds, self._look, self._unread()) if has_unread else None

        def _look(self, before: int) -> None:
            if before - self._unread() >= _SLOWEST or not self.transport.get_write_buffer_size():
                self._watch_reader()
            else:
                self.transport.abort()

        def _unread(self) -> int:
            """Bytes of answers here and in the kernel, which hands on many at a time."""
            waiting = bytes(4)
            with contextlib.suppress(OSError, AttributeError):  # not everywhere, and not of a socket that is closed
                waiting = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, waiting)
            return self.transport.get_write_buffer_size() + int.from_bytes(waiting, sys.byteorder)

        def _watch(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                if self._late is not None:
                    self._late.cancel()
                self._late = None
            elif self._late is None and not self.transport.is_closing():
                self._late = self.loop.call_later(seconds, self._give_up)

        def _give_up(self) -> None:
            if not self.transport.is_closing():
                self.transport.write(_TOO_LATE)
                self.transport.close()

    return Bounded


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
            loop.add_signal_handler(signal.SIGHUP, lambda: tasks.add(loop.create_task(service.shelf.reload())))
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready()

    tasks: set[asyncio.Task[Any]] = set()
    config = uvicorn.Config(
        make_app(service),
        http=bounded(service.limits.read_s),
        log_config=None,
        access_log=False,
        lifespan="on",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    with listening:
        asyncio.run(Server(config).serve([listening]))
