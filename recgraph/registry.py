"""The registry: ``load(kind, name)`` finds a class by its name; case, ``-`` and ``_`` do not matter.

The library's own members are listed in ``_MEMBERS``, so that a name is known without importing its module. Users add
theirs with :func:`register`, or from a package with an entry point in the group ``recgraph.<kind>``.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, TypeVar, cast, get_type_hints

from pydantic import BeforeValidator, GetCoreSchemaHandler, SerializeAsAny, ValidationError, create_model

from recgraph.config import ConfigError, PartConfig, checked, did_you_mean, nearest_names, unknown_key
from recgraph.files import sha256

#: kind -> module -> the classes in it that can be named
_MEMBERS = {
    "aggregator": {"recgraph.encoders.histories": "Mean SelfAttention UserAttention"},
    "attribution": {"recgraph.explain.attribution": "Attention IntegratedGradients LeaveOneOut"},
    "augmentation": {
        "recgraph.augment.graph": "EdgeDrop FeatureMask NodeDrop",
        "recgraph.augment.sequence": "Crop Mask Reorder",
        "recgraph.augment.similar": "Insert Substitute",
        "recgraph.graph.metapath": "MetaPath",
    },
    "augmenter": {"recgraph.augment.latent": "Attention Conv MLP"},
    "encoder": {
        "recgraph.encoders.graph": "GCN LightGCN Propagation SemanticAttention",
        "recgraph.encoders.gru": "GRU",
        "recgraph.encoders.pointwise": "HSTU FuXi",
        "recgraph.encoders.transformer": "BidirectionalTransformer BSA GatedTransformer Transformer",
    },
    "graph": {"recgraph.graph.hetero": "HeteroGraph"},
    "item_graph": {
        "recgraph.encoders.graph": "Interactions Transitions",
        "recgraph.models.heterogeneous.views": "MetaPaths",
    },
    "loss": {
        "recgraph.losses.pairwise": "BCE BPR CCL",
        "recgraph.losses.softmax": "FullSoftmax SampledSoftmax",
    },
    "metric": {
        "recgraph.evaluate.metrics": (
            "AUC DCG F1 HitRate MAP MRR NDCG Precision RBP RPrecision Recall AveragePopularity "
            "CatalogueCoverage Entropy Gini IntraListDiversity NewItems Novelty Personalization Serendipity "
            "TailShare Unexpectedness"
        ),
    },
    "model": {
        "recgraph.models.closed_form.graph_filters": "GFCF TurboCF",
        "recgraph.models.closed_form.ials": "IALS",
        "recgraph.models.closed_form.linear": "EASE SLIM",
        "recgraph.models.closed_form.neighbours": "ItemKNN Popularity",
        "recgraph.models.collaborative.contrastive": "SGL SimGCL XSimGCL",
        "recgraph.models.collaborative.lightgcn": "BPRMF LightGCN",
        "recgraph.models.collaborative.ncl": "NCL",
        "recgraph.models.collaborative.simplex": "SimpleX",
        "recgraph.models.collaborative.ultragcn": "UltraGCN",
        "recgraph.models.heterogeneous.heco": "HeCo",
        "recgraph.models.heterogeneous.meow": "AdaMEOW MEOW",
        "recgraph.models.heterogeneous.recommender": "AdaMEOWRec MEOWRec",
        "recgraph.models.sequence.bert4rec": "BERT4Rec",
        "recgraph.models.sequence.contrastive": "CL4SRec DuoRec",
        "recgraph.models.sequence.mclrec": "MCLRec",
        "recgraph.models.sequence.sasrec": "BSARec ESASRec FuXiAlpha GRU4Rec HSTU SASRec",
        "recgraph.models.two_stage": "TwoStage",
    },
    "objective": {"recgraph.contrast.objectives": "BarlowTwins DebiasedInfoNCE DebiasedNTXent InfoNCE NTXent"},
    "ranker": {"recgraph.models.two_stage": "BoostedTrees Logistic"},
    "regulariser": {"recgraph.contrast.regularisers": "Alignment CrossUniformity Margin Uniformity"},
    "reranker": {"recgraph.evaluate.rerank": "DPP MMR"},
    "transform": {"recgraph.contrast.parts": "Centre ShuffledGroupWhitening"},
    "weight": {"recgraph.contrast.weights": "Cluster Hardness Learned SameTarget SelfMask"},
}
_registered: dict[tuple[str, str], type[Any]] = {}
#: names as they were given to :func:`register`
_given: dict[tuple[str, str], str] = {}

T = TypeVar("T", bound=type[Any])


def kinds() -> list[str]:
    """The kinds of things that the registry knows."""
    return sorted(_MEMBERS)


def key(name: str) -> str:
    """The form in which names are compared: lower case, without ``-`` and ``_``."""
    return name.lower().replace("-", "").replace("_", "")


def key_of(kind: str, cls: type[Any]) -> str:
    """The name under which :func:`load` finds a class: the one that it was registered under, else its own."""
    own = key(cls.__name__)
    if _built_in(kind).get(own) == (cls.__module__, cls.__name__):
        return own  # without a look at entry points, which takes tens of milliseconds
    registered = next((name for (of, name), member in _registered.items() if of == kind and member is cls), None)
    return registered or next((name for name, point in _entry_points(kind).items() if point.load() is cls), own)


def _built_in(kind: str) -> dict[str, tuple[str, str]]:
    """Key -> the module and the name of the class."""
    if kind not in _MEMBERS:
        raise ValueError(f"kind {kind!r} is not known; the kinds are {', '.join(kinds())}")
    return {key(name): (module, name) for module, members in _MEMBERS[kind].items() for name in members.split()}


@lru_cache
def _entry_points(kind: str) -> dict[str, metadata.EntryPoint]:
    """Key -> what an installed package names in the group ``recgraph.<kind>``."""
    return {key(point.name): point for point in metadata.entry_points(group=f"recgraph.{kind}")}


def names(kind: str) -> list[str]:
    """The keys of all members of a kind: the library's own, entry points and registered classes."""
    return sorted({*_built_in(kind), *_entry_points(kind), *(name for of, name in _registered if of == kind)})


def classes(kind: str) -> Iterator[tuple[str, Any]]:
    """Key and class of all members of a kind."""
    for name in names(kind):
        yield name, load(kind, name)


def written(kind: str, name: str | None = None) -> list[str]:
    """The names of all members of a kind, or of one of them, as settings, lists and documents write them.

    Words are joined by ``_``, as in ``catalogue_coverage``; a model is written in one word, as in ``lightgcn``.
    """
    return sorted(_written(kind, each) for each in (names(kind) if name is None else [key(name)]))


def _written(kind: str, wanted: str) -> str:
    if kind == "model" and (kind, wanted) not in _given:
        return wanted
    own = _built_in(kind).get(wanted, ("", ""))[1] or getattr(_registered.get((kind, wanted)), "__name__", wanted)
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", own).lower()
    return _given.get((kind, wanted), snake).lower().replace("-", "_")


def proposal(name: str, there: Iterable[str], aliases: Iterable[str] = ()) -> str:
    """The nearest names, aliases among them, and all that there are, for the error of a name that does not exist."""
    there = [*there]
    meant = did_you_mean(nearest_names(name, [*there, *aliases], key=key))
    return f"{meant + ' There' if meant else 'there'} are {', '.join(there)}"


def register(kind: str, name: str | None = None) -> Callable[[T], T]:
    """Class decorator that adds a member under ``name`` (default: the class name).

    A class that an entry point leads to may have it too. A class that is defined again, as its module is imported under
    a second name or a cell of a notebook is run again, takes the place of the earlier one.

    Raises:
        ValueError: the kind is not known, or the name is taken.
    """
    _built_in(kind)

    def add(cls: T) -> T:
        wanted = key(name or cls.__name__)
        point, before = _entry_points(kind).get(wanted), _registered.get((kind, wanted))
        is_pointed_to = point is not None and point.value == f"{cls.__module__}:{cls.__qualname__}"
        is_again = before is not None and _origin(before) == _origin(cls)
        if wanted in names(kind) and not (is_pointed_to or is_again):
            raise ValueError(f"{kind} {wanted!r} exists already; register {cls.__name__} under another name")
        _registered[kind, wanted] = cls
        if name is not None:
            _given[kind, wanted] = name
        return cls

    return add


def _origin(cls: type[Any]) -> tuple[str, str]:
    """The file (or the module) that defines a class, and its name there."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return (cls.__module__ if file is None else str(Path(file).resolve())), cls.__qualname__


def load(kind: str, name: str) -> Any:
    """The class of a kind by name; case, ``-`` and ``_`` do not matter.

    Raises:
        ValueError: no such kind or name, or it is no text; the message gives the nearest names and those that exist.
    """
    built_in = _built_in(kind)
    wanted = key(name) if isinstance(name, str) else ""
    if (kind, wanted) in _registered:
        return _registered[kind, wanted]
    if wanted in built_in:
        module, name = built_in[wanted]
        return getattr(importlib.import_module(module), name)
    if wanted in (points := _entry_points(kind)):
        return points[wanted].load()
    raise unknown(kind, name)


def unknown(kind: str, name: str, aliases: Iterable[str] = ()) -> ValueError:
    """The error for a name that no member has, with the nearest names, aliases among them."""
    return ValueError(
        f"{kind} {name!r} does not exist; {proposal(str(name), written(kind), aliases)}. One of your own is known once "
        "its file is imported (--import FILE, rg.import_file)"
    )


# -- parts: the settings of members, as values

_parts: dict[tuple[str, type[Any]], type[PartConfig]] = {}
_create: Callable[..., Any] = create_model


class _Made(PartConfig):
    """The base of the classes made here, which stand in no module: values are pickled by kind and name."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _without_state, (self.part_kind, self.part_name), self.__getstate__()


def _without_state(kind: str, name: str) -> PartConfig:
    cls = part_class(kind, name)
    return cls.__new__(cls)


def part_class(kind: str, name: str) -> type[PartConfig]:
    """The settings of a member, as a configuration: the fields of its ``Config``, or those parameters of its
    constructor that have a default.

    Raises:
        ValueError: there is no such member.
    """
    cls = load(kind, name)
    if (kind, cls) not in _parts:
        config = getattr(cls, "Config", None)
        bases = (_Made, config) if config is not None else (_Made,)
        fields = {} if config is not None else _arguments(cls)
        found: type[PartConfig] = _create(cls.__name__, __base__=bases, __doc__=cls.__doc__, **fields)
        found.part_kind, found.part_name, found.member = kind, written(kind, key_of(kind, cls))[0], cls
        found.arguments = None if config is not None else frozenset(inspect.signature(cls).parameters)
        _parts[kind, cls] = found
    return _parts[kind, cls]


def _arguments(cls: type[Any]) -> dict[str, Any]:
    """The parameters of a constructor that have a default, as fields."""
    parameters = inspect.signature(cls).parameters
    try:
        hints = get_type_hints(cls.__init__, include_extras=True)
    except Exception:  # annotations that type checkers alone know
        hints = {}
    return {
        name: (hints.get(name, Any), each.default)
        for name, each in parameters.items()
        if each.default is not inspect.Parameter.empty
    }


def read_part(kind: str, value: Any) -> Any:
    """The part that a value, a name, or a table of a name and settings stands for; None stays."""
    if value is None or isinstance(value, PartConfig):
        return value
    if isinstance(value, str):
        return part_class(kind, value)()
    if not isinstance(value, Mapping) or "name" not in value:
        example = written(kind)[0]
        raise ValueError(f"must be a name of kind {kind!r} or a table that has one, as {{name = {example!r}}}")
    settings, chosen = {name: each for name, each in value.items() if name != "name"}, part_class(kind, value["name"])
    if unknown_names := [name for name in settings if name not in chosen.model_fields]:
        raise ValueError(f"{kind} {chosen.part_name}: {unknown_key(unknown_names[0], chosen.model_fields)}")
    return chosen.__pydantic_validator__.validate_python(settings)


@dataclass(frozen=True)
class part:
    """Marks a field that holds a part: ``encoder: Annotated[PartConfig, part("encoder")]``."""

    kind: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        any_part = cast(Any, SerializeAsAny)[source]
        return handler(cast(Any, Annotated)[any_part, BeforeValidator(partial(read_part, self.kind))])


def make(kind: str, spec: Any, /, **given: Any) -> Any:
    """A member of a kind from its name, its table, or its :class:`recgraph.config.PartConfig`.

    Raises:
        ValueError: no such member, or a setting that it has not, or a value is not allowed.
    """
    try:
        return read_part(kind, spec).build(**given)
    except ValidationError as error:
        raise ConfigError(f"{kind} {spec!r}: {error}") from None


def find_part(name: str, *kinds: str) -> type[PartConfig]:
    """The settings of the member of a kind whose class is called so, as ``rg.encoders.BSA``.

    Raises:
        AttributeError: there is none.
    """
    if not name.startswith("_"):
        for kind in kinds:
            if key(name) in names(kind) and load(kind, name).__name__ == name:
                return part_class(kind, name)
    raise AttributeError(f"no {' or '.join(kinds)} is called {name!r}")


# -- parts of a user's own, from a file: no bundle and no record imports one, people do


class ImportFailed(ValueError):
    """A file or a module cannot be imported; the message says at which line of which file."""


@dataclass(frozen=True)
class Imported:
    """A module of a user's own, the file that it was read from, if any, and its SHA-256."""

    module: str
    path: Path | None
    sha256: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for records, without the path, which is of this machine."""
        return {"module": self.module, "file": self.path and self.path.name, "sha256": self.sha256}


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
        if is_path(text):
            module = _import_path(Path(folder, text).resolve(strict=True))
        else:
            _look_in(Path(folder).resolve())
            module = importlib.import_module(text)
    except (Exception, SystemExit) as error:
        raise ImportFailed(f"cannot import {text!r}: {_where(error)}") from error
    file = getattr(module, "__file__", None)
    path = None if file is None else Path(file).resolve()
    _imported[module.__name__] = Imported(module.__name__, path, None if path is None else sha256(path))
    return module


def is_path(what: str) -> bool:
    """Whether what is imported is the path of a file rather than the name of a module."""
    return what.endswith(".py") or os.sep in what


def import_all(what: Iterable[str | Path], folder: str | Path = ".") -> None:
    """:func:`import_file` of each, in this order."""
    for each in what:
        import_file(each, folder)


def imported() -> list[Imported]:
    """What was imported by :func:`import_file`, in this order."""
    return [*_imported.values()]


def own_files() -> list[str]:
    """The names of the files, or of the modules without one, that registered something."""
    return sorted({Path(_origin(cls)[0]).name for cls in _registered.values()})


def to_import() -> list[str]:
    """What another process imports (:func:`import_all`) to know the same parts; of the script itself it knows none."""
    files = [str(each.path) if each.path and "." not in each.module else each.module for each in imported()]
    known = {*_imported, "__main__"}
    modules = (cls.__module__ for cls in _registered.values())
    return [*files, *dict.fromkeys(each for each in modules if each not in known and not each.startswith("recgraph."))]


def _look_in(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    importlib.invalidate_caches()


def _forget(module: str) -> None:
    """Take out what a module has registered, so that it can be imported anew."""
    for of in [of for of, cls in _registered.items() if cls.__module__ == module]:
        del _registered[of]
        _given.pop(of, None)


def _import_path(path: Path) -> ModuleType:
    name = re.sub(r"\W", "_", path.stem)
    there = sys.modules.get(name)
    if there is not None and Path(getattr(there, "__file__", None) or "").resolve() != path:
        name, there = f"own_{name}", sys.modules.get(f"own_{name}")
    before = _imported.get(name)
    if there is not None and (before is None or before.sha256 == sha256(path)):
        return there
    _look_in(path.parent)
    _forget(name)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        # compiled anew: the cache takes a file of the same second and size for the same
        exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        del sys.modules[name]
        _forget(name)
        raise
    return module


def _where(error: BaseException) -> str:
    """The error with the line of the user's file that raised it: the last one before the library's own."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{error.filename}, line {error.lineno}: SyntaxError: {error.msg}"
    own = Path(__file__).resolve().parent
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not Path(frame.filename).resolve().is_relative_to(own) and not frame.filename.startswith("<")
    ]
    where = f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""
    return f"{where}{type(error).__name__}: {error}"
