"""``InteractionLog``: encoded interactions as a value, with filters, side information and storage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from recgraph import registry
from recgraph.arguments import checked
from recgraph.data.columns import Columns, TimeUnit
from recgraph.data.dataframe import FrameKind, attach, relation, to_native
from recgraph.data.errors import DataError, EmptyLogError, RatingError, in_file
from recgraph.data.ids import IdMap, owned, renumbered
from recgraph.data.log_file import LogFile, Source
from recgraph.data.part import OrderedLog
from recgraph.data.relations import RelationGraph, check_graph
from recgraph.files import check_manifest, read_frame, read_object, replacing_folder, write_frame, write_json
from recgraph.notebook import block

Duplicates = Literal["all", "first", "last"]
#: the column of the part (0 train, 1 valid, 2 test) that an interaction was given in
PART = "part"


@dataclass(frozen=True, eq=False)
class InteractionLog:
    """A log of interactions with indices for ids. Values are immutable: every method returns a new one.

    Users and items are numbered from 0 in the order of their first appearance in the (filtered) log.

    Attributes:
        log: columns ``row`` (in the file or frame, from 0), ``user``, ``item`` (indices) and, where given, ``time``
            (int64, see ``time_unit``), ``rating``, ``weight``; and ``part``, where train, valid and test were given
            apart; in the order of ``row``.
        users, items: index <-> the user's own id.
        columns: the user's own column names.
        time_unit: ``"us"`` unix microseconds (from dates and texts), ``"seconds"`` microseconds (from seconds with
            fractions), ``"own"`` whole numbers as they came in, or ``"none"``.
        source: the file or frame, for error messages.
        kind: the kind of frame that came in (``"polars"`` for files), which is also the kind that goes out.
        user_features, item_features: side information, keyed by the user's own ids in the columns ``columns.user``
            and ``columns.item``; it may hold ids that the log does not have. Or None.
        graph: further relations of users and items (friends, tags) and their feature vectors: a typed graph whose
            nodes ``user`` and ``item`` carry the user's own ids (without ids, the index is the id). It may hold nodes
            that the log does not have. Or None.
        files: where all of it, and nothing else, was read from, with the columns that were found; or None.
        time_format: by which its times were read, by which those of later logs are read too; or None.
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
    graph: RelationGraph | None = None
    files: LogFile | None = None
    time_format: str | None = None

    @property
    def n_users(self) -> int:
        return len(self.users)

    @property
    def n_items(self) -> int:
        return len(self.items)

    @property
    def n_interactions(self) -> int:
        return len(self.log)

    @property
    def has_parts(self) -> bool:
        """Whether train, valid and test were given apart, for the split ``"given"``."""
        return PART in self.log.columns

    def __len__(self) -> int:
        return len(self.log)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.n_users:,} users, {self.n_items:,} items, {len(self):,} interactions)"

    def _repr_html_(self) -> str:
        """What is known without looking at the rows."""
        names = {name: column for name, column in self.columns.model_dump().items() if column is not None}
        features = {"users": self.user_features, "items": self.item_features}
        facts = {
            "users": self.n_users,
            "items": self.n_items,
            "interactions": len(self),
            "columns": names,
            "times": None if self.time_unit == "none" else self.time_unit,
            "features": {name: frame.width - 1 for name, frame in features.items() if frame is not None} or None,
            "relations": None if self.graph is None else repr(self.graph),
        }
        return block(type(self).__name__, facts)

    @checked
    def with_features(
        self, user_features: Any = None, item_features: Any = None, graph: RelationGraph | None = None
    ) -> Self:
        """Add side information (frames of any kind, a typed graph); None keeps what is there.

        Raises:
            DataError: the key column is missing, its ids are of another type than the log's, or not unique; what
                :func:`recgraph.data.relations.check_graph` says of the graph.
        """
        given = {"user_features": user_features, "item_features": item_features}
        new: dict[str, Any] = {}
        for name, frame in given.items():
            if frame is not None:
                new[name] = _owned(self._attached(name, frame))
        if graph is not None:
            check_graph(graph, self.users, self.items, (self.log["user"].to_numpy(), self.log["item"].to_numpy()))
            new["graph"] = graph
        return replace(self, **new, files=None) if new else self

    def with_feature_files(self, frames: Mapping[str, pl.DataFrame | None], files: Mapping[str, Path]) -> Self:
        """:meth:`with_features` of frames from files, which errors name; both by the names of its arguments."""
        new: dict[str, Any] = {}
        for name in _FEATURES:
            if (frame := frames.get(name)) is not None:
                with in_file(files[name]):
                    new[name] = self._attached(name, frame)
        return replace(self, **new, files=None) if new else self

    def _attached(self, name: str, frame: Any) -> pl.DataFrame:
        if name == "user_features":
            return attach(frame, self.columns.user, self.users, name)
        return attach(frame, self.columns.item, self.items, name)

    @checked
    def with_ids(self, users: Any = None, items: Any = None) -> Self:
        """Add users and items without interactions; their indices follow those of the log.

        Models that embed nodes through their relations (:class:`recgraph.models.MEOWRec`) can recommend such items, and
        recommend to such users; sequence models with ``item_features`` can recommend such items. Filters that leave
        an interaction out drop them, so filter first.

        Args:
            users, items: their ids (list, array or series); ids that the log already has are skipped.

        Raises:
            ValueError: ids of another type than the log's, or one that is missing.
        """
        return replace(
            self,
            users=self.users if users is None else self.users.extended(users),
            items=self.items if items is None else self.items.extended(items),
            files=None,
        )

    @checked
    def k_core(self, users: int = 5, items: int = 5) -> Self:
        """Keep users and items with at least so many interactions, iterated to the fixed point."""
        if users < 0 or items < 0:
            raise ValueError(f"users = {users}, items = {items}: smallest counts are at least 0")
        keep_mask = k_core(self.log["user"].to_numpy(), self.log["item"].to_numpy(), users, items)
        kept = self.log if keep_mask.all() else self.log.filter(pl.Series(keep_mask))
        return self._filtered(kept, f"k_core(users={users}, items={items})")

    @checked
    def min_rating(self, threshold: float, negative: Literal["error", "drop"] = "error") -> Self:
        """Keep interactions with a rating of at least ``threshold``.

        Args:
            threshold: in the unit of the ratings.
            negative: ratings below 0 often stand for "not rated", so they are an error unless this is ``"drop"``.

        Raises:
            DataError: the log has no rating.
            RatingError: a rating is negative; names the row or line.
        """
        if "rating" not in self.log.columns:
            raise DataError("min_rating needs a rating: name its column when reading (rating=...)")
        if negative == "error":
            below = self.log.filter(pl.col("rating") < 0)
            if len(below):
                message = f"the rating {below['rating'][0]:g} is negative; negative='drop' leaves such rows out"
                raise self.source.error(RatingError, message, row=int(below["row"][0]))
        kept = self.log.filter((pl.col("rating") >= float(threshold)) & (pl.col("rating") >= 0))
        return self._filtered(kept, f"min_rating({threshold:g})")

    @checked
    def deduplicate(self, policy: Duplicates = "last") -> Self:
        """Of repeated pairs of user and item keep all, the first or the last (by time, then by row)."""
        return self._filtered(deduplicated(self.log, policy), f"deduplicate({policy!r})")

    def _filtered(self, log: pl.DataFrame, what: str) -> Self:
        """The kept rows; users and items are numbered anew."""
        if len(log) == len(self.log):
            return self
        if not len(log):
            raise EmptyLogError(f"{what} leaves none of {len(self.log):,} interactions")
        user, users = _renumber(log["user"], self.users)
        item, items = _renumber(log["item"], self.items)
        return replace(self, log=log.with_columns(user, item), users=users, items=items, files=None)

    def masked(self, keep_mask: npt.NDArray[np.bool_]) -> Self:
        """Keep some of the interactions; users and items keep their indices.

        Args:
            keep_mask: [T] aligned with :attr:`ordered`.
        """
        rows = self.log["row"].to_numpy()
        keeps = np.ones(int(rows[-1]) + 1 if len(rows) else 0, dtype=bool)
        # the rows that go are fewer than those that stay, and lie anywhere in the memory
        keeps[self.ordered.rows.numpy()[~keep_mask]] = False
        kept = replace(self, log=self.log.filter(pl.Series(keeps[rows])), files=None)
        kept.__dict__["ordered"] = self.ordered.filter(torch.from_numpy(keep_mask))
        return kept

    @cached_property
    def ordered(self) -> OrderedLog:
        """The interactions grouped by user, each user's by time and then by row."""
        return OrderedLog.of(self.log, self.n_users, self.n_items)

    def item_relation(self, column: str, separator: str = " ") -> pl.DataFrame:
        """A column of item features as pairs ``(item id, value)``; lists are unpacked, texts split."""
        return relation(self.item_features, self.columns.item, column, separator, "item")

    def user_relation(self, column: str, separator: str = " ") -> pl.DataFrame:
        """A column of user features as pairs ``(user id, value)``; lists are unpacked, texts split."""
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
        """Write Parquet files and a JSON description as a folder; an earlier log there is replaced.

        Raises:
            FileExistsError: the folder holds a file that is not of what was saved there, or a saved split.
        """
        folder = Path(folder)
        if (folder / HEAD_OF_SPLIT).exists():
            raise FileExistsError(f"{folder} holds a saved split, which needs its own ids; choose another folder")
        with replacing_folder(folder) as new:
            write_frame(self.log, new / _LOG)
            self.write_all_but_log(new)

    def write_all_but_log(self, folder: Path) -> None:
        """Write ids, features, the graph and the description."""
        self.users.write(folder / "users.parquet")
        self.items.write(folder / "items.parquet")
        for name in _FEATURES:
            if (table := getattr(self, name)) is not None:
                write_frame(table, folder / f"{name}.parquet")
        if self.graph is not None:
            self.graph.save(folder / "graph")
        description = {
            "columns": self.columns.model_dump(),
            "time_unit": self.time_unit,
            "time_format": self.time_format,
            "kind": self.kind,
            "path": None if self.source.path is None else str(self.source.path),
            "parts": [[str(part), count] for part, count in self.source.parts],
        }
        write_json(description, folder / DESCRIPTION)

    @classmethod
    @checked
    def load(cls, folder: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: the folder holds none.
            CorruptFileError: a file is damaged.
        """
        folder = Path(folder)
        if not (folder / _LOG).is_file():
            raise FileNotFoundError(f"{folder} holds no saved log ({_LOG}); a split is read with SealedSplit.load")
        check_manifest(folder)
        return cls.load_with(read_frame(folder / _LOG), folder)

    @classmethod
    def load_with(cls, log: pl.DataFrame, folder: Path) -> Self:
        """Read what :meth:`write_all_but_log` wrote, around a given ``log``."""
        saved = read_object(folder / DESCRIPTION)
        parts = tuple((Path(part), count) for part, count in saved["parts"])
        files = {name: folder / f"{name}.parquet" for name in _FEATURES}
        features: dict[str, Any] = {name: read_frame(file) for name, file in files.items() if file.is_file()}
        has_graph = (folder / "graph").is_dir()
        return cls(
            log=log,
            users=IdMap.read(folder / "users.parquet"),
            items=IdMap.read(folder / "items.parquet"),
            columns=Columns(**saved["columns"]),
            time_unit=saved["time_unit"],
            time_format=saved["time_format"],
            source=Source(None if saved["path"] is None else Path(saved["path"]), parts),
            kind=saved["kind"],
            graph=registry.load("graph", "HeteroGraph").load(folder / "graph") if has_graph else None,
            **features,
        )


def _owned(frame: pl.DataFrame) -> pl.DataFrame:
    """A frame of the user's own as one that no later change of theirs reaches."""
    return pl.DataFrame([owned(column) for column in frame.iter_columns()])


#: the descriptions of a saved log and of a saved split, the files that are written last
DESCRIPTION, HEAD_OF_SPLIT = "interactions.json", "split.json"
_LOG = "log.parquet"
_FEATURES = ("user_features", "item_features")


def deduplicated(log: pl.DataFrame, policy: Duplicates) -> pl.DataFrame:
    """One row for each pair of user and item: its first or last by time, then by row.

    Args:
        log: columns ``row``, ``user``, ``item`` and perhaps ``time``, in the order of ``row``.
        policy: ``"all"`` keeps every row.

    Raises:
        ValueError: another policy.
    """
    if policy == "all":
        return log
    if policy not in ("first", "last"):
        raise ValueError(f"policy = {policy!r} must be 'all', 'first' or 'last'")
    ordered = log.sort("time", maintain_order=True) if "time" in log.columns else log
    return ordered.unique(["user", "item"], keep=policy, maintain_order=True).sort("row")


def k_core(
    user: npt.NDArray[np.integer], item: npt.NDArray[np.integer], users: int, items: int
) -> npt.NDArray[np.bool_]:
    """The rows in which every user has at least ``users`` and every item at least ``items`` interactions.

    Dropping items shortens users and the other way round, so both are dropped until nothing changes. The fixed point is
    unique (the largest such set of rows), whatever the order.

    Args:
        user, item: [T] indices.
        users, items: the smallest counts.

    Returns:
        [T] True for the rows that stay.
    """
    keep_mask = np.ones(len(user), dtype=bool)
    rows: npt.NDArray[np.integer] | slice = slice(None)
    of_users, of_items = np.bincount(user), np.bincount(item)
    while len(user):
        keep = (of_users >= users)[user] & (of_items >= items)[item]
        gone = np.flatnonzero(~keep)
        if not len(gone):
            break
        of_users -= np.bincount(user[gone], minlength=len(of_users))
        of_items -= np.bincount(item[gone], minlength=len(of_items))
        keep_mask[gone if isinstance(rows, slice) else rows[gone]] = False
        rows = np.flatnonzero(keep) if isinstance(rows, slice) else rows[keep]
        user, item = user[keep], item[keep]
    return keep_mask


def _renumber(codes: pl.Series, ids: IdMap) -> tuple[pl.Series, IdMap]:
    """Indices in the order of first appearance, and the map of the ids that remain."""
    new, rows = renumbered(codes.to_numpy(), len(ids))
    return pl.Series(codes.name, new), ids.take(codes.to_numpy()[rows])
