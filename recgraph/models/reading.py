"""How a model reads the history of one user: open to changes, so that its scores can be attributed to what it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from recgraph.data.samples import Query
from recgraph.sparse.ragged import Ragged

__all__ = ["AttentionForm", "Baseline", "HistoryReading", "Reading", "StagesReading", "distinct_last", "replaced"]

#: what an attribution along a path begins with in the place of an item: nothing known, or the mean over all items
Baseline = Literal["padding", "mean"]
#: which attention counts: through all layers, or that of the last one
AttentionForm = Literal["rollout", "last_layer"]


def replaced(items: Tensor, keep_mask: Tensor, instead: Tensor | None) -> Tensor:
    """[V, H] int64: the items of V variants of a history of items [H]."""
    return items.expand_as(keep_mask) if instead is None else instead


class Reading:
    """What a model reads of one user's history, as a function that takes variants of it.

    A *variant* keeps some of the H events and may hold other items in their places. A subclass says in
    :meth:`represent` what the model makes of it, its parameters and all else as they were fitted; the variant that
    keeps everything has the scores that the model ranks by. Made and asked in evaluation mode.

    Attributes:
        model: a :class:`recgraph.models.base.Model`.
        items: [H] int64, the items that are read, oldest first, on the model's device.
        n_unread: events of the history that the model does not read: before the last ``max_len``, or no edge of its
            graph.
    """

    model: Any
    items: Tensor
    n_unread: int = 0

    @property
    def n_cells(self) -> int:
        """Numbers that a variant takes while it is computed, in the order of magnitude."""
        return len(self.items)

    def represent(self, keep_mask: Tensor, instead: Tensor | None = None) -> Tensor:
        """[V, D]: the user's vector by each variant; [V, n_items] scores of a model without vectors.

        Args:
            keep_mask: [V, H] bool, False where an event is left out.
            instead: [V, H] int64, the item in the place of each event; None: those of the history.
        """
        raise TypeError(f"{type(self).__name__} must define represent(keep_mask, instead)")

    def inputs(self) -> Tensor:
        """[H, W]: the vectors by which the events enter, of which :meth:`of_inputs` makes the user's vector.

        Raises:
            ValueError: the model reads no vectors.
        """
        raise ValueError(self._refusal("integrated_gradients", "reads no item vectors that a path could lead along"))

    def baseline(self, kind: Baseline) -> Tensor:
        """[H, W]: the input in the place of each event before anything is known of it."""
        raise TypeError(f"{type(self).__name__} must define baseline(kind)")

    def of_inputs(self, inputs: Tensor) -> Tensor:
        """[B, D]: the user's vector by inputs [B, H, W], with gradients to these."""
        raise TypeError(f"{type(self).__name__} must define of_inputs(inputs)")

    def attention(self, form: AttentionForm) -> Tensor:
        """[H]: how much the user's vector attends to each event; they sum to 1.

        Raises:
            ValueError: the model has no attention over the history.
        """
        raise ValueError(self._refusal("attention", "has no attention over the history"))

    @property
    def attends_paths(self) -> bool:
        """Whether the scores follow from the attention to meta-paths (``model.path_weights``), in place of
        :meth:`attention`."""
        return False

    def _refusal(self, method: str, why: str) -> str:
        return f"attribution {method}: {self.name} {why}; use leave_one_out"

    @property
    def name(self) -> str:
        """Of the model."""
        return type(self.model).__name__


class HistoryReading(Reading):
    """The reading of a model whose scores follow from the query's history: each variant is a history of its own.

    Of a model that reads a history as a set (``reads_repeats``) each item counts once, at its last occurrence.

    Args:
        model: a :class:`recgraph.models.base.Model`.
        query: one user.

    Raises:
        ValueError: the user has no history.
    """

    def __init__(self, model: Any, query: Query) -> None:
        self.model = model
        self.items, self.times = query.history.values, None if query.times is None else query.times.values
        if not len(self.items):
            raise ValueError(f"{self.name}: the user has no history to attribute anything to")
        if not model.reads_repeats:
            places = last_places(self.items)
            self.items, self.times = self.items[places], None if self.times is None else self.times[places]
        self.query = query

    def represent(self, keep_mask: Tensor, instead: Tensor | None = None) -> Tensor:
        rows = replaced(self.items, keep_mask, instead)
        lengths = keep_mask.sum(1)
        asked = Query(
            self.query.users.expand(len(keep_mask)).clone(),
            Ragged.from_lengths(rows[keep_mask], lengths),
            None if self.times is None else Ragged.from_lengths(self.times.expand_as(rows)[keep_mask], lengths),
        )
        found: Tensor = self.model.encode_users(asked) if self.model.has_vectors else self.model.score(asked)
        return found


class StagesReading(Reading):
    """The readings of several models of one kind whose vectors are concatenated: each reads the same history."""

    def __init__(self, model: Any, readings: Sequence[Reading]) -> None:
        self.model, self.readings = model, readings
        self.items, self.n_unread = readings[0].items, readings[0].n_unread

    @property
    def n_cells(self) -> int:
        return max(reading.n_cells for reading in self.readings)

    def represent(self, keep_mask: Tensor, instead: Tensor | None = None) -> Tensor:
        return torch.cat([reading.represent(keep_mask, instead) for reading in self.readings], 1)

    def inputs(self) -> Tensor:
        return torch.cat([reading.inputs() for reading in self.readings], 1)

    def baseline(self, kind: Baseline) -> Tensor:
        return torch.cat([reading.baseline(kind) for reading in self.readings], 1)

    def of_inputs(self, inputs: Tensor) -> Tensor:
        widths = [reading.inputs().shape[1] for reading in self.readings]
        pairs = zip(self.readings, torch.split(inputs, widths, 2), strict=True)
        return torch.cat([reading.of_inputs(own) for reading, own in pairs], 1)


def distinct_last(items: Tensor) -> Tensor:
    """[D] int64: each item once, in the order in which they occur for the last time."""
    return items[last_places(items)]


def last_places(items: Tensor) -> Tensor:
    """[D] int64: the place of each item's last occurrence, ascending."""
    backwards = items.flip(0)
    values, inverse = torch.unique(backwards, return_inverse=True)
    places = torch.arange(len(backwards), device=items.device)
    first = torch.full_like(values, len(backwards)).scatter_reduce(0, inverse, places, "amin")
    return len(backwards) - 1 - first.sort(descending=True).values
