"""Draws negative tokens: uniform, or in proportion to a power of the items' popularity."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Sampler(nn.Module):
    """Draws tokens ``1..n_items`` with replacement, ``q_j`` proportional to ``count_j ** power``.

    Args:
        power: 0 is uniform and needs no counts.
    """

    cumulative: Tensor
    log_probability: Tensor

    def __init__(self, power: float) -> None:
        super().__init__()
        self.power = power
        # made again from the training part by whoever resumes a run
        self.register_buffer("cumulative", torch.empty(0, dtype=torch.float64), persistent=False)
        self.register_buffer("log_probability", torch.empty(0), persistent=False)

    def setup(self, item_counts: Tensor) -> None:
        """Learn the popularity.

        Args:
            item_counts: [n_items], 0-based.

        Raises:
            ValueError: a count is negative, or none is positive.
        """
        counts = item_counts.to(device=self.cumulative.device, dtype=torch.float64)
        if counts.ndim != 1 or bool((counts < 0).any()) or not bool((counts > 0).any()):
            raise ValueError("item_counts must be one count >= 0 an item, not all of them 0")
        if self.power == 0:
            return
        # an item never seen has probability 0
        mass = torch.where(counts > 0, counts**self.power, 0)
        self.cumulative = mass.cumsum(0) / mass.sum()
        self.log_probability = (mass / mass.sum()).log().to(torch.float32)

    def draw(self, shape: tuple[int, ...], n_items: int, generator: torch.Generator | None) -> Tensor:
        """Tokens of that shape, on the generator's device.

        Raises:
            ValueError: the counts are missing or are of another number of items.
        """
        assert generator is not None
        self._check(n_items)
        if self.power == 0:
            return torch.randint(1, n_items + 1, shape, generator=generator, device=generator.device)
        where = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
        # right: an item of probability 0 has an empty interval and is never hit
        found = torch.searchsorted(self.cumulative, where, right=True)
        return found.clamp_(max=n_items - 1).add_(1)

    def log_q(self, tokens: Tensor, n_items: int) -> Tensor:
        """The log-probability of one draw of each token, float32."""
        self._check(n_items)
        if self.power == 0:
            return torch.full(tokens.shape, 1 / n_items, device=tokens.device).log_()
        return self.log_probability[tokens - 1]

    def _check(self, n_items: int) -> None:
        known = self.cumulative.numel()
        if self.power != 0 and known != n_items:
            raise ValueError(
                f"popularity_power = {self.power} needs the counts of {n_items} items, has those of {known}; "
                "call setup(item_counts) with one count an item"
            )
