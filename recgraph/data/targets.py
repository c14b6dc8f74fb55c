"""Which interactions after a cut of time are asked for, and what their users have done by then."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from recgraph.data.labels import Label, occur
from recgraph.data.part import OrderedLog
from recgraph.rng import numpy_generator

__all__ = ["Targets", "with_targets", "without_unknown"]

Targets = Literal["all", "last", "first", "random"]
#: held-out part -> labels of its targets, of what happened before them, and of what is left out
_PARTS = (
    ("valid", Label.VALID, Label.VALID_HISTORY, Label.VALID_LEFT),
    ("test", Label.TEST, Label.TEST_HISTORY, Label.TEST_LEFT),
)


def without_unknown(log: OrderedLog, labels: Tensor) -> Tensor:
    """The labels with interactions of items that no earlier part has left out of valid and test.

    Args:
        labels: [T] of ``log``: train, valid and test.
    """
    made, before = labels.clone(), labels == int(Label.TRAIN)
    for _, asked, _, left in _PARTS:
        own = labels == int(asked)
        made[own & ~occur(log.items.values, before, log.n_items)] = int(left)
        before = before | own
    return made


def with_targets(log: OrderedLog, labels: Tensor, targets: Targets, seed: int) -> Tensor:
    """The labels with one target of each user in valid and in test; a user's interactions are in order of time.

    What the user did in the part before the target is history, what came after it is left out.

    Args:
        labels: [T] of ``log``: train, valid and test; what is left out already is no target and no history.
        targets: ``"last"``, ``"first"``, ``"random"`` (one drawn of each user's, in a stream for each part), or
            ``"all"``, the labels as they are: all are asked for as one set, with the history at the cut.
        seed: of ``"random"``.
    """
    if targets == "all":
        return labels
    made, rows = labels.clone(), log.items.rows
    for name, asked, history, left in _PARTS:
        own = torch.nonzero(labels == int(asked)).flatten()
        counts = torch.bincount(rows[own], minlength=log.n_users)
        firsts = torch.cumsum(counts, 0) - counts
        if targets == "random":
            draws = torch.from_numpy(numpy_generator(seed, "split", "targets", name).random(log.n_users))
            chosen = torch.minimum((draws * counts).to(torch.int64), (counts - 1).clamp(min=0))
        else:
            chosen = (counts - 1).clamp(min=0) if targets == "last" else torch.zeros_like(counts)
        place = torch.arange(len(own)) - firsts[rows[own]]
        target = chosen[rows[own]]
        made[own[place < target]] = int(history)
        made[own[place > target]] = int(left)
    return made
