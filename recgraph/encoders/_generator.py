"""Which generator an encoder's dropout draws from."""

from __future__ import annotations

import torch
from torch import nn


def dropout_generator(
    module: nn.Module, probability: float, generator: torch.Generator | None
) -> torch.Generator | None:
    """The generator of a module's dropout: None where it is not in training mode.

    Raises:
        ValueError: in training mode, with dropout above 0, none was given.
    """
    if not module.training:
        return None
    if generator is None and probability > 0:
        raise ValueError("generator is required in training mode with dropout > 0; pass batch.generators['dropout']")
    return generator
