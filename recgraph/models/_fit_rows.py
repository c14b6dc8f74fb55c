"""What closed-form models read of a training part: each user's distinct items."""

from __future__ import annotations

import torch

from recgraph.data.part import Part
from recgraph.models.base import ClosedFormModel
from recgraph.sparse.co_occurrence import distinct
from recgraph.sparse.ragged import Ragged


def fit_rows(model: ClosedFormModel, train: Part, device: torch.device) -> Ragged:
    """n_users rows of distinct items on the model's device: every interaction counts as 1, repeats do not
    add.

    Raises:
        ValueError: the training part has another number of items than the model was built for.
    """
    assert model.space is not None
    if train.n_items != model.space.n_items:
        raise ValueError(
            f"train has n_items = {train.n_items}, but {type(model).__name__} was built for {model.space.n_items}; "
            "build a new model for this data set"
        )
    return distinct(train.items.to(device), train.n_items)
