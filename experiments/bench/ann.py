"""Approximate indexes over trained vectors, built and searched: ``python -m experiments.bench.ann RUN [--out FILE]``.

RUN is a run on Gowalla, whose 40,981 items are the most that a data set here has:

    recgraph train bprmf --dataset gowalla --out RUN --seed 0 --set batch_size=8192 --set learning_rate=0.005 \\
        --set max_epochs=12 --set validate_every=12 --set metric=ndcg@20

A catalogue ``--times`` as large has each vector so many times, all but the first with noise: no data set of half a
million items is at hand. One thread; lists of ten for 1,000 users without what they have seen. A JSON object an index:
CPU time of its build, microseconds of CPU time for a user's list, and the share of the items of exact lists.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.bench.harness import machine
from recgraph.data.batches import Query
from recgraph.evaluate.ranking import catalogue_for, rank
from recgraph.files import write_text
from recgraph.serve.ann import AnnIndex
from recgraph.serve.recommender import Recommender
from recgraph.sparse.ragged import Ragged

K, USERS = 10, 1000
#: noise of a copy in standard deviations of the vectors, which are shortened for it
NOISE, SHORTER = 0.4, 0.9
INDEXES: tuple[tuple[str | None, str], ...] = (
    (None, "nprobe=32"),
    (None, "nprobe=64"),
    (None, "nprobe=128"),
    ("HNSW32", "efSearch=32"),
    ("HNSW32", "efSearch=64"),
    ("HNSW32", "efSearch=128"),
)


class Grown:
    """A recommender's model with each item several times.

    Args:
        recommender: of the run.
        times: how often an item is there.
    """

    has_vectors = True

    def __init__(self, recommender: Recommender, times: int) -> None:
        self.model, self.space = recommender.model, None
        own, generator = recommender.model.encode_items().detach(), torch.Generator().manual_seed(0)
        noise = NOISE * own.std()
        copies = [SHORTER * own + noise * torch.randn(own.shape, generator=generator) for _ in range(times - 1)]
        self.items = torch.cat([own, *copies])

    def modules(self) -> Iterator[Any]:
        return self.model.modules()

    def parameters(self) -> Iterator[Any]:
        return self.model.parameters()

    def encode_items(self) -> Tensor:
        return self.items

    def encode_users(self, query: Query) -> Tensor:
        return self.model.encode_users(query)


def cpu_of(work: Callable[[], Any], repeats: int = 3) -> tuple[float, Any]:
    """The least CPU time of a few runs, and what the last one gave."""
    times, found = [], None
    for _ in range(repeats):
        start = time.process_time()
        found = work()
        times.append(time.process_time() - start)
    return min(times), found


def measured(recommender: Recommender, times: int) -> Iterator[dict[str, Any]]:
    """A line for exact ranking, and one for each index."""
    model: Any = Grown(recommender, times)
    n_items = len(model.items)
    users = torch.from_numpy(np.random.default_rng(0).permutation(len(recommender.users))[:USERS])
    seen: Ragged = recommender.seen.take(users)
    query = Query(users, seen)
    catalogue = catalogue_for(model, n_items, K)
    seconds, exact = cpu_of(lambda: list(rank(model, catalogue, query, seen, ("exclude",))))
    wanted = torch.cat([batch.lists["exclude"].items for batch in exact])
    wanted = wanted[torch.cat([batch.index for batch in exact]).argsort()]
    yield {"index": "exact", "items": n_items, "us_a_list": round(1e6 * seconds / USERS, 1), "recall": 1.0}
    built: dict[str | None, tuple[float, AnnIndex]] = {}
    for factory, search in INDEXES:
        if factory not in built:
            built[factory] = cpu_of(lambda factory=factory: AnnIndex.build(model, factory), 1)
        built_in, index = built[factory]
        set_search(index, search)
        seconds, lists = cpu_of(lambda index=index: index.rank(model, query, seen, K))
        hits = (lists.items[:, :, None] == wanted[:, None, :]).any(2)
        yield {
            "index": factory or "default",
            "search": search,
            "items": n_items,
            "build_s": round(built_in, 2),
            "us_a_list": round(1e6 * seconds / USERS, 1),
            "recall": round(float(hits.float().mean()), 4),
        }


def set_search(index: AnnIndex, search: str) -> None:
    import faiss

    parameters: Any = faiss.ParameterSpace()
    parameters.set_index_parameters(index.index, search)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.bench.ann", description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--times", type=int, nargs="+", default=[1, 6])
    parser.add_argument("--out", type=Path, help="write the lines to this file")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    recommender = Recommender.load(asked.run)
    lines = []
    for times in asked.times:
        for line in measured(recommender, times):
            lines.append(json.dumps({"bench": "ann", **line, "threads": 1, "machine": machine()}))
            print(lines[-1], flush=True)
    if asked.out is not None:
        write_text("\n".join(lines) + "\n", asked.out)


if __name__ == "__main__":
    main()
