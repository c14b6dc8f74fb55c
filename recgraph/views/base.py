"""What a sequence view is: a random variation of packed token rows, vectorised over the batch."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from recgraph.config import Config, configure
from recgraph.data.part import Part
from recgraph.sparse.ragged import Ragged
from recgraph.views._rows import assign


class ViewConfig(Config):
    """Settings of a view."""


class SequenceView:
    """Base of all sequence views. ``Crop(ratio=0.5)(sequences, generator)`` gives a view of every row.

    Rows of fewer than two tokens come back as they are. A subclass sets ``Config`` and fills :meth:`_view`.

    Args:
        config: the settings as a value, or
        settings: the settings by name.

    Raises:
        ConfigError: a setting that does not exist, or its value is not allowed.
    """

    #: what the view varies; views of a graph say ``"graph"``
    target: ClassVar[str] = "sequence"
    Config: ClassVar[type[ViewConfig]] = ViewConfig

    def __init__(self, config: ViewConfig | None = None, /, **settings: Any) -> None:
        self.config: Any = configure(self, self.Config, config, settings)

    def setup(self, train: Part) -> None:
        """Learn what the view needs from the training part; most need nothing."""

    def __call__(self, sequences: Ragged, generator: torch.Generator) -> Ragged:
        """A view of every row.

        Args:
            sequences: B rows of tokens (``item_idx + 1``; 0 is a masked item); not changed.
            generator: the stream to draw from, on the device of ``sequences``.

        Returns:
            B rows of tokens on the same device; a row may be shorter or longer than it was, but it is empty
            only where it was.
        """
        long_mask = sequences.lengths > 1
        if bool(long_mask.all()):
            return self._view(sequences, generator)
        return assign(sequences, long_mask.to(torch.int64) - 1, [lambda rows: self._view(rows, generator)])

    def _view(self, sequences: Ragged, generator: torch.Generator) -> Ragged:
        """The view of rows that all hold at least two tokens."""
        raise TypeError(f"{type(self).__name__} must define _view(sequences, generator)")


def share(lengths: Tensor, ratio: float, at_least: int = 0) -> Tensor:
    """``max(floor(ratio * length), at_least)`` for each row, in float64 as Python computes it.

    Args:
        lengths: [B] int64.

    Returns:
        [B] int64.
    """
    return (lengths.to(torch.float64) * ratio).floor().to(torch.int64).clamp(min=at_least)
