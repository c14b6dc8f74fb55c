"""Next-item losses: hidden states and their target tokens in, one scalar out; and the sampler of
negatives.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recgraph.config import Config, configure
from recgraph.sparse.blocks import unit_length


class LossConfig(Config):
    """Settings of a next-item loss."""


class NextItemLoss(nn.Module):
    """Base of all next-item losses. ``FullSoftmax()(hidden, targets, table, generator)`` gives the
    mean loss.

    A subclass sets ``Config`` and fills :meth:`forward`; one that needs the items' popularity fills
    :meth:`setup`.
    """

    Config: ClassVar[type[LossConfig]] = LossConfig
    #: whether the loss draws random numbers, so that it must be given a generator
    draws: ClassVar[bool] = False

    def __init__(self, config: LossConfig | None = None, /, **settings: Any) -> None:
        super().__init__()
        self.config: Any = configure(self, self.Config, config, settings)

    def setup(self, item_counts: Tensor) -> None:
        """Learn what the loss needs of how often each item (0-based) occurs in training [n_items];
        most: nothing.
        """

    def forward(
        self,
        hidden: Tensor,
        targets: Tensor,
        table: Tensor,
        generator: torch.Generator | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """The mean over the targets of their loss, times their weights where there are any: a
        scalar, at least float32.

        Args:
            hidden: [T, D], the state that predicts each target.
            targets: [T] int64 tokens in ``1..n_items``.
            table: [n_items + 1, D], the embedding of each token; row 0 is the padding's.
            generator: the stream to draw negatives from, on the device of ``hidden``; needed where
                the loss draws.
            weights: [T]; given where the log has weights alone.
        """
        raise NotImplementedError

    @property
    def cosine(self) -> bool:
        """Whether it reads cosines: a model then ranks by item vectors of length 1."""
        return False

    def as_scored(self, items: Tensor) -> Tensor:
        """Vectors of items [..., D] as a model multiplies them into scores: of length 1 with a loss
        of cosines.
        """
        return unit_length(items) if self.cosine else items


class Sampler(nn.Module):
    """Draws tokens ``1..n_items`` with replacement, ``q_j`` proportional to ``count_j ** power``;
    power 0 needs no counts."""

    cumulative: Tensor
    log_probability: Tensor

    def __init__(self, power: float) -> None:
        super().__init__()
        self.power = power
        # made again from the training part by whoever resumes a run
        self.register_buffer("cumulative", torch.empty(0, dtype=torch.float64), persistent=False)
        self.register_buffer("log_probability", torch.empty(0), persistent=False)

    def setup(self, item_counts: Tensor) -> None:
        """Learn the popularity, of counts [n_items]."""
        if self.power == 0:
            return
        counts = item_counts.to(device=self.cumulative.device, dtype=torch.float64)
        # an item never seen has probability 0
        mass = torch.where(counts > 0, counts**self.power, 0)
        self.cumulative = mass.cumsum(0) / mass.sum()
        self.log_probability = (mass / mass.sum()).log().to(torch.float32)

    def draw(
        self,
        shape: tuple[int, ...],
        n_items: int,
        generator: torch.Generator | None,
        device: torch.device,
    ) -> Tensor:
        """Tokens of that shape on the device, which is the generator's."""
        assert generator is not None, "a loss that draws needs a generator"
        if self.power == 0:
            return torch.randint(1, n_items + 1, shape, generator=generator, device=device)
        self._check(n_items)
        where = torch.rand(shape, generator=generator, device=device, dtype=torch.float64)
        # right: an item of probability 0 has an empty interval and is never hit
        items = torch.searchsorted(self.cumulative, where, right=True)
        return items.clamp_(max=n_items - 1).add_(1)

    def log_q(self, tokens: Tensor, n_items: int) -> Tensor:
        """The log-probability of one draw of each token, float32."""
        if self.power == 0:
            return torch.full(tokens.shape, 1 / n_items, device=tokens.device).log_()
        self._check(n_items)
        return self.log_probability[tokens - 1]

    def _check(self, n_items: int) -> None:
        if self.cumulative.numel() != n_items:
            raise ValueError(
                f"popularity_power = {self.power}: call setup(item_counts) of the {n_items} items before"
            )
