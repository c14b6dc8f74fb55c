"""HERO: nodes as their own kind describes them and as their neighbours of other types do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from recgraph.accelerated import full_precision
from recgraph.blocks import work_type
from recgraph.config import Search
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.route import Step, distinct_steps
from recgraph.memory import Needs, Workload
from recgraph.models.base import ModelConfig, Phase, Space, Terms
from recgraph.models.heterogeneous.base import GraphBatch, GraphModel, GraphSpace, OneWidthConfig
from recgraph.models.heterogeneous.paths import Features
from recgraph.models.heterogeneous.restoring import lengths_of
from recgraph.models.heterogeneous.type_layers import times
from recgraph.models.memory import relation_needs
from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import normalise
from recgraph.sparse.placing import Placing
from recgraph.sparse.spmm import spmm
from recgraph.unit_length import unit_length

__all__ = ["HERO", "HEROConfig", "correlations", "far", "self_expressed", "spread"]

#: bound on the rounding error of a sum of n squares, in machine epsilons of the sum, over the root of n
_ROUNDED = 8
#: (node type, where its edges lead) of one edge type in one direction
_Relation = tuple[str, str]


class HEROConfig(OneWidthConfig):
    n_layers: Annotated[
        Literal[1, 2],
        Field(description="steps to neighbours of other types; 2 joins the nodes' own vectors at the end"),
    ] = 2
    alpha: Annotated[
        float,
        Field(ge=0, description="cost of expressing a node by far ones, in mean eigenvalues of H^T H"),
        Search(0.01, 10.0, log=True),
    ] = 1.0
    beta: Annotated[
        float,
        Field(gt=0, description="cost of the squared shares, in mean eigenvalues of H^T H"),
        Search(0.1, 100.0, log=True),
    ] = 5.0
    gamma: Annotated[float, Field(ge=0, description="of the spread of components"), Search(0.1, 10.0, log=True)] = 1.0
    eta: Annotated[
        float, Field(ge=0, description="of what must differ in the specificity"), Search(0.1, 10.0, log=True)
    ] = 1.0
    specificity: Annotated[float, Field(ge=0, description="lambda, its weight"), Search(0.1, 10.0, log=True)] = 1.0
    projection_dim: Annotated[int, Field(ge=1, description="width of the projections that the losses compare")] = 64

    def idle(self) -> frozenset[str]:
        return super().idle().union(() if self.specificity else ("eta",))


def self_expressed(h: Tensor, x: Features, alpha: float, beta: float) -> Tensor:
    """[N, D]: ``S H``, nodes as other nodes express them, in float32 at least.

    ``S = argmin |H - S H|^2 + a sum_ij S_ij D_ij + b |S|^2 = (H H^T - a/2 D)(H H^T + b I)^-1``, D the distances of
    :func:`far`, ``a = alpha s`` and ``b = beta s`` with s the mean eigenvalue of ``H^T H``. By Woodbury's identity
    ``(H H^T + b I)^-1 H = H (H^T H + b I)^-1 = B``, so that ``S H = H - b B - a/2 D B``, and no matrix N x N is made.

    Args:
        h: [N, D].
        x: [N, F] features; None: the identity.
        alpha, beta: the costs.
    """
    with full_precision(h):
        h = h.to(work_type(h))
        gram = h.T @ h
        # of vectors that are all 0, any scale
        scale = (gram.diagonal().mean()).clamp(min=torch.finfo(h.dtype).tiny ** 0.5)
        b = torch.linalg.solve(gram / scale + beta * torch.eye(len(gram), dtype=h.dtype, device=h.device), h.T).T
        near: Tensor = h - beta * b
        return near if not alpha else near - alpha / 2 * far(x, b)


def far(x: Features, b: Tensor) -> Tensor:
    """[N, D]: ``D B`` with ``D_ij = sqrt(N) |x_i - x_j|^2 / sum_k |x_i - x_k|^2``, which is never made.

    A node whose features equal those of all others has no far nodes: its row of D is 0.

    Args:
        x: [N, F]; None: the identity.
        b: [N, D].
    """
    n = len(b)
    if x is None:
        squares, total = b.new_ones(n, 1), b.new_ones(1, n)
    else:
        squares = lengths_of(x, n, b).square()[:, None]
        total = _transposed_times(x, b.new_ones(n, 1)).T
    # |x_i - x_j|^2 = |x_i|^2 + |x_j|^2 - 2 x_i . x_j
    of_b = squares * b.sum(0) + squares.T @ b - 2 * times(x, _transposed_times(x, b))
    most = n * squares + squares.sum()
    sums = most - 2 * times(x, total.T)
    # a smaller sum is rounding error and no distance
    is_distance = sums > _ROUNDED * n**0.5 * torch.finfo(b.dtype).eps * most
    found: Tensor = of_b * torch.where(is_distance, n**0.5 / torch.where(is_distance, sums, 1), 0)
    return found


def _transposed_times(x: Features, b: Tensor) -> Tensor:
    """[F, D]: ``X^T B``."""
    if x is None:
        return b
    return spmm(x.t(), b) if isinstance(x, Csr) else x.T @ b


def correlations(a: Tensor, b: Tensor) -> Tensor:
    """[P, P]: ``A^T B`` of [N, P] each, with rows of length 1."""
    return unit_length(a.T @ b)


def spread(a: Tensor) -> Tensor:
    """``log sum_ij exp(C_ij)``, C the :func:`correlations` of the components of a [N, P] with one another."""
    return torch.logsumexp(correlations(a, a).flatten(), 0)


@dataclass(frozen=True, eq=False)
class _Inputs:
    """Features by type, and for each relation [N, N_other] the mean over neighbours."""

    features: Mapping[str, Features]
    means: tuple[Csr, ...]

    def to(self, device: torch.device, dtype: torch.dtype) -> _Inputs:
        place = Placing(device, dtype)
        return _Inputs({name: place(x) for name, x in self.features.items()}, tuple(map(place, self.means)))


class HERO(GraphModel):
    """Nodes by what they share with nodes of their own type, and by their neighbours of other types.

    Source: Mo et al., Self-supervised Heterogeneous Graph Learning: a Homophily and Heterogeneity View (ICLR 2024).

    - *homophily*: ``H = W x + b`` of the target's features, each node expressed by the others (:func:`self_expressed`);
    - *heterogeneity*: h the vectors of the layers of types, ``z_i = mean over relations r of ReLU(W_r mean of h_j
      over the neighbours j of i in r)``; with ``n_layers=2`` once more from these, then ``W [z_i h_i] + b``.

    With g, q and t random projections with ReLU, ``P = g(.)``, ``Q = q(.)`` of homophily (1) and heterogeneity (2), and
    ``c`` the trace of :func:`correlations`:

    - ``consistency = -c(P_2, P_1) + gamma (spread(P_1) + spread(P_2))``;
    - ``specificity = -c(t(Q_1), Q_2) + eta (c(t(Q_1), Q_1) + c(t(Q_1), P_1))``.

    The embedding is both vectors side by side, of 2 hidden_dim numbers. No meta-path is read: ``metapaths`` says which
    type is embedded. Each step is on the whole graph: there are no batches of nodes.

    As in the published code the projections stay what they were at the start. Departures from it: features enter by the
    layer of their type; alpha and beta are relative to H, so that no scale of the features matters; near nodes are not
    left out of D (published for three of four graphs), whose rows have the sum sqrt(N) (published: the length 1, which
    is nearly the same where distances differ little); all projections have one width.
    """

    Config: ClassVar[type[ModelConfig]] = HEROConfig

    def _build(self, space: Space) -> None:
        assert isinstance(space, GraphSpace)
        config, graph, dim = self.config, space.graph, self.config.hidden_dim
        self.target = self._target(graph)
        relations, means = _relations(graph)
        # the last layer first: of each, which relations it follows, so that nothing is computed in vain
        wanted: list[str] = [self.target]
        self._layers: list[list[int]] = []
        for _ in range(config.n_layers):
            followed = [number for number, (own, _) in enumerate(relations) if own in wanted]
            self._layers.insert(0, followed)
            wanted = list(dict.fromkeys(relations[number][1] for number in followed))
        if not self._layers[-1]:
            raise ValueError(f"nodes of type {self.target!r} have no edges, from which HERO makes their vectors")
        self._relations = relations
        self.types = list(dict.fromkeys([*wanted, self.target]))
        self.type_layers = nn.ModuleList(self._type_layer(graph, name) for name in self.types)
        self._begin_rows(graph, self.target, dict(zip(self.types, self.type_layers, strict=True)))
        self._inputs = _Inputs({name: self._features(graph, name) for name in self.types}, means)
        self.of_relations = nn.ModuleList(
            nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in followed) for followed in self._layers
        )
        self.joined = nn.Linear(2 * dim, dim) if config.n_layers == 2 else None
        x = self.features_of(graph, self.target)
        self.subspace = nn.Linear(graph.count(self.target) if x is None else x.shape[1], dim)
        width = config.projection_dim
        for name, shape in (("consistent", (dim, width)), ("specific", (dim, width)), ("turned", (width, width))):
            self.register_buffer(name, torch.empty(shape).uniform_(-1, 1) / shape[0] ** 0.5)

    @property
    def embedding_dim(self) -> int:
        return 2 * int(self.config.hidden_dim)

    @property
    def phases(self) -> tuple[Phase, ...]:
        terms = {"consistency": 1.0, "specificity": self.config.specificity}
        return (Phase("model", ("model",), {name: weight for name, weight in terms.items() if weight}),)

    def memory_needs(self, work: Workload) -> Needs:
        return relation_needs(self, work)

    def homophily(self, inputs: _Inputs) -> Tensor:
        """[N, D]: the target nodes as others of their type express them."""
        x = inputs.features[self.target]
        h = times(x, self.subspace.weight.T) + self.subspace.bias
        return self_expressed(h, x, self.config.alpha, self.config.beta)

    def heterogeneity(self, inputs: _Inputs, generator: torch.Generator | None) -> Tensor:
        """[N, D]: the target nodes as their neighbours describe them.

        Args:
            generator: draws dropout; required in training mode where dropout is above 0.
        """
        own = {
            name: layer(inputs.features[name], generator)
            for name, layer in zip(self.types, self.type_layers, strict=True)
        }
        h: Mapping[str, Tensor] = own
        layers: Any
        for followed, layers in zip(self._layers, self.of_relations, strict=True):
            found: dict[str, list[Tensor]] = {}
            for number, layer in zip(followed, layers, strict=True):
                of, other = self._relations[number]
                found.setdefault(of, []).append(F.relu(spmm(inputs.means[number], layer(h[other]))))
            h = {of: torch.stack(parts).mean(0) for of, parts in found.items()}
        z = h[self.target]
        if self.joined is not None:
            z = self.joined(torch.cat([z, own[self.target].to(z.dtype)], 1))
        return z

    def terms(self, batch: GraphBatch, asked: frozenset[str]) -> Terms:
        inputs: _Inputs = self._placed(self._inputs)
        views = cache(lambda: (self.homophily(inputs), self.heterogeneity(inputs, batch.generators["dropout"])))
        return {
            "consistency": lambda: self._in_full(self._consistency, views()),
            "specificity": lambda: self._in_full(self._specificity, views()),
        }

    def _in_full(self, loss: Callable[[Tensor, Tensor], Tensor], views: Iterable[Tensor]) -> Tensor:
        """A loss of both views in float32 at least."""
        near, others = views
        with full_precision(near):
            work = work_type(near, others)
            return loss(near.to(work), others.to(work))

    def _projected(self, name: str, x: Tensor) -> Tensor:
        matrix: Tensor = getattr(self, name)
        return F.relu(x @ matrix.to(x.dtype))

    def _consistency(self, near: Tensor, others: Tensor) -> Tensor:
        a, b = self._projected("consistent", near), self._projected("consistent", others)
        loss: Tensor = self.config.gamma * (spread(a) + spread(b)) - correlations(b, a).trace()
        return loss

    def _specificity(self, near: Tensor, others: Tensor) -> Tensor:
        p, a, b = (
            self._projected("consistent", near),
            self._projected("specific", near),
            self._projected("specific", others),
        )
        turned = self._projected("turned", a)
        differ = correlations(turned, a).trace() + correlations(turned, p).trace()
        loss: Tensor = self.config.eta * differ - correlations(turned, b).trace()
        return loss

    def embed(self) -> Tensor:
        inputs: _Inputs = self._placed(self._inputs)
        near, others = self.homophily(inputs), self.heterogeneity(inputs, None)
        return torch.cat([near, others.to(near.dtype)], 1)


def _relations(graph: HeteroGraph) -> tuple[list[_Relation], tuple[Csr, ...]]:
    """Every edge type in both directions, the same edges once: where it begins and leads, and the mean over its edges
    (:meth:`recgraph.graph.route.Step.edges`)."""
    relations, means = [], []
    steps = distinct_steps(graph)
    for edge_type in graph.edge_types:
        forwards = Step(edge_type)
        adj = forwards.edges(graph).pattern()
        for step, matrix in ((forwards, adj), (forwards.reversed, adj.t())):
            if steps[step].edge_type == edge_type:
                relations.append((step.start, step.end))
                means.append(normalise(matrix, "row"))
    return relations, tuple(means)
