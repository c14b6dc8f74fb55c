"""Exact top-k by faiss and by plain torch, and the random vectors and seen items that ours ranks,
too.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

#: seen items of a user
N_SEEN = 20
_FAISS_AT_ONCE, _PLAIN_AT_ONCE = 4096, 512


def users_and_items(options: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[n_users, width] and [n_items, width] float32, and [n_users, N_SEEN] int64 items, some more
    than once.
    """
    generator = np.random.default_rng(0)
    items = generator.standard_normal((options["n_items"], options["width"]), dtype=np.float32)
    users = generator.standard_normal((options["n_users"], options["width"]), dtype=np.float32)
    return users, items, generator.integers(0, options["n_items"], (options["n_users"], N_SEEN))


def part(options: dict[str, Any], steps: int) -> slice:
    """The users of so many steps; ``options["steps"]`` of them are the first ``options["sample"]``
    users.
    """
    return slice(0, options["sample"] * steps // options["steps"])


def _faiss() -> Any:
    import faiss

    faiss.omp_set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    return faiss


def faiss_ranking(options: dict[str, Any]) -> Any:
    """faiss' IndexFlatIP, the vectors given."""
    faiss = _faiss()
    users, items, _ = users_and_items(options)
    index = faiss.IndexFlatIP(options["width"])
    index.add(items)

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            index.search(users, options["k"])
        return {"users": float(len(users) * steps)}

    return run


def faiss_large(options: dict[str, Any]) -> Any:
    """The same on a large catalogue, as many more items asked for as a user has seen, those left
    out after.
    """
    faiss = _faiss()
    users, items, seen = users_and_items(options)
    k, exclude = options["k"], options["exclude"]

    def run(steps: int) -> dict[str, float]:
        index = faiss.IndexFlatIP(options["width"])
        index.add(items)
        end = part(options, steps).stop
        lists = np.empty((end, k), dtype=np.int64)
        for start in range(0, end, _FAISS_AT_ONCE):
            rows = slice(start, min(start + _FAISS_AT_ONCE, end))
            _, found = index.search(users[rows], k + N_SEEN if exclude else k)
            if exclude:
                kept = ~(found[:, :, None] == seen[rows][:, None, :]).any(2)
                first = np.argsort(~kept, axis=1, kind="stable")[:, :k]
                found = np.take_along_axis(found, first, axis=1)
            lists[rows] = found
        return {"users": float(end)}

    return run


def plain_ranking(options: dict[str, Any]) -> Any:
    """The ranking that everyone writes first: scores of a batch of users, seen items set to -inf,
    ``topk``.
    """
    import torch

    users, items, seen = (torch.from_numpy(array) for array in users_and_items(options))

    def run(steps: int) -> dict[str, float]:
        end, lists = part(options, steps).stop, []
        for start in range(0, end, _PLAIN_AT_ONCE):
            rows = slice(start, min(start + _PLAIN_AT_ONCE, end))
            scores = users[rows] @ items.T
            lists.append(scores.scatter_(1, seen[rows], -torch.inf).topk(options["k"]).indices)
        torch.cat(lists)
        return {"users": float(end)}

    return run
