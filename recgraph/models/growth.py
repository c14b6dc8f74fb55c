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
    larger = type(model)(model.config).build(space, seed)
    larger.seed = model.seed
    larger.to(next(model.parameters()).device)
    state = model.state_dict()
    parameters = dict(larger.named_parameters())
    for name, value in larger.state_dict().items():
        rows = _with_new_rows(name, state[name], value, model, space, add_mean=True)
        if rows is not None:
            value.copy_(rows)
        elif name in parameters:
            raise ValueError(
                f"{type(model).__name__} cannot grow: parameter {name} has shape {list(state[name].shape)}, and "
                f"{list(value.shape)} for {space}; name what its rows stand for in the class's tables"
            )
    return larger


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
    moments = {}
    for key, value in tensors.items():
        group, index, _ = key.rsplit("/", 2)
        name = names[id(groups[group][int(index)])]
        # an entry is of the parameter's shape, or a scalar: the number of steps
        shape = larger.get_parameter(name).shape if value.dim() else value.shape
        zeros = value.new_zeros(shape)
        rows = _with_new_rows(name, value, zeros, model, larger.space, add_mean=False)
        if rows is not None:
            moments[key] = rows
    return moments


def _with_new_rows(
    name: str, old: Tensor, new: Tensor, model: Model, space: Space, *, add_mean: bool
) -> Tensor | None:
    """``old`` in the size of ``new``, whose rows stand for those that are new in ``space``; None:
    they differ in size, and it is no table of the model's.

    Args:
        name: of the parameter or buffer.
        old, new: before and after.
        add_mean: whether the mean of the old rows of the same kind is added to new rows.
    """
    if old.shape == new.shape:
        return old
    parts = model.tables.get(name, ())
    sizes = [_count(part, model.space) for part in parts]
    if not parts or len(old) != sum(sizes):
        return None
    rows: list[Tensor] = []
    new_parts = torch.split(new, [_count(part, space) for part in parts])
    for old_rows, new_rows in zip(torch.split(old, sizes), new_parts, strict=True):
        added = new_rows[len(old_rows) :]
        if add_mean:
            added = added + old_rows.mean(0)
        rows += [old_rows, added]
    return torch.cat(rows)


def _count(part: str, space: Space) -> int:
    """The rows that stand for ``"users"``, ``"items"`` or ``"padding"`` (one row)."""
    return {"users": space.n_users, "items": space.n_items, "padding": 1}[part]
