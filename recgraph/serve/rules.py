"""Business rules: which items may be recommended, what raises a score, how many of a kind a list holds.

A value that recommenders, the command line (``--rules FILE``) and the service read alike; it can be written as JSON or
TOML.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator

from recgraph.config import Config, ConfigError, checked, is_list
from recgraph.data.ids import is_missing
from recgraph.evaluate.rerank import Reranker, reranker_of
from recgraph.files import read_json, read_toml

Ids = tuple[Any, ...]


class Boost(Config):
    """What an item feature does to scores.

    With ``value`` the items whose column holds it are raised by ``weight``, all others stay as they are. Without it the
    column holds numbers, and an item's number times ``weight`` counts; an item without a number stays as it is. ``add``
    adds that to the score. ``multiply`` multiplies scores above 0 by it and divides those below 0: a factor above 1
    raises every item, whatever the sign of its score; it must be above 0.
    """

    column: Annotated[str, Field(description="of the item features")]
    weight: Annotated[float, Field(description="what is added, or times what the score is taken")] = 1.0
    how: Literal["add", "multiply"] = "add"
    value: Annotated[
        bool | int | float | str | None, Field(description="raise the items that have this value; none: by the number")
    ] = None


class Rules(Config):
    """Business rules for a recommendation.

    They hold over the whole ranking of all items, not over a cut list: a list is shorter than k only where fewer items
    remain.

    1. ``allow``, ``block`` and what the user has seen say which items remain.
    2. ``boost`` changes their scores, one after the other; answers hold the changed scores.
    3. The list is filled from the best down, or by a re-ranker (``rerank``); an item one of whose values would come up
       more often than ``max_per`` says is passed over. An item without a value is never passed over.

    ``Rules.of({...})`` reads a mapping (from JSON), with errors that name the setting; ``Rules.read(path)`` a file. Ids
    of items and users may be given as texts where the log's are of another type.
    """

    allow: Annotated[Ids | None, Field(description="item ids to which everyone's recommendations are restricted")] = (
        None
    )
    block: Annotated[Ids, Field(description="item ids that nobody is recommended")] = ()
    allow_for: Annotated[
        dict[Any, Ids],
        Field(default_factory=dict, description="user id -> item ids to which that user's lists are restricted"),
    ]
    block_for: Annotated[
        dict[Any, Ids],
        Field(default_factory=dict, description="user id -> item ids that this user is not recommended"),
    ]
    boost: Annotated[tuple[Boost, ...], Field(description="what item features do to scores")] = ()
    max_per: Annotated[
        dict[str, Annotated[int, Field(ge=1, le=2**31 - 1)]],
        Field(
            default_factory=dict, description="column of item features -> how many items of a list may share a value"
        ),
    ]
    diversity: Annotated[float | None, Field(ge=0, le=1, description="strength of the re-ranker mmr")] = None
    rerank: Annotated[
        dict[str, Any] | None, Field(description="a re-ranker: its name, or a mapping of name and settings")
    ] = None
    separator: Annotated[
        str | None, Field(min_length=1, description="between the values of a text column; lists need none")
    ] = None

    @field_validator("allow", "block", mode="before")
    @classmethod
    def _read_ids(cls, given: Any) -> Any:
        return given if given is None else _ids(given)

    @field_validator("allow_for", "block_for", mode="before")
    @classmethod
    def _read_lists(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            raise ValueError("give a mapping user id -> list of item ids")
        return {user: _ids(items) for user, items in given.items()}

    @field_validator("boost", mode="before")
    @classmethod
    def _read_boost(cls, given: Any) -> Any:
        if isinstance(given, Boost) or (isinstance(given, Mapping) and "column" in given):
            return (given,)
        if isinstance(given, Mapping):
            return tuple({"column": name, "weight": weight} for name, weight in given.items())
        return given

    @field_validator("rerank", mode="before")
    @classmethod
    def _read_rerank(cls, given: Any) -> Any:
        return None if given is None else reranker_of(given).specification

    @classmethod
    @checked
    def read(cls, path: str | Path) -> Self:
        """Read a file: TOML, or JSON where its name ends in ``.json``.

        Raises:
            ConfigError: not TOML or JSON, or a setting that does not exist or does not fit; names the file.
        """
        path = Path(path)
        try:
            return cls.of(read_json(path) if path.suffix.lower() == ".json" else read_toml(path))
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from None

    @property
    def reranker(self) -> Reranker | None:
        """How lists are picked from the ranking; None: from the best down."""
        if self.rerank is not None:
            return reranker_of(self.rerank)
        return None if self.diversity is None else reranker_of({"name": "mmr", "strength": self.diversity})

    @property
    def columns(self) -> tuple[str, ...]:
        """The item features that are read."""
        compared = () if (reranker := self.reranker) is None else reranker.config.columns
        return tuple(dict.fromkeys([*(boost.column for boost in self.boost), *self.max_per, *compared]))


def _ids(given: Any) -> Ids:
    """Ids of any list, array or series; a lone id or a missing one is a mistake."""
    if not is_list(given):
        raise ValueError("give a list of item ids")
    read = next((read for read in ("to_list", "tolist", "to_pylist") if hasattr(given, read)), None)
    ids = tuple(given if read is None else getattr(given, read)())
    if any(map(is_missing, ids)):
        raise ValueError("give a list of item ids; one is missing")
    return ids
