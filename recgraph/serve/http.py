"""The service over HTTP (the extra ``api``): batches of requests, reloads, metrics, and the process
on uvicorn.

FastAPI reads requests and describes them at ``/openapi.json``. ``recgraph serve`` starts it.
"""

# no postponed annotations: FastAPI reads those of the functions below, whose types are made for the
# limits of a service

import asyncio
import contextlib
import hmac
import logging
import resource
import signal
import socket
import stat
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import polars as pl
import torch
from pydantic import BaseModel, ConfigDict, Field

from recgraph import __version__
from recgraph.config import unknown_key
from recgraph.serve.bundle import bundle_of
from recgraph.serve.service import (
    Id,
    Job,
    Limits,
    Predictor,
    RecommendRequest,
    Refused,
    Result,
    SimilarRequest,
    limited,
)

try:
    import prometheus_client as prometheus
    import uvicorn
    from fastapi import FastAPI, Request, Response
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, PlainTextResponse
    from starlette.exceptions import HTTPException
    from starlette.types import Message, Receive, Send
except ImportError as error:
    raise ImportError(f"{error.name} is not installed; pip install 'recgraph[api]'") from None

_log = logging.getLogger(__name__)
#: users, and items, of several requests that are ranked together, at most: the rows of a tile of
#: scores
BATCH_USERS = 128
#: seconds that requests in flight have when the service is asked to stop
_GRACE_S = 30
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.1, 0.25, 0.5, 1, 2.5)
_USERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_JSON = "application/json"
_HEADERS = {status: {"connection": "close"} for status in (400, 408, 413)}
_HEADERS |= {401: {"www-authenticate": "Bearer"}, 503: {"retry-after": "1"}}
#: connections that the system makes before they are taken, and those that are taken in one go
_BACKLOG, _TAKEN = 2048, 32
#: descriptors that connections leave to files and to what is taken before others are closed
_SPARE = 4 * _TAKEN + 64
T = TypeVar("T")


class Metrics:
    """What the service counts, in the form that Prometheus reads; in a registry of its own."""

    def __init__(self, n_waiting: Callable[[], int]) -> None:
        self.registry = own = prometheus.CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> prometheus.Counter:
            return prometheus.Counter(f"recgraph_{name}", text, labels, registry=own)

        def histogram(
            name: str, text: str, buckets: tuple[float, ...], *labels: str
        ) -> prometheus.Histogram:
            return prometheus.Histogram(
                f"recgraph_{name}", text, labels, buckets=buckets, registry=own
            )

        self.requests = counter("requests", "Requests answered.", "path", "status")
        self.request_seconds = histogram(
            "request_seconds", "From a request's head to its answer.", _SECONDS, "path"
        )
        self.batch_users = histogram("batch_users", "Users, and items, ranked together.", _USERS)
        self.batch_seconds = histogram(
            "batch_seconds", "From a batch's start to its lists.", _SECONDS
        )
        self.reloads = counter("reloads", "Attempts to load a bundle.", "outcome")
        self.unknown_items = counter(
            "unknown_items", "Unknown items of histories, and unknown items asked for."
        )
        self.unknown_users = counter("unknown_users", "Unknown users who got a list.")
        self.fallbacks = counter("fallbacks", "Users who got a fallback.")
        text = "When the bundle was loaded (unix)."
        self.bundle = prometheus.Gauge(
            "recgraph_bundle_loaded_seconds", text, ("bundle", "model"), registry=own
        )
        waiting = prometheus.Gauge(
            "recgraph_waiting", "Requests waiting to be ranked.", registry=own
        )
        waiting.set_function(n_waiting)


class Service:
    """Answers requests from the bundle in a folder, and replaces it when the folder holds another
    that can be read.

    Requests that wait at the same moment are answered together, in threads beside the event loop:
    under load batches grow by themselves, and a lone request is ranked at once. Each keeps the
    bundle that it began with.

    Args:
        path: of a bundle or a run; each time it is looked at, symbolic links are followed anew.
        threads: batches ranked at the same time.
        poll_s: seconds between two looks at the folder.
        admin: answer ``POST /reload``.
        api_keys: one of them stands in each request but ``/health``, as ``Authorization: Bearer
            KEY`` or ``X-API-Key``; none: all requests are answered.
    """

    def __init__(
        self,
        path: Path,
        limits: Limits | None = None,
        *,
        threads: int = 1,
        device: str = "cpu",
        poll_s: float = 0.5,
        admin: bool = False,
        api_keys: Collection[str] = (),
    ) -> None:
        self.path = path
        self.limits = limits or Limits()
        self.threads = threads
        self.device = device
        self.poll_s = poll_s
        self.admin = admin
        self.api_keys = list(map(str.encode, api_keys))
        self.reload_error: str | None = None
        self.queue: list[tuple[Job, asyncio.Future[Result]]] = []
        self._arrived = asyncio.Condition()
        self._loading = asyncio.Lock()
        self._tried = _signature(path)
        self.metrics = Metrics(lambda: len(self.queue))
        self._use(Predictor.load(path, self.limits, device))

    def _use(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.metrics.bundle.clear()
        model = type(predictor.recommender.model).__name__
        self.metrics.bundle.labels(predictor.identity, model).set(predictor.loaded)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Within the block batches are ranked and the folder is watched."""
        # each batch computes with one thread, a setting of each thread's own
        pool = ThreadPoolExecutor(
            self.threads, "recgraph-rank", initializer=torch.set_num_threads, initargs=(1,)
        )
        tasks = [asyncio.create_task(self._rank_batches(pool)) for _ in range(self.threads)]
        tasks.append(asyncio.create_task(self._watch()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for _, waiting in self.queue:
                waiting.cancel()
            pool.shutdown()

    async def respond(self, request: RecommendRequest | SimilarRequest) -> bytes:
        """The body of the response to a request; Refused where it does not fit the bundle, or too
        many wait.
        """
        if len(self.queue) >= self.limits.waiting:
            raise Refused(
                503, f"{len(self.queue)} requests are waiting; send this one again in a second"
            )
        waiting: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.queue.append((self.predictor.prepare(request), waiting))
        async with self._arrived:
            self._arrived.notify()
        result = await waiting
        self.metrics.unknown_items.inc(result.n_unknown_items)
        self.metrics.unknown_users.inc(result.n_unknown_users)
        self.metrics.fallbacks.inc(result.n_fallbacks)
        return result.body

    async def _rank_batches(self, pool: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            async with self._arrived:
                await self._arrived.wait_for(lambda: self.queue)
            batch = self._next_batch()
            if not batch:
                continue
            start = loop.time()
            jobs = [job for job, _ in batch]
            results = await loop.run_in_executor(pool, jobs[0].predictor.respond, jobs)
            self.metrics.batch_users.observe(sum(map(len, jobs)))
            self.metrics.batch_seconds.observe(loop.time() - start)
            for (_, waiting), result in zip(batch, results, strict=True):
                if waiting.done():  # cancelled
                    continue
                if isinstance(result, Exception):
                    waiting.set_exception(result)
                else:
                    waiting.set_result(result)

    def _next_batch(self) -> list[tuple[Job, asyncio.Future[Result]]]:
        """The request that has waited longest, and others that may be computed together with it."""
        batch: list[tuple[Job, asyncio.Future[Result]]] = []
        rest = []
        n_users = 0
        for job, waiting in self.queue:
            if waiting.done():
                continue
            fits = n_users + len(job) <= BATCH_USERS
            if not batch or (fits and job.key == batch[0][0].key):
                batch.append((job, waiting))
                n_users += len(job)
            else:
                rest.append((job, waiting))
        self.queue = rest
        return batch

    def health(self) -> dict[str, Any]:
        """The bundle that is served, since when, and how the last reload ended."""
        loaded = datetime.fromtimestamp(self.predictor.loaded, UTC)
        return {
            "status": "ok",
            "bundle": self.predictor.describe(),
            "loaded": loaded.isoformat(timespec="seconds"),
            "reload_error": self.reload_error,
            "waiting": len(self.queue),
            "limits": self.limits.model_dump(mode="json"),
        }

    async def _watch(self) -> None:
        """Look at the folder again and again, and reload when it has changed and stayed the same
        for two looks.
        """
        before = self._tried
        while True:
            await asyncio.sleep(self.poll_s)
            now = await asyncio.to_thread(_signature, self.path)
            if now is not None and before == now != self._tried:
                await self.reload()
            before = now

    async def reload(self) -> dict[str, Any]:
        """Read the bundle again, in a thread -> ``outcome``, the ``bundle`` that is served now and,
        where the new one was refused, ``error``."""
        async with self._loading:
            self._tried = await asyncio.to_thread(_signature, self.path)
            outcome = "unchanged"
            self.reload_error = None
            try:
                new = await asyncio.to_thread(Predictor.load, self.path, self.limits, self.device)
            except (Exception, pl.exceptions.PanicException) as error:
                # a damaged bundle may fail in any way
                outcome = "refused"
                self.reload_error = f"{type(error).__name__}: {error}"
                _log.error(
                    "%s: %s goes on: %s", self.path, self.predictor.identity, self.reload_error
                )
            else:
                if new.identity != self.predictor.identity:
                    outcome = "loaded"
                    _log.info(
                        "%s: bundle %s takes over from %s",
                        self.path,
                        new.identity,
                        self.predictor.identity,
                    )
                    self._use(new)
            self.metrics.reloads.labels(outcome).inc()
            answer = {"outcome": outcome, "bundle": self.predictor.identity}
            if self.reload_error is not None:
                answer["error"] = self.reload_error
            return answer


def _signature(path: Path) -> list[Any] | None:
    """What changes when a file of the bundle does; None where there is no bundle, as while a folder
    is replaced.
    """
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: links in a circle
        folder = bundle_of(path).resolve(strict=True)
        signature: list[Any] = [folder]
        for file in sorted(folder.rglob("*")):
            at = file.stat()
            if stat.S_ISREG(at.st_mode):
                signature.append((file, at.st_ino, at.st_size, at.st_mtime_ns))
        return signature
    return None


class Error(BaseModel):
    """What is wrong with a request."""

    error: str
    field: Annotated[str | None, Field(description="of the request, which is wrong")] = None


class Entry(BaseModel):
    """An item of a list, with the item columns of the request."""

    model_config = ConfigDict(extra="allow")
    item: Id
    score: float | None
    rank: int


class ListOfUser(BaseModel):
    """The list of a user or of a history."""

    user: Id | None
    items: list[Entry]
    fallback: bool


class ListOfItem(BaseModel):
    """The items most like an item."""

    item: Id
    items: list[Entry]
    known: bool


class Results(BaseModel, Generic[T]):
    """The response to ``POST /recommend`` or ``POST /similar``."""

    bundle: Annotated[str, Field(description="names the bundle that answered")]
    results: Annotated[list[T], Field(description="in the order of the request")]


def make_app(service: Service) -> FastAPI:
    """The application of a service: ``POST /recommend``, ``POST /similar``, ``GET`` (or ``HEAD``)
    ``/health``, ``GET /metrics`` and, of a service with ``admin``, ``POST /reload``."""
    app = FastAPI(
        title="recgraph",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # behind a proxy the address would be another's
        lifespan=lambda _: service.running(),
    )
    of_users, of_items = limited(service.limits)
    errors: dict[int | str, Any] = {
        status: {"model": Error} for status in (400, 401, 404, 408, 413, 422, 503)
    }

    @app.post(
        "/recommend",
        summary="Recommend items",
        response_model=Results[ListOfUser],
        responses=errors,
    )
    async def recommend(body: of_users) -> Response:  # type: ignore[valid-type]
        return Response(await service.respond(body), media_type=_JSON)

    @app.post(
        "/similar", summary="Similar items", response_model=Results[ListOfItem], responses=errors
    )
    async def similar(body: of_items) -> Response:  # type: ignore[valid-type]
        return Response(await service.respond(body), media_type=_JSON)

    @app.head("/health", include_in_schema=False)  # load balancers ask so
    @app.get("/health", summary="The bundle that is served")
    async def health() -> dict[str, Any]:
        return service.health()

    @app.get("/metrics", summary="Metrics for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        text = prometheus.generate_latest(service.metrics.registry)
        return Response(text, media_type=prometheus.CONTENT_TYPE_LATEST)

    if service.admin:

        @app.post(
            "/reload",
            summary="Load the bundle again",
            responses={409: {"description": "it is refused"}},
        )
        async def reload() -> Response:
            answer = await service.reload()
            status = 200
            if answer["outcome"] == "refused":
                status = 409
            return JSONResponse(answer, status)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return _refusal(error.status, str(error), error.field)

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> Response:
        bodies = {"/recommend": of_users, "/similar": of_items}
        return _invalid(error.errors(), bodies[request.url.path])

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        return _refusal(
            error.status_code, f"{request.method} {request.url.path[:200]}: {error.detail}", None
        )

    app.add_middleware(
        _Bounds,
        service=service,
        paths={route.path for route in app.routes if hasattr(route, "path")},
    )
    return app


def _invalid(errors: Sequence[Any], body: type[BaseModel]) -> Response:
    """The response to a body that pydantic finds wrong."""
    first = errors[0]
    place = first["loc"][:2]
    if len(place) == 1 or first["type"] == "json_invalid":
        return _refusal(422, f"the body: {first['msg']}")
    field = str(place[1])
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 2:
        return _refusal(422, unknown_key(field, body, what="field"), field)
    # of a value that may be of several types pydantic says of each what is wrong
    messages = dict.fromkeys(error["msg"] for error in errors if error["loc"][:2] == place)
    return _refusal(422, f"{field}: {'; '.join(messages)}", field)


def _refusal(status: int, text: str, field: str | None = None) -> Response:
    """The response that says what is wrong."""
    return JSONResponse(
        Error(error=text[:2000], field=field).model_dump(exclude_none=True),
        status,
        _HEADERS.get(status),
    )


class _Bounds:
    """Reads bodies within the limits of size and time, counts requests, and answers 500 to what
    nobody has foreseen.
    """

    def __init__(self, app: Any, service: Service, paths: set[str]) -> None:
        self._app, self._service, self._paths = app, service, paths

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 499

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._check_head(scope)
            body = await self._read(scope, receive)
            if body is None:  # the client has gone
                return

            async def read() -> Message:
                if status == 499:
                    return {"type": "http.request", "body": body}
                return await receive()

            # every body is read as JSON
            heads = dict(scope["headers"]) | {b"content-type": _JSON.encode()}
            await self._app({**scope, "headers": list(heads.items())}, read, counted)
        except Refused as refused:
            await _refusal(refused.status, str(refused))(scope, receive, counted)
        except Exception:
            _log.exception("%s %s failed", scope["method"], scope["path"])
            if status == 499:
                await _refusal(500, "the service failed; its log says why")(scope, receive, counted)
        finally:
            path = scope["path"]
            if path not in self._paths:
                path = "other"
            self._service.metrics.requests.labels(path, str(status)).inc()
            self._service.metrics.request_seconds.labels(path).observe(time.perf_counter() - start)

    def _check_head(self, scope: Message) -> None:
        """Refuse a request without a key, and one whose end two servers may see in different
        places.
        """
        heads = dict(scope["headers"])
        if b"content-length" in heads and b"transfer-encoding" in heads:
            raise Refused(400, "a request has Content-Length or Transfer-Encoding, not both")
        api_keys = self._service.api_keys
        if not api_keys or scope["path"] == "/health":
            return
        key = heads.get(b"x-api-key", b"")
        kind, _, credentials = heads.get(b"authorization", b"").partition(b" ")
        if kind.lower() == b"bearer":
            key = credentials.strip()
        if not any(hmac.compare_digest(key, api_key) for api_key in api_keys):
            raise Refused(
                401, "send a key of this service as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
            )

    async def _read(self, scope: Message, receive: Receive) -> bytes | None:
        """The body of a request; it is refused where it is longer than it may be, or not there in
        time.
        """
        limits = self._service.limits
        body = bytearray()
        more = True
        try:
            async with asyncio.timeout(limits.read_s):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > limits.body_kib * 1024:
                        raise Refused(413, f"the body is longer than {limits.body_kib} KiB")
        except TimeoutError:
            raise Refused(408, f"the body was not there after {limits.read_s:g} s") from None
        return bytes(body)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, before a bundle is read; port 0 takes a free one."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    # with the protocol: asyncio sends what is small at once by sockets that are of TCP by name
    listening = socket.socket(family, kind, protocol)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(address)
    listening.listen(_BACKLOG)
    return listening


def _bounded(base: Any, most: int, read_s: float) -> Any:
    """uvicorn's connections, at most so many: a new one takes the place of the oldest that waits
    for its client, or is refused where all are being answered. One without a request after
    ``read_s`` is closed."""
    opened: dict[Any, None] = {}

    class Connection(base):  # type: ignore[misc]
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            opened[self] = None
            self.deadline = self.loop.call_later(read_s, self.expire)
            if len(opened) > most:
                gives_way = next(each for each in opened if each is self or each.waits())
                del opened[gives_way]
                if gives_way is self:
                    transport.write(
                        b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n"
                    )
                    transport.close()
                else:
                    gives_way.transport.abort()

        def expire(self) -> None:
            if self.cycle is None:
                self.transport.abort()

        def waits(self) -> bool:
            """Whether it waits for a request, or for the rest of one."""
            return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

        def connection_lost(self, exc: Exception | None) -> None:
            opened.pop(self, None)
            self.deadline.cancel()
            super().connection_lost(exc)

    return Connection


def run(
    service: Service, listening: socket.socket, ready: Callable[[], None], most: int | None = None
) -> None:
    """Serve until SIGTERM or Ctrl-C; requests in flight are answered first. SIGHUP reads the bundle
    again.

    ``ready`` is called once requests are answered; ``most`` connections are open, or as many as
    there may be files.
    """

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            # uvicorn's own raises the signal again at the end, so that the process would not end
            # with exit code 0
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.handle_exit, number, None)
            loop.add_signal_handler(
                signal.SIGHUP, lambda: tasks.add(loop.create_task(service.reload()))
            )
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            listening.listen(_BACKLOG)  # uvicorn's is what is taken in one go
            if self.started:
                ready()

    tasks: set[asyncio.Task[Any]] = set()
    config = uvicorn.Config(
        make_app(service),
        log_config=None,
        log_level="error",  # not a line for each request that is none
        access_log=False,
        backlog=_TAKEN,
        lifespan="on",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    config.load()
    n_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = 1 << 16
    if n_files >= 0:  # else they are not limited
        room = max(n_files - _SPARE, _TAKEN)
    config.http_protocol_class = _bounded(
        config.http_protocol_class, min(most or room, room), service.limits.read_s
    )
    with listening:
        asyncio.run(Server(config).serve([listening]))
