"""How files of a log, and those of features beside it, are read."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Self

import polars as pl
from pydantic import Field

from recgraph.config import Added, Config
from recgraph.data.columns import Columns
from recgraph.data.errors import DataError, MissingColumnError
from recgraph.data.file_names import FileFormat
from recgraph.data.ingest import MissingIds
from recgraph.data.packing import check_encoding
from recgraph.data.roles import NO_COLUMN, guess_columns
from recgraph.data.source import Source
from recgraph.texts import listed

__all__ = ["FEATURES", "PARTS", "PATHS", "ROLES", "FileFormat", "Reading", "with_lists"]

#: the fields of :class:`Reading` that are paths: of files of features, and of given parts
FEATURES = ("user_features", "item_features")
PARTS = ("valid", "test")
PATHS = (*FEATURES, *PARTS)
ROLES = ("user", "item", "timestamp", "rating", "weight")
_log = logging.getLogger(__name__)


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

    def columns_of(self, names: Sequence[str], source: Source, label: str) -> Columns:
        """The columns of a log: those that are given, and others by their names; guesses are logged.

        Args:
            names: of all its columns.
            source: for errors.
            label: what the log is called in the message.

        Raises:
            DataError: a column that is given is not there, or one cannot be told.
        """
        given = {role: getattr(self, role) for role in ROLES}
        given["weight"] = given["weight"] or NO_COLUMN
        columns, guessed = guess_columns(names, given, source)
        if guessed:
            told = ", ".join(f"{role} = {getattr(columns, role)!r}" for role in ROLES if getattr(columns, role))
            without = [role for role in ("timestamp", "rating") if getattr(columns, role) is None]
            _log.info("%s: %s%s", label, told, f"; no {' and no '.join(without)}" if without else "")
        return columns

    def check_of_frames(self) -> None:
        """Refuse what says how files are read.

        Raises:
            ValueError: such a setting is given.
        """
        self._check_lists(None)
        for name in ("format", "separator", "names", "encoding", "quotes"):
            if (value := getattr(self, name)) != type(self).model_fields[name].default:
                raise ValueError(f"{name} = {value!r} says how files are read, and frames are given; leave it out")

    def check_of_format(self, form: FileFormat) -> None:
        """Refuse settings that files of a format do not use and that would be ignored.

        Raises:
            ValueError: such a setting is given.
        """
        self._check_lists(form)
        for name in self._unused(form):
            if (value := getattr(self, name)) not in (type(self).model_fields[name].default, NO_COLUMN):
                raise ValueError(f"{name} = {value!r} says nothing of files of format {form!r}; leave it out")

    def _check_lists(self, form: FileFormat | None) -> None:
        if self.lists and not self._has_features(form):
            raise ValueError(f"lists = {self.lists!r} names columns of features, and no file of features is given")

    def for_format(self, form: FileFormat) -> Self:
        """The reading without the settings that files of a format do not use."""
        fields = type(self).model_fields
        return self.model_copy(update={name: fields[name].default for name in self._unused(form)})

    def _unused(self, form: FileFormat) -> tuple[str, ...]:
        unused: tuple[str, ...] = () if form in ("csv", "tsv") else ("separator", "names")
        if form == "sequences":
            unused += ("timestamp", "rating", "weight")
        has_others = any(getattr(self, name) for name in PATHS)  # which may be texts
        if form == "parquet" and not has_others and check_encoding(self.encoding) != "utf-8":
            unused += ("encoding",)
        if form not in ("csv", "tsv", "recbole") and not has_others:
            unused += ("quotes",)
        return unused if self._has_features(form) else (*unused, "lists")

    def _has_features(self, form: FileFormat | None) -> bool:
        return form == "recbole" or any(getattr(self, name) for name in FEATURES)

    def split_lists(self, features: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
        """Files of features with the columns that :attr:`lists` names as lists, without blanks around their values.

        Args:
            features: by the names of :data:`FEATURES`.

        Raises:
            MissingColumnError: no file has such a column.
            DataError: it holds no texts.
        """
        columns = [name for frame in features.values() for name in frame.columns]
        missing = next((name for name in self.lists if name not in columns), None)
        if features and missing is not None:
            raise MissingColumnError(f"lists: the features have no column {missing!r}; they have {listed(columns)}")
        found = {}
        for name, frame in features.items():
            own = [column for column in self.lists if column in frame.columns]
            if wrong := next((column for column in own if frame[column].dtype not in (pl.String, pl.Null)), None):
                raise DataError(f"lists: column {wrong!r} holds {frame[wrong].dtype}, no texts to split; leave it out")
            found[name] = with_lists(frame, {column: self.lists[column] for column in own})
        return found

    def from_folder(self, folder: Path) -> Self:
        """The reading with the paths of its other files from a folder on."""
        paths = {name: getattr(self, name) for name in PATHS if getattr(self, name) is not None}
        return self.model_copy(update={name: str((folder / path).absolute()) for name, path in paths.items()})


def with_lists(frame: pl.DataFrame, lists: Mapping[str, str]) -> pl.DataFrame:
    """Features with columns of texts as lists of their values, without blanks around them.

    Args:
        lists: column -> separator, ``""`` where a text is one value.
    """
    return frame.with_columns(_as_list(column, separator) for column, separator in lists.items())


def _as_list(column: str, separator: str) -> pl.Expr:
    texts = pl.col(column).cast(pl.String)
    values = texts.str.split(separator) if separator else pl.concat_list(texts)
    values = values.list.eval(pl.element().str.strip_chars().replace("", None).drop_nulls())
    return pl.when(texts.is_not_null()).then(values).alias(column)
