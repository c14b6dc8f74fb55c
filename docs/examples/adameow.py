"""AdaMEOW (TKDE 2024) on one screen, from the library's parts and a plain torch loop, on a graph
with planted classes.

python docs/examples/adameow.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recgraph.augment.graph import EdgeDrop, FeatureMask
from recgraph.contrast.term import ContrastiveTerm
from recgraph.encoders.graph import GCN, SemanticAttention
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath
from recgraph.rng import Generators, derive, dropout, seeded_init
from recgraph.sparse.operators import normalise
from recgraph.sparse.spmm import spmm

N, CLASSES, DIM, TAU, DROPOUT = 300, 3, 32, 0.5, 0.2
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


class AdaMEOW(nn.Module):
    """The coarse view says who is connected, the fine one through which context."""

    def __init__(self, graph: HeteroGraph, masks: Generators) -> None:
        super().__init__()
        paths, drop, mask = (
            [MetaPath(path, top_k=20) for path in PATHS],
            EdgeDrop(ratio=0.3),
            FeatureMask(ratio=0.3),
        )
        self.x = {name: graph.features(name) for name in ("paper", "author", "subject")}
        self.masked = mask(self.x["paper"], mask.stream(masks, "paper"))
        kept = [drop(path.adjacency(graph), drop.stream(masks, path.name)) for path in paths]
        self.adjacencies, self.twins = (
            [path(graph) for path in paths],
            [normalise(one, "meow") for one in kept],
        )
        self.contexts = [[(c.node_type, c.reached) for c in path.contexts(graph)] for path in paths]
        self.layers = nn.ModuleDict(
            {name: nn.Linear(x.shape[1], DIM) for name, x in self.x.items()}
        )
        self.of_contexts = nn.ModuleList(nn.Linear(DIM, DIM, bias=False) for _ in paths)
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
        masked, each = F.elu(dropout(self.layers["paper"](self.masked), DROPOUT, draw)), []
        of_paths = zip(self.adjacencies, self.twins, self.contexts, self.of_contexts, strict=True)
        for adjacency, twin, contexts, layer in of_paths:
            context = sum(
                layer(spmm(r, h[name]) / r.degrees.clamp(min=1)[:, None]) for name, r in contexts
            )
            context = dropout(context, DROPOUT, draw)
            each += [self.gcn((adjacency,), F.elu(h["paper"] + context), draw)]
            each += [self.gcn((twin,), F.elu(masked + context), draw)]
        fine = self.attention([F.normalize(z, dim=1) for z in each], draw)
        return self.gcn(tuple(self.adjacencies), h["paper"], draw), fine

    def head(self, z: Tensor) -> Tensor:
        return F.normalize(torch.tanh(self.project(z)), dim=1)


def main(epochs: int = 40, seed: int = 0) -> tuple[list[float], float]:
    """Train without labels; gives the losses and the accuracy of the nearest class mean on half the
    papers.
    """
    generators = Generators(seed)
    graph, classes = planted_graph(generators["graph"])
    with seeded_init(seed):
        model = AdaMEOW(graph, masks=Generators(derive(seed, "graph views")))
        info = ContrastiveTerm(
            dim=DIM,
            temperature=TAU,
            weight="learned",
            objective={"name": "info_nce", "weigh_positive": True},
        )
    parameters = [*model.parameters(), *info.parameters()]
    optimiser, curve = torch.optim.Adam(parameters, lr=5e-3, fused=True), []
    for epoch in range(epochs):
        coarse, fine = map(model.head, model.views(generators["dropout"]))
        # all candidates are weighted by a network that learns with the views
        loss = info(fine, coarse)
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
