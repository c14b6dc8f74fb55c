"""MEOWRec on one screen: LightGCN and MEOW's meta-path views (SDM 2023) of users and items,
contrasted.

python docs/examples/meowrec.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import recgraph as rg
from recgraph.augment.graph import EdgeDrop
from recgraph.contrast.prototypes import Prototypes, proto_nce, prototypes_of
from recgraph.contrast.term import ContrastiveTerm
from recgraph.data.batches import PairBatches, Query
from recgraph.data.part import Part
from recgraph.encoders.graph import LightGCN, ViewWeights
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath
from recgraph.rng import Generators, derive, dropout, seeded_init
from recgraph.sparse.operators import normalise
from recgraph.sparse.spmm import spmm

DIM, L2, TAU, INFO, PROTO = 32, 1e-4, 0.2, 0.005, 0.1
PATHS = {"user": "user-item-user", "item": "item-user-item"}


class MEOWRec(nn.Module):
    """Two views of each user and item: its own vector, and a fine one through its meta-path;
    LightGCN carries both.
    """

    has_vectors = True

    def __init__(self, graph: HeteroGraph, train: Part, masks: Generators) -> None:
        super().__init__()
        self.sizes = [train.n_users, train.n_items]
        self.table = nn.Embedding(sum(self.sizes), DIM)
        with torch.no_grad():
            for rows in torch.split(self.table.weight, self.sizes):
                nn.init.xavier_uniform_(rows)
        # others have no vector that was learned
        known = torch.cat([train.items.lengths, train.item_counts()]) > 0
        self.register_buffer("known", known[:, None].float())
        self.propagate, drop = LightGCN(*self.sizes, n_layers=3), EdgeDrop(ratio=0.3)
        self.propagate.connect(train.matrix())
        self.paths, self.weights = [], nn.ModuleList(ViewWeights(2) for _ in PATHS)
        for name in PATHS.values():
            path = MetaPath(name, top_k=20, normalisation="symmetric")
            twin = drop(path.adjacency(graph), drop.stream(masks, name))  # some edges masked, once
            (context,) = path.contexts(graph)
            self.paths.append((path(graph), normalise(twin, "symmetric"), context.reached))

    def views(self, generators: Generators | None = None) -> tuple[Tensor, Tensor]:
        """The propagated own and fine vectors, [n_users + n_items, DIM] each."""
        own, fine = self.table.weight * self.known, []
        sides = torch.split(own, self.sizes)
        of_sides = zip(self.paths, self.weights, sides, reversed(sides), strict=True)
        for (adjacency, twin, reached), weights, h, others in of_sides:
            context, masked = spmm(reached, others) / reached.degrees.clamp(min=1)[:, None], h
            if generators is not None:
                context = dropout(context, 0.1, generators["dropout"])
                masked = h * (torch.rand(len(h), 1, generator=generators["views"]) >= 0.3)
            fine.append(weights([spmm(adjacency, h + context), spmm(twin, masked + context)]))
        return self.propagate(own), self.propagate(torch.cat(fine))

    def encode_users(self, query: Query) -> Tensor:
        return sum(self.views())[query.users]

    def encode_items(self) -> Tensor:
        return sum(self.views())[self.sizes[0] :]


def main(epochs: int = 20, seed: int = 0) -> tuple[list[float], float]:
    """Train; gives the loss of each epoch and NDCG@10 on the test part, seen items excluded."""
    split, generators = rg.load_dataset("synthetic").split("leave-one-out"), Generators(seed)
    graph = HeteroGraph.from_interactions(split.interactions, split.train)
    with seeded_init(seed):
        model = MEOWRec(graph, split.train, masks=Generators(derive(seed, "graph views")))
    prototypes = Prototypes(n_clusters=(20, 60), iterations=10, restarts=1)
    proto = ContrastiveTerm(objective="info_nce")
    info = ContrastiveTerm(
        temperature=TAU, weight="cluster", objective={"name": "info_nce", "count_positive": False}
    )
    batches = PairBatches(split.train, 4096, generators, n_negatives=1)
    optimiser, curve = torch.optim.Adam(model.parameters(), lr=1e-2, fused=True), []
    for epoch in range(epochs):
        losses = []
        for batch in batches.epoch(epoch):
            own, fine = model.views(generators)
            places = (
                batch.users,
                batch.items + model.sizes[0],
                batch.negatives[:, 0] + model.sizes[0],
            )
            users, items, others = ((own + fine).index_select(0, rows) for rows in places)
            margins, keep_mask = (
                (users * others).sum(1) - (users * items).sum(1),
                batch.negative_mask()[:, 0],
            )
            loss = (F.softplus(margins) * keep_mask).mean()
            loss = loss + L2 * sum(model.table(rows).square().sum(1).mean() / 2 for rows in places)
            for nodes in (
                torch.unique(batch.users),
                torch.unique(batch.items) + model.sizes[0],
            ):  # of each side
                a, b = (F.normalize(view[nodes], dim=1) for view in (own, fine))
                clusters = prototypes(b)
                info.weight.prepare(
                    lambda found=clusters: torch.stack([one.assignments for one in found])
                )
                loss = loss + INFO * (
                    info(a, b) + PROTO * proto_nce(proto, a, prototypes_of(clusters, b, TAU))
                )
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
