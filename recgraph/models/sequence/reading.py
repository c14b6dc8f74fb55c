"""What a sequence model reads of a history: its last items, in order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recgraph.data.samples import Query
from recgraph.models.reading import AttentionForm, Baseline, HistoryReading, replaced
from recgraph.rows import lookup
from recgraph.sparse.ragged import Ragged

__all__ = ["SequenceReading"]


class SequenceReading(HistoryReading):
    """The last ``max_len`` events of a history, as a :class:`recgraph.models.sequence.base.SequenceModel` reads them.

    An event that is left out leaves no gap: those behind it move up by one place, and none that is older than the last
    ``max_len`` comes in. A variant without events is read as one masked item, as a user of whom nothing is known. With
    ``time_gaps`` the gap before an event is counted from the one that is left before it. Items that repeat are events
    of their own.

    The inputs are the vectors of the tokens, with those of their time gaps; padding is the vector of token 0, and the
    places keep their position.
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
        n_before = 1 if self.query.times is not None and self.n_unread else 0
        if n_before:  # the one before the window: the gap before the first event that is read begins with it
            before = self.query.history.values[self.n_unread - 1 : self.n_unread]
            rows = torch.cat([before.expand(len(rows), 1), rows], 1)
            keep_mask = torch.cat([keep_mask.new_ones(len(rows), 1), keep_mask], 1)
        lengths = keep_mask.sum(1)
        times = None
        if self.query.times is not None:
            own = self.query.times.values[self.n_unread - n_before :]
            times = Ragged.from_lengths(own.expand_as(rows)[keep_mask], lengths)
        tokens = self.model.tokens_of(Ragged.from_lengths(rows[keep_mask], lengths), times)
        if n_before:
            tokens = tokens.filter(tokens.positions > 0)
        vectors: Tensor = self.model.encode_tokens(tokens)
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
        pairs = self.model.tokens_of(self.query.history, self.query.times).last(len(self.items))
        gaps: Tensor = self.model.gap_embedding(pairs.values[:, 1])
        return vectors + gaps

    def baseline(self, kind: Baseline) -> Tensor:
        table: Tensor = self.model.token_table()
        vector = table[0] if kind == "padding" else table[1:].mean(0)
        return vector.expand(len(self.items), -1)

    def of_inputs(self, inputs: Tensor) -> Tensor:
        n_rows, length, width = inputs.shape
        # each place is a token of its own; one that stands behind them may be a masked item
        tokens = torch.arange(1, n_rows * length + 1)
        lengths = torch.full((n_rows,), length)
        table = torch.cat([self._masked(), inputs.reshape(-1, width)])
        rows = self.model.closed(Ragged.from_lengths(tokens, lengths)).mirrored(inputs.device)
        # the derivative of a recurrent layer by cuDNN exists in training mode alone
        with torch.backends.cudnn.flags(enabled=False):
            states: Tensor = self.model.encoder(rows, table)
        return states

    def attention(self, form: AttentionForm) -> Tensor:
        """[H]: of the last place, heads averaged. Where that is a masked item, its own share is left out.

        ``rollout`` multiplies ``(A + I) / 2`` of all layers, so that the residual connections count (Abnar and Zuidema,
        Quantifying Attention Flow in Transformers, ACL 2020, section 3); ``last_layer`` is A of the last one, whose
        places hold more than their own items. Neither sees the values that are attended to, the feed-forward parts, a
        filter (BSARec) or how far a gate is open (eSASRec).
        """
        inputs = self.inputs()
        ends_masked = self.model.encoder.ends_masked
        if ends_masked:
            inputs = torch.cat([inputs, self._masked()])
        maps: list[Tensor] = [layer[0].mean(0) for layer in self.model.encoder.attention(inputs[None])]
        found = maps[-1][-1]
        if form == "rollout":
            flow = torch.eye(len(inputs), dtype=found.dtype, device=found.device)
            for one in maps:
                flow = (one + torch.eye(len(one), dtype=one.dtype, device=one.device)) / 2 @ flow
            found = flow[-1]
        if ends_masked:
            found = found[:-1] / found[:-1].sum()
        return found

    def _masked(self) -> Tensor:
        """[1, D]: of token 0."""
        table: Tensor = self.model.token_table()
        return table[:1].detach()
