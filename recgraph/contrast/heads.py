"""Several heads, each a projection with temperatures of its own."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from recgraph import registry
from recgraph.accelerated import full_precision
from recgraph.config import Search
from recgraph.contrast.non_contrastive import Dim, Head, in_pairs, width_of
from recgraph.contrast.objectives import Objective, ObjectiveConfig, Outcome, Similarity, Views
from recgraph.contrast.weights import Weight
from recgraph.unit_length import unit_length

__all__ = ["MultiHead"]


class MultiHeadConfig(ObjectiveConfig):
    dim: Dim = None
    n_heads: Annotated[int, Field(ge=1, le=64, description="H, projection heads"), Search(1, 8)] = 3
    head_layers: Annotated[int, Field(ge=1, le=8, description="layers of each head, all of the views' width")] = 2
    head_objective: Annotated[
        Literal["nt_xent", "info_nce"], Field(description="the objective that each head's projections are given to")
    ] = "nt_xent"
    spread: Annotated[
        float,
        Field(ge=1, description="a temperature is at most so many times the common one, and at least its inverse"),
    ] = 4.0
    likelihood: Annotated[
        float,
        Field(ge=0, description="beta, weight of the likelihood of the positives' distances"),
        Search(1e-3, 1.0, log=True),
    ] = 0.1


class MultiHead(Objective):
    """``mean_h mean_i [l_ih + beta ((1 - c_iph) / tau_iph + log tau_iph)]``, l the softmax loss of head h.

    Head h projects both views to directions z; ``c_ijh = z_ih . z_jh``, ``s_ijh = c_ijh / tau_ijh``, p is the positive
    of i, and candidates, weights and mixtures are those of the core. Each pair and head has a temperature that is
    learned, ``tau_ijh = sqrt(tau_ih tau_jh)``, ``log tau_ih = log temperature + log(spread) tanh(v_h . z_ih + u_h)``:
    the similarities stay inner products of rows, which are evaluated in blocks. The term with beta is the negative
    logarithm of the likelihood of the positive's distance, ``||z_i - z_p||^2 = 2 - 2 c``, under a normal distribution
    with variance tau: it is least at ``tau = 1 - c``, so that temperatures neither vanish nor grow without bound.

    Source: Wang et al., Adaptive Multi-head Contrastive Learning (ECCV 2024), for heads, temperatures of each pair and
    head, and a regulariser from the likelihood with the temperature's logarithm. Departures, besides the form of the
    temperature, which there is a network of the pair: the regulariser is of the positives alone, and temperatures are
    bounded and begin at the common one. The exact terms of the paper were not at hand.

    Args:
        config: the settings as a value, or
        settings: the settings by name.

    Raises:
        ValueError: ``dim`` is not given.
    """

    Config = MultiHeadConfig
    needs_pairs = True
    reads = frozenset({"temperature"})

    def __init__(self, config: MultiHeadConfig | None = None, /, **settings: Any) -> None:
        super().__init__(config, **settings)
        config, width = self.config, width_of(self)
        self.heads = nn.ModuleList(Head(width, (width,) * config.head_layers) for _ in range(config.n_heads))
        self.temperatures = nn.ModuleList(nn.Linear(width, 1) for _ in range(config.n_heads))
        for parameter in self.temperatures.parameters():
            nn.init.zeros_(parameter)
        shared = {name: getattr(config, name) for name in ObjectiveConfig.model_fields}
        self.inner: Objective = registry.make("objective", {"name": config.head_objective, **shared})
        self.of_both_sides = self.inner.of_both_sides

    def compile_parts(self, backend: str = "inductor") -> None:
        self.inner.compile_parts(backend)

    def forward(self, views: Views, similarity: Similarity, weight: Weight | None) -> Outcome:
        sides, outcomes = in_pairs(views), []
        with full_precision(views.a):
            for head, layer in zip(self.heads, self.temperatures, strict=True):
                assert isinstance(layer, nn.Linear)
                z = [unit_length(head(x)) for x in sides]
                log_tau = [self._log_temperatures(x, layer, similarity.temperature) for x in z]
                # products of scaled rows are similarities over the root of both temperatures
                a, b = (x * (-t / 2).exp()[:, None] for x, t in zip(z, log_tau, strict=True))
                outcome = self.inner(replace(views, a=a, b=b), Similarity(), weight)
                log_pair = (log_tau[0] + log_tau[1]) / 2
                distance = (z[0] - z[1]).square().sum(1) / 2
                likelihood = (distance * (-log_pair).exp() + log_pair).mean()
                outcomes.append(replace(outcome, loss=outcome.loss + self.config.likelihood * likelihood))
        loss = torch.stack([one.loss for one in outcomes]).mean()
        return Outcome(loss, outcomes[0].n_anchors, outcomes[0].left_out)

    def _log_temperatures(self, z: Tensor, layer: nn.Linear, temperature: float) -> Tensor:
        """[N], log tau of each row of z [N, D]."""
        steepness = torch.tanh(F.linear(z, layer.weight.to(z.dtype), layer.bias.to(z.dtype)))[:, 0]
        return math.log(temperature) + math.log(self.config.spread) * steepness
