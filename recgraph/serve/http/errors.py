"""Requests that are refused, with the status and the text of the answer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from recgraph.config import did_you_mean, nearest_names

__all__ = ["Refused", "as_exception", "cut", "shown", "unknown_name"]

_SHOWN = 80
#: characters of a message, at most
_LONGEST = 2000


class Refused(ValueError):
    """A request that is wrong.

    Args:
        status: of the answer, 4xx.
        message: names the field, the value and the fix; cut where it is long.
        field: the field of the body that is wrong, None where it is the request itself.
        n_unknown_users, n_unknown_items: of the request, for the metrics.
    """

    def __init__(
        self, status: int, message: str, field: str | None = None, *, n_unknown_users: int = 0, n_unknown_items: int = 0
    ) -> None:
        message = cut(message, _LONGEST)
        super().__init__(message)
        self.status, self.message, self.field = status, message, field
        self.n_unknown_users, self.n_unknown_items = n_unknown_users, n_unknown_items

    def to_dict(self) -> dict[str, Any]:
        """What the answer's body holds."""
        return {"error": self.message} if self.field is None else {"error": self.message, "field": self.field}


def as_exception(error: BaseException) -> Exception:
    """An error as one that the handler of a request catches: a panic of polars is no ``Exception``."""
    if isinstance(error, Exception):
        return error
    made = RuntimeError(f"{type(error).__name__}: {error}")
    made.__cause__ = error
    return made


def shown(value: Any) -> str:
    """A value of a request as JSON, cut where it is long."""
    return cut(json.dumps(value))


def cut(text: str, longest: int = _SHOWN) -> str:
    """A text of a request, cut where it is long."""
    return text if len(text) <= longest else f"{text[:longest]}..."


def unknown_name(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that is not known: the nearest names, or all."""
    names = list(known)
    close = [shown(each) for each in nearest_names(name, names, n=2)]
    return did_you_mean(close) or f"there are {', '.join(map(shown, names))}"
