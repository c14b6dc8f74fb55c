"""The registry: ``load(kind, name)`` finds a class by its name; case, ``-`` and ``_`` do not matter.

The library's own members are listed in ``_MEMBERS``, so that a name is known without importing its module. Users add
theirs with :func:`register`, or from a package with an entry point in the group ``recgraph.<kind>``.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, TypeVar

# kind -> module -> the classes in it that can be asked for by name
_MEMBERS: dict[str, dict[str, tuple[str, ...]]] = {
    "augmentation": {
        "recgraph.augment.graph": ("EdgeDrop", "FeatureMask", "NodeDrop"),
        "recgraph.augment.sequence": ("Crop", "Mask", "Reorder"),
        "recgraph.augment.similar": ("Insert", "Substitute"),
        "recgraph.graph.metapath": ("MetaPath",),
    },
    "augmenter": {"recgraph.augment.latent": ("Attention", "Conv", "MLP")},
    "encoder": {
        "recgraph.encoders.graph": ("GCN", "LightGCN", "Propagation", "SemanticAttention"),
        "recgraph.encoders.gru": ("GRU",),
        "recgraph.encoders.transformer": ("FilteredTransformer", "GatedTransformer", "Transformer"),
    },
    # what a log of interactions holds and recgraph.data.log saves and loads
    "graph": {"recgraph.graph.hetero": ("HeteroGraph",)},
    "loss": {
        "recgraph.losses.pairwise": ("BCE", "BPR"),
        "recgraph.losses.softmax": ("FullSoftmax", "SampledSoftmax"),
    },
    "metric": {
        "recgraph.evaluate.metrics.accuracy": (
            "F1",
            "HitRate",
            "Precision",
            "RPrecision",
            "Recall",
            "StratifiedRecall",
        ),
        "recgraph.evaluate.metrics.auc": ("AUC", "PartialAUC"),
        "recgraph.evaluate.metrics.distribution": (
            "AveragePopularity",
            "CatalogueCoverage",
            "Entropy",
            "Gini",
            "Personalization",
            "TailShare",
        ),
        "recgraph.evaluate.metrics.novelty": (
            "IntraListDiversity",
            "NewItems",
            "Novelty",
            "Serendipity",
            "Unexpectedness",
        ),
        "recgraph.evaluate.metrics.rank": ("DCG", "MAP", "MRR", "NCRR", "NDCG", "RBP"),
    },
    "model": {
        "recgraph.models.closed_form.ials": ("IALS",),
        "recgraph.models.closed_form.linear": ("EASE", "SLIM"),
        "recgraph.models.closed_form.neighbours": ("ItemKNN", "Popularity"),
        "recgraph.models.collaborative.contrastive": ("SGL", "SimGCL", "XSimGCL"),
        "recgraph.models.collaborative.lightgcn": ("BPRMF", "LightGCN"),
        "recgraph.models.heterogeneous.heco": ("HeCo",),
        "recgraph.models.heterogeneous.meow": ("AdaMEOW", "AdaMEOWRec", "MEOW", "MEOWRec"),
        "recgraph.models.sequence.contrastive": ("CL4SRec", "DuoRec"),
        "recgraph.models.sequence.mclrec": ("MCLRec",),
        "recgraph.models.sequence.sasrec": ("BSARec", "ESASRec", "GRU4Rec", "SASRec"),
    },
    "objective": {"recgraph.contrast.objectives": ("InfoNCE", "NTXent")},
    "regulariser": {"recgraph.contrast.regularisers": ("Alignment", "Margin", "Uniformity")},
    "weight": {"recgraph.contrast.weights": ("Cluster", "Learned", "SameTarget", "SelfMask")},
}
# earlier name of a kind -> its name; both are accepted, also in groups of entry points
_RENAMED = {"view": "augmentation"}
_registered: dict[tuple[str, str], type[Any]] = {}

T = TypeVar("T", bound=type[Any])


def kinds() -> list[str]:
    """The kinds of things that the registry knows."""
    return sorted(_MEMBERS)


def key(name: str) -> str:
    """The form in which names are compared: lower case, without ``-`` and ``_``."""
    return name.lower().replace("-", "").replace("_", "")


def key_of(kind: str, cls: type[Any]) -> str:
    """The name under which :func:`load` finds a class: the one that it was registered under, else its own."""
    kind = _known(kind)
    registered = (name for (of, name), member in _registered.items() if of == kind and member is cls)
    # an entry point may lead to its class through another module of the same package
    package = cls.__module__.partition(".")[0]
    points = _entry_points(kind).items()
    pointed = (name for name, at in points if at.module.partition(".")[0] == package and at.load() is cls)
    return next(registered, None) or next(pointed, None) or key(cls.__name__)


def _known(kind: str) -> str:
    """The present name of a kind."""
    kind = _RENAMED.get(kind, kind)
    if kind not in _MEMBERS:
        raise ValueError(f"kind {kind!r} is not known; the kinds are {', '.join(kinds())}")
    return kind


def _built_in(kind: str) -> dict[str, tuple[str, str]]:
    """Key -> the module and the name of the class."""
    return {key(name): (module, name) for module, members in _MEMBERS[kind].items() for name in members}


def _entry_points(kind: str) -> dict[str, Any]:
    groups = [kind, *(old for old, new in _RENAMED.items() if new == kind)]
    return {key(point.name): point for group in groups for point in entry_points(group=f"recgraph.{group}")}


def names(kind: str) -> list[str]:
    """The keys of all members of a kind: the library's own, entry points and registered classes."""
    kind = _known(kind)
    own = {registered for of, registered in _registered if of == kind}
    return sorted({*_built_in(kind), *_entry_points(kind), *own})


def register(kind: str, name: str | None = None) -> Callable[[T], T]:
    """Class decorator that adds a member under ``name`` (default: the class name).

    A class that an entry point leads to may have it too.

    Raises:
        ValueError: the kind is not known, or the name is taken.
    """
    kind = _known(kind)

    def add(cls: T) -> T:
        wanted = key(name or cls.__name__)
        point = _entry_points(kind).get(wanted)
        if wanted in names(kind) and (point is None or point.value != f"{cls.__module__}:{cls.__qualname__}"):
            raise ValueError(f"{kind} {wanted!r} exists already; register {cls.__name__} under another name")
        _registered[kind, wanted] = cls
        return cls

    return add


def load(kind: str, name: str) -> Any:
    """The class of a kind by name; case, ``-`` and ``_`` do not matter.

    Raises:
        ValueError: no such kind or name; the message lists the names that exist.
    """
    kind = _known(kind)
    wanted = key(name)
    if (kind, wanted) in _registered:
        return _registered[kind, wanted]
    built_in = _built_in(kind)
    if wanted in built_in:
        module, name = built_in[wanted]
        return getattr(importlib.import_module(module), name)
    points = _entry_points(kind)
    if wanted in points:
        return points[wanted].load()
    raise ValueError(
        f"{kind} {name!r} does not exist; there are {', '.join(names(kind))}. One of your own is known once its "
        f"module is imported (@rg.register({kind!r})), or by an entry point in the group 'recgraph.{kind}'"
    )


def settings_of(cls: type[Any]) -> list[str]:
    """The names of a member's settings: the fields of its ``Config``, else the parameters of its constructor."""
    config = getattr(cls, "Config", None)
    return list(config.model_fields if config is not None else inspect.signature(cls).parameters)


def make(kind: str, spec: str | Mapping[str, Any], **given: Any) -> Any:
    """A member of a kind from its specification in a configuration.

    Args:
        kind: of the registry.
        spec: a name, or a mapping with ``name`` and the member's settings, as ``{name = "crop", ratio = 0.3}``.
        given: what the caller knows; the member gets those that it has a setting or a parameter for, and the
            specification's own settings come first.

    Raises:
        ValueError: no such member, or the specification has no name.
        ConfigError: a setting that the member does not have, or its value is not allowed.
    """
    kind = _known(kind)
    settings = {"name": spec} if isinstance(spec, str) else dict(spec)
    if "name" not in settings:
        raise ValueError(f"{kind} = {spec!r} must be a name or have one, as {{name = {names(kind)[0]!r}}}")
    cls = load(kind, settings.pop("name"))
    known = settings_of(cls)
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ValueError(
            f"{kind} {cls.__name__} has no setting {', '.join(unknown)}; it has {', '.join(known) or 'none'}"
        )
    return cls(**{**{name: value for name, value in given.items() if name in known}, **settings})


def specification(kind: str, value: Any) -> Any:
    """What :func:`make` makes ``value`` from: a name or a mapping as it is, a member as a mapping.

    Raises:
        ValueError: the class of ``value`` is not registered, or has no ``Config`` that tells its settings.
    """
    if isinstance(value, str | Mapping):
        return value
    kind, cls, config = _known(kind), type(value), getattr(value, "config", None)
    name = key_of(kind, cls)
    if name not in names(kind) or load(kind, name) is not cls:
        raise ValueError(f"{kind} {cls.__name__} is not registered; decorate the class with @register({kind!r})")
    if config is None:
        raise ValueError(f"{kind} {cls.__name__} has no config that tells its settings; give its name")
    return {"name": name, **config.model_dump(mode="json", exclude_unset=True)}
