"""LightGCN of this library beside PyTorch Geometric's own, trained by one recipe in one run.

    python -m experiments.lightgcn_parity [--dataset ml-100k] [--epochs 30] [--seed 0]

Both begin with the same vectors and take the same batches, negatives and optimiser. PyG's model runs as its example
does, on the normalised adjacency as CSR, with its own loss; its penalty of all three vectors of a sample at
``lambda_reg`` is this library's ``l2 = 2 lambda_reg``. A JSON object for each epoch: the losses, NDCG@20 on the valid
part; then, of each side's best epoch, the test part, seen items excluded.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recgraph.data.batches import PairBatch, Query
from recgraph.data.part import Cases, Part
from recgraph.data.split import Split
from recgraph.evaluate.evaluator import evaluate
from recgraph.models.base import Space
from recgraph.models.collaborative.lightgcn import LightGCN
from recgraph.rng import Generators
from recgraph.train.settings import DataConfig

METRIC = "ndcg@20"


@dataclass(frozen=True)
class Recipe:
    """What both are trained with."""

    hidden_dim: int = 64
    n_layers: int = 3
    l2: float = 1e-4
    learning_rate: float = 0.01
    batch_size: int = 4096


class Ours:
    """This library's model."""

    name = "recgraph"

    def __init__(self, train: Part, recipe: Recipe, generators: Generators) -> None:
        self.model = LightGCN(hidden_dim=recipe.hidden_dim, n_layers=recipe.n_layers, l2=recipe.l2)
        self.model.build(Space(n_users=train.n_users, n_items=train.n_items), generators.seed)
        self.l2, self.train = recipe.l2, train
        self.batches = self.model.batches(train, recipe.batch_size, generators)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=recipe.learning_rate)

    def loss(self, batch: PairBatch) -> Tensor:
        terms = self.model(batch, ("rec", "l2"))
        return terms["rec"] + self.l2 * terms["l2"]

    def nodes(self) -> Tensor:
        return self.model.nodes()


class Peer:
    """PyG's model, beginning with the vectors of ours."""

    name = "torch_geometric"

    def __init__(self, ours: Ours, recipe: Recipe) -> None:
        from torch_geometric.nn.conv.gcn_conv import gcn_norm
        from torch_geometric.nn.models import LightGCN as Published

        train = ours.train
        self.n_users, n_nodes = train.n_users, train.n_users + train.n_items
        self.lambda_reg = recipe.l2 / 2
        users, items = train.items.rows, train.items.values + self.n_users
        pairs = torch.unique(torch.stack([users, items]), dim=1)
        edges, weights = gcn_norm(torch.cat([pairs, pairs.flip(0)], 1), None, n_nodes, add_self_loops=False)
        self.adjacency = torch.sparse_coo_tensor(edges, weights, (n_nodes, n_nodes)).coalesce().to_sparse_csr()
        self.model = Published(n_nodes, recipe.hidden_dim, num_layers=recipe.n_layers, normalize=False)
        with torch.no_grad():
            self.model.embedding.weight.copy_(ours.model.embedding.weight)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=recipe.learning_rate)

    def loss(self, batch: PairBatch) -> Tensor:
        items, negatives = batch.items + self.n_users, batch.negatives[:, 0] + self.n_users
        pairs = torch.stack([torch.cat([batch.users, batch.users]), torch.cat([items, negatives])])
        of_items, of_negatives = self.model(self.adjacency, pairs).chunk(2)
        nodes = torch.cat([batch.users, items, negatives])
        loss: Tensor = self.model.recommendation_loss(of_items, of_negatives, node_id=nodes, lambda_reg=self.lambda_reg)
        return loss

    def nodes(self) -> Tensor:
        nodes: Tensor = self.model.get_embedding(self.adjacency)
        return nodes


class Vectors:
    """Ranks by given vectors of users and items."""

    has_vectors = True

    def __init__(self, nodes: Tensor, n_users: int) -> None:
        self.users, self.items = nodes[:n_users], nodes[n_users:]

    def encode_users(self, query: Query) -> Tensor:
        return self.users[query.users]

    def encode_items(self) -> Tensor:
        return self.items

    def score(self, query: Query) -> Tensor:
        return self.encode_users(query) @ self.items.T


def sides(train: Part, recipe: Recipe, seed: int) -> tuple[Ours, Peer]:
    """Both models at one start."""
    ours = Ours(train, recipe, Generators(seed))
    return ours, Peer(ours, recipe)


def steps(ours: Ours, peer: Peer, epoch: int) -> Iterator[tuple[float, float]]:
    """One epoch of both: the losses of each batch, before its step."""
    for batch in ours.batches.epoch(epoch):
        losses = []
        for side in (ours, peer):
            side.optimiser.zero_grad()
            loss = side.loss(batch)
            loss.backward()
            side.optimiser.step()
            losses.append(float(loss.detach()))
        yield losses[0], losses[1]


def agreement(train: Part, epochs: int = 2, seed: int = 0) -> dict[str, float]:
    """How far losses and vectors are apart after some epochs of small vectors, and how far the loss has fallen."""
    ours, peer = sides(train, Recipe(hidden_dim=16, batch_size=8192), seed)
    losses = torch.tensor([pair for epoch in range(epochs) for pair in steps(ours, peer, epoch)])
    with torch.no_grad():
        vectors = float((ours.nodes() - peer.nodes()).abs().max())
    return {
        "n_steps": len(losses),
        "worst_difference_of_losses": float((losses[:, 0] - losses[:, 1]).abs().max()),
        "worst_difference_of_vectors": vectors,
        "last_loss_over_first": float(losses[-1, 0] / losses[0, 0]),
    }


def compare(split: Split, epochs: int, seed: int = 0, recipe: Recipe | None = None) -> Iterator[dict[str, Any]]:
    """A record an epoch, and one of the test part at each side's best epoch on the valid part."""
    train = split.train
    both = sides(train, recipe or Recipe(), seed)
    best: dict[str, tuple[float, int, Tensor]] = {}
    for epoch in range(epochs):
        losses = torch.tensor(list(steps(*both, epoch)))
        record: dict[str, Any] = {"epoch": epoch + 1, "loss": _by_name(losses.mean(0).tolist())}
        record["worst_difference_of_losses"] = float((losses[:, 0] - losses[:, 1]).abs().max())
        for side in both:
            with torch.no_grad():
                nodes = side.nodes().clone()
            value = _ndcg(nodes, split.valid, train.n_users)
            record.setdefault(f"valid {METRIC}", {})[side.name] = value
            if side.name not in best or value > best[side.name][0]:
                best[side.name] = (value, epoch + 1, nodes)
        yield record
    test = split.sealed().unseal("LightGCN beside PyG's").test
    yield {
        "best_epoch": {name: found[1] for name, found in best.items()},
        f"test {METRIC}": {name: _ndcg(found[2], test, train.n_users) for name, found in best.items()},
    }


def _ndcg(nodes: Tensor, cases: Cases, n_users: int) -> float:
    ranker: Any = Vectors(nodes, n_users)
    return float(evaluate(ranker, cases, seen=("exclude",), cutoffs=(20,))[0].metrics[METRIC])


def _by_name(values: list[float]) -> dict[str, float]:
    return dict(zip((Ours.name, Peer.name), values, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    options = {"valid": 0.1, "test": 0.1, "order": "random"}
    split = DataConfig.of(split="ratio", split_options=options).split_of(chosen.dataset)
    for record in compare(split, chosen.epochs, chosen.seed):
        print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
