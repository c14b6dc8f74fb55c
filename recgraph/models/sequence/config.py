"""Settings that sequence models share."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from recgraph import registry
from recgraph.config import Added, ConfigError, Search
from recgraph.data.item_features import FeatureWish
from recgraph.encoders.base import SequenceEncoder
from recgraph.models.distil import DistilConfig
from recgraph.parts import chosen

__all__ = ["EncoderName", "SequenceConfig", "TransformerConfig", "check_regime"]

#: a setting whose default is another in each model
EncoderName = Annotated[str, Field(description="of sequences, a name of the registry's kind 'encoder'")]


class SequenceConfig(DistilConfig):
    #: settings that the encoder alone reads, and that another one may not have
    of_encoder: ClassVar[tuple[str, ...]] = ()

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

    @model_validator(mode="after")
    def _has_items(self) -> Self:
        if not self.item_id_embedding and not self.item_features:
            raise ValueError("item_id_embedding = False leaves nothing to embed items by; name item_features too")
        return self

    @classmethod
    def given_to(cls, setting: str) -> frozenset[str]:
        of_encoder = (*cls.model_fields, "causal", "n_tokens")
        return super().given_to(setting).union(of_encoder if setting == "encoder" else ())

    def unread(self) -> dict[str, str]:
        found, encoder, loss = super().unread(), chosen("encoder", self.encoder), chosen("loss", self.loss)
        if not self.item_features:
            found["item_id_dropout"] = "without item_features; name some, or leave it out"
        elif not self.item_id_embedding:
            found["item_id_dropout"] = "where item_id_embedding = False; leave it out"
        if not self.item_contrast:
            found["item_contrast_options"] = "without item_contrast; give it a weight, or leave it out"
        if self.item_graph is None:
            of_graph = ("item_contrast", "item_contrast_options")
            found |= dict.fromkeys(of_graph, "without item_graph; name one, or leave it out")
        if encoder is not None and issubclass(encoder, SequenceEncoder):
            others = (name for name in self.of_encoder if name not in registry.settings_of(encoder))
            found |= dict.fromkeys(others, f"with encoder = {self.encoder!r}; leave it out")
        if loss is not None and "n_negatives" not in registry.settings_of(loss):
            found["n_negatives"] = f"with loss = {self.loss!r}, which draws none; leave it out"
        return found


class TransformerConfig(SequenceConfig):
    of_encoder: ClassVar[tuple[str, ...]] = ("n_layers", "n_heads", "inner_dim", "attention_dropout")

    n_layers: Annotated[int, Field(ge=1, description="transformer layers"), Search(1, 4)] = 2
    n_heads: Annotated[
        int, Field(ge=1, description="attention heads; divides hidden_dim"), Search(choices=(1, 2, 4))
    ] = 2
    inner_dim: Annotated[int, Field(ge=1, description="width of the feed-forward part")] = 256
    attention_dropout: Annotated[float, Field(ge=0, lt=1, description="of the attention probabilities")] = 0.5


def check_regime(config: SequenceConfig, ends_masked: bool) -> None:
    """Check that the encoder suits the regime.

    Args:
        ends_masked: whether its places see both sides, and a history is read by a masked item behind it.

    Raises:
        ConfigError: it does not.
    """
    if config.regime == "causal" and ends_masked:
        raise ConfigError(
            f"regime = 'causal' would show encoder = {config.encoder!r} its targets: places see what lies behind them; "
            "use regime='prefix', or the model bert4rec, whose regime masks items"
        )
    if config.regime not in ("prefix", "causal") and not ends_masked:
        raise ConfigError(
            f"regime = {config.regime!r} masks items for an encoder that sees both sides of them, and encoder = "
            f"{config.encoder!r} does not; use encoder='bidirectional_transformer'"
        )
