"""AutoTCL's parametric augmentation: what informs is kept and transformed invertibly, noise replaces the rest."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recgraph.augment.latent import Augmenter, Variant
from recgraph.blocks import work_type
from recgraph.config import ConfigError
from recgraph.sparse.ragged import Ragged
from recgraph.unit_length import unit_length

__all__ = ["AutoTCL"]

Level = Literal["states", "tokens"]
_LEAST = 1e-6


class AutoTCL(Augmenter):
    """``v = g * m * x + (1 - m) * noise``, with m in {0, 1} what informs of x, and g > 0 an invertible transformation.

    A small network reads x and gives the probability ``p`` and the scale ``g = 2 sigmoid(.)``. m is drawn from p by the
    binary concrete distribution at ``temperature``, rounded with the gradient of what it was (``hard``) or as it is;
    without a generator m is p, rounded. Noise is N(0, (noise * rms of x)^2) for each row.

    - ``level="states"``: x is the encoded sequence [B, D], p and g are of each of its dimensions.
    - ``level="tokens"``: x are the embeddings of a sequence's items, p and g are of each item, from it and its two
      neighbours; the model encodes the changed embeddings (:meth:`change_rows`).

    It is trained by a loss of its own, in alternation with the encoder (:meth:`loss`): its view is to represent the
    original (relevance), to keep no more than a share of it (so that views are diverse), and p of items that follow
    each other is to be alike (consistency).

    Source: Zheng et al., Parametric Augmentation for Time Series Contrastive Learning (ICLR 2024), section 4, and its
    code. Departures: relevance is the mean squared distance of pairs (published code: a kernel MMD of the two sets; by
    Jensen's inequality ours bounds that of the linear kernel, and needs no B x B matrix); the share is that of p, in
    [0, 1], and g can also enlarge; noise, which the paper has and the code leaves out, is there unless ``noise=0``;
    consistency is over all neighbours (published: random ones); the network is of one layer (published: dilated
    convolutions); the local contrast of windows of a time series does not carry over. A graph model trains it by its
    contrast alone, as any augmenter.

    Args:
        hidden_dim: D.
        variant: rows do not mix, so both variants are the same.
        level: see above.
        share, share_weight: the share of x that may be kept freely, and the weight of what exceeds it.
        consistency_weight: of the consistency of items; for tokens.
        noise: in root mean squares of x.
        temperature: of the draws.
        hard: whether m is rounded.

    Raises:
        ValueError: ``variant`` or ``level`` is none of those, or a number is out of its range.
    """

    has_loss: ClassVar[bool] = True

    def __init__(
        self,
        hidden_dim: int,
        variant: Variant = "row",
        level: Level = "states",
        share: float = 0.4,
        share_weight: float = 1.0,
        consistency_weight: float = 0.1,
        noise: float = 1.0,
        temperature: float = 1.0,
        hard: bool = True,
    ) -> None:
        super().__init__(hidden_dim, variant)
        if level not in get_args(Level):
            raise ValueError(f"level = {level!r} must be one of {', '.join(get_args(Level))}")
        for name, value, least, most in (
            ("share", share, 0, 1),
            ("share_weight", share_weight, 0, math.inf),
            ("consistency_weight", consistency_weight, 0, math.inf),
            ("noise", noise, 0, math.inf),
            ("temperature", temperature, _LEAST, math.inf),
        ):
            if not least <= value <= most:
                raise ConfigError(f"{name} = {value} must be between {least} and {most}")
        self.level, self.share, self.share_weight = level, share, share_weight
        self.consistency_weight, self.noise, self.temperature, self.hard = consistency_weight, noise, temperature, hard
        width, n_masked = (hidden_dim, hidden_dim) if level == "states" else (3 * hidden_dim, 1)
        inner = max(hidden_dim // 2, 1)
        self.reads = nn.Linear(width, inner)
        self.informs = nn.Linear(inner, n_masked)
        self.scales = nn.Linear(inner, n_masked)
        # most is kept at first
        nn.init.constant_(self.informs.bias, 1.0)

    @property
    def changes_tokens(self) -> bool:
        return self.level == "tokens"

    def _vary(self, hidden: Tensor, states: Ragged | None, generator: torch.Generator | None) -> Tensor:
        return self.change(hidden, generator)[0]

    def change(self, hidden: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """[B, D] encoded sequences -> [B, D] changed, before the normalisation, and [B, D] p.

        Raises:
            ValueError: it changes tokens.
        """
        if self.level != "states":
            raise ValueError("level = 'tokens' changes the items of sequences, not what is encoded; use level='states'")
        return self._changed(hidden, hidden, generator)

    def change_rows(self, rows: Ragged, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """B rows of embeddings [T, D] -> [T, D] changed, and [T, 1] p.

        Raises:
            ValueError: it changes states.
        """
        if self.level != "tokens":
            raise ValueError("level = 'states' changes what is encoded, not the items of sequences; use level='tokens'")
        x, positions = rows.values, rows.positions
        ends = positions == rows.lengths[rows.rows] - 1
        before = x.roll(1, 0).masked_fill((positions == 0)[:, None], 0)
        after = x.roll(-1, 0).masked_fill(ends[:, None], 0)
        return self._changed(x, torch.cat([before, x, after], 1), generator)

    def _changed(self, x: Tensor, read: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        inner = F.gelu(self.reads(read))
        logits, scale = self.informs(inner), 2 * torch.sigmoid(self.scales(inner))
        probability = torch.sigmoid(logits)
        # half precision would round one draw in 512 to 1, which keeps whatever p is
        wide = logits.to(work_type(logits))
        if generator is None:
            mask, noise = torch.sigmoid(wide), torch.zeros_like(x)
        else:
            uniform = torch.rand(logits.shape, generator=generator, device=x.device, dtype=torch.float32)
            uniform = uniform.to(wide.dtype).clamp(_LEAST, 1 - _LEAST)
            mask = torch.sigmoid((wide + uniform.logit()) / self.temperature)
            drawn = torch.randn(x.shape, generator=generator, device=x.device, dtype=torch.float32)
            size = x.detach().square().mean(1, keepdim=True).sqrt()
            noise = self.noise * size * drawn.to(x.dtype)
        if self.hard:
            # rounded, with the gradient of what it was
            mask = (mask > 0.5).to(mask.dtype) + mask - mask.detach()
        return scale * mask * x + (1 - mask) * noise, probability

    def loss(self, hidden: Tensor, view: Tensor, probability: Tensor, rows: Ragged | None = None) -> Tensor:
        """``mean |h / |h| - v / |v||^2 + share_weight relu(mean p - share) + consistency_weight mean |p_t - p_(t-1)|``.

        Args:
            hidden: [B, D], the encoded original; no gradient flows into it.
            view: [B, D], the view, of unit length.
            probability: p of the same call.
            rows: of tokens, those that p is of.
        """
        target = unit_length(hidden.detach())
        loss = (target - view).square().sum(1).mean()
        loss = loss + self.share_weight * F.relu(probability.mean() - self.share)
        if rows is not None and self.consistency_weight:
            steps = (probability - probability.roll(1, 0)).abs()[:, 0]
            inside = (rows.positions > 0).to(steps.dtype)
            loss = loss + self.consistency_weight * (steps * inside).sum() / inside.sum().clamp(min=1)
        return loss
