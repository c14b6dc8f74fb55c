"""HSTU (Zhai et al., ICML 2024) on one screen, from the library's parts and a plain torch loop.

python docs/examples/hstu.py
"""

from __future__ import annotations

import torch
from torch import nn

import recgraph as rg
from recgraph.data.batches import Query, SequenceBatches, with_gaps
from recgraph.encoders.pointwise import HSTU as Encoder
from recgraph.losses.softmax import FullSoftmax
from recgraph.rng import Generators, seeded_init
from recgraph.sparse.ragged import Ragged

DIM, MAX_LEN = 32, 12


class HSTU(nn.Module):
    """Attention that adds up instead of sharing out, with biases of distances and of time up to
    what is predicted.
    """

    has_vectors = True
    reads_times = True

    def __init__(self, n_items: int) -> None:
        super().__init__()
        # token 0 is a masked item, token i + 1 is item i
        self.items = nn.Embedding(n_items + 1, DIM)
        nn.init.normal_(self.items.weight, std=0.02)
        self.encoder = Encoder(DIM, MAX_LEN, dropout=0.1, time_bias=True)

    def encode(
        self, rows: Ragged, generator: torch.Generator | None = None, last_only: bool = True
    ) -> torch.Tensor:
        """The states of rows of tokens with their time and that of the event behind them (gaps are
        not read here).
        """
        return self.encoder(rows.columns(slice(0, 3)), self.items.weight, generator, last_only)

    def encode_users(self, query: Query) -> torch.Tensor:
        tokens = query.history.with_values(query.history.values + 1)
        return self.encode(with_gaps(tokens, query.times.values, True, query.at).last(MAX_LEN))

    def encode_items(self) -> torch.Tensor:
        return self.items.weight[1:]


def main(epochs: int = 15, seed: int = 0) -> tuple[list[float], float]:
    """Train; gives the loss of each epoch and NDCG@10 on the test part, seen items excluded."""
    split, generators = rg.load_dataset("synthetic").split("leave-one-out"), Generators(seed)
    with seeded_init(seed):
        model = HSTU(split.n_items)
    # every sequence with all its targets, the next item at each place
    how = {"batch_size": 128, "max_len": MAX_LEN, "generators": generators, "times": True}
    batches = SequenceBatches(split.train, "causal", **how)
    optimiser, next_item = torch.optim.Adam(model.parameters(), lr=3e-3, fused=True), FullSoftmax()
    curve = []
    for epoch in range(epochs):
        losses = []
        for batch in batches.epoch(epoch):
            states = model.encode(batch.sequences, generators["dropout"], last_only=False)
            loss = next_item(states, batch.targets, model.items.weight)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        curve.append(sum(losses) / len(losses))
        print(f"epoch {epoch + 1}: loss {curve[-1]:.3f}")
    results = rg.evaluate.evaluate(model.eval(), split.test, seen=("exclude",), cutoffs=(10,))
    return curve, results["exclude"].metrics["ndcg@10"]


if __name__ == "__main__":
    print(f"NDCG@10 {main()[1]:.4f}")
