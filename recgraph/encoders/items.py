"""The item tower, the vector of an item as the sum of its own and those of its features; what is
kept of tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from recgraph.encoders.base import dropout_generator
from recgraph.encoders.transformer import initialise
from recgraph.sparse.csr import Csr
from recgraph.sparse.spmm import spmm

T = TypeVar("T")


class Kept(Generic[T]):
    """The value of a function of tensors, as long as it holds."""

    def __init__(self) -> None:
        self._shared: list[T] | None = None
        self._kept: tuple[list[Any], Sequence[Tensor], T] | None = None

    def get(
        self, training: bool, state: Callable[[], Sequence[Tensor]], make: Callable[[], T]
    ) -> T:
        """The value: within :meth:`sharing` that of the first call, in evaluation mode without
        gradients that which was made of the same tensors, else a new one.

        Args:
            training: whether its module is in training mode.
            state: the tensors that it is made of.
            make: makes it.
        """
        is_trained = training or torch.is_grad_enabled()
        if is_trained:
            # a step may follow, and fused optimisers do not count it as a change of the parameters
            self._kept = None
        if self._shared is not None:
            if not self._shared:
                self._shared.append(make())
            return self._shared[0]
        tensors = state()
        # inference tensors do not say whether they changed
        if is_trained or any(tensor.is_inference() for tensor in tensors):
            return make()
        seen = [(id(tensor), tensor._version, tensor.device, tensor.dtype) for tensor in tensors]
        entry = self._kept  # read once: another thread may replace it
        if entry is None or entry[0] != seen:
            # made under inference mode it could not be used elsewhere
            with torch.inference_mode(False), torch.no_grad():
                entry = self._kept = (seen, tensors, make())
        return entry[2]

    def forget(self) -> None:
        """Make a new value when it is next asked for."""
        self._kept = None

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """The block in which it is made once: one step on one batch. A block within it makes one of
        its own.
        """
        before, self._shared = self._shared, []
        try:
            yield
        finally:
            self._shared = before


class SizedByState(nn.Module):
    """Base of modules with buffers as long as what they were connected or fitted to: a state alone
    says how long.

    What is made of the buffers (:meth:`once`) is kept until one of them changes; a move to where
    the module is already makes no graph anew.
    """

    #: the names of these buffers, which have one dimension, or are None
    sized_by_state: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._made: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` makes of the buffers, when it is first asked for."""
        made = self._made  # read once: another thread may replace it
        if key not in made:
            # made under inference mode it could not be used in training
            with torch.inference_mode(False):
                made[key] = make()
        value: T = made[key]
        return value

    def changed(self) -> None:
        """Forget what was made of the buffers; to be called where one is set."""
        self._made = {}

    def _apply(self, *args: Any, **settings: Any) -> Self:
        before = [*self._buffers.values()]
        super()._apply(*args, **settings)  # type: ignore[no-untyped-call]
        if [*map(id, before)] != [*map(id, self._buffers.values())]:
            self.changed()
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self.changed()
        device = next(self.buffers()).device
        for name in self.sized_by_state:
            saved = state_dict.get(f"{prefix}{name}")
            if saved is not None and saved.dim() == 1:
                like = self._buffers[name]
                if like is None:
                    like = saved.to(device)
                setattr(self, name, like.new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


class ItemTower(nn.Module):
    """``v_i = e_i + sum_f mean_{a in f(i)} E_a + W x_i``.

    ``e_i`` is the item's own vector, ``E_a`` the vector of a value of a category (or of its
    absence), ``x_i`` the numbers and vectors of the item. One table for the inputs of the encoder
    and for the scores.

    An item that does not occur in training has no ``e_i`` that could have been learned. It gets the
    mean of those that were: what they have in common (without it cold items would score above or
    below all others). During training a share ``id_dropout`` of the items, drawn anew for each
    table, is embedded so, too, for features to learn to stand alone (as in Volkovs et al.,
    DropoutNet, NeurIPS 2017).

    Vectors of values begin like those of items, N(0, 0.02); those of absences begin with 0 and stay
    there where every training item has the feature.

    Args:
        hidden_dim: width D.
        entries: [n_items, C], the weights of the values of each item.
        dense: [n_items, W], numbers and vectors; W may be 0.
        missing: the columns of ``entries`` that stand for the absence of a feature.
        id_dropout: see above.
    """

    dense: Tensor
    known_items: Tensor
    candidates: Tensor
    places: Tensor

    def __init__(
        self,
        hidden_dim: int,
        entries: Csr,
        dense: Tensor,
        missing: Sequence[int],
        id_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        n_items = entries.shape[0]
        self.id_dropout = id_dropout
        self.values = nn.Embedding(entries.shape[1], hidden_dim)
        initialise(self.values)
        with torch.no_grad():
            self.values.weight[list(missing)] = 0
        self.project: nn.Linear | None = None
        if dense.shape[1]:
            self.project = nn.Linear(dense.shape[1], hidden_dim, bias=False)
            initialise(self.project)
        self.entries = entries
        self.register_buffer("dense", dense, persistent=False)
        self.register_buffer("known_items", torch.ones(n_items, dtype=torch.bool))
        # tokens of the items that a loss may score, and the place of each token among them; empty:
        # all
        self.register_buffer("candidates", torch.empty(0, dtype=torch.int64), persistent=False)
        self.register_buffer("places", torch.empty(0, dtype=torch.int64), persistent=False)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        like = self.values.weight
        self.entries = self.entries.to(like.device, like.dtype)
        return self

    def setup(self, item_counts: Tensor) -> Tensor:
        """Learn which items occur in training -> the counts of these.

        Args:
            item_counts: [n_items].
        """
        known_mask = item_counts.to(self.known_items.device) > 0
        self.known_items.copy_(known_mask)
        if bool(known_mask.all()):
            self.candidates, self.places = self.candidates[:0], self.places[:0]
            return item_counts
        self.candidates = torch.cat([known_mask.new_ones(1), known_mask]).nonzero().flatten()
        self.places = self.candidates.new_zeros(len(known_mask) + 1)
        self.places[self.candidates] = torch.arange(len(self.candidates), device=known_mask.device)
        return item_counts[known_mask.to(item_counts.device)]

    def features(self) -> Tensor:
        """[n_items, D]: the sum over the features."""
        out = spmm(self.entries, self.values.weight)
        if self.project is not None:
            out = out + self.project(self.dense.to(out.dtype))
        return out

    def forward(self, own: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The table of tokens.

        Args:
            own: [1 + n_items, D], the vector of the masked item, then those of the items; or [1,
                D]: items have none.
            generator: draws the items whose own vector is left out; needed in training mode with
                ``id_dropout``.

        Returns:
            [1 + n_items, D].
        """
        items = self.features()
        if len(own) > 1:
            keep_mask = self.known_items
            generator = dropout_generator(self, self.id_dropout, generator)
            if generator is not None and self.id_dropout:
                draw = torch.rand(len(keep_mask), generator=generator, device=generator.device)
                keep_mask = keep_mask & (draw >= self.id_dropout)
            known = self.known_items.to(own.dtype)
            mean = known @ own[1:] / known.sum().clamp(min=1)
            items = items + torch.where(keep_mask[:, None], own[1:], mean)
        return torch.cat([own[:1], items])

    def of_candidates(self, table: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of the table that a loss may score, those of items in training, and the targets
        among them.

        An item without interactions is never a target: as a negative its features would learn to
        lower its score.
        """
        if not len(self.candidates):
            return table, targets
        return table.index_select(0, self.candidates), self.places[targets]
