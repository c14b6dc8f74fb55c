"""The bundle that is served now, and the watch over its folder: a new one takes over without a pause."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import polars as pl

from recgraph.serve.http.asked import Limits
from recgraph.serve.http.served import Served
from recgraph.serve.loading import bundle_of

__all__ = ["Outcome", "Shelf"]

Outcome = Literal["loaded", "unchanged", "refused"]
_log = logging.getLogger(__name__)


class Shelf:
    """Holds the bundle that answers, and replaces it when its folder holds another.

    Requests that are being answered keep the bundle they began with. A new bundle that cannot be read is refused, and
    the old one goes on.

    Args:
        path: of a bundle or a run; each time it is looked at, symbolic links are followed anew.
        limits: of requests.
        device: where models compute.
        poll_s: seconds between two looks at the folder.
        observe: is told the outcome of each attempt to reload.
        threads: batches that are answered at the same time.
    """

    def __init__(
        self,
        path: Path,
        limits: Limits,
        device: str,
        poll_s: float,
        observe: Callable[[Outcome, Served], None],
        threads: int = 1,
    ) -> None:
        self.path, self._poll_s, self._observe = path, poll_s, observe
        self._load = partial(Served.load, path, limits, device, threads)
        self.n_reloads = 0
        self.last_error: str | None = None
        self._loading = asyncio.Lock()
        self._tried = signature(path)
        self.served = self._load()

    async def watch(self) -> None:
        """Look at the folder again and again, and reload when it has changed and stayed the same for two looks."""
        before = self._tried
        while True:
            await asyncio.sleep(self._poll_s)
            now = await asyncio.to_thread(signature, self.path)
            if now is not None and now == before and now != self._tried:
                await self.reload()
            before = now

    async def reload(self) -> dict[str, Any]:
        """Read the bundle again, in a thread.

        Returns:
            ``outcome``, the ``bundle`` that is served now and, where it was refused, ``error``.
        """
        async with self._loading:
            self._tried = await asyncio.to_thread(signature, self.path)
            start = time.perf_counter()
            try:
                new = await asyncio.to_thread(self._load)
            except (Exception, pl.exceptions.PanicException) as error:  # a damaged bundle may fail in any way
                told = f"{type(error).__name__}: {error}"
                _log.error("%s was not loaded, %s goes on: %s", self.path, self.served.identity, told)
                self.last_error = self._without_folder(told)
                return self._told("refused")
            self.last_error = None
            if new.identity == self.served.identity:
                return self._told("unchanged")
            old, self.served = self.served, new
            self.n_reloads += 1
            taken = time.perf_counter() - start
            _log.info("%s: bundle %s takes over from %s (%.1f s)", self.path, new.identity, old.identity, taken)
            return self._told("loaded")

    def _without_folder(self, text: str) -> str:
        """The text for those who ask over HTTP: where the bundle lies on this machine is not their concern."""
        for place in (self.path.resolve(), self.path.absolute(), self.path):
            for folder in (place, place.parent):
                text = text.replace(f"{folder}/", "") if folder.name else text
        return text

    def _told(self, outcome: Outcome) -> dict[str, Any]:
        self._observe(outcome, self.served)
        told = {"outcome": outcome, "bundle": self.served.identity}
        return told if self.last_error is None else {**told, "error": self.last_error}


def signature(path: Path) -> tuple[Any, ...] | None:
    """What changes when a file of the bundle does; None where there is no bundle, as while a folder is replaced."""
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: links in a circle
        folder = bundle_of(path).resolve(strict=True)
        files = [(file, file.stat()) for file in sorted(folder.rglob("*"))]
        return (folder, *((file, at.st_ino, at.st_size, at.st_mtime_ns) for file, at in files if file.is_file()))
    return None
