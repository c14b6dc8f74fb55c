"""The plan of the study: bases, components, what is searched of each.

A base is a contrastive model of one line with settings for one data set; a component is one part in the place of the
base's, or beside it. Every component, and the base itself, is searched with the same budget over the base's common
space and the part's own ranges.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from recgraph import registry
from recgraph.augment.sequence import SequenceAugmentation
from recgraph.config import Search
from recgraph.models.base import Model


@dataclass(frozen=True)
class Base:
    """What components are compared on.

    Attributes:
        model: of the registry.
        plain: the same without contrast, shown beside.
        common: what is searched of every component.
        settings: of data set -> model and training.
        split: of data set -> ``split`` and ``split_options``, where they are not the card's.
    """

    model: str
    plain: str
    common: Mapping[str, Any]
    settings: Mapping[str, Mapping[str, Any]]
    split: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


_CONTRAST = {
    "contrast_weight": {"low": 0.01, "high": 1.0, "log": True},
    "temperature": {"low": 0.1, "high": 2.0, "log": True},
}
_SEQUENCES = {"regime": "causal", "metric": "ndcg@10", "max_epochs": 60, "patience": 6}
#: those of the boards in experiments/collaborative
_PAIRS = {"batch_size": 4096, "learning_rate": 0.01, "metric": "ndcg@20", "max_epochs": 100, "patience": 5}
_RATIO = {"ml-100k": {"split": "ratio", "split_options": {"valid": 0.1, "test": 0.1, "order": "random"}}}

BASES: dict[str, Base] = {
    "sasrec": Base(
        "cl4srec",
        "sasrec",
        _CONTRAST,
        {
            # narrow and short: a fifth of the time that a width of 64 and the last 200 items take
            "ml-100k": {
                **{**_SEQUENCES, "max_epochs": 40, "patience": 4, "batch_size": 64, "learning_rate": 0.003},
                **{"max_len": 50, "hidden_dim": 32, "inner_dim": 64, "dropout": 0.2},
            },
            "amazon-beauty": {**_SEQUENCES, "batch_size": 256, "learning_rate": 0.001, "max_len": 50},
        },
    ),
    "lightgcn": Base(
        # one propagation a step; SimGCL, with two more, costs twice as much
        "xsimgcl",
        "lightgcn",
        {
            "contrast_weight": {"low": 0.002, "high": 0.5, "log": True},
            "temperature": {"low": 0.05, "high": 1.0, "log": True},
        },
        {
            **{"ml-100k": _PAIRS, "lastfm-hin": _PAIRS, "yelp-hin": {**_PAIRS, "batch_size": 8192}},
            # the rate of the board of the next product; its last epochs, up to a hundred, gain nearly nothing
            "amazon-beauty": {**_PAIRS, "learning_rate": 0.005, "max_epochs": 40},
        },
        _RATIO,
    ),
    "meow": Base(
        "meowrec",
        "lightgcn",
        {
            "contrast_weight": {"low": 0.001, "high": 0.1, "log": True},
            "temperature": {"low": 0.1, "high": 1.0, "log": True},
        },
        {name: {**_PAIRS, "recommend_by": "interactions"} for name in ("ml-100k", "lastfm-hin", "yelp-hin")},
        _RATIO,
    ),
}


@dataclass(frozen=True)
class Component:
    """One part in a base.

    Attributes:
        kind: of the registry, or the name of a setting.
        name: of the part; unique with its kind.
        settings: that put it in.
        space: what is searched of it, beside the base's common space.
    """

    kind: str
    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    space: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"{self.kind}: {self.name}" if self.kind else self.name

    @property
    def stem(self) -> str:
        return re.sub(r"\W+", "-", f"{self.kind}-{self.name}").strip("-")


#: the base as it is, searched like the components
ITSELF = Component("", "base")


def components(base: Base) -> Iterator[Component]:
    """Every part of the registry that the base's settings can name, but those that it has already; then what is no part
    of the registry."""
    cls: type[Model] = registry.load("model", base.model)
    fields = cls.Config.model_fields
    # what has no candidates cannot have weights
    unweighted = {} if fields["weight"].default is None else {"weight": None}
    for kind in ("weight", "transform", "objective"):
        own = fields[kind].default
        for name in registry.written(kind):
            if own is None or registry.key(name) != registry.key(own):
                more = unweighted if name == "barlow_twins" else {}
                space = {f"{kind}.{each}": {} for each in searched(kind, name)}
                yield Component(kind, name, {kind: name, **more}, space)
    if "regularisers" in fields:
        for name in registry.written("regulariser"):
            space = {f"regularisers.{name}.{each}": {} for each in searched("regulariser", name)}
            yield Component("regulariser", name, {"regularisers": {name: {}}}, space)
    if fields["similarity"].default == "dot":
        yield Component("similarity", "cosine", {"similarity": "cosine"})
    if base.plain == "sasrec":
        own = fields["augmentations"].default
        for name in own:
            yield Component("augmentation", f"{name} alone", {"augmentations": [name]})
        for name in registry.written("augmentation"):
            if name not in own and _is_of_sequences(name):
                yield Component("augmentation", name, {"augmentations": [*own, name]})
        yield Component("augmentation", "none: dropout alone", {"augmentations": []})


def searched(kind: str, name: str) -> list[str]:
    """The settings of a part that have a range to search."""
    config = getattr(registry.load(kind, name), "Config", None)
    if config is None:
        return []
    return [name for name, of in config.model_fields.items() if any(isinstance(one, Search) for one in of.metadata)]


def _is_of_sequences(name: str) -> bool:
    found = registry.load("augmentation", name)
    return isinstance(found, type) and issubclass(found, SequenceAugmentation)
