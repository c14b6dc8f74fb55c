"""Sequence models with a contrastive term: their base, CL4SRec and DuoRec."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from recgraph import augment
from recgraph.augment.sequence import TwoViews
from recgraph.config import PartConfig, Search
from recgraph.contrast.clustering import kmeans, nearest
from recgraph.contrast.prototypes import PrototypeMemory, PrototypeSet, proto_nce, prototypes_of
from recgraph.contrast.regularisers import Alignment, Uniformity
from recgraph.contrast.term import Contrast, ContrastiveTerm
from recgraph.data.batches import Query, SequenceBatch
from recgraph.data.part import Part
from recgraph.models.base import ModelConfig, Phase, Space
from recgraph.models.sequence.base import SequenceConfig, SequenceModel
from recgraph.ranks import WHOLE, Share, gathered
from recgraph.registry import part
from recgraph.sparse.blocks import unit_length
from recgraph.sparse.device import is_accelerated
from recgraph.sparse.ragged import Ragged

# users whose states are made at once
_BLOCK = 1024


class ContrastiveConfig(SequenceConfig):
    augmentations: Annotated[
        tuple[Annotated[PartConfig, part("augmentation")], ...],
        Field(
            description="of sequences, two different ones for each sample; (): the sequence itself twice"
        ),
    ] = (augment.Crop(), augment.Mask(), augment.Reorder())
    contrast: Annotated[Contrast, Field(description="of the views")] = Contrast()
    contrast_of: Annotated[
        Literal["prefix", "sequence"],
        Field(
            description="in the causal regime: views of a prefix of random length, or of the whole sequence"
        ),
    ] = "prefix"
    gather_negatives: Annotated[
        bool,
        Field(
            description="of several processes: contrasts are over the rows of all of them, as in one process; False: "
            "over each one's own rows"
        ),
    ] = True
    intent_weight: Annotated[
        float,
        Field(
            ge=0,
            description="weight of intent, the contrast of the views with the intents of all users",
        ),
    ] = 0.0
    n_intents: Annotated[
        int, Field(ge=1, description="clusters of the users' states, made anew in each epoch")
    ] = 256


class Encoded(NamedTuple):
    """Encoded sequences.

    Attributes:
        last: [B, D], the state after each whole row.
        states: B rows of [D], the state at each place; None where not asked for.
    """

    last: Tensor
    states: Ragged | None = None


class ContrastiveSequenceModel(SequenceModel):
    """Base of contrastive sequence models.

    Terms: ``rec``; ``cl1``, the contrast of two views of each sequence; ``intent``; ``alignment``
    and ``uniformity`` of the views (diagnostics).

    ``intent`` is ProtoNCE of each view, the sum over two: ``mean_i -log(e^{s(h_i, c_i)} / sum_c
    e^{s(h_i, c)})``, s and its temperature those of ``contrast``, c the ``n_intents`` centroids, of
    unit length, of k-means of the directions of all users' states at the epoch's first step, c_i
    the nearest to the view's state h_i. Source: Qin et al., Intent Contrastive Learning with Cross
    Subsequences for Sequential Recommendation (WSDM 2024), the fine-grained part of ICSRec; its
    coarse-grained one is that of :class:`DuoRec`. Departures: clusters of one state a user
    (published: of one a prefix), by inner products; candidates are the centroids, each once
    (published: those of the batch's rows, and the rows).
    """

    Config: ClassVar[type[ModelConfig]] = ContrastiveConfig
    diagnostics: ClassVar[tuple[str, ...]] = ("alignment", "uniformity")
    #: whether the contrast reads the views' states at every place
    needs_states = False

    def _build(self, space: Space) -> None:
        super()._build(space)
        config = self.config
        self._two_views: TwoViews | None = None
        if config.augmentations:
            self.draws_views = True
            self._two_views = TwoViews(
                config.augmentations,
                distinct=len(config.augmentations) > 1,
                max_len=config.max_len,
            )
        self.contrast = ContrastiveTerm(config.contrast, dim=config.hidden_dim)
        self._alignment = Alignment()
        self._uniformity = Uniformity()
        if config.intent_weight:
            self.intent_contrast = ContrastiveTerm(
                objective="info_nce",
                similarity=config.contrast.similarity,
                temperature=config.contrast.temperature,
            )
            self.intents = PrototypeMemory(space.n_users, config.hidden_dim, (config.n_intents,))

    def setup(self, train: Part) -> None:
        super().setup(train)
        if self.config.intent_weight:
            times = None if train.times is None else train.items.with_values(train.times)
            self._users = Query(torch.arange(train.n_users), train.items, times)
            self.intents.forget()
        if self._two_views is not None:
            self._two_views.setup(train)

    def draw_views(self, batch: SequenceBatch) -> list[Ragged]:
        """The views of each sequence, drawn once for all phases of a batch, on the host.

        Without augmentations it is the sequence twice: dropout and what the model does to the
        encoded views tell them apart.
        """
        if self._two_views is None:
            return [batch.contrast, batch.contrast]
        if "views" not in batch.drawn:
            generator = batch.generators.on_host("views")
            if batch.whole is None:
                views = self._two_views(batch.contrast.on_host, generator)
            else:  # drawn for all ranks alike
                assert batch.whole.contrast is not None
                first, second = self._two_views(batch.whole.contrast.on_host, generator)
                share = torch.arange(first.n_rows)[batch.share.rows]
                views = first.take(share), second.take(share)
            batch.drawn["views"] = [view.mirrored(batch.contrast.device) for view in views]
        return batch.drawn["views"]

    def prepare(self, batch: SequenceBatch) -> None:
        if is_accelerated(self.item_embedding.weight):
            super().prepare(batch)
            self.draw_views(batch)

    def encode_together(self, parts: list[Ragged], batch: SequenceBatch) -> list[Encoded]:
        """Several sets of rows, encoded as one batch."""
        if not self.needs_states:
            states = self.encode(Ragged.cat(parts), batch)
            return list(map(Encoded, torch.split(states, [part.n_rows for part in parts])))
        rows = [self.encoder.closed(part) for part in parts]
        states = self.encode(Ragged.cat(rows), batch, last_only=False)
        sizes = [len(view.values) for view in rows]
        encoded = []
        for view, values in zip(rows, torch.split(states, sizes), strict=True):
            last = values.index_select(0, view.offsets[1:] - 1)
            encoded.append(Encoded(last, view.with_values(values)))
        return encoded

    def losses(self, batch: SequenceBatch, wanted: frozenset[str]) -> dict[str, Tensor]:
        if wanted <= {"rec", "items"}:
            return super().losses(batch, wanted)
        terms: dict[str, Tensor] = {}
        views = self.draw_views(batch)
        if "rec" in wanted and not batch.causal:
            # prefixes are read at their last place like views, so that all are encoded as one batch
            prefixes, *encoded = self.encode_together([batch.sequences, *views], batch)
            terms["rec"] = self.next_item_loss(batch, prefixes.last)
        else:
            encoded = self.encode_together(views, batch)
            terms |= super().losses(batch, wanted & {"rec"})
        terms |= self._contrasts_of_ranks(batch, encoded, wanted)
        return terms | super().losses(batch, wanted & {"items"})

    def _contrasts_of_ranks(
        self, batch: SequenceBatch, views: list[Encoded], wanted: frozenset[str]
    ) -> dict[str, Tensor]:
        """:meth:`contrasts` with the views of all ranks, or of this rank alone."""
        share = batch.share
        if share.is_whole:
            return self.contrasts(batch, views, wanted)
        if self.config.gather_negatives:
            return self.contrasts(batch, gathered_views(views, share), wanted)
        targets = batch.contrast_targets[share.rows]
        batch = replace(batch, contrast_targets=targets, share=WHOLE, whole=None)
        terms = self.contrasts(batch, views, wanted)
        # the mean over ranks counts
        return {name: value * share.weight for name, value in terms.items()}

    def contrasts(
        self, batch: SequenceBatch, views: list[Encoded], wanted: frozenset[str]
    ) -> dict[str, Tensor]:
        """The terms that are wanted of the encoded views of :meth:`draw_views`.

        Where several ranks train, each has the views of the whole batch here, unless
        ``gather_negatives`` is False.
        """
        one, two = views[0].last, views[1].last
        terms = {}
        if "cl1" in wanted:
            terms["cl1"] = self.contrast_by(self.contrast, batch, one, two)
        if "intent" in wanted:
            terms["intent"] = self._intent(batch, one) + self._intent(batch, two)
        if "alignment" in wanted:
            terms["alignment"] = self._alignment(one, two)
        if "uniformity" in wanted:
            terms["uniformity"] = self._uniformity(one, two)
        return terms

    def _intent(self, batch: SequenceBatch, states: Tensor) -> Tensor:
        """The contrast of states [B, D] with the intents, each with the nearest as its positive."""
        (intents,) = self.intents.of_epoch(batch.epoch, self._cluster)
        _, assignments, _ = nearest(states.detach(), intents.directions.to(states.dtype))
        return proto_nce(
            self.intent_contrast,
            states,
            [replace(intents, assignments=assignments)],
            concentration=False,
            share=batch.share,
        )

    @torch.no_grad()
    def _cluster(self) -> list[PrototypeSet]:
        """The intents of the users, whose histories are read in evaluation mode."""
        training = self.training
        self.eval()
        states = []
        for start in range(0, len(self._users), _BLOCK):
            query = self._users.rows(start, start + _BLOCK)
            states.append(self.encode_users(query.to(self.item_embedding.weight.device)))
        self.train(training)
        directions = unit_length(torch.cat(states))
        clusters = kmeans(directions, min(self.config.n_intents, len(directions)), restarts=1)
        return prototypes_of([clusters], directions, 1.0)

    def contrast_by(
        self, term: ContrastiveTerm, batch: SequenceBatch, a: Tensor, b: Tensor
    ) -> Tensor:
        """The contrast of two encoded views of a batch; who the rows are, for weights, is their
        target item.

        Where several ranks train, each has the anchors of its share.
        """
        ids = batch.contrast_targets
        generator = term.stream(batch.generators, of_rank=not self.config.gather_negatives)
        loss: Tensor = term(a, b, ids, ids, generator=generator, share=batch.share)
        return loss


def gathered_views(views: list[Encoded], share: Share) -> list[Encoded]:
    """The encoded views of the rows of all ranks, in the order of the batch."""
    last = share.gathered(torch.stack([view.last for view in views], 1)).unbind(1)
    of_all = []
    for rows, view in zip(last, views, strict=True):
        states = view.states
        if states is not None:
            states = _gathered_states(states, share)
        of_all.append(Encoded(rows, states))
    return of_all


def _gathered_states(states: Ragged, share: Share) -> Ragged:
    lengths = gathered(states.lengths, share.sizes)
    sizes = tuple(int(of_rank.sum()) for of_rank in torch.split(lengths, list(share.sizes)))
    rows = Ragged.from_lengths(gathered(states.values, sizes), lengths)
    return rows.take(share.places(states.device))


class CL4SRecConfig(ContrastiveConfig):
    contrast_weight: Annotated[
        float,
        Field(ge=0, description="lambda, weight of the contrastive term"),
        Search(1e-3, 1.0, log=True),
    ] = 0.02


class CL4SRec(ContrastiveSequenceModel):
    """SASRec with the contrast of two stochastic views (crop, mask, reorder) of each sequence.

    Source: Xie et al., Contrastive Learning for Sequential Recommendation (ICDE 2022). Loss: ``rec
    + lambda cl1``; ``cl1`` is the mean over both views of ``-log(e^{s_ip} / sum_{j != i}
    e^{s_ij})``, s inner products of the states after the last place, j the other views of the
    batch.

    Departures: ``rec`` is the full softmax (the paper: a softmax over sampled items,
    ``loss="sampled_softmax"``). The paper contrasts a user's whole sequence once an epoch, as
    ``regime="causal", contrast_of="sequence"`` does; the default is a prefix of random length, and
    in the prefix regime every prefix. The two augmentations of a sequence always differ, each
    changes half of it (the paper searches a ratio for each), and sequences of one item stay whole.
    A masked item is token 0, which attention leaves out, where the paper has a mask token of its
    own that is attended to. The encoder is RecBole's SASRec (see there), and candidates may have
    the anchor's target (``contrast={"weight": "same_target"}`` leaves those out).
    """

    Config = CL4SRecConfig

    @property
    def phases(self) -> tuple[Phase, ...]:
        config = self.config
        terms = {"rec": 1.0, "cl1": config.contrast_weight, "intent": config.intent_weight}
        terms["items"] = config.items.graph_weight
        return (Phase("model", ("model",), terms),)


class DuoRecConfig(ContrastiveConfig):
    unsupervised_weight: Annotated[
        float,
        Field(ge=0, description="of the contrast of two dropout twins; published with 0"),
        Search(choices=(0.0, 0.01, 0.03, 0.1, 0.3, 1.0)),
    ] = 0.0
    supervised_weight: Annotated[
        float,
        Field(
            ge=0,
            description="of the contrast of a dropout twin with a row of the same target; published with 0.1",
        ),
        Search(1e-3, 1.0, log=True),
    ] = 0.02


class DuoRec(ContrastiveSequenceModel):
    """SASRec with the contrast of a sequence, encoded anew under dropout, and another one with the
    same target.

    Source: Qiu et al., Contrastive Learning for Representation Degeneration Problem in Sequential
    Recommendation (WSDM 2022), as the authors run it (``us_x`` of their code). Terms: ``rec``;
    ``sup`` between the sequence as dropout encodes it a second time and another sequence that the
    same item follows, each of which has all of the batch but itself as candidates; ``cl1`` between
    two such encodings of the sequence, which the code offers beside it (``us``:
    ``unsupervised_weight=0.1``). Where no other sequence has the target, the partner is the
    sequence itself. ``augmentations`` are not used: no item is changed. ``contrast={"weight":
    "same_target"}`` leaves rows of the same target out of the candidates, as the paper says and the
    code does not do.

    With that weight and ``intent_weight`` it is ICSRec (on Beauty .3, .1 and 256 intents), whose
    sequence is its own first view; dropout encodes ours anew.

    Departure: in the causal regime the contrasted sequence is a prefix of random length.
    """

    Config = DuoRecConfig
    needs_partners = True

    @property
    def phases(self) -> tuple[Phase, ...]:
        config = self.config
        terms = {"rec": 1.0, "cl1": config.unsupervised_weight, "sup": config.supervised_weight}
        terms |= {"intent": config.intent_weight, "items": config.items.graph_weight}
        return (Phase("model", ("model",), terms),)

    def draw_views(self, batch: SequenceBatch) -> list[Ragged]:
        """The sequence and its partner, and the sequence again where its twins are contrasted."""
        assert batch.partners is not None
        views = [batch.contrast, batch.partners]
        if self.config.unsupervised_weight:
            views.append(batch.contrast)
        return views

    def contrasts(
        self, batch: SequenceBatch, views: list[Encoded], wanted: frozenset[str]
    ) -> dict[str, Tensor]:
        terms = super().contrasts(batch, views, wanted - {"cl1"})
        if "sup" in wanted:
            terms["sup"] = self.contrast_by(self.contrast, batch, views[0].last, views[1].last)
        if "cl1" in wanted:
            terms["cl1"] = self.contrast_by(self.contrast, batch, views[0].last, views[2].last)
        return terms
