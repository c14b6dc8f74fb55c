"""The contexts of a meta-path: what lies between its two ends, as MEOW reads it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import compress_rows, normalise
from recgraph.sparse.products import compose
from recgraph.sparse.spmm import Backend, Operator, spmm

__all__ = ["Context", "Walked"]


# nodes whose contexts are made at once, and what they reach together
_BLOCK, _MAX_REACHED = 4096, 1 << 22


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
        for block in self._blocks():
            reached = self.rows(block)
            means[block] = spmm(reached, h) / reached.degrees.clamp(min=1)[:, None].to(h.dtype)
        return means

    def _blocks(self) -> Iterator[slice]:
        """Ranges of rows within the limits; a row that alone may exceed them is a range of its own."""
        before = [0, *torch.cumsum(self._most_reached(), 0).tolist()]
        first, end = 0, len(before) - 1
        while first < end:
            last = bisect_right(before, before[first] + _MAX_REACHED) - 1
            last = max(min(last, first + _BLOCK), first + 1)
            yield slice(first, last)
            first = last

    def _most_reached(self) -> Tensor:
        """[N_target]: how many nodes each can reach at most, at the step where these are the most."""
        most = self.steps[0].degrees.to(torch.float64)
        for hop in range(1, len(self.steps)):
            reach = self.steps[hop].degrees.to(torch.float64)
            for step in reversed(self.steps[:hop]):
                reach = step.with_weights(reach[step.indices]).row_sums().clamp(max=self.steps[hop].shape[1])
            most = torch.maximum(most, reach)
        return most

    def to(self, device: torch.device | str) -> Walked:
        return Walked(tuple(step.to(device) for step in self.steps))
