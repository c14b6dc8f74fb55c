"""From the file of a large log to recommendations for all of its users: ``python -m experiments.bench.big_log``.

    python -m experiments.bench.big_log [--rows 50000000] [--model sasrec] [--out FILE] [--work FOLDER]

Runs the commands that a user types, one process each: train one epoch (leave-one-out, no selection on validation), then
write the lists of all users as Parquet, by an approximate index. Prints a JSON object for each: CPU and wall time, the
peak of resident memory as the system counts it, and the last line that the command printed; that of the second has the
number of rows of the lists.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.bench import power_law, report
from experiments.bench.harness import ROOT, child_environment, machine

#: the most GiB that a command may take; more makes the exit status 1
LIMIT_GB = 20
SETTINGS: dict[str, tuple[str, ...]] = {
    "sasrec": (
        "hidden_dim=32",
        "inner_dim=64",
        "max_len=20",
        "dropout=0.1",
        "attention_dropout=0.1",
        "loss=sampled_softmax",
        "n_negatives=512",
        "batch_size=1024",
    ),
}
_EVERY = ("max_epochs=1", "metric=last")


def commands(model: str, log: Path, work: Path) -> dict[str, list[str]]:
    """Stage -> arguments of ``recgraph``."""
    columns = ["--user", "user", "--item", "item", "--time", "time"]
    settings = [part for setting in (*SETTINGS[model], *_EVERY) for part in ("--set", setting)]
    run = str(work / "run")
    return {
        "train": ["train", model, "--data", str(log), *columns, *settings, "--seed", "0", "--out", run],
        "recommend": ["recommend", run, "--all", "--ann", "--out", str(work / "lists.parquet")],
    }


def measured(arguments: Sequence[str], threads: int) -> dict[str, Any]:
    """Run a command of ``recgraph`` to its end.

    Raises:
        RuntimeError: it failed; the message is what it said last.
    """
    environment = {**child_environment(os.environ, threads), "PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen([sys.executable, "-m", "recgraph.cli", *arguments], stderr=said, env=environment)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        lines = said.read().splitlines()
    if process.returncode:
        raise RuntimeError(f"recgraph {' '.join(arguments)}: {lines[-1] if lines else 'no message'}")
    return {
        "command": f"recgraph {' '.join(arguments)}",
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "wall_s": round(time.perf_counter() - began, 1),
        "peak_gb": round(used.ru_maxrss / 2**20, 2),
        "said": lines[-1] if lines else "",
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.bench.big_log", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000_000)
    parser.add_argument("--model", choices=tuple(SETTINGS), default="sasrec")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, help="a folder for the run and the lists, kept; else a temporary one")
    parser.add_argument("--out", type=Path, help="also write the JSON lines to this file")
    chosen = parser.parse_args(argv)
    log = power_law.kept(chosen.rows, texts=True)
    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="recgraph-big-log-") as temporary:
        for stage, arguments in commands(chosen.model, log, chosen.work or Path(temporary)).items():
            lines.append(
                {
                    "bench": "big-log",
                    "stage": stage,
                    "rows": chosen.rows,
                    **measured(arguments, chosen.threads),
                    "threads": chosen.threads,
                    "machine": machine(),
                }
            )
            print(json.dumps(lines[-1]), flush=True)
            if chosen.out is not None:
                report.write(lines, chosen.out)
    return 0 if all(line["peak_gb"] <= LIMIT_GB for line in lines) else 1


if __name__ == "__main__":
    raise SystemExit(main())
