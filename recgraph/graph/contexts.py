"""What nodes of large graphs reach: contexts of meta-paths that are walked, and sampled operators,
one a layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recgraph.ranks import WHOLE, Share
from recgraph.sparse.blocks import limited
from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import Placing, group_rows
from recgraph.sparse.products import compose, compose_blocks, n_pairs
from recgraph.sparse.spmm import Operator, spmm

# entries that are held at once: what a block of nodes reaches before the last step
_MAX_HELD = 1 << 24


@dataclass(frozen=True, eq=False)
class Walked:
    """A context that is never made: what the target nodes reach is found again for some of them at
    a time.

    It serves large graphs, for embeddings without gradients. Nodes that reach the same before the
    last step take that step once for all of them.

    For a node that follows more than ``cap`` ways at a step (several to one node all count) a node
    reached counts from that step on once for each way to it. This equals the mean over distinct
    nodes wherever no two ways meet, and costs one product with each later step for all nodes
    together; exact means over a hub cost the square of its size.

    Attributes:
        steps: the matrices of the path up to the type reached, without weights.
        cap: at least 1; None finds the distinct nodes always. At a step to a type with no more
            nodes than this they are found too.
    """

    steps: tuple[Csr, ...]
    cap: int | None = None

    def placed(self, place: Placing) -> Walked:
        """The context there."""
        return Walked(tuple(map(place, self.steps)), self.cap)

    def mean(self, h: Tensor) -> Tensor:
        """[N_target, D]: the mean of ``h`` [N_type, D] over the nodes reached; 0 where there are
        none.
        """
        last = len(self.steps) - 1
        ways = {last: (h, h.new_ones(len(h), dtype=torch.float64))}
        if not last:
            return self._means(0, self.steps[0].pattern(), ways)
        means = h.new_empty(self.steps[0].shape[0], h.shape[1])
        before = [0.0, *torch.cumsum(self._most_reached(), 0).tolist()]
        for block in limited(before, _MAX_HELD, len(before)):
            rows = torch.arange(block.start, block.stop, device=h.device)
            reached = self.steps[0].row_block(block).pattern()
            for hop, step in enumerate(self.steps[1:]):
                if self.cap is not None and step.shape[1] > self.cap:
                    is_over = n_pairs(reached, step) > self.cap
                    means[rows[is_over]] = self._means(
                        hop, reached.take_rows(is_over.nonzero().flatten()), ways
                    )
                    rows, reached = (
                        rows[~is_over],
                        reached.take_rows((~is_over).nonzero().flatten()),
                    )
                if hop < last - 1:
                    reached = compose(reached, step, "binary")
            distinct, group = group_rows(reached)
            of_distinct = h.new_empty(distinct.shape[0], h.shape[1])
            for part, ends in compose_blocks(distinct, self.steps[last], "binary"):
                of_distinct[part] = self._means(last, ends, ways)
            means[rows] = of_distinct[group]
        return means

    def _means(self, hop: int, reached: Csr, ways: dict[int, tuple[Tensor, Tensor]]) -> Tensor:
        """[n, D]: over the ways that are left, of rows that have reached these nodes [n, N_hop]
        after a hop; 0 where there are none. ``ways``, hop -> sums and numbers of the ways from each
        node on, is added to."""
        sums, numbers = self._ways_after(hop, ways)
        counts = reached.with_weights(numbers[reached.indices]).row_sums()
        return spmm(reached, sums) / counts.clamp(min=1)[:, None].to(sums.dtype)

    def _ways_after(
        self, hop: int, ways: dict[int, tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        if hop not in ways:
            sums, numbers = self._ways_after(hop + 1, ways)
            step = self.steps[hop + 1].pattern()
            ways[hop] = spmm(step, sums), step.with_weights(numbers[step.indices]).row_sums()
        return ways[hop]

    def _most_reached(self) -> Tensor:
        """[N_target]: how many nodes each can reach at most, at the step but the last where these
        are the most.
        """
        most = self.steps[0].degrees.to(torch.float64)
        for hop in range(1, len(self.steps) - 1):
            n_columns = self.steps[hop].shape[1]
            reach = self.steps[hop].degrees.to(torch.float64)
            for step in reversed(self.steps[:hop]):
                reach = step.with_weights(reach[step.indices]).row_sums().clamp(max=n_columns)
            # one that may reach more does not walk on
            most = torch.maximum(most, reach if self.cap is None else reach.clamp(max=self.cap))
        return most


@dataclass(frozen=True, eq=False)
class Layered:
    """What sampled neighbourhoods need: the last layer has rows for the batch alone, the one before
    for what those see.

    Attributes:
        layers: in the order in which they are applied; the rows of each are the columns of the
            next.
        share: which of the rows of a batch these are, where several ranks divide it: an encoder
            gathers those of all ranks behind its last layer.
    """

    layers: tuple[Operator, ...]
    share: Share = WHOLE

    @property
    def shape(self) -> tuple[int, int]:
        """Rows that come out, rows that go in."""
        return self.layers[-1].shape[0], self.layers[0].shape[1]
