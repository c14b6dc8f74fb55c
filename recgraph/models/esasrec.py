"""eSASRec."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from recgraph.models.base_sequence import EncoderName, SequenceModel, TransformerConfig


class ESASRecConfig(TransformerConfig):
    encoder: EncoderName = "gated_transformer"
    loss: Annotated[str, Field(description="recommendation loss, a name of the registry's kind 'loss'")] = (
        "sampled_softmax"
    )
    n_negatives: Annotated[
        int, Field(ge=1, description="negatives of losses that draw them, a batch or (bce, bpr) a target")
    ] = 256


class ESASRec(SequenceModel):
    """Enhanced SASRec: its training objective with LiGR layers and a sampled softmax.

    A layer is ``x <- x + sigmoid(G1 x) attention(LN x); x <- x + sigmoid(G2 x) SwiGLU(LN x)``.

    Source: Tikhonovich et al., eSASRec: Enhancing Transformer-based Recommendations in a Modular Fashion (RecSys 2025);
    the layer is that of Borisyuk et al., From Features to Transformers: Redefining Ranking for Scalable Impact (2025),
    as the authors' RecTools writes it. Departures: the negatives are shared by the batch and their scores corrected for
    how often they are drawn (``loss_options={"log_q": false}``: not); positions are counted from the oldest item read.
    """

    Config = ESASRecConfig
