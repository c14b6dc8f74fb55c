"""A new log beside what a run knows: ids that are matched, histories that go on, the newest slice."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recgraph.data.batches import Query
from recgraph.data.columns import Columns, in_unit
from recgraph.data.dataframe import frame_kind, names_of
from recgraph.data.errors import AmbiguousColumnError, EncodingError, MissingColumnError, TimestampError
from recgraph.data.ids import IdMap, has_float_texts
from recgraph.data.interactions import Interactions, with_features_of
from recgraph.data.log import InteractionLog
from recgraph.data.log_file import SUFFIXES, LogFile, suffix_of
from recgraph.data.part import Cases, OrderedLog, Part
from recgraph.data.reading import FileFormat, Reading, with_lists
from recgraph.evaluate.ranking import Scorer, device_of
from recgraph.models.base import Model
from recgraph.serve.recommender import Recommender
from recgraph.serve.request import with_times_like
from recgraph.sparse.ragged import Ragged

__all__ = ["Before", "Joined", "newest", "read_new_log", "reading_of"]

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
        n_known: new interactions whose user has had the item before.
        old_times, new_times: the times of ``old`` and ``new``, row by row, for a model that reads times; else None.
    """

    users: IdMap
    items: IdMap
    old: Ragged
    new: Ragged
    in_slice: Tensor
    item_features: pl.DataFrame | None
    n_known: int
    old_times: Ragged | None = None
    new_times: Ragged | None = None

    @classmethod
    def of(cls, recommender: Recommender, log: InteractionLog, share: float) -> Joined:
        """Match a new log with what a recommender knows.

        Args:
            log: new interactions alone; each user's are taken to follow those that are known.
            share: of the newest slice; 0: none.

        Raises:
            ValueError: ids are of another type than the run's, or times of another form where the model reads them.
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
        pairs = [part.rows * len(items) + part.values for part in (old, new)]
        n_known = int(torch.isin(pairs[1], pairs[0]).sum())
        features = _merged(recommender.item_features, log.item_features, recommender.columns.item, log.columns.item)
        old_times = new_times = None
        if recommender.times is not None:
            old_times = _with_rows(recommender.times, len(users))
            new_times = new.with_values(_times_of(log, recommender)[order])
            _warn_of_earlier(old_times, new_times, users, recommender.time_unit)
        return cls(users, items, old, new, mask[order], features, n_known, old_times, new_times)

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

    Raises:
        ValueError: another share.
    """
    if not 0 < share < 1:
        raise ValueError(f"share = {share!r} must lie in (0, 1)")
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


def read_new_log(given: Any, recommender: Recommender, item_features: Any = None) -> InteractionLog:
    """New interactions as a log.

    Args:
        given: a log; a frame with columns that are named like the run's or ``user``, ``item`` and ``timestamp``; or a
            file, a folder or a pattern of files, see :class:`recgraph.data.log_file.LogFile` (``.txt``: lines of
            ``user item item ...``), whose columns are named like the run's or are guessed. Without a time, rows are in
            order.
        recommender: of the run.
        item_features: of the log's items, or of some: a frame, or a file, whose texts become lists where those of the
            run's file did; None: those that the log has.

    Raises:
        ValueError: a column is missing, a file cannot be read, or it is no log.
    """
    log = _read(given, recommender)
    if isinstance(item_features, str | Path):
        written = reading_of(recommender.record)
        texts: dict[str, Any] = {name: written[name] for name in ("encoding", "quotes") if name in written}
        read = with_features_of(log, Reading.of(texts, item_features=str(item_features))).item_features
        assert read is not None
        lists = _given_reading(recommender.record).get("lists", {})
        of_texts = {name: each for name, each in lists.items() if read.schema.get(name) == pl.String}
        item_features = with_lists(read, of_texts)
    return log.with_features(item_features=item_features)


def _read(given: Any, recommender: Recommender) -> InteractionLog:
    """See :func:`read_new_log`."""
    if isinstance(given, InteractionLog):
        return given
    columns = recommender.columns
    if isinstance(given, str | Path):
        return _as_the_runs(_read_file(Path(given), recommender), recommender)
    try:
        frame_kind(given)
    except ValueError:
        raise ValueError(f"new_log is a {type(given).__name__}; give a log, a frame or a file") from None
    there = names_of(given)
    user, item = (own if own in there else plain for own, plain in ((columns.user, "user"), (columns.item, "item")))
    time = next((name for name in (columns.timestamp, "timestamp") if name in there), None)
    named = Columns(user=user, item=item, timestamp=time)
    return with_times_like(given, named, recommender.time_format, _roles_of_texts(recommender))


def _roles_of_texts(recommender: Recommender) -> list[str]:
    """Which of ``user`` and ``item`` have texts such as ``1000.0`` among their ids: those of a new log stay texts."""
    roles = (("user", recommender.users), ("item", recommender.items))
    return [role for role, ids in roles if has_float_texts(ids.values)]


def reading_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """How the log of a run was written, by its record: what a new log in files may be written like, too."""
    given = _given_reading(record)
    return {name: given[name] for name in _WRITTEN if name in given}


def _given_reading(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of a run's record that are not the defaults of :class:`recgraph.data.reading.Reading`."""
    data = record.get("data")
    settings = data.get("settings") if isinstance(data, Mapping) else None
    given = settings.get("reading") if isinstance(settings, Mapping) else None
    return given if isinstance(given, Mapping) else {}


def _read_file(path: Path, recommender: Recommender) -> InteractionLog:
    """A new log, written like that of the run as far as it is not found out how it is written."""
    written = {"time_format": recommender.time_format, **reading_of(recommender.record)}
    form: FileFormat | None = None
    if path.suffix == ".txt" or (path.is_file() and suffix_of(path) not in SUFFIXES):
        form = written.get("format") or ("sequences" if path.suffix == ".txt" else None)
    like = Reading.of({**written, "format": form})
    # first without an encoding and names: one of a byte a letter reads any text, and a header is then a row
    plain = Reading(format=form, time_format=like.time_format, missing_ids=like.missing_ids)
    try:
        return _read_as(path, plain, recommender)
    except (EncodingError, MissingColumnError, AmbiguousColumnError):
        if like == plain:
            raise
    return _read_as(path, like.for_format(LogFile(str(path), like).format), recommender)


def _read_as(path: Path, reading: Reading, recommender: Recommender) -> InteractionLog:
    """By the run's column names, as far as the file has them; the others are guessed."""
    columns, texts = recommender.columns, _roles_of_texts(recommender)
    form = reading.format
    own = {"user": columns.user, "item": columns.item, "timestamp": None if form == "sequences" else columns.timestamp}

    def read(names: Mapping[str, str | None]) -> InteractionLog:
        file = LogFile(str(path), reading.model_copy(update=dict(names)))
        try:
            return Interactions.from_files(file, texts)
        except TimestampError:
            # its times are dates, or texts in a usual form; beside "%Y/%d/%m" that could be another day
            if reading.time_format is None or (reading.time_format.startswith("%Y") and file.format != "parquet"):
                raise
        return Interactions.from_files(LogFile(file.path, file.reading.model_copy(update={"time_format": None})), texts)

    for names in (own, {**own, "timestamp": None}):
        try:
            return read(names)
        except MissingColumnError:
            continue
    try:
        return read({})
    except (MissingColumnError, AmbiguousColumnError) as error:  # no option names the columns of a new log
        raise type(error)(
            f"its columns of users and items are not known; call them {columns.user!r} and {columns.item!r}, as in the "
            "run's log",
            path=path,
        ) from error


def _as_the_runs(log: InteractionLog, recommender: Recommender) -> InteractionLog:
    """The log of a file with ids of the run's type: a text file has no types of its own."""
    users = _of_type(log.users, recommender.users, log.columns.user)
    items = _of_type(log.items, recommender.items, log.columns.item)
    return InteractionLog(log.log, users, items, log.columns, log.time_unit, log.source, log.kind)


def _of_type(ids: IdMap, known: IdMap, column: str) -> IdMap:
    theirs, ours = ids.values.dtype, known.values.dtype
    if theirs.is_integer() and ours == pl.String:
        return IdMap(ids.values.cast(pl.String))
    if theirs != pl.String or not (ours.is_temporal() or ours == pl.Boolean):
        return ids
    parsed = known.parse(ids.values.to_list())
    if parsed.null_count():
        wrong = ids.values.filter(parsed.is_null())[0]
        raise ValueError(f"column {column!r} of the new log: {wrong!r} is none of the run's ids, which are {ours}")
    return IdMap(parsed)


def _times_of(log: InteractionLog, recommender: Recommender) -> Tensor:
    """The ordered times of a new log, in the unit of the run's."""
    times = log.ordered.times
    if times is None or (times := in_unit(times, log.time_unit, recommender.time_unit)) is None:
        raise ValueError(
            f"new_log has times of the form {log.time_unit!r}, but the model reads times and was trained with "
            f"{recommender.time_unit!r}; give times in the form of the run's log"
        )
    return times


def _warn_of_earlier(old: Ragged, new: Ragged, users: IdMap, unit: str | None) -> None:
    """Say whose new interactions begin before the known ones end: the model reads the times between them."""
    both_mask = (old.lengths > 0) & (new.lengths > 0)
    last, first = old.values[old.offsets[1:][both_mask] - 1], new.values[new.offsets[:-1][both_mask]]
    earlier = both_mask.nonzero()[:, 0][first < last]
    if len(earlier):
        _log.warning(
            "the new log has times before the last known one of %d of %d users that the run knows, such as %r; the "
            "model reads the times between items, and takes these for 0: give later interactions, with times as in the "
            "run's log (%s)",
            len(earlier),
            int(both_mask.sum()),
            users.ids(earlier[:1].tolist()).to_list()[0],
            unit,
        )


def _extended(known: IdMap, new: IdMap, column: str) -> IdMap:
    try:
        return known.extended(new.values)
    except ValueError as error:
        raise ValueError(f"column {column!r} of the new log does not fit the run: {error}") from None


def _with_rows(rows: Ragged, n_rows: int) -> Ragged:
    """With empty rows at the end."""
    more = rows.offsets[-1:].expand(n_rows - rows.n_rows)
    return Ragged(rows.values, torch.cat([rows.offsets, more]))


def _merged(old: pl.DataFrame | None, new: pl.DataFrame | None, key: str, new_key: str) -> pl.DataFrame | None:
    """The features of both logs by id: of an item that both have the new values, where the new log has the column.

    Raises:
        ValueError: the values of a column are not alike.
    """
    if new is not None and new_key != key:
        new = new.rename({new_key: key})
    if old is None or new is None:
        return old if new is None else new
    for name in old.columns:
        if name != key and name in new.columns and not _are_alike(old[name].dtype, new[name].dtype):
            raise ValueError(
                f"column {name!r} of the item features is {new[name].dtype} in the new log and {old[name].dtype} in "
                "the run's; give values of one kind"
            )
    absent = [name for name in old.columns if name not in new.columns]
    if absent:
        _log.warning(
            "the item features of the new log have no column %s: items that the run knows keep their values, new items "
            "have none",
            ", ".join(map(repr, absent)),
        )
    try:
        new = new.with_columns(pl.col(key).cast(old[key].dtype))
        kept = new.join(old.select(key, *absent), on=key, how="left", maintain_order="left")
        both = pl.concat([old, kept], how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"the item features of the new log do not fit the run's: {error}") from None
    return both.unique(key, keep="last", maintain_order=True)


def _are_alike(one: pl.DataType, other: pl.DataType) -> bool:
    """Whether values of two types can stand in one column without becoming something else."""
    if one == other or (one.is_numeric() and other.is_numeric()) or pl.Null in (one, other):
        return True
    texts = (pl.String, pl.Categorical, pl.Enum)
    if isinstance(one, texts) and isinstance(other, texts):
        return True
    if isinstance(one, pl.List | pl.Array) and isinstance(other, pl.List | pl.Array):
        return _are_alike(cast(pl.DataType, one.inner), cast(pl.DataType, other.inner))
    return one.is_temporal() and other.is_temporal()


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
