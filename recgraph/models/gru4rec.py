"""GRU4Rec."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from recgraph.config import Search
from recgraph.models.base_sequence import EncoderName, SequenceConfig, SequenceModel


class GRU4RecConfig(SequenceConfig):
    encoder: EncoderName = "gru"
    dropout: Annotated[float, Field(ge=0, lt=1, description="of the embeddings"), Search(0.0, 0.7, step=0.1)] = 0.3
    n_layers: Annotated[int, Field(ge=1, description="GRU layers"), Search(1, 2)] = 1
    inner_dim: Annotated[int, Field(ge=1, description="width of the GRU's state")] = 128


class GRU4Rec(SequenceModel):
    """Recurrent sequence model.

    Source: Hidasi et al., Session-based Recommendations with Recurrent Neural Networks (ICLR 2016), in the form of
    Tan et al. (2016) that RecBole implements. Departure: full softmax by default instead of BPR-max over in-batch
    negatives (``loss="bpr", n_negatives=1`` is BPR with one drawn item a target).
    """

    Config = GRU4RecConfig
