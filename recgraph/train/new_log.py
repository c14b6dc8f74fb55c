"""A new log beside what a run knows: ids that are matched, histories that go on, the newest slice."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recgraph.data.batches import Query
from recgraph.data.columns import Columns, in_unit
from recgraph.data.dataframe import names_of
from recgraph.data.errors import DataError, MissingColumnError
from recgraph.data.ids import IdMap
from recgraph.data.part import Cases, OrderedLog, Part
from recgraph.data.read import LogFile, Reading, with_lists
from recgraph.data.split import Interactions
from recgraph.evaluate.ranking import Scorer, device_of
from recgraph.models.base import Model
from recgraph.serve.recommender import Recommender
from recgraph.serve.request import with_times_like
from recgraph.sparse.ragged import Ragged

_log = logging.getLogger(__name__)
#: the settings of a reading that say how files are written
_WRITTEN = ("format", "separator", "names", "encoding", "time_format", "missing_ids", "quotes")
#: below it every score of a model ends; items that a model does not know rank behind all that it knows
_LOWEST = torch.finfo(torch.float32).min


@dataclass(frozen=True)
class Joined:
    """What a run knows and a new log, in one set of indices: those of the run, new ones behind them.

    Attributes:
        users, items: index <-> id.
        old, new: a row for each user: what was known, and the new interactions, oldest first.
        in_slice: [T] bool, aligned with ``new.values``: the newest slice, which an update is not trained on.
        item_features: of both, or None; of an item that both have the new values, where the new log has the column.
        old_times, new_times: the times of ``old`` and ``new``, row by row, for a model that reads times; else None.
    """

    users: IdMap
    items: IdMap
    old: Ragged
    new: Ragged
    in_slice: Tensor
    item_features: pl.DataFrame | None
    old_times: Ragged | None = None
    new_times: Ragged | None = None

    @classmethod
    def of(cls, recommender: Recommender, log: Interactions, share: float) -> Joined:
        """Match a new log with what a recommender knows.

        Args:
            log: new interactions alone; each user's are taken to follow those that are known.
            share: of the newest slice; 0: none.
        """
        users = _extended(recommender.users, log.users, log.columns.user)
        items = _extended(recommender.items, log.items, log.columns.item)
        of_user = torch.from_numpy(users.index(log.users.values))
        of_item = torch.from_numpy(items.index(log.items.values))
        ordered = log.ordered
        mask = newest(ordered, share) if share else torch.zeros(len(log), dtype=torch.bool)
        old = _with_rows(recommender.seen, len(users))
        rows, values = of_user[ordered.items.rows], of_item[ordered.items.values]
        order = torch.argsort(rows, stable=True)
        new = Ragged.from_lengths(values[order], torch.bincount(rows, minlength=len(users)))
        features = _merged(recommender.item_features, log.item_features, recommender.columns.item, log.columns.item)
        old_times = new_times = None
        if recommender.times is not None:
            old_times = _with_rows(recommender.times, len(users))
            new_times = new.with_values(_times_of(log, recommender)[order])
        return cls(users, items, old, new, mask[order], features, old_times, new_times)

    @property
    def trained(self) -> Ragged:
        """A row for each user: all that an update may be trained on."""
        return after(self.old, self.new.filter(~self.in_slice))

    @property
    def whole(self) -> Ragged:
        """A row for each user: everything."""
        return after(self.old, self.new)

    @property
    def trained_times(self) -> Ragged | None:
        """The times of :attr:`trained`."""
        if self.old_times is None or self.new_times is None:
            return None
        return after(self.old_times, self.new_times.filter(~self.in_slice))

    @property
    def whole_times(self) -> Ragged | None:
        """The times of :attr:`whole`."""
        if self.old_times is None or self.new_times is None:
            return None
        return after(self.old_times, self.new_times)

    def part(self, rows: Ragged, times: Ragged | None = None) -> Part:
        """Rows as a training part."""
        return Part(rows, len(self.items), times=None if times is None else times.values)

    def cases(self) -> Cases:
        """The users of the slice of whom something is known before it, with what they did in it."""
        truth, history = self.new.filter(self.in_slice), self.trained
        users = ((truth.lengths > 0) & (history.lengths > 0)).nonzero().flatten()
        times = self.trained_times
        when = None if times is None else times.take(users)
        return Cases(users, history.take(users), truth.take(users), len(self.items), times=when)


def newest(log: OrderedLog, share: float) -> Tensor:
    """[T] bool: the newest interactions.

    With times, the newest of the whole log (of equal times those that stand later in it). Without times only each
    user's own order is known: each user's newest. At least one is chosen, of the log or of each user.

    Args:
        log: with at least one interaction.
        share: of the interactions that are chosen, in (0, 1).

    """
    if log.times is None:
        wanted = (log.items.lengths * share).round().long().clamp(min=1)
        chosen: Tensor = log.items.positions >= (log.items.lengths - wanted)[log.items.rows]
        return chosen
    order = np.lexsort((log.rows.numpy(), log.times.numpy()))
    chosen = torch.zeros(log.n_interactions, dtype=torch.bool)
    chosen[torch.from_numpy(order[-max(1, round(share * log.n_interactions)) :])] = True
    return chosen


def after(old: Ragged, new: Ragged) -> Ragged:
    """For each row what stands in the first, then what stands in the second; both have the same number of rows."""
    order = torch.argsort(torch.cat([old.rows, new.rows]), stable=True)
    return Ragged.from_lengths(torch.cat([old.values, new.values])[order], old.lengths + new.lengths)


def read_new_log(given: Any, recommender: Recommender, item_features: Any = None) -> Interactions:
    """New interactions as a log.

    Args:
        given: a log; a frame with columns that are named like the run's or ``user``, ``item`` and ``timestamp``; or a
            file, a folder or a pattern of files, see :class:`recgraph.data.read.LogFile` (``.txt``: lines of
            ``user item item ...``), whose columns are named like the run's or are guessed. Without a time, rows are in
            order.
        recommender: of the run.
        item_features: of the log's items, or of some: a frame, or a file, whose texts become lists where those of the
            run's file did; None: those that the log has.
    """
    log = _read(given, recommender)
    if isinstance(item_features, str | Path):
        written = reading_of(recommender.record)
        texts: dict[str, Any] = {name: written[name] for name in ("encoding", "quotes") if name in written}
        read = log.with_feature_files(LogFile("", Reading.of(texts, item_features=str(item_features)))).item_features
        assert read is not None
        lists = _given_reading(recommender.record).get("lists", {})
        of_texts = {name: each for name, each in lists.items() if read.schema.get(name) == pl.String}
        item_features = with_lists(read, of_texts)
    return log.with_features(item_features=item_features)


def _read(given: Any, recommender: Recommender) -> Interactions:
    """See :func:`read_new_log`."""
    if isinstance(given, Interactions):
        return given
    columns = recommender.columns
    if isinstance(given, str | Path):
        return _as_the_runs(_read_file(Path(given), recommender), recommender)
    there = names_of(given)
    user, item = (own if own in there else plain for own, plain in ((columns.user, "user"), (columns.item, "item")))
    time = next((name for name in (columns.timestamp, "timestamp") if name in there), None)
    return with_times_like(given, Columns(user=user, item=item, timestamp=time), recommender.time_format)


def reading_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """How the log of a run was written, by its record: what a new log in files may be written like, too."""
    given = _given_reading(record)
    return {name: given[name] for name in _WRITTEN if name in given}


def _given_reading(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of a run's record that are not the defaults of :class:`recgraph.data.read.Reading`."""
    data = record.get("data")
    settings = data.get("settings") if isinstance(data, Mapping) else None
    given = settings.get("reading") if isinstance(settings, Mapping) else None
    return given if isinstance(given, Mapping) else {}


def _read_file(path: Path, recommender: Recommender) -> Interactions:
    """By the run's column names where the file has them; else they are guessed. A file that cannot be read so is read
    as that of the run was written."""
    columns = recommender.columns
    form = "sequences" if path.suffix == ".txt" else None
    own = {"user": columns.user, "item": columns.item, "timestamp": columns.timestamp}
    plain, like = ({"format": form}, {"time_format": recommender.time_format, **reading_of(recommender.record)})
    errors: list[DataError] = []
    for written in (plain, {**plain, "time_format": recommender.time_format}, like):
        for names in ({}, own) if form else (own, {**own, "timestamp": None}, {}):
            try:
                return Interactions.from_files(LogFile(str(path), Reading.of({**written, **names})))
            except DataError as error:
                errors.append(error)
    first = errors[0]
    if isinstance(first, MissingColumnError):  # no option names the columns of a new log
        raise type(first)(
            f"its columns of users and items are not known; call them {columns.user!r} and {columns.item!r}", path=path
        )
    raise first


def _as_the_runs(log: Interactions, recommender: Recommender) -> Interactions:
    """The log of a file with texts for ids where the run has texts: a text file has no types of its own."""
    pairs = ((log.users, recommender.users), (log.items, recommender.items))
    users, items = (
        IdMap(new.values.cast(pl.String)) if known.values.dtype == pl.String else new for new, known in pairs
    )
    return Interactions(log.log, users, items, log.columns, log.time_unit, log.source, log.kind)


def _times_of(log: Interactions, recommender: Recommender) -> Tensor:
    """The ordered times of a new log, in the unit of the run's."""
    times = log.ordered.times
    if times is None or (times := in_unit(times, log.time_unit, recommender.time_unit)) is None:
        raise ValueError(f"new_log: the model reads times, and was trained with those in {recommender.time_unit!r}")
    return times


def _extended(known: IdMap, new: IdMap, column: str) -> IdMap:
    try:
        return known.extended(new.values)
    except ValueError as error:
        raise ValueError(f"new_log: column {column!r} does not fit the run: {error}") from None


def _with_rows(rows: Ragged, n_rows: int) -> Ragged:
    """With empty rows at the end."""
    more = rows.offsets[-1:].expand(n_rows - rows.n_rows)
    return Ragged(rows.values, torch.cat([rows.offsets, more]))


def _merged(old: pl.DataFrame | None, new: pl.DataFrame | None, key: str, new_key: str) -> pl.DataFrame | None:
    """The features of both logs by id: of an item that both have the new values, where the new log has the column."""
    if new is not None and new_key != key:
        new = new.rename({new_key: key})
    if old is None or new is None:
        return old if new is None else new
    absent = [name for name in old.columns if name not in new.columns]
    if absent:
        _log.warning("item_features of the new log have no column %s: new items have none", ", ".join(absent))
    wrong = [
        name
        for name in old.columns
        if name in new.columns and (old.schema[name] == pl.String) != (new.schema[name] == pl.String)
    ]
    if wrong:
        raise ValueError(f"item_features: columns {', '.join(wrong)} are of another type than the run's")
    try:
        new = new.with_columns(pl.col(key).cast(old[key].dtype))
        kept = new.join(old.select(key, *absent), on=key, how="left", maintain_order="left")
        both = pl.concat([old, kept], how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"item_features of the new log do not fit the run's: {error}") from None
    return both.unique(key, keep="last", maintain_order=True)


class Before(Scorer):
    """The parent among the items of both logs: those that it does not know come last, its users' histories without."""

    def __init__(self, model: Model, n_items: int) -> None:
        assert model.space is not None
        self.reads_times = model.reads_times
        self.model, self.n_items, self.known = model, n_items, model.space

    def score(self, query: Query) -> Tensor:
        users = torch.where(query.users < self.known.n_users, query.users, -1)
        known_mask = query.history.values < self.known.n_items
        history = query.history.filter(known_mask)
        times = None if query.times is None else query.times.filter(known_mask)
        scores = self.model.score(Query(users, history, times).to(device_of(self.model))).to(query.users.device)
        return torch.nn.functional.pad(scores, (0, self.n_items - scores.shape[1]), value=_LOWEST)
