"""Candidates that are mixed: harder negatives, extrapolated positives, interpolated negatives."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from recgraph.blocks import row_blocks
from recgraph.config import Search
from recgraph.contrast.blockwise import Candidates
from recgraph.contrast.log_sums import hardest
from recgraph.contrast.mixtures import Mixed, Mixture, MixtureConfig, generator_of
from recgraph.contrast.views import Views
from recgraph.unit_length import unit_length

__all__ = ["FeatureTransformation", "FeatureTransformationConfig", "Mochi", "MochiConfig"]


class MochiConfig(MixtureConfig):
    hardest: Annotated[
        int,
        Field(ge=1, description="N', the most similar candidates of an anchor, of which are mixed"),
        Search(16, 512),
    ] = 128
    of_candidates: Annotated[
        int, Field(ge=0, description="s, mixtures of two of them, for each anchor"), Search(0, 64)
    ] = 32
    with_anchor: Annotated[
        int, Field(ge=0, description="s', mixtures of the anchor with one of them, for each anchor"), Search(0, 16)
    ] = 8
    warm_up: Annotated[int, Field(ge=0, description="epochs before anything is mixed")] = 0


class Mochi(Mixture):
    """MoCHi: ``s`` mixtures of two hard candidates and ``s'`` of the anchor with one, further candidates of an anchor.

    ``h = norm(alpha n_1 + (1 - alpha) n_2)`` with ``alpha ~ U(0, 1)`` and two different of the N' most similar
    candidates; ``h' = norm(beta q + (1 - beta) n)`` with ``beta ~ U(0, 1/2)``, the anchor's share below a half.
    ``loss_i = log(sum_j w_ij e^{s_ij} + sum_h e^{s_ih} + sum_h' e^{s_ih'}) - s_ip``. No gradient flows into what is
    mixed. A mixture has the mixed length of its parts, and the anchor in it the length of the candidate: for cosines
    both are 1, as published.

    Source: Kalantidis et al., "Hard Negative Mixing for Contrastive Learning" (NeurIPS 2020); there of a
    queue (``queue_size``) with N' = 1024, s = 1024, s' = 128 of 65,536 and 10 epochs of warm-up. Departures: the
    candidates at hand without a queue; numbers of a batch's size; a candidate of weight 0 may be mixed, since a mixture
    is not told weights. Takes N (s + s') D numbers of memory beside the blocks.
    """

    Config = MochiConfig

    @property
    def changing_epochs(self) -> int:
        """Epochs before anything is mixed: mixtures are further candidates, and the loss is higher with them."""
        epochs: int = self.config.warm_up
        return epochs

    def forward(self, x: Tensor, y: Tensor, candidates: Candidates, views: Views) -> Mixed:
        config, barred = self.config, candidates.barred
        k = min(config.hardest, len(y) - barred.shape[1])
        is_cold = views.epoch is not None and views.epoch < config.warm_up
        if is_cold or k < 1 or not config.of_candidates + config.with_anchor:
            return Mixed(y)
        with torch.no_grad():
            return Mixed(y, further=self._mixtures(x.detach(), y.detach(), k, barred, generator_of(views)))

    def _mixtures(self, x: Tensor, y: Tensor, k: int, barred: Tensor, generator: torch.Generator) -> Tensor:
        """[N, s + s', D]: those of each anchor, made in blocks of anchors."""
        n_pairs, n_own, n = self.config.of_candidates, self.config.with_anchor, len(x)

        def drawn(count: int, below: int = k) -> Tensor:
            return torch.randint(below, (n, count), generator=generator, device=generator.device).to(x.device)

        def uniform(count: int) -> Tensor:
            return torch.rand(n, count, 1, generator=generator, device=generator.device).to(x.device, x.dtype)

        columns = hardest(x, y, k, barred)
        first, alpha = drawn(n_pairs), uniform(n_pairs)
        # a candidate with itself would be no mixture; each of the others is as likely
        second = (first + 1 + drawn(n_pairs, k - 1)) % k if k > 1 else first
        third, beta = drawn(n_own), uniform(n_own) / 2
        made = x.new_empty(n, n_pairs + n_own, x.shape[1])
        for rows in row_blocks(n, made[0].numel(), x):
            n1, n2, n3 = (y[columns[rows].gather(1, which[rows])] for which in (first, second, third))
            q = unit_length(x[rows])[:, None] * n3.norm(dim=2, keepdim=True)
            made[rows, :n_pairs] = _mixed(n1, n2, alpha[rows])
            made[rows, n_pairs:] = _mixed(q, n3, beta[rows])
        return made


class FeatureTransformationConfig(MixtureConfig):
    positive_alpha: Annotated[
        float | None,
        Field(gt=0, description="of the Beta distribution of extrapolation; none: positives stay"),
        Search(0.2, 5.0, log=True),
    ] = 2.0
    negative_alpha: Annotated[
        float | None,
        Field(gt=0, description="of the Beta distribution of interpolation; none: candidates stay"),
        Search(0.2, 5.0, log=True),
    ] = 1.6


class FeatureTransformation(Mixture):
    """Positives are extrapolated along their difference, candidates interpolated with one another.

    Anchor q and positive k become ``q' = l q + (1 - l) k`` and ``k' = l k + (1 - l) q`` with ``l - 1 ~ Beta(a, a)``:
    their sum stays, and for cosines ``s'_ip = s_ip + 2 l (1 - l) (1 / tau - s_ip) <= s_ip``, a harder positive. The
    candidates y become ``m y + (1 - m) y[permutation]`` with ``m ~ Beta(b, b)``; one that the anchor's positive, or the
    anchor itself where it is among them, is a part of is no candidate of that anchor. As published neither is
    normalised again, and the anchor that candidates are compared with is q itself.

    Source: Zhu et al., "Improving Contrastive Learning by Visualizing Feature Transformation" (ICCV 2021).
    Departures: l is drawn for each anchor and m for each candidate, not for each dimension; with dot products q is
    taken at the length of k.
    """

    Config = FeatureTransformationConfig

    def forward(self, x: Tensor, y: Tensor, candidates: Candidates, views: Views) -> Mixed:
        config, generator = self.config, generator_of(views)
        positive = y.index_select(0, candidates.positives)
        if config.positive_alpha is not None:
            along = 1 + _beta(config.positive_alpha, len(x), generator, x)
            outside = along * (1 - along)
            # x . p' = (l^2 + (1 - l)^2) x . k + 2 l (1 - l) |x| |k|
            length = positive.norm(dim=1, keepdim=True)
            positive = (1 - 2 * outside) * positive + 2 * outside * length * unit_length(x)
        if config.negative_alpha is None:
            return Mixed(y, positive)
        share = _beta(config.negative_alpha, len(y), generator, y)
        order = torch.randperm(len(y), generator=generator, device=generator.device).to(y.device)
        mixed_into = torch.empty_like(order).scatter_(0, order, torch.arange(len(y), device=y.device))
        mixed = share * y + (1 - share) * y.index_select(0, order)
        return Mixed(mixed, positive, barred=mixed_into[candidates.barred])


def _mixed(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """``norm(share a + (1 - share) b)`` at the mixed length of both, over the last dimension."""
    length = share * a.norm(dim=-1, keepdim=True) + (1 - share) * b.norm(dim=-1, keepdim=True)
    mixed: Tensor = unit_length(share * a + (1 - share) * b) * length
    return mixed


def _beta(alpha: float, n: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """[n, 1]: draws of Beta(alpha, alpha)."""
    shape = torch.full((2, n, 1), alpha, device=generator.device, dtype=torch.float64)
    first, second = torch._standard_gamma(shape, generator=generator).unbind(0)
    share: Tensor = first / (first + second)
    return share.to(like.device, like.dtype)
