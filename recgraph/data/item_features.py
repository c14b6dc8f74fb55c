"""Item features as the inputs of models: what is learnt of their columns, and the encoded columns of a catalogue.

A column is one of four kinds. **category**: one or several values of each item; **words**: a text, as the set of its
words; **number**: numbers or times; **vector**: a list of numbers of one length, such as the embedding of a text.
Vocabularies, quantiles, means and scales are learnt from items of the training part alone and kept in a
:class:`FeatureSchema`, by which items of a later day are encoded in the same way. :class:`ItemColumns` holds the plain
columns, as rules of a list read them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from recgraph.config import Config, nearest_names
from recgraph.data.errors import DataError, MissingColumnError, listed
from recgraph.data.ids import IdMap
from recgraph.sparse.csr import Csr
from recgraph.sparse.ragged import Ragged

_log = logging.getLogger(__name__)
Kind = Literal["category", "words", "number", "vector"]
#: the intervals that the training items' numbers are cut into, each with about as many of them
N_INTERVALS = 8
_WORD = r"[\p{L}\p{N}]+"


class FeatureSpec(Config):
    """One wanted column of the item features."""

    name: Annotated[str, Field(description="the column")]
    kind: Annotated[
        Kind | None, Field(description="how it is read; none: by its type (numbers: 'number', texts: 'category')")
    ] = None


def _is_list(wish: Any) -> Any:
    if isinstance(wish, str) and wish != "all":
        raise ValueError(f"give 'all' or a list of columns, as [{wish!r}]")
    return wish


#: what a model asks for: ``"all"`` columns, or some, by name or with their kind
FeatureWish = Annotated[Literal["all"] | tuple[str | FeatureSpec, ...], BeforeValidator(_is_list)]


class FeatureColumn(Config):
    """What is learnt of one column.

    Attributes:
        values: of a category or of words: the vocabulary, in its order.
        edges: of a number: the bounds of the intervals.
        means: of a number (a mean for each interval) or a vector: what is subtracted.
        scale: what the rest is divided by, so that the mean squared norm of the training items' rows is 1.
    """

    name: str
    kind: Kind
    values: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()
    means: tuple[float, ...] = ()
    scale: float = 1.0

    @property
    def n_entries(self) -> int:
        """Sparse columns: one for items without the feature, then one for each value."""
        return 1 + len(self.values)


class FeatureSchema(Config):
    """What is learnt of all columns, as plain JSON values."""

    columns: tuple[FeatureColumn, ...]

    @property
    def n_entries(self) -> int:
        """The sparse columns of all features."""
        return sum(column.n_entries for column in self.columns)

    @property
    def width(self) -> int:
        """The dense columns of all features."""
        return sum(len(column.means) for column in self.columns)

    @property
    def missing(self) -> list[int]:
        """For each feature the sparse column of the items that do not have it."""
        sizes = [column.n_entries for column in self.columns]
        return [sum(sizes[:place]) for place in range(len(sizes))]

    @classmethod
    def learn(cls, table: pl.DataFrame, wish: FeatureWish) -> Self:
        """Learn the columns from the items of the training part.

        Args:
            table: a row a training item, its features in their own types; no column of ids.
            wish: the columns. ``"all"`` leaves out what cannot be used as it is, and a single text that is another one
                for most items (a title); what it takes and leaves out is logged.
        """
        if wish == "all":
            return cls(columns=tuple(_usable(table)))
        learnt = [_learn(table[spec.name], spec.kind or _kind_of(table[spec.name])) for spec in _specs(table, wish)]
        return cls(columns=tuple(learnt))


@dataclass(frozen=True, eq=False)
class ItemFeatures:
    """The encoded features of a catalogue, in the order of its item indices.

    Attributes:
        schema: by which they are encoded.
        entries: [n_items, schema.n_entries]: 1 / k for each of the k known values of a category or of words; 1 in a
            feature's first column where the item has none of it.
        dense: [n_items, schema.width] float32, numbers and vectors, centred and scaled; zeros where missing.
    """

    schema: FeatureSchema
    entries: Csr
    dense: Tensor

    @property
    def n_items(self) -> int:
        return self.entries.shape[0]

    @classmethod
    def learn(cls, features: pl.DataFrame | None, key: str, items: IdMap, known: Tensor, wish: FeatureWish) -> Self:
        """Learn the columns from the items that occur in training, and encode all items of the catalogue.

        Args:
            features: a row an item, by its id in the column ``key``; items without a row have no feature.
            items: the catalogue.
            known: [n_items] bool, the items that occur in the training part.
            wish: the columns.
        """
        if features is None:
            raise DataError(f"item_features = {wish!r}: the log has none; give with_features(item_features=frame)")
        table = _aligned(features, key, items)
        return cls.encode(FeatureSchema.learn(table.filter(pl.Series(known.numpy())), wish), features, key, items)

    @classmethod
    def encode(cls, schema: FeatureSchema, features: pl.DataFrame, key: str, items: IdMap) -> Self:
        """Encode a catalogue by what was learnt before, perhaps of another one.

        Values that the vocabulary does not have are left out, as if the item had not got them; numbers beyond the
        first and last bound count as these.
        """
        table = _aligned(features, key, items)
        rows, cols, weights, dense, first = [], [], [], [], 0
        for column in schema.columns:
            if column.name not in table.columns:
                raise MissingColumnError(f"the item features have no column {column.name!r}; {_there(table)}")
            series = table[column.name]
            if column.values:
                where, value, share = _shares(series, column)
            else:
                numbers, missing_mask = _numbers(series, column)
                dense.append(numbers)
                where = np.flatnonzero(missing_mask)
                value, share = np.zeros(len(where), dtype=np.int64), np.ones(len(where))
            rows.append(where)
            cols.append(first + value)
            weights.append(share)
            first += column.n_entries
        entries = Csr.from_coo(
            torch.from_numpy(np.concatenate(rows)),
            torch.from_numpy(np.concatenate(cols)),
            torch.from_numpy(np.concatenate(weights)).to(torch.float32),
            shape=(len(items), schema.n_entries),
        )
        wide = np.concatenate([np.zeros((len(items), 0)), *dense], 1)
        return cls(schema, entries, torch.from_numpy(wide).to(torch.float32))

    def tensors(self) -> dict[str, Tensor]:
        """The encoded columns, to be saved; :meth:`from_tensors` reads them."""
        entries = {"indptr": self.entries.indptr, "indices": self.entries.indices, "weights": self.entries.values()}
        return {**entries, "dense": self.dense}

    @classmethod
    def from_tensors(cls, schema: FeatureSchema, tensors: Mapping[str, Tensor]) -> Self:
        """What :meth:`tensors` gave."""
        shape = (tensors["indptr"].numel() - 1, schema.n_entries)
        entries = Csr(tensors["indptr"], tensors["indices"], tensors["weights"], shape).checked()
        return cls(schema, entries, tensors["dense"])


def _aligned(features: pl.DataFrame, key: str, items: IdMap) -> pl.DataFrame:
    """The feature columns with a row for each item of the catalogue, nulls where the frame has none."""
    rows = pl.Series(feature_rows(items, features[key]).numpy()).replace(-1, None)
    return features.drop(key).select(pl.all().gather(rows)) if features.width > 1 else pl.DataFrame()


def _specs(table: pl.DataFrame, wish: Sequence[str | FeatureSpec]) -> list[FeatureSpec]:
    specs = [FeatureSpec(name=spec) if isinstance(spec, str) else spec for spec in wish]
    names = [spec.name for spec in specs]
    for name in names:
        if name not in table.columns:
            raise MissingColumnError(f"item_features: there is no column {name!r}; {_there(table)}")
        if names.count(name) > 1:
            raise DataError(f"item_features names column {name!r} twice")
    return specs


def _usable(table: pl.DataFrame) -> list[FeatureColumn]:
    """What is learnt of the columns that can be used as they are."""
    usable = []
    for series in table:
        try:
            column = _learn(series, _kind_of(series))
        except DataError as error:
            _log.info("left out of item_features = 'all': %s", error)
            continue
        # a single text that is another one for most items (a title): no other item could learn from it
        if column.kind == "category" and not series.dtype.is_nested() and 2 * len(column.values) > series.count():
            _log.info("left out of item_features = 'all': column %r has another text for most items", series.name)
        else:
            usable.append(column)
    if not usable:
        raise DataError(f"item_features = 'all': no column can be used; {_there(table)}")
    _log.info("item features: %s", ", ".join(f"{column.name} ({column.kind})" for column in usable))
    return usable


def _there(table: pl.DataFrame) -> str:
    return f"the columns are {listed(table.columns) or 'none'}"


def _kind_of(series: pl.Series) -> Kind:
    dtype = series.dtype
    if isinstance(dtype, pl.Array) or (isinstance(dtype, pl.List) and dtype.inner.is_float()):
        return "vector"
    return "number" if dtype.is_numeric() or dtype.is_temporal() else "category"


def _learn(series: pl.Series, kind: Kind) -> FeatureColumn:
    if kind in ("category", "words"):
        values = _pairs(series, kind)["value"].unique().sort().to_list()
        if not values:
            raise _no_value(series)
        return FeatureColumn(name=series.name, kind=kind, values=tuple(values))
    column = FeatureColumn(name=series.name, kind=kind)
    if kind == "number":
        given = _as_floats(series)
        there = given[np.isfinite(given)]
        if not len(there):
            raise _no_value(series)
        low, high = float(there.min()), float(there.max())
        if not np.isfinite(high - low):
            raise DataError(f"item_features: column {series.name!r} holds numbers from {low:g} to {high:g}; scale them")
        edges = np.unique(np.quantile(there, np.linspace(0, 1, N_INTERVALS + 1)))
        if len(edges) == 1:  # nothing can be learnt from one number, but from its absence
            edges = np.append(edges, max(low + 1.0, np.nextafter(low, np.inf)))
        column = FeatureColumn(name=series.name, kind=kind, edges=tuple(edges.tolist()))
    raw, missing_mask = _raw(series, column)
    if missing_mask.all() or not raw.shape[1]:
        raise _no_value(series)
    present = raw[~missing_mask]
    means = present.mean(0)
    scale = float(np.sqrt(((present - means) ** 2).sum(1).mean())) or 1.0
    return column.model_copy(update={"means": tuple(means.tolist()), "scale": scale})


def _no_value(series: pl.Series) -> DataError:
    return DataError(f"item_features: column {series.name!r} has no value for any item of the training part")


def _pairs(series: pl.Series, kind: Kind) -> pl.DataFrame:
    """Columns ``row`` and ``value`` (text), each pair once; nulls and empty texts give none."""
    name, dtype = series.name, series.dtype
    inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
    if inner.is_nested() or inner == pl.Object or (kind == "words" and inner != pl.String):
        raise DataError(f"item_features: column {name!r} of type {dtype} cannot be read as kind {kind!r}")
    pairs = pl.DataFrame({"row": pl.Series(range(len(series)), dtype=pl.Int64), "value": series})
    if dtype.is_nested():
        pairs = pairs.explode("value")
    if inner.is_float():  # whole numbers that a missing value made floats
        whole = pl.col("value").cast(pl.Int64, strict=False)
        is_whole = whole.cast(inner) == pl.col("value")
        text = pl.when(is_whole).then(whole.cast(pl.String)).otherwise(pl.col("value").cast(pl.String))
        pairs = pairs.filter(pl.col("value").is_not_nan()).with_columns(text.alias("value"))
    pairs = pairs.with_columns(pl.col("value").cast(pl.String))
    if kind == "words":
        pairs = pairs.with_columns(pl.col("value").str.to_lowercase().str.extract_all(_WORD)).explode("value")
    return pairs.filter(pl.col("value").is_not_null() & (pl.col("value") != "")).unique(maintain_order=True)


def _shares(series: pl.Series, column: FeatureColumn) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Row, place within the feature's sparse columns and weight of each entry."""
    known = pl.DataFrame({"value": column.values, "place": np.arange(1, len(column.values) + 1)})
    pairs = _pairs(series, column.kind).join(known, on="value", how="inner", maintain_order="left")
    rows = pairs["row"].to_numpy()
    counts = np.bincount(rows, minlength=len(series))
    without = np.flatnonzero(counts == 0)
    return (
        np.concatenate([rows, without]),
        np.concatenate([pairs["place"].to_numpy(), np.zeros(len(without), dtype=np.int64)]),
        np.concatenate([1 / counts[rows], np.ones(len(without))]),
    )


def _numbers(series: pl.Series, column: FeatureColumn) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """[n, W] centred and scaled numbers, zeros where missing; [n] bool, where they are missing."""
    raw, missing_mask = _raw(series, column)
    if raw.shape[1] != len(column.means):
        raise DataError(
            f"item_features: column {column.name!r} has vectors of length {raw.shape[1]}, not {len(column.means)}"
        )
    scaled = (raw - np.array(column.means)) / column.scale
    scaled[missing_mask] = 0
    return scaled, missing_mask


def _raw(series: pl.Series, column: FeatureColumn) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """[n, W]: of a number, how much of each interval lies below it (0 to 1); a vector as it is."""
    if column.kind == "vector":
        return _as_vectors(series)
    numbers = _as_floats(series)
    edges = np.array(column.edges)
    filled = np.clip((numbers[:, None] - edges[:-1]) / np.diff(edges), 0, 1)
    missing_mask = ~np.isfinite(numbers)
    filled[missing_mask] = 0
    return filled, missing_mask


def _as_floats(series: pl.Series) -> npt.NDArray[Any]:
    """[n] float64, NaN where missing; times as microseconds."""
    dtype = series.dtype
    if not (dtype.is_numeric() or dtype.is_temporal() or dtype in (pl.Boolean, pl.String, pl.Null)):
        raise DataError(f"item_features: column {series.name!r} of type {dtype} holds no numbers")
    plain = series
    if series.dtype in (pl.Date, pl.Datetime):
        plain = series.dt.epoch("us")
    elif series.dtype.is_temporal():
        plain = series.to_physical()
    numbers = plain.cast(pl.Float64, strict=False)
    if numbers.null_count() > plain.null_count():
        bad = plain.filter(numbers.is_null() & plain.is_not_null())[0]
        raise DataError(f"item_features: column {series.name!r} holds {bad!r}, which is no number; make it a null")
    return numbers.fill_null(float("nan")).to_numpy().astype(np.float64)


def _as_vectors(series: pl.Series) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    name, dtype = series.name, series.dtype
    if not (isinstance(dtype, pl.List | pl.Array) and dtype.inner.is_numeric()):
        raise DataError(f"item_features: column {name!r} of type {dtype} holds no vectors (lists or arrays of numbers)")
    lists = series.arr.to_list() if isinstance(dtype, pl.Array) else series
    widths = lists.list.len().drop_nulls().unique().sort().to_list()
    if len(widths) > 1:
        raise DataError(f"item_features: column {name!r} holds vectors of lengths {widths}; all need the same")
    values = np.full((len(series), widths[0] if widths else 0), np.nan)
    if values.size:  # never as Python numbers, which take six times the memory
        entries = lists.drop_nulls().explode().cast(pl.Float64).fill_null(float("nan"))
        values[lists.is_not_null().to_numpy()] = entries.to_numpy().reshape(-1, values.shape[1])
    missing_mask = np.logical_not(np.isfinite(values).all(axis=1))
    values[missing_mask] = 0
    return values, missing_mask


class ItemColumns:
    """The item features, a row an item by its id in the column ``key``, as rules read them."""

    def __init__(self, items: IdMap, features: pl.DataFrame | None, key: str) -> None:
        self._items, self._features, self._key = items, features, key
        # threads that read the same column at once make it twice and keep either
        self._values: dict[tuple[str, str | None], tuple[Tensor, pl.Series]] = {}
        self._numbers: dict[str, Tensor] = {}
        self._rows: Tensor | None = None

    def numbers(self, column: str, setting: str) -> Tensor:
        """[n_items] float64, NaN where an item has none; ``setting`` is named in errors."""
        found = self._numbers.get(column)
        if found is None:
            series = self._column(column, setting)
            if not (series.dtype.is_numeric() or series.dtype == pl.Boolean):
                raise ValueError(f"{setting}: column {column!r} holds {series.dtype}, no numbers; give value=...")
            values = series.cast(pl.Float64).fill_null(float("nan"))
            found = self._numbers[column] = torch.from_numpy(values.to_numpy().copy())
        return found

    def codes(self, column: str, setting: str, separator: str | None = None) -> Tensor:
        """[n_items, m] int64: a code for each distinct value of an item, -1 behind the last; m is at least 1."""
        return self._coded(column, setting, separator)[0]

    def holds(self, column: str, value: object, setting: str, separator: str | None = None) -> Tensor:
        """[n_items] bool: the items that have the value, alone or among others."""
        codes, values = self._coded(column, setting, separator)
        texts = values.cast(pl.String)
        if values.dtype.is_numeric() and isinstance(value, int | float) and not isinstance(value, bool):
            same = values == value
        else:
            same = texts.str.to_lowercase() == str(value).lower() if values.dtype == pl.Boolean else texts == str(value)
        if not same.any():
            near = nearest_names(str(value), texts.to_list()) or texts.head(5).to_list()
            raise ValueError(f"{setting}: no item has {value!r} in column {column!r}; it has {', '.join(near)}, ...")
        return (codes == int(same.arg_max() or 0)).any(1)

    def _coded(self, column: str, setting: str, separator: str | None) -> tuple[Tensor, pl.Series]:
        found = self._values.get((column, separator))
        if found is None:
            found = self._code(self._column(column, setting), separator)
            self._values[column, separator] = found
        return found

    def _code(self, series: pl.Series, separator: str | None) -> tuple[Tensor, pl.Series]:
        """Codes [n_items, m] and the value of each code."""
        table = pl.DataFrame({"item": range(len(series)), "value": series}, schema_overrides={"item": pl.Int64})
        if series.dtype == pl.String and separator is not None:
            table = table.with_columns(pl.col("value").str.split(separator).list.eval(pl.element().str.strip_chars()))
        if isinstance(table["value"].dtype, pl.Array):
            table = table.with_columns(pl.col("value").arr.to_list())
        if isinstance(table["value"].dtype, pl.List):
            table = table.explode("value")
        table = table.filter(pl.col("value").is_not_null())
        if table["value"].dtype == pl.String:
            table = table.filter(pl.col("value") != "")
        if table["value"].dtype.is_float():  # NaN is no value, as numbers() reads it
            table = table.filter(pl.col("value").is_not_nan())
        table = table.unique(maintain_order=True)
        values = table["value"].unique().sort()
        codes = table["value"].rank("dense").cast(pl.Int64) - 1
        lengths = torch.bincount(torch.from_numpy(table["item"].to_numpy().copy()), minlength=len(series))
        rows = Ragged.from_lengths(torch.from_numpy(codes.to_numpy().copy()), lengths)
        return rows.to_padded(fill=-1, width=max(int(lengths.max()), 1)), values

    def _column(self, column: str, setting: str) -> pl.Series:
        """[n_items], null where an item has no row."""
        there = [] if self._features is None else [name for name in self._features.columns if name != self._key]
        if self._features is None or column not in there:
            near = nearest_names(column, there) or there or ["none: fit with item_features"]
            raise ValueError(f"{setting}: {column!r} is no column of the item features; there are {', '.join(near)}")
        if self._rows is None:
            self._rows = feature_rows(self._items, self._features[self._key])
        return self._features[column].gather(pl.Series(self._rows.numpy()).replace(-1, None))


def feature_rows(items: IdMap, ids: pl.Series) -> Tensor:
    """[n_items] int64: the row of each item in the features, -1 where it has none."""
    index = torch.from_numpy(items.index(ids, "ids of the item features"))
    rows = torch.full((len(items),), -1)
    rows[index[index >= 0]] = (index >= 0).nonzero().flatten()
    return rows
