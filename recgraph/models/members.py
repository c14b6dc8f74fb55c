"""Models that are made of others: the specifications of these, and how runs fit them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from recgraph import registry
from recgraph.config import ConfigError, unknown_key
from recgraph.data.item_features import FeatureWish
from recgraph.data.part import Cases, Part
from recgraph.models.base import ClosedFormModel, Model, Space, TrainableModel
from recgraph.models.heterogeneous.base import GraphModel, GraphSpace
from recgraph.sparse.ragged import Ragged

__all__ = ["Member", "Plan", "PlannedModel", "last_held_out", "models_in", "space_for"]


@dataclass(frozen=True)
class Member:
    """A model that gives candidates to another one.

    Attributes:
        cls: its class.
        settings: its own.
        training: those of its training; empty where it is fitted in one step.
        n_candidates: how many items it gives for each user.
    """

    cls: type[Model]
    settings: Mapping[str, Any]
    training: Mapping[str, Any]
    n_candidates: int

    @classmethod
    def of(cls, spec: str | Mapping[str, Any], n_candidates: int) -> Self:
        """Read a specification: a name, or a name with settings of the model, of its training, and ``candidates``.

        Args:
            n_candidates: where it does not say.

        Raises:
            ConfigError: a setting that there is not, or of a value that is not allowed.
            ValueError: no such model, or one that ranks no items.
        """
        given = {"name": spec} if isinstance(spec, str) else dict(spec)
        if "name" not in given:
            raise ConfigError(f"models: {spec!r} must be a name or have one, as {{name = 'ease', l2 = 300.0}}")
        name = given.pop("name")
        model: type[Model] = registry.load("model", name)
        if issubclass(model, GraphModel):
            raise ConfigError(f"models: {model.__name__} embeds nodes and ranks no items; name a recommender")
        wanted = given.pop("candidates", n_candidates)
        if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
            raise ConfigError(f"models: {name}: candidates = {wanted!r} must be a whole number, at least 1")
        own = {*model.Config.model_fields, *model.Config.renamed}
        rest = {key: value for key, value in given.items() if key not in own}
        if rest and not issubclass(model, TrainableModel):
            message = f"models: {name}: {unknown_key(next(iter(rest)), [*own, 'candidates'])}"
            raise ConfigError(f"{message}; {model.__name__} is fitted in one step and takes no settings of training")
        settings = {key: value for key, value in given.items() if key in own}
        try:
            model(**settings)
        except ValueError as error:
            raise ConfigError(f"models: {name}: {error}") from None
        return cls(model, settings, rest, wanted)

    @property
    def name(self) -> str:
        return self.cls.key()

    def make(self) -> Model:
        """The model, not built."""
        return self.cls(**self.settings)


def models_in(specs: Iterable[str | Mapping[str, Any]]) -> tuple[str, ...]:
    """The names of the models that specifications name, each with those of the models that it is made of itself."""
    given = [{"name": spec} if isinstance(spec, str) else spec for spec in specs]
    return tuple(
        name for spec in given for name in (spec["name"], *registry.load("model", spec["name"]).models_of(spec))
    )


def space_for(model: Model, space: Space) -> Space:
    """What a model reads of the space of all: sizes, and features or a graph where it wants them."""
    if model.wanted_features or model.reads_graph:
        return space
    return Space(n_users=space.n_users, n_items=space.n_items)


def last_held_out(train: Part) -> tuple[Part, Cases]:
    """The part without the last interaction of each user who has another one before it, and these as cases."""
    lengths = train.items.lengths
    asked = lengths >= 2
    is_last = (train.items.positions == lengths[train.items.rows] - 1) & asked[train.items.rows]
    inner, users = train.filter(~is_last), torch.nonzero(asked).flatten()
    truth = Ragged.from_lengths(train.items.values[is_last], torch.ones_like(users))
    times = None if inner.times is None else inner.items.with_values(inner.times).take(users)
    return inner, Cases(users, inner.items.take(users), truth, train.n_items, times=times)


def fit_in_one_step(model: Model, part: Part, member: Member) -> None:
    """Fit a built model without a trainer.

    Raises:
        ValueError: it is trained, which takes one.
    """
    if not isinstance(model, ClosedFormModel):
        raise ValueError(f"models: {member.name} is trained, and rg.fit alone trains: fit the whole by it")
    model.fit(part)


@dataclass(frozen=True)
class Plan:
    """How a model of several is fitted to a training part.

    Attributes:
        inner: what of it the models that label candidates are fitted to.
        cases: the rest of it, as cases: what followed the histories of ``inner``.
        space: what models are built with for a part.
        fit: fits a built model to a part, by the settings of its member.
        of_items, of_users: [n, F] side information of the second stage, finite; None: none.
    """

    inner: Part
    cases: Cases
    space: Callable[[Part], Space]
    fit: Callable[[Model, Part, Member], object] = fit_in_one_step
    of_items: Tensor | None = None
    of_users: Tensor | None = None

    @classmethod
    def alone(cls, train: Part, space: Space) -> Self:
        """That of a model outside of a run: the last interaction of each user is what is asked for.

        Raises:
            ValueError: the space holds a graph, which knows what is asked for.
        """
        if isinstance(space, GraphSpace):
            raise ValueError("a model that reads a graph needs one of the inner part, which rg.fit makes: fit by it")
        return cls(*last_held_out(train), lambda part: space)


class PlannedModel(ClosedFormModel):
    """A model of several, to which a run gives a :class:`Plan` before it fits it; ``fit`` follows the plan.

    Attributes:
        members: the models that the plan fits.
        plan: how a run fits it; None: alone.
    """

    members: Sequence[Member] = ()
    plan: Plan | None = None

    @property
    def side_information(self) -> Mapping[Literal["item", "user"], FeatureWish]:
        """The columns of the features of items and of users that the plan is to hold; a setting of the model each,
        ``item_features`` and ``user_features``."""
        return {}
