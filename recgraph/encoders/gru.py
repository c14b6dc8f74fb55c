"""The GRU encoder of GRU4Rec."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from recgraph.config import Search
from recgraph.encoders.base import SequenceEncoder
from recgraph.rng import dropout
from recgraph.sparse.device import to_device
from recgraph.sparse.ragged import Ragged
from recgraph.sparse.rows import lookup


class GRU(SequenceEncoder):
    """Gated recurrent units over the sequence, then a linear layer (RecBole's form).

    Source: Tan et al., Improved Recurrent Neural Networks for Session-based Recommendations (2016).
    A masked item is a step with the embedding of token 0. Nothing is computed for padding.

    Args:
        hidden_dim, max_len, dropout: as of every encoder; dropout is of the embeddings.
        n_layers: stacked GRU layers.
        inner_dim: width of the GRU's state.
    """

    pads_to_any_length = False  # the steps of a graph are written out

    def __init__(
        self,
        hidden_dim: int,
        max_len: int,
        dropout: float,
        n_layers: Annotated[int, Field(ge=1, description="GRU layers"), Search(1, 2)] = 1,
        inner_dim: Annotated[int, Field(ge=1, description="width of the GRU's state")] = 128,
    ) -> None:
        super().__init__(hidden_dim, max_len, dropout)
        self.gru = nn.GRU(hidden_dim, inner_dim, n_layers, bias=False)
        self.dense = nn.Linear(inner_dim, hidden_dim)
        for weight in self.gru.parameters():
            nn.init.xavier_uniform_(weight)

    def _encode(
        self, sequences: Ragged, table: Tensor, generator: torch.Generator | None, last_only: bool
    ) -> Tensor:
        x = dropout(lookup(table, sequences.values), self.dropout, generator)
        # torch's packed layout: time by time, the longest row first
        host = sequences.on_host
        by_length = torch.argsort(host.lengths, descending=True, stable=True)
        rank = torch.argsort(by_length)
        order = torch.argsort(host.positions * host.n_rows + rank[host.rows])
        sizes = torch.bincount(host.positions)
        back = to_device(rank if last_only else torch.argsort(order), x.device)
        order = to_device(order, x.device)
        out, state = self.gru(PackedSequence(x.index_select(0, order), sizes))
        if last_only:
            return self.dense(state[-1].index_select(0, back))  # type: ignore[no-any-return]
        return self.dense(out.data.index_select(0, back))  # type: ignore[no-any-return]

    def padded(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        x = state = inputs
        for layer in range(self.gru.num_layers):
            states = self._steps(x, lengths, *self.gru.all_weights[layer])
            x, state = torch.stack(states, 1), states[-1]
        return self.dense(state)  # type: ignore[no-any-return]

    def _steps(
        self, x: Tensor, lengths: Tensor, of_input: Tensor, of_state: Tensor
    ) -> list[Tensor]:
        """The state [B, H] after each step of rows [B, L, D]; behind the end of a row its last
        one.
        """
        inputs = F.linear(x, of_input)
        state = inputs.new_zeros(x.shape[0], self.gru.hidden_size)
        states = []
        for step in range(x.shape[1]):
            reset_in, update_in, new_in = inputs[:, step].chunk(3, 1)
            reset_at, update_at, new_at = F.linear(state, of_state).chunk(3, 1)
            update = torch.sigmoid(update_in + update_at)
            new = torch.tanh(new_in + torch.sigmoid(reset_in + reset_at) * new_at)
            state = torch.where(lengths[:, None] > step, (1 - update) * new + update * state, state)
            states.append(state)
        return states
