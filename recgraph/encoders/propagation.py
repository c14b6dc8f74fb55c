"""Propagation over any sparse operator, without weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recgraph.sparse.layered import Layered
from recgraph.sparse.spmm import Operator, spmm

__all__ = ["Propagation"]


class Propagation(nn.Module):
    """``A x``, of several operators their mean: LightGCN's convolution (SIGIR 2020), to be called as a GCN is."""

    def forward(self, adj: Sequence[Operator | Layered], x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[N, D] of x [N, D] and operators [N, N]; the generator is not read.

        Raises:
            ValueError: an operator for each layer of several.
        """
        products = []
        for one in adj:
            if isinstance(one, Layered):
                raise ValueError("Propagation has one layer; give it operators, not Layered ones")
            products.append(spmm(one, x))
        return products[0] if len(products) == 1 else torch.stack(products).mean(0)
