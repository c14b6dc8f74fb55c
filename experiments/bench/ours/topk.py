"""Ranking alone: exact top-k by inner product, the vectors given, seen items kept and excluded in one pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from experiments.bench.work import scores
from recgraph.evaluate.topk import Catalogue
from recgraph.sparse.ragged import Ragged


def prepare(options: dict[str, Any]) -> Any:
    generator = np.random.default_rng(0)
    items = generator.standard_normal((options["n_items"], options["width"]), dtype=np.float32)
    users = generator.standard_normal((options["n_users"], options["width"]), dtype=np.float32)
    item_vectors, queries = (torch.from_numpy(array).to(options["device"]) for array in (items, users))
    catalogue = Catalogue(options["n_items"], options["k"], item_vectors=item_vectors)

    # as many seen items a user as on Beauty
    drawn = torch.from_numpy(generator.integers(0, options["n_items"], 8 * len(users)))
    seen = Ragged.from_lengths(drawn, torch.full((len(users),), 8)).to(options["device"])

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            catalogue.rank(queries, seen, ("keep", "exclude"))
        done = len(queries) * steps
        return {"users": float(done), **scores(done, len(items), options["width"]).counts()}

    return run
