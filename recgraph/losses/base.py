"""What a next-item loss is: hidden states and their target tokens in, one scalar out."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recgraph.config import Config, configure

__all__ = ["LossConfig", "NextItemLoss"]


class LossConfig(Config):
    """Settings of a next-item loss."""


class NextItemLoss(nn.Module):
    """Base of all next-item losses. ``FullSoftmax()(hidden, targets, table, generator)`` gives the mean loss.

    A subclass sets ``Config`` and fills :meth:`_loss`; one that needs the items' popularity fills
    :meth:`setup`.

    Args:
        config: the settings as a value, or
        settings: the settings by name.

    Raises:
        ConfigError: a setting that does not exist, or its value is not allowed.
    """

    Config: ClassVar[type[LossConfig]] = LossConfig
    #: whether the loss draws random numbers, so that it must be given a generator
    draws: ClassVar[bool] = False

    def __init__(self, config: LossConfig | None = None, /, **settings: Any) -> None:
        super().__init__()
        self.config: Any = configure(self, self.Config, config, settings)

    def setup(self, item_counts: Tensor) -> None:
        """Learn what the loss needs from the training part; most need nothing.

        Args:
            item_counts: [n_items], how often each item (0-based) occurs in training.
        """

    def forward(
        self, hidden: Tensor, targets: Tensor, table: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """The mean loss over the targets.

        Args:
            hidden: [T, D], the state that predicts each target.
            targets: [T] int64 tokens in ``1..n_items``.
            table: [n_items + 1, D], the embedding of each token; row 0 is the padding's.
            generator: the stream to draw negatives from, on the device of ``hidden``.

        Returns:
            A scalar in the wider type of ``hidden`` and ``table``, at least float32.

        Raises:
            ValueError: the shapes do not fit, there is no target, or a loss that draws has no generator.
        """
        if hidden.ndim != 2 or targets.shape != hidden.shape[:1] or table.shape[1:] != hidden.shape[1:]:
            raise ValueError(
                f"hidden {list(hidden.shape)}, targets {list(targets.shape)}, table {list(table.shape)} "
                "do not fit; they must be [T, D], [T], [n_items + 1, D]"
            )
        if targets.numel() == 0:
            raise ValueError("targets is empty; leave batches without targets out")
        if self.draws and generator is None:
            raise ValueError(f"{type(self).__name__} draws negatives and needs a generator; got None")
        return self._loss(hidden, targets, table, generator)

    def _loss(self, hidden: Tensor, targets: Tensor, table: Tensor, generator: torch.Generator | None) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define _loss(hidden, targets, table, generator)")
