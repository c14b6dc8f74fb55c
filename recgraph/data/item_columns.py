"""Columns of the item features in the order of the model's items, each read once."""

from __future__ import annotations

import polars as pl
import torch
from torch import Tensor

from recgraph.config import nearest_names
from recgraph.data.ids import IdMap
from recgraph.sparse.ragged import Ragged


class ItemColumns:
    """The item features as rules read them.

    Args:
        items: index <-> id.
        features: a row an item, or None.
        key: the column of ids in ``features``.
    """

    def __init__(self, items: IdMap, features: pl.DataFrame | None, key: str) -> None:
        self._items, self._features, self._key = items, features, key
        # threads that read the same column at once make it twice and keep either
        self._values: dict[tuple[str, str | None], tuple[Tensor, pl.Series]] = {}
        self._numbers: dict[str, Tensor] = {}
        self._rows: Tensor | None = None

    def numbers(self, column: str, setting: str) -> Tensor:
        """[n_items] float64, NaN where an item has none.

        Args:
            setting: the name of the rule, for errors.

        Raises:
            ValueError: there is no such column, or it holds no numbers.
        """
        found = self._numbers.get(column)
        if found is None:
            series = self._column(column, setting)
            if not (series.dtype.is_numeric() or series.dtype == pl.Boolean):
                raise ValueError(f"{setting}: column {column!r} holds {series.dtype}, no numbers; give value=...")
            values = series.cast(pl.Float64).fill_null(float("nan"))
            found = self._numbers[column] = torch.from_numpy(values.to_numpy().copy())
        return found

    def codes(self, column: str, setting: str, separator: str | None = None) -> Tensor:
        """[n_items, m] int64: a code for each distinct value of an item, -1 behind the last; m is at least 1.

        Raises:
            ValueError: there is no such column.
        """
        return self._coded(column, setting, separator)[0]

    def holds(self, column: str, value: object, setting: str, separator: str | None = None) -> Tensor:
        """[n_items] bool: the items that have the value, alone or among others.

        Raises:
            ValueError: there is no such column, or no item has the value; names the nearest ones.
        """
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
