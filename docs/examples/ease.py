"""EASE (Steck, WWW 2019) on one screen: the ridge regression of every item on all others, solved at
once.

python docs/examples/ease.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import recgraph as rg
from recgraph.data.batches import Query
from recgraph.data.part import Part
from recgraph.evaluate.ranking import Scorer
from recgraph.sparse.products import distinct

L2 = 100.0


class EASE(Scorer):
    """``min |X - X B|^2 + l2 |B|^2, diag(B) = 0``: with ``P = (X'X + l2 I)^-1`` it is ``B_ij =
    -P_ij / P_jj``.
    """

    def __init__(self, train: Part) -> None:
        rows = distinct(train.items, train.n_items)  # an item that a user has twice counts once
        x = torch.zeros(rows.n_rows, train.n_items, dtype=torch.float64)
        x[rows.rows, rows.values] = 1
        inverse = torch.linalg.inv(x.T @ x + L2 * torch.eye(train.n_items, dtype=torch.float64))
        weights = -inverse / inverse.diagonal()
        self.weights = weights.fill_diagonal_(0).float()

    def score(self, query: Query) -> Tensor:
        """[B, n_items]: the sum of the rows of the items that a user has."""
        history = distinct(query.history, len(self.weights))
        return F.embedding_bag(
            history.values, self.weights, history.offsets, mode="sum", include_last_offset=True
        )


def main() -> tuple[Tensor, float]:
    """Fit; gives the weights and NDCG@10 on the test part, seen items excluded."""
    split = rg.load_dataset("synthetic").split("leave-one-out")
    model = EASE(split.train)
    results = rg.evaluate.evaluate(model, split.test, seen=("exclude",), cutoffs=(10,))
    return model.weights, results["exclude"].metrics["ndcg@10"]


if __name__ == "__main__":
    print(f"NDCG@10 {main()[1]:.4f}")
