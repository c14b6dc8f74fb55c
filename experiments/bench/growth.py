"""How each stage grows with the size of its data: ``python -m experiments.bench.growth [STAGE ...]
[--out FILE]``.

A module ``experiments/bench/*_growth.py`` gives ``stages() -> list[Stage]``; all such modules are
found by their names. Each size of a stage runs in a process of its own, on one thread: process CPU
time, wall time, and the peak of the resident memory above what the process held when the run began.
The exponent of a stage is the slope of a line fitted by least squares to the logarithms of size and
CPU time; that of n log n, on the sizes that are measured here, is 1.05 to 1.1, so that 1.1 is the
most that a stage may show. Prints a JSON object a line, then a table; with ``--out`` the lines
replace those of the same stages and sizes in a file, which keeps all others.

    def stages() -> list[Stage]: return [Stage("split", (10_000, 100_000, 1_000_000),
        "interactions", run=split, prepare=generated_log)]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.bench import report
from experiments.bench.harness import HERE, Child, Sample, Side, child_environment, machine

#: the largest exponent of CPU time: n log n stays below it
MOST = 1.1
#: how long a process may take for one measurement
PATIENCE_S = 4 * 3600.0
#: short runs are repeated, and the fastest counts: at most so many times, while they took less than
#: so long together
_REPEATS, _ENOUGH_S = 5, 4.0
#: one that took less is repeated once at least, as short ones are: its memory is then as warm as
#: theirs
_AGAIN_S = 60.0
#: below this a peak is noise of the allocator
LEAST_MB = 8.0


def _size_itself(size: int) -> Any:
    return size


@dataclass(frozen=True)
class Stage:
    """Work whose growth is measured.

    Attributes:
        name: as shown, and chosen by on the command line; unique.
        sizes: in ``unit``; at least three, over a factor of ten or more.
        unit: what is counted, such as ``"interactions"``, ``"edges"``, ``"items"``.
        run: the work; receives what ``prepare`` returned for a size. It may be called several times
            in one process, on the same prepared value. A float that it returns is the share (0 to
            1) of the work of this size that it did: time is divided by it, and the line carries it.
        prepare: makes the input of a size in the same process, neither timed nor part of the peak:
            data, modules to import, compiled parts. Without it ``run`` receives the size.
        most: the largest exponent of CPU time that is allowed.
        counted: what ``count`` counts, such as ``"distances"``.
        count: the operations of a run, or the bytes that it must read: what any machine does,
            whatever its caches. It receives what ``run`` does, and is called once, after the first
            run.
    """

    name: str
    sizes: tuple[int, ...]
    unit: str
    run: Callable[[Any], object]
    prepare: Callable[[int], Any] = _size_itself
    most: float = MOST
    counted: str = ""
    count: Callable[[Any], float] | None = None


def modules() -> list[str]:
    """The modules that give stages."""
    return [f"experiments.bench.{path.stem}" for path in sorted(HERE.glob("*_growth.py"))]


def stages_of(module: str) -> list[Stage]:
    found: list[Stage] = importlib.import_module(module).stages()
    return found


def measure(module: str, stage: Stage, size: int, threads: int = 1) -> dict[str, Any]:
    """One size of a stage in a process of its own.

    Raises:
        MeasurementError: the process failed; the message ends with the last line of its standard
            error.
    """
    options = {"module": module, "stage": stage.name, "size": size, "steps": 1, "warmup": 0}
    side = Side(stage.name, "ours/growth_stage.py", options)
    environment = {**child_environment(os.environ, threads), "POLARS_MAX_THREADS": str(threads)}
    with contextlib.closing(Child(Path(sys.executable), side, environment, PATIENCE_S)) as child:
        samples = [child.measure()]
        while len(samples) < _REPEATS and sum(sample.cpu_s for sample in samples) < _enough_s(
            len(samples)
        ):
            samples.append(child.measure())
        return {
            "bench": "growth",
            "stage": stage.name,
            "size": size,
            "unit": stage.unit,
            **figures(samples),
            **({"counted": stage.counted} if stage.counted else {}),
            "threads": threads,
            "machine": machine(),
            "versions": child.versions,
        }


def _enough_s(runs: int) -> float:
    return _AGAIN_S if runs == 1 else _ENOUGH_S


def figures(samples: Sequence[Sample]) -> dict[str, float]:
    """Times of the fastest run and the memory of the first, which no run before it has prepared."""
    # the stage's own clock: the sample's has the collection of garbage before it too
    fastest, first = (
        min((sample.counts for sample in samples), key=lambda counts: counts["cpu_s"]),
        samples[0].counts,
    )
    share = fastest["share"]
    baseline, peak = first["baseline_mb"], first["peak_mb"]
    return {
        "cpu_s": rounded(fastest["cpu_s"] / share),
        "wall_s": rounded(fastest["wall_s"] / share),
        **({} if share == 1 else {"measured_share": rounded(share)}),
        "peak_mb": rounded(max(0.0, peak - baseline)),
        "baseline_mb": rounded(baseline),
        "runs": len(samples),
        **({"count": first["count"]} if "count" in first else {}),
    }


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The slope of the line fitted by least squares to the logarithms; nan for less than two
    sizes.
    """
    if len(sizes) < 2:
        return math.nan
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in values]
    x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
    return over / sum((a - x_mean) ** 2 for a in x)


@dataclass(frozen=True)
class Fit:
    """A stage's lines and what they say.

    Attributes:
        time: exponent of CPU time.
        last: the same of the two largest sizes.
        memory: exponent of the peak, nan where that is too small to say.
        count: exponent of what is counted, nan where nothing is.
    """

    stage: str
    unit: str
    lines: list[dict[str, Any]]
    time: float
    last: float
    memory: float
    count: float

    @classmethod
    def of(cls, lines: Iterable[dict[str, Any]]) -> Fit:
        """The fit of the lines of one stage."""
        ordered = sorted(lines, key=lambda line: line["size"])
        sizes, seconds = [line["size"] for line in ordered], [line["cpu_s"] for line in ordered]
        large = [line for line in ordered if line["peak_mb"] >= LEAST_MB]
        counted = [line for line in ordered if "count" in line]
        return cls(
            ordered[0]["stage"],
            ordered[0]["unit"],
            ordered,
            exponent(sizes, seconds),
            exponent(sizes[-2:], seconds[-2:]),
            exponent([line["size"] for line in large], [line["peak_mb"] for line in large]),
            exponent([line["size"] for line in counted], [line["count"] for line in counted]),
        )


def fits(lines: Iterable[dict[str, Any]]) -> list[Fit]:
    """A fit for each stage, in the order of their first lines; lines of other benchmarks are left
    out.
    """
    by_stage: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if line["bench"] == "growth":
            by_stage.setdefault(line["stage"], []).append(line)
    return [Fit.of(of_stage) for of_stage in by_stage.values()]


def table(found: Sequence[Fit]) -> str:
    """The fits as a Markdown table, with the largest size of each stage."""
    rows = [
        "| stage | sizes | exponent | of the last two | of what is counted | memory | largest: CPU s | peak, MiB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for fit in found:
        least, largest = fit.lines[0], fit.lines[-1]
        sizes = f"{least['size']:,} to {largest['size']:,} {fit.unit}"
        part = " (from a part)" if "measured_share" in largest else ""
        time, last, count, memory = (
            "" if math.isnan(value) else f"{value:.2f}"
            for value in (fit.time, fit.last, fit.count, fit.memory)
        )
        counted = f"{count} ({largest['counted']})" if count else ""
        numbers = f"{time} | {last} | {counted} | {memory}"
        rows.append(
            f"| {fit.stage} | {sizes} | {numbers} | {largest['cpu_s']:.3g}{part} | {largest['peak_mb']:,.0f} |"
        )
    return "\n".join(rows)


def read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [
        json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
    ]


def merge(old: Iterable[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The old lines, each replaced by the new one of the same key where there is one, then the
    other new lines.
    """
    waiting = {key(line): line for line in new}
    return [*(waiting.pop(key(line), line) for line in old), *waiting.values()]


def key(line: dict[str, Any]) -> tuple[Any, ...]:
    """What a line measured: a stage and a size, or a model and a number of target nodes
    (experiments.bench.scale).
    """
    return tuple(line.get(name) for name in ("bench", "stage", "size", "model", "targets"))


def write(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Merge lines into a file, which is replaced at once."""
    report.write(merge(read(path), lines), path)


def rounded(value: float) -> float:
    return float(f"{value:.4g}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench.growth", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "stages", nargs="*", metavar="STAGE", help="names, or beginnings of names; all if left out"
    )
    parser.add_argument("--sizes", type=int, nargs="+", help="instead of each stage's own")
    parser.add_argument("--largest", type=int, help="leave larger sizes out")
    parser.add_argument("--modules", nargs="+", help="instead of experiments/bench/*_growth.py")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="merge the JSON lines into this file")
    parser.add_argument("--list", action="store_true", help="print the names and run nothing")
    chosen = parser.parse_args(argv)
    found = [
        (module, stage) for module in chosen.modules or modules() for stage in stages_of(module)
    ]
    if chosen.stages:
        found = [pair for pair in found if pair[1].name.startswith(tuple(chosen.stages))]
    if not found:
        parser.error(f"no stage begins with {' or '.join(chosen.stages)}; --list prints the names")
    if chosen.list:
        print(
            "\n".join(
                f"{stage.name}: {', '.join(f'{size:,}' for size in stage.sizes)} {stage.unit}"
                for _, stage in found
            )
        )
        return 0
    lines, most = [], {stage.name: stage.most for _, stage in found}
    for module, stage in found:
        for size in chosen.sizes or stage.sizes:
            if chosen.largest is not None and size > chosen.largest:
                continue
            lines.append(measure(module, stage, size, chosen.threads))
            print(json.dumps(lines[-1]), flush=True)
            if chosen.out is not None:
                write(lines[-1:], chosen.out)
    fitted = fits(lines)
    print(f"\n{table(fitted)}")
    over = [fit.stage for fit in fitted if fit.time > most[fit.stage]]
    if over:
        print(f"\nlarger than allowed: {', '.join(over)}", file=sys.stderr)
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
