"""The sequence model trained by masked items: BERT4Rec."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from recgraph.config import Search
from recgraph.data.batches import SequenceBatches
from recgraph.data.cloze import ClozeBatches
from recgraph.data.part import Part
from recgraph.models.sequence.base import SequenceModel
from recgraph.models.sequence.config import EncoderName, TransformerConfig
from recgraph.rng import Generators


class BERT4RecConfig(TransformerConfig):
    encoder: EncoderName = "bidirectional_transformer"
    regime: Annotated[
        Literal["cloze"], Field(description="training samples: every sequence, some of its items masked")
    ] = "cloze"
    mask_ratio: Annotated[
        float,
        Field(gt=0, lt=1, description="share of a sequence's items that are masked, at least one"),
        Search(0.1, 0.8, step=0.1),
    ] = 0.2
    last_share: Annotated[
        float,
        Field(ge=0, le=1, description="share of the samples of which the last item alone is masked"),
        Search(0.0, 0.5, step=0.1),
    ] = 0.1
    window_step: Annotated[
        int | None,
        Field(ge=1, description="items between the samples of a history longer than max_len; None: its last items"),
    ] = None


class BERT4Rec(SequenceModel):
    """x."""

    Config = BERT4RecConfig

    def batches(self, train: Part, batch_size: int, generators: Generators) -> SequenceBatches:
        self.setup(train)
        config = self.config
        return ClozeBatches(
            train,
            batch_size,
            config.max_len,
            generators,
            mask_ratio=config.mask_ratio,
            last_share=config.last_share,
            window_step=config.window_step,
            gaps=config.time_gaps,
        )
