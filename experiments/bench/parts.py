"""Time and memory of every part of a contrast beside plain InfoNCE, each in a process of its own.

``python -m experiments.bench.parts --out FILE`` makes the line ``contrast-parts`` of ``make
bench``. Its processes are forks of one that has imported the library, since importing it for each
of thirty parts takes longer than to measure them; so it is for the host alone, on one thread.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from experiments.bench import report
from experiments.bench.child import Run, load, repetition, resident_mb, versions
from experiments.bench.graph_suite import graph_suite
from experiments.bench.harness import HERE, Measured, Sample, Side, machine


def _measure(side: Side, repeats: int, answers: Connection) -> None:
    """In the fork: what is prepared, its warm-up, and the repetitions."""
    torch.set_num_threads(1)
    run: Run = load(str(HERE / side.workload))(dict(side.options))
    prepared_mb = resident_mb()
    run(int(side.options.get("warmup", 1)))
    answers.send(
        (prepared_mb, [repetition(run, int(side.options["steps"])) for _ in range(repeats)])
    )


def measured(side: Side, repeats: int) -> Measured:
    """A side, in a fork of this process."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(side, repeats, there))
    process.start()
    there.close()
    result = Measured(side.name, versions=versions())
    try:
        result.prepared_mb, samples = here.recv()
        result.samples = [Sample(**sample) for sample in samples]
    except EOFError:
        result.reason = "the process failed: its error is above"
    process.join()
    return result


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.bench.parts", description=__doc__)
    parser.add_argument(
        "--repeats", type=int, default=3, help="repetitions, of which the median is taken"
    )
    parser.add_argument("--out", type=Path, help="also write the JSON line to this file")
    chosen = parser.parse_args(argv)
    (bench,) = (one for one in graph_suite(Path()) if one.name == "contrast-parts")
    ours, peer, *others = (
        measured(side, chosen.repeats) for side in (bench.ours, bench.peer, *bench.others)
    )
    sides: dict[str, Any] = {"ours": ours, "peer": peer, "others": others}
    line = report.line(bench=bench.name, unit=bench.unit, threads=1, machine=machine(), **sides)
    print(json.dumps(line))
    if chosen.out is not None:
        report.write([line], chosen.out)
    print(report.table([line]))
    return 1 if any(side.reason for side in (ours, peer, *others)) else 0


if __name__ == "__main__":
    raise SystemExit(main())
