"""What is attributed: the values of a user's recommended items, as functions of the history."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from recgraph.data.samples import Query
from recgraph.evaluate.ranking import device_of, evaluating
from recgraph.models.base import Model
from recgraph.models.reading import Reading
from recgraph.sparse.ragged import Ragged

__all__ = ["Quantity", "Subject"]

#: what an attribution divides among the events: the model's score, or ``score - logsumexp`` over all items, which does
#: not change where all scores rise alike
Quantity = Literal["score", "log_probability"]
#: numbers of variants that are in memory at a time: scores, or what a model makes them of
MOST_CELLS = 1 << 22


class Subject:
    """A user's history of H events, and K items whose values for the user are attributed to it.

    Args:
        model: built and fitted.
        query: one user with the history.
        targets: [K] int64, the items.
        of: the quantity f that is attributed.
        unseen_mask: [n_items] bool, the items that the targets are ranked among, beside themselves; None: all.
        histories: a row for each user, for methods that read which items occur together.
        block_rows: variants that are computed at a time, fewer where a variant takes much memory; it does not alter
            results beyond rounding.

    Raises:
        ValueError: more or less than one user; there is no target; the user has no history, or the model does not read
            it.
    """

    def __init__(
        self,
        model: Model,
        query: Query,
        targets: Tensor,
        *,
        of: Quantity = "log_probability",
        unseen_mask: Tensor | None = None,
        histories: Ragged | None = None,
        block_rows: int = 256,
    ) -> None:
        if len(query) != 1:
            raise ValueError(f"query has {len(query)} users; give one: a history is one user's")
        if not len(targets):
            raise ValueError("targets is empty: name at least one item")
        if of not in get_args(Quantity):
            raise ValueError(f"of = {of!r} must be one of {', '.join(get_args(Quantity))}")
        if block_rows < 1:
            raise ValueError(f"block_rows = {block_rows} must be at least 1")
        assert model.space is not None
        self.model, self.of, self.n_items = model, of, model.space.n_items
        self.device = device_of(model)
        self.user = int(query.users[0])
        self.targets = targets.to(self.device)
        self.unseen_mask = torch.ones(self.n_items, dtype=torch.bool) if unseen_mask is None else unseen_mask
        self.histories = histories
        with evaluating(model):
            self.reading: Reading = model.reading(query.to(self.device))
        self.items = self.reading.items.to("cpu")
        self.block_rows = max(min(block_rows, MOST_CELLS // max(self.n_items, self.reading.n_cells)), 1)

    @property
    def n_events(self) -> int:
        """H."""
        return len(self.items)

    @cached_property
    def has_inputs(self) -> bool:
        """Whether the model reads vectors of items, along which gradients lead."""
        with evaluating(self.model):
            try:
                self.reading.inputs()
            except ValueError:
                return False
        return True

    @cached_property
    def item_vectors(self) -> Tensor | None:
        """[n_items, D]; None of a model without."""
        with evaluating(self.model):
            return self.model.encode_items().detach() if self.model.has_vectors else None

    def full_mask(self, n_variants: int = 1) -> Tensor:
        """[n_variants, H] bool: everything is kept."""
        return torch.ones(n_variants, self.n_events, dtype=torch.bool)

    @cached_property
    def full(self) -> Tensor:
        """[K]: the values with the whole history."""
        return self.values(self.full_mask())[0]

    def values(self, keep_mask: Tensor, instead: Tensor | None = None) -> Tensor:
        """[V, K]: the values of the targets by each variant, on the host (:class:`recgraph.models.reading.Reading`).

        Args:
            keep_mask: [V, H] bool.
            instead: [V, H] int64 items in the events' places, or None.
        """
        return self._by_blocks(self.value_of, keep_mask, instead)

    def ranks(self, keep_mask: Tensor, instead: Tensor | None = None) -> Tensor:
        """[V, K] int64: the rank of each target by each variant: 1 + the number of unseen items that score higher."""
        candidates = self.unseen_mask.to(self.device)

        def ranks(represented: Tensor) -> Tensor:
            scores = self._scores(represented)
            own = scores[:, self.targets]
            above = [((scores > one[:, None]) & candidates).sum(1) for one in own.T]
            return 1 + torch.stack(above, 1)

        return self._by_blocks(ranks, keep_mask, instead)

    def probabilities(self, keep_mask: Tensor, instead: Tensor | None = None) -> Tensor:
        """[V, K]: the targets' share of the softmax of all scores, whatever the quantity is."""
        return self._by_blocks(lambda each: torch.softmax(self._scores(each), 1)[:, self.targets], keep_mask, instead)

    def _by_blocks(self, of: Callable[[Tensor], Tensor], keep_mask: Tensor, instead: Tensor | None) -> Tensor:
        found = []
        with evaluating(self.model):
            for start in range(0, len(keep_mask), self.block_rows):
                rows = slice(start, start + self.block_rows)
                items = None if instead is None else instead[rows].to(self.device)
                found.append(of(self.reading.represent(keep_mask[rows].to(self.device), items)).to("cpu"))
        return torch.cat(found)

    def _scores(self, represented: Tensor) -> Tensor:
        """[V, n_items] of what the reading made."""
        return represented if self.item_vectors is None else represented @ self.item_vectors.T

    def value_of(self, represented: Tensor) -> Tensor:
        """[V, K] of user vectors [V, D], or of scores of a model without: differentiable."""
        if self.of == "score":
            vectors = self.item_vectors
            return represented[:, self.targets] if vectors is None else represented @ vectors[self.targets].T
        return torch.log_softmax(self._scores(represented), 1)[:, self.targets]

    @contextmanager
    def differentiating(self) -> Iterator[None]:
        """Within the block the model is in evaluation mode and operations are recorded; its parameters get no
        gradient as long as gradients are asked for by :func:`torch.autograd.grad`."""
        # vectors of items are made before, so that they are constants of the derivative
        _ = self.item_vectors
        with evaluating(self.model), torch.enable_grad():
            yield
