"""What a second thread pays: ``python -m experiments.bench.threads [--repeats N] [--only NAME]``.

Each workload runs in a process of its own with one thread and with two (``OMP_NUM_THREADS``, ``POLARS_MAX_THREADS``),
``--repeats`` times each, in turns. Two ratios of one thread to two are printed, of the smallest values:

- ``wall``: of wall times; it means something only on a machine with two idle cores;
- ``path``: one thread's CPU time by that of the longest chain of work with two. Where threads share each operation
  (training) that is the busiest thread; where a pool works and the caller waits (ranking, preparation) the caller and
  half of the pool. It depends little on what else runs, and leaves out handing over and waiting: on idle cores the
  wall ratio is lower, except that of the preparation.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any

WORKLOADS = ("sasrec", "mclrec", "lightgcn", "ranking", "preparation")
#: workloads of which a pool of threads does what can be shared, while the caller waits
POOLED = ("ranking", "preparation")
USERS, ITEMS, LENGTH = 22_000, 12_000, 17


def frame(n_users: int = USERS) -> Any:
    import numpy as np
    import polars as pl

    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 2 * LENGTH - 5, n_users)
    users = np.repeat(np.arange(n_users), lengths)
    items = (ITEMS * rng.power(0.5, len(users))).astype(np.int64)
    return pl.DataFrame({"u": users, "i": items, "t": rng.permutation(len(users))})


def split_of(log: Any) -> Any:
    import recgraph as rg

    split = rg.Interactions.from_frame(log, user="u", item="i", timestamp="t").split("leave-one-out")
    split.train, split.valid  # noqa: B018
    return split


def training(name: str, **settings: Any) -> Callable[[], object]:
    """Steps of a training, after a first one."""
    from recgraph import registry
    from recgraph.models.base import Space
    from recgraph.rng import Generators
    from recgraph.train.config import TrainConfig
    from recgraph.train.trainer import Trainer

    batch_size, n_steps = settings.pop("batch_size"), settings.pop("n_steps")
    split = split_of(frame())
    model = registry.load("model", name)(**settings)
    model.build(Space(n_users=split.n_users, n_items=split.n_items), 0)
    generators = Generators(0)
    batches = model.batches(split.train, batch_size, generators)
    trainer = Trainer(model, batches, TrainConfig(metric="loss", batch_size=batch_size), generators)
    model.train()
    taken = cycle(batches.epoch(0))

    def run() -> None:
        for batch in islice(taken, n_steps):
            trainer.step(batch)

    return run


def ranking() -> Callable[[], object]:
    import recgraph as rg
    from recgraph.evaluate.evaluator import evaluate

    split = split_of(frame())
    run = rg.fit(rg.models.SASRec(), split, seed=0, max_epochs=0, metric="last", progress=False)
    return lambda: evaluate(run.model, split.valid, fit_part=split.train)


def preparation() -> Callable[[], object]:
    log = frame(10 * USERS)
    return lambda: split_of(log)


def make(name: str) -> Callable[[], object]:
    if name == "sasrec":
        return training("sasrec", batch_size=128, n_steps=3)
    if name == "mclrec":
        return training("mclrec", batch_size=256, n_steps=2)
    if name == "lightgcn":
        return training("lightgcn", batch_size=4096, n_steps=3)
    return {"ranking": ranking, "preparation": preparation}[name]()


def cpu_of_threads() -> dict[str, float]:
    """CPU seconds of each thread of this process."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended since it was listed
            found[task.name] = int((task / "schedstat").read_text().split()[0]) / 1e9
    return found


def child(name: str, threads: int, repeats: int) -> None:
    """Print the smallest wall time, CPU time, and CPU time of the longest chain."""
    import torch

    torch.set_num_threads(threads)
    run = make(name)
    run()
    found = []
    for _ in range(repeats):
        before, cpu, wall = cpu_of_threads(), time.process_time(), time.perf_counter()
        run()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        after = cpu_of_threads()
        used = {task: value - before.get(task, 0.0) for task, value in after.items()}
        of_caller = used[str(os.getpid())]
        # threads of a pool may have ended, and are counted in the process alone
        found.append((wall, cpu, of_caller + (cpu - of_caller) / threads if name in POOLED else max(used.values())))
    print(json.dumps([min(column) for column in zip(*found, strict=True)]))


def measure(name: str, threads: int, repeats: int) -> tuple[float, float, float]:
    env = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "POLARS_MAX_THREADS": str(threads),
        # a thread that waits for another would count as busy
        "OMP_WAIT_POLICY": "passive",
        "GOMP_SPINCOUNT": "0",
    }
    command = [sys.executable, "-m", "experiments.bench.threads", "--child", name, str(threads), str(repeats)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    wall, cpu, chain = json.loads(done.stdout.splitlines()[-1])
    return wall, cpu, chain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2, help="processes of each number of threads, in turns")
    parser.add_argument("--only", action="append", choices=WORKLOADS)
    parser.add_argument("--child", nargs=3)
    given = parser.parse_args()
    if given.child:
        name, threads, repeats = given.child
        child(name, int(threads), int(repeats))
        return
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name in given.only or WORKLOADS:
        best = {}
        for _ in range(given.rounds):
            for threads in (1, 2):
                found = measure(name, threads, given.repeats)
                best[threads] = tuple(map(min, found, best.get(threads, found)))
        (wall1, cpu1, _), (wall2, cpu2, path2) = best[1], best[2]
        print(
            f"{name:<12} one thread {wall1:.3f} s wall, {cpu1:.3f} s CPU; two: {wall2:.3f} s wall, {cpu2:.3f} s CPU, "
            f"chain {path2:.3f}; wall {wall1 / wall2:.2f}, path {cpu1 / path2:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
