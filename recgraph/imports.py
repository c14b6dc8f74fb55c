"""Parts of a user's own from a file: import it, say what was imported, and import the same in another process.

A model, a metric or any other part that is decorated with ``@rg.register`` is known by its name once the file with it
is imported: by :func:`import_file`, or by ``--import FILE`` on the command line. Nothing else runs a user's file: a
bundle says which one it needs and never imports it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from recgraph import registry
from recgraph.arguments import checked


class ImportFailed(ValueError):
    """A file or a module cannot be imported; the message says at which line of which file."""


@dataclass(frozen=True)
class Imported:
    """A module of a user's own.

    Attributes:
        module: its name.
        file: its file's name; None where it has none.
        sha256: of the file.
        path: where the file was found.
    """

    module: str
    file: str | None
    sha256: str | None
    path: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for records and bundles, without the path, which is of this machine."""
        return {"module": self.module, "file": self.file, "sha256": self.sha256}


#: module -> what was imported by its file or its name
_imported: dict[str, Imported] = {}


@checked
def import_file(what: str | Path, folder: str | Path = ".") -> ModuleType:
    """Import a Python file, or a module by its name, so that what it registers is known.

    A file becomes a module that is called like it, and its folder is looked through last for modules that it imports.
    What was imported already is not run again, unless the file has changed.

    Args:
        what: a path, e.g. ``"parts/mymodel.py"``, or the name of a module that can be imported from here or is
            installed, e.g. ``"mypackage.models"``.
        folder: where relative paths count from.

    Raises:
        ImportFailed: there is no such file or module, or it ends with an error; names the file and the line.
    """
    text = str(what)
    try:
        module = _import_path(Path(folder, text).resolve()) if is_file(text) else _import_name(text, Path(folder))
    except (Exception, SystemExit) as error:
        raise ImportFailed(f"cannot import {text!r}: {_where(error)}") from error
    file = getattr(module, "__file__", None)
    _imported[module.__name__] = _described(module.__name__, None if file is None else Path(file))
    return module


def is_file(what: str) -> bool:
    """Whether what is imported is the path of a file rather than the name of a module."""
    return what.endswith(".py") or os.sep in what


def import_all(what: Iterable[str | Path], folder: str | Path = ".") -> None:
    """:func:`import_file` of each, in this order."""
    for each in what:
        import_file(each, folder)


def imported() -> list[Imported]:
    """What was imported by :func:`import_file`, in this order."""
    return [*_imported.values()]


def source_of(cls: type[Any]) -> Imported:
    """The module that defines a class, with its file."""
    name = cls.__module__
    file = getattr(sys.modules.get(name), "__file__", None)
    return _described(name, None if file is None else Path(file))


def orders() -> list[str]:
    """What another process imports to know the same parts, for :func:`follow`.

    A class that the script itself registers is not among them: worker processes do not run the script.
    """
    files = [each.path if each.path and "." not in each.module else each.module for each in imported()]
    known = {*_imported, "__main__"}
    modules = (cls.__module__ for _, _, cls in registry.registered())
    return [*files, *dict.fromkeys(each for each in modules if each not in known and not each.startswith("recgraph."))]


def follow(orders: Iterable[str]) -> None:
    """Import what the process that gave the orders has imported.

    Raises:
        ImportFailed: a file or module cannot be imported here.
    """
    import_all(orders)


def _described(module: str, path: Path | None) -> Imported:
    if path is None or not path.is_file():
        return Imported(module, None, None)
    return Imported(module, path.name, hashlib.sha256(path.read_bytes()).hexdigest(), str(path.resolve()))


def _import_path(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError("there is no such file")
    name = path.stem if path.stem.isidentifier() else "own_" + "".join(c if c.isalnum() else "_" for c in path.stem)
    there = sys.modules.get(name)
    if there is not None and Path(getattr(there, "__file__", None) or "").resolve() != path:
        name, there = f"own_{name}", sys.modules.get(f"own_{name}")
    before = _imported.get(name)
    if there is not None and (before is None or before.sha256 == _described(name, path).sha256):
        return there
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    registry.forget(name)
    importlib.invalidate_caches()
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        # compiled anew: the cache takes a file of the same second and size for the same
        exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        del sys.modules[name]
        registry.forget(name)
        raise
    return module


def _import_name(name: str, folder: Path) -> ModuleType:
    place = str(folder.resolve())
    if place not in sys.path:
        sys.path.append(place)
        importlib.invalidate_caches()
    return importlib.import_module(name)


def _where(error: BaseException) -> str:
    """The error with the line of the user's file that raised it: the last one before the library's own."""
    kind = type(error).__name__
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{error.filename}, line {error.lineno}: {kind}: {error.msg}"
    own = Path(__file__).resolve().parent
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not Path(frame.filename).resolve().is_relative_to(own) and not frame.filename.startswith("<")
    ]
    if not frames:
        return f"{kind}: {error}"
    return f"{frames[-1].filename}, line {frames[-1].lineno}: {kind}: {error}"
