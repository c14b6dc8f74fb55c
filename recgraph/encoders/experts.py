"""A transformer whose feed-forward parts are mixtures of experts: each place is given to one of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recgraph.accelerated import full_precision, is_accelerated
from recgraph.config import ConfigError
from recgraph.encoders.attention import Layout
from recgraph.encoders.base import SequenceEncoder
from recgraph.encoders.transformer import Layer, Transformer, draw_weights
from recgraph.rng import dropout

__all__ = ["ExpertTransformer", "Experts", "assign_categories", "balance"]

Routing = Literal["learned", "category"]


class Experts(nn.Module):
    """E feed-forward networks, ``down_e gelu(up_e x)``, of which each row takes one.

    On the host rows are sorted by expert and each expert is two products over its own rows. An accelerator, which would
    wait for the number of rows of each expert, computes all experts for all rows, and keeps one.

    Args:
        n_experts: E.
        dim: D, of rows.
        inner_dim: of the layer between.
    """

    def __init__(self, n_experts: int, dim: int, inner_dim: int) -> None:
        super().__init__()
        self.up = nn.Parameter(draw_weights(torch.empty(n_experts, inner_dim, dim)))
        self.up_bias = nn.Parameter(torch.zeros(n_experts, inner_dim))
        self.down = nn.Parameter(draw_weights(torch.empty(n_experts, dim, inner_dim)))
        self.down_bias = nn.Parameter(torch.zeros(n_experts, dim))

    def forward(self, x: Tensor, route: Tensor) -> Tensor:
        """[N, D] -> [N, D]: of each row the output of its expert.

        Args:
            route: [N] int64, the expert of each row.
        """
        if is_accelerated(x):
            return self.dense(x, route)
        order = torch.argsort(route, stable=True)
        counts = torch.bincount(route, minlength=len(self.up)).tolist()
        parts = [
            self._one(expert, rows)
            for expert, rows in enumerate(torch.split(x.index_select(0, order), counts))
            if len(rows)
        ]
        return torch.cat(parts).index_select(0, torch.argsort(order)) if parts else x

    def dense(self, x: Tensor, route: Tensor) -> Tensor:
        """The same, E times the work: shapes follow from those of the arguments alone."""
        every = torch.stack([self._one(expert, x) for expert in range(len(self.up))])
        index = route[None, :, None].expand(1, -1, x.shape[1])
        return every.gather(0, index)[0]

    def _one(self, expert: int, x: Tensor) -> Tensor:
        inner = F.gelu(F.linear(x, self.up[expert], self.up_bias[expert]))
        return F.linear(inner, self.down[expert], self.down_bias[expert])


class ExpertLayer(Layer):
    """``x <- LN(x + attention(x))``, then ``x <- LN(x + p_e expert_e(x))``, e the expert of the place."""

    expert_of: Tensor

    def set_experts(self, n_experts: int, routing: Routing, n_tokens: int) -> None:
        """See :class:`ExpertTransformer`."""
        inner_dim, dim = self.up.weight.shape
        del self.up, self.down
        self.experts = Experts(n_experts, dim, inner_dim)
        self.router = nn.Linear(dim, n_experts, bias=False) if routing == "learned" else None
        if self.router is not None:
            draw_weights(self.router.weight)
        self.register_buffer("expert_of", torch.zeros(n_tokens, dtype=torch.int64))
        #: the balance of each call in training mode since :meth:`ExpertTransformer.begin`
        self.balances: list[Tensor] = []

    def forward(self, x: Tensor, layout: Layout, generator: torch.Generator | None) -> Tensor:
        mixed = self._after_attention(x, self._attend(x, layout, generator), generator)
        return self._mixture(mixed, layout.tokens, generator)

    def last(self, x: Tensor, layout: Layout, generator: torch.Generator | None) -> Tensor:
        of_last = x.index_select(0, layout.last)
        mixed = self._after_attention(of_last, self._attend_last(x, of_last, layout, generator), generator)
        return self._mixture(mixed, layout.tokens.index_select(0, layout.last), generator)

    def padded(self, x: Tensor, keep_mask: Tensor) -> Tensor:
        assert self.router is not None  # the encoder reads no tokens
        mixed = self._after_attention(x, self._attend_padded(x), None).flatten(0, 1)
        gate, route = self._probabilities(mixed).max(1)
        out = self.norm(mixed + self.experts.dense(mixed, route) * gate[:, None])
        return cast("Tensor", out).view_as(x)

    def _probabilities(self, x: Tensor) -> Tensor:
        """[N, E] float32 or wider: roundings of half precision would change the choice."""
        assert self.router is not None
        work = torch.promote_types(x.dtype, torch.float32)
        with full_precision(x):
            return torch.softmax(F.linear(x.to(work), self.router.weight.to(work)), 1)

    def _mixture(self, x: Tensor, tokens: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.router is None:
            out = self.experts(x, self.expert_of[tokens])
        else:
            probabilities = self._probabilities(x)
            gate, route = probabilities.max(1)
            if self.training and torch.is_grad_enabled():
                self.balances.append(balance(probabilities, route, tokens != 0))
            out = self.experts(x, route) * gate.to(x.dtype)[:, None]
        normed: Tensor = self.norm(x + dropout(out, self.dropout, generator))
        return normed


def balance(probabilities: Tensor, route: Tensor, counted_mask: Tensor) -> Tensor:
    """``E sum_e f_e P_e``: f the share of the places that go to an expert, P its mean probability; 1 where balanced.

    Args:
        probabilities: [N, E].
        route: [N] int64.
        counted_mask: [N], the places that count: no masked items and no padding.
    """
    n_experts = probabilities.shape[1]
    counted = counted_mask.to(probabilities.dtype)
    total = counted.sum().clamp(min=1)
    shares = counted.new_zeros(n_experts).index_add(0, route, counted) / total
    return n_experts * (shares * (counted @ probabilities / total)).sum()


def assign_categories(
    categories: Tensor, counts: Tensor, n_experts: int, kept: Mapping[int, int] | None = None
) -> Tensor:
    """[C + 1] int64: the expert of each category, the last entry that of items without one.

    The category of most interactions goes first, each to the expert of the fewest so far.

    Args:
        categories: [n_items] int64, 0 ... C - 1, -1 for none.
        counts: [n_items], interactions in training.
        kept: category -> the expert that it has already.
    """
    n_categories = int(categories.max()) + 1 if categories.numel() else 0
    places = torch.where(categories < 0, n_categories, categories)
    masses = torch.zeros(n_categories + 1, dtype=torch.float64, device=counts.device)
    masses.index_add_(0, places, counts.to(torch.float64))
    loads, experts = [0.0] * n_experts, torch.zeros(n_categories + 1, dtype=torch.int64)
    sizes = masses.tolist()
    given = {n_categories if category < 0 else category: expert for category, expert in (kept or {}).items()}
    for category in sorted(range(n_categories + 1), key=lambda one: (one not in given, -sizes[one], one)):
        experts[category] = expert = given.get(category, loads.index(min(loads)))
        loads[expert] += sizes[category]
    return experts.to(categories.device)


class ExpertTransformer(Transformer):
    """As :class:`Transformer`, its feed-forward parts mixtures of ``n_experts`` networks; each place takes one of them.

    ``routing="category"``: enforced, the expert of the item's category; categories are shared out over experts so that
    each has about as many interactions (:func:`assign_categories`), and the output counts in full. An update keeps the
    expert of each category. ``"learned"``: the
    expert of the greatest ``p = softmax(W x)``, its output times ``p_e``; ``balance`` times the mean over layers of
    ``E sum_e f_e P_e`` is then added to the model's terms.

    Source: enforced routing: Hallee et al., Contrastive Learning and Mixture of Experts Enables Precise Vector
    Embeddings in Biological Databases (2024), where a token names the domain of a text; top-1 routing and balance:
    Fedus, Zoph and Shazeer, Switch Transformers (JMLR 2022). Departures: experts begin at draws of
    their own (in the first paper as copies of a trained network), the domain is each item's and not the sequence's, no
    expert has a capacity, and the router sees no noise. Texts and their special tokens do not carry over.

    Args:
        n_experts: E.
        routing: see above.
        balance: coefficient of the load balance.
        n_tokens: tokens that there are, which the model knows; needed where categories route.

    Raises:
        ValueError: ``n_heads`` does not divide ``hidden_dim``, a number is out of range, or there is no such routing.
    """

    layer_class = ExpertLayer

    def __init__(
        self,
        hidden_dim: int = 64,
        max_len: int = 50,
        dropout: float = 0.5,
        n_layers: int = 2,
        n_heads: int = 2,
        inner_dim: int = 256,
        attention_dropout: float = 0.5,
        n_experts: int = 4,
        routing: Routing = "learned",
        balance: float = 0.01,
        n_tokens: int = 0,
    ) -> None:
        super().__init__(hidden_dim, max_len, dropout, n_layers, n_heads, inner_dim, attention_dropout)
        if n_experts < 1:
            raise ConfigError(f"n_experts = {n_experts} must be at least 1")
        if not 0 <= balance < math.inf:
            raise ConfigError(f"balance = {balance} must be at least 0")
        if routing not in get_args(Routing):
            raise ConfigError(f"routing = {routing!r} must be one of {', '.join(get_args(Routing))}")
        self.n_experts, self.routing = n_experts, routing
        self.penalty_weight = balance if routing == "learned" else 0.0
        self._kept: dict[int, int] = {}
        for layer in self._layers:
            layer.set_experts(n_experts, routing, n_tokens if routing == "category" else 0)

    @property
    def _layers(self) -> list[ExpertLayer]:
        return cast("list[ExpertLayer]", list(self.layers))

    @property
    def reads_tokens(self) -> bool:
        return self.routing == "category"

    def go_on_from(self, smaller: SequenceEncoder, categories: Tensor | None) -> None:
        assert isinstance(smaller, ExpertTransformer)
        if self.routing == "category" and categories is not None:
            # the weights of an expert are of the categories that it has learnt
            of_none, *of_items = smaller._layers[0].expert_of.tolist()
            self._kept = {-1: of_none, **dict(zip(categories.tolist(), of_items, strict=True))}

    def setup(self, counts: Tensor, categories: Tensor | None) -> None:
        if self.routing != "category":
            return
        if categories is None:
            raise ConfigError(
                "routing = 'category' needs categories of the items: give item_features with a column of that kind, or "
                "use routing='learned'"
            )
        experts = assign_categories(categories, counts, self.n_experts, self._kept)
        of_items = experts[categories]  # -1, no category, is the last entry
        for layer in self._layers:
            layer.expert_of.copy_(torch.cat([experts[-1:], of_items]))

    def begin(self) -> None:
        for layer in self._layers:
            layer.balances.clear()

    def penalty(self) -> Tensor:
        found = [value for layer in self._layers for value in layer.balances]
        self.begin()
        return torch.stack(found).mean() if found else self.position_embedding.weight.new_zeros(())
