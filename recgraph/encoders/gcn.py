"""Graph convolutions over any sparse operator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recgraph.encoders._generator import dropout_generator
from recgraph.rng import dropout
from recgraph.sparse.chain import Chain
from recgraph.sparse.csr import Csr
from recgraph.sparse.layered import Layered
from recgraph.sparse.linear_sum import Sum
from recgraph.sparse.spmm import Backend, Operator, spmm

Norm = Literal["none", "joint"]


class GCN(nn.Module):
    """``H <- PReLU(A drop(H W))`` in every layer but the last, ``A drop(H W)`` there.

    Source: Kipf and Welling, ICLR 2017, in the form of MEOW (SDM 2023): one dropout a layer, after the product with
    the weights; no bias; ``W`` uniform in ``+-1/sqrt(columns)``; a PReLU of one parameter; at the end a normalisation
    without parameters over the whole N x D matrix jointly (``norm="joint"``), which keeps the nodes' relative lengths.
    The operator is used as it is: normalise it first.

    Args:
        in_dim: width of the input.
        hidden_dim: width of inner layers.
        out_dim: width of the output.
        n_layers: at least 1.
        dropout: its probability.
        norm: ``"joint"`` or ``"none"``.
        backend: of the sparse products.
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dim: int = 64,
        out_dim: int = 64,
        n_layers: int = 2,
        dropout: float = 0.2,
        norm: Norm = "joint",
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        if n_layers < 1:
            raise ValueError(f"n_layers = {n_layers} must be at least 1")
        self.dropout, self.norm, self.backend = dropout, norm, backend
        widths = [in_dim, *[hidden_dim] * (n_layers - 1), out_dim]
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(a, b)) for a, b in pairwise(widths))
        self.activations = nn.ModuleList(nn.PReLU() for _ in range(n_layers - 1))
        for weight in self.weights:
            bound = 1 / math.sqrt(weight.shape[1])
            nn.init.uniform_(weight, -bound, bound)

    def forward(
        self,
        adj: Operator | Layered | Sequence[Operator | Layered],
        x: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Encode.

        Args:
            adj: [N, N], normalised; of several, the mean is used (and never made). One a layer (:class:`Layered`)
                where the rows that are asked for see only a part of the graph.
            x: [N, F]; with one operator a layer, as many rows as the first one has columns.
            generator: draws dropout; required in training mode where dropout is above 0.

        Returns:
            [N, D].

        Raises:
            ValueError: an operator a layer, but not as many as layers.
        """
        adjacencies = [adj] if isinstance(adj, Csr | Chain | Sum | Layered) else list(adj)
        generator = dropout_generator(self, self.dropout, generator)
        for layer, weight in enumerate(self.weights):
            operators = [self._at(one, layer) for one in adjacencies]
            x = self._propagate(operators, dropout(x @ weight, self.dropout, generator))
            if layer < len(self.activations):
                x = self.activations[layer](x)
        return F.layer_norm(x, x.shape) if self.norm == "joint" else x

    def _at(self, adj: Operator | Layered, layer: int) -> Operator:
        if not isinstance(adj, Layered):
            return adj
        if len(adj.layers) != len(self.weights):
            raise ValueError(f"adj has {len(adj.layers)} layers and the encoder {len(self.weights)}; give one a layer")
        return adj.layers[layer]

    def _propagate(self, adjacencies: list[Operator], x: Tensor) -> Tensor:
        total = spmm(adjacencies[0], x, self.backend)
        for adj in adjacencies[1:]:
            total = total + spmm(adj, x, self.backend)
        return total if len(adjacencies) == 1 else total / len(adjacencies)
