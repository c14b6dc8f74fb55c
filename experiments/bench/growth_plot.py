"""Draw what ``make bench-scale`` measured, and write its tables into the page: ``-m
experiments.bench.growth_plot``.

A picture for each module of stages, ``docs/pictures/scale-<module>.svg``: the growth of time and of
memory for a unit of data, against the size; what is linear is level, and n ** 1.1, the most that is
allowed, is the grey line. The tables go between the markers of ``experiments/bench/growth.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.bench import growth
from experiments.bench.harness import ROOT
from experiments.marked import marked
from recgraph.pages.charts import Chart, Figure, Line, Mark, Scale
from recgraph.pages.plot import drawing

LINES = ROOT / "experiments" / "results" / "bench-scale.jsonl"
PAGE, PICTURES = Path(__file__).with_name("growth.md"), ROOT / "docs" / "pictures"
_COLOURS = 5


def of_modules(lines: Sequence[dict[str, Any]]) -> dict[str, list[growth.Fit]]:
    """Name of a module, without ``_growth`` -> the fits of its stages that were measured."""
    found = {fit.stage: fit for fit in growth.fits(lines)}
    names = {
        module.rpartition(".")[2].removesuffix("_growth"): [
            stage.name for stage in growth.stages_of(module)
        ]
        for module in growth.modules()
    }
    fitted = {
        name: [found[stage] for stage in stages if stage in found] for name, stages in names.items()
    }
    return {name: fits for name, fits in fitted.items() if fits}


def picture(fits: Sequence[growth.Fit]) -> str:
    """The growth of time and of memory of some stages, as SVG."""
    time = _figure("CPU time of a unit", fits, lambda line: line["cpu_s"])
    memory = _figure(
        "Peak memory of a unit",
        fits,
        lambda line: line["peak_mb"] if line["peak_mb"] >= growth.LEAST_MB else None,
    )
    return drawing([figure for figure in (time, memory) if figure is not None])


def _figure(
    title: str, fits: Sequence[growth.Fit], value: Callable[[dict[str, Any]], float | None]
) -> Figure | None:
    curves = {fit.stage: _relative(fit, value) for fit in fits}
    curves = {name: points for name, points in curves.items() if len(points) > 1}
    if not curves:
        return None
    largest = max(points[-1][0] for points in curves.values())
    most = [(1.0, 1.0), (largest, largest ** (growth.MOST - 1))]
    marks, lines = [], [Line("axis", most, f"n ** {growth.MOST}")]
    for number, (name, points) in enumerate(curves.items()):
        kind = f"s{number % _COLOURS + 1}"
        lines.append(Line(kind, points, name))
        marks += [
            Mark(x, y, kind, f"{name}: {y:.2f} at {x:g} times the smallest size")
            for x, y in points[:-1]
        ]
        marks.append(Mark(*points[-1], kind, f"{name}: {points[-1][1]:.2f}", name=name))
    heights = [y for points in (*curves.values(), most) for _, y in points]
    chart = Chart(
        title,
        Scale.of([1.0, largest], log=True),
        Scale.of([*heights, 0.5, 2.0], log=True),
        "size, in smallest sizes of the stage",
        "in that of the smallest size",
        marks,
        lines,
    )
    return Figure(title, f"{chart}", note=f"grey: the growth of n ** {growth.MOST}")


def _relative(
    fit: growth.Fit, value: Callable[[dict[str, Any]], float | None]
) -> list[tuple[float, float]]:
    """Size and value for a unit, both relative to the first size that has a value."""
    points = [(line["size"], found) for line in fit.lines if (found := value(line)) is not None]
    if not points:
        return []
    size, first = points[0]
    return [(other / size, found / first * size / other) for other, found in points]


def sections(fitted: dict[str, list[growth.Fit]]) -> str:
    """The part of the page between its markers."""
    return "\n\n".join(
        f"## Stages of {name}\n\n{growth.table(fits)}" for name, fits in fitted.items()
    )


def main(argv: list[str] | None = None) -> int:
    prog = "python -m experiments.bench.growth_plot"
    parser = argparse.ArgumentParser(prog=prog, description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=Path, default=LINES)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--pictures", type=Path, default=PICTURES)
    chosen = parser.parse_args(argv)
    fitted = of_modules(growth.read(chosen.lines))
    for name, fits in fitted.items():
        path = chosen.pictures / f"scale-{name}.svg"
        path.write_text(f"{picture(fits)}\n", encoding="utf-8")
    page = chosen.page.read_text(encoding="utf-8")
    chosen.page.write_text(marked(page, "growth", sections(fitted)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
