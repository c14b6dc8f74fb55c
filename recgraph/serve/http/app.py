"""The service as an ASGI application: FastAPI reads requests and describes them at ``/openapi.json``."""

# no postponed annotations: FastAPI reads those of the functions below, whose types are made for the limits of a service

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from recgraph import __version__
from recgraph.serve.http.served import Id, Limits, Recommend, Refused, Similar
from recgraph.serve.http.service import Service

if TYPE_CHECKING:
    from fastapi import FastAPI, Response

_log = logging.getLogger(__name__)
_JSON = "application/json"
_HEADERS = {408: {"connection": "close"}, 413: {"connection": "close"}, 503: {"retry-after": "1"}}
_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]


class Error(BaseModel):
    """What is wrong with a request."""

    error: str
    field: Annotated[str | None, Field(description="of the request, which is wrong")] = None


class Entry(BaseModel):
    """An item of a list, with the columns of the item features that were asked for."""

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


class Recommended(BaseModel):
    """The answer to ``POST /recommend``."""

    bundle: Annotated[str, Field(description="names the bundle that answered")]
    results: Annotated[list[ListOfUser], Field(description="in the order of the request")]


class Alike(BaseModel):
    """The answer to ``POST /similar``."""

    bundle: Annotated[str, Field(description="names the bundle that answered")]
    results: Annotated[list[ListOfItem], Field(description="in the order of the request")]


def bodies(limits: Limits) -> tuple[type[Recommend], type[Similar]]:
    """The bodies of requests within the limits of a service."""
    shortest = min(10, limits.k)

    class RecommendRequest(Recommend):
        k: Annotated[int, Field(strict=True, ge=1, le=limits.k, description="the length of the lists")] = shortest
        users: Annotated[list[Id], Field(min_length=1, max_length=limits.users)] | None = Field(
            None, description="several users of the training data"
        )
        history: Annotated[list[Id], Field(max_length=limits.history)] | None = Field(
            None, description="the items of a new user, oldest first"
        )
        histories: (
            Annotated[
                dict[str, Annotated[list[Id], Field(max_length=limits.history)]],
                Field(min_length=1, max_length=limits.users),
            ]
            | None
        ) = Field(None, description="label -> items, of several new users")

        @model_validator(mode="after")
        def _for_someone(self) -> Self:
            given = [self.user, self.users, self.history, self.histories]
            if sum(each is not None for each in given) != 1:
                raise ValueError("give one of user, users, history and histories")
            return self

    class SimilarRequest(Similar):
        k: Annotated[int, Field(strict=True, ge=1, le=limits.k, description="the length of the lists")] = shortest
        items: Annotated[
            list[Id], Field(min_length=1, max_length=limits.users, description="items of the training data")
        ]

    return RecommendRequest, SimilarRequest


def make_app(service: Service) -> "FastAPI":
    """The application of a service: ``POST /recommend``, ``POST /similar``, ``GET`` (or ``HEAD``) ``/health``,
    ``GET /metrics`` and, where the service's options say so, ``POST /reload``.

    Raises:
        ImportError: FastAPI is not installed.
    """
    try:
        from fastapi import FastAPI, Request, Response
        from fastapi.exceptions import RequestValidationError
        from fastapi.responses import JSONResponse, PlainTextResponse
        from starlette.exceptions import HTTPException
    except ImportError:
        raise ImportError("fastapi is not installed; pip install 'recgraph[api]'") from None

    app = FastAPI(
        title="recgraph",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # behind a proxy the address would be another's
        lifespan=lambda _: service.running(),
    )
    of_users, of_items = bodies(service.limits)
    errors: dict[int | str, dict[str, Any]] = {status: {"model": Error} for status in (404, 408, 413, 422, 503)}

    @app.post("/recommend", summary="Recommend items", response_model=Recommended, responses=errors)
    async def recommend(body: of_users) -> Response:  # type: ignore[valid-type]
        return Response(await service.answer(body), media_type=_JSON)

    @app.post("/similar", summary="Similar items", response_model=Alike, responses=errors)
    async def similar(body: of_items) -> Response:  # type: ignore[valid-type]
        return Response(await service.answer(body), media_type=_JSON)

    @app.head("/health", include_in_schema=False)  # load balancers ask so
    @app.get("/health", summary="The bundle that is served")
    async def health() -> dict[str, Any]:
        return service.health()

    @app.get("/metrics", summary="Figures for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        text, kind = service.figures.text()
        return Response(text, 200, None, kind)

    if service.options.admin:

        @app.post("/reload", summary="Load the bundle again", responses={409: {"description": "it is refused"}})
        async def reload() -> Response:
            found = await service.reload()
            return JSONResponse(found, 409 if found["outcome"] == "refused" else 200)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return _refusal(error.status, str(error), error.field)

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> Response:
        found = error.errors()
        places = [each["loc"][1:2] if each["type"] != "json_invalid" else () for each in found]
        field = str(places[0][0]) if places[0] else None
        # of a value that may be of several types pydantic says of each what is wrong
        why = dict.fromkeys(each["msg"] for each, place in zip(found, places, strict=True) if place == places[0])
        return _refusal(422, f"{field or 'the body'}: {'; '.join(why)}"[:2000], field)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        return _refusal(error.status_code, f"{request.method} {request.url.path[:200]}: {error.detail}", None)

    app.add_middleware(_Bounds, service=service, paths={route.path for route in app.routes if hasattr(route, "path")})
    return app


def _refusal(status: int, text: str, field: str | None) -> "Response":
    """The response that says what is wrong."""
    from fastapi.responses import JSONResponse

    return JSONResponse(Error(error=text, field=field).model_dump(exclude_none=True), status, _HEADERS.get(status))


class _Bounds:
    """Reads bodies within the limits of size and time, counts requests, and answers 500 to what nobody has foreseen."""

    def __init__(self, app: Any, service: Service, paths: set[str]) -> None:
        self._app, self._service, self._paths = app, service, paths

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 499

        async def counted(message: _Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            try:
                body = await self._read(scope, receive)
            except Refused as refused:
                await _refusal(refused.status, str(refused), None)(scope, receive, counted)
                return
            if body is None:  # the client has gone
                return

            async def read() -> _Message:
                return {"type": "http.request", "body": body} if status == 499 else await receive()

            # every body is read as JSON
            heads = [head for head in scope["headers"] if head[0] != b"content-type"]
            await self._app({**scope, "headers": [*heads, (b"content-type", _JSON.encode())]}, read, counted)
        except Exception:
            _log.exception("%s %s failed", scope["method"], scope["path"])
            if status == 499:
                await _refusal(500, "the service failed; its log says why", None)(scope, receive, counted)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._service.figures.request(path, status, time.perf_counter() - start)

    async def _read(self, scope: _Message, receive: _Receive) -> bytes | None:
        """The body of a request.

        Raises:
            Refused: it is longer than it may be, or not there in time.
        """
        limits = self._service.limits
        too_long = Refused(413, f"the body is longer than {limits.body_kib} KiB")
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > limits.body_kib * 1024:
            raise too_long
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(limits.read_s):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > limits.body_kib * 1024:
                        raise too_long
        except TimeoutError:
            raise Refused(408, f"the body was not there after {limits.read_s:g} s") from None
        return bytes(body)
