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
from experiments.bench.rates import Rates

#: a one-thread process that had the processor for less than this share of the time was disturbed
_UNDISTURBED = 0.95


@dataclass(frozen=True)
class Reference:
    """Figures measured before on this kind of machine, shown beside what was measured now and never
    instead of it.

    Attributes:
        name: whose.
        low, high: the range.
        share_of_peer: what it did of the peer's speed when both ran in one run, where that is
            known.
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
    """What is asked for; all that is given must hold.

    Attributes:
        ratio: the least, against the peer of the same run or against the reference's higher figure.
        against: which of both.
        least: of our rate.
        peak_mb: the most memory of our process, in MiB.
    """

    ratio: float | None = None
    against: Literal["peer", "reference"] = "peer"
    least: float | None = None
    peak_mb: float | None = None

    def judge(
        self, ratio: float | None, rate: float | None, peak_mb: float | None
    ) -> dict[str, Any]:
        """What was asked for, and whether it holds: None where a number is missing."""
        held: list[bool | None] = []
        shown: dict[str, Any] = {}
        for name, asked, reached, sign in (
            ("ratio", self.ratio, ratio, 1),
            ("least", self.least, rate, 1),
            ("peak_mb", self.peak_mb, peak_mb, -1),
        ):
            if asked is not None:
                shown[name] = asked
                held.append(None if reached is None else sign * reached >= sign * asked)
        met = False if False in held else None if None in held else True
        return {**shown, **({} if self.ratio is None else {"against": self.against}), "met": met}


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
    others: Sequence[Measured] = (),
    rates_of_device: Rates | None = None,
    dtype: str = "float32",
) -> dict[str, Any]:
    """The result of a benchmark. A side that has no samples is null with its reason; nothing stands
    in for it.

    ``others`` are further peers of the same run, shown beside and not judged. ``rates_of_device``
    are those of the same run; ours is shown as a share of them, of matrix products in ``dtype``.

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
        "beyond_mb": {name: _beyond(side) for name, side in sides.items()},
        "spread": {
            name: round(spread(values), 3) if values else None for name, values in rates.items()
        },
        "versions": {name: dict(side.versions) for name, side in sides.items()},
    }
    reasons = {name: side.reason for name, side in sides.items() if side.reason is not None}
    if reasons:
        result["reason"] = reasons
    if clock == "cpu" and any(_share(side) < _UNDISTURBED for side in sides.values() if side.ok):
        result["disturbed"] = {
            name: round(_share(side), 2) for name, side in sides.items() if side.ok
        }
    beside = {
        f"{other}/s": _round(median(ours.rates(other, clock)))
        for other in ours.units()
        if other != unit
    }
    if beside:
        result["beside"] = beside
    if rates_of_device is not None:
        result["device"] = rates_of_device.shown()
        if shares := rates_of_device.shares(ours, clock, dtype):
            result["share"] = {"of": dtype, **shares}
    if others:
        result["others"] = [_other(side, middle["ours"], unit, clock) for side in others]
    if reference is not None and middle["ours"] is not None:
        result["reference"] = reference.compare(middle["ours"], middle["peer"])
    if goal is not None:
        reached = ratio if goal.against == "peer" else result.get("reference", {}).get("ratio")
        result["goal"] = goal.judge(reached, middle["ours"], result["peak_mb"]["ours"])
    return result


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _peak(side: Measured) -> float | None:
    return round(max(sample.peak_mb for sample in side.samples)) if side.ok else None


def _beyond(side: Measured) -> float | None:
    """What the steps took beyond what was prepared for them."""
    peak = _peak(side)
    return None if peak is None or side.prepared_mb is None else round(peak - side.prepared_mb)


def _other(side: Measured, ours: float | None, unit: str, clock: str) -> dict[str, Any]:
    if not side.ok:
        return {"name": side.name, "rate": None, "reason": side.reason}
    rate = median(side.rates(unit, clock))
    ratio = None if ours is None else round(ours / rate, 3)
    return {
        "name": side.name,
        "rate": _round(rate),
        "ratio": ratio,
        "spread": round(spread(side.rates(unit, clock)), 3),
        "peak_mb": _peak(side),
        "beyond_mb": _beyond(side),
    }


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
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([*text, *(note for result in lines for note in _notes(result))])


def _row(result: Mapping[str, Any]) -> tuple[str, ...]:
    goal, reference = result.get("goal"), result.get("reference")
    asked, ratio = "", _show(result["ratio"])
    if goal is not None:
        units = {"ratio": "", "least": "/s", "peak_mb": " MB"}
        wanted = ", ".join(f"{goal[name]:g}{unit}" for name, unit in units.items() if name in goal)
        asked = f"{wanted} { ({True: 'met', False: 'NOT MET', None: 'not known'}[goal['met']]) }"
        if goal.get("against") == "reference":
            asked += (
                f" ({_show(reference and reference['ratio'])} x {reference['name']})"
                if reference
                else ""
            )
    pairs = [
        f"{_show(result[key]['ours'])}/{_show(result[key]['peer'])}"
        for key in ("peak_mb", "spread")
    ]
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
    notes = [
        f"{result['bench']}: no number for {side}: {why}"
        for side, why in result.get("reason", {}).items()
    ]
    if "disturbed" in result:
        notes.append(
            f"{result['bench']}: other processes ran; share of the processor {result['disturbed']}"
        )
    notes += [
        f"{result['bench']}: {other['name']} {_show(other['rate'])}, ratio {_show(other.get('ratio'))}, "
        f"{_show(other.get('beyond_mb'))} MB in steps"
        for other in result.get("others", ())
    ]
    if "share" in result:
        notes.append(f"{result['bench']}: {_shares(result['share'], result['device'])}")
    notes += [
        f"{result['bench']}: beside it {_show(rate)} {unit}"
        for unit, rate in result.get("beside", {}).items()
    ]
    return notes


def _shares(share: Mapping[str, Any], device: Mapping[str, Any]) -> str:
    """At least so much of what the device does."""
    against = {
        "GB": ("copies", "GB/s"),
        "GFLOP": (f"{share['of']} products", f"{share['of']} GFLOP/s"),
    }
    return ", ".join(
        f"{share[unit]:.1%} of the device's {name} ({_show(device[rate])} {rate.split()[-1]})"
        for unit, (name, rate) in against.items()
        if unit in share
    )


def write(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write JSON lines; a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text("".join(json.dumps(result) + "\n" for result in lines))
    os.replace(temporary, path)
