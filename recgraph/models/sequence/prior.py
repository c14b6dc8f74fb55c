"""What follows what, counted beforehand, as a prior of what a sequence model learns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from recgraph.config import Search
from recgraph.data.batches import Query, SequenceBatch
from recgraph.data.part import Part
from recgraph.encoders.graph import transitions
from recgraph.models.base import Space
from recgraph.models.closed_form.transitions import TableConfig, Transitions
from recgraph.sparse.csr import Csr
from recgraph.sparse.ragged import consecutive

#: numbers of a table of transitions that is made dense
_DENSE = 1 << 24


class Prior(TableConfig):
    """The table of transitions of a prior, and how much it counts."""

    weight: Annotated[
        float, Field(ge=0, description="lambda, of the logarithm of transitions"), Search(0.0, 3.0, step=0.1)
    ] = 1.5
    in_training: Annotated[bool, Field(description="whether the loss has it too; else the ranking alone")] = False
    learned: Annotated[bool, Field(description="with in_training: whether lambda is learned, from weight on")] = True
    eps: Annotated[float, Field(gt=0, description="added to the transitions; one that was never seen has it")] = 1e-3


class TransitionPrior(nn.Module):
    """``lambda log(1 + t_j / eps)``, added to the score of each item j: of no effect where no transition leads there.

    t are the scores of :class:`recgraph.models.closed_form.transitions.Transitions`; in a softmax it is
    ``lambda log(eps + t_j)``. With ``in_training`` the loss has it, too, and the sample's own user's transitions are
    taken off the table there: it would hold the answer, and be trusted too much. On the valid part of Amazon Beauty
    the prior improves the ranking alone, and nothing where the loss has it. Source: ours.

    Attributes:
        weight: lambda, a scalar.
    """

    def __init__(self, config: Prior, space: Space) -> None:
        super().__init__()
        self.config = config
        fields = TableConfig.model_fields
        self.table = Transitions(**{name: getattr(config, name) for name in fields}).build(space)
        self.weight = nn.Parameter(torch.tensor(config.weight), requires_grad=config.in_training and config.learned)

    def setup(self, train: Part) -> None:
        self.train_part = train
        self.table.fit(train)

    def score(self, query: Query) -> Tensor:
        """[B, n_items]: what it adds to the scores."""
        return self.weight * (self.table.score(query) / self.config.eps).log1p_()


class OfBatch:
    """The logarithms that a :class:`TransitionPrior` adds to the scores of a batch's targets, as
    :class:`recgraph.losses.softmax.LogPrior` reads them.

    Args:
        candidates: the tokens that the loss scores, ascending; None: all of them.
    """

    def __init__(self, prior: TransitionPrior, batch: SequenceBatch, candidates: Tensor | None = None) -> None:
        self.table, self.weight, self.tokens = prior.table.matrix, prior.weight, candidates
        sequences = batch.sequences if batch.sequences.values.ndim == 1 else batch.sequences.columns(0)
        if not batch.causal:
            sequences = sequences.last(prior.table.n_read)
        config, n_items, device = prior.config, self.table.shape[0], sequences.device
        self.decay, self.eps = config.decay, config.eps
        self.items, self.positions, self.targets = sequences.values - 1, sequences.positions, batch.targets - 1
        self.n_read = min(prior.table.n_read, sequences.longest)
        self.follows = (sequences.on_host.positions > 0).tolist()
        # the place of each target's last item among the items of the batch
        if batch.masked is not None:
            self.places = batch.masked.values
        elif batch.causal:
            self.places = torch.arange(len(self.items), device=device)
        else:
            self.places = sequences.offsets[1:] - 1
        lengths = 1 + self.positions[self.places].clamp(max=self.n_read - 1)
        #: the places of the items that are read for each target, and how much they count
        self.read = consecutive(self.places - lengths + 1, lengths)
        self.decayed = torch.pow(config.decay, (lengths[self.read.rows] - 1 - self.read.positions).float())
        # the users' own transitions, between their distinct items
        users, of_row = torch.unique(batch.users, return_inverse=True)
        train, rows = prior.train_part, users.to(prior.train_part.items.device)
        whole = train.items.take(rows).to(device)
        weights = None if train.weights is None else train.items.with_values(train.weights).take(rows).values.to(device)
        distinct, local = torch.unique(whole.rows * n_items + whole.values, return_inverse=True)
        own = transitions(whole.with_values(local), len(distinct), config.window, config.backward, weights)
        self.own_items, of_place = distinct % n_items, of_row[sequences.rows] * n_items
        scales = (scale.to(device)[self.own_items] for scale in prior.table.scales)
        self.own = own.to(dtype=torch.float32).scale(*scales)
        self.own_places = torch.searchsorted(distinct, of_place + self.items)
        self.own_targets = torch.searchsorted(distinct, of_place[self.places] + self.targets)

    def _log(self, transitions: Tensor) -> Tensor:
        return transitions.clamp_(min=0).div_(self.eps).log1p_()

    def at_targets(self) -> Tensor:
        """[T]: of the targets themselves."""
        places, rows = self.read.values, self.read.rows
        found = _values_at(self.table, self.items[places], self.targets[rows])
        found -= _values_at(self.own, self.own_places[places], self.own_targets[rows])
        return self._log(self.weight.new_zeros(len(self.targets)).index_add_(0, rows, found * self.decayed))

    def over(self, columns: Tensor) -> Callable[[slice], Tensor]:
        """A function that gives [n, M] for the targets of a slice and the candidates ``columns`` [M]: rows of the
        table that the loss scores."""
        tokens, back = torch.unique(columns if self.tokens is None else self.tokens[columns], return_inverse=True)
        device, n_columns, n_items = columns.device, len(tokens), self.table.shape[0]
        of_item = torch.full((n_items + 1,), n_columns, device=device)
        of_item[tokens] = torch.arange(n_columns, device=device)
        of_item = of_item[1:]  # the column of an item; one behind the last, where it is no candidate
        is_whole = bool(torch.equal(back, torch.arange(n_columns, device=device)))
        table = None
        if n_items * n_columns <= _DENSE:
            table = self._dense(torch.arange(n_items, device=device), of_item, n_columns)

        def block(rows: slice) -> Tensor:
            places = self.places[rows]
            first, end = max(int(places[0]) - self.n_read + 1, 0), int(places[-1]) + 1
            items = self.items[first:end]
            sums = self._dense(items, of_item, n_columns) if table is None else table.index_select(0, items)
            own = self.own.take_rows(self.own_places[first:end])
            own_columns = of_item[self.own_items[own.indices]]
            sums.index_put_((own.rows, own_columns), -own.values(torch.float32), accumulate=True)
            each = sums.unbind()
            for before, after, follows in zip(each[:-1], each[1:], self.follows[first + 1 : end], strict=True):
                if follows:
                    after.add_(before, alpha=self.decay)
            found = self._log(sums[:, :n_columns].index_select(0, places - first))
            return found if is_whole else found.index_select(1, back)

        return block

    def _dense(self, items: Tensor, of_item: Tensor, n_columns: int) -> Tensor:
        """[n, C + 1]: the rows of the table of n items, at C columns; the last one holds what is at no column."""
        rows = self.table.take_rows(items)
        dense = torch.zeros(len(items), n_columns + 1, device=items.device)
        dense[rows.rows, of_item[rows.indices]] = rows.values(torch.float32)
        return dense


def _values_at(table: Csr, rows: Tensor, columns: Tensor) -> Tensor:
    """[K]: the entries of a matrix at K places, 0 where there is none."""
    entries = table.entries_at(rows, columns)
    return torch.where(entries >= 0, table.values(torch.float32)[entries.clamp(min=0)], 0)
