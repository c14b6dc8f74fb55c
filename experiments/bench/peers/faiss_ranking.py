"""faiss: exact top-k by inner product (IndexFlatIP), the vectors given."""

from __future__ import annotations

import os
from typing import Any

import faiss
import numpy as np


def prepare(options: dict[str, Any]) -> Any:
    faiss.omp_set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    generator = np.random.default_rng(0)
    items = generator.standard_normal((options["n_items"], options["width"]), dtype=np.float32)
    users = generator.standard_normal((options["n_users"], options["width"]), dtype=np.float32)
    index = faiss.IndexFlatIP(options["width"])
    index.add(items)

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            index.search(users, options["k"])
        return {"users": float(len(users) * steps)}

    return run
