"""What a re-ranker is: settings, and the gain of each candidate as the next item of a list."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from recgraph import registry
from recgraph.bounded.texts import parse_json
from recgraph.config import Config, Search, configure
from recgraph.data.errors import CorruptFileError
from recgraph.rerank.similarity import SimilarBy

__all__ = ["Gains", "Relevance", "Reranker", "RerankerConfig", "reranker_of"]

Relevance = Annotated[
    Literal["min_max", "probability"],
    Field(description="of scores: their place between the pool's least and greatest, or the softmax over the pool"),
]


class RerankerConfig(Config):
    """Settings that every re-ranker has."""

    strength: Annotated[
        float,
        Field(ge=0, le=1, description="0: the ranking as it is, 1: differences alone"),
        Search(0.01, 0.9, log=True),
    ] = 0.3
    pool: Annotated[
        int, Field(ge=1, description="the best items among which is picked; the list goes on by rank below them")
    ] = 100
    similarity: Annotated[
        SimilarBy,
        Field(description="of items: cosine of the model's vectors, or of the sets of users who have them"),
    ] = "vectors"
    columns: Annotated[
        tuple[str, ...], Field(description="item features whose common values are the similarity instead")
    ] = ()
    separator: Annotated[
        str | None, Field(min_length=1, description="between the values of a text column; lists need none")
    ] = None
    relevance: Relevance = "min_max"

    @model_validator(mode="after")
    def _one_similarity(self) -> Self:
        if self.columns and self.similarity != "vectors":
            raise ValueError(f"columns and similarity = {self.similarity!r} say two similarities; give one of them")
        if self.separator is not None and not self.columns:
            raise ValueError(f"separator = {self.separator!r} is for values of columns; name columns, or leave it out")
        return self


class Gains:
    """The gains of the candidates of R lists that are picked at the same time.

    Attributes:
        values: [R, P] float64, finite: what each candidate adds as the next item, which is the one with the greatest
            gain of those that may be picked; of equal ones the better ranked.
    """

    values: Tensor

    def take(self, place: Tensor, similarity: Tensor) -> None:
        """Go on to the next item.

        Args:
            place: [R] int64, the candidate that was picked in each row.
            similarity: [R, P] float64 of the candidates with it.
        """
        raise TypeError(f"{type(self).__name__} must define take(place, similarity)")


class Reranker:
    """Base of all re-rankers. A subclass sets ``Config`` and fills :meth:`gains`.

    A list is picked from the best ``pool`` items of a ranking, one after the other: the next is the one with the
    greatest gain, so that a list of k items is the beginning of one of more. With ``strength = 0`` gains fall with the
    rank.

    Args:
        config: the settings as a value, or
        settings: the settings by name.

    Raises:
        ConfigError: a setting that does not exist, or its value is not allowed.
    """

    Config: ClassVar[type[RerankerConfig]] = RerankerConfig

    def __init__(self, config: RerankerConfig | None = None, /, **settings: Any) -> None:
        self.config: Any = configure(self, self.Config, config, settings)

    @property
    def history(self) -> int:
        """How many of a user's last items count as recommended already."""
        return 0

    def gains(self, relevance: Tensor, nearest: Tensor, k: int) -> Gains:
        """Begin R lists.

        Args:
            relevance: [R, P] float64 in [0, 1], falling with rank.
            nearest: [R, P] float64: each candidate's greatest similarity to what counts as recommended already, -inf
                where nothing does.
            k: the most items that are picked.
        """
        raise TypeError(f"{type(self).__name__} must define gains(relevance, nearest, k)")

    def row_bytes(self, width: int, k: int) -> int:
        """The memory that a list takes while it is picked, beside a few numbers a candidate."""
        return 0

    def work(self, k: int) -> int:
        """About how many multiplications a list of ``k`` items takes, beside those of similarities."""
        size: int = self.config.pool
        return min(k, size) * size

    def relevance(self, scores: Tensor, pool_mask: Tensor) -> Tensor:
        """Scores brought to the scale of similarities, [R, P] float64 in [0, 1]; 0 outside the pool.

        Args:
            scores: [R, P] float64, best first.
            pool_mask: [R, P] bool.
        """
        finite_mask = pool_mask & scores.isfinite()
        most = scores.masked_fill(~finite_mask, float("-inf")).amax(1, keepdim=True)
        least = scores.masked_fill(~finite_mask, float("inf")).amin(1, keepdim=True)
        has_mask = finite_mask.any(1, keepdim=True)
        most, least = torch.where(has_mask, most, 0.0), torch.where(has_mask, least, 0.0)
        known = torch.where(pool_mask, scores, float("-inf")).clamp(max=most)
        if self.config.relevance == "probability":
            share = (known - most).exp()
            share = share / share.sum(1, keepdim=True).clamp(min=1.0)
        else:
            span = most - least
            share = torch.where(span > 0, (known - least) / torch.where(span > 0, span, 1.0), 1.0).clamp(0, 1)
        # rounding must not raise an item above one that is ranked before it
        return torch.where(pool_mask, share, 0.0).cummin(1).values

    @property
    def specification(self) -> dict[str, Any]:
        """What :func:`reranker_of` makes it from: the name and every setting."""
        (name,) = registry.written("reranker", registry.key_of("reranker", type(self)))
        return {"name": name, **self.config.model_dump(mode="json")}

    def __str__(self) -> str:
        """The specification as text, the same for equal re-rankers: what a protocol holds."""
        return json.dumps(self.specification, sort_keys=True)


def reranker_of(given: str | Mapping[str, Any] | Reranker) -> Reranker:
    """A re-ranker from its name, its specification, the text of one, or itself.

    Raises:
        ValueError: no such re-ranker.
        ConfigError: a setting that it does not have, or its value is not allowed.
    """
    if isinstance(given, Reranker):
        return given
    specification: Any = given
    if isinstance(given, str) and given.startswith("{"):
        try:
            specification = parse_json(given, Path("rerank"), written_by_people=True)
        except CorruptFileError as error:
            raise ValueError(f"{given[:80]!r} is no re-ranker: {error}") from None
    made = registry.make("reranker", specification)
    assert isinstance(made, Reranker)
    return made
