"""Whether numbers are finite: weights that hold NaN or infinity are refused before they are kept; and whether there
was memory for them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class NonFinite(ValueError):
    """Numbers became NaN or infinite."""


class NonFiniteWeights(NonFinite):
    """Weights hold NaN or infinite values; they are not kept."""


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors that hold NaN or infinite values. One pass, no copy, one wait for the device."""
    floating = {name: _real(value.detach()) for name, value in tensors.items() if _can_be_wrong(value)}
    # the least and the greatest value: NaN shows in both
    ends = [torch.stack(value.aminmax()).double() for value in floating.values()]
    if not ends:
        return []
    finite = torch.stack([pair.to(ends[0].device) for pair in ends]).isfinite().all(1).tolist()
    return [name for name, is_finite in zip(floating, finite, strict=True) if not is_finite]


def first_bad_row(rows: Tensor) -> int | None:
    """The first row of [N, D] that holds NaN or an infinite value; None: there is none."""
    bad_mask = ~rows.isfinite().all(1)
    return int(bad_mask.nonzero()[0]) if bool(bad_mask.any()) else None


def check_weights(state: Mapping[str, Tensor], what: str, way_out: str) -> None:
    """Refuse weights that are not all finite.

    Args:
        state: weights and buffers by name.
        what: they are of, for the message.
        way_out: what to do, for the message.
    """
    if wrong := not_finite(state):
        raise NonFiniteWeights(f"{what} holds NaN or infinite values in {', '.join(wrong[:20])}; {way_out}")


def _can_be_wrong(value: Tensor) -> bool:
    return value.numel() > 0 and (value.is_floating_point() or value.is_complex())


def _real(value: Tensor) -> Tensor:
    return torch.view_as_real(value) if value.is_complex() else value
