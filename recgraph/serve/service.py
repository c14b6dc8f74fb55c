"""What the service answers: requests over JSON, and the predictor that answers batches of them from
one bundle.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
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


def _rows(given: _Values | None) -> dict[str, list[Id]]:
    """Label -> row, of several histories or of one, which has no label; or of their times."""
    if isinstance(given, dict):
        return given
    return {} if given is None else {"": given}


def _lengths(given: _Values | None) -> dict[str, int]:
    """Label -> length of the row."""
    return {label: len(row) for label, row in _rows(given).items()}


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
        given = [self.user, self.users, self.history, self.histories]
        if sum(each is not None for each in given) != 1:
            raise ValueError("give one of user, users, history and histories")
        return self

    @property
    def field(self) -> str:
        """The field that says for whom."""
        return next(
            name
            for name in ("user", "users", "history", "histories")
            if getattr(self, name) is not None
        )

    @property
    def labels(self) -> list[Any]:
        """[B] what the response calls each user."""
        return (
            [self.user]
            if self.users is None and self.histories is None
            else [*(self.users or self.histories or ())]
        )


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
        self.status, self.field = status, field


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
        dtype = ids.values.dtype
        self.ids, self.family = ids, family(dtype)
        self._types = (
            {bool} if dtype == pl.Boolean else {int, float} if dtype.is_numeric() else {str}
        )
        self._texts = plain(ids.values) if len(ids) <= _IN_PYTHON else None
        self._places = (
            None if self._texts is None else {each: index for index, each in enumerate(self._texts)}
        )

    def read(self, values: list[Any], field: str) -> list[int]:
        """The index of each id, -1 where it is not known; one of another type than the map's is
        refused.
        """
        for place, value in enumerate(values):
            if type(value) not in self._types:
                like = f"{self.family}, such as {self.write([0])[0]!r}" if len(self.ids) else "none"
                sent = {bool: "a boolean", str: "a text"}.get(type(value), "a number")
                raise Refused(
                    422, f"{field}[{place}] = {shown(value)} is {sent}, and ids are {like}", field
                )
        if self._places is not None:
            return [self._places.get(each, -1) for each in values]
        found: list[int] = self.ids.index(
            pl.Series(values, dtype=self.ids.values.dtype, strict=False)
        ).tolist()
        return found

    def write(self, indices: list[int]) -> list[Any]:
        """The ids of indices, as JSON can hold them."""
        return (
            plain(self.ids.ids(indices))
            if self._texts is None
            else [self._texts[index] for index in indices]
        )


@dataclass(frozen=True)
class Job:
    """A request whose users, histories or items are looked up: indices, -1 for what is not known.
    Jobs of the same ``key`` may be computed together; None: only alone."""

    predictor: Predictor
    request: RecommendRequest | SimilarRequest
    users: list[int]
    histories: list[list[int]]
    items: list[int]
    key: tuple[Any, ...] | None
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
        self.recommender, self.limits, self.identity, self.loaded = (
            recommender,
            limits,
            identity,
            time.time(),
        )
        self.users, self.items = JsonIds(recommender.users), JsonIds(recommender.items)
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
            (result,) = loaded.respond([loaded.prepare(request)])
            if isinstance(result, Exception) and not isinstance(result, Refused):
                raise result
        return loaded

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
            "held_out": self.recommender.held_out,
        }

    def prepare(self, request: RecommendRequest | SimilarRequest) -> Job:
        """Look the ids of a request up; Refused where it does not fit the bundle."""
        with _refusing("item_columns"):
            self.recommender.check_item_columns(request.item_columns or (), "user", "item")
        k, is_alone = (
            min(request.k, self.n_items),
            request.allow is not None or request.block is not None,
        )
        key: tuple[Any, ...]
        if isinstance(request, SimilarRequest):
            with _refusing("by"):
                key = self, k, self.recommender.similar_by(request.by)
            job = Job(
                self,
                request,
                [],
                [],
                self.items.read(request.items, "items"),
                None if is_alone else key,
            )
            if max(job.items) < 0:
                raise Refused(404, f"nothing is known of item {request.items[0]!r}", "items")
            return job
        if (rules := request.rules) is not None:
            is_alone = True
            pool = 0 if rules.reranker is None else rules.reranker.config.pool
            if len(rules.boost) + len(rules.columns) > self.limits.rules or pool > self.limits.k:
                most = f"at most {self.limits.rules} boosts and columns, and a re-ranker's pool of {self.limits.k}"
                raise Refused(422, f"rules: {most}", "rules")
        field = request.field
        users = self.users.read(request.labels, field) if field in ("user", "users") else []
        rows = _rows(request.histories or request.history)
        histories = [self.items.read(row, field) for row in rows.values()]
        rows_of_times = _rows(request.times)
        given = [time for label in rows for time in rows_of_times.get(label, ())]
        times = None
        if given:
            with _refusing("times"):
                read = self.recommender.read_times(given, len(given), "times")
            histories, ordered = in_order(histories, read.tolist())
            times = torch.tensor(ordered)
        with _refusing("at"):
            at = self.recommender.time_of(request.at, len(users) + len(histories))
        key = self, k, request.exclude_seen, bool(users), at is None, times is None
        return Job(self, request, users, histories, [], None if is_alone else key, at, times)

    def respond(self, jobs: Sequence[Job]) -> list[Result | Exception]:
        """Answer jobs of one key together -> for each its result, or an error, which is its own
        alone.
        """
        try:
            return self._similar(jobs) if jobs[0].items else self._recommend(jobs)
        except (
            Exception,
            pl.exceptions.PanicException,
        ) as error:  # whatever it is, it is one request's alone
            if len(jobs) == 1:
                return [error if isinstance(error, Exception) else RuntimeError(str(error))]
            return [self.respond([job])[0] for job in jobs]

    def _recommend(self, jobs: Sequence[Job]) -> list[Result | Exception]:
        recommender, lister = self.recommender, self.recommender.lister
        if jobs[0].users:
            users = torch.tensor([user for job in jobs for user in job.users])
            query = query_of_users(users, recommender.seen, recommender.times)
        else:
            rows = [row for job in jobs for row in job.histories]
            items = torch.tensor([item for row in rows for item in row], dtype=torch.int64)
            given = [job.times for job in jobs if job.times is not None]
            times = torch.cat(given) if given else None
            query = query_of_histories(items, torch.tensor([len(row) for row in rows]), times)
        if jobs[0].at is not None:
            query = replace(query, at=torch.cat([job.at for job in jobs if job.at is not None]))
        known_mask = torch.ones(len(query), dtype=torch.bool)
        known_mask[lister.unknown(query)] = False
        bounds = [0, *accumulate(map(len, jobs))]
        parts = [(query.rows(*ends), known_mask[slice(*ends)]) for ends in pairwise(bounds)]
        together = [
            n for n, (_, mask) in enumerate(parts) if jobs[n].key is not None and bool(mask.all())
        ]
        ranked: dict[int, Lists] = {}
        if together:
            request = jobs[0].request
            assert isinstance(request, RecommendRequest)
            queries, k = [parts[n][0] for n in together], min(request.k, self.n_items)
            ranked = dict(
                zip(together, lister.rank_together(queries, k, request.exclude_seen), strict=True)
            )
        return [self._recommended(job, *parts[n], ranked.get(n)) for n, job in enumerate(jobs)]

    def _recommended(
        self, job: Job, query: Query, known_mask: Tensor, lists: Lists | None
    ) -> Result | Refused:
        """The response to a job, whose lists are made here where they are not there."""
        recommender, request = self.recommender, job.request
        assert isinstance(request, RecommendRequest)
        unknown, labels = (~known_mask).nonzero().flatten(), request.labels
        if len(unknown) and request.fallback is None:
            label, instead = labels[int(unknown[0])], 'set "fallback": "popularity"'
            if job.users:
                return Refused(
                    404,
                    f'nothing is known of user {label!r}; send "history", or {instead}',
                    request.field,
                )
            whose = "" if label is None else f" of {label!r}"
            return Refused(422, f"no item of the history{whose} is known; {instead}", request.field)
        if lists is None:
            given: dict[str, Any] = {
                "rules": request.rules,
                "allow": request.allow,
                "block": request.block,
            }
            with _refusing(
                next((name for name, value in given.items() if value is not None), "rules")
            ):
                resolved = recommender.resolve(Rules.with_arguments(**given))
            options = ListOptions(min(request.k, self.n_items), request.exclude_seen, resolved)
            popularity = recommender.popularity if len(unknown) else None
            lists = recommender.lister.lists(query, options, unknown, popularity, None)
        entries = zip(
            labels, self._entries(lists, request.item_columns), (~known_mask).tolist(), strict=True
        )
        return Result(
            self._body(
                [
                    {"user": label, "items": items, "fallback": fallback}
                    for label, items, fallback in entries
                ]
            ),
            sum(item < 0 for row in job.histories for item in row),
            sum(user < 0 for user in job.users),
            len(unknown),
        )

    def _similar(self, jobs: Sequence[Job]) -> list[Result | Exception]:
        recommender, request = self.recommender, jobs[0].request
        assert isinstance(request, SimilarRequest)
        with _refusing("block" if request.allow is None else "allow"):
            candidates, _ = recommender.candidates(request.allow, request.block)
        index = torch.tensor([item for job in jobs for item in job.items])
        by, k = recommender.similar_by(request.by), min(request.k, self.n_items)
        lists = recommender.lister.similar(recommender.in_common, by, index, k, candidates)
        results: list[Result | Exception] = []
        for end, job in zip(accumulate(map(len, jobs)), jobs, strict=True):
            rows = slice(end - len(job), end)
            own = self._entries(
                Lists(lists.items[rows], lists.scores[rows]), job.request.item_columns
            )
            labels = zip(job.request.items, own, job.items, strict=True)  # type: ignore[union-attr]
            body = self._body(
                [
                    {"item": label, "items": items, "known": item >= 0}
                    for label, items, item in labels
                ]
            )
            results.append(Result(body, sum(item < 0 for item in job.items)))
        return results

    def _entries(
        self, lists: Lists, item_columns: Sequence[str] | None
    ) -> list[list[dict[str, Any]]]:
        """For each list its items, best first, with score, rank and the item columns."""
        rows, places = (lists.items >= 0).nonzero(as_tuple=True)
        index = lists.items[rows, places]
        columns: dict[str, list[Any]] = {
            "item": self.items.write(index.tolist()),
            "score": [
                score if score - score == 0 else None
                for score in lists.scores[rows, places].tolist()
            ],
            "rank": (places + 1).tolist(),
            **{
                each.name: plain(each)
                for each in self.recommender.features_of(index, item_columns or ())
            },
        }
        entries = [
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]
        ends = torch.bincount(rows, minlength=len(lists.items)).cumsum(0).tolist()
        return [entries[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def _body(self, results: list[dict[str, Any]]) -> bytes:
        made = {"bundle": self.identity, "results": results}
        return json.dumps(made, ensure_ascii=False, allow_nan=False).encode()
