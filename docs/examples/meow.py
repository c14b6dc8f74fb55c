"""MEOW (SDM 2023) on one screen, from the library's parts and a plain torch loop, on a graph with
planted classes.

python docs/examples/meow.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recgraph.augment.graph import EdgeDrop, FeatureMask
from recgraph.contrast.prototypes import Prototypes, proto_nce, prototypes_of
from recgraph.contrast.term import ContrastiveTerm
from recgraph.encoders.graph import GCN, SemanticAttention
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath
from recgraph.rng import Generators, derive, dropout, seeded_init
from recgraph.sparse.operators import normalise
from recgraph.sparse.spmm import spmm

N, CLASSES, DIM, DROPOUT, TAU = 300, 3, 32, 0.2, 0.5
PATHS = ("paper-author-paper", "paper-subject-paper")


def planted_graph(generator: torch.Generator) -> tuple[HeteroGraph, Tensor]:
    """Papers of three classes; four in five of their authors, subjects and words are those of their
    class.
    """

    def of_class(classes: Tensor, n: int, each: int) -> tuple[Tensor, Tensor]:
        rows = torch.arange(len(classes)).repeat_interleave(each)
        own = torch.randint(n // CLASSES, rows.shape, generator=generator) * CLASSES + classes[rows]
        other = torch.randint(n, rows.shape, generator=generator)
        return rows, torch.where(torch.rand(rows.shape, generator=generator) < 0.8, own, other)

    classes = torch.arange(N) % CLASSES
    edges = {
        ("paper", "by", "author"): of_class(classes, 90, 3),
        ("paper", "on", "subject"): of_class(classes, 9, 1),
    }
    words = torch.zeros(N, 60).index_put_(of_class(classes, 60, 4), torch.ones(()))
    features = {"paper": words, "author": torch.eye(90), "subject": torch.eye(9)}
    return HeteroGraph.from_edge_lists(
        {"paper": N, "author": 90, "subject": 9}, edges, features=features
    ), classes


class MEOW(nn.Module):
    """The coarse view says who is connected, the fine one through which context."""

    def __init__(self, graph: HeteroGraph, seed: int) -> None:
        super().__init__()
        drawn, drop, mask = (
            Generators(derive(seed, "graph views")),
            EdgeDrop(ratio=0.3),
            FeatureMask(ratio=0.3),
        )
        self.x = {
            name: F.normalize(graph.features(name), p=1, dim=1)
            for name in ("paper", "author", "subject")
        }
        self.masked = mask(self.x["paper"], mask.stream(drawn, "paper"))
        paths = [MetaPath(path, top_k=20) for path in PATHS]
        adjacencies = [path.adjacency(graph) for path in paths]
        kept = [
            drop(a, drop.stream(drawn, path.name))
            for a, path in zip(adjacencies, paths, strict=True)
        ]
        self.adjacencies, self.twins = (
            [normalise(a, "meow") for a in each] for each in (adjacencies, kept)
        )
        self.contexts = [[(c.node_type, c.reached) for c in path.contexts(graph)] for path in paths]
        self.layers = nn.ModuleDict(
            {name: nn.Linear(x.shape[1], DIM) for name, x in self.x.items()}
        )
        self.of_contexts = nn.ModuleList(
            nn.ModuleList(nn.Linear(DIM, DIM, bias=False) for _ in contexts)
            for contexts in self.contexts
        )
        self.gcn, self.attention = (
            GCN(DIM, DIM, DIM, DROPOUT),
            SemanticAttention(DIM, dropout=DROPOUT),
        )
        self.project = nn.Linear(DIM, DIM)

    def views(self, draw: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """The coarse and the fine view of all papers, [N, DIM] each; the latter is the
        embedding.
        """
        h = {
            name: F.elu(dropout(self.layers[name](x), DROPOUT, draw)) for name, x in self.x.items()
        }
        masked = F.elu(dropout(self.layers["paper"](self.masked), DROPOUT, draw))
        fine = []
        of_paths = zip(self.adjacencies, self.twins, self.contexts, self.of_contexts, strict=True)
        for adj, twin, contexts, layers in of_paths:
            means = [
                spmm(reached, h[name]) / reached.degrees.clamp(min=1)[:, None]
                for name, reached in contexts
            ]
            summed = sum(layer(mean) for layer, mean in zip(layers, means, strict=True))
            context = dropout(summed, DROPOUT, draw)
            fine.append(F.normalize(self.gcn((adj,), F.elu(h["paper"] + context), draw), dim=1))
            fine.append(F.normalize(self.gcn((twin,), F.elu(masked + context), draw), dim=1))
        embedding = self.attention(fine, draw)
        return self.gcn(tuple(self.adjacencies), h["paper"], draw), embedding

    def head(self, z: Tensor) -> Tensor:
        return F.normalize(torch.tanh(self.project(z)), dim=1)


def main(epochs: int = 40, seed: int = 0) -> tuple[list[float], float]:
    """Train without labels; gives the losses and the accuracy of the nearest class mean on half the
    papers.
    """
    generators = Generators(seed)
    graph, classes = planted_graph(generators.fresh("graph"))
    with seeded_init(seed):
        model = MEOW(graph, seed)
    prototypes, proto_term = Prototypes(n_clusters=(6, 12)), ContrastiveTerm(objective="info_nce")
    info = ContrastiveTerm(
        temperature=TAU, weight="cluster", objective={"name": "info_nce", "count_positive": False}
    )
    optimiser, curve = torch.optim.Adam(model.parameters(), lr=5e-3, fused=True), []
    for epoch in range(epochs):
        coarse, fine = map(model.head, model.views(generators["dropout"]))
        found = prototypes(fine)
        info.weight.prepare(lambda found=found: torch.stack([one.assignments for one in found]))
        loss = info(coarse, fine) + proto_nce(proto_term, coarse, prototypes_of(found, fine, TAU))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        curve.append(float(loss.detach()))
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: loss {curve[-1]:.3f}")
    with torch.no_grad():
        z = F.normalize(model.eval().views()[1], dim=1)
    train_mask = torch.rand(N, generator=generators["labels"]) < 0.5
    means = torch.stack([z[train_mask & (classes == c)].mean(0) for c in range(CLASSES)])
    right = (z @ means.T).argmax(1) == classes
    return curve, float(right[~train_mask].float().mean())


if __name__ == "__main__":
    print(f"accuracy {main()[1]:.3f}")
