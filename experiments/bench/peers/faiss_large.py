"""faiss on a large catalogue: IndexFlatIP, as many more items asked for as a user has seen, those left out after."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import faiss
import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))
from vectors import N_SEEN, part, users_and_items

AT_ONCE = 4096


def prepare(options: dict[str, Any]) -> Any:
    faiss.omp_set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    users, items, seen = users_and_items(options)
    k, exclude = options["k"], options["exclude"]

    def run(steps: int) -> dict[str, float]:
        index = faiss.IndexFlatIP(options["width"])
        index.add(items)
        end = part(options, steps).stop
        lists = np.empty((end, k), dtype=np.int64)
        for start in range(0, end, AT_ONCE):
            rows = slice(start, min(start + AT_ONCE, end))
            _, found = index.search(users[rows], k + N_SEEN if exclude else k)
            if exclude:
                kept = ~(found[:, :, None] == seen[rows][:, None, :]).any(2)
                first = np.argsort(~kept, axis=1, kind="stable")[:, :k]
                found = np.take_along_axis(found, first, axis=1)
            lists[rows] = found
        return {"users": float(end)}

    return run
