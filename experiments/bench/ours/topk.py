"""Ranking alone: exact top-k by inner product, the vectors given, seen items kept as faiss does."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from recgraph.evaluate.topk import Catalogue


def prepare(options: dict[str, Any]) -> Any:
    generator = np.random.default_rng(0)
    items = generator.standard_normal((options["n_items"], options["width"]), dtype=np.float32)
    users = generator.standard_normal((options["n_users"], options["width"]), dtype=np.float32)
    item_vectors, queries = (torch.from_numpy(array).to(options["device"]) for array in (items, users))
    catalogue = Catalogue(options["n_items"], options["k"], item_vectors=item_vectors)

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            catalogue.rank(queries, None, ("keep",))
        return {"users": float(len(queries) * steps)}

    return run
