"""How files of a log, and those of features beside it, are read; columns that are not named are guessed."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import polars as pl
from pydantic import Field

from recgraph.config import Added, Config
from recgraph.data.columns import Columns
from recgraph.data.errors import AmbiguousColumnError, DataError, MissingColumnError, listed

FileFormat = Literal["csv", "tsv", "jsonl", "parquet", "recbole", "sequences"]
MissingIds = Literal["error", "drop"]
#: the fields of :class:`Reading` that are paths: of files of features, and of given parts
FEATURES = ("user_features", "item_features")
PARTS = ("valid", "test")
PATHS = (*FEATURES, *PARTS)
ROLES = ("user", "item", "timestamp", "rating", "weight")
#: in place of a column's name: the log has no such column, and none is guessed
NO_COLUMN = "none"
_OPTIONAL = ("timestamp", "rating", "weight")
_log = logging.getLogger(__name__)

# Role -> usual names without case, spaces and underscores. The first is the library's own and wins over all others.
_NAMES: dict[str, tuple[str, ...]] = {
    "user": (
        *("userid", "user", "uid", "usr", "visitorid", "visitor", "customerid", "customer", "custid", "clientid"),
        *("client", "memberid", "member", "accountid", "account", "buyerid", "buyer", "shopperid", "shopper"),
        *("reviewerid", "reviewer", "personid", "profileid", "playerid", "listenerid", "readerid"),
    ),
    "item": (
        *("itemid", "item", "iid", "movieid", "movie", "filmid", "film", "productid", "product", "prodid", "asin"),
        *("parentasin", "sku", "skuid", "stockcode", "articleid", "article", "trackid", "track", "songid", "song"),
        *("bookid", "book", "isbn", "businessid", "business", "venueid", "venue", "poiid", "locationid", "videoid"),
        *("video", "contentid", "content", "newsid", "gameid", "game", "appid", "showid", "artistid", "artist"),
        *("recipeid", "restaurantid", "listingid", "offerid", "goodsid", "goods", "anime", "animeid", "adid"),
    ),
    "timestamp": (
        *("timestamp", "time", "ts", "datetime", "date", "eventtime", "eventdate", "eventtimestamp", "createdat"),
        *("created", "unixtime", "unixreviewtime", "reviewtime", "unixtimestamp", "orderdate", "ordertime"),
        *("purchasedate", "purchasetime", "invoicedate", "tdat", "at", "when", "day", "interactiontime", "visittime"),
    ),
    "rating": (
        *("rating", "ratings", "stars", "star", "score", "overall", "userrating", "reviewscore", "ratingvalue"),
        *("starrating",),
    ),
    "weight": (),
}


class Reading(Config):
    """How files of a log are read. What is not given is found out and logged."""

    user: str | None = Field(None, description="the column of users; none: guessed from usual names")
    item: str | None = Field(None, description="the column of items; none: guessed")
    timestamp: str | None = Field(None, description='the column of times; none: guessed; "none": the log has none')
    rating: str | None = Field(None, description='the column of ratings; none: guessed; "none": the log has none')
    weight: str | None = Field(None, description="the column of weights; never guessed")
    format: FileFormat | None = Field(None, description="none: by the names of the files")
    separator: str | None = Field(None, description="between fields of a csv file; none: by its first line")
    names: tuple[str, ...] = Field((), description="of the columns, where a csv file has no header line")
    encoding: str = Field("utf-8", description="of text files, e.g. latin-1")
    time_format: str | None = Field(
        None, description="of times that are texts, e.g. %d/%m/%Y %H:%M; none: numbers, or ISO 8601 and the like"
    )
    missing_ids: MissingIds = Field("error", description='rows without a user or an item; "drop" leaves them out')
    user_features: str | None = Field(None, description="a file of features, one row a user")
    item_features: str | None = Field(None, description="a file of features, one row an item: titles, genres, ...")

    valid: Annotated[
        str | None,
        Added(),
        Field(description="a file of the validation part, read alike; the log itself is the training part then"),
    ] = None
    test: Annotated[str | None, Added(), Field(description="a file of the test part; likewise")] = None
    lists: Annotated[dict[str, str], Added()] = Field(
        {}, description='column of texts in files of features -> the separator of the list that each is; "": one value'
    )
    quotes: Annotated[bool, Added()] = Field(
        True, description='of csv and tsv: whether " begins and ends a quoted field'
    )

    @property
    def has_parts(self) -> bool:
        """Whether train, valid or test are files of their own."""
        return any(getattr(self, name) is not None for name in PARTS)

    def columns_of(self, names: Sequence[str], label: str, path: Path | None = None) -> Columns:
        """The columns of a log: those that are given, and others by their names; guesses are logged."""
        chosen: dict[str, str | None] = {}
        for role in ROLES:
            name = getattr(self, role)
            if name is None:
                continue
            if name not in names and not (name == NO_COLUMN and role in _OPTIONAL):
                raise MissingColumnError(f"there is no column {name!r}; the columns are {listed(names)}", path=path)
            chosen[role] = name if name in names else None
        free = [name for name in names if name not in chosen.values()]
        guessed = {role: _guess(role, free, names, path) for role in ROLES if role not in chosen}
        columns = Columns(**chosen, **guessed)
        if any(guessed.values()):
            told = ", ".join(f"{role} = {name!r}" for role, name in columns.model_dump().items() if name)
            without = [role for role in ("timestamp", "rating") if getattr(columns, role) is None]
            _log.info("%s: %s%s", label, told, f"; no {' and no '.join(without)}" if without else "")
        return columns

    def split_lists(self, features: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
        """Files of features with the columns that :attr:`lists` names as lists, without blanks around their values."""
        columns = {name: dtype for frame in features.values() for name, dtype in frame.schema.items()}
        for name in self.lists if features else ():
            if name not in columns:
                raise MissingColumnError(f"lists: the features have no column {name!r}; they have {listed(columns)}")
            if columns[name] not in (pl.String, pl.Null):
                raise DataError(f"lists: column {name!r} holds {columns[name]}, no texts to split; leave it out")
        return {
            name: with_lists(frame, {column: mark for column, mark in self.lists.items() if column in frame.columns})
            for name, frame in features.items()
        }

    def from_folder(self, folder: Path) -> Self:
        """The reading with the paths of its other files from a folder on."""
        paths = {name: getattr(self, name) for name in PATHS if getattr(self, name) is not None}
        return self.model_copy(update={name: str((folder / path).absolute()) for name, path in paths.items()})


def with_lists(frame: pl.DataFrame, lists: Mapping[str, str]) -> pl.DataFrame:
    """Features with columns of texts as lists: ``lists`` is column -> separator, ``""`` where a text is one value."""
    return frame.with_columns(_as_list(column, separator) for column, separator in lists.items())


def _as_list(column: str, separator: str) -> pl.Expr:
    texts = pl.col(column).cast(pl.String)
    values = texts.str.split(separator) if separator else pl.concat_list(texts)
    values = values.list.eval(pl.element().str.strip_chars().replace("", None).drop_nulls())
    return pl.when(texts.is_not_null()).then(values).alias(column)


def candidates_of(role: str, names: Iterable[str]) -> list[str]:
    """The names that are usual for a role; the library's own alone, where it is among them."""
    usual = _NAMES[role]
    found = {name: plain for name in names if (plain := re.sub(r"[^a-z0-9]", "", name.lower())) in usual}
    # "product_id" stands beside "product", which is then the name of it
    found = {name: plain for name, plain in found.items() if f"{plain}id" not in found.values()}
    return [name for name, plain in found.items() if plain == (usual or ("",))[0]] or list(found)


def _guess(role: str, free: Sequence[str], names: Sequence[str], path: Path | None) -> str | None:
    candidates = candidates_of(role, free)
    option = "time" if role == "timestamp" else role
    if len(candidates) > 1:
        raise AmbiguousColumnError(
            f"{listed(candidates)} may each be the {role}; say which: {role}={candidates[0]!r} "
            f"(--{option} {candidates[0]})",
            path=path,
        )
    if not candidates and role not in _OPTIONAL:
        raise MissingColumnError(
            f"no column looks like the {role}; say which is: {role}=... (--{option} NAME), or give separator= or, "
            f"where there is no header line, names=. The columns are {listed(names)}",
            path=path,
        )
    return candidates[0] if candidates else None
