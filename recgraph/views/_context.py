"""The contexts of a meta-path: what lies between its two ends, as MEOW reads it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from recgraph.sparse.compose import compose
from recgraph.sparse.compress import compress_rows
from recgraph.sparse.csr import Csr
from recgraph.sparse.normalise import normalise
from recgraph.sparse.spmm import Backend, Operator, spmm

__all__ = ["Context", "Walked"]

# nodes whose contexts are made at once
_BLOCK = 4096


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


@dataclass(frozen=True, eq=False)
class Walked:
    """A context that is never made: what the target nodes reach is found again for some of them at a time.

    It serves large graphs, for embeddings without gradients.

    Attributes:
        steps: the matrices of the path up to the type reached, without weights.
    """

    steps: tuple[Csr, ...]

    def rows(self, block: slice) -> Csr:
        """[b, N_type]: the distinct nodes reached, without weights."""
        reached = self.steps[0].row_block(block).pattern()
        for step in self.steps[1:]:
            reached = compose(reached, step, "binary")
        return reached

    def mean(self, h: Tensor) -> Tensor:
        """[N_target, D]: the mean of ``h`` [N_type, D] over the nodes reached; 0 where there are none."""
        means = h.new_empty(self.steps[0].shape[0], h.shape[1])
        for start in range(0, len(means), _BLOCK):
            block = slice(start, min(start + _BLOCK, len(means)))
            reached = self.rows(block)
            means[block] = spmm(reached, h) / reached.degrees.clamp(min=1)[:, None].to(h.dtype)
        return means

    def to(self, device: torch.device | str) -> Walked:
        return Walked(tuple(step.to(device) for step in self.steps))
