"""The protocol: how a number was made, as a value with a hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from recgraph.config import Config
from recgraph.evaluate.rerank import reranker_of

Seen = Literal["keep", "exclude"]
Ties = Literal["seeded permutation", "expectation"]
Cutoff = Annotated[int, Field(ge=1)]


def is_leaked(part: str, fitted_on: str) -> bool:
    """Whether a part that is held out by its name, ``"valid"`` or ``"test"``, is in what a model
    was fitted on.
    """
    return part in ("valid", "test") and (fitted_on == "all" or part in fitted_on.split("+"))


class Protocol(Config):
    """Everything that must be equal for two numbers to be comparable."""

    split: Annotated[str, Field(description="name of the split; empty where it is not known")] = ""
    split_hash: Annotated[
        str, Field(description="of the data's content and the split's parameters")
    ] = ""
    split_facts: Annotated[
        str,
        Field(
            description="what was found of parts that were given, or which fold it is, as JSON; else empty"
        ),
    ] = ""
    part: Annotated[str, Field(description="which part holds the truth")] = ""
    fitted_on: Annotated[
        str, Field(description="what the model was fitted on: train, train+valid or all")
    ] = ""
    history: Annotated[str, Field(description="what the model may read of a user at test time")] = (
        ""
    )
    seen: Annotated[Seen, Field(description="whether items of the history stay candidates")] = (
        "keep"
    )
    candidates: Annotated[
        Literal["all", "lists", "sampled"],
        Field(
            description="which items are ranked: all, a list for each user, or the relevant ones among sampled ones"
        ),
    ] = "all"
    n_candidates: Annotated[int | None, Field(ge=1, description="items sampled for each user")] = (
        None
    )
    candidate_seed: Annotated[
        int | None, Field(ge=0, description="of the sampled items; 0 where they are sampled")
    ] = None
    candidate_hash: Annotated[
        str, Field(description="of the lists of candidates; filled in by evaluate")
    ] = ""
    ties: Annotated[
        Ties,
        Field(
            description="the order of equal scores: one of them, or the exact expectation over all"
        ),
    ] = "seeded permutation"
    tie_seed: Annotated[int, Field(ge=0, description="of the permutation of the items")] = 0
    convention: Annotated[
        Literal["recgraph"], Field(description="whose definitions of the metrics")
    ] = "recgraph"
    cutoffs: Annotated[tuple[Cutoff, ...], Field(min_length=1, description="list lengths")] = (
        5,
        10,
        20,
    )
    at: Annotated[
        Literal["", "first event"],
        Field(
            description="the time of a request, of the first event asked for, which models of times are told"
        ),
    ] = ""
    rerank: Annotated[
        str,
        Field(
            description="what picks lists from rankings, its settings as JSON; empty: the best scores"
        ),
    ] = ""

    @field_validator("rerank", mode="before")
    @classmethod
    def _as_text(cls, reranker: Any) -> str:
        return str(reranker_of(reranker)) if reranker else ""

    @field_validator("cutoffs", mode="after")
    @classmethod
    def _ascending(cls, cutoffs: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(cutoffs)))

    def to_dict(self) -> dict[str, Any]:
        """As records have it: a re-ranker, facts of the parts and the time are named where there
        are any.
        """
        return _without_empty(self.model_dump(mode="json"), ("rerank", "split_facts", "at"))

    @property
    def hash(self) -> str:
        """16 hexadecimal digits; equal for equal protocols, on every machine. ``at`` is no part of
        it.
        """
        of_candidates = ("n_candidates", "candidate_seed", "candidate_hash")
        values = _without_empty(self.to_dict(), of_candidates)
        values.pop("at", None)
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, other: Protocol) -> dict[str, tuple[Any, Any]]:
        """Field -> (own value, the other's), where they differ."""
        values, others = self.model_dump(exclude={"at"}), other.model_dump(exclude={"at"})
        differing = {}
        for name, value in values.items():
            if value != others[name]:
                differing[name] = (value, others[name])
        return differing


def _without_empty(values: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The values but for those of the names that are empty, 0 or None."""
    return {name: value for name, value in values.items() if value or name not in names}
