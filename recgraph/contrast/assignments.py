"""SwAV: prototypes as candidates, and an even assignment of the other view to them as the target."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from recgraph.accelerated import full_precision
from recgraph.blocks import row_blocks, total_of
from recgraph.config import Search
from recgraph.contrast.blockwise import BlockwiseLoss, one_pass
from recgraph.contrast.non_contrastive import Dim, in_pairs, width_of
from recgraph.contrast.objectives import BlockRows, Objective, ObjectiveBaseConfig, Outcome, Similarity, Views
from recgraph.contrast.weights import Weight
from recgraph.unit_length import unit_length

__all__ = ["SwAV", "prices"]


class SwAVConfig(ObjectiveBaseConfig):
    dim: Dim = None
    prototypes: Annotated[
        Literal["learned", "clusters"],
        Field(description="prototypes that are parameters, or the centroids of a model that clusters (MEOW)"),
    ] = "learned"
    n_prototypes: Annotated[int, Field(ge=2, description="K, of learned ones"), Search(10, 1000, log=True)] = 100
    epsilon: Annotated[
        float,
        Field(gt=0, description="entropy of the assignments; the smaller, the harder they are"),
        Search(0.02, 0.2, log=True),
    ] = 0.05
    rounds: Annotated[int, Field(ge=1, description="of Sinkhorn-Knopp")] = 3
    frozen_epochs: Annotated[
        int, Field(ge=0, description="epochs at the start in which learned prototypes do not move")
    ] = 1
    queue: Annotated[
        int, Field(ge=0, description="earlier rows of each view that are assigned along with the batch; 0: none")
    ] = 0
    queue_from: Annotated[int, Field(ge=0, description="the first epoch in which the queue is used")] = 0
    block_rows: BlockRows = None


class SwAV(Objective):
    """``mean_i (l(a_i, q(b_i)) + l(b_i, q(a_i))) / 2`` with ``l(x, q) = logsumexp_k(s_xk) - sum_k q_k s_xk``.

    ``s_xk = x . c_k / temperature`` of directions, the candidates are K prototypes c of unit length, and the soft
    positive of a row is the code q of its other view, without gradient: Sinkhorn-Knopp makes codes
    ``q_ik ~ e^{x_i . c_k / epsilon}`` that sum to 1 over prototypes and, after enough rounds, to B / K over the rows.

    Source: Caron et al., Unsupervised Learning of Visual Features by Contrasting Cluster Assignments (NeurIPS 2020);
    temperature 0.1, epsilon 0.05, three rounds, prototypes frozen in the first epoch, and a queue for
    batches that are small against K, are theirs. Departures: two views, without further crops, which sequences and
    graphs do not have; prototypes are divided by their length where they are read. ``prototypes="clusters"``: the
    centroids that MEOW makes, at each granularity, in the place of learned ones; the loss is the mean over these.
    Evaluated over blocks of rows. No row is compared with another: weights do not apply.

    Args:
        config: the settings as a value, or
        settings: the settings by name.

    Raises:
        ValueError: prototypes are learned, or rows queued, and ``dim`` is not given.
    """

    Config = SwAVConfig
    needs_pairs = True
    of_both_sides = True
    pairwise = False
    reads = frozenset({"temperature"})
    queued: Tensor
    n_queued: Tensor

    def __init__(self, config: SwAVConfig | None = None, /, **settings: Any) -> None:
        super().__init__(config, **settings)
        config = self.config
        assert isinstance(config, SwAVConfig)
        self.directions: nn.Parameter | None = None
        if config.prototypes == "learned":
            self.directions = nn.Parameter(unit_length(torch.randn(config.n_prototypes, width_of(self))))
        if config.queue:
            self.register_buffer("queued", torch.zeros(2, config.queue, width_of(self)))
            self.register_buffer("n_queued", torch.zeros((), dtype=torch.int64))
        self._shared: Callable[[], Sequence[Tensor]] | None = None
        #: ``n_queued`` on the host, which would wait for it on an accelerator; None: not read yet
        self._n_queued: int | None = None
        #: rows that the last call queued
        self._n_last = 0

    @property
    def changing_epochs(self) -> int:
        """Epochs before the queue is used."""
        assert isinstance(self.config, SwAVConfig)
        return self.config.queue_from if self.config.queue else 0

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._n_queued = None

    def offer(self, prototypes: Callable[[], Sequence[Tensor]]) -> None:
        self._shared = prototypes

    def forward(self, views: Views, similarity: Similarity, weight: Weight | None) -> Outcome:
        a, b = (unit_length(x) for x in in_pairs(views))
        if views.again and self._queues:  # the rows come again, in the place of those of the last call
            self._n_queued = self._count() - self._n_last
        with full_precision(a):
            fixed = [a.detach(), b.detach()]
            assigned = self._with_queue(fixed, views)
            losses = [
                self._loss(x, fixed[other], assigned[other], c, similarity.temperature)
                for c in self._prototypes(a, views.epoch)
                for x, other in ((a, 1), (b, 0))
            ]
        if self._queues:
            self._push(fixed)
        return Outcome.of_all(torch.stack(losses).mean(), len(a))

    def _loss(self, x: Tensor, other: Tensor, assigned: Tensor, c: Tensor, temperature: float) -> Tensor:
        """``mean_i l(x_i, q(other_i))``."""
        config, fixed = self.config, c.detach()
        settings = {
            "codes": other / config.epsilon,
            "prices": prices(assigned / config.epsilon, fixed, config.rounds, config.block_rows),
        }
        loss, _ = one_pass(_SoftTargets, settings, config.block_rows, [x / temperature, c])
        return loss

    def _prototypes(self, like: Tensor, epoch: int | None) -> list[Tensor]:
        """[K, D] each, of unit length.

        Raises:
            ValueError: those of a model that clusters are asked for, and it gives none.
        """
        if self.directions is None:
            if self._shared is None:
                raise ValueError(
                    "prototypes = 'clusters' needs a model that clusters what it contrasts, as MEOW, MEOWRec and NCL "
                    "do; use prototypes = 'learned'"
                )
            return [unit_length(c.detach().to(like)) for c in self._shared()]
        is_frozen = epoch is not None and epoch < self.config.frozen_epochs
        directions = self.directions.detach() if is_frozen else self.directions
        return [unit_length(directions.to(like.dtype))]

    def _with_queue(self, rows: list[Tensor], views: Views) -> list[Tensor]:
        """The rows of each view, and below them those that are queued for it, where the queue is in use."""
        epoch = views.epoch
        if not self.config.queue or (epoch is not None and epoch < self.config.queue_from):
            return rows
        return [torch.cat([x, old.to(x.dtype)]) for x, old in zip(rows, self._earlier(views.again), strict=True)]

    def _earlier(self, again: bool) -> Tensor:
        """[2, n, D]: what earlier calls queued, without those of this step where its rows come again."""
        n, size = self._count(), self.config.queue
        if not again:
            return self.queued[:, : min(n, size)]
        first = n % size
        last = first + self._n_last
        if n < size or last > size:
            return self.queued[:, max(last - size, 0) : first]
        return torch.cat([self.queued[:, :first], self.queued[:, last:]], 1)

    @property
    def _queues(self) -> bool:
        """Whether the rows of a call are queued."""
        return bool(self.config.queue) and self.training and torch.is_grad_enabled()

    def _count(self) -> int:
        """How many rows have been queued so far."""
        if self._n_queued is None:
            self._n_queued = int(self.n_queued)
        return self._n_queued

    @torch.no_grad()
    def _push(self, rows: list[Tensor]) -> None:
        """Queue rows in the place of the oldest; the last ones of a batch that is longer than the queue."""
        size, first = self.config.queue, self._count()
        n = min(len(rows[0]), size)
        places = (first + torch.arange(n, device=self.n_queued.device)) % size
        self.queued[:, places] = torch.stack([x[-n:] for x in rows]).to(self.queued.dtype)
        self._n_queued, self._n_last = first + n, n
        self.n_queued.fill_(self._n_queued)


@torch.no_grad()
def prices(x: Tensor, y: Tensor, rounds: int, block_rows: int | None = None) -> Tensor:
    """[K] v, with which ``q_ik = e^{x_i . y_k + v_k} / sum_l e^{x_i . y_l + v_l}`` is Sinkhorn-Knopp's assignment.

    Each round divides ``e^{x . y}`` by its sums over rows for each k, then by its sums over k for each row; the last of
    these divisions is that in q. Evaluated over blocks of rows.

    Args:
        x: [B, D] and
        y: [K, D], whose inner products are the logarithms of what is made even.
        rounds: number of rounds.
    """
    v = x.new_zeros(len(y))
    for number in range(rounds):
        sums = torch.full_like(v, -math.inf)
        for rows in row_blocks(len(x), len(y), x, block_rows):
            t = x[rows] @ y.t()
            if number:
                t -= (t + v).logsumexp(1, keepdim=True)
            sums = torch.logaddexp(sums, t.logsumexp(0))
        v = -sums
    return v


class _SoftTargets(BlockwiseLoss):
    """``mean_i (logsumexp_k t_ik - sum_k q_ik t_ik)``, ``t = x @ y.T``, q the softmax of ``codes @ y.T + prices``.

    The codes pass no gradient.
    """

    name = "an objective with soft targets"

    def __init__(self, inputs: Sequence[Tensor], needs: Sequence[bool], codes: Tensor, prices: Tensor) -> None:
        super().__init__(inputs, needs)
        self.codes, self.prices = codes, prices

    def evaluate(self, block_rows: int | None) -> tuple[Tensor, Tensor]:
        sums, n = [], len(self.x)
        grad_x, grad_y = self.gradients
        for rows, t in self.blocks(len(self.y), block_rows):
            q = torch.addmm(self.prices, self.codes[rows], self.y.t()).softmax(1)
            torch.mm(self.x[rows], self.y.t(), out=t)
            log_p = t.log_softmax(1)
            sums.append(-(q * log_p).sum())
            p = log_p.exp_().sub_(q)
            if grad_x is not None:
                torch.mm(p, self.y, out=grad_x[rows])
            if grad_y is not None:
                grad_y.addmm_(p.t(), self.x[rows])
        return (total_of(sums, self.x) / n).to(self.x.dtype), self.x.new_full((), n)
