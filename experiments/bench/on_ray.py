"""Meta-paths on a Ray of this machine against one process: ``python -m experiments.bench.on_ray``.

The path user-item-user of a generated log (:mod:`experiments.bench.power_law`), composed as a whole (its result goes
through the object store) and with the 50 most similar of each user (its result is small). Wall is what the caller waits
for; CPU is of all processes, Ray's own among them. Ray is started before the clock, and its workers have imported the
library.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psutil
import torch

from experiments.bench.power_law import generate, n_items, n_users
from recgraph import parallel
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath
from recgraph.parallel import Engine, Piece
from recgraph.sparse.csr import Csr
from recgraph.sparse.products import n_pairs

EDGE = ("user", "had", "item")


def graph_of(rows: int) -> HeteroGraph:
    log = generate(rows)
    users, items = (torch.from_numpy(log[name].to_numpy().copy()).to(torch.int64) for name in ("user", "item"))
    had = Csr.from_coo(users, items, shape=(n_users(rows), n_items(rows)), duplicates="sum").with_weights(None)
    return HeteroGraph.from_scipy({EDGE: had.to_scipy()})


def cpu_seconds() -> float:
    """Of this process and all that it has started."""
    here = psutil.Process()
    total = 0.0
    for process in (here, *here.children(recursive=True)):
        try:
            times = process.cpu_times()
            total += times.user + times.system
        except psutil.Error:
            continue
    return total


def measured(make: Callable[[], Csr], repeats: int) -> dict[str, float]:
    walls, cpus = [], []
    for _ in range(repeats):
        began, cpu = time.perf_counter(), cpu_seconds()
        entries = make().nnz
        walls.append(time.perf_counter() - began)
        cpus.append(cpu_seconds() - cpu)
    return {"entries": entries, "wall": statistics.median(walls), "cpu": statistics.median(cpus)}


def warm(shared: None, value: int) -> int:
    time.sleep(0.5)
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000, help="interactions of the log")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    graph = graph_of(given.rows)
    had = graph.edges[EDGE].adj
    pairs = int(n_pairs(had, had.t()).sum())
    engine = Engine(name="ray", workers=given.workers)
    list(parallel.map(warm, [Piece(f"{number}", number) for number in range(2 * given.workers)], engine=engine))
    for name, path in (
        ("all counts", MetaPath("user-item-user", max_memory_mib=1e6)),
        ("top 50 by PathSim", MetaPath("user-item-user", top_k=50, max_memory_mib=1e6)),
    ):
        here, there = (measured(partial(path.adjacency, graph, one), given.repeats) for one in (None, engine))
        row: dict[str, Any] = {
            "what": name,
            "rows": given.rows,
            "pairs": pairs,
            "entries": here["entries"],
            "local wall": round(here["wall"], 2),
            "local cpu": round(here["cpu"], 2),
            "ray wall": round(there["wall"], 2),
            "ray cpu": round(there["cpu"], 2),
            "wall ratio": round(here["wall"] / there["wall"], 2),
            "cpu ratio": round(there["cpu"] / here["cpu"], 2),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
