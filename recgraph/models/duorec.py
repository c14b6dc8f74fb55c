"""DuoRec."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from recgraph.config import Search
from recgraph.data.batch import SequenceBatch
from recgraph.models.base import Phase
from recgraph.models.base_contrastive import ContrastiveConfig, ContrastiveSequenceModel
from recgraph.models.base_sequence import Encoded
from recgraph.sparse.ragged import Ragged


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
