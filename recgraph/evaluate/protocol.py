"""The protocol: how a number was made, as a value with a hash."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from recgraph.config import Config

Seen = Literal["keep", "exclude"]


class Protocol(Config):
    """Everything that must be equal for two numbers to be comparable."""

    split: Annotated[str, Field(description="name of the split; empty where the caller did not say")] = ""
    split_hash: Annotated[str, Field(description="of the data's content and the split's parameters")] = ""
    part: Annotated[str, Field(description="which part holds the truth")] = ""
    fitted_on: Annotated[str, Field(description="what the model was fitted on, train or train+valid")] = ""
    history: Annotated[str, Field(description="what the model may read of a user at test time")] = ""
    seen: Annotated[Seen, Field(description="whether items of the history stay candidates")] = "keep"
    candidates: Annotated[Literal["all"], Field(description="which items are ranked")] = "all"
    ties: Annotated[Literal["seeded permutation"], Field(description="the order of equal scores")] = (
        "seeded permutation"
    )
    tie_seed: Annotated[int, Field(ge=0, description="of the permutation of the items")] = 0
    convention: Annotated[Literal["recgraph"], Field(description="definitions of the metrics")] = "recgraph"
    cutoffs: Annotated[tuple[int, ...], Field(min_length=1, description="list lengths")] = (5, 10, 20)

    @field_validator("cutoffs", mode="after")
    @classmethod
    def _ascending(cls, cutoffs: tuple[int, ...]) -> tuple[int, ...]:
        if min(cutoffs) < 1:
            raise ValueError("every cut-off must be at least 1")
        return tuple(sorted(set(cutoffs)))

    @property
    def hash(self) -> str:
        """16 hexadecimal digits; equal for equal protocols, on every machine."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def differences(self, other: Protocol) -> dict[str, tuple[Any, Any]]:
        """Field -> (own value, the other's), where they differ."""
        own, others = self.model_dump(), other.model_dump()
        return {name: (own[name], others[name]) for name in own if own[name] != others[name]}
