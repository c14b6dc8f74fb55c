"""How a model reads the history of one user: open to changes, so that its scores can be attributed
to what it reads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recgraph.data.batches import Query, with_gaps
from recgraph.sparse.operators import power
from recgraph.sparse.ragged import Ragged
from recgraph.sparse.rows import lookup


def replaced(items: Tensor, keep_mask: Tensor, instead: Tensor | None) -> Tensor:
    """[V, H] int64: the items of V variants of a history of items [H]."""
    if instead is None:
        return items.expand_as(keep_mask)
    return instead


class Reading:
    """What a model reads of one user's history, as a function that takes variants of it.

    A *variant* keeps some of the H events and may hold other items in their places. A subclass says
    in :meth:`represent` what the model makes of it, its parameters and all else as they were
    fitted; the variant that keeps everything has the scores that the model ranks by. Made and asked
    in evaluation mode.

    Attributes:
        model: a :class:`recgraph.models.base.Model`.
        items: [H] int64, the items that are read, oldest first, on the model's device.
        n_unread: events of the history that the model does not read: before the last ``max_len``,
            or no edge of its graph.
        attends_paths: whether the scores follow from the attention to meta-paths
            (:func:`path_weights`), in place of :meth:`attention`.
    """

    model: Any
    items: Tensor
    n_unread: int = 0
    attends_paths: bool = False

    @property
    def n_cells(self) -> int:
        """Numbers that a variant takes while it is computed, in the order of magnitude."""
        return len(self.items)

    def represent(self, keep_mask: Tensor, instead: Tensor | None = None) -> Tensor:
        """[V, D]: the user's vector by each variant; [V, n_items] scores of a model without
        vectors.

        Args:
            keep_mask: [V, H] bool, False where an event is left out.
            instead: [V, H] int64, the item in the place of each event; None: those of the history.
        """
        raise TypeError(f"{type(self).__name__} must define represent(keep_mask, instead)")

    def inputs(self) -> Tensor:
        """[H, W]: the vectors by which the events enter, of which :meth:`of_inputs` makes the
        user's vector.

        Raises:
            ValueError: the model reads no vectors.
        """
        raise ValueError(
            f"attribution integrated_gradients: {self.name} reads no item vectors that a path could lead along; use "
            "leave_one_out"
        )

    def baseline(self) -> Tensor:
        """[H, W]: the input in the place of each event before anything is known of it."""
        raise TypeError(f"{type(self).__name__} must define baseline()")

    def of_inputs(self, inputs: Tensor) -> Tensor:
        """[B, D]: the user's vector by inputs [B, H, W], with gradients to these."""
        raise TypeError(f"{type(self).__name__} must define of_inputs(inputs)")

    def attention(self) -> Tensor:
        """[H]: how much the user's vector attends to each event; they sum to 1.

        Raises:
            ValueError: the model has no attention over the history.
        """
        raise ValueError(
            f"attribution attention: {self.name} has no attention over the history; use leave_one_out"
        )

    @property
    def name(self) -> str:
        """Of the model."""
        return type(self.model).__name__


class HistoryReading(Reading):
    """The reading of a model whose scores follow from the query's history: each variant is a
    history of its own.

    Of a model that reads a history as a set (``reads_repeats``) each item counts once, at its last
    occurrence.

    Args:
        model: a :class:`recgraph.models.base.Model`.
        query: one user.

    Raises:
        ValueError: the user has no history.
    """

    def __init__(self, model: Any, query: Query) -> None:
        self.model = model
        items = query.history.values
        if not len(items):
            raise ValueError(f"{self.name}: the user has no history to attribute anything to")
        if not model.reads_repeats:
            query = _select_events(query, last_places(items))
        self.items = query.history.values
        self.query = query

    def represent(self, keep_mask: Tensor, instead: Tensor | None = None) -> Tensor:
        rows = replaced(self.items, keep_mask, instead)
        history = Ragged.from_lengths(rows[keep_mask], keep_mask.sum(1))
        times = None
        if self.query.times is not None:
            times = history.with_values(self.query.times.values.expand_as(rows)[keep_mask])
        variants = Query(self.query.users.expand(len(rows)).clone(), history, times)
        represent = self.model.encode_users if self.model.has_vectors else self.model.score
        vectors: Tensor = represent(variants)
        return vectors


def _select_events(query: Query, places: Tensor) -> Query:
    """The query of one user with the events of its history at some places."""
    lengths = torch.tensor([len(places)], device=places.device)
    times = None
    if query.times is not None:
        times = Ragged.from_lengths(query.times.values[places], lengths)
    return Query(query.users, Ragged.from_lengths(query.history.values[places], lengths), times)


def tokens_of(
    model: Any, history: Ragged, times: Ragged | None, at: Tensor | None = None
) -> Ragged:
    """Rows of tokens of rows of items, or those of :func:`with_gaps` where a sequence model reads
    times.
    """
    tokens = history.with_values(history.values + 1)
    if not model.reads_times or times is None:
        return tokens
    return with_gaps(tokens, times.values, model.encoder.reads_times, at)


class SequenceReading(HistoryReading):
    """The last ``max_len`` events of a history, as a
    :class:`recgraph.models.sequence.base.SequenceModel` reads them.

    An event that is left out leaves no gap: those behind it move up by one place, and none that is
    older than the last ``max_len`` comes in. A variant without events is read as one masked item,
    as a user of whom nothing is known. With ``time_gaps`` the gap before an event is counted from
    the one that is left before it. Items that repeat are events of their own.

    The inputs are the vectors of the tokens, with those of their time gaps; padding is the vector
    of token 0, and the places keep their position.
    """

    def __init__(self, model: Any, query: Query) -> None:
        super().__init__(model, query)
        self.n_unread = max(len(self.items) - model.config.max_len, 0)
        self.items = self.items[self.n_unread :]

    @property
    def n_cells(self) -> int:
        # states, and the weights of pairs of places
        width: int = self.model.config.hidden_dim
        return len(self.items) * max(len(self.items), width)

    def represent(self, keep_mask: Tensor, instead: Tensor | None = None) -> Tensor:
        rows = replaced(self.items, keep_mask, instead)
        # the event before those that are read, if there is one: the gap before the first of these
        # begins with it
        first = max(self.n_unread - 1, 0)
        before = self.query.history.values[first : self.n_unread].expand(len(rows), -1)
        rows = torch.cat([before, rows], 1)
        keep_mask = torch.cat([torch.ones_like(before, dtype=torch.bool), keep_mask], 1)
        history = Ragged.from_lengths(rows[keep_mask], keep_mask.sum(1))
        times = None
        if self.query.times is not None:
            row_times = self.query.times.values[first:].expand_as(rows)
            times = history.with_values(row_times[keep_mask])
        tokens = tokens_of(self.model, history, times)
        tokens = tokens.filter(tokens.positions >= before.shape[1])
        vectors: Tensor = self.model.encode(tokens)
        return vectors

    def inputs(self) -> Tensor:
        if self.model.encoder.reads_times:
            raise ValueError(
                f"attribution: {type(self.model.encoder).__name__} reads times beside vectors (time_bias = True), so "
                "that no vectors stand for a history; use leave_one_out"
            )
        vectors: Tensor = lookup(self.model.token_table(), self.items + 1)
        if self.model.gap_embedding is None or self.query.times is None:
            return vectors
        rows = tokens_of(self.model, self.query.history, self.query.times).last(len(self.items))
        gaps: Tensor = self.model.gap_embedding(rows.values[:, -2:]).sum(1)
        return vectors + gaps

    def baseline(self) -> Tensor:
        return self._masked().expand(len(self.items), -1)

    def of_inputs(self, inputs: Tensor) -> Tensor:
        n_rows, length, width = inputs.shape
        # each place is a token of its own; one that stands behind them may be a masked item
        tokens = torch.arange(1, n_rows * length + 1)
        lengths = torch.full((n_rows,), length)
        table = torch.cat([self._masked(), inputs.reshape(-1, width)])
        rows = self.model.encoder.closed(Ragged.from_lengths(tokens, lengths))
        rows = rows.mirrored(inputs.device)
        # the derivative of a recurrent layer by cuDNN exists in training mode alone
        with torch.backends.cudnn.flags(enabled=False):
            states: Tensor = self.model.encoder(rows, table)
        return states

    def attention(self) -> Tensor:
        """[H]: of the last place, heads averaged. Where that is a masked item, its own share is
        left out.

        The rollout multiplies ``(A + I) / 2`` of all layers, so that the residual connections count
        (Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, section 3). It
        does not see the values that are attended to, the feed-forward parts, a filter (BSARec) or
        how far a gate is open (eSASRec).
        """
        inputs = self.inputs()
        ends_masked = self.model.encoder.ends_masked
        if ends_masked:
            inputs = torch.cat([inputs, self._masked()])
        layers: list[Tensor] = self.model.encoder.attention(inputs[None])
        identity = torch.eye(len(inputs), dtype=layers[0].dtype, device=inputs.device)
        flow = identity
        for weights in layers:
            flow = (weights[0].mean(0) + identity) / 2 @ flow
        if not ends_masked:
            return flow[-1]
        of_items = flow[-1, :-1]
        return of_items / of_items.sum()

    def _masked(self) -> Tensor:
        """[1, D]: of token 0."""
        table: Tensor = self.model.token_table()
        return table[:1].detach()


class EdgeReading(Reading):
    """A user's row of the fitted graph, as LightGCN propagates it.

    **What is computed anew.** The user's row alone: a variant S is the set of its items, and with
    E_k the vectors of all nodes after layer k as they were fitted, d an item's degree and w_k the
    weight of layer k in the mean,

        ``x(S) = w_0 E_0[user] + sum_k w_k sum_{i in S} E_{k-1}[i] / sqrt(|S| d_i)``

    of edges of weight 1; one of weight a counts as a in ``|S|``, in d and in the sum.

    All else stays as it is: learned vectors, degrees of items, the vectors of other nodes and what
    these have heard of the user, and of a recommender by meta-paths the fine views, the user's own
    among them. A graph that is built again without the edge also changes that, at the cost of a
    propagation for each variant.

    Items are those of the training part: an item of the history that came later is no edge, and is
    not read. Each counts once, at its last occurrence. The inputs are what each item sends to the
    user's vector, ``sum_k w_k E_{k-1}[i] / sqrt(H d_i)``: this is a constant and their sum. Padding
    sends nothing.

    Args:
        model: a :class:`recgraph.models.collaborative.lightgcn.LightGCN`.
        attends_paths: see :attr:`Reading.attends_paths`.

    Raises:
        ValueError: the history has not the items that the model was fitted to.
    """

    _own: Tensor
    _sent: Tensor
    _edges: Tensor
    _shares: Tensor

    def __init__(self, model: Any, query: Query, attends_paths: bool = False) -> None:
        self.model, self.attends_paths = model, attends_paths
        (user,) = query.users.tolist()
        edges = model.encoder.edges
        row = edges.indices[edges.indptr[user] : edges.indptr[user + 1]]
        history = query.history.values
        items = history[torch.isin(history, row)]
        self.items = items[last_places(items)]
        self.n_unread = len(history) - len(items)
        if len(self.items) != len(row):
            raise ValueError(
                f"{self.name}: the user's history has {len(self.items)} of the {len(row)} items that the model was "
                "fitted to; give the history that the run was made with"
            )
        layers = model.encoder.layers(model.start())
        weight = 1 / (len(layers) - model.first_layer)
        self._own = (weight if model.first_layer == 0 else 0.0) * layers[0][user : user + 1]
        # what an item would send over an edge to a user with one item
        sent = weight * torch.stack(layers[:-1]).sum(0)[model.encoder.n_users :]
        degrees = edges.t().row_sums().to(sent.dtype)
        weights = edges.values(sent.dtype)[edges.indptr[user] : edges.indptr[user + 1]]
        self._edges = torch.ones_like(degrees).index_copy_(0, row, weights)
        self._shares = (self._edges[self.items] / weights.sum() ** 0.5)[:, None]
        self._sent = sent * power(degrees, -0.5)[:, None]

    def represent(self, keep_mask: Tensor, instead: Tensor | None = None) -> Tensor:
        rows = replaced(self.items, keep_mask, instead)
        items, places = torch.unique(rows[keep_mask], return_inverse=True)
        # an item that stands twice in a variant counts once
        marks = self._sent.new_zeros(len(keep_mask), len(items))
        marks[keep_mask.nonzero()[:, 0], places] = self._edges[items[places]]
        return self._own + power(marks.sum(1), -0.5)[:, None] * (marks @ self._sent[items])

    def inputs(self) -> Tensor:
        return self._sent[self.items] * self._shares

    def baseline(self) -> Tensor:
        return torch.zeros_like(self.inputs())

    def of_inputs(self, inputs: Tensor) -> Tensor:
        return self._own + inputs.sum(1)


def last_places(items: Tensor) -> Tensor:
    """[D] int64: the place of each item's last occurrence, ascending."""
    backwards = items.flip(0)
    values, inverse = torch.unique(backwards, return_inverse=True)
    places = torch.arange(len(backwards), device=items.device)
    first = torch.full_like(values, len(backwards)).scatter_reduce(0, inverse, places, "amin")
    return len(backwards) - 1 - first.sort(descending=True).values
