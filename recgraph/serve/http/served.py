"""One bundle as the service holds it: batches of requests are ranked together, each as if it were alone.

Each request's users are encoded by themselves, since the rounding of a model may depend on who shares its batch; the
items are ranked for all of them in the tiles of one catalogue, whose rounding does not. So an answer has the items and
the scores of :meth:`Recommender.recommend`, whatever else is asked at the moment.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import polars as pl
import torch
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr
from torch import Tensor

from recgraph.config import Config
from recgraph.data.batches import Query
from recgraph.data.item_features import feature_rows
from recgraph.evaluate.ranking import GROUP, device_of
from recgraph.evaluate.rerank import SimilarBy
from recgraph.evaluate.topk import Catalogue, Lists
from recgraph.serve import lists
from recgraph.serve.bundle import bundle_of, digest
from recgraph.serve.jsonids import JsonIds, plain
from recgraph.serve.lists import check_item_columns
from recgraph.serve.recommender import Recommender
from recgraph.serve.request import Request
from recgraph.serve.rules import Rules
from recgraph.serve.ruling import resolve, with_arguments
from recgraph.serve.similar import candidates_left, chosen, lists_like
from recgraph.sparse.ragged import Ragged

#: users, and items, of several requests that are ranked together, at most: the rows of a tile of scores
BATCH_USERS = 128
#: users of a tile of scores, where few are ranked
_TILES = (16, 32, 64)
Id = StrictBool | StrictInt | Annotated[StrictFloat, Field(allow_inf_nan=False)] | StrictStr


class Limits(Config):
    """How much one request may ask for; more is refused."""

    body_kib: Annotated[int, Field(ge=1, description="size of a request's body, in KiB")] = 1024
    k: Annotated[int, Field(ge=1, description="length of a list, and of what a re-ranker picks from")] = 1000
    history: Annotated[int, Field(ge=1, description="items of one history")] = 10_000
    users: Annotated[int, Field(ge=1, description="users, histories or items of one request")] = 256
    rules: Annotated[int, Field(ge=0, description="boosts and columns in the rules of one request")] = 32
    read_s: Annotated[float, Field(gt=0, description="seconds until the whole body must be there")] = 10.0
    waiting: Annotated[int, Field(ge=1, description="requests that wait to be ranked; further ones get 503")] = 2048


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")

    k: int = 10
    item_columns: Annotated[list[str] | None, Field(description="columns of the item features to add")] = None
    allow: Annotated[list[Id] | None, Field(description="the items to which the lists are restricted")] = None
    block: Annotated[list[Id] | None, Field(description="items that are in no list")] = None


class Recommend(_Asked):
    """The body of ``POST /recommend``; the service adds its limits (:func:`recgraph.serve.http.app.bodies`)."""

    user: Annotated[Id | None, Field(description="a user of the training data")] = None
    users: list[Id] | None = None
    history: list[Id] | None = None
    histories: dict[str, list[Id]] | None = None
    exclude_seen: Annotated[StrictBool, Field(description="leave out what the user has done")] = True
    fallback: Annotated[
        Literal["popularity"] | None,
        Field(description="what users of whom nothing is known get; null: 404 (users) or 422 (histories)"),
    ] = None
    rules: Annotated[Rules | None, Field(description="business rules")] = None

    @property
    def is_alone(self) -> bool:
        """Whether it is ranked by itself, since its items or scores are its own."""
        return self.rules is not None or self.allow is not None or self.block is not None

    @property
    def field(self) -> str:
        """The field that says for whom."""
        return next(name for name in ("user", "users", "history", "histories") if getattr(self, name) is not None)

    @property
    def labels(self) -> list[Any]:
        """[B] what the answer calls each user."""
        return [self.user] if self.users is None and self.histories is None else [*(self.users or self.histories or ())]

    def __len__(self) -> int:
        return len(self.labels)


class Similar(_Asked):
    """The body of ``POST /similar``."""

    items: list[Id]
    by: Annotated[
        SimilarBy | None, Field(description="the model's vectors (null: where it has them), or the users who have both")
    ] = None

    def __len__(self) -> int:
        return len(self.items)

    @property
    def is_alone(self) -> bool:
        """Whether it is ranked by itself: users are counted for each of its items, or its items are its own."""
        return self.by == "co_occurrence" or self.allow is not None or self.block is not None


class Refused(ValueError):
    """A request that is wrong, with the status of its answer and the field that is wrong."""

    def __init__(self, status: int, message: str, field: str | None = None, n_users: int = 0, n_items: int = 0) -> None:
        super().__init__(message)
        self.status, self.field = status, field
        self.n_unknown_users, self.n_unknown_items, self.n_fallbacks = n_users, n_items, 0


@dataclass(frozen=True)
class Answer:
    """The body of an answer, and what is counted of it."""

    body: bytes
    n_unknown_items: int = 0
    n_unknown_users: int = 0
    n_fallbacks: int = 0


@dataclass
class _Found:
    """What is known of the users of a request: their indices, or those of their histories' items (-1: not known)."""

    one: Recommend
    users: list[int]
    histories: list[list[int]]
    query: Query
    known_mask: Tensor

    @property
    def n_unknown_items(self) -> int:
        return sum(item < 0 for row in self.histories for item in row)

    @property
    def n_unknown_users(self) -> int:
        return sum(user < 0 for user in self.users)


class Served:
    """A recommender that answers requests. Several threads may use it.

    Args:
        recommender: its answers are given.
        limits: of requests.
        identity: names the bundle.
    """

    def __init__(self, recommender: Recommender, limits: Limits, identity: str) -> None:
        self.recommender, self.limits, self.identity, self.loaded = recommender, limits, identity, time.time()
        self.users, self.items = JsonIds(recommender.users), JsonIds(recommender.items)
        self.n_items = len(recommender.items)
        self._device = device_of(recommender.model)
        self._lister = lists.Lister(recommender.model, self.n_items)

    @classmethod
    def load(cls, path: Path, limits: Limits, device: str = "cpu") -> Self:
        """Read a bundle, or that of a run, and make ready to answer.

        Raises:
            BundleError: it is damaged, or holds no recommender.
        """
        folder = bundle_of(path).resolve()  # a symbolic link may be switched meanwhile
        # before the rest: a bundle that takes the place meanwhile then has another identity, and is loaded next
        identity = digest(folder)[:12]
        served = cls(Recommender.load(folder, device), limits, identity)
        served.warm_up()
        return served

    def warm_up(self) -> None:
        """Compute what the first request would wait for; a model that cannot rank is found here."""
        k = min(10, self._longest)
        for rows in _TILES:
            self._lister.catalogue_for(k).in_tiles_of(rows)
        user = Recommend(users=self.users.write([0]), k=k, fallback="popularity")
        history = Recommend(history=self.items.write([0]), k=k)
        for answer in self.answer([user, history]):
            if isinstance(answer, Exception) and not isinstance(answer, Refused):
                raise answer

    def describe(self) -> dict[str, Any]:
        """What ``GET /health`` says of the bundle."""
        features = self.recommender.item_features
        return {
            "id": self.identity,
            "model": type(self.recommender.model).__name__,
            "users": len(self.recommender.users),
            "items": self.n_items,
            "user_ids": self.users.family,
            "item_ids": self.items.family,
            "item_columns": [] if features is None else features.columns,
        }

    def answer(self, requests: Sequence[Recommend | Similar]) -> list[Answer | Exception]:
        """Answer requests together; an error of one does not concern the others.

        Returns:
            For each its answer, :class:`Refused`, or another error, which is the service's own.
        """
        try:
            of_users = {place: one for place, one in enumerate(requests) if isinstance(one, Recommend)}
            of_items = {place: one for place, one in enumerate(requests) if isinstance(one, Similar)}
            made = dict(zip(of_users, self._recommend([*of_users.values()]), strict=True))
            made |= dict(zip(of_items, self._similar([*of_items.values()]), strict=True))
            return [made[place] for place in range(len(requests))]
        except (Exception, pl.exceptions.PanicException) as error:  # whatever it is, it is one request's alone
            if len(requests) == 1:
                return [error if isinstance(error, Exception) else RuntimeError(str(error))]
            return [self.answer([one])[0] for one in requests]

    def _recommend(self, requests: Sequence[Recommend]) -> list[Answer | Refused]:
        found = self._look_up(requests)
        answers: dict[int, Answer | Refused] = {n: of for n, of in enumerate(found) if isinstance(of, Refused)}
        known = {n: of for n, of in enumerate(found) if isinstance(of, _Found)}
        answers |= {n: refused for n, of in known.items() if (refused := self._refusal(of)) is not None}
        made = {n: self._by_rules(of) for n, of in known.items() if of.one.is_alone and n not in answers}
        left = [n for n in known if n not in answers and n not in made]
        while left:
            lengths = {n: min(known[n].one.k, self.n_items) for n in left}
            catalogue = self._lister.catalogue_for(max(lengths.values()))
            # lists of other lengths may have tiles of another shape
            alike = [n for n in left if catalogue.for_length(lengths[n]) is not None]
            made |= dict(zip(alike, self._rank(catalogue, [known[n] for n in alike]), strict=True))
            left = [n for n in left if n not in made]
        answers |= {n: self._answer_of(known[n], of) for n, of in made.items()}
        return [answers[n] for n in range(len(found))]

    def _look_up(self, requests: Sequence[Recommend]) -> list[_Found | Refused]:
        read: list[tuple[list[int], list[list[int]]] | Refused] = []
        for one in requests:
            try:
                self._check_columns(one)
                users = _read(self.users, one.labels, one.field) if one.field in ("user", "users") else []
                rows = one.histories or ({} if one.history is None else {"": one.history})
                read.append((users, [_read(self.items, row, one.field) for row in rows.values()]))
            except Refused as refused:
                read.append(refused)
        # all at once
        fine = [each for each in read if not isinstance(each, Refused)]
        queries = (
            self._query_of_users([user for users, _ in fine for user in users]),
            _query_of_histories([row for _, rows in fine for row in rows]),
        )
        can_rank = self.recommender.model.can_rank
        with torch.no_grad():  # a recommender's model is in evaluation mode
            masks = [can_rank(query.to(self._device)).to("cpu") if len(query) else torch.empty(0) for query in queries]
        found: list[_Found | Refused] = []
        ends = [0, 0]
        for one, each in zip(requests, read, strict=True):
            if isinstance(each, Refused):
                found.append(each)
                continue
            which = 0 if each[0] else 1
            start = ends[which]
            end = ends[which] = start + len(one)
            found.append(_Found(one, *each, queries[which].rows(start, end), masks[which][start:end]))
        return found

    def _query_of_users(self, users: list[int]) -> Query:
        seen, times = self.recommender.seen, self.recommender.times
        index = torch.tensor(users, dtype=torch.int64)
        rows = index.clamp(min=0)
        lengths = torch.where(index >= 0, seen.lengths[rows], 0)
        when = None if times is None else times.take(rows).first(lengths)
        return Query(index, seen.take(rows).first(lengths), when)

    def _check_columns(self, one: Recommend | Similar) -> None:
        try:
            check_item_columns(self.recommender.item_features, one.item_columns or (), ("user", "item"))
        except ValueError as error:
            raise Refused(422, str(error), "item_columns") from None

    def _refusal(self, found: _Found) -> Refused | None:
        if found.one.fallback is not None or bool(found.known_mask.all()):
            return None
        label = found.one.labels[int((~found.known_mask).nonzero()[0])]
        instead = 'set "fallback": "popularity"'
        if found.users:
            text = f'nothing is known of user {label!r}; send "history", or {instead}'
            return Refused(404, text, found.one.field, n_users=found.n_unknown_users)
        text = f"no item of the history{'' if label is None else f' of {label!r}'} is known; {instead}"
        return Refused(422, text, found.one.field, n_items=found.n_unknown_items)

    def _rank(self, catalogue: Catalogue, found: Sequence[_Found]) -> list[Lists]:
        """The lists of requests, of popular items where nothing is known of a user."""
        known = [of.query.take(of.known_mask.nonzero().flatten()) for of in found]
        ranked = self._rank_known(catalogue, found, [query for query in known if len(query)])
        made, start = [], 0
        for of, query in zip(found, known, strict=True):
            items = self._popular.items[:, : catalogue.k].repeat(len(of.one), 1)
            scores = self._popular.scores[:, : catalogue.k].repeat(len(of.one), 1)
            if len(query):
                part = ranked["exclude" if of.one.exclude_seen else "keep"]
                items[of.known_mask] = part.items[start : start + len(query)]
                scores[of.known_mask] = part.scores[start : start + len(query)].double()
                start += len(query)
            made.append(Lists(items, scores).first(of.one.k))
        return made

    def _rank_known(self, catalogue: Catalogue, found: Sequence[_Found], queries: Sequence[Query]) -> dict[str, Lists]:
        if not queries:
            return {}
        conventions = tuple(sorted({"exclude" if of.one.exclude_seen else "keep" for of in found}))
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

    def _by_rules(self, found: _Found) -> Lists:
        """Of a request with rules, which is ranked by itself."""
        recommender, one = self.recommender, found.one
        field = "rules" if one.rules is not None else "block" if one.allow is None else "allow"
        if one.rules is not None:
            self._check_rules(one.rules)
        try:
            rules = with_arguments(one.rules, one.allow, one.block, recommender.columns)
            ruling = resolve(rules, recommender, self._lister.by_vectors)
        except (ValueError, TypeError, OverflowError, pl.exceptions.PolarsError) as error:  # ids of odd types
            raise Refused(422, str(error), field) from None
        labels = ["" if label is None else str(label) for label in one.labels]
        request = Request(pl.Series("user", labels), found.query, "polars")
        empty = (~found.known_mask).nonzero().flatten()
        wanted = lists.Wanted(min(one.k, self.n_items), one.exclude_seen, ruling, None, ())
        return self._lister.lists(request, wanted, empty, recommender.popularity if len(empty) else None, None)

    def _check_rules(self, rules: Rules) -> None:
        if (n_rules := len(rules.boost) + len(rules.columns)) > self.limits.rules:
            raise Refused(422, f"rules: {n_rules} boosts and columns, at most {self.limits.rules} are applied", "rules")
        if (picks := rules.reranker) is not None and picks.config.pool > self.limits.k:
            raise Refused(422, f"rules: the pool of a re-ranker is at most {self.limits.k}", "rules")

    @property
    def _longest(self) -> int:
        return min(self.limits.k, self.n_items)

    @cached_property
    def _popular(self) -> Lists:
        """[1, k] the items seen most often, for the longest list that may be asked for."""
        catalogue = Catalogue(self.n_items, self._longest)
        return catalogue.rank(self.recommender.popularity.double()[None], None, ("keep",))["keep"]

    def _answer_of(self, found: _Found, ranked: Lists) -> Answer:
        popular = (~found.known_mask).tolist()
        results = [
            {"user": label, "items": entries, "fallback": fallback}
            for label, entries, fallback in zip(
                found.one.labels, self._entries(ranked, found.one.item_columns or ()), popular, strict=True
            )
        ]
        return Answer(self._body(results), found.n_unknown_items, found.n_unknown_users, sum(popular))

    def _similar(self, requests: Sequence[Similar]) -> list[Answer]:
        index, ways = [], []
        for one in requests:
            self._check_columns(one)
            index.append(torch.tensor(_read(self.items, one.items, "items")))
            try:
                ways.append(chosen(self.recommender.model, one.by))
            except ValueError as error:
                raise Refused(422, str(error), "by") from None
        # one product with the vectors for all that compare by them among all items
        shared = [n for n, one in enumerate(requests) if not one.is_alone and ways[n] == "vectors"]
        made: dict[int, Lists] = {}
        if shared:
            most = max(requests[n].k for n in shared)
            together = self._lists_like("vectors", torch.cat([index[n] for n in shared]), most)
            parts = [len(requests[n]) for n in shared]
            of = zip(shared, together.items.split(parts), together.scores.split(parts), strict=True)  # type: ignore[no-untyped-call]
            made = {n: Lists(items, scores).first(requests[n].k) for n, items, scores in of}
        for n, one in enumerate(requests):
            if n not in made:
                made[n] = self._lists_like(ways[n], index[n], one.k, self._among(one))
        return [self._alike(one, index[n], made[n]) for n, one in enumerate(requests)]

    def _lists_like(self, by: SimilarBy, index: Tensor, k: int, among: Tensor | None = None) -> Lists:
        return lists_like(self._lister, self.recommender.in_common, by, index, min(k, self.n_items), among)

    def _among(self, one: Similar) -> Tensor | None:
        try:
            return candidates_left(one.allow, one.block, self.recommender.items)[0]
        except (ValueError, TypeError, OverflowError, pl.exceptions.PolarsError) as error:  # ids of odd types
            raise Refused(422, str(error), "block" if one.allow is None else "allow") from None

    def _alike(self, one: Similar, index: Tensor, ranked: Lists) -> Answer:
        known = (index >= 0).tolist()
        n_unknown = len(known) - sum(known)
        if not any(known):
            raise Refused(404, f"nothing is known of item {one.items[0]!r}", "items", n_items=n_unknown)
        results = [
            {"item": label, "items": entries, "known": is_known}
            for label, entries, is_known in zip(
                one.items, self._entries(ranked, one.item_columns or ()), known, strict=True
            )
        ]
        return Answer(self._body(results), n_unknown)

    def _entries(self, ranked: Lists, item_columns: Sequence[str]) -> list[list[dict[str, Any]]]:
        """For each list its items, best first, with score, rank and the wanted columns."""
        rows, places = (ranked.items >= 0).nonzero(as_tuple=True)
        index = ranked.items[rows, places]
        columns: dict[str, list[Any]] = {
            "item": self.items.write(index.tolist()),
            "score": [score if score - score == 0 else None for score in ranked.scores[rows, places].tolist()],
            "rank": (places + 1).tolist(),
        }
        features = self.recommender.item_features
        if item_columns and features is not None:
            at = pl.Series(self._feature_rows[index].numpy()).replace(-1, None)
            columns |= {name: plain(features[name].gather(at)) for name in item_columns}
        entries = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        ends = torch.bincount(rows, minlength=len(ranked.items)).cumsum(0).tolist()
        return [entries[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    @cached_property
    def _feature_rows(self) -> Tensor:
        features = self.recommender.item_features
        assert features is not None
        return feature_rows(self.recommender.items, features[self.recommender.columns.item])

    def _body(self, results: list[dict[str, Any]]) -> bytes:
        made = {"bundle": self.identity, "results": results}
        return json.dumps(made, ensure_ascii=False, allow_nan=False).encode()


def _read(ids: JsonIds, values: list[Any], field: str) -> list[int]:
    try:
        return ids.read(values, field)
    except ValueError as error:
        raise Refused(422, str(error), field) from None


def _query_of_histories(rows: list[list[int]]) -> Query:
    items = torch.tensor([item for row in rows for item in row], dtype=torch.int64)
    every = Ragged.from_lengths(items, torch.tensor([len(row) for row in rows], dtype=torch.int64))
    return Query(torch.full((len(rows),), -1), every.filter(items >= 0))
