"""Random walks along meta-paths, and positions of nodes from them (metapath2vec)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from recgraph.config import Config, Search
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.route import Route
from recgraph.sparse.csr import Csr

__all__ = ["WalkConfig", "metapath2vec", "random_walks"]

# walks that are drawn, and whose pairs are stepped on, at a time
_BATCH = 512


class WalkConfig(Config):
    dim: Annotated[int, Field(ge=1, description="width of the positions"), Search(choices=(32, 64, 128))] = 64
    length: Annotated[int, Field(ge=1, description="edges of a walk")] = 10
    per_node: Annotated[int, Field(ge=1, description="walks that begin at each node in an epoch")] = 3
    window: Annotated[int, Field(ge=1, description="nodes after one that are near to it")] = 2
    n_negatives: Annotated[int, Field(ge=1, description="nodes drawn of the type of each near one")] = 3
    epochs: Annotated[int, Field(ge=1)] = 5
    learning_rate: Annotated[float, Field(gt=0, description="of AdaGrad")] = 0.1


def random_walks(steps: Sequence[Csr], starts: Tensor, length: int, generator: torch.Generator) -> Tensor:
    """[W, length + 1] int64: the nodes of each walk, by their indices within their types; -1 after a dead end.

    Args:
        steps: [N_a, N_b], [N_b, N_c], ..., followed one after the other and again from the first; the last leads to
            the type that the first begins with. Each edge is as likely as any other of its node.
        starts: [W] int64.
        length: edges of a walk.
        generator: on the host, or on the device of the edges.
    """
    walk = [starts]
    for number in range(length):
        adj, here = steps[number % len(steps)], walk[-1]
        at = here.clamp(min=0)
        if not adj.shape[0]:  # a type without nodes
            walk.append(torch.full_like(here, -1))
            continue
        degrees = adj.degrees[at]
        drawn = torch.rand(len(at), generator=generator, device=generator.device).to(at.device)
        places = adj.indptr[at] + (drawn * degrees).long().clamp(max=(degrees - 1).clamp(min=0))
        found = adj.indices[places.clamp(max=max(adj.nnz - 1, 0))] if adj.nnz else torch.zeros_like(at)
        walk.append(torch.where((here >= 0) & (degrees > 0), found, -1))
    return torch.stack(walk, 1)


def metapath2vec(graph: HeteroGraph, routes: Sequence[Route], config: WalkConfig, generator: torch.Generator) -> Tensor:
    """[N, dim]: vectors of the nodes of the type that the routes begin and end with, near where walks lead to both.

    Walks follow the routes one after the other. Of a node x, one y that comes at most ``window`` edges after it, and
    drawn nodes n of y's type, a step of AdaGrad is made down

        ``-log sigmoid(v_x . v_y) - sum_n log sigmoid(-v_x . v_n)``,

    the sum over the pairs of 512 walks at a time, with the walks of each epoch drawn anew.

    Source: metapath2vec++ (Dong, Chawla and Swami, KDD 2017): negatives of the type of the near node. As in PyTorch
    Geometric's, a node has one vector, whichever side of a pair it is on.

    Args:
        routes: each from the type to itself.
        generator: draws initial vectors, walks and negatives, on the host.
    """
    steps = [step for route in routes for step in route]
    adjacencies = [step.edges(graph).to(generator.device) for step in steps]
    types = [step.start for step in steps]
    counts = {name: graph.count(name) for name in dict.fromkeys(types)}
    first = dict(zip(counts, [0, *torch.tensor([*counts.values()]).cumsum(0).tolist()], strict=False))
    vectors: Tensor = torch.randn(sum(counts.values()), config.dim, generator=generator) / config.dim**0.5
    squares = torch.zeros(len(vectors), 1)
    n_targets = counts[types[0]]
    starts = torch.arange(n_targets).repeat(config.per_node)
    for _ in range(config.epochs):
        order = torch.randperm(len(starts), generator=generator)
        for start in range(0, len(order), _BATCH):
            some = starts[order[start : start + _BATCH]]
            walks = random_walks(adjacencies, some, config.length, generator)
            pairs = _pairs(walks, types, counts, first, config, generator)
            _step(vectors, squares, *pairs, config.learning_rate)
    return vectors[first[types[0]] :][:n_targets].clone()


def _pairs(
    walks: Tensor,
    types: Sequence[str],
    counts: dict[str, int],
    first: dict[str, int],
    config: WalkConfig,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows [P] of nodes near to others, [P, n_negatives] drawn ones of their types, and [P] the others.

    Args:
        first: node type -> the row of its first node.
    """
    near, drawn, of = [], [], []
    for place in range(walks.shape[1]):
        for after in range(place + 1, min(place + config.window + 1, walks.shape[1])):
            there = walks[:, after] >= 0
            kind = types[after % len(types)]
            near.append(walks[there, after] + first[kind])
            shape = (len(near[-1]), config.n_negatives)
            # of a type without nodes, which no walk reaches, there is nothing to draw
            drawn.append(torch.randint(max(counts[kind], 1), shape, generator=generator) + first[kind])
            of.append(walks[there, place] + first[types[place % len(types)]])
    return torch.cat(near), torch.cat(drawn), torch.cat(of)


def _step(vectors: Tensor, squares: Tensor, near: Tensor, drawn: Tensor, of: Tensor, learning_rate: float) -> None:
    """One step of AdaGrad, in place, with one rate for each row ([R, 1] ``squares``)."""
    rows, gradient = _gradient(vectors, near, drawn, of)
    squares[rows] += gradient.square().mean(1, keepdim=True)
    vectors[rows] -= learning_rate * gradient / (squares[rows].sqrt() + 1e-10)


def _gradient(vectors: Tensor, near: Tensor, drawn: Tensor, of: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that the loss of some pairs touches, [U], and its gradient there, [U, dim]."""
    others = torch.cat([near[:, None], drawn], 1)
    rows, places = torch.unique(torch.cat([of, others.flatten()]), return_inverse=True)
    x, y = vectors[of], vectors[others]
    scores = (y @ x[:, :, None]).squeeze(2)
    # of -log sigmoid(s) for what is near, of -log sigmoid(-s) for what is drawn
    slopes = torch.sigmoid(scores)
    slopes[:, 0] -= 1
    parts = torch.cat([(slopes[:, None] @ y).squeeze(1), (slopes[:, :, None] * x[:, None]).flatten(0, 1)])
    return rows, torch.zeros(len(rows), vectors.shape[1], dtype=vectors.dtype).index_add_(0, places, parts)
