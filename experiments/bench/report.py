"""What a benchmark prints: a JSON object a line, and a table of all of them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from experiments.bench.harness import Measured

#: a one-thread process that had the processor for less than this share of the time was disturbed
_UNDISTURBED = 0.95


@dataclass(frozen=True)
class Reference:
    """Figures measured before on this kind of machine, shown beside what was measured now and never instead of it.

    Attributes:
        name: whose.
        low, high: the range.
        share_of_peer: what it did of the peer's speed when both ran in one run, where that is known.
    """

    name: str
    low: float
    high: float
    share_of_peer: float | None = None

    def compare(self, ours: float, peer: float | None) -> dict[str, Any]:
        """The figures, and ours against them: ``ratio`` against the higher one."""
        shown: dict[str, Any] = {
            "name": self.name,
            "constants_of_this_kind_of_machine": [self.low, self.high],
            "ratio": round(ours / self.high, 3),
        }
        if self.share_of_peer is not None and peer is not None:
            shown["ratio_by_share_of_peer"] = round(ours / (self.share_of_peer * peer), 3)
        return shown


@dataclass(frozen=True)
class Goal:
    """The least ratio that is asked for, against the peer of the same run or against the reference's higher figure."""

    ratio: float
    against: Literal["peer", "reference"] = "peer"


def spread(rates: Sequence[float]) -> float:
    """(largest - smallest) / median of the repetitions."""
    return (max(rates) - min(rates)) / median(rates)


def line(
    *,
    bench: str,
    unit: str,
    ours: Measured,
    peer: Measured,
    threads: int,
    machine: str,
    reference: Reference | None = None,
    goal: Goal | None = None,
    clock: Literal["cpu", "wall"] = "cpu",
) -> dict[str, Any]:
    """The result of a benchmark. A side that has no samples is null with its reason; nothing stands in for it.

    Rates are by ``clock``: process CPU time means something on one thread and on the host alone.
    """
    sides = {"ours": ours, "peer": peer}
    rates = {name: side.rates(unit, clock) for name, side in sides.items()}
    middle = {name: median(values) if values else None for name, values in rates.items()}
    ratio = middle["ours"] / middle["peer"] if middle["ours"] and middle["peer"] else None
    result: dict[str, Any] = {
        "bench": bench,
        "ours": _round(middle["ours"]),
        "peer": _round(middle["peer"]),
        "ratio": None if ratio is None else round(ratio, 3),
        "unit": f"{unit}/s",
        "threads": threads,
        "machine": machine,
        "ours_name": ours.name,
        "peer_name": peer.name,
        "clock": "process CPU time" if clock == "cpu" else "wall time",
        "repeats": max(len(ours.samples), len(peer.samples)),
        "peak_mb": {name: _peak(side) for name, side in sides.items()},
        "spread": {name: round(spread(values), 3) if values else None for name, values in rates.items()},
        "versions": {name: dict(side.versions) for name, side in sides.items()},
    }
    reasons = {name: side.reason for name, side in sides.items() if side.reason is not None}
    if reasons:
        result["reason"] = reasons
    if clock == "cpu" and any(_share(side) < _UNDISTURBED for side in sides.values() if side.ok):
        result["disturbed"] = {name: round(_share(side), 2) for name, side in sides.items() if side.ok}
    beside = {f"{other}/s": _round(median(ours.rates(other, clock))) for other in ours.units() if other != unit}
    if beside:
        result["beside"] = beside
    if reference is not None and middle["ours"] is not None:
        result["reference"] = reference.compare(middle["ours"], middle["peer"])
    if goal is not None:
        reached = ratio if goal.against == "peer" else result.get("reference", {}).get("ratio")
        met = None if reached is None else reached >= goal.ratio
        result["goal"] = {"ratio": goal.ratio, "against": goal.against, "met": met}
    return result


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _peak(side: Measured) -> float | None:
    return round(max(sample.peak_mb for sample in side.samples)) if side.ok else None


def _share(side: Measured) -> float:
    """Process CPU time over wall time."""
    return median([sample.cpu_s / sample.wall_s for sample in side.samples])


_COLUMNS = (
    "bench",
    "threads",
    "ours",
    "peer",
    "ratio",
    "goal",
    "unit",
    "MB ours / peer",
    "spread ours / peer",
    "peer is",
)


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """All results, a row each, in columns; below it what was missing or disturbed."""
    rows = [_COLUMNS, *(_row(result) for result in lines)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(_COLUMNS))]
    rows.insert(1, tuple("-" * width for width in widths))
    text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*text, *(note for result in lines for note in _notes(result))])


def _row(result: Mapping[str, Any]) -> tuple[str, ...]:
    goal, reference = result.get("goal"), result.get("reference")
    asked, ratio = "", _show(result["ratio"])
    if goal is not None:
        asked = f"{goal['ratio']:g} { ({True: 'met', False: 'NOT MET', None: 'not known'}[goal['met']]) }"
        if goal["against"] == "reference":
            asked += f" ({_show(reference and reference['ratio'])} x {reference['name']})" if reference else ""
    pairs = [f"{_show(result[key]['ours'])}/{_show(result[key]['peer'])}" for key in ("peak_mb", "spread")]
    cells = (result["ours"], result["peer"])
    return (
        result["bench"],
        str(result["threads"]),
        *map(_show, cells),
        ratio,
        asked,
        result["unit"],
        *pairs,
        result["peer_name"],
    )


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:g}"


def _notes(result: Mapping[str, Any]) -> list[str]:
    notes = [f"{result['bench']}: no number for {side}: {why}" for side, why in result.get("reason", {}).items()]
    if "disturbed" in result:
        notes.append(f"{result['bench']}: other processes ran; share of the processor {result['disturbed']}")
    notes += [f"{result['bench']}: beside it {_show(rate)} {unit}" for unit, rate in result.get("beside", {}).items()]
    return notes


def write(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write JSON lines; a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text("".join(json.dumps(result) + "\n" for result in lines))
    os.replace(temporary, path)
