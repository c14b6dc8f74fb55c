"""The service without its protocol: the bundle that answers and what replaces it, batches of requests, figures."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import torch
from pydantic import Field

from recgraph.config import Config
from recgraph.serve.bundle import bundle_of
from recgraph.serve.http.served import BATCH_USERS, Answer, Limits, Recommend, Refused, Served, Similar

__all__ = ["Limits", "Options", "Service"]

_log = logging.getLogger(__name__)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.1, 0.25, 0.5, 1, 2.5)
_USERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Options(Config):
    """How the service works."""

    threads: Annotated[int, Field(ge=1, description="batches ranked at the same time")] = 1
    device: Annotated[str, Field(description="where models compute")] = "cpu"
    poll_s: Annotated[float, Field(gt=0, description="seconds between two looks at the bundle's folder")] = 0.5
    admin: Annotated[bool, Field(description="answer POST /reload")] = False


class Service:
    """Answers requests from the bundle in a folder, and replaces it when the folder holds another.

    Requests that are being answered keep the bundle they began with. A new bundle that cannot be read is refused, and
    the old one goes on.

    Args:
        path: of a bundle or a run; each time it is looked at, symbolic links are followed anew.
        limits: of requests.
        options: see there.

    Raises:
        BundleError: there is no bundle of a recommender, or it is damaged.
        ImportError: the extra ``api`` is not installed.
    """

    def __init__(self, path: Path, limits: Limits, options: Options) -> None:
        self.path, self.limits, self.options = path, limits, options
        self.n_reloads = 0
        self.reload_error: str | None = None
        self._started = time.monotonic()
        self._loading = asyncio.Lock()
        self._tried = _signature(path)
        self.served = Served.load(path, limits, options.device)
        self._batcher: _Batcher | None = None
        self.figures = Figures(self)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Within the block batches are ranked and the folder is watched."""
        self._batcher = _Batcher(self)
        watch = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            await self._batcher.close()
            self._batcher = None

    async def answer(self, request: Recommend | Similar) -> bytes:
        """The body of the answer to a request.

        Raises:
            Refused: the request does not fit the bundle, or too many wait.
        """
        assert self._batcher is not None, "requests are answered within running()"
        try:
            answer = await self._batcher.ask(self.served, request)
        except Refused as refused:
            self.figures.unknown(refused)
            raise
        self.figures.unknown(answer)
        return answer.body

    def health(self) -> dict[str, Any]:
        """The bundle that is served, since when, and how the last reload ended."""
        return {
            "status": "ok",
            "bundle": self.served.describe(),
            "loaded": datetime.fromtimestamp(self.served.loaded, UTC).isoformat(timespec="seconds"),
            "reloads": self.n_reloads,
            "reload_error": self.reload_error,
            "uptime_s": round(time.monotonic() - self._started, 1),
            "waiting": self.n_waiting,
            "limits": self.limits.model_dump(mode="json"),
        }

    @property
    def n_waiting(self) -> int:
        """Requests that no thread has begun to rank."""
        return 0 if self._batcher is None else len(self._batcher.queue)

    async def _watch(self) -> None:
        """Look at the folder again and again, and reload when it has changed and stayed the same for two looks."""
        before = self._tried
        while True:
            await asyncio.sleep(self.options.poll_s)
            now = await asyncio.to_thread(_signature, self.path)
            if now is not None and now == before and now != self._tried:
                await self.reload()
            before = now

    async def reload(self) -> dict[str, Any]:
        """Read the bundle again, in a thread -> ``outcome``, the ``bundle`` that is served now and, where the new one
        was refused, ``error``."""
        async with self._loading:
            self._tried = await asyncio.to_thread(_signature, self.path)
            outcome, error = "unchanged", None
            try:
                new = await asyncio.to_thread(Served.load, self.path, self.limits, self.options.device)
            except (Exception, pl.exceptions.PanicException) as failed:  # a damaged bundle may fail in any way
                outcome, error = "refused", f"{type(failed).__name__}: {failed}"
                _log.error("%s was not loaded, %s goes on: %s", self.path, self.served.identity, error)
            else:
                if new.identity != self.served.identity:
                    outcome, self.n_reloads = "loaded", self.n_reloads + 1
                    _log.info("%s: bundle %s takes over from %s", self.path, new.identity, self.served.identity)
                    self.served = new
            self.reload_error = error
            self.figures.reload(outcome, self.served)
            found = {"outcome": outcome, "bundle": self.served.identity}
            return found if error is None else {**found, "error": error}


def _signature(path: Path) -> tuple[Any, ...] | None:
    """What changes when a file of the bundle does; None where there is no bundle, as while a folder is replaced."""
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: links in a circle
        folder = bundle_of(path).resolve(strict=True)
        files = [(file, file.stat()) for file in sorted(folder.rglob("*"))]
        return (folder, *((file, at.st_ino, at.st_size, at.st_mtime_ns) for file, at in files if file.is_file()))
    return None


@dataclass(frozen=True)
class _Waiting:
    served: Served
    request: Recommend | Similar
    answer: asyncio.Future[Answer]


class _Batcher:
    """Collects the requests that wait at the same moment and answers them together, in threads beside the event loop.

    There is no pause to wait for more: under load batches grow by themselves, and a lone request is ranked at once.
    """

    def __init__(self, service: Service) -> None:
        self._service, threads = service, service.options.threads
        self.queue: deque[_Waiting] = deque()
        self._some = asyncio.Condition()
        # each batch computes with one thread, a setting of each thread's own
        self._pool = ThreadPoolExecutor(threads, "recgraph-rank", initializer=torch.set_num_threads, initargs=(1,))
        self._workers = [asyncio.create_task(self._work()) for _ in range(threads)]

    async def ask(self, served: Served, request: Recommend | Similar) -> Answer:
        """Answer a request by the given bundle.

        Raises:
            Refused: nothing is known of a user, or too many requests wait.
        """
        if len(self.queue) >= self._service.limits.waiting:
            raise Refused(503, f"{len(self.queue)} requests are waiting; send this one again in a second")
        waiting = _Waiting(served, request, asyncio.get_running_loop().create_future())
        self.queue.append(waiting)
        async with self._some:
            self._some.notify()
        return await waiting.answer

    async def close(self) -> None:
        """Stop. What still waits is cancelled; a server calls this once all its requests are answered."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        for waiting in self.queue:
            waiting.answer.cancel()
        self._pool.shutdown()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            async with self._some:
                await self._some.wait_for(lambda: self.queue)
            if not (batch := self._collect()):
                continue
            start, requests = loop.time(), [waiting.request for waiting in batch]
            answers = await loop.run_in_executor(self._pool, batch[0].served.answer, requests)
            self._service.figures.batch(sum(map(len, requests)), loop.time() - start)
            for waiting, answer in zip(batch, answers, strict=True):
                if waiting.answer.done():  # cancelled
                    continue
                if isinstance(answer, Exception):
                    waiting.answer.set_exception(answer)
                else:
                    waiting.answer.set_result(answer)

    def _collect(self) -> list[_Waiting]:
        """The next requests of one bundle; some are ranked by themselves."""
        batch: list[_Waiting] = []
        n_users = 0
        while self.queue:
            first = self.queue[0]
            fits = not batch or (
                first.served is batch[0].served
                and n_users + len(first.request) <= BATCH_USERS
                and not (first.request.is_alone or batch[0].request.is_alone)
            )
            if not fits:
                break
            self.queue.popleft()
            if not first.answer.done():
                batch.append(first)
                n_users += len(first.request)
        return batch


class Figures:
    """What the service counts, in the form that Prometheus reads; in a registry of its own."""

    def __init__(self, service: Service) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
        except ImportError:
            raise ImportError("prometheus-client is not installed; pip install 'recgraph[api]'") from None
        self._registry = own = CollectorRegistry()
        text = "Requests answered."
        self._requests = Counter("recgraph_requests", text, ("path", "status"), registry=own)
        text = "From a request's head to its answer."
        self._seconds = Histogram("recgraph_request_seconds", text, ("path",), buckets=_SECONDS, registry=own)
        text = "Users, and items asked for, ranked together."
        self._users = Histogram("recgraph_batch_users", text, buckets=_USERS, registry=own)
        text = "From a batch's start to its lists."
        self._ranking = Histogram("recgraph_batch_seconds", text, buckets=_SECONDS, registry=own)
        self._reloads = Counter("recgraph_reloads", "Attempts to load a bundle.", ("outcome",), registry=own)
        for outcome in ("loaded", "unchanged", "refused"):
            self._reloads.labels(outcome)
        text = "Items of histories, skipped, and items asked for, unknown."
        self._unknown_items = Counter("recgraph_unknown_items", text, registry=own)
        self._unknown_users = Counter("recgraph_unknown_users", "Users asked for, unknown.", registry=own)
        self._fallbacks = Counter("recgraph_fallbacks", "Users who got a fallback.", registry=own)
        text = "When the bundle was loaded (unix)."
        self._bundle = Gauge("recgraph_bundle_loaded_seconds", text, ("bundle", "model"), registry=own)
        waiting = Gauge("recgraph_waiting", "Requests waiting to be ranked.", registry=own)
        waiting.set_function(lambda: service.n_waiting)
        self._show(service.served)

    def request(self, path: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def unknown(self, answer: Answer | Refused) -> None:
        """Lists were given, or refused."""
        self._unknown_items.inc(answer.n_unknown_items)
        self._unknown_users.inc(answer.n_unknown_users)
        self._fallbacks.inc(answer.n_fallbacks)

    def batch(self, n_users: int, seconds: float) -> None:
        """Users were ranked together."""
        self._users.observe(n_users)
        self._ranking.observe(seconds)

    def reload(self, outcome: str, served: Served) -> None:
        """A bundle was, or was not, loaded."""
        self._reloads.labels(outcome).inc()
        self._show(served)

    def _show(self, served: Served) -> None:
        self._bundle.clear()
        self._bundle.labels(served.identity, type(served.recommender.model).__name__).set(served.loaded)

    def text(self) -> tuple[bytes, str]:
        """The figures as Prometheus reads them, and the type of that text."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self._registry), CONTENT_TYPE_LATEST
