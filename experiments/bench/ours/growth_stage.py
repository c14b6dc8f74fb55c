"""One size of a stage of growth (experiments/bench/growth.py), its peak memory counted from where
the run begins.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.bench.child import resident_mb
from experiments.bench.growth import stages_of

#: the memory has settled when it has not shrunk for so long; it is waited for at most so long
_STILL_S, _PATIENCE_S = 1.5, 20.0


def settle() -> None:
    """Give back what preparing has freed: what a run then takes is not hidden by it.

    The C library keeps small blocks until it is told; polars' allocator gives pages back by a
    thread of its own, about a second after they became free. Linux alone has what is used here.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    least, still, end = resident_mb() or 0.0, time.monotonic(), time.monotonic() + _PATIENCE_S
    while time.monotonic() < min(still + _STILL_S, end):
        time.sleep(0.1)
        now = resident_mb() or 0.0
        if now < least:
            least, still = now, time.monotonic()


def forget_peak() -> None:
    """Begin the peak of the resident memory anew, at what is resident now; Linux alone has this."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_mb() -> float:
    """The peak since then, in MiB; ``ru_maxrss`` would also have what the parent held when it made
    this process.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 2**10


def prepare(options: dict[str, Any]) -> Callable[[int], dict[str, float]]:
    stage = next(stage for stage in stages_of(options["module"]) if stage.name == options["stage"])
    prepared = stage.prepare(options["size"])
    settle()
    # counted once, after a run's clock and peak
    uncounted = [stage.count] if stage.count is not None else []

    def run(steps: int) -> dict[str, float]:
        if not steps:
            return {}
        gc.collect()
        forget_peak()
        baseline = peak_mb()
        wall, cpu = time.perf_counter(), time.process_time()
        share = stage.run(prepared)
        cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - wall
        peak = peak_mb()
        counts = {"count": float(uncounted.pop()(prepared))} if uncounted else {}
        return {
            "share": share if isinstance(share, float) else 1.0,
            "cpu_s": cpu_s,
            "wall_s": wall_s,
            "baseline_mb": baseline,
            "peak_mb": peak,
            **counts,
        }

    return run
