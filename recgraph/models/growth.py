"""Models for more users and items, with what a smaller one has learned.

A table is a parameter, or a buffer, with a row for each user or item; ``Model.tables`` names those
of a class and what their rows stand for. In a grown table old rows stand where the indices of their
users and items are now, and new rows are behind them: indices are given out at the end, so that old
ones are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from recgraph.models.base import Model, Space, TrainableModel

M = TypeVar("M", bound=Model)


@torch.no_grad()
def grown(model: M, space: Space, seed: int) -> M:
    """A model of the same class and settings for more users and items, on the same device.

    What is no table is copied. Buffers of another size that are no tables are left as a new model
    has them: they are made anew from the training part.

    Args:
        model: built.
        space: at least as large as the model's own.
        seed: of what is drawn for new rows, to which the mean of the old rows of the same kind is
            added: a new item's scores are then near an average item's.

    Raises:
        ValueError: the model cannot grow, or a parameter's size depends on the space and is in no
            table.
    """
    old = model.space
    larger = type(model)(model.config).build(space, seed)
    larger.seed = model.seed
    kept = model.state_dict()
    parameters = dict(larger.named_parameters())
    for name, value in larger.state_dict().items():
        if name not in kept:
            continue
        if name in model.tables and len(kept[name]) == sum(
            _count(part, old) for part in model.tables[name]
        ):
            value.copy_(
                _grown_rows(kept[name].to(value.device), value, model.tables[name], old, space)
            )
        elif kept[name].shape == value.shape:
            value.copy_(kept[name])
        elif name in parameters:
            raise ValueError(
                f"{type(model).__name__} cannot grow: parameter {name} has shape {list(kept[name].shape)}, and "
                f"{list(value.shape)} for {space}; name what its rows stand for in the class's tables"
            )
    place = next(iter((*model.parameters(), *model.buffers())), None)
    return larger if place is None else larger.to(place.device)


def grown_optimiser(
    model: TrainableModel,
    larger: TrainableModel,
    tensors: Mapping[str, Tensor],
    groups: Mapping[str, Sequence[Tensor]],
) -> dict[str, Tensor]:
    """The optimiser's state for a grown model: moments of old rows move with them, those of new
    rows are 0.

    Args:
        model, larger: before and after :func:`grown`.
        tensors: ``group/parameter index/entry`` -> tensor, as checkpoints have them.
        groups: group -> its parameters, those of ``model``.

    Returns:
        The same names; parameters that do not fit are left out.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    new, kept = dict(larger.named_parameters()), {}
    for key, value in tensors.items():
        group, index, _ = key.rsplit("/", 2)
        if group not in groups or int(index) >= len(groups[group]):
            continue
        name = names[id(groups[group][int(index)])]
        shape = new[name].shape
        parts = model.tables.get(name, ())
        if parts and value.dim() and len(value) == sum(_count(part, model.space) for part in parts):
            kept[key] = _grown_rows(
                value, value.new_zeros(shape), parts, model.space, larger.space, mean=False
            )
        elif value.dim() == 0 or value.shape == shape:
            kept[key] = value
    return kept


def _grown_rows(
    kept: Tensor, into: Tensor, parts: tuple[str, ...], old: Space, new: Space, mean: bool = True
) -> Tensor:
    """``into`` with the rows of ``kept`` where they belong, part by part, and their mean added to
    new ones.
    """
    of_old = torch.split(kept, [_count(part, old) for part in parts])
    of_new = torch.split(into.clone(), [_count(part, new) for part in parts])
    made = []
    for rows, larger in zip(of_old, of_new, strict=True):
        drawn = larger[len(rows) :]
        if mean and len(rows) and rows.is_floating_point():
            drawn = drawn + rows.mean(0)
        made += [rows, drawn]
    return torch.cat(made)


def _count(part: str, space: Space) -> int:
    """The rows that stand for ``"users"``, ``"items"`` or ``"padding"`` (one row)."""
    return {"users": space.n_users, "items": space.n_items, "padding": 1}[part]
