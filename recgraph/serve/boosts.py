"""What the boosts of business rules do to scores, in the model's indices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recgraph.data.item_columns import ItemColumns
from recgraph.serve.rules import Boost

__all__ = ["changes_of"]

#: the greatest score of a model, and the greatest that boosts may make of it: differences of two have room above
_GREATEST, _MOST = float(torch.finfo(torch.float32).max), 1e300


def changes_of(
    boosts: Sequence[Boost], columns: ItemColumns, separator: str | None
) -> tuple[tuple[Boost, Tensor], ...]:
    """Boosts with [n_items] float64 each: what is added to scores, or times what they are taken.

    Raises:
        ValueError: a column does not exist or fit, or the changes, one after the other, lead out of the range of
            numbers, where all scores would be equal.
    """
    made: list[tuple[Boost, Tensor]] = []
    bound = torch.tensor(_GREATEST, dtype=torch.float64)
    for boost in boosts:
        change = _change(boost, columns, separator)
        bound = bound + change.abs() if boost.how == "add" else bound * torch.maximum(change, 1 / change)
        if not bool((bound <= _MOST).all()):
            raise ValueError(
                f"boost: column {boost.column!r} with weight {boost.weight:g} takes scores out of the range of numbers"
                f"{' with the boosts before it' if made else ''}; give smaller weights"
            )
        made.append((boost, change))
    return tuple(made)


def _change(boost: Boost, columns: ItemColumns, separator: str | None) -> Tensor:
    neutral = 0.0 if boost.how == "add" else 1.0
    if boost.value is not None:
        held = columns.holds(boost.column, boost.value, "boost", separator)
        change = torch.where(held, torch.tensor(boost.weight, dtype=torch.float64), neutral)
    else:
        numbers = columns.numbers(boost.column, "boost")
        if bool(numbers.isinf().any()):
            raise ValueError(f"boost: column {boost.column!r} holds a number that is not finite")
        change = torch.where(numbers.isnan(), neutral, numbers * boost.weight)
    if boost.how == "multiply" and not bool((change > 0).all()):
        least = float(change.min())
        raise ValueError(
            f"boost: column {boost.column!r} times weight {boost.weight} gives {least:g}, but scores can be multiplied "
            "by numbers above 0 alone; take how='add'"
        )
    return change
