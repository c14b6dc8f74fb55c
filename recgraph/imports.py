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
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from recgraph import registry
from recgraph.arguments import checked

__all__ = [
    "ImportFailed",
    "Imported",
    "follow",
    "import_all",
    "import_file",
    "imported",
    "is_file",
    "orders",
    "source_of",
]


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
    return _import_path(text, Path(folder) / text) if is_file(text) else _import_name(text, Path(folder))


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


def _described(module: str, path: Path | None) -> Imported:
    if path is None or not path.is_file():
        return Imported(module, None, None)
    return Imported(module, path.name, hashlib.sha256(path.read_bytes()).hexdigest(), str(path.resolve()))


def _import_path(text: str, path: Path) -> ModuleType:
    path = path.resolve()
    if not path.is_file():
        raise ImportFailed(f"cannot import {text!r}: there is no such file")
    if path.suffix != ".py":
        raise ImportFailed(f"cannot import {text!r}: give a Python file (.py), or the name of a module")
    name = _module_name(path)
    now, there = _described(name, path), sys.modules.get(name)
    before = _imported.get(name)
    if there is not None and (before is None or before.sha256 == now.sha256):
        _imported[name] = now
        return there
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    registry.forget(name)
    importlib.invalidate_caches()
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        # compiled anew: the cache takes a file of the same second and size for the same
        exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        registry.forget(name)
        raise ImportFailed(f"cannot import {text!r}: {_where(error, path)}") from error
    _imported[name] = now
    return module


def _module_name(path: Path) -> str:
    """The file's own name, unless another module is called so."""
    wanted = path.stem if path.stem.isidentifier() else "own_" + "".join(c if c.isalnum() else "_" for c in path.stem)
    for name in (wanted, *(f"own_{wanted}_{number}" for number in range(1, 100))):
        if name == "__main__":
            continue
        there = sys.modules.get(name)
        if there is not None:
            file = getattr(there, "__file__", None)
        else:
            try:
                spec = importlib.util.find_spec(name)
            except (ImportError, ValueError):
                spec = None
            file = str(path) if spec is None else spec.origin
        if file is not None and Path(file).resolve() == path:
            return name
    raise ImportFailed(f"cannot import {str(path)!r}: too many modules are called {wanted!r}; rename the file")


def _import_name(name: str, folder: Path) -> ModuleType:
    place = str(folder.resolve())
    if place not in sys.path:
        sys.path.append(place)
        importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            near = f"; did you mean the file {name}.py?" if Path(folder, f"{name}.py").is_file() else ""
            raise ImportFailed(
                f"cannot import {name!r}: there is no such module here or among the installed ones{near}; "
                "a file is given with its ending, as mymodel.py"
            ) from None
        raise ImportFailed(f"cannot import {name!r}: {_where(error)}") from error
    except (Exception, SystemExit) as error:
        raise ImportFailed(f"cannot import {name!r}: {_where(error)}") from error
    file = getattr(module, "__file__", None)
    _imported[name] = _described(name, None if file is None else Path(file))
    return module


def _where(error: BaseException, path: Path | None = None) -> str:
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
    of_file = [frame for frame in frames if path is not None and Path(frame.filename).resolve() == path]
    if not (of_file or frames):
        return f"{kind}: {error}"
    frame = (of_file or frames)[-1]
    return f"{frame.filename}, line {frame.lineno}: {kind}: {error}"


def orders() -> dict[str, Any]:
    """What another process needs to know the same parts, as plain values for :func:`follow`."""
    explicit = imported()
    theirs = {
        f"{kind} {name}": asdict(source_of(cls)) | {"class": cls.__qualname__}
        for kind, name, cls in registry.registered()
        if cls.__module__ not in {each.module for each in explicit} and cls.__module__.partition(".")[0] != "recgraph"
    }
    return {"imports": [asdict(each) for each in explicit], "registered": theirs}


def follow(orders: Mapping[str, Any]) -> None:
    """Import what the process that gave the orders has imported, and expect what else it has registered.

    What is registered by a module that was imported in the usual way is imported when it is first asked for. A class of
    the script itself cannot be had: asking for it is an error that says so.

    Raises:
        ImportFailed: a file or module cannot be imported here.
    """
    for each in orders["imports"]:
        _follow(each)
    for of, source in orders["registered"].items():
        kind, _, name = of.partition(" ")
        registry.expect(kind, name, _Elsewhere(kind, name, source))


def _follow(source: Mapping[str, Any]) -> None:
    path = source["path"]
    if path is not None and "." not in source["module"]:
        import_file(path)
    else:
        import_file(source["module"])


@dataclass(frozen=True)
class _Elsewhere:
    """Registers a member that another process has; see :func:`recgraph.registry.expect`."""

    kind: str
    name: str
    source: Mapping[str, Any]

    def __call__(self) -> None:
        if self.source["module"] == "__main__":
            file = self.source["file"] or "a notebook or an interactive session"
            raise ImportFailed(
                f"{self.kind} {self.name!r} is the class {self.source['class']} of {file}, which worker processes do "
                "not run: move it into a file of its own, and import that with rg.import_file('FILE.py') or --import "
                "FILE.py"
            )
        _follow(self.source)
