"""Where a training stands, and the time that it took."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Progress:
    """Where a training stands; saved with every checkpoint."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    targets: int = 0
    diagnostics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


class Clock:
    """Adds the time since it was made or last updated to a training's progress."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._began = self._wall = time.perf_counter()
        self._cpu = time.process_time()

    def epoch_seconds(self) -> float:
        return time.perf_counter() - self._began

    def update(self) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        self._progress.seconds += wall - self._wall
        self._progress.cpu_seconds += cpu - self._cpu
        self._wall, self._cpu = wall, cpu
