"""A large catalogue: exact top-k with seen items excluded, everything beside the vectors made while it is measured.

Before that, some users are ranked with blocks of 1,000 and of 50,000 items; different lists are a failure.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from experiments.bench.work import scores
from recgraph.evaluate.topk import Catalogue, Lists
from recgraph.sparse.ragged import Ragged

sys.path.append(str(Path(__file__).resolve().parents[1]))
from vectors import part, users_and_items

AT_ONCE = 1024


def prepare(options: dict[str, Any]) -> Any:
    queries, items, drawn = (torch.from_numpy(array).to(options["device"]) for array in users_and_items(options))

    def rank(end: int, block_items: int | None = None) -> Lists:
        catalogue = Catalogue(options["n_items"], options["k"], item_vectors=items, block_items=block_items)
        lists = []
        for start in range(0, end, AT_ONCE):
            index = slice(start, min(start + AT_ONCE, end))
            own = drawn[index]
            seen = Ragged.from_lengths(own.flatten(), torch.full((len(own),), own.shape[1], device=own.device))
            lists.append(catalogue.rank(queries[index], seen, ("exclude",))["exclude"])
        return Lists.cat(lists)

    small, large = (rank(options["checked"], block_items) for block_items in (1_000, 50_000))
    if not torch.equal(small.items, large.items) or not torch.equal(small.scores, large.scores):
        raise ValueError("blocks of 1,000 and of 50,000 items give different lists")
    del small, large

    def run(steps: int) -> dict[str, float]:
        end = part(options, steps).stop
        rank(end, options["block_items"])
        return {"users": float(end), **scores(end, options["n_items"], options["width"]).counts()}

    return run
