"""What RecTools' EASE and implicit's ALS make of a matrix: run by the interpreter of their
environment.

    python closed_form.py GIVEN.npz MADE.npz

Given: ``rows``, ``cols`` of the interactions, ``shape``, ``ease_l2``; of ALS ``start`` [n_items,
D], ``confidence``, ``als_l2``, ``iterations``. Made: ``ease`` [n_items, n_items]; ``als_users``,
``als_items``.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse
from implicit.cpu.als import AlternatingLeastSquares
from rectools.dataset import Dataset
from rectools.models import EASEModel


def ease(given: Any) -> np.ndarray:
    """The weights, rows and columns in our numbers."""
    frame = pd.DataFrame({"user_id": given["rows"], "item_id": given["cols"], "weight": 1.0})
    frame["datetime"] = pd.Timestamp("2024-01-01")
    dataset = Dataset.construct(frame)
    model = EASEModel(regularization=float(given["ease_l2"])).fit(dataset)
    inner = dataset.item_id_map.convert_to_internal(np.arange(given["shape"][1]))
    return np.asarray(model.weight)[np.ix_(inner, inner)]


def als(given: Any) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of users and items: exact half-steps, users first, from the given item vectors."""
    cells = scipy.sparse.csr_matrix(
        (np.ones(len(given["rows"])), (given["rows"], given["cols"])), given["shape"]
    )
    start = given["start"]
    model = AlternatingLeastSquares(
        factors=start.shape[1],
        regularization=float(given["als_l2"]),
        alpha=1.0 + float(given["confidence"]),
        dtype=np.float64,
        use_cg=False,
        iterations=int(given["iterations"]),
        num_threads=1,
    )
    model.item_factors = start.copy()
    model.user_factors = np.zeros((cells.shape[0], start.shape[1]))
    model.fit(cells, show_progress=False)
    return np.asarray(model.user_factors), np.asarray(model.item_factors)


if __name__ == "__main__":
    values = dict(np.load(sys.argv[1]))
    users, items = als(values)
    np.savez(sys.argv[2], ease=ease(values), als_users=users, als_items=items)
