"""MoCHi: mixtures of hard negatives are further candidates."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

import recgraph as rg
from recgraph.config import Search
from recgraph.contrast.blockwise import Candidates, log_sums, mean_loss
from recgraph.contrast.objectives import InfoNCE, ObjectiveConfig, Views
from recgraph.contrast.parts import Pairs
from recgraph.contrast.weights import Weight
from recgraph.sparse.blocks import unit_length


class MochiConfig(ObjectiveConfig):
    hardest: Annotated[
        int,
        Field(ge=1, description="N', the most similar candidates of an anchor, of which are mixed"),
        Search(16, 512),
    ] = 128
    of_candidates: Annotated[
        int, Field(ge=0, description="s, mixtures of two of them, for each anchor"), Search(0, 64)
    ] = 32
    with_anchor: Annotated[
        int,
        Field(ge=0, description="s', mixtures of the anchor with one of them, for each anchor"),
        Search(0, 16),
    ] = 8
    warm_up: Annotated[int, Field(ge=0, description="steps before anything is mixed")] = 0


@rg.register("objective", "mochi")
class Mochi(InfoNCE):
    """InfoNCE with ``s`` mixtures of two hard candidates and ``s'`` of the anchor with one, further
    candidates of it.

    ``h = norm(alpha n_1 + (1 - alpha) n_2)`` with ``alpha ~ U(0, 1)`` and two different of the N'
    most similar candidates; ``h' = norm(beta q + (1 - beta) n)`` with ``beta ~ U(0, 1/2)``, the
    anchor's share below a half. ``loss_i = log(sum_j w_ij e^{s_ij} + sum_h e^{s_ih} + sum_h'
    e^{s_ih'}) - s_ip``. No gradient flows into what is mixed. A mixture has the mixed length of its
    parts, and the anchor in it the length of the candidate: for cosines both are 1, as published.

    Source: Kalantidis et al., "Hard Negative Mixing for Contrastive Learning" (NeurIPS 2020); there
    of a queue (``queue_size``) with N' = 1024, s = 1024, s' = 128 of 65,536 and 10 epochs of
    warm-up. Departures: the candidates at hand without a queue, numbers of a batch's size; a
    candidate of weight 0 may be mixed.
    """

    Config = MochiConfig
    splits = False
    draws = True
    n_steps: Tensor

    def __init__(self, config: MochiConfig | None = None, /, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.register_buffer("n_steps", torch.zeros((), dtype=torch.int64))

    def evaluate(
        self,
        x: Tensor,
        y: Tensor,
        candidates: Candidates,
        weight: Weight | None,
        pairs: Pairs | None,
        views: Views,
    ) -> tuple[Tensor, Tensor]:
        assert views.generator is not None
        own = torch.linalg.vecdot(x, y.index_select(0, candidates.positives))
        sums = [log_sums(x, y, candidates.barred, weight, pairs, self.config.block_rows)]
        if candidates.count_positive:
            sums.append(own)
        k = min(self.config.hardest, len(y) - candidates.barred.shape[1])
        if k > 0 and (not self.config.warm_up or int(self.n_steps) >= self.config.warm_up):
            mixed = self.mixtures(x.detach(), y.detach(), k, candidates.barred, views.generator)
            sums.append(torch.einsum("nd,nsd->ns", x, mixed).logsumexp(1))
        if self.training and torch.is_grad_enabled():
            self.n_steps += 1
        return mean_loss(candidates, x, sums, own)

    def mixtures(
        self, x: Tensor, y: Tensor, k: int, barred: Tensor, generator: torch.Generator
    ) -> Tensor:
        """[N, s + s', D]: those of each anchor."""
        n_pairs, n_own, n = self.config.of_candidates, self.config.with_anchor, len(x)

        def drawn(count: int, below: int = k) -> Tensor:
            return torch.randint(
                below, (n, count), generator=generator, device=generator.device
            ).to(x.device)

        def uniform(count: int) -> Tensor:
            return torch.rand(n, count, 1, generator=generator, device=generator.device).to(
                x.device, x.dtype
            )

        columns = (x @ y.t()).scatter(1, barred, -torch.inf).topk(k, dim=1).indices
        first, alpha = drawn(n_pairs), uniform(n_pairs)
        # a candidate with itself would be no mixture; each of the others is as likely
        second = (first + 1 + drawn(n_pairs, k - 1)) % k if k > 1 else first
        third, beta = drawn(n_own), uniform(n_own) / 2
        n1, n2, n3 = (y[columns.gather(1, which)] for which in (first, second, third))
        q = unit_length(x)[:, None] * n3.norm(dim=2, keepdim=True)
        return torch.cat([_mixed(n1, n2, alpha), _mixed(q, n3, beta)], 1)


def _mixed(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """``norm(share a + (1 - share) b)`` at the mixed length of both, over the last dimension."""
    length = share * a.norm(dim=-1, keepdim=True) + (1 - share) * b.norm(dim=-1, keepdim=True)
    return unit_length(share * a + (1 - share) * b) * length
