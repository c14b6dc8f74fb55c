"""The benchmark of growth: exponents, the merge of lines, and the driver on stages whose growth is known."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from experiments.bench import growth
from experiments.bench.child import resident_mb
from experiments.bench.harness import Sample
from experiments.bench.ours import growth_stage

KNOWN = "tests.bench.known_growth"


def line(stage: str, size: int, cpu_s: float, bench: str = "growth") -> dict[str, Any]:
    return {"bench": bench, "stage": stage, "size": size, "unit": "rows", "cpu_s": cpu_s, "peak_mb": size / 1000}


def test_exponent() -> None:
    sizes = [10, 100, 1000, 10_000]
    assert growth.exponent(sizes, [3.0 * n**1.5 for n in sizes]) == pytest.approx(1.5)
    n_log_n = [1_000_000, 10_000_000, 50_000_000]
    found = growth.exponent(n_log_n, [n * math.log(n) for n in n_log_n])
    assert found == pytest.approx(1.06395, abs=1e-5)  # numpy.polyfit of the logarithms
    assert found < growth.MOST
    assert math.isnan(growth.exponent([10], [1.0]))


def test_fits_and_table() -> None:
    lines = [
        {**line("one", size, size**1.0), "count": size**0.5, "counted": "steps"} for size in (100_000, 1000, 10_000)
    ]
    lines += [line("other", size, size**2.0) for size in (1000, 10_000)] + [line("else", 1000, 1.0, "scale-exact")]
    one, other = growth.fits(lines)
    assert (one.stage, other.stage) == ("one", "other")
    assert one.time == pytest.approx(1)
    assert one.last == pytest.approx(1)
    assert one.count == pytest.approx(0.5)
    assert one.memory == pytest.approx(1)  # of the two that are large enough
    assert other.time == pytest.approx(2)
    assert math.isnan(other.memory)
    shown = growth.table([one, other]).splitlines()
    assert shown[2] == "| one | 1,000 to 100,000 rows | 1.00 | 1.00 | 0.50 (steps) | 1.00 | 1e+05 | 100 |"
    assert shown[3] == "| other | 1,000 to 10,000 rows | 2.00 | 2.00 |  |  | 1e+08 | 10 |"


def test_lines_of_the_same_stage_and_size_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    foreign = {"bench": "scale-batches", "model": "MEOW", "targets": 5}
    growth.write([foreign, line("one", 10, 1.0), line("one", 20, 2.0)], path)
    growth.write([line("one", 10, 3.0), line("two", 10, 4.0)], path)
    kept = growth.read(path)
    assert kept[0] == foreign
    assert [(row["stage"], row["size"], row["cpu_s"]) for row in kept[1:]] == [
        ("one", 10, 3.0),
        ("one", 20, 2.0),
        ("two", 10, 4.0),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["lines.jsonl"]


def test_a_file_that_is_written_again_keeps_each_line_once(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    foreign = [
        {"bench": bench, "model": model, "targets": targets}
        for bench in ("scale-batches", "scale-exact")
        for model in ("MEOW", "AdaMEOW")
        for targets in (5, 10)
    ]
    growth.write([*foreign, line("one", 10, 1.0)], path)
    growth.write(growth.read(path), path)
    assert growth.read(path) == [*foreign, line("one", 10, 1.0)]


def test_driver(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each size in its own process: the exponent of time and memory, without what prepare took."""
    out = tmp_path / "lines.jsonl"
    code = growth.main(["--modules", KNOWN, "--sizes", "10", "40", "--out", str(out)])
    printed = capsys.readouterr()
    linear, quadratic = growth.fits(growth.read(out))
    assert linear.time == pytest.approx(1, abs=0.2)
    assert linear.memory == pytest.approx(1, abs=0.2)
    assert quadratic.time == pytest.approx(2, abs=0.2)
    assert all(row["peak_mb"] < 100 for row in quadratic.lines)
    assert [(row["count"], row["counted"]) for row in quadratic.lines] == [(100, "pairs"), (1600, "pairs")]
    assert "count" not in linear.lines[0]
    assert all(row["measured_share"] == 0.5 for row in quadratic.lines)
    # half of it was done in .05 s
    assert quadratic.lines[0]["cpu_s"] == pytest.approx(0.1, rel=0.5)
    assert code == 1
    # the linear one, whose time is measured too, may be above 1.1 beside other work
    assert "quadratic" in printed.err.partition("larger than allowed: ")[2].split()[-1]
    assert [json.loads(text)["size"] for text in printed.out.splitlines()[:4]] == [10, 40, 10, 40]


def test_figures_are_those_of_the_stage_alone() -> None:
    """Not of what the process does before it, and those of the fastest run, with the memory of the first."""
    first = {"share": 0.5, "cpu_s": 2.0, "wall_s": 3.0, "baseline_mb": 100.0, "peak_mb": 150.0}
    second = {**first, "cpu_s": 1.0, "wall_s": 1.5, "peak_mb": 100.0}
    samples = [
        Sample(counts, cpu_s=9.0 - number, wall_s=9.0, peak_mb=900.0) for number, counts in enumerate((second, first))
    ]
    found = growth.figures(samples[::-1])
    assert (found["cpu_s"], found["wall_s"], found["peak_mb"]) == (2.0, 3.0, 50.0)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_settled_before_a_run() -> None:
    """Polars gives back what it has freed about a second later: that is no part of what a run begins with."""
    frame = pl.select(pl.int_range(40_000_000)).to_series()  # 305 MiB
    full = resident_mb()
    del frame
    growth_stage.settle()
    now = resident_mb()
    assert full is not None
    assert now is not None
    assert full - now > 200


def test_stages_are_chosen_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert growth.main(["lin", "--modules", KNOWN, "--list"]) == 0
    assert capsys.readouterr().out == "linear: 10, 20, 40 parts\n"
    with pytest.raises(SystemExit):
        growth.main(["none", "--modules", KNOWN])
    assert "no stage begins with none" in capsys.readouterr().err


def test_names_are_unique_words_with_hyphens() -> None:
    names = [stage.name for module in growth.modules() for stage in growth.stages_of(module)]
    assert len(names) == len(set(names))
    assert [name for name in names if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)] == []
