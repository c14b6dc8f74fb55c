"""Losses that change as training goes on: from which epoch on their values compare."""

from __future__ import annotations

from torch import nn

__all__ = ["changing_epochs"]


def changing_epochs(module: nn.Module) -> int:
    """Epochs at the start of a training whose loss is another one than that of the epochs after them.

    Stages, warm-ups and schedules change what a loss is of; until they have, a lower one says nothing of the weights. A
    part that does so has an attribute ``changing_epochs``, which stands for all that it holds. A temperature that goes
    to and fro (``cosine``) always changes, and is not counted.

    Args:
        module: a model, or a part of one.
    """
    own: int | None = getattr(module, "changing_epochs", None)
    return max(map(changing_epochs, module.children()), default=0) if own is None else own
