"""A log larger than one likes to hold: ingest, filter and split it, and print time and peak memory.

    python -m experiments.bench.ingest [--rows 20000000] [--users 1000000] [--items 100000] [--formats parquet csv]

The log is generated in chunks into a temporary folder, with text ids of users, skewed popularity of items and skewed
activity of users, so that the 5-core filter has something to do. The work is done in a child process, whose peak
memory is then that of the work alone. A JSON object a line: ``bench``, ``ours`` (seconds), ``unit``, ``peak_mb``,
``steps`` (seconds of each), ``kept``, ``threads``, ``machine``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

CHUNK = 2_000_000
NAMES = {"user": "user", "item": "item", "timestamp": "ts", "rating": "stars"}


def generate(folder: Path, form: str, rows: int, users: int, items: int, seed: int = 0) -> Path:
    """Write the log chunk by chunk: a folder of Parquet files, or one CSV file."""
    rng = np.random.default_rng(seed)
    path = folder / ("log" if form == "parquet" else "log.csv")
    if form == "parquet":
        path.mkdir()
    for number, start in enumerate(range(0, rows, CHUNK)):
        chunk = _chunk(rng, min(CHUNK, rows - start), users, items)
        if form == "parquet":
            chunk.write_parquet(path / f"{number:04d}.parquet")
        else:
            with path.open("ab") as file:
                chunk.write_csv(file, include_header=number == 0)
    return path


def _chunk(rng: np.random.Generator, n: int, users: int, items: int) -> pl.DataFrame:
    who = (users * rng.random(n) ** 4).astype(np.int64)
    what = (items * rng.random(n) ** 6).astype(np.int64)
    columns = pl.DataFrame(
        {"user": who, "item": what, "ts": rng.integers(1_500_000_000, 1_700_000_000, n), "stars": rng.integers(1, 6, n)}
    )
    return columns.with_columns(pl.format("user-{}", pl.col("user").cast(pl.String).str.zfill(8)).alias("user"))


def work(path: Path, form: str) -> dict[str, object]:
    """Ingest, 5-core and split; what a user does before training."""
    from recgraph.data.split import Interactions

    steps: dict[str, float] = {}
    clock = time.perf_counter()

    def done(step: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        steps[step] = round(now - clock, 1)
        clock = now

    data = Interactions.read(path, form, **NAMES)
    done("ingest")
    kept = data.k_core(5, 5)
    del data
    done("k_core")
    split = kept.split("leave-one-out")
    cases = len(split.test)
    done("split")
    sealed = split.sealed()
    history = sealed.train.n_interactions
    done("hash_and_seal")
    return {
        "steps": steps,
        "kept": {"users": kept.n_users, "items": kept.n_items, "interactions": len(kept)},
        "train": history,
        "test_cases": cases,
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "threads": pl.thread_pool_size(),
    }


def measure(path: Path, form: str) -> dict[str, object]:
    """The work in a process of its own."""
    command = [sys.executable, "-m", "experiments.bench.ingest", "--child", form, str(path)]
    start = time.perf_counter()
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - start
    return {"ours": round(seconds, 1), "unit": "s", **json.loads(result.stdout.splitlines()[-1])}


def main() -> None:
    """Generate, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--formats", nargs="+", choices=("parquet", "csv"), default=["parquet", "csv"])
    parser.add_argument("--child", nargs=2, metavar=("FORMAT", "PATH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(work(Path(options.child[1]), options.child[0])))
        return
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    for form in options.formats:
        with tempfile.TemporaryDirectory() as folder:
            path = generate(Path(folder), form, options.rows, options.users, options.items)
            line = {"bench": f"ingest_{form}_{options.rows}", **measure(path, form), "machine": machine}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
