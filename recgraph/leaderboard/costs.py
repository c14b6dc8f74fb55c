"""What a record says that its numbers cost, with an estimate of energy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from recgraph.leaderboard.store import Record

__all__ = ["COSTS", "WATTS_PER_CORE", "WATTS_PER_GIB", "device_of", "training_wh"]

#: what a core at work is taken to draw, as a server's processor of 200 to 280 W has 24 to 64 of them; and memory, as
#: codecarbon has it, 3 W for 8 GiB
WATTS_PER_CORE, WATTS_PER_GIB = 10.0, 0.375


def device_of(record: Record) -> str:
    """Where a record was made; ``auto`` was the accelerator, if the machine had one."""
    device = str(record.get("device", "cpu"))
    if device != "auto":
        return device
    return "cuda" if record["provenance"]["cuda"] else "cpu"


def training_wh(record: Record) -> float | None:
    """Watt hours that a training is estimated to take, from its CPU time and the peak of its memory.

    An estimate to compare entries by, not a measurement: it knows neither the machine's draw nor its cooling. None for
    a training on an accelerator, whose energy CPU time does not tell.
    """
    if not device_of(record).startswith("cpu"):
        return None
    watts = WATTS_PER_CORE + WATTS_PER_GIB * float(record["peak_memory_mb"]) / 1024
    return watts * float(record["training"]["cpu_seconds"]) / 3600


def _at(*keys: str) -> Callable[[Record], float | None]:
    def read(record: Record) -> float | None:
        found: Any = record
        for key in keys:
            found = found[key]
        return float(found)

    return read


def _epochs(record: Record) -> float | None:
    return float(record["training"]["epochs"]) or None


#: cost of one seed -> how it is read from a record: wall-clock and CPU seconds (training includes building the model;
#: inference is one pass over all test cases, or the probes of a node task), the estimated watt hours of training, the
#: peak memory of the process in MiB, the number of parameters, and the number of epochs; None where there is none
COSTS: Mapping[str, Callable[[Record], float | None]] = {
    "training_seconds": _at("training", "seconds"),
    "training_cpu_seconds": _at("training", "cpu_seconds"),
    "training_wh": training_wh,
    "inference_seconds": _at("inference", "seconds"),
    "inference_cpu_seconds": _at("inference", "cpu_seconds"),
    "peak_memory_mb": _at("peak_memory_mb"),
    "n_parameters": _at("n_parameters"),
    "epochs": _epochs,
}
