"""What ``GET /openapi.json`` says: the schemas of requests, with the service's own limits, and of its answers."""

from __future__ import annotations

from typing import Any

from recgraph.serve.http.asked import BY, Limits

__all__ = ["asked_by", "similar_by", "told"]

_ID = {"type": ["integer", "number", "string", "boolean"], "description": "an id as the log has it"}
_COLUMN = {"type": "string"}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"type": "string", "description": "what is wrong, and the fix"},
        "field": {"type": "string", "description": "of the request, which is wrong"},
    },
}
_STATUS = {
    400: "no JSON, or a field that does not exist, is of another type or out of range",
    404: "nothing is known of whom or what is asked for",
    408: "the body was not there in time",
    413: "the body is too long",
    422: "a history, or a rule, that does not fit the bundle",
    500: "an error of the service",
    503: "too many requests wait; try again later",
}
_LIST = {
    "type": "array",
    "description": "best first",
    "items": {
        "type": "object",
        "required": ["item", "score", "rank"],
        "properties": {"item": _ID, "score": {"type": ["number", "null"]}, "rank": {"type": "integer", "minimum": 1}},
        "additionalProperties": {"description": "a column of the item features that item_columns names"},
    },
}
_JSON = "application/json"


def _ids(description: str, *, least: int = 0, most: int | None = None) -> dict[str, Any]:
    bounds = ({"minItems": least} if least else {}) | ({} if most is None else {"maxItems": most})
    return {"type": "array", "items": _ID, **bounds, "description": description}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "type": [schema["type"], "null"], "default": None}


def _shared(limits: Limits) -> dict[str, Any]:
    """The fields of requests of both kinds."""
    return {
        "k": {
            "type": "integer",
            "minimum": 1,
            "maximum": limits.k,
            "default": min(10, limits.k),
            "description": "the length of the lists",
        },
        "item_columns": _or_null(
            {"type": "array", "items": _COLUMN, "description": "columns of the item features to add"}
        ),
        "allow": _or_null(_ids("the items to which the lists are restricted")),
        "block": _or_null(_ids("items that are in no list")),
    }


def asked_by(limits: Limits) -> dict[str, Any]:
    """The body of ``POST /recommend``."""
    history = _ids("the items of a new user, oldest first", most=limits.history)
    whom = {
        "user": {**_ID, "description": "a user of the training data"},
        "users": _ids("several of them", least=1, most=limits.users),
        "history": history,
        "histories": {
            "type": "object",
            "minProperties": 1,
            "maxProperties": limits.users,
            "additionalProperties": history,
            "description": "label -> items, of several new users",
        },
    }
    fields = {
        **whom,
        **_shared(limits),
        "exclude_seen": {"type": "boolean", "default": True, "description": "leave out what the user has done"},
        "fallback": {
            "enum": ["popularity", None],
            "default": None,
            "description": "what users of whom nothing is known get; null: 404 (users) or 422 (histories)",
        },
        "rules": _or_null(
            {"type": "object", "description": "business rules: boost, max_per, rerank, lists of single users"}
        ),
    }
    one = [{"required": [name]} for name in whom]
    return _body({"type": "object", "properties": fields, "additionalProperties": False, "oneOf": one})


def similar_by(limits: Limits) -> dict[str, Any]:
    """The body of ``POST /similar``."""
    fields = {
        "items": _ids("items of the training data", least=1, most=limits.users),
        **_shared(limits),
        "by": {
            "enum": [*BY],
            "default": None,
            "description": "the model's vectors, or the users who have both; null: by vectors where the model has them",
        },
    }
    return _body({"type": "object", "required": ["items"], "properties": fields, "additionalProperties": False})


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {_JSON: {"schema": schema}}}


def told(path: str) -> dict[int | str, dict[str, Any]]:
    """Status -> the answer of a path."""
    if path == "/metrics":
        return {200: {"description": "figures", "content": {"text/plain": {"schema": {"type": "string"}}}}}
    if path == "/health":
        return {200: _answer("what is served", {"type": "object"})}
    if path == "/reload":
        refused = _answer("the new bundle is refused, and the old one serves", {"type": "object"})
        return {200: _answer("what came of it", {"type": "object"}), 409: refused}
    entry: dict[str, Any]
    if path == "/recommend":
        entry = {"user": {"description": "the user, or the label of a history"}, "fallback": {"type": "boolean"}}
    else:
        entry = {"item": _ID, "known": {"type": "boolean"}}
    result = {"type": "object", "required": [*entry, "items"], "properties": {**entry, "items": _LIST}}
    answer = {
        "type": "object",
        "required": ["bundle", "results"],
        "properties": {
            "bundle": {"type": "string", "description": "names the bundle that answered"},
            "results": {"type": "array", "items": result, "description": "in the order of the request"},
        },
    }
    return {200: _answer("the lists", answer), **{status: _answer(text, _ERROR) for status, text in _STATUS.items()}}


def _answer(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {_JSON: {"schema": schema}}}
