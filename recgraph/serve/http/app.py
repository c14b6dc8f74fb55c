"""The service as an ASGI application: paths, statuses and bodies."""

# no postponed annotations: FastAPI reads those of the functions below, whose types are imported inside a function

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from recgraph import __version__
from recgraph.serve.http.described import asked_by, similar_by, told
from recgraph.serve.http.errors import Refused
from recgraph.serve.http.service import Service
from recgraph.texts import for_terminal

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["GONE", "make_app"]

_log = logging.getLogger(__name__)
_JSON = "application/json"
#: entry of the state of a request whose client has gone
GONE = "recgraph.gone"
#: a body that is not read to its end ends the connection
_HEADERS = {408: {"connection": "close"}, 413: {"connection": "close"}, 503: {"retry-after": "1"}}
_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, _Receive, _Send], Awaitable[None]]


def make_app(service: Service) -> "FastAPI":
    """The application of a service.

    ``POST /recommend``, ``POST /similar``, ``GET`` (or ``HEAD``) ``/health``, ``GET /metrics`` and, where the service's
    options say so, ``POST /reload``; ``GET /openapi.json`` describes them.

    Raises:
        ImportError: FastAPI is not installed.
    """
    try:
        from fastapi import FastAPI, Request, Response
        from starlette.exceptions import HTTPException
        from starlette.requests import ClientDisconnect
        from starlette.responses import PlainTextResponse
    except ImportError:
        raise ImportError("fastapi is not installed; pip install 'recgraph[api]'") from None

    def answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
        # what repeats a part of the request is shown on terminals; the written out JSON is the same
        body = content if isinstance(content, bytes) else for_terminal(json.dumps(content, ensure_ascii=False)).encode()
        return Response(body, status, headers, _JSON)

    class Dropping(Response):
        """An answer before the body is read to its end: the rest is read and dropped for a time, as a client that sends
        all before it reads an answer would find the connection reset in its place."""

        stream: Any

        async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
            async def sent(message: _Message) -> None:
                if message["type"] != "http.response.body":
                    await send(message)
                    return
                await send({**message, "more_body": True})
                with contextlib.suppress(TimeoutError, ClientDisconnect):
                    async with asyncio.timeout(service.limits.read_s):
                        async for _ in self.stream:
                            pass
                await send({"type": message["type"]})

            await super().__call__(scope, receive, sent)

    async def asked(request: Request, told_by: Callable[[bytes, Callable[[], bool]], Awaitable[bytes]]) -> Response:
        stream = request.stream()
        try:
            declared = request.headers.get("content-length", "")
            body = await _read(stream, declared, service.limits.body_kib * 1024, service.limits.read_s)
            # the connection's state, where the server keeps one (see server.bounded)
            gone = request.scope.get("state", {}).get
            return answer(await told_by(body, lambda: gone(GONE, False)))
        except Refused as refused:
            told = answer(refused.to_dict(), refused.status, _HEADERS.get(refused.status))
            if refused.status == 413:
                told = Dropping(told.body, told.status_code, dict(told.headers))
                told.stream = stream
            return told

    async def recommend(request: Request) -> Response:
        return await asked(request, service.recommend)

    async def similar(request: Request) -> Response:
        return await asked(request, service.similar)

    async def health() -> Response:
        return answer(service.health())

    async def metrics() -> Response:
        text, kind = service.figures.text()
        return Response(text, 200, None, kind)

    async def reload() -> Response:
        told = await service.shelf.reload()
        return answer(told, 409 if told["outcome"] == "refused" else 200)

    async def other(request: Request, error: Exception) -> Response:
        """A path or a method that is not there."""
        assert isinstance(error, HTTPException)
        text = f"{request.method[:20]} {request.url.path[:200]}: {error.detail}; there are {there}"
        return answer({"error": text}, error.status_code, dict(error.headers or {}))

    app = FastAPI(
        title="recgraph",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # behind a proxy the address would be another's
        lifespan=lambda _: service.running(),
        exception_handlers={HTTPException: other},
    )
    for path, handle, body, summary in (
        ("/recommend", recommend, asked_by(service.limits), "Recommend items"),
        ("/similar", similar, similar_by(service.limits), "Similar items"),
    ):
        # the first of two routes answers; the second, whose handling costs more, is there for the description
        app.add_route(path, handle, methods=["POST"], include_in_schema=False)
        app.post(path, openapi_extra={"requestBody": body}, summary=summary, responses=told(path))(handle)
    app.get("/health", summary="The bundle that is served", responses=told("/health"))(health)
    app.head("/health", include_in_schema=False)(health)  # load balancers ask so
    app.get("/metrics", summary="Figures for Prometheus", responses=told("/metrics"), response_class=PlainTextResponse)(
        metrics
    )
    if service.options.admin:
        app.post("/reload", summary="Load the bundle again", responses=told("/reload"))(reload)
    paths = {"/recommend": "POST", "/similar": "POST", "/health": "GET", "/metrics": "GET", "/openapi.json": "GET"}
    paths |= {"/reload": "POST"} if service.options.admin else {}
    there = ", ".join(f"{method} {path}" for path, method in paths.items())
    app.add_middleware(_Counted, service=service, paths=frozenset(paths))
    return app


async def _read(stream: Any, declared: str, most: int, seconds: float) -> bytes:
    """The body of a request.

    Raises:
        Refused: it is longer than ``most`` bytes, or not there in time.
    """
    too_long = Refused(
        413, f"the body is longer than {most // 1024} KiB; send fewer users or items, or shorter lists of ids"
    )
    if declared.isdecimal() and int(declared[:20]) > most:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in stream:
                body += chunk
                if len(body) > most:
                    raise too_long
    except TimeoutError:
        raise Refused(408, f"the body was not there after {seconds:g} s; send it at once") from None
    return bytes(body)


class _Counted:
    """Counts requests and their time, and turns an unexpected error into an answer without a traceback."""

    def __init__(self, app: _App, service: Service, paths: frozenset[str]) -> None:
        self._app, self._service, self._paths = app, service, paths

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def counted(message: _Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        path = scope["path"] if scope["path"] in self._paths else "other"
        try:
            await self._app(scope, receive, counted)
        except Exception as error:
            if type(error).__name__ == "ClientDisconnect":
                status = 499
                return
            _log.exception("%s %s failed", scope["method"], path)
            if status == 0:
                text = b'{"error": "the service failed; its log says why"}'
                head = [(b"content-type", _JSON.encode()), (b"content-length", str(len(text)).encode())]
                await counted({"type": "http.response.start", "status": 500, "headers": head})
                await counted({"type": "http.response.body", "body": text})
        finally:
            self._service.figures.request(path, status or 499, time.perf_counter() - start)
