"""One size of a stage of growth (experiments/bench/growth.py), its peak memory counted from where the run begins."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.bench.growth import stages_of


def forget_peak() -> None:
    """Begin the peak of the resident memory anew, at what is resident now; Linux alone has this."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_mb() -> float:
    """The peak since then, in MiB; ``ru_maxrss`` would also have what the parent held when it made this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 2**10


def prepare(options: dict[str, Any]) -> Callable[[int], dict[str, float]]:
    stage = next(stage for stage in stages_of(options["module"]) if stage.name == options["stage"])
    prepared = stage.prepare(options["size"])

    def run(steps: int) -> dict[str, float]:
        if not steps:
            return {}
        forget_peak()
        baseline = peak_mb()
        share = stage.run(prepared)
        return {"share": share if isinstance(share, float) else 1.0, "baseline_mb": baseline, "peak_mb": peak_mb()}

    return run
