"""Stages whose growth is known: linear in time and memory, and quadratic, half of it done."""

from __future__ import annotations

import time

from experiments.bench.growth import Stage


def _burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def _held(mebibytes: int) -> None:
    kept = bytearray(mebibytes * 2**20)
    kept[::4096] = bytes(len(kept[::4096]))


def _linear(size: int) -> None:
    _held(size)
    _burn(0.005 * size)


def _quadratic(prepared: dict[str, int]) -> float:
    _burn(0.0005 * prepared["size"] ** 2)
    return 0.5


def _pairs(prepared: dict[str, int]) -> float:
    return float(prepared["size"] ** 2)


def _prepared(size: int) -> dict[str, int]:
    _held(300)
    return {"size": size}


def stages() -> list[Stage]:
    return [
        Stage("linear", (10, 20, 40), "parts", _linear),
        Stage("quadratic", (10, 20, 40), "parts", _quadratic, _prepared, counted="pairs", count=_pairs),
    ]
