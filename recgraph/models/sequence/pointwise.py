"""Sequence models whose attention is no softmax: HSTU and FuXi-alpha."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from recgraph import encoders
from recgraph.config import PartConfig, Search
from recgraph.models.sequence.base import SequenceConfig, SequenceModel
from recgraph.registry import part


class HSTUConfig(SequenceConfig):
    encoder: Annotated[PartConfig, part("encoder"), Field(description="of sequences")] = encoders.HSTU()
    dropout: Annotated[float, Field(ge=0, lt=1, description="of embeddings and layers"), Search(0.0, 0.7, step=0.1)] = (
        0.2
    )


class HSTU(SequenceModel):
    """Hierarchical sequential transduction units: attention that adds up instead of sharing out.

    With ``[U, V, Q, K] = silu(LN(x) W)``, a layer is ``x <- x + W2 (LN(A V) * U) + b``, where
    ``A_ij = silu(q_i . k_j + p_(i - j)) / max_len`` for j up to i and p a bias of distances that each layer learns.
    There is no softmax, so that how often something occurred is not divided away, and no feed-forward part.

    Source: Zhai et al., Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
    Recommendations (ICML 2024), section 3.2; layers, heads, dropout and initial values as in the published code for
    MovieLens. Departures: a LayerNorm of the states and plain products with item vectors
    (published: cosines, divided by .05); full softmax by default (published: 128 sampled negatives,
    ``loss="sampled_softmax"``). With ``encoder={"time_bias": true}`` the scores have a learned bias of the time
    between the items of both places too, by the published logarithmic buckets and one for unknown times; without, as by
    default, they have none. The published code counts from the time of the item that is to be predicted, which a query
    does not know.
    """

    Config = HSTUConfig


class FuXiAlphaConfig(HSTUConfig):
    encoder: Annotated[PartConfig, part("encoder"), Field(description="of sequences")] = encoders.FuXi()


class FuXiAlpha(SequenceModel):
    """HSTU with positions as a channel of their own beside the items, and a feed-forward part of two stages.

    With ``[U, V, Q, K] = silu(RMS(x) W)``, the channels of a place are ``sum_j p_(i - j) v_j`` and
    ``sum_j silu(q_i . k_j) v_j / max_len`` over j up to i, p learned in each layer. Side by side they are normed, gated
    by U, mixed and added to x: ``o = W0 (RMS(channels) * U) + b + x``; then
    ``x <- o + W2 (silu(W1 RMS(o)) * W3 RMS(o))``.

    Source: Ye et al., FuXi-alpha: Scaling Recommendation Model with Feature Interaction Enhanced Transformer (WWW
    2025), with the layers, heads, dropout and initial values of the published code for MovieLens. Departures: as of
    :class:`HSTU`; the third channel, ``sum_j t_(i, j) v_j`` of times, is there with ``time_bias`` alone.
    """

    Config = FuXiAlphaConfig
