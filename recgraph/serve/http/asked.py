"""What a request asks for: the bodies of ``POST /recommend`` and ``POST /similar``, read and checked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_args

from pydantic import Field

from recgraph.bounded.texts import RepeatedNameError, each_once
from recgraph.config import Config
from recgraph.evaluate.rerank import SimilarBy
from recgraph.serve.answer import check_item_columns
from recgraph.serve.http.errors import Refused, cut, shown, unknown_name
from recgraph.serve.http.jsonids import JsonIds, check_text
from recgraph.serve.recommender import Recommender
from recgraph.serve.rules import Rules
from recgraph.serve.similar import chosen

__all__ = ["BY", "FIELDS", "SIMILAR_FIELDS", "AnyAsked", "Asked", "AskedSimilar", "Limits", "Reader"]

#: the names of the answer's entries, which item columns may not have
_ANSWER = ("user", "item")
T = TypeVar("T")
#: rules that hold ids, of which a request may have many
_OF_IDS = {"allow", "block", "allow_for", "block_for"}


class Limits(Config):
    """How much one request may ask for; more is refused."""

    body_kib: Annotated[int, Field(ge=1, description="size of a request's body, in KiB")] = 1024
    k: Annotated[int, Field(ge=1, description="length of a list")] = 1000
    history: Annotated[int, Field(ge=1, description="items of one history")] = 10_000
    users: Annotated[int, Field(ge=1, description="users, histories or items of one request")] = 256
    rules: Annotated[int, Field(ge=0, description="boosts and columns in the rules of one request")] = 32
    rerank: Annotated[
        int, Field(ge=0, description="multiplications of one request's re-ranker, comparisons included")
    ] = 1 << 28
    max_per: Annotated[int, Field(ge=0, description="comparisons that max_per takes in one request")] = 1 << 30
    pairs: Annotated[
        int, Field(ge=0, description="items of users that one request for similar items counts, by co-occurrence")
    ] = 1 << 28
    read_s: Annotated[float, Field(gt=0, description="seconds until the whole body must be there")] = 10.0
    waiting: Annotated[int, Field(ge=1, description="requests that wait to be ranked; further ones get 503")] = 2048


@dataclass(frozen=True)
class Asked:
    """A checked request, for users or for histories.

    Attributes:
        field: the field that says for whom.
        labels: [B] what the answer calls each user.
        users: [B] ids, as :meth:`JsonIds.read` gives them; None where there are histories.
        histories: [B] lists of item ids, oldest first; None where there are users.
        k, exclude_seen, popular, item_columns, allow, block, rules: as :meth:`Recommender.recommend` takes them;
            ``popular`` is its ``fallback``.
    """

    field: str
    labels: list[Any]
    users: list[Any] | None
    histories: list[list[Any]] | None
    k: int = 10
    exclude_seen: bool = True
    popular: bool = False
    item_columns: tuple[str, ...] = ()
    allow: list[Any] | None = None
    block: list[Any] | None = None
    rules: Rules | None = None

    @property
    def is_alone(self) -> bool:
        """Whether it is ranked by itself, since its items or scores are its own."""
        return self.rules is not None or self.allow is not None or self.block is not None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class AskedSimilar:
    """A checked request for the items most like some.

    Attributes:
        labels: [B] the items as the request names them.
        items: [B] ids, as :meth:`JsonIds.read` gives them.
        by, k, item_columns, allow, block: as :meth:`Recommender.similar` takes them.
    """

    labels: list[Any]
    items: list[Any]
    by: SimilarBy
    k: int = 10
    item_columns: tuple[str, ...] = ()
    allow: list[Any] | None = None
    block: list[Any] | None = None

    @property
    def is_alone(self) -> bool:
        """Whether it is ranked by itself: its items are its own, or users are counted for each of its items, which is
        no cheaper together and would hold up those beside."""
        return self.by == "co_occurrence" or self.allow is not None or self.block is not None

    def __len__(self) -> int:
        return len(self.labels)


AnyAsked = Asked | AskedSimilar

_WHOM = ("user", "users", "history", "histories")
_SHARED = ("k", "item_columns", "allow", "block")
#: the fields of the bodies
FIELDS = (*_WHOM, *_SHARED, "exclude_seen", "fallback", "rules")
SIMILAR_FIELDS = ("items", *_SHARED, "by")
#: the values of the field ``by``
BY = (*get_args(SimilarBy), None)


class Reader:
    """Reads the bodies of requests to one recommender.

    Args:
        recommender: its ids say of which type those of a request must be.
        limits: what is too much.
    """

    def __init__(self, recommender: Recommender, limits: Limits) -> None:
        self.recommender, self.limits = recommender, limits
        self.users = JsonIds(recommender.users, "users")
        self.items = JsonIds(recommender.items, "items")

    def read(self, body: bytes) -> Asked:
        """Read and check the body of a request for recommendations.

        Raises:
            Refused: it is no JSON object, a field is not known, missing, of another type or out of range.
        """
        return _read(body, FIELDS, '{"user": 1}', self._recommend)

    def read_similar(self, body: bytes) -> AskedSimilar:
        """Read and check the body of a request for similar items.

        Raises:
            Refused: as :meth:`read`; or the model has no vectors by which to compare.
        """
        return _read(body, SIMILAR_FIELDS, '{"items": [1]}', self._similar)

    def _similar(self, fields: Mapping[str, Any]) -> AskedSimilar:
        if "items" not in fields:
            example = f'{{"items": [{shown(self.items.example())}]}}'
            raise Refused(400, f"the request does not say which items; give items, such as {example}", "items")
        items, by = fields["items"], fields.get("by")
        self._count(_list(items, "items", "of item ids"), "items")
        if by not in BY:
            raise Refused(400, f'by = {shown(by)} must be "vectors", "co_occurrence" or null', "by")
        try:
            by = chosen(self.recommender.model, by)
        except ValueError as error:
            raise Refused(422, f"by: {error}", "by") from None
        return AskedSimilar(
            items,
            self.items.read_all(items, "items"),
            by,
            k=self._k(fields),
            item_columns=self._item_columns(fields.get("item_columns")),
            allow=self._some_items(fields.get("allow"), "allow"),
            block=self._some_items(fields.get("block"), "block"),
        )

    def _recommend(self, fields: Mapping[str, Any]) -> Asked:
        whom = [name for name in _WHOM if name in fields]
        if len(whom) != 1:
            given = f"{' and '.join(whom)} are given" if whom else "the request does not say for whom"
            example = f'{{"user": {shown(self.users.example())}}}'
            raise Refused(400, f"{given}; give one of user, users, history and histories, such as {example}")
        labels, users, histories = self._whom(whom[0], fields[whom[0]])
        return Asked(
            whom[0],
            labels,
            users,
            histories,
            k=self._k(fields),
            exclude_seen=_boolean(fields.get("exclude_seen", True), "exclude_seen"),
            popular=_popular(fields.get("fallback")),
            item_columns=self._item_columns(fields.get("item_columns")),
            allow=self._some_items(fields.get("allow"), "allow"),
            block=self._some_items(fields.get("block"), "block"),
            rules=self._rules(fields.get("rules")),
        )

    def _whom(self, field: str, value: Any) -> tuple[list[Any], list[Any] | None, list[list[Any]] | None]:
        if field == "user":
            return [value], [self.users.read(value, field)], None
        if field == "users":
            self._count(_list(value, field, "of users"), field)
            return value, self.users.read_all(value, field), None
        if field == "history":
            return [None], None, [self._history(value, field)]
        if not isinstance(value, dict):
            raise Refused(400, f'{field} = {shown(value)} must be an object such as {{"a": [...], "b": [...]}}', field)
        self._count(value, field)
        for label in value:
            check_text(label, field)
        return list(value), None, [self._history(row, f"histories.{cut(label)}") for label, row in value.items()]

    def _count(self, values: list[Any] | dict[str, Any], field: str) -> None:
        if not values:
            raise Refused(400, f"{field} is empty; name at least one", field)
        if len(values) > self.limits.users:
            raise Refused(
                400, f"{field} has {len(values)} entries, at most {self.limits.users} are answered; send several", field
            )

    def _history(self, value: Any, field: str) -> list[Any]:
        if len(_list(value, field, "of items, oldest first")) > self.limits.history:
            raise Refused(
                400,
                f"{field} has {len(value)} items, at most {self.limits.history} are read; send the newest of them",
                field,
            )
        return self.items.read_all(value, field)

    def _k(self, fields: Mapping[str, Any]) -> int:
        value = fields.get("k", min(10, self.limits.k))
        if type(value) is not int or not 1 <= value <= self.limits.k:
            raise Refused(400, f"k = {shown(value)} must be an integer from 1 to {self.limits.k}", "k")
        return value

    def _some_items(self, value: Any, field: str) -> list[Any] | None:
        return None if value is None else self.items.read_all(_list(value, field, "of item ids"), field)

    def _rules(self, value: Any) -> Rules | None:
        if value is None:
            return None
        if not isinstance(value, dict):
            raise Refused(
                400, f'rules = {shown(value)} must be an object such as {{"max_per": {{"genre": 2}}}}', "rules"
            )
        self._check_size(value)
        try:
            rules = Rules.of(value)
        except ValueError as error:
            raise Refused(400, f"rules: {error}", "rules") from None
        n_rules = len(rules.boost) + len(rules.columns)
        if n_rules > self.limits.rules:
            text = f"rules has {n_rules} boosts and columns, at most {self.limits.rules} are applied; leave some out"
            raise Refused(400, text, "rules")
        self._check_reranker(rules)
        return rules

    def _check_size(self, rules: dict[str, Any]) -> None:
        """Refuse rules that take long to check and to explain; ids do not count."""
        left, n_values = [value for name, value in rules.items() if name not in _OF_IDS], len(rules)
        most = max(16 * self.limits.rules, 512)
        while left and n_values <= most:
            value = left.pop()
            if isinstance(value, dict | list):
                n_values += len(value)
                left += value.values() if isinstance(value, dict) else value
            elif isinstance(value, str):  # a re-ranker may be the text of its settings
                n_values += len(value) // 64
        if n_values > most:
            text = f"rules has more than {most} settings and values, beside ids; leave some out"
            raise Refused(400, text, "rules")

    def _check_reranker(self, rules: Rules) -> None:
        """Refuse what would take much memory."""
        if (reranker := rules.reranker) is None:
            return
        setting = "diversity" if rules.rerank is None else "rerank"
        for name, value in (("pool", reranker.config.pool), ("history", reranker.history)):
            if value > self.limits.k:
                raise Refused(400, f"rules: {setting}.{name} = {value} must be at most {self.limits.k}", "rules")

    def _item_columns(self, value: Any) -> tuple[str, ...]:
        if value is None:
            return ()
        for name in _list(value, "item_columns", "of column names"):
            if type(name) is not str:
                raise Refused(400, f"item_columns has {shown(name)}; give names of columns, as texts", "item_columns")
            check_text(name, "item_columns")
        try:
            check_item_columns(self.recommender.item_features, value, _ANSWER)
        except ValueError as error:
            raise Refused(400, str(error), "item_columns") from None
        return tuple(value)


def _read(body: bytes, known: Sequence[str], example: str, check: Callable[[Mapping[str, Any]], T]) -> T:
    """A body whose fields are ``known``, checked."""
    try:
        fields = _parse(body, example)
        for name in fields:
            if name not in known:
                raise Refused(400, f"{shown(name)} is no field of a request; {unknown_name(name, known)}", cut(name))
        return check(fields)
    except RecursionError:  # also in writing a value into a message
        raise Refused(400, f"the body is nested too deeply; send an object such as {example}") from None


def _parse(body: bytes, example: str) -> Mapping[str, Any]:
    try:
        fields = json.loads(body, parse_constant=_no_constant, object_pairs_hook=each_once)
    except RepeatedNameError as error:
        raise Refused(400, f"{shown(error.name)} is given more than once; give it once", cut(error.name)) from None
    except json.JSONDecodeError as error:
        raise Refused(400, f"the body is no JSON: {error}; send an object such as {example}") from None
    except UnicodeDecodeError:
        raise Refused(400, "the body is no UTF-8; send JSON in UTF-8") from None
    except ValueError as error:  # an integer of thousands of digits, NaN
        raise Refused(400, f"the body is no JSON: {error}") from None
    if not isinstance(fields, dict):
        raise Refused(400, f"the body is {shown(fields)}; send an object such as {example}")
    return fields


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number; leave it out or write null")


def _list(value: Any, field: str, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise Refused(400, f"{field} = {shown(value)} must be a list {what}", field)
    return value


def _boolean(value: Any, field: str) -> bool:
    if not isinstance(value, bool):
        raise Refused(400, f"{field} = {shown(value)} must be true or false", field)
    return value


def _popular(value: Any) -> bool:
    if value is not None and value != "popularity":
        raise Refused(400, f'fallback = {shown(value)} must be "popularity" or null', "fallback")
    return value is not None
