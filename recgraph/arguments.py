"""Arguments of the public functions, checked against their annotations by pydantic before anything is done."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache, wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

from pydantic import InstanceOf, TypeAdapter, ValidationError

from recgraph.config import shown

__all__ = ["checked", "is_list", "shown"]

F = TypeVar("F", bound=Callable[..., Any])
_PLAIN = (bool, int, float, str, Path, NoneType)
_LISTS = (Sequence, list, tuple)


def checked(function: F) -> F:
    """A function that refuses arguments of another type than their annotations say.

    Numbers of NumPy become Python's, and arrays and series where a sequence is asked for become lists. An annotation
    that type checkers alone know is not checked.

    Raises:
        ValueError: names the argument, its value and what may be given.
    """
    signature = inspect.signature(function)

    @cache
    def adapters() -> dict[str, TypeAdapter[Any]]:
        scope = getattr(function, "__globals__", {})
        read = {name: _evaluated(each.annotation, scope) for name, each in signature.parameters.items()}
        return {name: TypeAdapter(_by_instance(each)) for name, each in read.items() if each is not Any}

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:  # it does not say of which function
            raise TypeError(f"{function.__qualname__}(): {error}") from None
        for name in adapters().keys() & bound.arguments.keys():
            bound.arguments[name] = _validated(name, bound.arguments[name], adapters()[name])
        return function(*bound.args, **bound.kwargs)

    return cast(F, call)


def is_list(value: object) -> bool:
    """Whether values come one after another, as in a list, an array or a series: no text, mapping, frame or scalar."""
    one_dimension = len(getattr(value, "shape", (1,))) == 1 and not hasattr(value, "collect_schema")
    return hasattr(value, "__iter__") and one_dimension and not isinstance(value, str | bytes | Mapping)


def _evaluated(annotation: Any, scope: Mapping[str, Any]) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, dict(scope))
    except NameError:
        return Any


def _by_instance(annotation: Any) -> Any:
    """An annotation in which every class but plain values and lists of them is checked by ``isinstance`` alone."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return Union[tuple(map(_by_instance, parts))]  # noqa: UP007 (made at run time)
    if origin in _LISTS:
        return origin[tuple(part if part is Ellipsis else _by_instance(part) for part in parts)]
    if origin in (Literal, Annotated) or annotation in _PLAIN or annotation in (None, Any):
        return annotation
    kind = origin or annotation
    is_class = isinstance(kind, type) and kind not in (type, Any) and not getattr(kind, "_is_protocol", False)
    return InstanceOf[kind] if is_class else Any  # type: ignore[valid-type,misc]


def _validated(name: str, value: Any, adapter: TypeAdapter[Any]) -> Any:
    if is_list(value) and not isinstance(value, Sequence):
        listed = getattr(value, "tolist", getattr(value, "to_list", None))
        candidates = [value, listed()] if callable(listed) else [value]
    else:
        candidates = [value]
    for candidate in candidates:
        try:
            return adapter.validate_python(candidate)
        except ValidationError as error:
            messages = dict.fromkeys(each["msg"] for each in error.errors())
    raise ValueError(f"{name} = {shown(value)}: {'; '.join(messages)}")
