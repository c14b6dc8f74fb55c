"""The contexts of a meta-path: what lies between its two ends, as MEOW reads it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from recgraph.sparse.compress import compress_rows
from recgraph.sparse.csr import Csr
from recgraph.sparse.normalise import normalise
from recgraph.sparse.spmm import Backend, Operator, spmm

__all__ = ["Context"]


@dataclass(frozen=True, eq=False)
class Context:
    """The distinct nodes of one intermediate type that the target nodes reach along a path.

    Attributes:
        path: the path.
        node_type: the type reached.
        hop: after how many steps, from 1.
        reached: [N_target, N_type], one entry a node reached, without weights.
    """

    path: str
    node_type: str
    hop: int
    reached: Csr

    @property
    def name(self) -> str:
        """Tells the contexts of a model apart: ``"author-paper-author/1-paper"``."""
        return f"{self.path}/{self.hop}-{self.node_type}"

    def adjacency(self, dtype: torch.dtype | None = None) -> Csr:
        """[N_target, N_type]: the row-normalised form, whose product with ``h`` is :meth:`mean`."""
        return normalise(self.reached, "row", dtype)

    def mean(self, h: Tensor, backend: Backend = "auto") -> Tensor:
        """The mean over the nodes reached; 0 where there are none.

        Args:
            h: [N_type, D].

        Returns:
            [N_target, D]
        """
        # sums without weights, divided once a row, cost less than weighted ones
        return spmm(self._operator, h, backend) / self._counts.to(h.dtype)

    @cached_property
    def _operator(self) -> Operator:
        # authors of the same conferences reach the same papers
        return compress_rows(self.reached)

    @cached_property
    def _counts(self) -> Tensor:
        return self.reached.degrees.clamp(min=1)[:, None]

    def to(self, device: torch.device | str) -> Context:
        return Context(self.path, self.node_type, self.hop, self.reached.to(device))
