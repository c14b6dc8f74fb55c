"""Encoders of graphs: convolutions, LightGCN's propagation, attention over views, and graphs of
items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from recgraph.config import Search
from recgraph.encoders.base import dropout_generator
from recgraph.encoders.items import SizedByState
from recgraph.graph.contexts import Layered
from recgraph.rng import dropout
from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import Chain, Sum, normalise, power
from recgraph.sparse.products import distinct
from recgraph.sparse.ragged import Ragged
from recgraph.sparse.spmm import Backend, Operator, spmm

Norm = Literal["none", "joint"]
#: what a graph encoder takes: one operator, or several, each perhaps one a layer
Operators = Operator | Layered | Sequence[Operator | Layered]

#: pairs that are counted at a time
_PENDING = 1 << 23


class GCN(nn.Module):
    """``H <- PReLU(A drop(H W))`` in every layer but the last, ``A drop(H W)`` there.

    Source: Kipf and Welling, ICLR 2017, in the form of MEOW (SDM 2023): one dropout a layer, after
    the product with the weights; no bias; ``W`` uniform in ``+-1/sqrt(columns)``; a PReLU of one
    parameter; at the end a normalisation without parameters over the whole N x D matrix jointly
    (``norm="joint"``), which keeps the nodes' relative lengths. The operator is used as it is:
    normalise it first.

    Args:
        in_dim: width of the input.
        hidden_dim: width of inner layers.
        out_dim: width of the output.
        dropout: its probability.
        n_layers: at least 1.
        norm: ``"joint"`` or ``"none"``.
        backend: of the sparse products.
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dim: int,
        out_dim: int,
        dropout: float,
        n_layers: Annotated[int, Field(ge=1, description="layers"), Search(1, 3)] = 2,
        norm: Norm = "joint",
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.dropout, self.norm, self.backend = dropout, norm, backend
        widths = [in_dim, *[hidden_dim] * (n_layers - 1), out_dim]
        self.weights = nn.ParameterList(
            nn.Parameter(torch.empty(a, b)) for a, b in pairwise(widths)
        )
        self.activations = nn.ModuleList(nn.PReLU() for _ in range(n_layers - 1))
        for weight in self.weights:
            bound = 1 / math.sqrt(weight.shape[1])
            nn.init.uniform_(weight, -bound, bound)

    def forward(
        self, adj: Operators, x: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Encode.

        Args:
            adj: [N, N], normalised; of several, the mean is used (and never made). One a layer
                (:class:`Layered`) where the rows that are asked for see only a part of the graph.
            x: [N, F]; with one operator a layer, as many rows as the first one has columns.
            generator: draws dropout; required in training mode where dropout is above 0.

        Returns:
            [N, D]; where ranks divide the rows, those of all ranks.
        """
        adjacencies = _listed(adj)
        generator = dropout_generator(self, self.dropout, generator)
        for layer, weight in enumerate(self.weights):
            x = dropout(x @ weight, self.dropout, generator)
            x = self._propagate(adjacencies, layer, x)
            if layer < len(self.activations):
                x = self.activations[layer](x)
        if isinstance(adjacencies[0], Layered):
            x = adjacencies[0].share.gathered(x)
        if self.norm == "joint":
            return F.layer_norm(x, x.shape)
        return x

    def _propagate(self, adjacencies: list[Operator | Layered], layer: int, x: Tensor) -> Tensor:
        products = []
        for adj in adjacencies:
            operator = adj.layers[layer] if isinstance(adj, Layered) else adj
            products.append(spmm(operator, x, self.backend))
        if len(products) == 1:
            return products[0]
        return sum(products[1:], products[0]) / len(products)


class Propagation(nn.Module):
    """``A x``, of several operators their mean: LightGCN's convolution (SIGIR 2020), to be called
    as a GCN is.
    """

    def forward(
        self, adj: Operators, x: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """[N, D] of x [N, D] and operators [N, N]; the generator is not read."""
        products = [spmm(cast("Operator", operator), x) for operator in _listed(adj)]
        if len(products) == 1:
            return products[0]
        return torch.stack(products).mean(0)


def _listed(adj: Operators) -> list[Operator | Layered]:
    if isinstance(adj, Csr | Chain | Sum | Layered):
        return [adj]
    return list(adj)


#: changes the output of a layer in its place, without gradient
Perturbation = Callable[[Tensor], object]


class LightGCN(SizedByState):
    """Vectors of users and items, each layer the normalised sum of the neighbours' vectors; the
    mean over layers.

    ``E_k = D^-1/2 A D^-1/2 E_(k-1)`` with A the adjacency, binary or of weights, of users (nodes 0
    ... n_users - 1) and items (``n_users + item_idx``), and the mean of ``E_0 ... E_K``. There are
    no weights to learn here. Source: He et al., LightGCN (SIGIR 2020), equations 3, 6 and 8.

    The graph is part of the state, so that a saved model ranks without its training data; before
    :meth:`connect` it has no edge. Until then, and for a node without edges, the mean is ``E_0 / (K
    + 1)``.

    Args:
        n_users, n_items: the numbers of nodes.
        n_layers: K.
    """

    sized_by_state = ("items", "weights")
    offsets: Tensor
    items: Tensor
    weights: Tensor | None

    def __init__(self, n_users: int, n_items: int, n_layers: int) -> None:
        super().__init__()
        self.n_users, self.n_items, self.n_layers = n_users, n_items, n_layers
        # half the bytes of int64, in every checkpoint
        self.register_buffer("offsets", torch.zeros(n_users + 1, dtype=torch.int64))
        self.register_buffer("items", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("weights", None)

    def connect(self, edges: Csr) -> None:
        """Set the edges [n_users, n_items], one a place, their weights above 0."""
        edges = edges.to(self.offsets.device, torch.float32)
        self.offsets = edges.indptr
        self.items = edges.indices.to(torch.int32)
        self.weights = edges.weights
        self.changed()

    @property
    def edges(self) -> Csr:
        """[n_users, n_items]: who interacted with what."""
        shape = (self.n_users, self.n_items)
        return self.once("edges", lambda: Csr(self.offsets, self.items.long(), self.weights, shape))

    def adjacency(self, dtype: torch.dtype = torch.float32) -> Csr:
        """The symmetric normalised adjacency of all nodes; made once."""
        return self.once(("adjacency", dtype), lambda: self.subgraph(self.edges, dtype))

    def subgraph(self, edges: Csr, dtype: torch.dtype = torch.float32) -> Csr:
        """The symmetric adjacency of all nodes with other edges [n_users, n_items], normalised by
        the degrees, sums of weights, that these leave."""
        users = power(edges.row_sums().to(dtype), -0.5)
        items = power(edges.t().row_sums().to(dtype), -0.5)
        scaled = edges.scale(users, items)
        flipped = scaled.t()
        indptr = torch.cat([scaled.indptr, flipped.indptr[1:] + scaled.nnz])
        indices = torch.cat([scaled.indices + self.n_users, flipped.indices])
        weights = torch.cat([scaled.values(), flipped.values()]).to(dtype)
        n_nodes = self.n_users + self.n_items
        return Csr(indptr, indices, weights, (n_nodes, n_nodes))

    def layers(
        self, x: Tensor, adjacencies: Sequence[Csr] = (), perturb: Perturbation | None = None
    ) -> list[Tensor]:
        """The vectors after each layer.

        Args:
            x: [n_users + n_items, D], ``E_0``.
            adjacencies: of each layer, symmetric; default: the whole graph's in all.
            perturb: changes each layer's output in its place, before the next layer reads it;
                gradients do not see it.

        Returns:
            ``[E_0, ..., E_K]``.
        """
        outputs = [x]
        for adjacency in adjacencies or [self.adjacency(x.dtype)] * self.n_layers:
            x = symmetric_product(adjacency, x)
            if perturb is not None:
                with torch.no_grad():
                    perturb(x)
            outputs.append(x)
        return outputs

    def forward(self, x: Tensor, adjacencies: Sequence[Csr] = ()) -> Tensor:
        """[n_users + n_items, D]: the mean over ``E_0 ... E_K``; see :meth:`layers`."""
        return mean(self.layers(x, adjacencies))


def mean(layers: Sequence[Tensor]) -> Tensor:
    """The mean of tensors of one shape."""
    if len(layers) == 1:
        return layers[0]
    total = layers[0] + layers[1]
    for layer in layers[2:]:
        total += layer
    return total.mul_(1 / len(layers))


def symmetric_product(adjacency: Csr, x: Tensor) -> Tensor:
    """``A x`` for a symmetric A, which is its own transpose in backward, so that none is made; no
    gradient to its weights."""
    product: Tensor = _SymmetricProduct.apply(adjacency, x)  # type: ignore[no-untyped-call]
    return product


class _SymmetricProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, adjacency: Csr, x: Tensor) -> Tensor:
        ctx.adjacency = adjacency
        return spmm(adjacency, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, symmetric_product(ctx.adjacency, grad)


class SemanticAttention(nn.Module):
    """``sum_p beta_p Z_p`` with ``beta = softmax_p(a . mean over nodes of tanh(W z_p + b))``.

    Source: Wang et al., "Heterogeneous Graph Attention Network" (HAN), WWW 2019, equations 7 to 9;
    HeCo and MEOW use it.

    Args:
        dim: D, width of the embeddings.
        inner_dim: width of W's output; default D.
        dropout: of the entries of ``a`` (HeCo).

    Attributes:
        last: [P], the weights of the last call, detached: which view counts how much.
    """

    def __init__(self, dim: int, inner_dim: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        inner_dim = inner_dim or dim
        self.dropout = dropout
        self.fc = nn.Linear(dim, inner_dim)
        self.att = nn.Parameter(torch.empty(1, inner_dim))
        nn.init.xavier_normal_(self.fc.weight, gain=1.414)
        nn.init.xavier_normal_(self.att, gain=1.414)
        self.last: Tensor | None = None

    def forward(self, views: Sequence[Tensor], generator: torch.Generator | None = None) -> Tensor:
        """[N, D] of P tensors [N, D]; the generator draws dropout, in training mode."""
        return weighted_sum(views, self.weights(views, generator))

    def weights(self, views: Sequence[Tensor], generator: torch.Generator | None = None) -> Tensor:
        """[P]: beta; the arguments are those of :meth:`forward`."""
        generator = dropout_generator(self, self.dropout, generator)
        a = dropout(self.att, self.dropout, generator)[0]
        scores = torch.stack([torch.tanh(self.fc(z)).mean(0) @ a for z in views])
        beta = torch.softmax(scores, 0)
        self.last = beta.detach()
        return beta


class ViewWeights(nn.Module):
    """``sum_p beta_p Z_p`` with ``beta`` the softmax of one learned number a view, equal at the
    start.

    Unlike :class:`SemanticAttention` it does not look at the nodes: it costs nothing beside the
    sum.

    Args:
        n_views: P.

    Attributes:
        last: [P], the weights of the last call, detached.
    """

    def __init__(self, n_views: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(n_views))
        self.last: Tensor | None = None

    def forward(self, views: Sequence[Tensor], generator: torch.Generator | None = None) -> Tensor:
        """[N, D] of P tensors [N, D]; the generator is not read."""
        beta = torch.softmax(self.logits, 0)
        self.last = beta.detach()
        return weighted_sum(views, beta)


def weighted_sum(views: Sequence[Tensor], beta: Tensor) -> Tensor:
    """``sum_p beta_p Z_p`` of P tensors [N, D] and [P]."""
    total = views[0] * beta[0]
    for weight, z in zip(beta[1:], views[1:], strict=True):
        total = torch.addcmul(total, z, weight)
    return total


Steps = Annotated[int, Field(ge=1, le=100, description="layers of propagation")]
Window = Annotated[int, Field(ge=1, le=100, description="places between two items at most")]


class ItemGraph(nn.Module):
    """Base of the registry's kind ``item_graph``: ``graph(x, generator)`` makes vectors of items,
    [n_items, D], of the vectors x, [n_items, D], of those that each is related to.

    Its settings are the parameters of ``__init__``; it is given ``n_items`` and ``hidden_dim``
    besides, and ``graph``, a typed graph, where :attr:`reads_graph`.
    """

    #: whether it is made of a typed graph beside the log
    reads_graph: ClassVar[bool] = False

    def connect(self, rows: Ragged) -> None:
        """Called before training with the items of each user, oldest first."""

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[n_items, D]; the generator draws dropout and is required in training mode where there is
        some.
        """
        raise NotImplementedError


class LinkedItems(SizedByState, ItemGraph):
    """Base of those whose relation is learned from the log: a normalised matrix, which is part of
    the state, so that a saved model ranks without its training data. Before :meth:`connect` no item
    has a neighbour.

    With A the operator that :meth:`hop` applies, ``g = mean(x, A x, ..., A^K x)``, LightGCN's
    propagation (He et al., SIGIR 2020, equations 3 and 8) among items.

    Args:
        n_items: items.
        n_layers: K.
    """

    sized_by_state = ("indptr", "indices", "weights")
    indptr: Tensor
    indices: Tensor
    weights: Tensor

    def __init__(self, n_items: int, n_layers: Steps = 2) -> None:
        super().__init__()
        self.n_items, self.n_layers = n_items, n_layers
        self.register_buffer("indptr", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("indices", torch.zeros(0, dtype=torch.int32))
        self.register_buffer("weights", torch.zeros(0))

    def connect(self, rows: Ragged) -> None:
        links = self.links(rows.to(self.indptr.device))
        matrix = normalise(links, "symmetric", self.weights.dtype)
        self.indptr = matrix.indptr
        self.indices = matrix.indices.to(torch.int32)
        self.weights = matrix.values()
        self.changed()

    def links(self, rows: Ragged) -> Csr:
        """[R, n_items]: what is normalised and kept."""
        raise NotImplementedError

    def hop(self, matrix: Csr, transposed: Csr, x: Tensor) -> Tensor:
        """[n_items, D]: ``A x``, of the kept matrix and its transpose."""
        return spmm(matrix, x)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        matrix, transposed = self._matrices(x.dtype)
        outputs = [x]
        for _ in range(self.n_layers):
            outputs.append(self.hop(matrix, transposed, outputs[-1]))
        return mean(outputs)

    def _matrices(self, dtype: torch.dtype) -> tuple[Csr, Csr]:
        def make() -> tuple[Csr, Csr]:
            shape = (len(self.indptr) - 1, self.n_items)
            # a file of weights may hold anything
            matrix = Csr(self.indptr, self.indices.long(), self.weights.to(dtype), shape).checked()
            return matrix, matrix.t()

        return self.once(dtype, make)


class Interactions(LinkedItems):
    """Items that the same users chose: LightGCN over the log.

    ``A = R^T R`` with R the matrix of users by items of distinct interactions, ``D_u^-1/2 R
    D_i^-1/2``: two layers of LightGCN are one of these. Departure from LightGCN: users have no
    vectors of their own; a user is the sum of items.
    """

    def links(self, rows: Ragged) -> Csr:
        once = distinct(rows, self.n_items)
        return Csr(once.offsets, once.values, None, (once.n_rows, self.n_items))

    def hop(self, matrix: Csr, transposed: Csr, x: Tensor) -> Tensor:
        return spmm(transposed, spmm(matrix, x))


class Transitions(LinkedItems):
    """Items that follow one another within a user's history.

    A has ``w_ij``, the sum of ``1 / d`` over the places where i and j stand d <= ``window`` apart
    in a history, in either order, normalised symmetrically. With ``window`` above 1 it is the item
    graph of GCE-GNN (Wang et al., SIGIR 2020, section 4.1) with these weights in the place of its
    attention and of its cut to the most frequent neighbours.
    """

    def __init__(self, n_items: int, n_layers: Steps = 2, window: Window = 1) -> None:
        super().__init__(n_items, n_layers)
        self.window = window
        self.indptr = torch.zeros(n_items + 1, dtype=torch.int64)

    def links(self, rows: Ragged) -> Csr:
        return transitions(rows, self.n_items, self.window).with_diagonal(None)


def transitions(
    rows: Ragged, n_items: int, window: int, backward: float = 1.0, weights: Tensor | None = None
) -> Csr:
    """[n_items, n_items] float64: what follows what in rows of items.

    ``C_ij`` is the sum of ``1 / d`` over the places where j stands ``d <= window`` places behind i
    in a row, and of ``backward / d`` over those where it stands d places before i, times ``sqrt(v
    w)`` of items of ``weights`` v and w.
    """
    if weights is None:
        weights = rows.values.new_ones(len(rows.values))
    roots = weights.double().sqrt()
    empty = rows.values[:0]
    table = Csr.from_coo(empty, empty, empty.double(), shape=(n_items, n_items))
    pending = []
    n_pending = 0
    last = max(min(window, rows.longest - 1), 1)
    for distance in range(1, last + 1):
        is_pair = rows.rows[:-distance] == rows.rows[distance:]
        before = rows.values[:-distance][is_pair]
        after = rows.values[distance:][is_pair]
        counts = (roots[:-distance] * roots[distance:])[is_pair] / distance
        pending.append((before, after, counts))
        n_pending += len(counts)
        if backward:
            pending.append((after, before, backward * counts))
            n_pending += len(counts)
        # a log has few distinct pairs beside its places
        if distance == last or n_pending > _PENDING:
            table = _add_pairs(table, pending)
            pending = []
            n_pending = table.nnz
    return table


def _add_pairs(table: Csr, pending: list[tuple[Tensor, Tensor, Tensor]]) -> Csr:
    """A matrix with more entries, rows, columns and values; those at one place are summed."""
    entries = [(table.rows, table.indices, table.values(torch.float64)), *pending]
    rows, columns, values = map(torch.cat, zip(*entries, strict=True))
    return Csr.from_coo(rows, columns, values, shape=table.shape, duplicates="sum")
