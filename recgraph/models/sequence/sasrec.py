"""Models trained by next items alone: SASRec, BSARec, eSASRec, GRU4Rec, HSTU, FuXi-alpha; by masked
ones: BERT4Rec.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from recgraph import encoders, losses
from recgraph.config import PartConfig, Search
from recgraph.data.batches import ClozeBatches, SequenceBatches
from recgraph.data.part import Part
from recgraph.models.sequence.base import SequenceConfig, SequenceModel
from recgraph.registry import part
from recgraph.rng import Generators


class SASRec(SequenceModel):
    """Self-attentive sequential recommendation: a causal transformer over the history.

    Source: Kang and McAuley, Self-Attentive Sequential Recommendation (ICDM 2018). Departures, as
    in RecBole and as recent comparisons advise: post-norm layers with GELU, and the full softmax by
    default (the paper: one negative and binary cross-entropy, here ``loss="bce"``).
    """

    Config = SequenceConfig


class BSARecConfig(SequenceConfig):
    encoder: Annotated[PartConfig, part("encoder"), Field(description="of sequences")] = (
        encoders.BSA()
    )
    regime: Annotated[
        Literal["prefix", "causal"],
        Field(
            description="every prefix with its next item (as published), or whole sequences with a causal filter"
        ),
    ] = "prefix"


class BSARec(SequenceModel):
    """Beyond self-attention: SASRec whose layers mix attention with a filter that rescales high
    frequencies.

    With low[x] the ``c // 2 + 1`` lowest frequencies of the discrete Fourier transform along the
    sequence, a layer is ``x <- FFN(alpha LN(x + low[x] + beta (x - low[x])) + (1 - alpha) LN(x +
    attention(x)))``; beta, the square of a weight that starts at N(0, 1), is learned for each
    column in each layer.

    Source: Shin, Choi, Wi and Park, An Attentive Inductive Bias for Sequential Recommendation
    beyond the Self-Attention (AAAI 2024), section 4, in the variant of the published code: beta a
    vector, full softmax, one sample a prefix; on Beauty alpha .7, c 5, one head, learning rate
    5e-4, batch 256.

    The filter spans the whole sequence, so the state of an inner place knows what comes later. As
    published, training therefore reads the last place of each prefix alone (``regime="prefix"``).
    ``regime="causal"`` is a variant that trains on all places of a sequence at once, several times
    cheaper: the filter's matrix loses its upper triangle, in training and in ranking, so that no
    later item reaches an earlier state. With one layer it is the same function of the last place;
    with more, inner places are filtered without their future.

    Departures: places before the history hold zeros in the filter (published: the LayerNorm of
    their position's embedding), so that scores do not depend on padding; positions are counted from
    the oldest item read (published: so that the newest stands at max_len); the first item of a
    user, which has no history, is no training sample.
    """

    Config = BSARecConfig


class ESASRecConfig(SequenceConfig):
    encoder: Annotated[PartConfig, part("encoder"), Field(description="of sequences")] = (
        encoders.GatedTransformer()
    )
    loss: Annotated[PartConfig, part("loss"), Field(description="of the next item")] = (
        losses.SampledSoftmax(n_negatives=256)
    )


class ESASRec(SequenceModel):
    """Enhanced SASRec: its training objective with LiGR layers and a sampled softmax.

    A layer is ``x <- x + sigmoid(G1 x) attention(LN x); x <- x + sigmoid(G2 x) SwiGLU(LN x)``.

    Source: Tikhonovich et al., eSASRec: Enhancing Transformer-based Recommendations in a Modular
    Fashion (RecSys 2025); the layer is that of Borisyuk et al., From Features to Transformers:
    Redefining Ranking for Scalable Impact (2025), as the authors' RecTools writes it. Departures:
    the negatives are shared by the batch and their scores corrected for how often they are drawn
    (``loss={"log_q": false}``: not); positions are counted from the oldest item read; embeddings
    have dropout (published: layers alone, ``encoder={"drops_embeddings": false}``), and Adam's
    second moments decay by .999 (published: ``adam_beta2=0.98``).
    """

    Config = ESASRecConfig


class GRU4RecConfig(SequenceConfig):
    encoder: Annotated[PartConfig, part("encoder"), Field(description="of sequences")] = (
        encoders.GRU()
    )
    dropout: Annotated[
        float, Field(ge=0, lt=1, description="of the embeddings"), Search(0.0, 0.7, step=0.1)
    ] = 0.3


class GRU4Rec(SequenceModel):
    """Recurrent sequence model.

    Source: Hidasi et al., Session-based Recommendations with Recurrent Neural Networks (ICLR 2016),
    in the form of Tan et al. (2016) that RecBole implements. Departure: full softmax by default
    instead of BPR-max over in-batch negatives (``loss="bpr"`` is BPR with one drawn item a target).
    """

    Config = GRU4RecConfig


class HSTUConfig(SequenceConfig):
    encoder: Annotated[PartConfig, part("encoder"), Field(description="of sequences")] = (
        encoders.HSTU()
    )
    dropout: Annotated[
        float, Field(ge=0, lt=1, description="of embeddings and layers"), Search(0.0, 0.7, step=0.1)
    ] = 0.2


class HSTU(SequenceModel):
    """Hierarchical sequential transduction units: attention that adds up instead of sharing out.

    With ``[U, V, Q, K] = silu(LN(x) W)``, a layer is ``x <- x + W2 (LN(A V) * U) + b``, where
    ``A_ij = silu(q_i . k_j + p_(i - j)) / max_len`` for j up to i and p a bias of distances that
    each layer learns. There is no softmax, so that how often something occurred is not divided
    away, and no feed-forward part.

    Source: Zhai et al., Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers
    for Generative Recommendations (ICML 2024), section 3.2; layers, heads, dropout and initial
    values as in the published code for MovieLens. Departures: the full softmax of plain products by
    default (published: of cosines over .05 with 128 uniform negatives a target, here shared by the
    batch: ``loss={"name": "sampled_softmax", "similarity": "cosine", "temperature": 0.05,
    "n_negatives": 128, "log_q": false}``), of states that pass a LayerNorm. With
    ``encoder={"time_bias": true}`` the scores also have the published bias of time, by logarithmic
    buckets of ``t_(i+1) - t_j``: from item j to the event that place i predicts, at last the
    request (``at``; without it the last item's own time); an unknown time has a bucket of its own.
    By default there is no bias of time.
    """

    Config = HSTUConfig


class FuXiAlphaConfig(HSTUConfig):
    encoder: Annotated[PartConfig, part("encoder"), Field(description="of sequences")] = (
        encoders.FuXi()
    )


class FuXiAlpha(SequenceModel):
    """HSTU with positions as a channel of their own beside the items, and a feed-forward part of
    two stages.

    With ``[U, V, Q, K] = silu(RMS(x) W)``, the channels of a place are ``sum_j p_(i - j) v_j`` and
    ``sum_j silu(q_i . k_j) v_j / max_len`` over j up to i, p learned in each layer. Side by side
    they are normed, gated by U, mixed and added to x: ``o = W0 (RMS(channels) * U) + b + x``; then
    ``x <- o + W2 (silu(W1 RMS(o)) * W3 RMS(o))``.

    Source: Ye et al., FuXi-alpha: Scaling Recommendation Model with Feature Interaction Enhanced
    Transformer (WWW 2025), with the layers, heads, dropout and initial values of the published code
    for MovieLens. Departures: as of :class:`HSTU`; the third channel, ``sum_j t_(i, j) v_j`` of
    times, is there with ``time_bias`` alone.
    """

    Config = FuXiAlphaConfig


class BERT4RecConfig(SequenceConfig):
    encoder: Annotated[PartConfig, part("encoder"), Field(description="of sequences")] = (
        encoders.BidirectionalTransformer(attention_dropout=0.2)
    )
    dropout: Annotated[
        float, Field(ge=0, lt=1, description="of embeddings and layers"), Search(0.0, 0.7, step=0.1)
    ] = 0.2
    # a regime that no other model has
    regime: Annotated[
        Literal["cloze"],
        Field(description="training samples: every sequence, some of its items masked"),
    ] = "cloze"  # type: ignore[assignment]
    mask_ratio: Annotated[
        float,
        Field(gt=0, lt=1, description="share of a sequence's items that are masked, at least one"),
        Search(0.1, 0.8, step=0.1),
    ] = 0.2
    last_share: Annotated[
        float,
        Field(
            ge=0, le=1, description="share of the samples of which the last item alone is masked"
        ),
        Search(0.0, 0.5, step=0.1),
    ] = 0.1


class BERT4Rec(SequenceModel):
    """A transformer that sees both sides of each place, trained to fill in masked items (the cloze
    task).

    Of a sequence ``s`` with masked places ``M`` the loss is ``-1/|M| sum_(m in M) log P(s_m | s
    with M masked)``, the mean over all masked places of a batch. ``P`` is the softmax of ``h_m .
    e_j`` over the items and the mask, and ``h_m = LN(gelu(W x_m + b))`` of the last layer's output
    ``x``. ``mask_ratio`` of the items of a sample are masked; of a share of the samples
    (``last_share``) the last one alone, as in ranking: a history is read with a masked item behind
    it, whose state ranks. The mask's vector is learned, as the row of the table before the items'.
    A history of more than ``max_len + 1`` items gives several samples that overlap
    (``window_step``).

    Source: Sun et al., BERT4Rec: Sequential Recommendation with Bidirectional Encoder
    Representations from Transformer (CIKM 2019), with the output layer, masks and windows of the
    published code, as it sets them for MovieLens-1M: .2 of the items, one sample of eleven with the
    last item masked, windows half their length apart, dropout .2 (for Beauty: .6 of the items,
    dropout .5). Departures: masks are drawn anew each epoch (published: ten draws, written once);
    scores have no bias for each item; Adam as of all models, without decay of rate or weights
    unless set (``schedule="linear"``, ``weight_decay``); ``max_len`` does not count the mask. With
    few targets a sequence it needs more epochs than SASRec, and a larger ``patience``.
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
