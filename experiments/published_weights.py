"""Weights of RecBole's SASRec family, the published MCLRec among them, for our models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

from recgraph.config import merged
from recgraph.models.base import Space
from recgraph.models.sequence.base import SequenceModel

M = TypeVar("M", bound=SequenceModel)


def load_published(
    cls: type[M], state: Mapping[str, Tensor], n_heads: int, n_users: int = 0, **settings: object
) -> M:
    """A model with published weights, in their precision and in evaluation mode.

    Args:
        cls: ``SASRec``, ``MCLRec`` or another model on the transformer.
        state: a RecBole-style state dict, with or without the prefix ``model.``.
            ``item_embedding.weight`` has a row for padding, one for each item and one that is never
            used. Augmenters are ``aug1.*`` and ``aug2.*``.
        n_heads: attention heads, which the weights do not tell.
        n_users: of the data set.
        settings: further settings of the model.

    Raises:
        ValueError: an entry is missing.
    """
    state = {name.removeprefix("model."): value for name, value in state.items()}
    try:
        table, places = state["item_embedding.weight"], state["position_embedding.weight"]
        inner = state["trm_encoder.layer.0.feed_forward.dense_1.weight"].shape[0]
    except KeyError as error:
        raise ValueError(
            f"state has no entry {error}; it is not that of a RecBole-style transformer"
        ) from None
    layers = {
        int(found[1]) for name in state if (found := re.match(r"trm_encoder\.layer\.(\d+)\.", name))
    }
    shape = {
        "hidden_dim": table.shape[1],
        "max_len": places.shape[0],
        "encoder": {"n_layers": len(layers), "n_heads": n_heads, "inner_dim": inner},
    }
    model = (
        cls(**merged(settings, shape))
        .build(Space(n_users=n_users, n_items=table.shape[0] - 2))
        .to(table.dtype)
    )
    model.item_embedding.weight.data.copy_(table[:-1])
    model.encoder.load_state_dict(encoder_weights(state))
    for index, augmenter in enumerate(getattr(model, "augmenters", ())):
        prefix = f"aug{index + 1}."
        own = {
            name.removeprefix(prefix): value
            for name, value in state.items()
            if name.startswith(prefix)
        }
        if own:
            augmenter.load_state_dict(own)
    return model.eval()


_NAMES = [
    (r"^LayerNorm\.", "norm."),
    (r"^trm_encoder\.layer\.(\d+)\.multi_head_attention\.dense\.", r"layers.\1.out."),
    (
        r"^trm_encoder\.layer\.(\d+)\.multi_head_attention\.LayerNorm\.",
        r"layers.\1.attention_norm.",
    ),
    (r"^trm_encoder\.layer\.(\d+)\.feed_forward\.dense_1\.", r"layers.\1.up."),
    (r"^trm_encoder\.layer\.(\d+)\.feed_forward\.dense_2\.", r"layers.\1.down."),
    (r"^trm_encoder\.layer\.(\d+)\.feed_forward\.LayerNorm\.", r"layers.\1.norm."),
]


def encoder_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's weights from a RecBole-style state dict (names from ``LayerNorm`` to
    ``trm_encoder.layer.N...``).

    Other entries (the item embedding, augmenters) are left out.
    """
    renamed: dict[str, Tensor] = {}
    fused: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        part = re.match(
            r"^trm_encoder\.layer\.(\d+)\.multi_head_attention\.(query|key|value)\.(\w+)$", name
        )
        if part:
            fused.setdefault(f"layers.{part[1]}.qkv.{part[3]}", {})[part[2]] = value
        elif name.startswith("position_embedding."):
            renamed[name] = value
        else:
            for pattern, target in _NAMES:
                if re.match(pattern, name):
                    renamed[re.sub(pattern, target, name)] = value
    for name, parts in fused.items():
        renamed[name] = torch.cat([parts["query"], parts["key"], parts["value"]])
    return renamed
