"""HSTU and FuXi-alpha from their equations: row by row, place by place, head by head."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph.encoders.pointwise import FuXiLayer, HSTULayer, PointwiseEncoder

EPS = 1e-6


def of_batch(
    encoder: PointwiseEncoder,
    padded: Tensor,
    lengths: Tensor,
    table: Tensor,
    times: Tensor | None = None,
) -> Tensor:
    """[B, L] tokens (and times, None where unknown) -> [B, L, D] states; zeros behind the ends of
    rows.
    """
    n_rows, length = padded.shape
    rows = []
    for row, end in enumerate(lengths.tolist()):
        states = of_row(
            encoder, padded[row, :end], table, [None] * end if times is None else times[row][:end]
        )
        rows.append(torch.cat([states, states.new_zeros(length - end, states.shape[1])]))
    return torch.stack(rows).view(n_rows, length, -1)


def of_row(
    encoder: PointwiseEncoder, tokens: Tensor, table: Tensor, times: list[int | None]
) -> Tensor:
    items = torch.cat([table[:1].detach(), table[1:]])[tokens]
    x = encoder.hidden_dim**0.5 * items + encoder.position_embedding.weight[: len(tokens)]
    for layer in encoder.layers:
        x = of_layer(layer, x, tokens != 0, times)
    return F.layer_norm(x, x.shape[-1:], encoder.norm.weight, encoder.norm.bias, encoder.norm.eps)


def of_layer(
    layer: HSTULayer | FuXiLayer, x: Tensor, is_item: Tensor, times: list[int | None]
) -> Tensor:
    """The output [L, D] of a layer, place by place and head by head, by the keys that each sees."""
    width = x.shape[1]
    keys, values, queries, gates = F.silu(normed(layer, x) @ layer.kvqu.weight.T).split(
        [width, width, width, layer.kvqu.out_features - 3 * width], 1
    )
    places, attended = torch.arange(len(x)), []
    for place in range(len(x)):
        seen = places[is_item & (places <= place)]
        seen = seen if len(seen) else places[place : place + 1]
        channels = []
        for of_head in places.new_tensor(range(width)).chunk(layer.n_heads):
            biases = [layer.position_bias[place - seen]]
            if layer.time_bias is not None:
                asked = following(times)[place]
                biases.append(layer.time_bias[[bucket(asked, times[key]) for key in seen.tolist()]])
            scores = keys[seen][:, of_head] @ queries[place, of_head]
            scores = scores + sum(biases) if isinstance(layer, HSTULayer) else scores
            shown = values[seen][:, of_head]
            items = (scores * torch.sigmoid(scores) / layer.max_len) @ shown
            channels += (
                [items]
                if isinstance(layer, HSTULayer)
                else [*(bias @ shown for bias in biases), items]
            )
        attended.append(torch.cat(channels))
    mixed = x + (gates * normed(layer, torch.stack(attended))) @ layer.out.weight.T + layer.out.bias
    if isinstance(layer, HSTULayer):
        return mixed
    first, third = (normed(layer, mixed) @ rows.T for rows in layer.up.weight.chunk(2))
    return mixed + (F.silu(first) * third) @ layer.down.weight.T


def following(times: list[int | None]) -> list[int | None]:
    """When each place's next event was; the last place's, of which nothing follows, its own."""
    return [*times[1:], times[-1]]


def bucket(one: int | None, other: int | None) -> int:
    """0: one of both is unknown; else a bucket of the time between, on a logarithmic scale."""
    if one is None or other is None:
        return 0
    return 1 + min(int(math.log(max(abs(one - other), 1)) / 0.301), 128)


def normed(layer: HSTULayer | FuXiLayer, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True) if isinstance(layer, HSTULayer) else x
    return centred / (centred.pow(2).mean(-1, keepdim=True) + EPS).sqrt()
