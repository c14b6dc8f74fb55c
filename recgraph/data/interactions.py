"""``Interactions``: a log of who did what when, encoded, filtered and ready to be split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from recgraph.data import ingest as filters
from recgraph.data import store
from recgraph.data.columns import Columns, TimeUnit
from recgraph.data.dataframe import FrameKind, attach, relation, to_native
from recgraph.data.diagnose import Source
from recgraph.data.errors import DataError, EmptyLogError, RatingError
from recgraph.data.ids import IdMap
from recgraph.data.ingest import Encoded
from recgraph.data.part import OrderedLog
from recgraph.data.reading import Readers

if TYPE_CHECKING:
    from recgraph.data.split import Split
    from recgraph.graph.hetero import HeteroGraph

__all__ = ["Interactions"]


@dataclass(frozen=True, eq=False)
class Interactions(Readers):
    """A log of interactions. Values are immutable: every method returns a new one.

    Users and items are numbered from 0 in the order in which they first appear in the log that is left after
    filtering.

    Attributes:
        log: columns ``row`` (in the file or frame, from 0), ``user``, ``item`` (indices) and, where given,
            ``time`` (int64, see ``time_unit``), ``rating``, ``weight``; in the order of ``row``.
        users, items: index <-> the user's own id.
        columns: the user's own names.
        time_unit: ``"us"`` unix microseconds of dates and texts, ``"seconds"`` microseconds of seconds that came in
            with fractions, ``"own"`` whole numbers as they came in, or ``"none"``.
        source: the file or frame, for errors.
        kind: the kind of frame that came in (``"polars"`` for files); outputs for people are of this kind.
        user_features, item_features: side information keyed by the user's own ids in the columns
            ``columns.user`` and ``columns.item``; may hold ids that are not in the log, or None.
        graph: what else relates users and items (friends, tags), and their features as vectors: a typed graph whose
            nodes ``user`` and ``item`` carry the user's own ids (without ids, the index is the id); may hold others
            than the log, or None.
    """

    log: pl.DataFrame
    users: IdMap
    items: IdMap
    columns: Columns
    time_unit: TimeUnit
    source: Source
    kind: FrameKind = "polars"
    user_features: pl.DataFrame | None = None
    item_features: pl.DataFrame | None = None
    graph: HeteroGraph | None = None

    @classmethod
    def of(cls, encoded: Encoded, columns: Columns, source: Source, kind: FrameKind = "polars") -> Interactions:
        """From an encoded log (for readers)."""
        return cls(encoded.log, encoded.users, encoded.items, columns, encoded.time_unit, source, kind)

    def with_features(
        self, user_features: Any = None, item_features: Any = None, graph: HeteroGraph | None = None
    ) -> Interactions:
        """With side information (frames of any kind, a typed graph); None leaves what is there.

        Raises:
            DataError: the key column is missing, its ids are of another type than the log's, or not unique; the graph
                has neither users nor items.
        """
        users, items = self.user_features, self.item_features
        if user_features is not None:
            users = attach(user_features, self.columns.user, self.users)
        if item_features is not None:
            items = attach(item_features, self.columns.item, self.items)
        if graph is not None and not {"user", "item"} & set(graph.nodes):
            raise DataError(f"graph has node types {graph.node_types}; name its users 'user' and its items 'item'")
        return replace(self, user_features=users, item_features=items, graph=graph if graph is not None else self.graph)

    def with_ids(self, users: Any = None, items: Any = None) -> Interactions:
        """With users and items that nobody has met yet: numbered behind those of the log, without interactions.

        What embeds nodes through their relations (:class:`recgraph.models.MEOWRec`) can recommend such items, and
        recommend to such users. Filters drop them, so filter first.

        Args:
            users, items: their ids (list, array or series); those of the log are skipped.

        Raises:
            ValueError: ids of another type than the log's, or one that is missing.
        """
        return replace(
            self,
            users=self.users if users is None else self.users.extended(users),
            items=self.items if items is None else self.items.extended(items),
        )

    @property
    def n_users(self) -> int:
        return len(self.users)

    @property
    def n_items(self) -> int:
        return len(self.items)

    @property
    def n_interactions(self) -> int:
        return len(self.log)

    def __len__(self) -> int:
        return len(self.log)

    def __repr__(self) -> str:
        return f"Interactions({self.n_users:,} users, {self.n_items:,} items, {len(self):,} interactions)"

    def k_core(self, users: int = 5, items: int = 5) -> Interactions:
        """Only users and items with at least so many interactions, iterated to the fixed point."""
        if users < 0 or items < 0:
            raise ValueError(f"users = {users}, items = {items}: smallest counts are at least 0")
        rows = filters.k_core(self.log["user"].to_numpy(), self.log["item"].to_numpy(), users, items)
        kept = self.log if len(rows) == len(self.log) else self.log[rows]
        return self._filtered(kept, f"k_core(users={users}, items={items})")

    def min_rating(self, threshold: float, negative: Literal["error", "drop"] = "error") -> Interactions:
        """Only interactions with a rating of at least ``threshold``.

        Args:
            threshold: in the unit of the ratings.
            negative: a rating below 0 often stands for "not rated", so it is an error unless it is to be
                dropped.

        Raises:
            DataError: the log has no rating.
            RatingError: a rating is negative; names the row or line.
        """
        if "rating" not in self.log.columns:
            raise DataError("min_rating needs a rating: name its column when reading (rating=...)")
        if negative == "error":
            below = self.log.filter(pl.col("rating") < 0)
            if len(below):
                message = (
                    f"the rating {below['rating'][0]:g} is negative ({len(below):,} such); if it stands "
                    "for 'not rated', use min_rating(..., negative='drop')"
                )
                raise self.source.error(RatingError, message, row=int(below["row"][0]))
        kept = self.log.filter((pl.col("rating") >= threshold) & (pl.col("rating") >= 0))
        return self._filtered(kept, f"min_rating({threshold:g})")

    def deduplicate(self, policy: filters.Duplicates = "last") -> Interactions:
        """Of repeated pairs of user and item keep all, the first or the last (by time, then by row)."""
        return self._filtered(filters.duplicates(self.log, policy), f"deduplicate({policy!r})")

    def _filtered(self, log: pl.DataFrame, what: str) -> Interactions:
        """The kept rows, with users and items numbered anew in the order of first appearance."""
        if len(log) == len(self.log):
            return self
        if not len(log):
            raise EmptyLogError(f"{what} leaves none of {len(self.log):,} interactions")
        user, users = _renumber(log["user"], self.users)
        item, items = _renumber(log["item"], self.items)
        return replace(self, log=log.with_columns(user, item), users=users, items=items)

    def masked(self, keep_mask: npt.NDArray[np.bool_]) -> Interactions:
        """A part of the log, with users and items numbered as before.

        Args:
            keep_mask: [T] aligned with :attr:`ordered`.
        """
        rows = self.log["row"].to_numpy()
        keeps = np.zeros(int(rows[-1]) + 1 if len(rows) else 0, dtype=bool)
        keeps[self.ordered.rows.numpy()[keep_mask]] = True
        part = replace(self, log=self.log.filter(pl.Series(keeps[rows])))
        part.__dict__["ordered"] = self.ordered.filter(torch.from_numpy(keep_mask))
        return part

    @cached_property
    def ordered(self) -> OrderedLog:
        """Grouped by user, each by time and then by row."""
        return OrderedLog.of(self.log, self.n_users, self.n_items)

    def item_relation(self, column: str, separator: str = " ") -> pl.DataFrame:
        """A column of item features as pairs ``(item id, value)``: lists are unpacked, texts split."""
        return relation(self.item_features, self.columns.item, column, separator, "item")

    def user_relation(self, column: str, separator: str = " ") -> pl.DataFrame:
        """A column of user features as pairs ``(user id, value)``."""
        return relation(self.user_features, self.columns.user, column, separator, "user")

    def to_frame(self) -> Any:
        """The log with the user's own ids and column names, in the kind of frame that came in.

        Times that came in as dates or texts are datetimes in UTC, without a zone; numbers are numbers.
        """
        log = self.log
        if self.time_unit == "us":
            log = log.with_columns(pl.col("time").cast(pl.Datetime("us")))
        elif self.time_unit == "seconds":
            log = log.with_columns(pl.col("time") / 1e6)
        names = {"time": self.columns.timestamp, "rating": self.columns.rating, "weight": self.columns.weight}
        columns = [
            self.users.ids(log["user"].to_numpy()).alias(self.columns.user),
            self.items.ids(log["item"].to_numpy()).alias(self.columns.item),
            *(log[role].alias(name) for role, name in names.items() if name and role in log.columns),
        ]
        return to_native(pl.DataFrame(columns), self.kind)

    def save(self, folder: str | Path) -> None:
        """Write Parquet files and a JSON description into a folder, each atomically."""
        store.save(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> Interactions:
        """Read what :meth:`save` wrote."""
        return cls(**store.load(Path(folder)))

    def split(self, strategy: str = "leave-one-out", *, seed: int = 0, **params: Any) -> Split:
        """Split into train, valid and test.

        Args:
            strategy: ``"leave-one-out"``, ``"time"``, ``"ratio"`` or ``"users"``.
            seed: of the strategies that draw; the others ignore it.
            **params: of the strategy, see :mod:`recgraph.data.strategies`; an unknown one is an error.
        """
        from recgraph.data.split import make_split

        return make_split(self, strategy, seed, params)


def _renumber(codes: pl.Series, ids: IdMap) -> tuple[pl.Series, IdMap]:
    old = codes.to_numpy()
    first = np.full(len(ids), len(old), dtype=np.int64)
    # assigned from the back, so that the first appearance is what stays
    first[old[::-1]] = np.arange(len(old) - 1, -1, -1)
    kept = np.argsort(first, kind="stable")[: int((first < len(old)).sum())]
    new = np.empty(len(ids), dtype=np.int32)
    new[kept] = np.arange(len(kept), dtype=np.int32)
    return pl.Series(codes.name, new[old]), ids.take(kept)
