"""A transformer whose feed-forward parts are mixtures of experts: each place is given to one of
them.

``recgraph train expert_sasrec --import experiments/ideas/experts.py``; ``routing=category`` needs
``items.features``.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

import recgraph as rg
from recgraph.config import PartConfig
from recgraph.data.batches import SequenceBatch
from recgraph.encoders.attention import Layout, attend
from recgraph.encoders.transformer import Layer, Transformer
from recgraph.models.base import FeatureSpace, Space
from recgraph.models.sequence.base import SequenceConfig
from recgraph.models.sequence.sasrec import SASRec
from recgraph.registry import part, part_class
from recgraph.rng import dropout


class ExpertLayer(Layer):
    """``x <- LN(x + attention(x))``, then ``x <- LN(x + p_e expert_e(x))``, e its expert; all are
    computed.
    """

    def set_experts(self, n_experts: int, expert_of: Tensor | None) -> None:
        """E feed-forward networks ``down_e gelu(up_e x)``, chosen by token, [n_tokens] int64, or by
        a router.
        """
        inner_dim, dim = self.up.weight.shape
        del self.up, self.down
        self.up_e = nn.Parameter(nn.init.normal_(torch.empty(n_experts, inner_dim, dim), 0.0, 0.02))
        self.up_bias = nn.Parameter(torch.zeros(n_experts, inner_dim))
        self.down_e = nn.Parameter(
            nn.init.normal_(torch.empty(n_experts, dim, inner_dim), 0.0, 0.02)
        )
        self.down_bias = nn.Parameter(torch.zeros(n_experts, dim))
        self.router = nn.Linear(dim, n_experts, bias=False) if expert_of is None else None
        self.register_buffer("expert_of", None if expert_of is None else expert_of.clone())
        self.balances: list[Tensor] = []

    def forward(self, x: Tensor, layout: Layout, generator: torch.Generator | None) -> Tensor:
        attended = attend(self.qkv(x), layout, self.n_heads, self.attention_dropout, generator)
        x = self.attention_norm(x + dropout(self.out(attended), self.dropout, generator))
        return self._mixture(x, layout.tokens, generator)

    def last(self, x: Tensor, layout: Layout, generator: torch.Generator | None) -> Tensor:
        of_last = x.index_select(0, layout.last)
        attended = self._attend_last(x, of_last, layout, generator)
        x = self.attention_norm(of_last + dropout(self.out(attended), self.dropout, generator))
        return self._mixture(x, layout.tokens.index_select(0, layout.last), generator)

    def _mixture(self, x: Tensor, tokens: Tensor, generator: torch.Generator | None) -> Tensor:
        inner = F.gelu(torch.einsum("nd,eid->eni", x, self.up_e) + self.up_bias[:, None])
        every = torch.einsum("eni,edi->end", inner, self.down_e) + self.down_bias[:, None]
        if self.router is None:
            route, gate = self.expert_of[tokens], 1.0  # type: ignore[index]
        else:
            p = self.router(x).softmax(1)
            gate, route = p.max(1, keepdim=True)[0], p.argmax(1)  # type: ignore[assignment]
            if self.training and torch.is_grad_enabled():
                self.balances.append(balance(p, route, (tokens != 0).to(p.dtype)))
        out = every.gather(0, route[None, :, None].expand(1, -1, x.shape[1]))[0] * gate
        return self.norm(x + dropout(out, self.dropout, generator))  # type: ignore[no-any-return]


def balance(p: Tensor, route: Tensor, counted: Tensor) -> Tensor:
    """``E sum_e f_e P_e``: f the share of places [N] that go to an expert, P its mean probability;
    1 if balanced.
    """
    total = counted.sum().clamp(min=1)
    shares = counted.new_zeros(p.shape[1]).index_add(0, route, counted) / total
    return p.shape[1] * (shares * (counted @ p / total)).sum()


@rg.register("encoder")
class ExpertTransformer(Transformer):
    """The transformer of :class:`ExpertSASRec`."""

    layer_class = ExpertLayer


class ExpertSASRecConfig(SequenceConfig):
    encoder: Annotated[
        PartConfig, part("encoder"), Field(description="one whose layers have experts")
    ] = part_class("encoder", "expert_transformer")()
    n_experts: Annotated[int, Field(ge=1, description="E")] = 4
    routing: Annotated[
        Literal["learned", "category"], Field(description="by a router, or by the item's category")
    ] = "learned"
    balance: Annotated[
        float, Field(ge=0, description="coefficient of the load balance of learned routing")
    ] = 0.01


@rg.register("model", "expert_sasrec")
class ExpertSASRec(SASRec):
    """SASRec of :class:`ExpertLayer`: a place goes to one of E experts.

    ``routing="category"``: enforced, by the first feature of the place's item; features are dealt
    out to experts in turn, and the output counts in full. ``"learned"``: the expert of the greatest
    ``p = softmax(W x)``, times ``p_e``; ``balance`` times the mean over layers of ``E sum_e f_e
    P_e`` is then added to the loss.

    Source: enforced routing: Hallee et al., Contrastive Learning and Mixture of Experts Enables
    Precise Vector Embeddings in Biological Databases (2024), where a token names the domain of a
    text; top-1 routing and balance: Fedus, Zoph and Shazeer, Switch Transformers (JMLR 2022).
    Departures: experts begin at draws of their own, the domain is each item's and not the
    sequence's, no expert has a capacity, and the router sees no noise.
    """

    Config = ExpertSASRecConfig

    def _build(self, space: Space) -> None:
        super()._build(space)
        expert_of = None
        if self.config.routing == "category":
            assert isinstance(space, FeatureSpace), "items.features must name a column"
            entries = space.features.entries
            first = entries.indices.new_full((space.n_items + 1,), entries.shape[1])
            expert_of = (
                first.scatter_reduce(0, entries.rows + 1, entries.indices, "amin")
                % self.config.n_experts
            )
        for layer in self.encoder.layers:  # type: ignore[union-attr]
            layer.set_experts(self.config.n_experts, expert_of)

    def next_item_loss(self, batch: SequenceBatch, states: Tensor) -> Tensor:
        loss = super().next_item_loss(batch, states)
        found = [layer.balances.pop() for layer in self.encoder.layers if layer.balances]  # type: ignore[union-attr]
        return loss + self.config.balance * torch.stack(found).mean() if found else loss
