"""What a latent augmenter is: a small network that makes another view of encoded sequences."""

from __future__ import annotations

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from recgraph.sparse.ragged import Ragged

Variant = Literal["row", "published"]


class Augmenter(nn.Module):
    """Base of all latent augmenters: ``z = augmenter(h)``, rows of unit length.

    Source: Qin et al., Meta-optimized Contrastive Learning for Sequential Recommendation (SIGIR 2023).
    A subclass makes its layers (torch's default initialisation, as the published code) and fills
    :meth:`_augment`.

    Args:
        hidden_dim: D.
        variant: ``"row"``, the view of a row depends on that row alone; ``"published"``, what the published
            code does, where that differs.

    Raises:
        ValueError: ``variant`` is neither.
    """

    def __init__(self, hidden_dim: int, variant: Variant = "row") -> None:
        super().__init__()
        if variant not in get_args(Variant):
            raise ValueError(f"variant = {variant!r} must be one of {', '.join(get_args(Variant))}")
        self.hidden_dim = hidden_dim
        self.variant = variant

    @property
    def needs_states(self) -> bool:
        """Whether ``states`` must be given; an encoder can leave them out otherwise."""
        return False

    @property
    def batch_size(self) -> int | None:
        """The one batch size that the augmenter can take, or None for any."""
        return None

    def forward(self, hidden: Tensor, states: Ragged | None = None) -> Tensor:
        """Another view of each row.

        Args:
            hidden: [B, D], encoded sequences.
            states: B rows of [D]: the encoder's output at each place of each sequence.

        Returns:
            [B, D], rows of unit L2 norm.

        Raises:
            ValueError: ``hidden`` is not [B, hidden_dim] or not of the one batch size; ``states`` are needed
                and missing, or are not those of B rows.
        """
        if hidden.dim() != 2 or hidden.shape[1] != self.hidden_dim:
            raise ValueError(f"hidden has shape {tuple(hidden.shape)}; give [B, {self.hidden_dim}]")
        if self.batch_size not in (None, hidden.shape[0]):
            raise ValueError(
                f"hidden holds {hidden.shape[0]} rows; {type(self).__name__} with "
                f"variant={self.variant!r} takes batches of exactly {self.batch_size} "
                "(use that batch_size and drop the last batch, or variant='row')"
            )
        if self.needs_states and (states is None or states.n_rows != hidden.shape[0]):
            given = "None" if states is None else f"{states.n_rows} rows"
            raise ValueError(f"states = {given}; {type(self).__name__} needs those of the {hidden.shape[0]} rows")
        return F.normalize(self._augment(hidden, states), dim=-1)

    def _augment(self, hidden: Tensor, states: Ragged | None) -> Tensor:
        """[B, D], before the normalisation."""
        raise TypeError(f"{type(self).__name__} must define _augment(hidden, states)")
