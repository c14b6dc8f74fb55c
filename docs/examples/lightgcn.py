"""LightGCN (He et al., SIGIR 2020) on one screen, from the library's parts and a plain torch loop.

python docs/examples/lightgcn.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import recgraph as rg
from recgraph.data.batches import PairBatches, Query
from recgraph.encoders.graph import LightGCN as Propagation
from recgraph.rng import Generators, seeded_init

DIM, L2 = 32, 1e-4


class LightGCN(nn.Module):
    """Vectors of users and items, averaged over layers of neighbours of neighbours; no weights but
    the vectors.
    """

    has_vectors = True

    def __init__(self, n_users: int, n_items: int) -> None:
        super().__init__()
        self.n_users = n_users
        self.table = nn.Embedding(n_users + n_items, DIM)  # users, then items
        with torch.no_grad():
            for rows in torch.split(self.table.weight, [n_users, n_items]):
                nn.init.xavier_uniform_(rows)
        self.propagate = Propagation(n_users, n_items, n_layers=3)

    def nodes(self) -> Tensor:
        return self.propagate(self.table.weight)

    def encode_users(self, query: Query) -> Tensor:
        return self.nodes()[query.users]

    def encode_items(self) -> Tensor:
        return self.nodes()[self.n_users :]


def main(epochs: int = 20, seed: int = 0) -> tuple[list[float], float]:
    """Train; gives the loss of each epoch and NDCG@10 on the test part, seen items excluded."""
    split, generators = rg.load_dataset("synthetic").split("leave-one-out"), Generators(seed)
    with seeded_init(seed):
        model = LightGCN(split.n_users, split.n_items)
    model.propagate.connect(split.train.matrix())
    # every interaction is a sample, with an item that its user has not chosen
    batches = PairBatches(split.train, 4096, generators, n_negatives=1)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2, fused=True)
    curve = []
    for epoch in range(epochs):
        losses = []
        for batch in batches.epoch(epoch):
            places = batch.users, batch.items + model.n_users, batch.negatives[:, 0] + model.n_users
            nodes = model.nodes()
            users, items, others = (nodes.index_select(0, rows) for rows in places)
            keep_mask = batch.negative_mask()[:, 0]
            bpr = (F.softplus((users * others).sum(1) - (users * items).sum(1)) * keep_mask).mean()
            # before propagation
            own = [model.table.weight.index_select(0, rows) for rows in places]
            loss = bpr + L2 * sum(rows.square().sum(1).mean() / 2 for rows in own)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        curve.append(sum(losses) / len(losses))
        print(f"epoch {epoch + 1}: loss {curve[-1]:.4f}")
    results = rg.evaluate.evaluate(model.eval(), split.test, seen=("exclude",), cutoffs=(10,))
    return curve, results["exclude"].metrics["ndcg@10"]


if __name__ == "__main__":
    print(f"NDCG@10 {main()[1]:.4f}")
