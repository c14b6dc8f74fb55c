"""The registry: ``load(kind, name)`` finds a class by the name of the file that holds it.

The file name is the key, so that a new member is one file and no list is edited: ``recgraph/models/mclrec.py`` holds
the class ``MCLRec``, whose lower-case name without underscores is that of the file. Users add their own with
:func:`register`, or from a package with an entry point in the group ``recgraph.<kind>``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, TypeVar

_PACKAGES = {
    "augmenter": "recgraph.views.latent",
    "encoder": "recgraph.encoders",
    "loss": "recgraph.losses",
    "metric": "recgraph.evaluate.metrics",
    "model": "recgraph.models",
    "objective": "recgraph.contrast.objectives",
    "regulariser": "recgraph.contrast.regularisers",
    "view": "recgraph.views",
    "weight": "recgraph.contrast.weights",
}
# Files that hold no member: a base (base.py, base_sequence.py) or a part that members share (_rows.py).
_NOT_MEMBERS = ("_", "base")
_registered: dict[tuple[str, str], type[Any]] = {}

T = TypeVar("T", bound=type[Any])


def kinds() -> list[str]:
    """The kinds of things that the registry knows."""
    return sorted(_PACKAGES)


def key(name: str) -> str:
    """The form in which names are compared: lower case, without ``-`` and ``_``."""
    return name.lower().replace("-", "").replace("_", "")


def key_of(kind: str, cls: type[Any]) -> str:
    """The name under which :func:`load` finds a class: the one that it was registered under, else its own."""
    registered = (name for (of, name), member in _registered.items() if of == kind and member is cls)
    # an entry point may lead to its class through another module of the same package
    package = cls.__module__.partition(".")[0]
    points = _entry_points(kind).items()
    pointed = (name for name, at in points if at.module.partition(".")[0] == package and at.load() is cls)
    return next(registered, None) or next(pointed, None) or key(cls.__name__)


def _check(kind: str) -> None:
    if kind not in _PACKAGES:
        raise ValueError(f"kind {kind!r} is not known; the kinds are {', '.join(kinds())}")


def _files(kind: str) -> dict[str, str]:
    package = importlib.import_module(_PACKAGES[kind])
    found = (module.name for module in pkgutil.iter_modules(package.__path__) if not module.ispkg)
    return {key(name): f"{package.__name__}.{name}" for name in found if not _is_private(name)}


def _is_private(name: str) -> bool:
    return name.startswith(_NOT_MEMBERS)


def _entry_points(kind: str) -> dict[str, Any]:
    return {key(point.name): point for point in entry_points(group=f"recgraph.{kind}")}


def names(kind: str) -> list[str]:
    """The keys of all members of a kind: the library's files, entry points and registered classes."""
    _check(kind)
    own = {registered for of, registered in _registered if of == kind}
    return sorted({*_files(kind), *_entry_points(kind), *own})


def register(kind: str, name: str | None = None) -> Callable[[T], T]:
    """Class decorator that adds a member under ``name`` (default: the class name).

    Raises:
        ValueError: the kind is not known, or the name is taken.
    """
    _check(kind)

    def add(cls: T) -> T:
        wanted = key(name or cls.__name__)
        if wanted in names(kind):
            raise ValueError(f"{kind} {wanted!r} exists already; register {cls.__name__} under another name")
        _registered[kind, wanted] = cls
        return cls

    return add


def load(kind: str, name: str) -> Any:
    """The class of a kind by name; case, ``-`` and ``_`` do not matter.

    Raises:
        ValueError: no such kind or name; the message lists the names that exist.
    """
    _check(kind)
    wanted = key(name)
    if (kind, wanted) in _registered:
        return _registered[kind, wanted]
    files = _files(kind)
    if wanted in files:
        return _class_in(files[wanted], wanted)
    points = _entry_points(kind)
    if wanted in points:
        return points[wanted].load()
    raise ValueError(f"{kind} {name!r} does not exist; there are {', '.join(names(kind))}")


def _class_in(module_name: str, wanted: str) -> Any:
    module = importlib.import_module(module_name)
    for attribute, value in vars(module).items():
        if isinstance(value, type) and value.__module__ == module_name and key(attribute) == wanted:
            return value
    raise ValueError(f"{module_name} must hold a class whose lower-case name is {wanted!r}")
