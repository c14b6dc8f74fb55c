"""One bundle as the service holds it: batches of requests are ranked together, each as if it were alone.

Each request's users are encoded by themselves, since the rounding of a model may depend on who shares its batch; the
items are ranked for all of them in the tiles of one catalogue, whose rounding does not. So an answer has the items and
the scores of :meth:`Recommender.recommend`, whatever else is asked at the moment.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import polars as pl
import torch
from torch import Tensor

from recgraph.data.batches import Query
from recgraph.data.ids import IdMap, as_series
from recgraph.data.item_columns import ItemColumns
from recgraph.evaluate.ranking import GROUP, device_of
from recgraph.evaluate.rerank import Reranking
from recgraph.evaluate.topk import Catalogue, Lists
from recgraph.serve import lists
from recgraph.serve.http.alike import Alike
from recgraph.serve.http.asked import AnyAsked, Asked, AskedSimilar, Limits, Reader
from recgraph.serve.http.errors import Refused, as_exception, shown
from recgraph.serve.http.writing import Answer, Writer
from recgraph.serve.loading import bundle_of
from recgraph.serve.memory import check_service
from recgraph.serve.recommender import Recommender
from recgraph.serve.request import Request, as_labels
from recgraph.serve.ruling import Allowance, TooMuchWork, resolve, with_arguments
from recgraph.sparse.ragged import Ragged

__all__ = ["BATCH_USERS", "Served"]

#: users, and items, of several requests that are ranked together, at most: the rows of a tile of scores
BATCH_USERS = 128
#: users of a tile of scores, where few are ranked
_TILES = (16, 32, 64)


@dataclass(frozen=True)
class _Found:
    """What is known of the users of a request, in the model's indices.

    Attributes:
        query: B rows.
        known_mask: [B] bool, of which users enough is known.
        n_unknown_items: items of the histories that the model does not know.
    """

    query: Query
    known_mask: Tensor
    n_unknown_items: int


class Served:
    """A recommender that answers requests. Several threads may use it.

    Args:
        recommender: its answers are given.
        limits: of requests.
        identity: names the bundle.
    """

    def __init__(self, recommender: Recommender, limits: Limits, identity: str) -> None:
        self.recommender, self.identity, self.loaded = recommender, identity, time.time()
        self.reader = Reader(recommender, limits)
        self.n_items = len(recommender.items)
        self._most = min(limits.k, self.n_items)
        self._device = device_of(recommender.model)
        self._lister = lists.Lister(recommender.model, self.n_items)
        self._writer = Writer(recommender, self.reader.items, identity)
        self._alike = Alike(self.reader, self._lister, self._writer)
        self._item_columns = ItemColumns(recommender.items, recommender.item_features, recommender.columns.item)

    @classmethod
    def load(cls, path: Path, limits: Limits, device: str = "cpu", threads: int = 1) -> Self:
        """Read a bundle, or that of a run, and make ready to answer.

        Args:
            threads: batches that are answered at the same time.

        Raises:
            BundleError: it is damaged, or holds no recommender.
            MemoryLimitError: it, or what the limits allow to be asked for, does not fit into memory.
        """
        folder = bundle_of(path).resolve()  # a symbolic link may be switched meanwhile
        # before the rest: a bundle that takes the place meanwhile then has another identity, and is loaded next
        named = (folder / "config.json").read_bytes() if (folder / "config.json").is_file() else b""
        recommender = Recommender.load(folder, device)
        n_ids = len(recommender.users) + len(recommender.items)
        n_seen = recommender.seen.values.numel()
        check_service(recommender.model, n_ids, n_seen, max(limits.users, BATCH_USERS), limits.k, threads)
        served = cls(recommender, limits, hashlib.sha256(named).hexdigest()[:12])
        served.warm_up()
        return served

    def warm_up(self) -> None:
        """Compute what the first request would wait for; a model that cannot rank is found here."""
        _ = self._popular
        history = self.reader.items.ids.values[:1].to_list()
        k = min(10, self._most)
        whole = Asked("history", [None], None, [history], k=k)
        user = Asked("users", [None], self.recommender.users.values[:1].to_list(), None, k=k, popular=True)
        for rows in _TILES:
            self._lister.catalogue_for(k).in_tiles_of(rows)
        for answer in self.answer([whole, user]):
            if isinstance(answer, Exception) and not isinstance(answer, Refused):
                raise answer

    def describe(self) -> dict[str, Any]:
        """What ``GET /health`` says of the bundle."""
        recommender = self.recommender
        return {
            "id": self.identity,
            "model": type(recommender.model).__name__,
            "users": len(recommender.users),
            "items": self.n_items,
            "user_ids": self.reader.users.family,
            "item_ids": self.reader.items.family,
            "item_columns": [] if recommender.item_features is None else recommender.item_features.columns,
        }

    def answer(self, asked: Sequence[AnyAsked]) -> list[Answer | Exception]:
        """Answer requests together; an error of one does not concern the others.

        Returns:
            For each its answer, :class:`Refused`, or another error, which is the service's own.
        """
        try:
            return self._together(asked)
        except (Exception, pl.exceptions.PanicException) as error:  # whatever it is, it is one request's alone
            if len(asked) == 1:
                return [as_exception(error)]
            return [self.answer([one])[0] for one in asked]

    def _together(self, asked: Sequence[AnyAsked]) -> list[Answer | Exception]:
        of_users = {place: one for place, one in enumerate(asked) if isinstance(one, Asked)}
        of_items = {place: one for place, one in enumerate(asked) if isinstance(one, AskedSimilar)}
        made = dict(zip(of_users, self._recommend([*of_users.values()]) if of_users else [], strict=True))
        made |= dict(zip(of_items, self._alike.answer([*of_items.values()]), strict=True))
        return [made[place] for place in range(len(asked))]

    def _recommend(self, asked: Sequence[Asked]) -> list[Answer | Exception]:
        found = self._look_up(asked)
        answers: list[Answer | Exception | None] = [
            self._refusal(one, of) for one, of in zip(asked, found, strict=True)
        ]
        fine = [place for place, answer in enumerate(answers) if answer is None]
        made = {place: self._by_rules(asked[place], found[place]) for place in fine if asked[place].is_alone}
        left = [place for place in fine if place not in made]
        while left:
            catalogue = self._lister.catalogue_for(max(self._length(asked[place]) for place in left))
            alike = [place for place in left if catalogue.for_length(self._length(asked[place])) is not None]
            ranked = self._rank(catalogue, [asked[place] for place in alike], [found[place] for place in alike])
            made |= dict(zip(alike, ranked, strict=True))
            left = [place for place in left if place not in made]
        for place, of in made.items():
            answers[place] = self._write(asked[place], found[place], of)
        return [answer for answer in answers if answer is not None]

    def _look_up(self, asked: Sequence[Asked]) -> list[_Found]:
        """The indices of all ids, looked up at once."""
        of_users = self._query_of_users([user for one in asked for user in one.users or ()])
        of_histories = self._query_of_histories([row for one in asked for row in one.histories or ()])
        can_rank, device = self.recommender.model.can_rank, self._device
        with torch.no_grad():  # a recommender's model is in evaluation mode
            masks = [can_rank(query.to(device)).to("cpu") if len(query) else None for query in (of_users, of_histories)]
        found = []
        ends = [0, 0]
        for one in asked:
            which = 0 if one.users is not None else 1
            start = ends[which]
            end = ends[which] = start + len(one)
            query, mask = (of_users, of_histories)[which].rows(start, end), masks[which]
            assert mask is not None
            given = sum(len(row) for row in one.histories or ())
            n_unknown = given - query.history.values.numel() if one.histories is not None else 0
            found.append(_Found(query, mask[start:end], n_unknown))
        return found

    def _query_of_users(self, users: list[Any]) -> Query:
        seen, times = self.recommender.seen, self.recommender.times
        index = torch.tensor(self.reader.users.index(users), dtype=torch.int64)
        rows = index.clamp(min=0)
        lengths = torch.where(index >= 0, seen.lengths[rows], 0)
        when = None if times is None else times.take(rows).first(lengths)
        return Query(index, seen.take(rows).first(lengths), when)

    def _query_of_histories(self, rows: list[list[Any]]) -> Query:
        items = torch.tensor(self.reader.items.index([item for row in rows for item in row]), dtype=torch.int64)
        every = Ragged.from_lengths(items, torch.tensor([len(row) for row in rows], dtype=torch.int64))
        return Query(torch.full((len(rows),), -1), every.filter(items >= 0))

    def _refusal(self, one: Asked, found: _Found) -> Refused | None:
        if one.popular or bool(found.known_mask.all()):
            return None
        place = int((~found.known_mask).nonzero()[0])
        if one.users is not None:
            return Refused(
                404,
                f"{one.field}: nothing is known of user {shown(one.labels[place])}; take one of the bundle's "
                f'{len(self.recommender.users):,} users, send "history", or set "fallback": "popularity"',
                one.field,
                n_unknown_users=int((found.query.users < 0).sum()),
            )
        whose = "" if one.field == "history" else f" of {shown(one.labels[place])}"
        return Refused(
            422,
            f"{one.field}: the history{whose} has no item that the bundle knows; give items like "
            f'{shown(self.reader.items.example())}, or set "fallback": "popularity"',
            one.field,
            n_unknown_items=found.n_unknown_items,
        )

    def _length(self, one: Asked) -> int:
        return min(one.k, self.n_items)

    def _rank(self, catalogue: Catalogue, asked: Sequence[Asked], found: Sequence[_Found]) -> list[Lists]:
        k = catalogue.k
        known = [_take(of.query, of.known_mask) for of in found]
        ranked = self._rank_known(catalogue, asked, [query for query in known if len(query)])
        made, start = [], 0
        for one, of, query in zip(asked, found, known, strict=True):
            items = self._popular.items[:, :k].repeat(len(one), 1)
            scores = self._popular.scores[:, :k].repeat(len(one), 1)
            if len(query):
                part = ranked["exclude" if one.exclude_seen else "keep"]
                items[of.known_mask] = part.items[start : start + len(query)]
                scores[of.known_mask] = part.scores[start : start + len(query)].double()
                start += len(query)
            made.append(Lists(items[:, : one.k], scores[:, : one.k]))
        return made

    def _rank_known(self, catalogue: Catalogue, asked: Sequence[Asked], queries: Sequence[Query]) -> dict[str, Lists]:
        if not queries:
            return {}
        conventions = tuple(sorted({"exclude" if one.exclude_seen else "keep" for one in asked}))
        seen = Ragged.cat([query.history for query in queries]).to(catalogue.device)
        users = torch.cat([query.users for query in queries])
        with torch.no_grad():
            vectors = torch.cat([self._encode(query, catalogue.device) for query in queries])
            rows = next((rows for rows in _TILES if len(vectors) <= rows < catalogue.rows), None)
            catalogue = (None if rows is None else catalogue.in_tiles_of(rows)) or catalogue
            ranked = catalogue.rank(vectors, seen, conventions, users)
        return {name: Lists(best.items.to("cpu"), best.scores.to("cpu")) for name, best in ranked.items()}

    def _encode(self, query: Query, device: torch.device) -> Tensor:
        """[B, D] or [B, n_items], of one request, in groups as :func:`recgraph.evaluate.ranking.rank` makes them."""
        model = self.recommender.model
        encode = model.encode_users if model.has_vectors else model.score
        if len(query) == 1:
            return encode(query.to(device))
        order = query.history.lengths.argsort(stable=True)
        parts = [encode(query.take(rows).to(device)) for rows in torch.split(order, GROUP)]
        return torch.cat(parts)[order.argsort().to(device)]

    def _by_rules(self, one: Asked, found: _Found) -> Lists:
        """Of a request with rules, which is ranked by itself."""
        recommender = self.recommender
        request = Request(_labels(one, recommender.users), found.query, "polars")
        try:
            rules = with_arguments(one.rules, one.allow, one.block, recommender.columns)
            ruling = resolve(
                rules,
                recommender.items,
                self._item_columns,
                recommender.model,
                recommender.in_common,
                self._lister.by_vectors,
            )
            for own in (ruling.allow_for, ruling.block_for):
                if own is not None:
                    own.of(request.labels)
        except (ValueError, TypeError, OverflowError, pl.exceptions.PolarsError) as error:  # ids of odd types
            field = "rules" if one.rules is not None else "allow" if one.allow is not None else "block"
            raise Refused(422, str(error), field) from None
        if ruling.reranking is not None:
            self._check_work(ruling.reranking, one)
        empty = (~found.known_mask).nonzero().flatten()
        ruling = replace(ruling, allowance=Allowance(most := self.reader.limits.max_per))
        asked = lists.Asked(min(one.k, self.n_items), one.exclude_seen, ruling, None, (), GROUP)
        try:
            return self._lister.lists(request, asked, empty, recommender.popularity if len(empty) else None, None)
        except TooMuchWork:
            text = f"rules: max_per takes more than {most:,} comparisons for {len(one)} users and k = {one.k}"
            raise Refused(400, f"{text}; take a smaller k, or send several requests", "rules") from None

    def _check_work(self, reranking: Reranking, one: Asked) -> None:
        """Refuse a re-ranker that would hold up others for long."""
        if (work := len(one) * reranking.work(one.k)) > (most := self.reader.limits.rerank):
            text = f"rules: the re-ranker takes {work:,} steps for {len(one)} users and k = {one.k}"
            raise Refused(
                400, f"{text}, at most {most:,} are made; take a smaller pool or k, or send several requests", "rules"
            )

    @cached_property
    def _popular(self) -> Lists:
        """[1, k] the items seen most often, for the longest list that may be asked for."""
        catalogue = Catalogue(self.n_items, self._most)
        found = catalogue.rank(self.recommender.popularity.double()[None], None, ("keep",))["keep"]
        return Lists(found.items, found.scores)

    def _write(self, one: Asked, found: _Found, ranked: Lists) -> Answer:
        popular = (~found.known_mask).tolist()
        results = [
            {"user": label, "items": entries, "fallback": fallback}
            for label, entries, fallback in zip(
                one.labels, self._writer.entries(ranked, one.item_columns), popular, strict=True
            )
        ]
        return Answer(
            self._writer.body(results),
            n_lists=len(one),
            n_unknown_items=found.n_unknown_items,
            n_unknown_users=int((found.query.users < 0).sum()) if one.users is not None else 0,
            n_fallbacks=sum(popular),
        )


def _labels(one: Asked, users: IdMap) -> pl.Series:
    """The users' ids, by which rules of single users find them."""
    if one.users is None:
        return pl.Series("user", ["" if label is None else label for label in one.labels])
    labels = as_series(one.users, "users")
    # where none of them can be a user of the log, nothing says which type the ids have
    return as_labels(labels.cast(users.values.dtype) if labels.dtype == pl.Null else labels, users.as_uuid)


def _take(query: Query, mask: Tensor) -> Query:
    return query if bool(mask.all()) else query.take(mask.nonzero().flatten())
