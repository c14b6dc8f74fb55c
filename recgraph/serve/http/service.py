"""The service without its protocol: a bundle, the batches, the figures, and what is answered to a body."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from recgraph.config import Config
from recgraph.serve.http.asked import AnyAsked, Limits, Reader
from recgraph.serve.http.batching import Batcher
from recgraph.serve.http.errors import Refused
from recgraph.serve.http.figures import Figures
from recgraph.serve.http.reloading import Outcome, Shelf
from recgraph.serve.http.served import Served

__all__ = ["Options", "Service"]


class Options(Config):
    """How the service works."""

    threads: Annotated[int, Field(ge=1, description="batches ranked at the same time")] = 1
    device: Annotated[str, Field(description="where models compute")] = "cpu"
    poll_s: Annotated[float, Field(gt=0, description="seconds between two looks at the bundle's folder")] = 0.5
    admin: Annotated[bool, Field(description="answer POST /reload")] = False


class Service:
    """Answers requests from the bundle in a folder.

    Args:
        path: of a bundle or a run.
        limits: of requests.
        options: see there.

    Raises:
        BundleError: there is no bundle of a recommender, or it is damaged.
        ImportError: the extra ``api`` is not installed.
    """

    def __init__(self, path: Path, limits: Limits, options: Options) -> None:
        self.limits, self.options = limits, options
        self.shelf = Shelf(path, limits, options.device, options.poll_s, self._reloaded, options.threads)
        self.figures = Figures(self.shelf.served, self._n_waiting)
        self._started = time.monotonic()
        self._batcher: Batcher | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Within the block batches are ranked and the folder is watched."""
        self._batcher = Batcher(self.options.threads, self.limits.waiting, self.figures.batch)
        watch = asyncio.create_task(self.shelf.watch())
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            await self._batcher.close()
            self._batcher = None

    async def recommend(self, body: bytes, gone: Callable[[], bool] = lambda: False) -> bytes:
        """The answer to the body of a request for recommendations.

        Args:
            gone: whether its client has gone.

        Raises:
            Refused: the request is wrong, or its client has gone while it waited.
        """
        return await self._answer(Reader.read, body, gone)

    async def similar(self, body: bytes, gone: Callable[[], bool] = lambda: False) -> bytes:
        """The answer to the body of a request for similar items, as :meth:`recommend`."""
        return await self._answer(Reader.read_similar, body, gone)

    async def _answer(self, read: Callable[[Reader, bytes], AnyAsked], body: bytes, gone: Callable[[], bool]) -> bytes:
        assert self._batcher is not None, "requests are answered within running()"
        served = self.shelf.served
        try:
            answer = await self._batcher.ask(served, read(served.reader, body), gone)
        except Refused as refused:
            self.figures.answer(refused)
            raise
        self.figures.answer(answer)
        return answer.body

    def health(self) -> dict[str, Any]:
        """The bundle that is served, since when, and how the last reload ended."""
        served = self.shelf.served
        return {
            "status": "ok",
            "bundle": served.describe(),
            "loaded": datetime.fromtimestamp(served.loaded, UTC).isoformat(timespec="seconds"),
            "reloads": self.shelf.n_reloads,
            "reload_error": self.shelf.last_error,
            "uptime_s": round(time.monotonic() - self._started, 1),
            "waiting": self._n_waiting(),
            "limits": self.limits.model_dump(mode="json"),
        }

    def _n_waiting(self) -> int:
        return 0 if self._batcher is None else self._batcher.n_waiting

    def _reloaded(self, outcome: Outcome, served: Served) -> None:
        self.figures.reload(outcome, served)
