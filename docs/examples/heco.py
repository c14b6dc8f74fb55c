"""HeCo (Wang et al., KDD 2021) on one screen, from the library's parts and a plain torch loop, on
planted classes.

python docs/examples/heco.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recgraph.contrast.term import ContrastiveTerm
from recgraph.encoders.graph import GCN, SemanticAttention
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath
from recgraph.models.heterogeneous.heco import NeighbourAttention, sample_neighbours
from recgraph.rng import Generators, dropout, seeded_init
from recgraph.sparse.operators import mean_of, normalise
from recgraph.sparse.ragged import Ragged
from recgraph.sparse.select import top_k

N, CLASSES, DIM, POSITIVES, NEIGHBOURS = 300, 3, 32, 5, 7
PATHS = ("paper-author-paper", "paper-subject-paper")
EDGES = {"author": ("paper", "by", "author"), "subject": ("paper", "on", "subject")}


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
    edges = {EDGES["author"]: of_class(classes, 90, 3), EDGES["subject"]: of_class(classes, 9, 1)}
    words = torch.zeros(N, 60).index_put_(of_class(classes, 60, 4), torch.ones(()))
    features = {"paper": words, "author": torch.eye(90), "subject": torch.eye(9)}
    return HeteroGraph.from_edge_lists(
        {"paper": N, "author": 90, "subject": 9}, edges, features=features
    ), classes


class HeCo(nn.Module):
    """The schema view asks the neighbours of other types, the path view, which is the embedding,
    those along paths.
    """

    def __init__(self, graph: HeteroGraph) -> None:
        super().__init__()
        self.x = {name: graph.features(name) for name in ("paper", *EDGES)}
        self.neighbours = {name: graph.adjacency(edge).pattern() for name, edge in EDGES.items()}
        reached = [MetaPath(path, counts="binary").counts(graph) for path in PATHS]
        self.paths = [
            normalise(one.with_weights(one.values()).with_diagonal(1.0), "symmetric")
            for one in reached
        ]
        # positives of a paper: itself, and those that its paths lead to most
        others = mean_of([normalise(one, "row") for one in reached]).with_diagonal(None)
        kept = top_k(others, POSITIVES - 1, others.values()).with_weights(None).with_diagonal(1.0)
        self.positives = Ragged(kept.indices, kept.indptr)
        self.layers = nn.ModuleDict(
            {name: nn.Linear(x.shape[1], DIM) for name, x in self.x.items()}
        )
        for layer in self.layers.values():
            nn.init.xavier_normal_(layer.weight, gain=1.414)
        self.attention = nn.ModuleDict({name: NeighbourAttention(DIM, 0.5) for name in EDGES})
        self.of_types = SemanticAttention(DIM, dropout=0.5)
        self.gcns = nn.ModuleList(
            GCN(DIM, DIM, DIM, dropout=0.0, n_layers=1, norm="none") for _ in PATHS
        )
        self.bias = nn.Parameter(torch.zeros(len(PATHS), DIM))
        self.activations = nn.ModuleList(nn.PReLU() for _ in PATHS)
        for gcn in self.gcns:
            nn.init.xavier_normal_(gcn.weights[0], gain=1.414)
        self.of_paths = SemanticAttention(DIM, dropout=0.5)
        self.project = nn.Sequential(nn.Linear(DIM, DIM), nn.ELU(), nn.Linear(DIM, DIM))
        for layer in self.project[::2]:
            nn.init.xavier_normal_(layer.weight, gain=1.414)

    def hidden(self, name: str, draw: torch.Generator | None = None) -> Tensor:
        return F.elu(dropout(self.layers[name](self.x[name]), 0.2, draw))

    def path_view(self, h: Tensor, draw: torch.Generator | None = None) -> Tensor:
        each = zip(self.gcns, self.paths, self.bias, self.activations, strict=True)
        return self.of_paths(
            [activation(gcn(path, h) + bias) for gcn, path, bias, activation in each], draw
        )

    def views(self, generators: Generators) -> tuple[Tensor, Tensor]:
        draw, schema = generators["dropout"], []
        h = self.hidden("paper", draw)
        path = self.path_view(h, draw)
        for name, adjacency in self.neighbours.items():
            near = sample_neighbours(adjacency, NEIGHBOURS, generators["neighbours"])
            schema.append(F.elu(self.attention[name](h, self.hidden(name, draw), near, draw)))
        return path, self.of_types(schema, draw)


def main(epochs: int = 40, seed: int = 0) -> tuple[list[float], float]:
    """Train without labels; gives the losses and the accuracy of the nearest class mean on half the
    papers.
    """
    generators = Generators(seed)
    graph, classes = planted_graph(generators["graph"])
    with seeded_init(seed):
        model, contrast = (
            HeCo(graph),
            ContrastiveTerm(objective="info_nce", similarity="cosine", temperature=0.8),
        )
    optimiser, curve = torch.optim.Adam(model.parameters(), lr=5e-3, fused=True), []
    for _ in range(epochs):
        path, schema = map(model.project, model.views(generators))
        loss = (
            sum(
                contrast(*pair, positives=model.positives)
                for pair in ((schema, path), (path, schema))
            )
            / 2
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        curve.append(float(loss.detach()))
    with torch.no_grad():
        z = F.normalize(model.eval().path_view(model.hidden("paper")), dim=1)
    train_mask = torch.rand(N, generator=generators["labels"]) < 0.5
    means = torch.stack([z[train_mask & (classes == c)].mean(0) for c in range(CLASSES)])
    return curve, float(((z @ means.T).argmax(1) == classes)[~train_mask].float().mean())


if __name__ == "__main__":
    print(f"accuracy {main()[1]:.3f}")
