"""Item features as the inputs of models: what is learnt of their columns, and the encoded columns
of a catalogue.

A column is one of four kinds. **category**: one or several values of each item; **words**: a text,
as the set of its words; **number**: numbers or times; **vector**: a list of numbers of one length,
such as the embedding of a text. Vocabularies, quantiles, means and scales are learnt from items of
the training part alone.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from pydantic import Field
from torch import Tensor

from recgraph.config import Config, nearest_names
from recgraph.data.dataframe import exploded
from recgraph.data.ids import IdMap, listed
from recgraph.files import DataError
from recgraph.sparse.csr import Csr
from recgraph.sparse.ragged import Ragged

_log = logging.getLogger(__name__)
Kind = Literal["category", "words", "number", "vector"]
#: the intervals that the training items' numbers are cut into, each with about as many of them
_N_INTERVALS = 8
_WORD = r"[\p{L}\p{N}]+"


class FeatureSpec(Config):
    """One wanted column of the item features."""

    name: Annotated[str, Field(description="the column")]
    kind: Annotated[
        Kind | None,
        Field(
            description="how it is read; none: by its type (numbers: 'number', texts: 'category')"
        ),
    ] = None


#: what a model asks for: ``"all"`` columns, or some, by name or with their kind
FeatureWish = Literal["all"] | tuple[str | FeatureSpec, ...]


class FeatureColumn(Config):
    """What is learnt of one column: the vocabulary of a category or of words; the bounds of a
    number's intervals; of a number or a vector the means that are subtracted, and the scale that
    gives rows the mean squared norm 1."""

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
        before = itertools.accumulate((column.n_entries for column in self.columns), initial=0)
        return list(before)[:-1]

    @classmethod
    def learn(cls, table: pl.DataFrame, wish: FeatureWish) -> Self:
        """Learn the columns from the items of the training part, a row each, without a column of
        ids.

        ``"all"`` leaves out what cannot be used as it is, and a single text that is another one for
        most items (a title); what it takes and leaves out is logged.
        """
        if wish == "all":
            return cls(columns=tuple(_usable(table)))
        columns = []
        for spec in wish:
            if isinstance(spec, str):
                spec = FeatureSpec(name=spec)
            columns.append(_learn(_column(table, spec.name), spec.kind))
        return cls(columns=tuple(columns))


@dataclass(frozen=True, eq=False)
class ItemFeatures:
    """The encoded features of a catalogue, in the order of its item indices.

    Attributes:
        schema: by which they are encoded.
        entries: [n_items, schema.n_entries]: 1 / k for each of the k known values of a category or
            of words; 1 in a feature's first column where the item has none of it.
        dense: [n_items, schema.width] float32, numbers and vectors, centred and scaled; zeros where
            missing.
    """

    schema: FeatureSchema
    entries: Csr
    dense: Tensor

    @property
    def n_items(self) -> int:
        return self.entries.shape[0]

    @classmethod
    def learn(
        cls, features: pl.DataFrame | None, key: str, items: IdMap, known: Tensor, wish: FeatureWish
    ) -> Self:
        """Learn the columns from the ``known`` items [n_items], those in training, and encode the
        whole catalogue.

        ``features`` has a row an item, by its id in the column ``key``; items without a row have no
        feature.
        """
        if features is None:
            raise DataError(
                f"item_features = {wish!r}: the log has none; give with_features(item_features=frame)"
            )
        table = _aligned(features, key, items)
        schema = FeatureSchema.learn(table.filter(pl.Series(known.numpy())), wish)
        return cls.encode(schema, features, key, items)

    @classmethod
    def encode(cls, schema: FeatureSchema, features: pl.DataFrame, key: str, items: IdMap) -> Self:
        """Encode a catalogue by what was learnt before; values that the vocabulary does not have
        are left out, numbers beyond the first and last bound count as these."""
        table = _aligned(features, key, items)
        rows, cols, weights = [], [], []
        dense = [np.zeros((len(items), 0))]
        first = 0
        for column in schema.columns:
            series = _column(table, column.name)
            with _naming(series, column.kind):
                if column.values:
                    entries = _shares(series, column)
                else:
                    numbers, missing_mask = _centred(series, column)
                    dense.append(numbers)
                    entries = _missing_entries(missing_mask)
            rows.append(entries[0])
            cols.append(first + entries[1])
            weights.append(entries[2])
            first += column.n_entries
        sparse = Csr.from_coo(
            torch.from_numpy(np.concatenate(rows)),
            torch.from_numpy(np.concatenate(cols)),
            torch.from_numpy(np.concatenate(weights)).to(torch.float32),
            shape=(len(items), schema.n_entries),
        )
        wide = torch.from_numpy(np.concatenate(dense, 1)).to(torch.float32)
        return cls(schema, sparse, wide)

    def tensors(self) -> dict[str, Tensor]:
        """The encoded columns, to be saved; :meth:`from_tensors` reads them."""
        entries = {
            "indptr": self.entries.indptr,
            "indices": self.entries.indices,
            "weights": self.entries.values(),
        }
        return {**entries, "dense": self.dense}

    @classmethod
    def from_tensors(cls, schema: FeatureSchema, tensors: Mapping[str, Tensor]) -> Self:
        """What :meth:`tensors` gave."""
        shape = (tensors["indptr"].numel() - 1, schema.n_entries)
        entries = Csr(tensors["indptr"], tensors["indices"], tensors["weights"], shape).checked()
        return cls(schema, entries, tensors["dense"])


def _aligned(features: pl.DataFrame, key: str, items: IdMap) -> pl.DataFrame:
    """The feature columns with a row for each item of the catalogue, nulls where the frame has
    none.
    """
    rows = pl.Series(feature_rows(items, features[key]).numpy()).replace(-1, None)
    return features.drop(key).select(pl.all().gather(rows))


def _column(table: pl.DataFrame, name: str) -> pl.Series:
    if name not in table.columns:
        there = listed(table.columns)
        raise DataError(f"item_features: there is no column {name!r}; the columns are {there}")
    return table[name]


@contextmanager
def _naming(series: pl.Series, kind: Kind) -> Iterator[None]:
    """What a library says of a column inside the block is an error that names it."""
    try:
        yield
    except (ValueError, pl.exceptions.PolarsError) as error:
        what = f"column {series.name!r} of type {series.dtype} cannot be read as kind {kind!r}"
        raise DataError(f"item_features: {what}: {error}") from None


def _usable(table: pl.DataFrame) -> list[FeatureColumn]:
    """What is learnt of the columns that can be used as they are."""
    usable = []
    for series in table:
        try:
            column = _learn(series)
        except DataError as error:
            _log.info("left out of item_features = 'all': %s", error)
            continue
        # a single text that is another one for most items (a title): no other item could learn from
        # it
        is_text = column.kind == "category" and not series.dtype.is_nested()
        if is_text and 2 * len(column.values) > series.count():
            _log.info(
                "left out of item_features = 'all': column %r has another text for most items",
                series.name,
            )
        else:
            usable.append(column)
    if not usable:
        raise DataError(
            f"item_features = 'all': no column can be used; there are {listed(table.columns)}"
        )
    _log.info("item features: %s", ", ".join(f"{column.name} ({column.kind})" for column in usable))
    return usable


def _learn(series: pl.Series, kind: Kind | None = None) -> FeatureColumn:
    kind = kind or _kind_of(series.dtype)
    with _naming(series, kind):
        column = FeatureColumn(name=series.name, kind=kind)
        if kind in ("category", "words"):
            values = _pairs(series, kind)["value"].unique().sort().to_list()
            _check_any(len(values))
            return column.model_copy(update={"values": tuple(values)})
        if kind == "number":
            column = column.model_copy(update={"edges": _edges(series)})
        raw, missing_mask = _raw(series, column)
        present = raw[~missing_mask]
        _check_any(present.size)
        means = present.mean(0)
        scale = float(np.sqrt(((present - means) ** 2).sum(1).mean())) or 1.0
        return column.model_copy(update={"means": tuple(means.tolist()), "scale": scale})


def _kind_of(dtype: pl.DataType) -> Kind:
    """How a column is read whose kind is not given."""
    if dtype.is_numeric() or dtype.is_temporal():
        return "number"
    is_vector = isinstance(dtype, pl.Array) or dtype in (pl.List(pl.Float32), pl.List(pl.Float64))
    return "vector" if is_vector else "category"


def _edges(series: pl.Series) -> tuple[float, ...]:
    """The bounds of intervals that hold about as many of the numbers each."""
    numbers = _as_floats(series)
    numbers = numbers[np.isfinite(numbers)]
    _check_any(len(numbers))
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, _N_INTERVALS + 1)))
    if len(edges) == 1:  # nothing can be learnt from one number, but from its absence
        edges = np.append(edges, max(edges[0] + 1.0, np.nextafter(edges[0], np.inf)))
    return tuple(edges.tolist())


def _check_any(n: int) -> None:
    if not n:
        raise ValueError("it has no value for any item of the training part")


def _exploded(series: pl.Series) -> pl.DataFrame:
    """Columns ``row`` and ``value``: each plain value of each row."""
    return exploded(pl.DataFrame({"row": np.arange(len(series)), "value": series}), "value")


def _pairs(series: pl.Series, kind: Kind) -> pl.DataFrame:
    """Columns ``row`` and ``value`` (text), each pair once."""
    pairs = _exploded(series)
    dtype, value = pairs["value"].dtype, pl.col("value")
    if dtype.is_nested() or dtype == pl.Object:
        raise ValueError("it holds no plain values, or lists of them")
    if dtype.is_float():  # whole numbers that a missing value made floats
        integers = value.cast(pl.Int64, strict=False)
        is_whole = integers.cast(dtype) == value
        texts = pl.when(is_whole).then(integers.cast(pl.String)).otherwise(value.cast(pl.String))
        pairs = pairs.with_columns(texts)
    elif kind == "words":
        words = value.str.to_lowercase().str.extract_all(_WORD)
        pairs = pairs.with_columns(words).explode("value").drop_nulls()
    return pairs.with_columns(value.cast(pl.String)).unique(maintain_order=True)


Entries = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]


def _shares(series: pl.Series, column: FeatureColumn) -> Entries:
    """Row, place within the feature's sparse columns and weight of each entry."""
    known = pl.DataFrame({"value": column.values, "place": np.arange(1, len(column.values) + 1)})
    pairs = _pairs(series, column.kind).join(known, on="value", how="inner", maintain_order="left")
    rows = pairs["row"].to_numpy()
    counts = np.bincount(rows, minlength=len(series))
    present = (rows, pairs["place"].to_numpy(), 1 / counts[rows])
    missing = _missing_entries(counts == 0)
    return (
        np.concatenate([present[0], missing[0]]),
        np.concatenate([present[1], missing[1]]),
        np.concatenate([present[2], missing[2]]),
    )


def _missing_entries(missing_mask: npt.NDArray[Any]) -> Entries:
    """As :func:`_shares`, of the items that do not have a feature: 1 in its first column."""
    rows = np.flatnonzero(missing_mask)
    return rows, np.zeros(len(rows), dtype=np.int64), np.ones(len(rows))


def _centred(series: pl.Series, column: FeatureColumn) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """[n, W] and [n] bool, as of :func:`_raw`, without the means and to scale."""
    raw, missing_mask = _raw(series, column)
    numbers = (raw - np.array(column.means)) / column.scale
    numbers[missing_mask] = 0
    return numbers, missing_mask


def _raw(series: pl.Series, column: FeatureColumn) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """[n, W] and [n] bool, where they are missing: of a number, how much of each interval lies
    below it (0 to 1); a vector as it is. Zeros where missing."""
    if column.kind == "vector":
        lists = series.arr.to_list() if isinstance(series.dtype, pl.Array) else series
        width = max(lists.list.len().drop_nulls().to_list(), default=0)
        # never as Python numbers, which take six times the memory
        values = lists.cast(pl.List(pl.Float64)).list.to_array(width).to_numpy().copy()
        missing_mask = ~np.isfinite(values).all(axis=1)
    else:
        numbers = _as_floats(series)
        edges = np.array(column.edges)
        values = np.clip((numbers[:, None] - edges[:-1]) / np.diff(edges), 0, 1)
        missing_mask = ~np.isfinite(numbers)
    values[missing_mask] = 0
    return values, missing_mask


def _as_floats(series: pl.Series) -> npt.NDArray[Any]:
    """[n] float64, NaN where missing; times as microseconds."""
    if series.dtype in (pl.Date, pl.Datetime):
        series = series.dt.epoch("us")
    elif series.dtype.is_temporal():
        series = series.to_physical()
    return series.cast(pl.Float64).fill_null(float("nan")).to_numpy().astype(np.float64)


class ItemColumns:
    """The item features, a row an item by its id in the column ``key``, as rules read them."""

    def __init__(self, items: IdMap, features: pl.DataFrame | None, key: str) -> None:
        self._items, self._features, self._key = items, features, key
        # threads that read the same column at once make it twice and keep either
        self._values: dict[tuple[str, str | None], tuple[Tensor, pl.Series]] = {}

    def numbers(self, column: str, setting: str) -> Tensor:
        """[n_items] float64, NaN where an item has none; ``setting`` is named in errors."""
        series = self._column(column, setting)
        if not (series.dtype.is_numeric() or series.dtype == pl.Boolean):
            raise ValueError(
                f"{setting}: column {column!r} holds {series.dtype}, no numbers; give value=..."
            )
        return torch.from_numpy(_as_floats(series).copy())

    def codes(self, column: str, setting: str, separator: str | None = None) -> Tensor:
        """[n_items, m] int64: a code for each distinct value of an item, -1 behind the last; m is
        at least 1.
        """
        return self._coded(column, setting, separator)[0]

    def holds(
        self, column: str, value: object, setting: str, separator: str | None = None
    ) -> Tensor:
        """[n_items] bool: the items that have the value, alone or among others."""
        codes, values = self._coded(column, setting, separator)
        texts = values.cast(pl.String)
        wanted = str(value).lower() if values.dtype == pl.Boolean else str(value)
        same = texts == wanted
        if values.dtype.is_numeric() and type(value) in (int, float):
            same = values == value
        if not same.any():
            near = nearest_names(str(value), texts.to_list()) or texts.head(5).to_list()
            raise ValueError(
                f"{setting}: no item has {value!r} in column {column!r}; it has {', '.join(near)}, ..."
            )
        return (codes == int(same.arg_max() or 0)).any(1)

    def _coded(self, column: str, setting: str, separator: str | None) -> tuple[Tensor, pl.Series]:
        """Codes [n_items, m] and the value of each code."""
        if (column, separator) not in self._values:
            series = self._column(column, setting)
            if series.dtype == pl.String and separator is not None:
                series = series.str.split(separator).list.eval(pl.element().str.strip_chars())
            table = _exploded(series).unique(maintain_order=True)
            values = table["value"].unique().sort()
            codes = table["value"].rank("dense").cast(pl.Int64) - 1
            items = torch.from_numpy(table["row"].to_numpy().copy())
            lengths = torch.bincount(items, minlength=len(series))
            rows = Ragged.from_lengths(torch.from_numpy(codes.to_numpy().copy()), lengths)
            padded = rows.to_padded(fill=-1, width=max(int(lengths.max()), 1))
            self._values[column, separator] = (padded, values)
        return self._values[column, separator]

    @cached_property
    def _table(self) -> pl.DataFrame:
        if self._features is None:
            return pl.DataFrame()
        return _aligned(self._features, self._key, self._items)

    def _column(self, column: str, setting: str) -> pl.Series:
        """[n_items], null where an item has no row."""
        there = self._table.columns
        if column not in there:
            near = nearest_names(column, there) or there or ["none: fit with item_features"]
            raise ValueError(
                f"{setting}: {column!r} is no column of the item features; there are {', '.join(near)}"
            )
        return self._table[column]


def feature_rows(items: IdMap, ids: pl.Series) -> Tensor:
    """[n_items] int64: the row of each item in the features, -1 where it has none."""
    index = torch.from_numpy(items.index(ids, "ids of the item features"))
    rows = torch.full((len(items),), -1)
    rows[index[index >= 0]] = (index >= 0).nonzero().flatten()
    return rows
