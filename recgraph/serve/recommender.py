"""The recommender: a model joined with the ids of its users and items and with what the users have
seen.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

import polars as pl
import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor

from recgraph import parallel
from recgraph.config import checked, shown
from recgraph.data.batches import Query
from recgraph.data.columns import Columns, TimeFormat, TimeUnit, in_unit, times_of
from recgraph.data.dataframe import FrameKind, from_native, to_native, without_categories
from recgraph.data.ids import IdMap
from recgraph.data.item_features import ItemColumns, feature_rows
from recgraph.data.split import Interactions
from recgraph.evaluate.rerank import CoOccurrence, Cosine, SimilarBy, bind
from recgraph.evaluate.topk import Lists
from recgraph.models.base import Model
from recgraph.pages import block as as_html
from recgraph.parallel import Engine, Piece
from recgraph.rng import Generators
from recgraph.serve import bundle
from recgraph.serve.ann import AnnIndex
from recgraph.serve.bundle import Embedder
from recgraph.serve.export import export
from recgraph.serve.lists import Fallback, Lister, ListOptions
from recgraph.serve.request import (
    NoHistoryError,
    Request,
    given_ids,
    is_all,
    of_histories,
    of_users,
    take,
)
from recgraph.serve.rules import ResolvedRules, Rules, candidates_of, resolve
from recgraph.serve.vectors import check_vectors, encode_items, encode_users, vector_frame
from recgraph.sparse.ragged import Ragged

__all__ = ["Counts", "NoHistoryError", "Recommender", "load", "recall_of_lists"]

_log = logging.getLogger(__name__)
Count = Annotated[int, Field(ge=1)]
_FEATURES = "item_features.parquet"
# one for all: counts with a lock could not be pickled
_counting = threading.Lock()


class Counts(Counter[str]):
    """The numbers of ``unknown_items``, ``unknown_users`` and ``fallbacks``; several threads may
    add.
    """

    def add(self, **counts: int) -> None:
        """Add numbers; unknown items are logged, too."""
        with _counting:
            self.update(counts)
        n_items = counts.get("unknown_items", 0)
        if n_items:
            _log.warning("%d items of the request are not known to the model; skipped", n_items)


class Recommender:
    """Recommends items to users, in the user's own ids; several threads may use one.

    Args:
        model: a built model; :meth:`refresh` after it was trained further.
        users, items: index <-> id, in the model's order.
        seen: a row for each user: what the user did, oldest first. It is what the model reads, and
            what ``exclude_seen`` leaves out.
        columns, kind: the names of the columns of answers (default ``user`` and ``item``), and the
            kind of their frame where no frame is given.
        item_features: a frame with a row an item, keyed by the item's id in the column
            ``columns.item``.
        record: anything that can be written as JSON and belongs to the model: protocol, metrics,
            provenance.
        times, time_unit: when the users did it, for a model that reads times: [T] int64, aligned
            with ``seen.values``.
        time_format: by which the times of histories are read where they are texts, as those of the
            training data were.

    Attributes:
        counters: the numbers of ``unknown_items``, ``unknown_users`` and ``fallbacks`` so far.
        ann: an approximate index over the items, see :meth:`use_ann`; None ranks all items exactly.
    """

    @checked
    def __init__(
        self,
        model: Model,
        users: IdMap,
        items: IdMap,
        seen: Ragged,
        *,
        columns: Columns | None = None,
        kind: FrameKind = "polars",
        item_features: Any = None,
        record: Mapping[str, Any] | None = None,
        times: Tensor | None = None,
        time_unit: TimeUnit = "none",
        time_format: TimeFormat = None,
    ) -> None:
        sizes = model.space
        if (
            sizes is None
            or sizes.n_items != len(items)
            or sizes.n_users not in (0, len(users), seen.n_rows)
        ):
            raise ValueError(
                f"model is built for {sizes}, but there are {len(users):,} users, {len(items):,} items"
            )
        self.model = model.eval()
        self.users = users
        self.items = items
        self.seen = seen
        self.in_common = CoOccurrence(seen, len(items))
        self.times: Ragged | None = None
        if times is not None and model.reads_times:
            self.times = seen.with_values(times)
        self.time_unit = time_unit
        self.time_format = time_format
        self.columns = columns or Columns(user="user", item="item")
        self.kind = kind
        self.item_features: pl.DataFrame | None = None
        if item_features is not None:
            self.item_features = without_categories(from_native(item_features))
        self.record = dict(record or {})
        self.counters = Counts()
        self._has_warned = False
        self.ann: AnnIndex | None = None
        self.item_columns = ItemColumns(items, self.item_features, self.columns.item)
        self.lister = Lister(self.model, len(items))

    @classmethod
    def for_log(
        cls, model: Model, log: Interactions, record: Mapping[str, Any] | None = None
    ) -> Self:
        """A recommender for the users of a log; seen is all that they did in it."""
        return cls(
            model,
            log.users,
            log.items,
            log.ordered.items,
            columns=log.columns,
            kind=log.kind,
            item_features=log.item_features,
            record=record,
            times=log.ordered.times,
            time_unit=log.time_unit,
            time_format=log.time_format,
        )

    @property
    def held_out(self) -> str | None:
        """What the model has not been fitted on, and how that is mended; None where it knows the
        whole log.
        """
        fitted_on = (self.record.get("update") or {}).get("parent", self.record).get("fitted_on")
        if fitted_on not in ("train", "train+valid"):
            return None
        what = "the split's test part was"
        if (self.record.get("data") or {}).get("split") in ("leave-one-out", "ratio"):
            what = "each user's newest events were"
        return f"{what} held out: fit on everything with --refit or --fit-on all (rg.fit: refit=True, fit_on='all')"

    def warn_of_held_out(self) -> None:
        """Log, once, what the model has not been fitted on."""
        if self.held_out and not self._has_warned:
            self._has_warned = True
            _log.warning("%s", self.held_out)

    @cached_property
    def popularity(self) -> Tensor:
        """[n_items] int64: how often each item was seen."""
        return torch.bincount(self.seen.values, minlength=len(self.items))

    @checked
    def recommend(
        self,
        users: Any = None,
        histories: Any = None,
        k: Count = 10,
        *,
        exclude_seen: bool = True,
        allow: Any = None,
        block: Any = None,
        rules: Rules | Mapping[str, Any] | None = None,
        fallback: Fallback | None = None,
        item_columns: Sequence[str] = (),
        at: Any = None,
    ) -> Any:
        """The best ``k`` items for each user.

        Args:
            users: ids of users of the training data (list, array, series, or one id), or ``"all"``:
                every user of whom enough is known, or everyone with a ``fallback`` (:meth:`stream`
                gives them part by part).
            histories: interactions of users never seen in training: a frame with the training
                data's column names (or ``user``, ``item``, ``timestamp``), or a mapping user ->
                list of items, oldest first. Items that the model does not know are skipped and
                counted in :attr:`counters`.
            exclude_seen: leave out what the user has done.
            allow, block: ids of items to which the lists are restricted, and of items that are in
                none.
            rules: business rules, :class:`recgraph.serve.rules.Rules` or a mapping of its settings.
            fallback: ``"popularity"`` gives users of whom nothing is known the items seen most
                often; None raises.
            item_columns: columns of the item features to add, e.g. ``["title"]``.
            at: when the lists are asked for, one time or one a user, written as those of the
                training data, for a model that reads times (others do not read it); None: not
                known.

        Returns:
            A frame with the columns user, item, score, rank (from 1), users in the order given and
            best items first. It is of the kind of the frame or series that was given, else of that
            of the training data. The scores of a fallback are counts. The first call logs
            :attr:`held_out` as a warning.
        """
        self.warn_of_held_out()
        request = self._request(users, histories, at)
        options = self._options(k, exclude_seen, allow, block, rules, fallback, item_columns)
        return self._answer(request, options)

    @checked
    def stream(
        self,
        users: Any = None,
        histories: Any = None,
        k: Count = 10,
        *,
        batch_size: Count = 16384,
        engine: Engine | None = None,
        at: Any = None,
        **options: Any,
    ) -> Iterator[Any]:
        """:meth:`recommend` in parts of ``batch_size`` users, in memory that does not grow with
        their number.

        Args:
            users, histories, at, options: as there; all users by default.
            engine: answers the parts (:mod:`recgraph.parallel`); None: this process.

        Yields frames; one under the other they have the items of :meth:`recommend`, and its scores
        up to rounding.
        """
        self.warn_of_held_out()
        request = self._request_or_all(users, histories, at)
        self._count(request)
        parts = (
            Piece(f"{len(rows):,} users from {int(rows[0]):,} on", request.take(rows))
            for rows in torch.split(torch.arange(len(request.labels)), batch_size)
        )
        shared = self, self._options(k, **options)
        for frame, counts in parallel.map(_answer_part, parts, shared, engine):
            self.counters.add(**counts)
            yield frame

    def _options(
        self,
        k: int,
        exclude_seen: bool = True,
        allow: Any = None,
        block: Any = None,
        rules: Rules | Mapping[str, Any] | None = None,
        fallback: Fallback | None = None,
        item_columns: Sequence[str] = (),
    ) -> ListOptions:
        self.check_item_columns(item_columns, self.columns.user, self.columns.item)
        resolved = self.resolve(Rules.with_arguments(rules, allow, block))
        self.counters.add(unknown_items=resolved.n_unknown)
        return ListOptions(
            min(k, len(self.items)), exclude_seen, resolved, fallback, tuple(item_columns)
        )

    def resolve(self, rules: Rules) -> ResolvedRules:
        """Rules in the model's indices."""
        reranker = rules.reranker
        if reranker is None:
            return resolve(rules, self.items, self.item_columns)
        reranking = bind(
            reranker,
            "rerank",
            self.model,
            by_vectors=self._by_vectors if self.model.has_vectors else None,
            in_common=self.in_common,
            columns=self.item_columns,
            separator=rules.separator,
        )
        return resolve(rules, self.items, self.item_columns, reranking)

    def _by_vectors(self) -> Cosine:
        return self.lister.by_vectors

    @property
    def feature_names(self) -> list[str]:
        """The columns of the item features."""
        if self.item_features is None:
            return []
        return self.item_features.columns

    def check_item_columns(self, names: Sequence[str], *taken: str) -> None:
        """Check that the item features have the columns, and that the answer has no other of the
        name.
        """
        free = set(self.feature_names) - {"score", "rank", *taken}
        for name in names:
            if name not in free or names.count(name) > 1:
                raise ValueError(f"item_columns = {name!r} must be one of {sorted(free)}, once")

    def _request(self, users: Any, histories: Any, at: Any = None) -> Request:
        if (users is None) == (histories is None):
            raise ValueError("give either users (of the training data) or histories (of new users)")
        if histories is not None:
            unit = self.time_unit if self.model.reads_times else None
            request = of_histories(
                histories, self.items, self.columns, self.kind, unit, self.time_format
            )
        elif is_all(users):
            every = torch.arange(len(self.users))
            query = Query(every, self.seen, self.times)
            request = Request(self.users.ids(every), query, self.kind, is_named=False)
        else:
            request = of_users(users, self.users, self.seen, self.kind, self.times)
        times = self.time_of(at, len(request.labels))
        return replace(request, query=replace(request.query, at=times))

    def _request_or_all(self, users: Any, histories: Any, at: Any = None) -> Request:
        """The request for those who are given, or else for all users of the training data."""
        if users is None:
            users = "all"
        if histories is not None and is_all(users):
            users = None
        return self._request(users, histories, at)

    def _count(self, request: Request) -> None:
        self.counters.add(
            unknown_items=request.n_unknown_items, unknown_users=request.n_unknown_users
        )

    @staticmethod
    def _of_known(request: Request, unknown: Tensor) -> Request:
        """The request without the rows of whom nothing is known; NoHistoryError where such a user
        was named.
        """
        if request.is_named and len(unknown):
            raise NoHistoryError.of(request, unknown)
        return request.without(unknown)

    def time_of(self, at: Any, n: int = 1) -> Tensor | None:
        """[n] int64: when lists are asked for, by one time or n of them; None of a model that reads
        no times.
        """
        if at is None or not self.model.reads_times:
            return None
        return self.read_times(at, n, "at")

    def read_times(self, given: Any, n: int, argument: str) -> Tensor:
        """[n] int64: one time or n of them; in the training data's unit for a model of times."""
        times, unit = times_of(given_ids(given, self.kind, argument)[0], self.time_format)
        read = torch.from_numpy(times.fill_null(0).to_numpy(writable=True))
        wanted = self.time_unit if self.model.reads_times else unit
        own = in_unit(read, unit, wanted)
        if times.null_count() or own is None or len(own) not in (1, n):
            like = f"give a time, or {n}, as the training data's ({self.time_unit})"
            raise ValueError(f"{argument} = {shown(given)}: {like}")
        return own.expand(n)

    def _answer(self, request: Request, options: ListOptions) -> Any:
        """The frame of a request; users who were not named are left out where nothing is known of
        them.
        """
        lister = self.lister  # read once: another thread may replace it
        unknown = lister.unknown(request.query)
        self._count(request)
        if options.fallback is None:
            request = self._of_known(request, unknown)
            unknown = unknown[:0]
        self.counters.add(fallbacks=len(unknown))
        lists = lister.lists(request.query, options, unknown, lambda: self.popularity, self.ann)
        names = self.columns.user, self.columns.item
        return self._frame(request.labels, lists, names, request.kind, options.item_columns)

    @checked
    def similar(
        self,
        items: Any = "all",
        k: Count = 10,
        *,
        by: SimilarBy | None = None,
        allow: Any = None,
        block: Any = None,
        item_columns: Sequence[str] = (),
        batch_size: Count = 1024,
    ) -> Any:
        """The ``k`` items most like each item, for "more like this" and "bought together".

        Args:
            items: ids of items of the training data (list, array, series, or one id), or ``"all"``.
            by: ``"vectors"``: the cosine of the model's item vectors; ``"co_occurrence"``: that of
                the sets of users who have both. None: by vectors where the model has them.
            allow, block, item_columns: as :meth:`recommend`.
            batch_size: items at a time; bounds memory and does not alter results.

        Returns:
            A frame with the log's item column, ``similar``, score (the cosine), rank (from 1), of
            the kind that :meth:`recommend` returns. An item that nobody has, or without a vector,
            has no rows and is in no list; by ``"co_occurrence"`` a list ends where no user has
            both.
        """
        names = self.columns.item, "similar"
        self.check_item_columns(item_columns, *names)
        if is_all(items):
            index, kind = torch.arange(len(self.items)), self.kind
            labels = self.items.ids(index)
        else:
            labels, kind = given_ids(items, self.kind, "items")
            index = torch.from_numpy(self.items.index(labels, "items"))
            unknown = take(labels, (index < 0).nonzero().flatten())
            if len(unknown):
                raise ValueError(f"items: {unknown[0]!r} is not known to the model")
        candidates, n_unknown = self.candidates(allow, block)
        self.counters.add(unknown_items=n_unknown)
        by = self.similar_by(by)
        lists = self.lister.similar(
            self.in_common, by, index, min(k, len(self.items)), candidates, batch_size
        )
        return self._frame(labels, lists, names, kind, item_columns)

    def similar_by(self, by: SimilarBy | None) -> SimilarBy:
        """What items are compared by; None: by vectors where the model has them."""
        if by is None:
            by = "vectors" if self.model.has_vectors else "co_occurrence"
        if by == "vectors":
            check_vectors(self.model)
        return by

    def candidates(self, allow: Any, block: Any) -> tuple[Tensor | None, int]:
        """[C] the allowed items that are not blocked, None for all; and how many ids are not
        known.
        """
        return candidates_of(Rules.with_arguments(None, allow, block), self.items)

    def _frame(
        self,
        labels: pl.Series,
        lists: Lists,
        names: tuple[str, str],
        kind: FrameKind,
        item_columns: Sequence[str],
    ) -> Any:
        """A row an item of a list: whose list it is [B], the item, score, rank (from 1),
        ``item_columns``.
        """
        rows, places = (lists.items >= 0).nonzero(as_tuple=True)
        index = lists.items[rows, places]
        series = [
            take(labels, rows).alias(names[0]),
            self.items.ids(index).alias(names[1]),
            pl.Series("score", lists.scores[rows, places].numpy()),
            pl.Series("rank", (places + 1).numpy()),
            *self.features_of(index, item_columns),
        ]
        return to_native(pl.DataFrame(series), kind)

    def features_of(self, index: Tensor, names: Sequence[str]) -> list[pl.Series]:
        """Columns of the item features, a row for each of ``index`` [N]; null where an item has
        none.
        """
        if not names:
            return []
        assert self.item_features is not None
        places = pl.Series(self._feature_rows[index].numpy()).replace(-1, None)
        return [self.item_features[name].gather(places) for name in names]

    @cached_property
    def _feature_rows(self) -> Tensor:
        assert self.item_features is not None
        return feature_rows(self.items, self.item_features[self.columns.item])

    def item_vectors(self) -> Any:
        """The vectors of all items, a frame with the log's item column and ``vector`` (arrays of
        float32); a score is the inner product of a user's vector and an item's. A model of scores
        alone has none (ValueError)."""
        vectors = encode_items(self.model)
        return vector_frame(
            self.columns.item, self.items.ids(range(len(self.items))), vectors, self.kind
        )

    def user_vectors(self, users: Any = None, histories: Any = None) -> Any:
        """The vectors of users, as :meth:`item_vectors` gives those of items; users in the order
        given.

        Args:
            users: ids of users of the training data; with neither argument all of whom enough is
                known.
            histories: interactions of new users, as :meth:`recommend` reads them; NoHistoryError of
                unknown ones.
        """
        check_vectors(self.model)
        request = self._request_or_all(users, histories)
        request = self._of_known(request, self.lister.unknown(request.query))
        self._count(request)
        vectors = encode_users(self.model, request.query)
        return vector_frame(self.columns.user, request.labels, vectors, request.kind)

    @checked
    def use_ann(self, index: AnnIndex | None = None) -> Self:
        """Search through an approximate index of the model's vectors and rank what it finds
        exactly.
        """
        self.ann = AnnIndex.build(self.model) if index is None else index.check(self.model)
        return self

    def refresh(self) -> Self:
        """Discard what was computed from the model's parameters; call it after they changed."""
        self.lister = Lister(self.model, len(self.items))
        self.ann = None
        return self

    @checked
    def export(self, folder: str | Path) -> dict[str, Any]:
        """Write the model for other runtimes, see :mod:`recgraph.serve.export`; returns the
        manifest.
        """
        return export(self, Path(folder))

    @checked
    def save(self, folder: str | Path) -> None:
        """Write a bundle, see :mod:`recgraph.serve.bundle`: it appears whole or not at all, in the
        place of another.
        """

        def fill(into: Path) -> None:
            self.users.write(into / "users.parquet")
            self.items.write(into / "items.parquet")
            seen = {"values": self.seen.values.to(torch.int32), "offsets": self.seen.offsets}
            if self.times is not None:
                seen["times"] = self.times.values
            save_file(bundle.unshared(seen), into / "seen.safetensors")
            if self.item_features is not None:
                self.item_features.write_parquet(into / _FEATURES)

        more = {
            "kind": self.kind,
            "record": self.record,
            "time_unit": self.time_unit,
            "time_format": self.time_format,
            "columns": self.columns.model_dump(mode="json"),
        }
        bundle.write(Path(folder), "recommender", self.model, fill, more)

    @classmethod
    @checked
    def load(cls, folder: str | Path, device: torch.device | str = "cpu") -> Recommender:
        """Read a bundle that :meth:`save` wrote, or that of a run's folder; BundleError where it
        cannot be read.
        """
        place = bundle.bundle_of(folder)

        def make(config: dict[str, Any]) -> Recommender:
            seen = load_file(place / "seen.safetensors")
            values = seen["values"].to(torch.int64)
            times = item_features = None
            if "times" in seen:
                times = seen["times"].clone()
            if (place / _FEATURES).is_file():
                item_features = pl.read_parquet(place / _FEATURES, memory_map=False)
            return cls(
                bundle.load_model(place, config),
                IdMap.read(place / "users.parquet"),
                IdMap.read(place / "items.parquet"),
                Ragged(values, seen["offsets"].clone()),
                columns=Columns.of(config["columns"]),
                kind=config["kind"],
                item_features=item_features,
                record=config["record"],
                times=times,
                time_unit=config["time_unit"],
                time_format=config["time_format"],
            )

        recommender = bundle.read(place, "recommender", make)
        recommender.model.to(device)
        return recommender

    def __repr__(self) -> str:
        return f"Recommender({type(self.model).__name__}, {len(self.users):,} users, {len(self.items):,} items)"

    def _repr_html_(self) -> str:
        facts = {
            "model": type(self.model).__name__,
            "users": len(self.users),
            "items": len(self.items),
            "fitted on": self.record.get("fitted_on"),
            "seed": self.record.get("seed"),
        }
        return as_html("Recommender", facts)


def _answer_part(shared: tuple[Recommender, ListOptions], part: Request) -> tuple[Any, Counts]:
    """An answer, and what was counted in it alone."""
    recommender, options = shared
    recommender = copy(recommender)
    recommender.counters = Counts()
    return recommender._answer(part, options), recommender.counters


@checked
def load(folder: str | Path, device: torch.device | str = "cpu") -> Recommender | Embedder:
    """Read what a run saved, from its folder or a bundle's: a recommender, or the embeddings of a
    graph's nodes; a BundleError where there is none, a file is missing or damaged, or this version
    cannot read it."""
    if bundle.read_config(bundle.bundle_of(folder))["holds"] == "embedder":
        return Embedder.load(folder, device)
    return Recommender.load(folder, device)


@checked
def recall_of_lists(
    recommender: Recommender, k: int = 10, n_users: int = 256, seed: int = 0
) -> float:
    """The share of the items of exact lists that those of :meth:`Recommender.use_ann` contain, of a
    sample of users.
    """
    near = copy(recommender)
    near.kind = "polars"
    near.record = {}  # which says what to warn of
    exact = copy(near)
    exact.ann = None
    with_history = recommender.seen.lengths.nonzero().flatten()
    if not len(with_history):
        raise ValueError("no user of the recommender has a history")
    drawn = torch.randperm(len(with_history), generator=Generators(seed).fresh("users"))[:n_users]
    users = recommender.users.ids(with_history[drawn])
    near_pairs = set(near.recommend(users=users, k=k)[:, :2].iter_rows())
    exact_pairs = set(exact.recommend(users=users, k=k)[:, :2].iter_rows())
    return len(near_pairs & exact_pairs) / len(exact_pairs)
