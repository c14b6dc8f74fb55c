"""The recommender: a model joined with the ids of its users and items and with what the users have seen."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import polars as pl
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recgraph.data.columns import Columns
from recgraph.data.dataframe import FrameKind
from recgraph.data.ids import IdMap
from recgraph.data.log import InteractionLog
from recgraph.data.split import SealedSplit, Split
from recgraph.evaluate.ranking import catalogue_for, device_of, evaluating, rank
from recgraph.evaluate.topk import Catalogue, Lists
from recgraph.models.base import Model
from recgraph.serve import bundle
from recgraph.serve.ann import AnnIndex
from recgraph.serve.bundle import guard
from recgraph.serve.request import Request, answer, check_item_columns, of_all, of_histories, of_users, take
from recgraph.serve.vectors import VECTOR, check_vectors, encode_items, encode_users, vector_frame
from recgraph.sparse.ragged import Ragged

__all__ = ["NoHistoryError", "Recommender"]

Fallback = Literal["popularity"]
_FILES = ("users.parquet", "items.parquet", "seen.safetensors")
_FEATURES = "item_features.parquet"
_log = logging.getLogger(__name__)
# one for all recommenders: a recommender with a lock could not be pickled
_counting = threading.Lock()


class NoHistoryError(ValueError):
    """Too little is known of a user to recommend items."""


@dataclass
class _Kept:
    """What is computed from the model's parameters and valid until the next :meth:`Recommender.refresh`."""

    catalogue: Catalogue | None = None


class Recommender:
    """Recommends items to users, in the user's own ids.

    Several threads may use one recommender; each gets the answers that a single thread would.

    Args:
        model: a built model; it must not be trained further while it serves (:meth:`refresh` afterwards).
        users, items: index <-> id, in the model's order.
        seen: a row for each user: what the user did, oldest first. It is what the model reads, and what
            ``exclude_seen`` leaves out.
        columns: the names of the columns of answers (default ``user`` and ``item``).
        kind: the kind of frame to return where no frame is given.
        item_features: a row an item, keyed by the item's id in the column ``columns.item``.
        record: anything that can be written as JSON and belongs to the model: protocol, metrics, provenance.

    Attributes:
        counters: the numbers of ``unknown_items``, ``unknown_users`` and ``fallbacks`` so far.
        ann: an approximate index over the items, see :meth:`use_ann`; None ranks all items exactly.

    Raises:
        ValueError: the sizes of the model and of the maps differ.
    """

    def __init__(
        self,
        model: Model,
        users: IdMap,
        items: IdMap,
        seen: Ragged,
        *,
        columns: Columns | None = None,
        kind: FrameKind = "polars",
        item_features: pl.DataFrame | None = None,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        if model.space is None:
            raise ValueError(f"{type(model).__name__} is not built; build and fit it first")
        if model.space.n_items != len(items):
            raise ValueError(f"items has {len(items)} ids, but the model is built for {model.space.n_items}")
        if len(users) != seen.n_rows:
            raise ValueError(f"seen has {seen.n_rows} rows, but users has {len(users)} ids")
        self.model = model.eval()
        self.users, self.items, self.seen = users, items, seen
        self.columns = columns if columns is not None else Columns(user="user", item="item")
        self.kind = kind
        self.item_features = item_features
        self.record = dict(record or {})
        self.counters: Counter[str] = Counter()
        self.ann: AnnIndex | None = None
        self._kept = _Kept()

    @classmethod
    def for_split(cls, model: Model, split: Split | SealedSplit, record: Mapping[str, Any] | None = None) -> Self:
        """A recommender for the users of a split; seen is what they did in train and valid, never in test."""
        return cls.for_log(model, split.sealed().interactions, record)

    @classmethod
    def for_log(cls, model: Model, log: InteractionLog, record: Mapping[str, Any] | None = None) -> Self:
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
        )

    @property
    def popularity(self) -> Tensor:
        """[n_items] int64: how often each item was seen."""
        return torch.bincount(self.seen.values, minlength=len(self.items))

    def recommend(
        self,
        users: Any = None,
        histories: Any = None,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allow: Sequence[Any] | None = None,
        block: Sequence[Any] | None = None,
        fallback: Fallback | None = None,
        item_columns: Sequence[str] = (),
        batch_size: int = 1024,
    ) -> Any:
        """The best ``k`` items for each user.

        Args:
            users: ids of users of the training data (list, array, series, or one id).
            histories: interactions of users never seen in training: a frame with the training data's column names
                (or ``user``, ``item``, ``timestamp``), or a mapping user -> list of items, oldest first. Items that
                the model does not know are skipped and counted in :attr:`counters`.
            k: the length of the lists; shorter where fewer items may be recommended.
            exclude_seen: leave out what the user has done.
            allow: item ids to which the recommendations are restricted.
            block: item ids that are never recommended.
            fallback: ``"popularity"`` gives users of whom nothing is known (no known item; of models that read a graph,
                no relation either) the items seen most often; None raises.
            item_columns: columns of the item features to add, e.g. ``["title"]``.
            batch_size: users ranked at a time; bounds memory and does not alter results.

        Returns:
            A frame with the columns user, item, score, rank (from 1), users in the order given and best items first. It
            is of the kind of the frame or series that was given, else of that of the training data. The scores of a
            fallback are counts.

        Raises:
            NoHistoryError: nothing is known of a user, and there is no fallback.
            ValueError: not exactly one of ``users`` and ``histories``, or an argument that does not fit.
        """
        if (users is None) == (histories is None):
            raise ValueError("give either users (of the training data) or histories (of new users)")
        if k < 1:
            raise ValueError(f"k = {k} must be at least 1")
        if fallback not in (None, "popularity"):
            raise ValueError(f"fallback = {fallback!r} must be None or 'popularity'")
        check_item_columns(self.item_features, item_columns, self.columns)
        if users is not None:
            request = of_users(users, self.users, self.seen, self.kind)
        else:
            request = of_histories(histories, self.items, self.columns, self.kind)
        empty = self._unknown(request)
        self._count(request, users is not None, len(empty))
        candidates = self._candidates(allow, block)
        if len(empty) and fallback is None:
            raise NoHistoryError(_no_history(request, empty))
        lists = self._rank(request, min(k, len(self.items)), exclude_seen, candidates, batch_size, empty)
        return answer(request, lists, self.items, self.columns, self.item_features, item_columns)

    def item_vectors(self) -> Any:
        """The vectors of all items.

        Returns:
            A frame of the training data's kind with the log's item column and ``vector`` (arrays of float32; where the
            item column is called ``vector``, the ids are in ``item``). A score is the inner product of a user's vector
            and an item's.

        Raises:
            ValueError: the model ranks by scores alone.
        """
        vectors = encode_items(self.model)
        name = "item" if self.columns.item == VECTOR else self.columns.item
        return vector_frame(name, self.items.ids(range(len(self.items))), vectors, self.kind)

    def user_vectors(self, users: Any = None, histories: Any = None) -> Any:
        """The vectors of users.

        Args:
            users: ids of users of the training data; with neither argument all of whom enough is known.
            histories: interactions of new users, as :meth:`recommend` reads them.

        Returns:
            A frame with the log's user column and ``vector``, see :meth:`item_vectors`; users in the order given.

        Raises:
            NoHistoryError: nothing is known of a user that was named.
            ValueError: both arguments are given, or the model ranks by scores alone.
        """
        if users is not None and histories is not None:
            raise ValueError("give users (of the training data) or histories (of new users), or neither for all users")
        check_vectors(self.model)
        if histories is not None:
            request = of_histories(histories, self.items, self.columns, self.kind)
        elif users is not None:
            request = of_users(users, self.users, self.seen, self.kind)
        else:
            request = of_all(self.users, self.seen, self.kind)
        empty = self._unknown(request)
        if len(empty) and (users is not None or histories is not None):
            raise NoHistoryError(_no_history(request, empty))
        if len(empty):
            known_mask = torch.ones(len(request.labels), dtype=torch.bool)
            known_mask[empty] = False
            request = request.take(known_mask.nonzero().flatten())
        self._count(request, users is not None, 0)
        name = "user" if self.columns.user == VECTOR else self.columns.user
        return vector_frame(name, request.labels, encode_users(self.model, request.query), request.kind)

    def _rank(
        self, request: Request, k: int, exclude_seen: bool, candidates: Tensor | None, batch_size: int, empty: Tensor
    ) -> Lists:
        n_users = len(request.labels)
        items = torch.full((n_users, k), -1)
        scores = torch.zeros(n_users, k, dtype=torch.float64)
        known_mask = torch.ones(n_users, dtype=torch.bool)
        known_mask[empty] = False
        known = known_mask.nonzero().flatten()
        if len(empty):
            popular = Catalogue(len(self.items), k, candidates=candidates)
            counts = self.popularity.double()[None]
            top = popular.rank(counts, None, ("keep",))["keep"]
            items[empty], scores[empty] = top.items, top.scores
        if len(known):
            query = request.take(known).query
            convention = "exclude" if exclude_seen else "keep"
            seen = query.history if exclude_seen else None
            ann = self.ann  # read once: another thread may replace it
            if ann is not None and candidates is None:
                best = ann.rank(self.model, query, seen, k, batch_size)
                items[known], scores[known] = best.items, best.scores.double()
                return Lists(items, scores)
            catalogue = self._catalogue_for(k, candidates)
            for batch in rank(self.model, catalogue, query, seen, (convention,), batch_size):
                rows = known[batch.index]
                items[rows] = batch.lists[convention].items
                scores[rows] = batch.lists[convention].scores.double()
        return Lists(items, scores)

    def _unknown(self, request: Request) -> Tensor:
        """[K] int64: the rows of users of whom the model knows too little to rank for them."""
        with evaluating(self.model):
            can_rank = self.model.can_rank(request.query.to(device_of(self.model)))
        return (~can_rank).nonzero().flatten().to("cpu")

    def _catalogue_for(self, k: int, candidates: Tensor | None) -> Catalogue:
        if candidates is not None:
            return catalogue_for(self.model, len(self.items), k, candidates=candidates)
        # read each attribute once: another thread may replace it; a catalogue made during a refresh goes to the old one
        kept = self._kept
        catalogue = kept.catalogue
        if catalogue is None or catalogue.k != k:
            catalogue = kept.catalogue = catalogue_for(self.model, len(self.items), k)
        return catalogue

    def _candidates(self, allow: Sequence[Any] | None, block: Sequence[Any] | None) -> Tensor | None:
        if allow is None and block is None:
            return None
        allowed_mask = torch.full((len(self.items),), allow is None)
        for name, ids, value in (("allow", allow, True), ("block", block, False)):
            if ids is not None:
                if isinstance(ids, str | bytes):
                    raise ValueError(f"{name} = {ids!r} must be a list of item ids")
                index = torch.from_numpy(self.items.index(ids))
                self._add("unknown_items", int((index < 0).sum()))
                allowed_mask[index[index >= 0]] = value
        if not bool(allowed_mask.any()):
            raise ValueError("allow and block leave no item to recommend")
        return allowed_mask.nonzero().flatten()

    def _count(self, request: Request, of_training: bool, n_empty: int) -> None:
        self._add("unknown_items", request.n_unknown_items)
        self._add("fallbacks", n_empty)
        if of_training:
            self._add("unknown_users", int((request.query.users < 0).sum()))
        if request.n_unknown_items:
            _log.warning("%d items of the histories are not known to the model; skipped", request.n_unknown_items)

    def _add(self, name: str, count: int) -> None:
        with _counting:
            self.counters[name] += count

    def use_ann(self, index: AnnIndex | None = None) -> Self:
        """Search through an approximate index and rank what it finds exactly; see :class:`AnnIndex`."""
        self.ann = index if index is not None else AnnIndex.build(self.model)
        return self

    def refresh(self) -> Self:
        """Discard what was computed from the model's parameters; call it after they changed."""
        self._kept = _Kept()
        self.ann = None
        return self

    def save(self, folder: str | Path) -> None:
        """Write a bundle, see :mod:`recgraph.serve.bundle`; it appears whole or not at all.

        Raises:
            BundleError: the folder exists and holds something that is no bundle.
        """

        def fill(into: Path) -> None:
            self.users.write(into / "users.parquet")
            self.items.write(into / "items.parquet")
            seen = {"values": self.seen.values.to(torch.int32), "offsets": self.seen.offsets}
            save_file({name: value.contiguous() for name, value in seen.items()}, into / "seen.safetensors")
            if self.item_features is not None:
                self.item_features.write_parquet(into / _FEATURES)

        more = {"columns": self.columns.model_dump(mode="json"), "kind": self.kind, "record": self.record}
        bundle.write(Path(folder), "recommender", self.model, fill, more)

    @classmethod
    def load(cls, folder: str | Path, device: torch.device | str = "cpu") -> Self:
        """Read a bundle that :meth:`save` wrote.

        Raises:
            BundleError: the folder holds no bundle of a recommender, a file is missing or damaged, or this version
                cannot read it.
        """
        folder = Path(folder)
        config = bundle.read_config(folder, "recommender", _FILES, ("columns", "kind", "record"))
        seen = guard(folder / "seen.safetensors", load_file)
        return cls(
            bundle.load_model(folder, config["model"], torch.device(device)),
            guard(folder / "users.parquet", IdMap.read),
            guard(folder / "items.parquet", IdMap.read),
            Ragged(seen["values"].to(torch.int64), seen["offsets"]),
            columns=Columns.of(config["columns"]),
            kind=config["kind"],
            item_features=guard(folder / _FEATURES, pl.read_parquet) if _FEATURES in config["files"] else None,
            record=config["record"],
        )

    def __repr__(self) -> str:
        return f"Recommender({type(self.model).__name__}, {len(self.users):,} users, {len(self.items):,} items)"


def _no_history(request: Request, empty: Tensor) -> str:
    names = ", ".join(repr(label) for label in take(request.labels, empty[:3]).to_list())
    more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
    return (
        f"nothing is known of user {names}{more}: no known item in the history; "
        "give histories with known items, or fallback='popularity'"
    )
