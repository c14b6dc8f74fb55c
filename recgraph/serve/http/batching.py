"""Requests that wait at the same moment are ranked together, in threads beside the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from recgraph.serve.http.asked import AnyAsked
from recgraph.serve.http.errors import Refused, as_exception
from recgraph.serve.http.served import BATCH_USERS, Served
from recgraph.serve.http.writing import Answer

__all__ = ["Batcher"]


@dataclass(frozen=True)
class _Waiting:
    served: Served
    asked: AnyAsked
    answer: asyncio.Future[Answer]
    gone: Callable[[], bool]


class Batcher:
    """Collects what waits and answers it together. There is no pause to wait for more: under load batches grow by
    themselves, and a lone request is ranked at once.

    Args:
        threads: batches that are ranked at the same time; each computes with one thread.
        most: requests that may wait; further ones are refused.
        observe: is told the number of users and items of each batch, and the seconds that it took.
    """

    def __init__(self, threads: int, most: int, observe: Callable[[int, float], None]) -> None:
        self._most, self._observe = most, observe
        self._queue: deque[_Waiting] = deque()
        self._some = asyncio.Condition()
        # the setting is one of each thread
        self._pool = ThreadPoolExecutor(threads, "recgraph-rank", initializer=torch.set_num_threads, initargs=(1,))
        self._workers = [asyncio.create_task(self._work()) for _ in range(threads)]

    @property
    def n_waiting(self) -> int:
        """Requests that no thread has begun to rank."""
        return len(self._queue)

    async def ask(self, served: Served, asked: AnyAsked, gone: Callable[[], bool] = lambda: False) -> Answer:
        """Answer a request by the given bundle.

        Args:
            gone: whether the client has gone; the request is then not ranked.

        Raises:
            Refused: nothing is known of a user, too many requests wait, or its client has gone.
        """
        if len(self._queue) >= self._most:
            raise Refused(503, f"{self._most} requests are waiting; send this one again in a second")
        waiting = _Waiting(served, asked, asyncio.get_running_loop().create_future(), gone)
        self._queue.append(waiting)
        async with self._some:
            self._some.notify()
        return await waiting.answer

    async def close(self) -> None:
        """Stop. What still waits is cancelled; a server calls this once all its requests are answered."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        for waiting in self._queue:
            waiting.answer.cancel()
        self._pool.shutdown()

    async def _work(self) -> None:
        while True:
            async with self._some:
                await self._some.wait_for(lambda: self._queue)
            batch = self._collect()
            if not batch:
                continue
            try:
                await self._answer(batch)
            except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # of this batch alone: a worker that ended would answer no later one
                for waiting in batch:
                    if not waiting.answer.done():
                        waiting.answer.set_exception(as_exception(error))

    async def _answer(self, batch: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        asked = [waiting.asked for waiting in batch]
        answers = await loop.run_in_executor(self._pool, batch[0].served.answer, asked)
        self._observe(sum(map(len, asked)), loop.time() - start)
        for waiting, answer in zip(batch, answers, strict=True):
            with contextlib.suppress(asyncio.InvalidStateError):  # its client has gone
                if isinstance(answer, Exception):
                    waiting.answer.set_exception(answer)
                else:
                    waiting.answer.set_result(answer)

    def _collect(self) -> list[_Waiting]:
        """The next requests of one bundle, without those whose client has gone; some are ranked by themselves."""
        batch: list[_Waiting] = []
        n_users = 0
        while self._queue:
            first = self._queue[0]
            fits = not batch or (
                first.served is batch[0].served
                and n_users + len(first.asked) <= BATCH_USERS
                and not (first.asked.is_alone or batch[0].asked.is_alone)
            )
            if not fits:
                break
            self._queue.popleft()
            if first.gone() and not first.answer.done():
                first.answer.set_exception(Refused(499, "the client has gone"))
            if not first.answer.done():
                batch.append(first)
                n_users += len(first.asked)
        return batch
