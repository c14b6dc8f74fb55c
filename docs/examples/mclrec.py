"""MCLRec (Qin et al., SIGIR 2023) on one screen, from the library's parts and a plain torch loop.

python docs/examples/mclrec.py
"""

from __future__ import annotations

import torch
from torch import nn

import recgraph as rg
from recgraph.augment.latent import MLP
from recgraph.augment.sequence import TwoViews
from recgraph.contrast.regularisers import Margin
from recgraph.contrast.term import ContrastiveTerm
from recgraph.data.batches import Query, SequenceBatch, SequenceBatches
from recgraph.encoders.transformer import Transformer
from recgraph.losses.softmax import FullSoftmax
from recgraph.rng import Generators, seeded_init
from recgraph.sparse.ragged import Ragged

DIM, MAX_LEN = 32, 12


class Recommender(nn.Module):
    """A transformer over item vectors; the scores of items are inner products with its last
    state.
    """

    has_vectors = True

    def __init__(self, n_items: int) -> None:
        super().__init__()
        # token 0 is a masked item, token i + 1 is item i
        self.items = nn.Embedding(n_items + 1, DIM)
        nn.init.normal_(self.items.weight, std=0.02)
        self.encoder = Transformer(DIM, MAX_LEN, dropout=0.1, inner_dim=64, attention_dropout=0.1)

    def encode_users(self, query: Query) -> torch.Tensor:
        history = query.history.last(MAX_LEN)
        return self.encoder(history.with_values(history.values + 1), self.items.weight)

    def encode_items(self) -> torch.Tensor:
        return self.items.weight[1:]


def main(epochs: int = 15, seed: int = 0) -> tuple[list[float], float]:
    """Train; gives the recommendation loss of each epoch and NDCG@10 on the test part, seen items
    excluded.
    """
    split, generators = rg.load_dataset("synthetic").split("leave-one-out"), Generators(seed)
    with seeded_init(seed):
        model, augmenters = Recommender(split.n_items), nn.ModuleList([MLP(DIM), MLP(DIM)])
    two_views, next_item = TwoViews(["crop", "mask", "reorder"]), FullSoftmax()
    contrast, latent, margin = ContrastiveTerm(), ContrastiveTerm(), Margin()
    batches = SequenceBatches(
        split.train, "prefix", batch_size=256, max_len=MAX_LEN, generators=generators
    )
    optimisers = [
        torch.optim.Adam(part.parameters(), lr=3e-3, fused=True) for part in (model, augmenters)
    ]

    def encode(*parts: Ragged) -> tuple[torch.Tensor, ...]:
        states = model.encoder(Ragged.cat(parts), model.items.weight, generators["dropout"])
        return torch.split(states, [part.n_rows for part in parts])

    def latent_terms(h1: torch.Tensor, h2: torch.Tensor) -> torch.Tensor:
        """cl2 + gamma R: the augmenters' views against each other and against the views that they
        are made of.
        """
        z1, z2 = augmenters[0](h1), augmenters[1](h2)
        pairs = [(z1, z2), (h1, z2), (h2, z1)]
        return sum(latent(a, b) + 0.1 * margin(a, b) for a, b in pairs)

    def encoder_loss(
        batch: SequenceBatch, views: tuple[Ragged, Ragged]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        last, h1, h2 = encode(batch.sequences, *views)
        rec = next_item(last, batch.targets, model.items.weight)
        return rec + 0.03 * contrast(h1, h2) + 0.05 * latent_terms(h1, h2), rec

    def step(loss: torch.Tensor, optimiser: torch.optim.Optimizer) -> None:
        for each in optimisers:
            each.zero_grad()
        loss.backward()
        optimiser.step()

    curve = []
    for epoch in range(epochs):
        losses = []
        for batch in batches.epoch(epoch):
            views = two_views(batch.sequences, generators["views"])
            loss, rec = encoder_loss(batch, views)
            step(loss, optimisers[0])  # the encoder learns from the augmenters' views ...
            with torch.no_grad():
                h1, h2 = encode(*views)
            step(latent_terms(h1, h2), optimisers[1])  # ... the augmenters from the encoder's ...
            loss, again = encoder_loss(batch, views)
            step(loss, optimisers[0])  # ... and the encoder again
            losses.append(float(rec.detach() + again.detach()) / 2)
        curve.append(sum(losses) / len(losses))
        print(f"epoch {epoch + 1}: rec {curve[-1]:.3f}")
    results = rg.evaluate.evaluate(model.eval(), split.test, seen=("exclude",), cutoffs=(10,))
    return curve, results["exclude"].metrics["ndcg@10"]


if __name__ == "__main__":
    print(f"NDCG@10 {main()[1]:.4f}")
