"""Sequence models with a contrastive term: their base, CL4SRec and DuoRec."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from recgraph.augment import TwoViews
from recgraph.config import Search
from recgraph.contrast.regularisers import Alignment, Uniformity
from recgraph.data.batches import SequenceBatch
from recgraph.data.part import Part
from recgraph.models.base import ModelConfig, Phase, Space, Terms
from recgraph.models.contrast import AugmentationSpec, ContrastConfig, contrastive_term
from recgraph.models.sequence.base import Encoded, SequenceModel, TransformerConfig
from recgraph.sparse.ragged import Ragged


class ContrastiveConfig(TransformerConfig, ContrastConfig):
    renamed: ClassVar[dict[str, str]] = {"views": "augmentations"}

    augmentations: Annotated[
        tuple[AugmentationSpec, ...],
        Field(
            description="of sequences, two different ones for each sample: names of the registry's kind "
            "'augmentation', or {name, settings}; (): the sequence itself twice"
        ),
    ] = ("crop", "mask", "reorder")
    contrast_of: Annotated[
        Literal["prefix", "sequence"],
        Field(description="in the causal regime: views of a prefix of random length, or of the whole sequence"),
    ] = "prefix"


class ContrastiveSequenceModel(SequenceModel):
    """Base of contrastive sequence models.

    Terms: ``rec``; ``cl1``, the contrast of two views of each sequence; ``alignment`` and ``uniformity`` of these
    (diagnostics).
    """

    Config: ClassVar[type[ModelConfig]] = ContrastiveConfig
    diagnostics: ClassVar[tuple[str, ...]] = ("alignment", "uniformity")

    def _build(self, space: Space) -> None:
        super()._build(space)
        config = self.config
        chosen = config.augmentations
        self._two_views = TwoViews(chosen, distinct=len(chosen) > 1, max_len=config.max_len) if chosen else None
        self.contrast = contrastive_term(config, config.hidden_dim)
        self._alignment, self._uniformity = Alignment(), Uniformity()

    @property
    def needs_states(self) -> bool:
        """Whether the contrast reads the views' states at every place."""
        return False

    def setup(self, train: Part) -> None:
        super().setup(train)
        if self._two_views is not None:
            self._two_views.setup(train)

    def draw_views(self, batch: SequenceBatch) -> list[Ragged]:
        """The views of each sequence, drawn once for all phases of a batch.

        Without augmentations it is the sequence twice: dropout and what the model does to the encoded views tell them
        apart.
        """
        if self._two_views is None:
            return [batch.contrast, batch.contrast]
        if "views" not in batch.drawn:
            batch.drawn["views"] = list(self._two_views(batch.contrast, batch.generators["views"]))
        views: list[Ragged] = batch.drawn["views"]
        return views

    def terms(self, batch: SequenceBatch, asked: frozenset[str]) -> Terms:
        encoded = cache(lambda: self._encode_with_views(batch, "rec" in asked))
        contrasts = self.contrasts(batch, lambda: encoded()[1])
        if not asked & contrasts.keys():
            return super().terms(batch, asked) | contrasts

        def rec() -> Tensor:
            states, _ = encoded()
            assert states is not None  # "rec" is asked for
            return self.next_item_loss(batch, states)

        return {"rec": rec} | contrasts

    def contrasts(self, batch: SequenceBatch, views: Callable[[], list[Encoded]]) -> Terms:
        """The terms that read the encoded views. A subclass adds ``super().contrasts(...) | {"mine": lambda: ...}``.

        Args:
            views: gives what :meth:`draw_views` drew, encoded once for all terms.
        """
        return {
            "cl1": lambda: self.contrast_pair(batch, views()[0].last, views()[1].last),
            "alignment": lambda: self._alignment(views()[0].last, views()[1].last),
            "uniformity": lambda: self._uniformity(views()[0].last, views()[1].last),
        }

    def contrast_pair(self, batch: SequenceBatch, a: Tensor, b: Tensor) -> Tensor:
        """The contrast of two encoded views of a batch; who the rows are, for weights, is their target item."""
        loss: Tensor = self.contrast(a, b, batch.contrast_targets, batch.contrast_targets)
        return loss

    def _encode_with_views(self, batch: SequenceBatch, with_rec: bool) -> tuple[Tensor | None, list[Encoded]]:
        """The states that ``rec`` reads (None: it is not asked for) and the encoded views."""
        views = self.draw_views(batch)
        # prefixes are read at their last place like views, so that all are encoded as one batch
        if with_rec and not batch.causal:
            prefixes, *encoded = self.encode_together([batch.sequences, *views], batch, self.needs_states)
            return prefixes.last, encoded
        encoded = self.encode_together(views, batch, self.needs_states)
        return self.training_states(batch) if with_rec else None, encoded


class CL4SRecConfig(ContrastiveConfig):
    contrast_weight: Annotated[
        float, Field(ge=0, description="lambda, weight of the contrastive term"), Search(1e-3, 1.0, log=True)
    ] = 0.1


class CL4SRec(ContrastiveSequenceModel):
    """SASRec with the contrast of two stochastic views (crop, mask, reorder) of each sequence.

    Source: Xie et al., Contrastive Learning for Sequential Recommendation (ICDE 2022). Loss: ``rec + lambda cl1``.
    """

    Config = CL4SRecConfig

    @property
    def phases(self) -> tuple[Phase, ...]:
        terms = {"rec": 1.0, "cl1": self.config.contrast_weight}
        return (Phase("model", ("model",), terms),)


class DuoRecConfig(ContrastiveConfig):
    unsupervised_weight: Annotated[
        float, Field(ge=0, description="of the dropout twin's contrast"), Search(1e-3, 1.0, log=True)
    ] = 0.1
    supervised_weight: Annotated[
        float,
        Field(ge=0, description="of the contrast with a sequence of the same target"),
        Search(1e-3, 1.0, log=True),
    ] = 0.1
    weight: Annotated[
        str | None,
        Field(description="weights of the negatives; 'same_target' removes false negatives, as published"),
    ] = "same_target"


class DuoRec(ContrastiveSequenceModel):
    """SASRec with the contrast of a sequence, encoded twice under dropout, and of sequences with the same target.

    Source: Qiu et al., Contrastive Learning for Representation Degeneration Problem in Sequential Recommendation (WSDM
    2022). Terms: ``rec``; ``cl1`` between two encodings of the same sequence (they differ by dropout); ``sup`` between
    the first and another sequence that the same item follows. ``augmentations`` are not used: no item is changed.
    Departure: in the causal regime the contrasted sequence is a prefix of random length.
    """

    Config = DuoRecConfig
    needs_partners = True

    @property
    def phases(self) -> tuple[Phase, ...]:
        config = self.config
        terms = {"rec": 1.0, "cl1": config.unsupervised_weight, "sup": config.supervised_weight}
        return (Phase("model", ("model",), terms),)

    def draw_views(self, batch: SequenceBatch) -> list[Ragged]:
        """The sequence twice, and its partner."""
        assert batch.partners is not None
        return [batch.contrast, batch.contrast, batch.partners]

    def contrasts(self, batch: SequenceBatch, views: Callable[[], list[Encoded]]) -> Terms:
        supervised = {"sup": lambda: self.contrast_pair(batch, views()[0].last, views()[2].last)}
        return super().contrasts(batch, views) | supervised
