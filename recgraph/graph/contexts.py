"""The contexts of a meta-path: what lies between its two ends, as MEOW reads it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import Placing, compress_rows, group_rows, normalise
from recgraph.sparse.products import compose, n_pairs
from recgraph.sparse.spmm import Backend, Operator, spmm

# entries that are held at once: what a block of nodes reaches before the last step, and what it reaches by that step
_MAX_HELD, _MAX_REACHED = 1 << 24, 1 << 22


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

    It serves large graphs, for embeddings without gradients. Nodes that reach the same before the last step take that
    step once for all of them.

    For a node that follows more than ``cap`` ways at a step (several to one node all count) the distinct nodes that it
    reaches are not looked for: from that step on a node counts once for each way to it, and the mean is over ways. This
    equals the mean over distinct nodes wherever no two ways meet (papers of one venue each), and costs one product with
    each later step for all nodes together; exact means over a hub that many nodes share cost the square of its size.

    Attributes:
        steps: the matrices of the path up to the type reached, without weights.
        cap: at least 1; None finds the distinct nodes always. At a step to a type with no more nodes than this they
            are found too.
    """

    steps: tuple[Csr, ...]
    cap: int | None = None

    def placed(self, place: Placing) -> Walked:
        """The context there."""
        return Walked(tuple(map(place, self.steps)), self.cap)

    def mean(self, h: Tensor) -> Tensor:
        """[N_target, D]: the mean of ``h`` [N_type, D] over the nodes reached; 0 where there are none."""
        later = _Later(self.steps, h)
        if len(self.steps) == 1:
            return later.means(0, self.steps[0].pattern())
        means = h.new_empty(self.steps[0].shape[0], h.shape[1])
        for block in _blocks(self._most_reached(), _MAX_HELD):
            for hop, rows, reached in self._walk(block):
                means[rows + block.start] = self._last(reached, later) if hop is None else later.means(hop, reached)
        return means

    def _walk(self, block: slice) -> Iterator[tuple[int | None, Tensor, Csr]]:
        """Step after step but the last: (hop, [n] rows of the block, [n, N_hop] what they reach).

        The hop, from 0, is that of rows whose next step follows too many ways; it is None for those that are to take
        the last step.
        """
        reached = self.steps[0].row_block(block).pattern()
        rows = torch.arange(reached.shape[0], device=reached.device)
        for hop, step in enumerate(self.steps[1:]):
            is_over = self._is_over(reached, step)
            if bool(is_over.any()):
                over, rest = torch.nonzero(is_over).squeeze(1), torch.nonzero(~is_over).squeeze(1)
                yield hop, rows[over], reached.take_rows(over)
                rows, reached = rows[rest], reached.take_rows(rest)
            if hop < len(self.steps) - 2:
                reached = compose(reached, step, "binary")
        yield None, rows, reached

    def _is_over(self, reached: Csr, step: Csr) -> Tensor:
        if self.cap is None or step.shape[1] <= self.cap:
            return torch.zeros(reached.shape[0], dtype=torch.bool, device=reached.device)
        return n_pairs(reached, step) > self.cap

    def _last(self, reached: Csr, later: _Later) -> Tensor:
        """[n, D]: the means of rows, given what they reach before the last step."""
        distinct, group = group_rows(reached)
        pairs = n_pairs(distinct, self.steps[-1]).clamp(max=self.steps[-1].shape[1])
        means = later.h.new_empty(distinct.shape[0], later.h.shape[1])
        for block in _blocks(pairs, _MAX_REACHED):
            means[block] = later.means(len(self.steps) - 1, self._reach(distinct.row_block(block)))
        return means if group is None else means[group]

    def _reach(self, before: Csr) -> Csr:
        """[n, N_type]: the distinct nodes reached by the last step."""
        return compose(before, self.steps[-1], "binary")

    def _most_reached(self) -> Tensor:
        """[N_target]: how many nodes each can reach at most, at the step but the last where these are the most."""
        most = self.steps[0].degrees.to(torch.float64)
        for hop in range(1, len(self.steps) - 1):
            n_columns = self.steps[hop].shape[1]
            reach = self.steps[hop].degrees.to(torch.float64)
            for step in reversed(self.steps[:hop]):
                reach = step.with_weights(reach[step.indices]).row_sums().clamp(max=n_columns)
            # one that may reach more does not walk on
            most = torch.maximum(most, reach if self.cap is None else reach.clamp(max=self.cap))
        return most


class _Later:
    """Means over the ways that are left after a hop, made by products with the steps that follow.

    Attributes:
        h: [N_type, D], of the type that the last step reaches.
    """

    def __init__(self, steps: Sequence[Csr], h: Tensor) -> None:
        self.steps, self.h = steps, h
        #: hop -> sums [N_hop, D] and numbers [N_hop] of the ways from each node on
        self._known = {len(steps) - 1: (h, h.new_ones(len(h), dtype=torch.float64))}

    def means(self, hop: int, reached: Csr) -> Tensor:
        """[n, D]: of rows that have reached these nodes, [n, N_hop] without weights; 0 where there are no ways."""
        sums, numbers = self._after(hop)
        if hop == len(self.steps) - 1:
            counts = reached.degrees
        else:
            counts = reached.with_weights(numbers[reached.indices]).row_sums()
        return spmm(reached, sums) / counts.clamp(min=1)[:, None].to(self.h.dtype)

    def _after(self, hop: int) -> tuple[Tensor, Tensor]:
        if hop not in self._known:
            sums, numbers = self._after(hop + 1)
            step = self.steps[hop + 1].pattern()
            self._known[hop] = spmm(step, sums), step.with_weights(numbers[step.indices]).row_sums()
        return self._known[hop]


def _blocks(sizes: Tensor, limit: int) -> Iterator[slice]:
    """Ranges of rows whose sizes [n] sum to the limit at most; a row that alone exceeds it is a range of its own."""
    before = [0, *torch.cumsum(sizes, 0).tolist()]
    first, end = 0, len(before) - 1
    while first < end:
        last = max(bisect_right(before, before[first] + limit) - 1, first + 1)
        yield slice(first, last)
        first = last
