"""Call what begins an event loop where none runs: a browser that other tests started has one in the main thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def in_own_thread(call: Callable[..., T], *arguments: Any) -> T:
    """What a call returns, or raises, in a thread of its own."""
    with ThreadPoolExecutor(1) as alone:
        return alone.submit(call, *arguments).result()
