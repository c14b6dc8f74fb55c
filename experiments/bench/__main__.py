"""Run the benchmarks: a JSON object a line on standard output as each ends, then a table."""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from experiments.bench import environments, rates, report
from experiments.bench.graph_suite import graph_suite
from experiments.bench.harness import HERE, ROOT, Side, machine, measure_in_turn
from experiments.bench.suite import Bench, suite

BEAUTY = Path("data") / "sequences" / "Amazon_Beauty.txt"
HIN = Path("data") / "hin"
#: workloads of ours that train
TRAININGS = ("ours/training.py:train", "ours/graphs.py:node_epoch")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench", description="Speed and memory against other libraries."
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help="run the benchmarks whose name holds NAME; repeat",
    )
    parser.add_argument("--threads", default="1", help="threads of each process, e.g. 1 or 1,2")
    parser.add_argument(
        "--repeats", type=int, default=5, help="repetitions, of which the median is taken"
    )
    parser.add_argument("--out", type=Path, help="also write the JSON lines to this file")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where our side computes"
    )
    parser.add_argument(
        "--precision",
        choices=("no", "bf16"),
        default="no",
        help="of our trainings: bf16 is mixed precision",
    )
    parser.add_argument(
        "--no-install", action="store_true", help="use only peers that are installed already"
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is not met")
    parser.add_argument(
        "--base", metavar="REV", help="in place of the peers, the same workloads on another commit"
    )
    parser.add_argument("--list", action="store_true", help="name the benchmarks and stop")
    chosen = parser.parse_args(argv)
    chosen.threads = [int(count) for count in chosen.threads.split(",")]
    return chosen


def select(benches: list[Bench], only: list[str] | None) -> list[Bench]:
    """The benchmarks whose name holds one of ``only``; all without it.

    Raises:
        ValueError: one of ``only`` is in no name.
    """
    for name in only or ():
        if not any(name in bench.name for bench in benches):
            raise ValueError(
                f"--only {name!r} names no benchmark; there are {', '.join(bench.name for bench in benches)}"
            )
    return [bench for bench in benches if not only or any(name in bench.name for name in only)]


def interpreter(side: Side, chosen: argparse.Namespace) -> Path | str:
    """The interpreter of a side, or the reason why it cannot run."""
    data = side.options.get("data")
    if data is not None and not Path(data).exists():
        return f"no data at {data}; set RECGRAPH_SHARED"
    if side.workload.startswith("peers/") and chosen.device != "cpu":
        return "peers are measured on the host alone"
    if side.environment is None:
        return Path(sys.executable)
    try:
        return environments.python_of(side.environment, install=not chosen.no_install)
    except environments.EnvironmentMissing as missing:
        return str(missing)


def against_base(benches: list[Bench], revision: str, folder: Path) -> list[Bench]:
    """The benchmarks of our side, each beside the same workload of another commit, whose files go
    into ``folder``.
    """
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", revision], check=True, capture_output=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return [
        Bench(bench.name, bench.unit, bench.ours, _at(bench.ours, revision, folder))
        for bench in benches
    ]


def _at(side: Side, revision: str, root: Path) -> Side:
    """The same side of another commit; until workloads shared files, each had one that was called
    like it.
    """
    folder, (file, _, name) = root / HERE.relative_to(ROOT), side.workload.partition(":")
    own = f"{Path(file).parent}/{name}.py"
    is_earlier = (folder / own).is_file() and f"def {name}(" not in (folder / own).read_text()
    return replace(
        side, name=f"at {revision}", root=root, workload=own if is_earlier else side.workload
    )


def at_precision(bench: Bench, precision: str) -> Bench:
    """A benchmark whose training on our side has a precision; others are as they were."""
    if bench.ours.workload not in TRAININGS:
        return bench
    return replace(
        bench, ours=replace(bench.ours, options={**bench.ours.options, "precision": precision})
    )


def clock_of(threads: int, chosen: argparse.Namespace) -> Literal["cpu", "wall"]:
    return "cpu" if threads == 1 and chosen.device == "cpu" else "wall"


def measure(
    bench: Bench, threads: int, chosen: argparse.Namespace, device: rates.Rates
) -> dict[str, Any]:
    """One benchmark on so many threads."""
    sides = [(side, interpreter(side, chosen)) for side in (bench.ours, bench.peer, *bench.others)]
    ours, peer, *others = measure_in_turn(
        sides, threads, chosen.repeats, hide_accelerator=chosen.device == "cpu"
    )
    return report.line(
        bench=bench.name,
        unit=bench.unit,
        ours=ours,
        peer=peer,
        threads=threads,
        machine=machine(),
        reference=bench.reference,
        goal=bench.goal if threads == 1 and chosen.device == "cpu" else None,
        clock=clock_of(threads, chosen),
        others=others,
        rates_of_device=device,
        dtype="bfloat16" if bench.ours.options.get("precision") == "bf16" else "float32",
    )


def main(argv: list[str] | None = None) -> int:
    chosen = arguments(argv)
    shared = Path(os.environ.get("RECGRAPH_SHARED", ROOT.parent / "shared")).resolve()
    try:
        benches = [
            *suite(shared / BEAUTY, chosen.device),
            *graph_suite(shared / HIN, chosen.device),
        ]
        benches = [at_precision(bench, chosen.precision) for bench in select(benches, chosen.only)]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if chosen.list:
        print("\n".join(bench.name for bench in benches))
        return 0
    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="recgraph-base-") as folder:
        if chosen.base is not None:
            benches = against_base(benches, chosen.base, Path(folder))
        for threads in chosen.threads:
            device = rates.measure(
                chosen.device, chosen.precision, threads, chosen.repeats, clock_of(threads, chosen)
            )
            for bench in benches:
                lines.append(measure(bench, threads, chosen, device))
                print(json.dumps(lines[-1]), flush=True)
                if chosen.out is not None:
                    report.write(lines, chosen.out)
    print(f"\n{report.table(lines)}")
    failed = any(line["ours"] is None for line in lines)
    unmet = any(line.get("goal", {}).get("met") is False for line in lines)
    return 1 if failed or (chosen.check and unmet) else 0


if __name__ == "__main__":
    sys.exit(main())
