"""What a regulariser is: a scalar of two views that says how embeddings lie, as a loss term or as a diagnostic."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recgraph.blocks import work_type
from recgraph.config import Config, configure

__all__ = ["Regulariser", "RegulariserConfig"]


class RegulariserConfig(Config):
    """Settings of a regulariser."""


class Regulariser(nn.Module):
    """Base of all regularisers. A subclass sets ``Config`` and fills :meth:`_value`.

    Args:
        config: the settings as a value, or
        settings: the settings by name.

    Raises:
        ConfigError: a setting that does not exist, or its value is not allowed.
    """

    Config: ClassVar[type[RegulariserConfig]] = RegulariserConfig

    def __init__(self, config: RegulariserConfig | None = None, /, **settings: Any) -> None:
        super().__init__()
        self.config: Any = configure(self, self.Config, config, settings)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """A scalar of two views.

        Args:
            a, b: [B, D], row i of the one the partner of row i of the other.

        Raises:
            ValueError: the shapes differ or there is no row.
        """
        if a.ndim != 2 or a.shape != b.shape or not len(a):
            raise ValueError(f"a {list(a.shape)} and b {list(b.shape)} must be of one shape [B, D] with B >= 1")
        # sums over the batch in half precision would lose digits
        work = work_type(a, b)
        with torch.autocast(a.device.type, enabled=False):
            return self._value(a.to(work), b.to(work))

    def measure(self, a: Tensor, b: Tensor) -> Tensor:
        """The same scalar without gradient, to be logged."""
        with torch.no_grad():
            value: Tensor = self(a, b)
        return value

    def _value(self, a: Tensor, b: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define _value(a, b)")
