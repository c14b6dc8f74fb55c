"""After AMCL: several heads, each a projection with temperatures of its own."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

import recgraph as rg
from recgraph.config import Search
from recgraph.contrast.objectives import NTXent, ObjectiveConfig, Outcome, Similarity, Views
from recgraph.contrast.weights import Weight
from recgraph.sparse.blocks import unit_length
from recgraph.sparse.device import full_precision


class MultiHeadConfig(ObjectiveConfig):
    dim: Annotated[int, Field(ge=1, description="width of the embeddings; models set it")] = 64
    n_heads: Annotated[int, Field(ge=1, le=64, description="H, projection heads"), Search(1, 8)] = 3
    spread: Annotated[
        float,
        Field(
            ge=1,
            description="a temperature is at most so many times the common one, and at least its inverse",
        ),
    ] = 4.0
    likelihood: Annotated[
        float,
        Field(ge=0, description="beta, weight of the likelihood of the positives' distances"),
        Search(1e-3, 1.0, log=True),
    ] = 0.1


@rg.register("objective")
class MultiHead(NTXent):
    """``mean_h mean_i [l_ih + beta ((1 - c_iph) / tau_iph + log tau_iph)]``, l the NT-Xent of head
    h.

    Head h projects both views to directions z; ``c_ijh = z_ih . z_jh``, ``s_ijh = c_ijh /
    tau_ijh``, p is the positive of i. Each pair and head has a temperature that is learned,
    ``tau_ijh = sqrt(tau_ih tau_jh)``, ``log tau_ih = log temperature + log(spread) tanh(v_h . z_ih
    + u_h)``: the similarities stay inner products of rows, which are evaluated in blocks. The term
    with beta is the negative logarithm of the likelihood of the positive's distance, ``||z_i -
    z_p||^2 = 2 - 2 c``, under a normal distribution with variance tau: it is least at ``tau = 1 -
    c``, so that temperatures neither vanish nor grow without bound.

    Source: after Wang et al., Adaptive Multi-head Contrastive Learning (ECCV 2024): heads,
    temperatures of each pair and head, and a regulariser from the likelihood with the temperature's
    logarithm. There the temperature is a network of the pair; the regulariser here is of the
    positives alone, and temperatures are bounded and begin at the common one. The exact terms of
    the paper were not at hand.
    """

    Config = MultiHeadConfig
    splits = False

    def __init__(self, config: MultiHeadConfig | None = None, /, **settings: Any) -> None:
        super().__init__(config, **settings)
        width, heads = self.config.dim, range(self.config.n_heads)
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, width),
                nn.BatchNorm1d(width, track_running_stats=False),
                nn.ReLU(),
                nn.Linear(width, width),
            )
            for _ in heads
        )
        self.temperatures = nn.ModuleList(nn.Linear(width, 1) for _ in heads)
        for parameter in self.temperatures.parameters():
            nn.init.zeros_(parameter)

    def forward(self, views: Views, similarity: Similarity, weight: Weight | None) -> Outcome:
        views.check_paired()
        outcomes: list[Outcome] = []
        with full_precision(views.a):
            for head, layer in zip(self.heads, self.temperatures, strict=True):
                z = [unit_length(head(x)) for x in (views.a, views.b)]
                log_tau = [self._log_temperatures(layer(x), similarity.temperature) for x in z]
                # products of scaled rows are similarities over the root of both temperatures
                a, b = (x * (-t / 2).exp()[:, None] for x, t in zip(z, log_tau, strict=True))
                outcome = super().forward(replace(views, a=a, b=b), Similarity(), weight)
                log_pair = (log_tau[0] + log_tau[1]) / 2
                distance = (z[0] - z[1]).square().sum(1) / 2
                likelihood = (distance * (-log_pair).exp() + log_pair).mean()
                outcomes.append(
                    replace(outcome, loss=outcome.loss + self.config.likelihood * likelihood)
                )
        return replace(outcomes[0], loss=torch.stack([one.loss for one in outcomes]).mean())

    def _log_temperatures(self, steepness: Tensor, temperature: float) -> Tensor:
        """[N], log tau of each row, of [N, 1]."""
        return math.log(temperature) + math.log(self.config.spread) * torch.tanh(steepness)[:, 0]
