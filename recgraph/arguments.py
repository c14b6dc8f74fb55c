"""Arguments of the public functions, checked against the annotations before anything is done with them.

``@checked`` on a function says once what each function would otherwise say for each of its arguments. What an
annotation leaves open (``Any``, a name that is known to type checkers alone) the function checks itself.
"""

from __future__ import annotations

import inspect
import numbers
import os
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin

__all__ = ["check_path", "checked", "is_list", "shown"]

F = TypeVar("F", bound=Callable[..., Any])
#: the longest name of a file, and the longest path, that systems take
_LONGEST_NAME, _LONGEST_PATH = 255, 4096
#: the longest value that a message repeats
_LONGEST = 80
#: class -> how one is had
_MADE_BY = {
    "GraphModel": "rg.models.MEOW(metapaths=(...))",
    "HeteroGraph": "HeteroGraph.from_frames(...)",
    "InteractionLog": "rg.load_data(a file or a frame)",
    "Interactions": "rg.load_data(a file or a frame)",
    "Model": "rg.models.SASRec()",
    "Reading": "Reading(user='user_id', item='item_id')",
    "RelationGraph": "HeteroGraph.from_frames(...)",
    "Recommender": "run.recommender or rg.load(folder)",
    "Run": "rg.fit(model, split, seed=0)",
    "Rules": "rg.Rules(...)",
    "SealedSplit": "split.sealed()",
    "Split": "log.split('leave-one-out')",
    "device": "torch.device('cpu')",
}
_FITS_GRAPHS = "; rg.fit_graph(model, graph, seed=0) fits to a graph"


def checked(function: F) -> F:
    """A function that refuses arguments of another type than their annotations say.

    Numbers of NumPy become Python's, and arrays and series where a sequence is asked for become lists. Texts where a
    path may be given must be ones that a path can be.

    Raises:
        ValueError: names the argument, its value and what may be given.
    """
    signature = inspect.signature(function)

    @cache
    def wanted() -> dict[str, Any]:
        scope = getattr(function, "__globals__", {})
        annotations = {name: each.annotation for name, each in signature.parameters.items() if _is_named(each)}
        return {name: _resolved(given, scope) for name, given in annotations.items()}

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:  # it does not say of which function
            raise TypeError(f"{function.__qualname__}(): {error}") from None
        for name, annotation in wanted().items():
            if name in bound.arguments:
                bound.arguments[name] = _checked(name, bound.arguments[name], annotation)
        return function(*bound.args, **bound.kwargs)

    return cast(F, call)


def shown(value: object) -> str:
    """A value in a message: its own text where that is short, else its type."""
    try:
        text = repr(value)
    except Exception:  # of a stranger's class
        text = ""
    short = text and len(text) <= _LONGEST and text.isprintable()
    return text if short else f"a {type(value).__module__}.{type(value).__qualname__}"


def is_list(value: object) -> bool:
    """Whether values come one after another, as in a list, an array or a series: no text, mapping, frame or scalar."""
    one_dimension = len(getattr(value, "shape", (1,))) == 1 and not hasattr(value, "collect_schema")
    return hasattr(value, "__iter__") and one_dimension and not isinstance(value, str | bytes | Mapping)


def _is_named(parameter: inspect.Parameter) -> bool:
    variadic = parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return not variadic and parameter.annotation is not inspect.Parameter.empty


def _resolved(annotation: Any, scope: dict[str, Any]) -> Any:
    """The type that an annotation names; ``Any`` where it cannot be had when the program runs."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, scope)
    except NameError:
        return Any


def _checked(name: str, value: Any, annotation: Any) -> Any:
    choices = _choices(annotation)
    for choice in choices:
        fits, read = _read(value, choice)
        if fits:
            if isinstance(read, Path) or (isinstance(read, str) and Path in choices):
                check_path(name, str(read))
            return read
    if isinstance(value, str) and any(get_origin(choice) in _LISTS for choice in choices):
        raise ValueError(f"{name} = {shown(value)} must be a list of names, as {name}=({value!r},)")
    logs_are_asked_for = any(getattr(choice, "__name__", "") == "Split" for choice in choices)
    hint = _FITS_GRAPHS if logs_are_asked_for and type(value).__name__ == "HeteroGraph" else ""
    raise ValueError(f"{name} = {shown(value)} must be {_or([_in_words(choice) for choice in choices])}{hint}")


def _choices(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the one type; the most exact ones first."""
    if get_origin(annotation) in (Union, types.UnionType):
        members = [each for of in get_args(annotation) for each in _choices(of)]
        return tuple(sorted(members, key=lambda each: each is float))
    return (annotation,)


def _read(value: Any, wanted: Any) -> tuple[bool, Any]:
    """Whether a value is of a type that is no union, and the value as the function gets it."""
    if wanted is Any or isinstance(wanted, TypeVar):
        return True, value
    if wanted in (None, type(None)):
        return value is None, value
    origin, parts = get_origin(wanted), get_args(wanted)
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in parts), value
    if wanted in _NUMBERS:
        return _number(value, wanted)
    if wanted is Path:
        fits = isinstance(value, os.PathLike) and isinstance(os.fspath(value), str)
        return fits, Path(value) if fits else value
    if origin in _LISTS:
        return _sequence(value, parts[0] if parts else Any, origin)
    if origin is Mapping or wanted is Mapping:
        keys, values = parts or (Any, Any)
        return isinstance(value, Mapping) and _are(value, keys) and _are(value.values(), values), value
    if origin is type:
        return isinstance(value, type) and (
            parts[0] is Any or issubclass(value, get_origin(parts[0]) or parts[0])
        ), value
    if origin is Callable or wanted is Callable:
        return callable(value), value
    if getattr(wanted, "_is_protocol", False):
        # a ranker with vectors needs no score(), one with scores no vectors; one name may be a coincidence
        members = _members(wanted)
        return sum(_has(value, each) for each in members) >= min(2, len(members)), value
    kind = origin or wanted
    return not isinstance(kind, type) or isinstance(value, kind), value


def _has(value: Any, name: str) -> bool:
    """``hasattr``, which does not compute a property: that of an engine may connect to a cluster."""
    return inspect.getattr_static(value, name, None) is not None or hasattr(value, name)


def _members(protocol: type) -> list[str]:
    """The attributes that a protocol asks for."""
    bases = [each for each in protocol.__mro__ if getattr(each, "_is_protocol", False)]
    own = {name for base in bases for name in (*vars(base), *vars(base).get("__annotations__", {}))}
    return [name for name in own if not name.startswith("_")]


_LISTS = (Sequence, Iterable, list, tuple)
_NUMBERS: dict[Any, type] = {bool: bool, int: numbers.Integral, float: numbers.Real}


def _number(value: Any, wanted: Any) -> tuple[bool, Any]:
    """A truth value is no number here, and a number no truth value; those of NumPy have the same names."""
    is_bool = type(value).__name__ in ("bool", "bool_")
    if is_bool or wanted is bool:
        return is_bool and wanted is bool, value
    if not isinstance(value, _NUMBERS[wanted]):
        return False, value
    return True, value if type(value) in (int, float) else wanted(value)


def _sequence(value: Any, of: Any, kind: Any) -> tuple[bool, Any]:
    if not isinstance(value, Sequence):
        listed = getattr(value, "tolist", getattr(value, "to_list", None))
        value = listed() if callable(listed) else value
    if not isinstance(value, Sequence) or isinstance(value, str | bytes | bytearray) or not _are(value, of):
        return False, value
    return True, tuple(value) if kind is tuple else value


def _are(values: Iterable[Any], wanted: Any) -> bool:
    choices = _choices(wanted)
    return all(any(_read(value, choice)[0] for choice in choices) for value in values)


def check_path(name: str, text: str) -> None:
    """Refuse a text that cannot be a path, of which a system would say less.

    Raises:
        ValueError: names the argument, and what is wrong with its text.
    """
    try:
        path = os.fsencode(text)
    except UnicodeEncodeError:
        raise ValueError(f"{name} = {text!a} holds half of a surrogate pair, which no path does") from None
    if not text or b"\0" in path:
        raise ValueError(f"{name} = {text!r} {'holds a NUL character' if text else 'is empty'}; give a path")
    if len(path) > _LONGEST_PATH or any(len(part) > _LONGEST_NAME for part in path.split(os.fsencode(os.sep))):
        raise ValueError(f"{name} = {text[:_LONGEST]!r}... is longer than a path may be; give the path of a file")


def _in_words(wanted: Any) -> str:
    origin, parts = get_origin(wanted), get_args(wanted)
    if wanted in _WORDS:
        return _WORDS[wanted]
    if origin is Literal:
        return _or([repr(each) for each in parts])
    if origin in (*_LISTS, Mapping):
        inner = [_or([_in_words(each) for each in _choices(part)]) for part in parts if part is not Ellipsis]
        return f"a mapping from {inner[0]} to {inner[1]}" if origin is Mapping else f"a list, each {inner[0]}"
    if origin is type:
        return f"a class of {getattr(parts[0], '__name__', parts[0])}"
    name = getattr(origin or wanted, "__name__", str(wanted))
    made = _MADE_BY.get(name)
    article = "an" if name[:1] in "AEIOU" else "a"
    return f"{article} {name}" + (f", e.g. {made}" if made else "")


_WORDS: dict[Any, str] = {
    None: "None",
    type(None): "None",
    Any: "anything",
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
}


def _or(choices: Sequence[str]) -> str:
    """The choices in words, each once."""
    once = list(dict.fromkeys(choices))
    return once[0] if len(once) == 1 else f"{', '.join(once[:-1])} or {once[-1]}"
