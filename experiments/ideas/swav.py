"""SwAV: prototypes as candidates, and an even assignment of the other view to them as the
target.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

import recgraph as rg
from recgraph.config import Search
from recgraph.contrast.objectives import Objective, ObjectiveBaseConfig, Outcome, Similarity, Views
from recgraph.contrast.weights import Weight
from recgraph.sparse.blocks import unit_length
from recgraph.sparse.device import full_precision


class SwAVConfig(ObjectiveBaseConfig):
    dim: Annotated[int, Field(ge=1, description="width of the embeddings; models set it")] = 64
    n_prototypes: Annotated[int, Field(ge=2, description="K"), Search(10, 1000, log=True)] = 100
    epsilon: Annotated[
        float,
        Field(gt=0, description="entropy of the assignments; the smaller, the harder they are"),
        Search(0.02, 0.2, log=True),
    ] = 0.05
    rounds: Annotated[int, Field(ge=1, description="of Sinkhorn-Knopp")] = 3
    frozen_steps: Annotated[
        int, Field(ge=0, description="steps at the start in which prototypes do not move")
    ] = 313


@rg.register("objective", "swav")
class SwAV(Objective):
    """``mean_i (l(a_i, q(b_i)) + l(b_i, q(a_i))) / 2`` with ``l(x, q) = logsumexp_k(s_xk) - sum_k
    q_k s_xk``.

    ``s_xk = x . c_k / temperature`` of directions, the candidates are K prototypes c of unit
    length, and the soft positive of a row is the code q of its other view, without gradient:
    Sinkhorn-Knopp makes codes ``q_ik ~ e^{x_i . c_k / epsilon}`` that sum to 1 over prototypes and,
    after enough rounds, to B / K over the rows.

    Source: Caron et al., Unsupervised Learning of Visual Features by Contrasting Cluster
    Assignments (NeurIPS 2020); temperature 0.1, epsilon 0.05, three rounds and 313 steps with
    frozen prototypes are theirs. Departures: two views, without further crops, which sequences and
    graphs do not have; no queue; prototypes are divided by their length where they are read. No row
    is compared with another: weights do not apply.
    """

    Config = SwAVConfig
    of_both_sides = True
    n_steps: Tensor

    def __init__(self, config: SwAVConfig | None = None, /, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.directions = nn.Parameter(
            unit_length(torch.randn(self.config.n_prototypes, self.config.dim))
        )
        self.register_buffer("n_steps", torch.zeros((), dtype=torch.int64))

    def forward(self, views: Views, similarity: Similarity, weight: Weight | None) -> Outcome:
        views.check_paired()
        with full_precision(views.a):
            a, b = (unit_length(x) for x in (views.a, views.b))
            c = unit_length(self.directions.to(a.dtype))
            c = torch.where(self.n_steps < self.config.frozen_steps, c.detach(), c)
            losses = []
            for x, other in ((a, b), (b, a)):
                q = codes(other.detach() @ c.detach().t() / self.config.epsilon, self.config.rounds)
                losses.append(
                    -(q * (x @ c.t() / similarity.temperature).log_softmax(1)).sum(1).mean()
                )
        if self.training and torch.is_grad_enabled():
            self.n_steps += 1
        return Outcome.of_all((losses[0] + losses[1]) / 2, len(a))


def codes(logits: Tensor, rounds: int) -> Tensor:
    """[B, K]: Sinkhorn-Knopp's assignments of ``e^logits``; each round divides by the sums over
    rows, then over K.
    """
    for _ in range(rounds):
        logits = (logits - logits.logsumexp(0)).log_softmax(1)
    return logits.exp()
