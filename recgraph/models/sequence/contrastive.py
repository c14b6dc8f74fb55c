"""What sequence models with a contrastive task share: two views of each sequence and their NT-Xent.

CL4SRec.

DuoRec.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from recgraph.augment import TwoViews
from recgraph.config import Search
from recgraph.contrast.regularisers import Alignment, Uniformity
from recgraph.contrast.term import ContrastiveTerm
from recgraph.data.batches import SequenceBatch
from recgraph.data.part import Part
from recgraph.models.base import Phase, Space
from recgraph.models.sequence.base import Encoded, SequenceModel, TransformerConfig
from recgraph.sparse.ragged import Ragged


class ContrastiveConfig(TransformerConfig):
    temperature: Annotated[
        float, Field(gt=0, description="of the contrastive similarities"), Search(0.05, 2.0, log=True)
    ] = 1.0
    similarity: Annotated[Literal["dot", "cosine"], Field(description="of the contrastive terms")] = "dot"
    views: Annotated[
        tuple[str, ...],
        Field(
            description="sequence views; two different ones are drawn for each sample; (): the sequence itself twice"
        ),
    ] = ("crop", "mask", "reorder")
    contrast_of: Annotated[
        Literal["prefix", "sequence"],
        Field(description="in the causal regime: views of a prefix of random length, or of the whole sequence"),
    ] = "prefix"
    weight: Annotated[
        str | None, Field(description="weights of the negatives, a name of the registry's kind 'weight'")
    ] = None
    weight_options: Annotated[dict[str, Any], Field(default_factory=dict, description="settings of the weight")]


class ContrastiveSequenceModel(SequenceModel):
    """Base of contrastive sequence models. Terms: ``rec``; ``cl1``, the NT-Xent of two encoded stochastic views;
    ``alignment`` and ``uniformity`` of these (diagnostics)."""

    Config = ContrastiveConfig
    diagnostics: ClassVar[tuple[str, ...]] = ("alignment", "uniformity")

    def _build(self, space: Space) -> None:
        super()._build(space)
        self._views = self._make_views()
        self.contrast = self._contrastive_term(self.config.temperature)
        self._alignment, self._uniformity = Alignment(), Uniformity()

    @property
    def needs_states(self) -> bool:
        """Whether the contrast reads the views' states at every place."""
        return False

    def _make_views(self) -> TwoViews | None:
        views = list(self.config.views)
        if not views:
            return None
        return TwoViews(views, distinct=len(views) > 1, max_len=self.config.max_len)

    def _contrastive_term(self, temperature: float, similarity: str | None = None) -> ContrastiveTerm:
        return ContrastiveTerm(
            temperature=temperature,
            similarity=similarity or self.config.similarity,
            weight=self.config.weight,
            weight_settings=self.config.weight_options,
            dim=self.config.hidden_dim,
            objective="nt_xent",
        )

    def setup(self, train: Part) -> None:
        super().setup(train)
        if self._views is not None:
            self._views.setup(train)

    def _drawn_views(self, batch: SequenceBatch) -> list[Ragged]:
        """Two views of each sequence, drawn once for all phases of a batch.

        Without any, dropout and what a model does to the encoded sequences tell the two apart.
        """
        if self._views is None:
            return [batch.contrast, batch.contrast]
        if "views" not in batch.drawn:
            batch.drawn["views"] = list(self._views(batch.contrast, batch.generators["views"]))
        views: list[Ragged] = batch.drawn["views"]
        return views

    def _terms(self, batch: SequenceBatch, terms: set[str]) -> dict[str, Tensor]:
        views = self._drawn_views(batch)
        computed: dict[str, Tensor] = {}
        # prefixes are read at their last place like views, so that all are encoded as one batch
        together = "rec" in terms and not batch.causal
        parts = [batch.sequences, *views] if together else views
        encoded = self._encode_each(parts, batch, with_states=self.needs_states)
        if "rec" in terms:
            hidden = encoded.pop(0).last if together else self._encode(batch.sequences, batch, last_only=False)
            computed["rec"] = self._rec(batch, hidden)
        return computed | self._contrast(batch, terms - {"rec"}, encoded)

    def _contrast(self, batch: SequenceBatch, terms: set[str], encoded: list[Encoded]) -> dict[str, Tensor]:
        """The contrastive terms asked for, from the encoded views."""
        ids, (h1, h2) = batch.contrast_targets, (encoded[0].last, encoded[1].last)
        made: dict[str, Callable[[], Tensor]] = {
            "cl1": lambda: self.contrast(h1, h2, ids, ids),
            "alignment": lambda: self._alignment(h1, h2),
            "uniformity": lambda: self._uniformity(h1, h2),
        }
        unknown = sorted(terms - set(made))
        if unknown:
            raise ValueError(f"{type(self).__name__} has no terms {unknown}; it has {sorted({'rec', *made})}")
        return {name: made[name]() for name in sorted(terms)}


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
        return (Phase("model", ("model",), {name: weight for name, weight in terms.items() if weight}),)


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
    the first and another sequence that the same item follows. The configured ``views`` are not used: no item is
    changed. Departure: in the causal regime the contrasted sequence is a prefix of random length.
    """

    Config = DuoRecConfig
    needs_partners = True

    @property
    def phases(self) -> tuple[Phase, ...]:
        config = self.config
        terms = {"rec": 1.0, "cl1": config.unsupervised_weight, "sup": config.supervised_weight}
        return (Phase("model", ("model",), {name: weight for name, weight in terms.items() if weight}),)

    def _make_views(self) -> None:
        return None

    def _drawn_views(self, batch: SequenceBatch) -> list[Ragged]:
        assert batch.partners is not None
        return [batch.contrast, batch.contrast, batch.partners]

    def _contrast(self, batch: SequenceBatch, terms: set[str], encoded: list[Encoded]) -> dict[str, Tensor]:
        computed = super()._contrast(batch, terms - {"sup"}, encoded)
        if "sup" in terms:
            ids = batch.contrast_targets
            computed["sup"] = self.contrast(encoded[0].last, encoded[2].last, ids, ids)
        return computed
