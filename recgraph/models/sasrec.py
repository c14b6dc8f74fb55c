"""SASRec."""

from __future__ import annotations

from recgraph.models.base_sequence import SequenceModel, TransformerConfig


class SASRec(SequenceModel):
    """Self-attentive sequential recommendation: a causal transformer over the history.

    Source: Kang and McAuley, Self-Attentive Sequential Recommendation (ICDM 2018). Departures, as in RecBole and as
    recent comparisons advise: post-norm layers with GELU, and the full softmax by default (the paper: one negative
    and binary cross-entropy, here ``loss="bce", n_negatives=1``).
    """

    Config = TransformerConfig
