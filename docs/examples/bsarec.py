"""BSARec (Shin et al., AAAI 2024) on one screen, from the library's parts and a plain torch loop.

python docs/examples/bsarec.py
"""

from __future__ import annotations

import torch
from torch import nn

import recgraph as rg
from recgraph.data.batches import Query, SequenceBatches
from recgraph.encoders.transformer import BSA
from recgraph.losses.softmax import FullSoftmax
from recgraph.rng import Generators, seeded_init

DIM, MAX_LEN = 32, 12


class BSARec(nn.Module):
    """Layers that mix attention with a filter which rescales the high frequencies of the
    sequence.
    """

    has_vectors = True

    def __init__(self, n_items: int) -> None:
        super().__init__()
        # token 0 is a masked item, token i + 1 is item i
        self.items = nn.Embedding(n_items + 1, DIM)
        nn.init.normal_(self.items.weight, std=0.02)
        # the filter reads all of its row, so that of the states only the last may predict what
        # follows
        how = {"causal": False, "inner_dim": 64, "attention_dropout": 0.1, "alpha": 0.7, "c": 5}
        self.encoder = BSA(DIM, MAX_LEN, dropout=0.1, **how)

    def encode_users(self, query: Query) -> torch.Tensor:
        history = query.history.last(MAX_LEN)
        return self.encoder(history.with_values(history.values + 1), self.items.weight)

    def encode_items(self) -> torch.Tensor:
        return self.items.weight[1:]


def main(epochs: int = 5, seed: int = 0) -> tuple[list[float], float]:
    """Train; gives the loss of each epoch and NDCG@10 on the test part, seen items excluded."""
    split, generators = rg.load_dataset("synthetic").split("leave-one-out"), Generators(seed)
    with seeded_init(seed):
        model = BSARec(split.n_items)
    # every prefix of a sequence with its next item
    batches = SequenceBatches(
        split.train, "prefix", batch_size=256, max_len=MAX_LEN, generators=generators
    )
    optimiser, next_item = torch.optim.Adam(model.parameters(), lr=3e-3, fused=True), FullSoftmax()
    curve = []
    for epoch in range(epochs):
        losses = []
        for batch in batches.epoch(epoch):
            states = model.encoder(batch.sequences, model.items.weight, generators["dropout"])
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
