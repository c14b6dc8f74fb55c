"""Settings that sequence models share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from recgraph.config import Added, Search
from recgraph.data.item_features import FeatureWish
from recgraph.models.base import ModelConfig

#: a setting whose default is another in each model
EncoderName = Annotated[str, Field(description="of sequences, a name of the registry's kind 'encoder'")]


class SequenceConfig(ModelConfig):
    hidden_dim: Annotated[
        int, Field(ge=1, description="width of item vectors and states"), Search(choices=(32, 64, 128, 256))
    ] = 64
    max_len: Annotated[int, Field(ge=1, description="the last items of a history that are read")] = 50
    dropout: Annotated[float, Field(ge=0, lt=1, description="of embeddings and layers"), Search(0.0, 0.7, step=0.1)] = (
        0.5
    )
    regime: Annotated[
        Literal["prefix", "causal"],
        Field(description="training samples: every prefix with its next item, or every sequence with all its targets"),
    ] = "causal"
    loss: Annotated[str, Field(description="recommendation loss, a name of the registry's kind 'loss'")] = (
        "full_softmax"
    )
    n_negatives: Annotated[
        int, Field(ge=1, description="negatives of losses that draw them, a batch or (bce, bpr) a target")
    ] = 512
    loss_options: Annotated[dict[str, Any], Field(default_factory=dict, description="further settings of the loss")]
    encoder: EncoderName = "transformer"
    encoder_options: Annotated[dict[str, Any], Field(default_factory=dict, description="settings that it alone has")]
    item_features: Annotated[
        FeatureWish,
        Field(description="columns of the item features that items are embedded by: names or {name, kind}, or 'all'"),
        Added(),
    ] = ()
    item_id_embedding: Annotated[
        bool, Field(description="with item_features: whether items in training also have vectors of their own"), Added()
    ] = True
    item_id_dropout: Annotated[
        float,
        Field(ge=0, lt=1, description="with item_features: the share of items embedded without these, anew each step"),
        Search(0.0, 0.9, step=0.1),
        Added(),
    ] = 0.0

    time_gaps: Annotated[
        bool,
        Field(description="whether the time since the user's last interaction is an input, beside each item"),
        Added(),
    ] = False
    item_graph: Annotated[
        str | None,
        Field(
            description="adds to the vector of an item what a graph makes of those of all items: a name of the "
            "registry's kind 'item_graph'"
        ),
        Added(),
    ] = None
    item_graph_options: Annotated[dict[str, Any], Field(default_factory=dict, description="settings of it"), Added()]
    item_contrast: Annotated[
        float,
        Field(ge=0, description="weight of the contrast of an item's own vector with its graph's; needs item_graph"),
        Added(),
    ] = 0.0
    item_contrast_options: Annotated[
        dict[str, Any],
        Field(
            default_factory=dict,
            description="settings of that contrast: those of contrastive models, candidates ('batch' or 'all') and "
            "augmenter",
        ),
        Added(),
    ]


class TransformerConfig(SequenceConfig):
    n_layers: Annotated[int, Field(ge=1, description="transformer layers"), Search(1, 4)] = 2
    n_heads: Annotated[
        int, Field(ge=1, description="attention heads; divides hidden_dim"), Search(choices=(1, 2, 4))
    ] = 2
    inner_dim: Annotated[int, Field(ge=1, description="width of the feed-forward part")] = 256
    attention_dropout: Annotated[float, Field(ge=0, lt=1, description="of the attention probabilities")] = 0.5
