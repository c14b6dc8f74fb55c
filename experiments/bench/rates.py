"""What a device can do, measured in the run whose figures it judges: bytes copied, and matrix
products, a second.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from experiments.bench.harness import Measured, Side, measure_in_turn

#: of a device: MiB that are copied, side of the square matrices, products a repetition. No cache
#: holds the copies
_SIZES = {"cpu": (256, 2048, 3), "cuda": (1024, 8192, 20)}
#: precision of trainings -> types in which a run computes. A CPU without instructions for bfloat16
#: takes minutes for it
_TYPES = {"no": ("float32",), "bf16": ("float32", "bfloat16")}


def sides(device: str, precision: str) -> list[Side]:
    """The measurements: copies, then a product in each type that a run with such a precision
    computes in.
    """
    mb, n, steps = _SIZES[device]
    copies = {"device": device, "mb": mb, "steps": 20, "warmup": 2}
    squares = {"device": device, "n": n, "steps": steps, "warmup": 1}
    return [
        Side("copies", "plain/device.py:copies", copies),
        *(
            Side(name, "plain/device.py:square", {**squares, "dtype": name})
            for name in _TYPES[precision]
        ),
    ]


@dataclass(frozen=True)
class Rates:
    """Rates of a device, a second; what could not be measured is missing.

    Attributes:
        copied: GB read and written by copies.
        products: type of numbers -> GFLOP of matrix products.
        reasons: measurement -> why it is missing.
    """

    copied: float | None
    products: Mapping[str, float]
    reasons: Mapping[str, str]

    @classmethod
    def of(cls, measured: list[Measured], clock: str) -> Rates:
        """From the results of :func:`sides`."""
        copies, *products = measured
        return cls(
            median(copies.rates("GB", clock)) if copies.ok else None,
            {each.name: median(each.rates("GFLOP", clock)) for each in products if each.ok},
            {each.name: each.reason for each in measured if each.reason is not None},
        )

    def shares(self, ours: Measured, clock: str, dtype: str) -> dict[str, float]:
        """What a side does of the device's rates, for what it counts: ``GB`` of copies, ``GFLOP``
        of products.
        """
        full = {"GB": self.copied, "GFLOP": self.products.get(dtype)}
        return {
            unit: float(f"{median(ours.rates(unit, clock)) / rate:.3g}")
            for unit, rate in full.items()
            if rate is not None and unit in ours.units()
        }

    def shown(self) -> dict[str, Any]:
        """For a line of results."""
        rates = {
            "GB/s": self.copied,
            **{f"{name} GFLOP/s": rate for name, rate in self.products.items()},
        }
        rounded = {
            name: None if rate is None else float(f"{rate:.4g}") for name, rate in rates.items()
        }
        return {**rounded, **({"reason": dict(self.reasons)} if self.reasons else {})}


def measure(device: str, precision: str, threads: int, repeats: int, clock: str) -> Rates:
    """The rates of a device with so many threads of the host."""
    given = [(side, Path(sys.executable)) for side in sides(device, precision)]
    return Rates.of(
        measure_in_turn(given, threads, repeats, hide_accelerator=device == "cpu"), clock
    )
