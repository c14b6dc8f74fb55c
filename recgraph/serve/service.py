"""What the service answers: requests over JSON, and the predictor that answers batches of them from
one bundle.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain, islice, pairwise
from pathlib import Path
from typing import Annotated, Any, Self

import polars as pl
import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)
from torch import Tensor

from recgraph.config import Config, shown
from recgraph.data.batches import Query
from recgraph.data.ids import IdMap, family
from recgraph.evaluate.rerank import SimilarBy
from recgraph.evaluate.topk import Lists
from recgraph.serve.bundle import bundle_of, digest
from recgraph.serve.lists import TILES, Fallback, ListOptions
from recgraph.serve.recommender import Recommender
from recgraph.serve.request import in_order, plain, query_of_histories, query_of_users
from recgraph.serve.rules import Rules

#: maps up to this size are also held as Python objects, some 100 bytes an id: a look at few ids is
#: then much faster
_IN_PYTHON = 2_000_000
Id = (
    Annotated[bool, Strict()]
    | Annotated[int, Strict()]
    | Annotated[float, Strict(), Field(allow_inf_nan=False)]
    | Annotated[str, Strict()]
)

#: fields of a request that say for whom it is
_FOR_WHOM = ("user", "users", "history", "histories")
#: types of JSON in which ids are sent, by their family; others are texts
_JSON_TYPES: dict[str, set[type]] = {
    "booleans": {bool},
    "integers": {int, float},
    "floats": {int, float},
}
#: of one history, or label -> those of several
_Values = list[Id] | dict[str, list[Id]]


class Limits(Config):
    """How much one request may ask for; more is refused."""

    body_kib: Annotated[int, Field(ge=1, description="size of a request's body, in KiB")] = 1024
    k: Annotated[
        int, Field(ge=1, description="length of a list, and of what a re-ranker picks from")
    ] = 1000
    history: Annotated[int, Field(ge=1, description="items of one history")] = 10_000
    users: Annotated[int, Field(ge=1, description="users, histories or items of one request")] = 256
    rules: Annotated[
        int, Field(ge=0, description="boosts and columns in the rules of one request")
    ] = 32
    read_s: Annotated[
        float, Field(gt=0, description="seconds until the whole body must be there")
    ] = 10.0
    waiting: Annotated[
        int, Field(ge=1, description="requests that wait to be ranked; further ones get 503")
    ] = 2048


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    k: int = 10
    item_columns: Annotated[
        list[str] | None, Field(description="columns of the item features to add")
    ] = None
    allow: Annotated[
        list[Id] | None, Field(description="the items to which the lists are restricted")
    ] = None
    block: Annotated[list[Id] | None, Field(description="items that are in no list")] = None

    @property
    def restricted_by(self) -> str | None:
        """The field that says which items a list may hold; None where every item may be in one."""
        for name in ("rules", "allow", "block"):
            if getattr(self, name, None) is not None:
                return name
        return None


def _rows(values: _Values | None) -> dict[str, list[Id]]:
    """Label -> row, of several histories or of one, which has no label; or of their times."""
    if values is None:
        return {}
    if isinstance(values, dict):
        return values
    return {"": values}


def _lengths(values: _Values | None) -> dict[str, int]:
    """Label -> length of the row."""
    return {label: len(row) for label, row in _rows(values).items()}


class RecommendRequest(_Body):
    """The body of ``POST /recommend``."""

    user: Annotated[Id | None, Field(description="a user of the training data")] = None
    users: list[Id] | None = None
    history: list[Id] | None = None
    histories: dict[str, list[Id]] | None = None
    times: Annotated[
        _Values | None,
        Field(description="of the items of history, or of each of histories, as the log's times"),
    ] = None
    exclude_seen: Annotated[
        bool, Strict(), Field(description="leave out what the user has done")
    ] = True
    fallback: Annotated[
        Fallback | None, Field(description="for users of whom nothing is known; null: an error")
    ] = None
    rules: Annotated[Rules | None, Field(description="business rules")] = None
    at: Annotated[
        Id | None, Field(description="when the lists are asked for, written as the log's times")
    ] = None

    @field_validator("times")
    @classmethod
    def _one_each(cls, times: _Values | None, info: ValidationInfo) -> _Values | None:
        """Refuse times that are not as many as the items."""
        items = info.data.get("histories" if isinstance(times, dict) else "history")
        if times is not None and _lengths(times) != _lengths(items):
            raise ValueError("give a time for each item of history, or of histories, by label")
        return times

    @model_validator(mode="after")
    def _for_someone(self) -> Self:
        if len(self._given_fields) != 1:
            raise ValueError("give one of user, users, history and histories")
        return self

    @property
    def _given_fields(self) -> list[str]:
        return [name for name in _FOR_WHOM if getattr(self, name) is not None]

    @property
    def field(self) -> str:
        """The field that says for whom."""
        return self._given_fields[0]

    @property
    def labels(self) -> list[Any]:
        """[B] what the response calls each user."""
        if self.users is not None:
            return self.users
        if self.histories is not None:
            return list(self.histories)
        return [self.user]


class SimilarRequest(_Body):
    """The body of ``POST /similar``."""

    items: list[Id]
    by: Annotated[
        SimilarBy | None, Field(description="null: by the model's vectors where it has them")
    ] = None


def limited(limits: Limits) -> tuple[type[RecommendRequest], type[SimilarRequest]]:
    """The bodies of requests within the limits of a service."""
    k = (
        int,
        Field(
            min(10, limits.k), strict=True, ge=1, le=limits.k, description="the length of the lists"
        ),
    )
    row: Any = Annotated[list[Id], Field(max_length=limits.history)]
    many: dict[str, Any] = {"min_length": 1, "max_length": limits.users}
    recommend = create_model(
        "RecommendRequest",
        __base__=RecommendRequest,
        k=k,
        users=(
            list[Id] | None,
            Field(None, **many, description="several users of the training data"),
        ),
        history=(row | None, Field(None, description="the items of a new user, oldest first")),
        histories=(
            dict[str, row] | None,
            Field(None, **many, description="label -> items, of several new users"),
        ),
    )
    items = (list[Id], Field(**many, description="items of the training data"))
    similar = create_model("SimilarRequest", __base__=SimilarRequest, k=k, items=items)
    return recommend, similar


class Refused(ValueError):
    """A request that is wrong, with the status of its response and the field that is wrong."""

    def __init__(self, status: int, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.field = field


@contextmanager
def _refusing(field: str) -> Iterator[None]:
    """Within the block what the library refuses is the request's fault; ids of odd types fail in
    many ways.
    """
    try:
        yield
    except (ValueError, TypeError, OverflowError, pl.exceptions.PolarsError) as error:
        raise Refused(422, str(error), field) from None


class JsonIds:
    """Reads and writes the ids of one map as JSON: numbers, booleans and texts as they are, others
    as texts.
    """

    def __init__(self, ids: IdMap) -> None:
        self.ids = ids
        self.family = family(ids.values.dtype)
        self._types = _JSON_TYPES.get(self.family, {str})
        self._values: list[Any] | None = None
        self._index: dict[Any, int] = {}
        if len(ids) <= _IN_PYTHON:
            self._values = plain(ids.values)
            self._index = dict(zip(self._values, range(len(ids)), strict=True))

    def read(self, values: list[Any], field: str) -> list[int]:
        """The index of each id, -1 where it is not known; one of another type than the map's is
        refused.
        """
        for place, value in enumerate(values):
            if type(value) not in self._types:
                sent = {bool: "a boolean", str: "a text"}.get(type(value), "a number")
                raise Refused(
                    422,
                    f"{field}[{place}] = {shown(value)} is {sent}, and ids are {self.family}, "
                    f"such as {self.write(range(len(self.ids))[:1])}",
                    field,
                )
        if self._values is not None:
            return [self._index.get(value, -1) for value in values]
        series = pl.Series(values, dtype=self.ids.values.dtype, strict=False)
        index: list[int] = self.ids.index(series).tolist()
        return index

    def write(self, indices: Sequence[int]) -> list[Any]:
        """The ids of indices, as JSON can hold them."""
        if self._values is None:
            return plain(self.ids.ids(indices))
        return [self._values[index] for index in indices]


@dataclass(frozen=True)
class Job:
    """A request whose users, histories or items are looked up: indices, -1 for what is not known.
    Jobs of the same ``key`` may be computed together; a restricted one has a key of its own."""

    predictor: Predictor
    request: RecommendRequest | SimilarRequest
    key: object
    users: list[int] = field(default_factory=list)
    histories: list[list[int]] = field(default_factory=list)
    items: list[int] = field(default_factory=list)
    at: Tensor | None = None
    #: [T] of the histories, one after the other
    times: Tensor | None = None

    def __len__(self) -> int:
        return len(self.users) + len(self.histories) + len(self.items)


@dataclass(frozen=True)
class Result:
    """The body of a response, and what is counted of it."""

    body: bytes
    n_unknown_items: int = 0
    n_unknown_users: int = 0
    n_fallbacks: int = 0


class Predictor:
    """Answers requests from one bundle, each as the library's ``recommend`` and ``similar`` do,
    whoever shares a batch; several threads may use it. ``identity`` names the bundle."""

    def __init__(self, recommender: Recommender, limits: Limits, identity: str) -> None:
        self.recommender = recommender
        self.limits = limits
        self.identity = identity
        self.loaded = time.time()
        self.users = JsonIds(recommender.users)
        self.items = JsonIds(recommender.items)
        self.n_items = len(recommender.items)

    @classmethod
    def load(cls, path: Path, limits: Limits, device: str = "cpu") -> Self:
        """Read a bundle, or that of a run, and compute what the first request would wait for."""
        folder = bundle_of(path).resolve()  # a symbolic link may be switched meanwhile
        # before the rest: a bundle that takes the place meanwhile then has another identity, and is
        # loaded next
        identity = digest(folder)[:12]
        loaded = cls(Recommender.load(folder, device), limits, identity)
        k = min(10, limits.k, loaded.n_items)
        for rows in TILES:
            loaded.recommender.lister.catalogue_for(k).in_tiles_of(rows)
        user = RecommendRequest(users=loaded.users.write([0]), k=k, fallback="popularity")
        history = RecommendRequest(history=loaded.items.write([0]), k=k)
        for request in (user, history):  # a model that cannot rank is found here
            loaded._recommend([loaded.prepare(request)])
        return loaded

    def describe(self) -> dict[str, Any]:
        """What ``GET /health`` says of the bundle."""
        return {
            "id": self.identity,
            "model": type(self.recommender.model).__name__,
            "users": len(self.recommender.users),
            "items": self.n_items,
            "user_ids": self.users.family,
            "item_ids": self.items.family,
            "item_columns": self.recommender.feature_names,
            "held_out": self.recommender.held_out,
        }

    def prepare(self, request: RecommendRequest | SimilarRequest) -> Job:
        """Look the ids of a request up; Refused where it does not fit the bundle."""
        with _refusing("item_columns"):
            self.recommender.check_item_columns(request.item_columns or (), "user", "item")
        if isinstance(request, SimilarRequest):
            job = self._prepare_similar(request)
        else:
            job = self._prepare_recommend(request)
        if request.restricted_by is not None:
            job = replace(job, key=object())  # which no other job has
        return job

    def _prepare_similar(self, request: SimilarRequest) -> Job:
        with _refusing("by"):
            by = self.recommender.similar_by(request.by)
        items = self.items.read(request.items, "items")
        if max(items) < 0:
            raise Refused(404, f"nothing is known of item {request.items[0]!r}", "items")
        return Job(self, request, key=(self, self._length(request), by), items=items)

    def _prepare_recommend(self, request: RecommendRequest) -> Job:
        if request.rules is not None:
            self._check_rules(request.rules)
        users = []
        if request.field in ("user", "users"):
            users = self.users.read(request.labels, request.field)
        rows = _rows(request.histories or request.history)
        histories = [self.items.read(row, request.field) for row in rows.values()]
        rows_of_times = _rows(request.times)
        written = list(chain.from_iterable(rows_of_times.get(label, ()) for label in rows))
        times = None
        if written:
            with _refusing("times"):
                read = self.recommender.read_times(written, len(written), "times")
            histories, ordered = in_order(histories, read.tolist())
            times = torch.tensor(ordered)
        with _refusing("at"):
            at = self.recommender.time_of(request.at, len(users) + len(histories))
        key = (
            self,
            self._length(request),
            request.exclude_seen,
            bool(users),
            at is None,
            times is None,
        )
        return Job(self, request, key=key, users=users, histories=histories, at=at, times=times)

    def _check_rules(self, rules: Rules) -> None:
        pool = 0
        if rules.reranker is not None:
            pool = rules.reranker.config.pool
        if len(rules.boost) + len(rules.columns) > self.limits.rules or pool > self.limits.k:
            most = f"at most {self.limits.rules} boosts and columns, and a re-ranker's pool of {self.limits.k}"
            raise Refused(422, f"rules: {most}", "rules")

    def _length(self, request: RecommendRequest | SimilarRequest) -> int:
        return min(request.k, self.n_items)

    def respond(self, jobs: Sequence[Job]) -> list[Result | Exception]:
        """Answer jobs of one key together -> for each its result, or an error, which is its own
        alone.
        """
        try:
            if jobs[0].items:
                return self._similar(jobs)
            return self._recommend(jobs)
        except (Exception, pl.exceptions.PanicException) as error:
            # whatever it is, it is one request's alone
            if len(jobs) > 1:
                return [self.respond([job])[0] for job in jobs]
            if isinstance(error, pl.exceptions.PanicException):  # which is no Exception
                return [RuntimeError(str(error))]
            return [error]

    def _recommend(self, jobs: Sequence[Job]) -> list[Result | Exception]:
        query = self._query(jobs)
        known_mask = torch.ones(len(query), dtype=torch.bool)
        known_mask[self.recommender.lister.unknown(query)] = False
        queries = []
        known_masks = []
        batch = []  # jobs that are ranked together
        for start, end in pairwise([0, *accumulate(map(len, jobs))]):
            queries.append(query.rows(start, end))
            known_masks.append(known_mask[start:end])
            if bool(known_mask[start:end].all()):
                batch.append(len(queries) - 1)
        request = jobs[0].request
        assert isinstance(request, RecommendRequest)
        ranked: dict[int, Lists] = {}
        if batch and request.restricted_by is None:
            lists = self.recommender.lister.rank_together(
                [queries[number] for number in batch], self._length(request), request.exclude_seen
            )
            ranked = dict(zip(batch, lists, strict=True))
        results: list[Result | Exception] = []
        for number, job in enumerate(jobs):
            results.append(
                self._recommended(job, queries[number], known_masks[number], ranked.get(number))
            )
        return results

    def _query(self, jobs: Sequence[Job]) -> Query:
        """The users or histories of all jobs."""
        if jobs[0].users:
            users = torch.tensor(list(chain.from_iterable(job.users for job in jobs)))
            query = query_of_users(users, self.recommender.seen, self.recommender.times)
        else:
            rows = list(chain.from_iterable(job.histories for job in jobs))
            items = torch.tensor(list(chain.from_iterable(rows)), dtype=torch.int64)
            lengths = torch.tensor(list(map(len, rows)))
            query = query_of_histories(items, lengths, _cat([job.times for job in jobs]))
        return replace(query, at=_cat([job.at for job in jobs]))

    def _recommended(
        self, job: Job, query: Query, known_mask: Tensor, lists: Lists | None
    ) -> Result | Refused:
        """The response to a job, whose lists are made here where they are not there."""
        request = job.request
        assert isinstance(request, RecommendRequest)
        unknown = (~known_mask).nonzero().flatten()
        if len(unknown) and request.fallback is None:
            return _nothing_known(request, request.labels[int(unknown[0])])
        if lists is None:
            lists = self._lists(request, query, unknown)
        entries = self._entries(lists, request.item_columns)
        results = []
        for label, items, is_known in zip(
            request.labels, entries, known_mask.tolist(), strict=True
        ):
            results.append({"user": label, "items": items, "fallback": not is_known})
        return Result(
            self._body(results),
            n_unknown_items=sum(row.count(-1) for row in job.histories),
            n_unknown_users=job.users.count(-1),
            n_fallbacks=len(unknown),
        )

    def _lists(self, request: RecommendRequest, query: Query, unknown: Tensor) -> Lists:
        """The lists of one request, under its rules and with its fallback."""
        recommender = self.recommender
        with _refusing(request.restricted_by or "rules"):
            rules = Rules.with_arguments(request.rules, request.allow, request.block)
            resolved = recommender.resolve(rules)
        options = ListOptions(self._length(request), request.exclude_seen, resolved)
        return recommender.lister.lists(
            query, options, unknown, lambda: recommender.popularity, None
        )

    def _similar(self, jobs: Sequence[Job]) -> list[Result | Exception]:
        recommender = self.recommender
        request = jobs[0].request
        assert isinstance(request, SimilarRequest)
        with _refusing(request.restricted_by or "allow"):
            candidates, _ = recommender.candidates(request.allow, request.block)
        lists = recommender.lister.similar(
            recommender.in_common,
            recommender.similar_by(request.by),
            torch.tensor(list(chain.from_iterable(job.items for job in jobs))),
            self._length(request),
            candidates,
        )
        responses: list[Result | Exception] = []
        start = 0
        for job in jobs:
            rows = slice(start, start + len(job))
            start += len(job)
            entries = self._entries(
                Lists(lists.items[rows], lists.scores[rows]), job.request.item_columns
            )
            results = []
            labels: list[Any] = job.request.items  # type: ignore[union-attr]
            for label, items, index in zip(labels, entries, job.items, strict=True):
                results.append({"item": label, "items": items, "known": index >= 0})
            responses.append(Result(self._body(results), n_unknown_items=job.items.count(-1)))
        return responses

    def _entries(
        self, lists: Lists, item_columns: Sequence[str] | None
    ) -> list[list[dict[str, Any]]]:
        """For each list its items, best first, with score, rank and the item columns."""
        rows, places = (lists.items >= 0).nonzero(as_tuple=True)
        index = lists.items[rows, places]
        columns: dict[str, list[Any]] = {
            "item": self.items.write(index.tolist()),
            "score": plain(pl.Series(lists.scores[rows, places].numpy())),
            "rank": (places + 1).tolist(),
        }
        for column in self.recommender.features_of(index, item_columns or ()):
            columns[column.name] = plain(column)
        values = zip(*columns.values(), strict=True)
        entries = (dict(zip(columns, row, strict=True)) for row in values)
        lengths = torch.bincount(rows, minlength=len(lists.items)).tolist()
        return [list(islice(entries, length)) for length in lengths]

    def _body(self, results: list[dict[str, Any]]) -> bytes:
        content = {"bundle": self.identity, "results": results}
        return json.dumps(content, ensure_ascii=False, allow_nan=False).encode()


def _cat(parts: Sequence[Tensor | None]) -> Tensor | None:
    """The tensors of jobs of one key, which all have one or all have none."""
    if parts[0] is None:
        return None
    return torch.cat(parts)  # type: ignore[arg-type]


def _nothing_known(request: RecommendRequest, label: Any) -> Refused:
    instead = 'set "fallback": "popularity"'
    if request.field in ("user", "users"):
        message = f'nothing is known of user {label!r}; send "history", or {instead}'
        return Refused(404, message, request.field)
    whose = f" of {label!r}" if request.field == "histories" else ""
    return Refused(422, f"no item of the history{whose} is known; {instead}", request.field)
