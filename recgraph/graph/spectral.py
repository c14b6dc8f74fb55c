"""Spectral coordinates of the nodes of a typed graph: stand-ins for features that it does not
have.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recgraph.graph.hetero import HeteroGraph
from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import power
from recgraph.sparse.spmm import spmm

# products with the matrix: rounds of a Chebyshev filter of this degree; on ACM, AMiner, DBLP and
# IMDB more of them do not change what a probe reads
_ROUNDS, _DEGREE = 4, 12
# products by which the largest eigenvalue is bounded
_OF_BOUND = 15


def joint_adjacency(graph: HeteroGraph) -> tuple[Csr, dict[str, slice]]:
    """[N, N] of all N nodes, and the rows of each type: the sum over edge types of their
    regularised adjacencies.

    An edge type with pattern B [N_a, N_b], degrees d and mean degrees d' of its ends adds ``(D_a +
    d'_a)^-1/2 B (D_b + d'_b)^-1/2`` and its transpose, so that no edge type outweighs the others by
    its number of edges. Without the mean degrees the largest eigenvalues would belong to components
    of a few nodes, which an author or a reference makes that one paper alone has.

    Source: Qin and Rohe, Regularized Spectral Clustering under the Degree-Corrected Stochastic
    Blockmodel (NIPS 2013).
    """
    places: dict[str, slice] = {}
    n = 0
    for name in graph.node_types:
        places[name] = slice(n, n + graph.count(name))
        n += graph.count(name)
    no_ends = torch.zeros(0, dtype=torch.int64, device=graph.device)
    rows, cols, weights = [no_ends], [no_ends], [torch.zeros(0, device=graph.device)]
    for source, relation, end in graph.edge_types:
        adj = graph.adjacency((source, relation, end)).pattern()
        wide = [degrees.to(torch.float64) for degrees in (adj.degrees, adj.t().degrees)]
        scaled = adj.scale(
            *[power(degrees + (degrees.mean() if len(degrees) else 0), -0.5) for degrees in wide]
        )
        ends = scaled.rows + places[source].start, scaled.indices + places[end].start
        rows += ends
        cols += reversed(ends)
        weights += [scaled.values(torch.float32)] * 2
    return Csr.from_coo(torch.cat(rows), torch.cat(cols), torch.cat(weights), shape=(n, n)), places


def coordinates(graph: HeteroGraph, dim: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Node type -> [N_type, dim] float32: where the leading eigenvectors of :func:`joint_adjacency`
    have its nodes.

    Nodes that many short ways join lie near to one another, whatever their types. The eigenvectors
    span a space that iteration by blocks with a Chebyshev filter finds nearly; within it the axes
    are drawn, so that each has a part of all eigenvectors. All coordinates of a type together have
    a mean square of 1. It takes about 50 products of the matrix with [N, dim], and the memory of 5
    of these.

    Source: Zhou, Saad, Tiago and Chelikowsky, Self-consistent-field calculations using
    Chebyshev-filtered subspace iteration (J. Comput. Phys. 2006).

    Args:
        dim: at least 1.
        generator: draws the first block and the axes, on the host.
    """
    adj, places = joint_adjacency(graph)
    n = adj.shape[0]
    width = min(dim, n)
    drawn = torch.randn(n, width, generator=generator, device=generator.device).to(graph.device)
    axes = torch.randn(dim, width, generator=generator, device=generator.device).to(graph.device)
    x = torch.linalg.qr(drawn).Q
    bound = _bound(adj)
    for _ in range(_ROUNDS if bound > 0 else 0):
        # the eigenvalues that the block holds, ascending, and their vectors
        values, vectors = torch.linalg.eigh((x.t() @ spmm(adj, x)).to(torch.float64))
        filtered = _filtered(adj, x @ vectors.to(x.dtype), max(float(values[0]), 0.0), bound)
        x = torch.linalg.qr(filtered).Q
    x = x @ torch.linalg.qr(axes).Q.t()
    found = {}
    for name, place in places.items():
        square = x[place].square().mean() if x[place].numel() else x.new_ones(())
        found[name] = x[place] / square.sqrt().clamp(min=torch.finfo(x.dtype).tiny)
    return found


def _bound(adj: Csr) -> float:
    """Not less than the absolute value of any eigenvalue of a symmetric matrix without negative
    entries.

    Of a positive x the largest ``(A x)_i / x_i`` is such a bound (Collatz and Wielandt); it is near
    the largest eigenvalue after a few products.
    """
    x = torch.ones(adj.shape[0], 1, dtype=torch.float64, device=adj.device)
    ratio = x.new_zeros(())
    for _ in range(_OF_BOUND if adj.shape[0] else 0):
        y = spmm(adj, x)
        ratio = (y / x).max()
        x = (x + y) / (x + y).max()
    return float(ratio)


def _filtered(adj: Csr, x: Tensor, cut: float, bound: float) -> Tensor:
    """``T(A) x``: T grows fast above ``cut`` and stays within -1 ... 1 from ``-bound`` to it, up to
    one scale.
    """
    half, centre = (cut + bound) / 2, (cut - bound) / 2
    before, now = x, (spmm(adj, x) - centre * x) / half
    for _ in range(_DEGREE - 1):
        before, now = now, 2 / half * (spmm(adj, now) - centre * now) - before
        scale = now.square().sum(0).max().sqrt()
        before, now = before / scale, now / scale
    return now
