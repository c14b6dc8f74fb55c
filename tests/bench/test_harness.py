"""The benchmark harness: two sides are measured in turn, and a line tells them apart; no library is measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from experiments.bench import __main__ as command
from experiments.bench import environments, growth, report
from experiments.bench.harness import Side, measure_in_turn
from experiments.bench.suite import suite

COUNTING = """
def prepare(options):
    with open(options["log"], "a") as log:
        log.write(options["name"] + "+")
    def run(steps):
        with open(options["log"], "a") as log:
            log.write(options["name"] + str(steps))
        return {"targets": steps}
    return run
"""


def side(folder: Path, name: str, source: str = COUNTING) -> tuple[Side, Path]:
    workload = folder / f"{name}.py"
    workload.write_text(source)
    options = {"name": name, "log": str(folder / "log"), "steps": 7, "warmup": 2}
    return Side(name, str(workload), options), Path(sys.executable)


def test_processes_are_measured_in_turn_and_one_that_fails_gives_its_reason(tmp_path: Path) -> None:
    sides = [side(tmp_path, "a"), side(tmp_path, "b"), side(tmp_path, "c", "raise ValueError('it broke')")]
    first, second, broken = measure_in_turn(sides, threads=1, repeats=2)
    assert (tmp_path / "log").read_text() == "a+a2b+b2a7b7a7b7"
    assert [found.counts["targets"] for found in first.samples] == [7, 7]
    assert not broken.ok
    assert "it broke" in str(broken.reason)
    made = report.line(bench="b", unit="targets", ours=first, peer=second, machine="m", threads=1)
    assert json.loads(json.dumps(made))["ratio"] > 0
    missing = report.line(bench="b", unit="targets", ours=first, peer=broken, machine="m", threads=1)
    assert missing["ratio"] is None
    assert len(report.table([made, missing]).splitlines()) >= 4


def test_every_workload_of_the_suite_exists_and_names_differ() -> None:
    benches = list(suite(Path("x")))
    assert len({bench.name for bench in benches}) == len(benches)
    for bench in benches:
        for each in (bench.ours, bench.peer):
            file, _, name = each.workload.partition(":")
            assert f"def {name or 'prepare'}(" in (Path(command.__file__).parent / file).read_text()
            assert each.environment is None or each.environment in environments.PEERS


def test_exponents_of_growth() -> None:
    sizes = [10, 100, 1000, 10_000]
    assert growth.exponent(sizes, [3.0 * n**1.5 for n in sizes]) == pytest.approx(1.5)
    names = [stage.name for module in growth.modules() for stage in growth.stages_of(module)]
    assert len(names) == len(set(names))
