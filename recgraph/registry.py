"""The registry: ``load(kind, name)`` finds a class by its name; case, ``-`` and ``_`` do not
matter.

The library's own members are listed in ``_OWN``, so that a name is known without importing its
module. Users add theirs with :func:`register`, or from a package with an entry point in the group
``recgraph.<kind>``.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, TypeVar, cast, get_type_hints

from pydantic import BeforeValidator, GetCoreSchemaHandler, SerializeAsAny, create_model

from recgraph.config import PartConfig, checked, did_you_mean
from recgraph.files import sha256

#: kind, package, and behind each module of the package those of its classes that can be named
_OWN = """
aggregator    encoders              histories: Mean SelfAttention UserAttention
attribution   explain               attribution: Attention IntegratedGradients LeaveOneOut
augmentation  augment               graph: EdgeDrop FeatureMask NodeDrop  sequence: Crop Mask Reorder
augmentation  augment               similar: Insert Substitute
augmentation  graph                 metapath: MetaPath
augmenter     augment               latent: Attention Conv MLP
encoder       encoders              graph: GCN LightGCN Propagation SemanticAttention  gru: GRU  pointwise: HSTU FuXi
encoder       encoders              transformer: BidirectionalTransformer BSA GatedTransformer Transformer
graph         graph                 hetero: HeteroGraph
item_graph    encoders              graph: Interactions Transitions
item_graph    models.heterogeneous  views: MetaPaths
loss          losses                pairwise: BCE BPR CCL  softmax: FullSoftmax SampledSoftmax
metric        evaluate              metrics: AUC DCG F1 HitRate MAP MRR NDCG Precision RBP RPrecision Recall
metric        evaluate              metrics: AveragePopularity CatalogueCoverage Entropy Gini IntraListDiversity
metric        evaluate              metrics: NewItems Novelty Personalization Serendipity TailShare Unexpectedness
model         models                two_stage: TwoStage
model         models.closed_form    graph_filters: BSPM GFCF TurboCF  ials: IALS  linear: EASE SLIM
model         models.closed_form    neighbours: ItemKNN Popularity RP3beta  transitions: Transitions
model         models.collaborative  contrastive: SGL SimGCL XSimGCL  lightgcn: BPRMF LightGCN UltraGCN
model         models.collaborative  ncl: NCL  simplex: SimpleX
model         models.heterogeneous  base: Spectral  heco: HeCo  meow: AdaMEOW MEOW  recommender: AdaMEOWRec MEOWRec
model         models.sequence       contrastive: CL4SRec DuoRec  mclrec: MCLRec
model         models.sequence       sasrec: BERT4Rec BSARec ESASRec FuXiAlpha GRU4Rec HSTU SASRec
objective     contrast              objectives: BarlowTwins DebiasedInfoNCE DebiasedNTXent InfoNCE NTXent
ranker        models                two_stage: BoostedTrees
regulariser   contrast              regularisers: Alignment CrossUniformity Margin Uniformity
reranker      evaluate              rerank: DPP MMR
transform     contrast              parts: Centre
weight        contrast              weights: Cluster Hardness Learned SameTarget SelfMask
"""

T = TypeVar("T", bound=type[Any])


def key(name: str) -> str:
    """The form in which names are compared: lower case, without ``-`` and ``_``."""
    return name.lower().replace("-", "").replace("_", "")


def _written(kind: str, name: str) -> str:
    """A class's name as settings, lists and documents write it: ``catalogue_coverage``; a model is
    one word.
    """
    words = (
        name
        if kind == "model"
        else re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    )
    return words.lower().replace("-", "_")


#: kind -> key -> the module of a class, its name, and that as it is written
_MEMBERS: dict[str, dict[str, tuple[str, str, str]]] = {}
for _kind, _package, *_words in map(str.split, _OWN.strip().splitlines()):
    for _word in _words:
        if _word.endswith(":"):
            _module = f"recgraph.{_package}.{_word[:-1]}"
        else:
            _MEMBERS.setdefault(_kind, {})[key(_word)] = _module, _word, _written(_kind, _word)
KINDS = sorted(_MEMBERS)
#: kind and key -> a class that was registered, and its name
_registered: dict[tuple[str, str], tuple[type[Any], str]] = {}


@cache
def _entry_points(kind: str) -> dict[str, metadata.EntryPoint]:
    """Key -> what an installed package names in the group ``recgraph.<kind>``."""
    return {key(point.name): point for point in metadata.entry_points(group=f"recgraph.{kind}")}


def members(kind: str) -> dict[str, str]:
    """Key -> name, as it is written, of all members of a kind: the library's own, entry points,
    registered classes.
    """
    if kind not in _MEMBERS:
        raise ValueError(f"kind {kind!r} is not known; the kinds are {', '.join(KINDS)}")
    points = {wanted: point.name.lower() for wanted, point in _entry_points(kind).items()}
    own = {wanted: name for wanted, (*_, name) in _MEMBERS[kind].items()}
    return {
        **points,
        **own,
        **{wanted: name for (of, wanted), (_, name) in _registered.items() if of == kind},
    }


def names(kind: str) -> list[str]:
    """The keys of all members of a kind."""
    return sorted(members(kind))


def name_of(kind: str, cls: type[Any]) -> str:
    """The name of a member, as it is written: the one that it was registered under, else its
    own.
    """
    for (of, _), (member, name) in _registered.items():
        if of == kind and member is cls:
            return name
    return _MEMBERS[kind].get(key(cls.__name__), ("", "", cls.__name__.lower()))[2]


def load(kind: str, name: str) -> Any:
    """The class of a kind by name; case, ``-`` and ``_`` do not matter."""
    wanted = key(f"{name}")
    if (kind, wanted) in _registered:
        return _registered[kind, wanted][0]
    if kind in _MEMBERS and wanted in _MEMBERS[kind]:
        module, own, _ = _MEMBERS[kind][wanted]
        return getattr(importlib.import_module(module), own)
    if wanted not in members(kind):
        there = sorted(members(kind).values())
        raise ValueError(
            f"{kind} {name!r} does not exist{did_you_mean(f'{name}', there)}; there are {', '.join(there)}; one of "
            "your own is known once its file is imported (--import FILE, rg.import_file)"
        )
    point = _entry_points(kind)[wanted]
    return register(kind, point.name)(point.load())


def register(kind: str, name: str | None = None) -> Callable[[T], T]:
    """Class decorator that adds a member under ``name`` (default: the class name).

    A class that is defined again, as its module is imported under a second name or a cell of a
    notebook is run again, takes the place of the earlier one.
    """
    there = members(kind)

    def add(cls: T) -> T:
        wanted = key(name or cls.__name__)
        before, _ = _registered.get((kind, wanted), (cls, ""))
        if wanted in _MEMBERS[kind] or _origin(before) != _origin(cls):
            raise ValueError(
                f"{kind} {there[wanted]!r} exists already; register {cls.__name__} under another name"
            )
        _registered[kind, wanted] = cls, _written(kind, name or cls.__name__)
        return cls

    return add


def _origin(cls: type[Any]) -> tuple[str, str]:
    """The file (or the module) that defines a class, and its name there."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return (cls.__module__ if file is None else str(Path(file).resolve())), cls.__qualname__


class _Made(PartConfig):
    """The base of the classes made here, which stand in no module: values are pickled by kind and
    name.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return read_part, (self.part_kind, {"name": self.part_name, **dict(self)})


def part_class(kind: str, name: str) -> type[PartConfig]:
    """The settings of a member, as a configuration."""
    return _part_class(kind, load(kind, name))


@cache
def _part_class(kind: str, cls: type[Any]) -> type[PartConfig]:
    """Its fields are those of the member's ``Config``, or the parameters of its constructor that
    have a default.
    """
    create = cast(Any, create_model)
    found: type[PartConfig]
    if hasattr(cls, "Config"):
        found = create(cls.__name__, __base__=(_Made, cls.Config), __doc__=cls.__doc__)
        found.accepts = frozenset(found.model_fields)
    else:
        parameters, hints = inspect.signature(cls).parameters, {}
        with suppress(NameError):  # of annotations that type checkers alone know
            hints = get_type_hints(cls.__init__, include_extras=True)
        fields = {
            name: (hints.get(name, Any), each.default)
            for name, each in parameters.items()
            if each.default is not inspect.Parameter.empty
        }
        found = create(cls.__name__, __base__=_Made, __doc__=cls.__doc__, **fields)
        found.accepts = frozenset(parameters)
    found.part_kind, found.part_name, found.member = kind, name_of(kind, cls), cls
    return found


def read_part(kind: str, value: Any) -> Any:
    """The part that a value, a name, or a table of a name and settings stands for; None stays."""
    if value is None or isinstance(value, PartConfig):
        return value
    table = {"name": value} if isinstance(value, str) else value
    if not isinstance(table, Mapping) or "name" not in table:
        example = min(members(kind).values())
        raise ValueError(
            f"must be a name of kind {kind!r} or a table that has one, as {{name = {example!r}}}"
        )
    return part_class(kind, table["name"]).of(
        {name: each for name, each in table.items() if name != "name"}
    )


@dataclass(frozen=True)
class part:
    """Marks a field that holds a part: ``encoder: Annotated[PartConfig, part("encoder")]``."""

    kind: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        any_part = cast(Any, SerializeAsAny)[source]
        return handler(
            cast(Any, Annotated)[any_part, BeforeValidator(partial(read_part, self.kind))]
        )


def make(kind: str, spec: Any, /, **given: Any) -> Any:
    """A member of a kind from its name, its table, or its :class:`recgraph.config.PartConfig`."""
    return (spec if isinstance(spec, PartConfig) else read_part(kind, spec)).build(**given)


def find_part(name: str, *kinds: str) -> type[PartConfig]:
    """The settings of the member of a kind whose class is called so, as ``rg.encoders.BSA``."""
    for kind in kinds:
        if key(name) in members(kind) and load(kind, name).__name__ == name:
            return part_class(kind, name)
    raise AttributeError(f"no {' or '.join(kinds)} is called {name!r}")


class ImportFailed(ValueError):
    """A file or a module cannot be imported; the message says at which line of which file."""


#: module that :func:`import_file` has imported -> its file and the SHA-256 of that, or None where
#: it has no file
_imported: dict[str, tuple[Path | None, str | None]] = {}


@checked
def import_file(what: str | Path, folder: str | Path = ".") -> ModuleType:
    """Import a Python file, ``"parts/mymodel.py"``, or a module by its name,
    ``"mypackage.models"``, so that what it registers is known; relative paths count from
    ``folder``.

    A file becomes a module that is called like it, and its folder is looked through last for
    modules that it imports. What was imported already is not run again, unless the file has
    changed.
    """
    text = str(what)
    try:
        file = Path(folder, text).resolve(strict=True) if text.endswith(".py") else None
        place = str(file.parent if file else Path(folder).resolve())
        if place not in sys.path:
            sys.path.append(place)
        importlib.invalidate_caches()
        module = _run(file) if file else importlib.import_module(text)
    except (Exception, SystemExit) as error:
        raise ImportFailed(f"cannot import {text!r}: {_where(error)}") from error
    path = None if module.__file__ is None else Path(module.__file__).resolve()
    _imported[module.__name__] = path, None if path is None else sha256(path)
    return module


def _run(path: Path) -> ModuleType:
    name = re.sub(r"\W", "_", path.stem)
    there = sys.modules.get(name)
    if there is not None and Path(getattr(there, "__file__", None) or "").resolve() != path:
        name, there = f"own_{name}", sys.modules.get(f"own_{name}")
    if there is not None and (name not in _imported or _imported[name][1] == sha256(path)):
        return there
    module = sys.modules[name] = module_from_spec(cast(Any, spec_from_file_location(name, path)))
    try:
        # compiled anew: the cache takes a file of the same second and size for the same
        exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _where(error: BaseException) -> str:
    """The error with the line of the user's file that raised it: the last one before the library's
    own.
    """
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{error.filename}, line {error.lineno}: SyntaxError: {error.msg}"
    own = (str(Path(__file__).parent), "<")
    frames = [
        each
        for each in traceback.extract_tb(error.__traceback__)
        if not each.filename.startswith(own)
    ]
    where = f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""
    return f"{where}{type(error).__name__}: {error}"


def import_all(what: Iterable[str | Path], folder: str | Path = ".") -> None:
    """:func:`import_file` of each, in this order."""
    for each in what:
        import_file(each, folder)


def imported() -> list[dict[str, Any]]:
    """What was imported by :func:`import_file`, in this order, for records: without the path, which
    is of this machine."""
    return [
        {"module": name, "file": path and path.name, "sha256": sum_}
        for name, (path, sum_) in _imported.items()
    ]


def to_import() -> list[str]:
    """What another process imports (:func:`import_all`) to know the same parts; of the script
    itself it knows none.
    """
    files = [
        str(path) if path and "." not in name else name for name, (path, _) in _imported.items()
    ]
    modules = dict.fromkeys(cls.__module__ for cls, _ in _registered.values())
    known = {*_imported, "__main__"}
    return [
        *files,
        *(each for each in modules if each not in known and not each.startswith("recgraph.")),
    ]
