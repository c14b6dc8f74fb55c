"""The sequence model trained by masked items: BERT4Rec."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from recgraph import encoders
from recgraph.config import PartConfig, Search
from recgraph.data.batches import ClozeBatches, SequenceBatches
from recgraph.data.part import Part
from recgraph.models.sequence.base import SequenceConfig, SequenceModel
from recgraph.registry import part
from recgraph.rng import Generators


class BERT4RecConfig(SequenceConfig):
    encoder: Annotated[PartConfig, part("encoder"), Field(description="of sequences")] = (
        encoders.BidirectionalTransformer(attention_dropout=0.2)
    )
    dropout: Annotated[float, Field(ge=0, lt=1, description="of embeddings and layers"), Search(0.0, 0.7, step=0.1)] = (
        0.2
    )
    # a regime that no other model has
    regime: Annotated[
        Literal["cloze"], Field(description="training samples: every sequence, some of its items masked")
    ] = "cloze"  # type: ignore[assignment]
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


class BERT4Rec(SequenceModel):
    """A transformer that sees both sides of each place, trained to fill in masked items (the cloze task).

    Of a sequence ``s`` with masked places ``M`` the loss is ``-1/|M| sum_(m in M) log P(s_m | s with M masked)``, the
    mean over all masked places of a batch. ``P`` is the softmax of ``h_m . e_j`` over the items and the mask, and
    ``h_m = LN(gelu(W x_m + b))`` of the last layer's output ``x``. ``mask_ratio`` of the items of a sample are masked;
    of a share of the samples (``last_share``) the last one alone, as in ranking: a history is read with a masked item
    behind it, whose state ranks. The mask's vector is learned, as the row of the table before the items'. A history
    of more than ``max_len + 1`` items gives several samples that overlap (``window_step``).

    Source: Sun et al., BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from
    Transformer (CIKM 2019), with the output layer, masks and windows of the published code, as it sets them for
    MovieLens-1M: .2 of the items, one sample of eleven with the last item masked, windows half their length apart,
    dropout .2 (for Beauty: .6 of the items, dropout .5).
    Departures: masks are drawn anew each epoch (published: ten draws, written once); scores have no bias for each
    item; Adam as of all models, without decay of rate or weights unless set (``schedule="linear"``,
    ``weight_decay``); ``max_len`` does not count the mask. With few targets a sequence it needs more epochs than
    SASRec, and a larger ``patience``.
    """

    Config = BERT4RecConfig

    def batches(self, train: Part, batch_size: int, generators: Generators) -> SequenceBatches:
        self.setup(train)
        config = self.config
        return ClozeBatches(
            train,
            batch_size=batch_size,
            max_len=config.max_len,
            generators=generators,
            mask_ratio=config.mask_ratio,
            last_share=config.last_share,
            window_step=self.window_items,
            gaps=config.time_gaps,
        )
