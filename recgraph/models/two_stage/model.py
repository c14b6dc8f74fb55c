"""A ranker over the candidates of several models."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from recgraph import registry
from recgraph.blocks import row_blocks
from recgraph.config import ConfigError, Search
from recgraph.data.item_features import FeatureWish
from recgraph.data.part import Cases, Part
from recgraph.data.samples import Query
from recgraph.models.base import Model, ModelConfig, Space
from recgraph.models.heterogeneous.base import evaluating
from recgraph.models.members import Member, Plan, PlannedModel, models_in, space_for
from recgraph.models.two_stage.candidates import Candidates, Found, above_the_rest, best_of
from recgraph.models.two_stage.features import Features
from recgraph.models.two_stage.rankers import Ranker
from recgraph.rng import derive

__all__ = ["TwoStage", "TwoStageConfig"]

_log = logging.getLogger(__name__)


def _specified(models: Any) -> Any:
    """Models that are given as objects, by their specifications."""
    if not isinstance(models, list | tuple):
        raise ValueError("give a list of models, by name or as {name = ..., and settings}")
    return [registry.specification("model", each) if isinstance(each, Model) else each for each in models]


class TwoStageConfig(ModelConfig):
    models: Annotated[
        tuple[str | dict[str, Any], ...],
        BeforeValidator(_specified),
        Field(
            min_length=1,
            description="the models that give candidates, each a name, or {name = ..., settings of it and of its "
            "training, candidates = ...}; the first one orders what is below all candidates",
        ),
    ] = ("ease", "itemknn", "popularity")
    candidates: Annotated[
        int, Field(ge=1, description="items that each model gives for a user"), Search(20, 500, log=True)
    ] = 100
    ranker: Annotated[
        str,
        Field(description="the second stage: boosted_trees, logistic, or one of your own"),
        Search(choices=("boosted_trees", "logistic")),
    ] = "boosted_trees"
    ranker_options: Annotated[dict[str, Any], Field(default_factory=dict, description="its settings")]
    negatives: Annotated[
        int | None,
        Field(ge=1, description="candidates of a user that teach as wrong ones, drawn by the seed; none: all"),
        Search(choices=(10, 50, None)),
    ] = None
    max_users: Annotated[
        int | None, Field(ge=1, description="users whose candidates teach, drawn by the seed; none: all")
    ] = 10_000
    repeats: Annotated[
        bool, Field(description="whether items of the history are candidates, for users who come back to items")
    ] = False
    item_features: Annotated[
        FeatureWish, Field(description="columns of the item features that the second stage reads; 'all' or a list")
    ] = ()
    user_features: Annotated[
        FeatureWish, Field(description="columns of the user features that it reads; 'all' or a list")
    ] = ()


class TwoStage(PlannedModel):
    """Candidates of several models, ranked by a second model of their scores, ranks and plain facts.

    The training part is split once more, as the data set is. Models that are fitted to what comes first give the
    candidates of a user, the ``candidates`` best of each; those that the user chose next are labelled 1, all others 0,
    and the second stage learns from them, of users with at least one 1. Then the models are fitted anew, to all of the
    training part, and rank. Valid and test are in neither.

    The second stage reads of a candidate the score and 1 / rank of each model (missing and 0 where it is no candidate
    of that one), the item's popularity, the length of the history, ages where times are known, and side information
    that ``item_features`` and ``user_features`` name. All candidates come before all other items, which the first model
    orders.

    Source: Covington, Adams and Sargin, Deep Neural Networks for YouTube Recommendations (RecSys 2016), for the two
    stages; the second is gradient-boosted trees or logistic regression.

    Attributes:
        stages: the models, as they rank.
        features: what the second stage knows beside their scores.
        ranker: the second stage.
        is_taught: bool scalar; without a label the sum of the reciprocal ranks takes its place.
    """

    Config = TwoStageConfig
    updated_by = None
    stages: nn.ModuleList
    features: Features
    ranker: Ranker
    is_taught: Tensor

    def __init__(self, config: ModelConfig | None = None, /, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.members = [Member.of(spec, self.config.candidates) for spec in self.config.models]
        made = [member.make() for member in self.members]
        if nested := [type(each).__name__ for each in made if isinstance(each, PlannedModel)]:
            raise ConfigError(f"models: {nested[0]} gives no candidates to another one; name its models here")
        self._make_ranker(0)
        self.revision = self.revision_of({"models": self.config.models})  # type: ignore[misc]
        self.reads_graph = any(each.reads_graph for each in made)  # type: ignore[misc]
        self.ranks_in_threads = all(each.ranks_in_threads for each in made)  # type: ignore[misc]
        wishes = {repr(each.wanted_features): each.wanted_features for each in made if each.wanted_features}
        self._wish: FeatureWish = next(iter(wishes.values()), ())
        if len(wishes) > 1 or (wishes and self.reads_graph):
            raise ConfigError(
                f"models: they read item features in {len(wishes)} ways ({', '.join(wishes)})"
                + (" and a graph" if self.reads_graph else "")
                + "; give all the same item_features, and none beside a model that reads a graph"
            )

    @classmethod
    def revision_of(cls, settings: Mapping[str, Any]) -> int:
        given = {name: settings[name] for name in ("models",) if name in settings}
        members = [Member.of(spec, 1).cls for spec in cls.Config.of(given).models]
        return cls.revision + sum(each.revision - 1 for each in members)

    @classmethod
    def models_of(cls, settings: Mapping[str, Any]) -> tuple[str, ...]:
        return models_in(settings.get("models", cls.Config.model_fields["models"].default))

    @classmethod
    def said_of(cls, settings: Mapping[str, Any]) -> str:
        names = [each if isinstance(each, str) else each["name"] for each in settings["models"]]
        return f"An ensemble: {settings['ranker']} over the candidates of {', '.join(names)}."

    @property
    def side_information(self) -> Mapping[Literal["item", "user"], FeatureWish]:
        return {"item": self.config.item_features, "user": self.config.user_features}

    def _make_ranker(self, seed: int) -> Ranker:
        given = {"name": self.config.ranker, **self.config.ranker_options}
        made = registry.make("ranker", given, seed=seed)
        if not isinstance(made, Ranker):
            raise ConfigError(
                f"ranker = {self.config.ranker!r} is no Ranker, whose buffers are saved; derive {type(made).__name__} "
                "from recgraph.models.two_stage.rankers.Ranker"
            )
        return made

    def _build(self, space: Space) -> None:
        assert self.seed is not None
        self.stages = nn.ModuleList(self._fresh(member, space) for member in self.members)
        self.features = Features(space.n_users, space.n_items, self.config.repeats)
        self.ranker = self._make_ranker(derive(self.seed, "ranker"))
        self.register_buffer("is_taught", torch.zeros((), dtype=torch.bool))

    def _fresh(self, member: Member, space: Space) -> Model:
        assert self.seed is not None
        made = member.make()
        # with the seed of the whole: each is what it would be alone
        return made.build(space_for(made, space), self.seed)

    @property
    def wanted_features(self) -> FeatureWish:
        return self._wish

    @property
    def reads_times(self) -> bool:
        return self.features.reads_times or any(model.reads_times for model in self._models)

    @property
    def _models(self) -> list[Any]:
        return list(self.stages)

    def can_rank(self, query: Query) -> Tensor:
        return torch.stack([model.can_rank(query) for model in self._models]).any(0)

    def fit(self, train: Part) -> Self:
        assert self.space is not None
        plan = self.plan or Plan.alone(train, self.space)
        self._teach(plan)
        for member, model in zip(self.members, self._models, strict=True):
            plan.fit(model, train, member)
        self.features.fit(train, plan.of_items, plan.of_users)
        self.plan = None  # its parts are of no use any more
        return self

    @torch.no_grad()
    def _teach(self, plan: Plan) -> None:
        """Fit the second stage: candidates of models of the inner part, labelled by what is asked for after it."""
        self.is_taught.fill_(False)
        device, cases = self.is_taught.device, self._some(plan.cases)
        query = Query(cases.users, cases.history, cases.times).to(device)
        space, found = plan.space(plan.inner), []
        for member in self.members:  # one at a time is in memory
            model = self._fresh(member, space).to(device)
            with torch.enable_grad():
                plan.fit(model, plan.inner, member)
            found.append(self._found(model, member, query))
        every = Candidates.union(found)
        truth = cases.truth.to(device)
        asked = truth.rows * cases.n_items + truth.values
        labels = torch.isin(every.keys, asked)
        _log.info(
            "second stage: %s of %s targets of %s users are among their candidates",
            f"{int(labels.sum()):,}",
            f"{len(asked):,}",
            f"{len(cases):,}",
        )
        keep_mask = self._drawn(every.keys // cases.n_items, labels, len(cases))
        every, labels = every.take(keep_mask), labels[keep_mask]
        if not bool(labels.any()) or bool(labels.all()):
            warnings.warn(
                f"{type(self).__name__}: no user of the inner split has a right and a wrong candidate, so that the "
                "second stage learns nothing; ranked by the sum of 1 / rank. Give more candidates, or more data",
                stacklevel=3,
            )
            return
        assert self.space is not None
        known = Features(self.space.n_users, cases.n_items, self.config.repeats).to(device)
        known.fit(plan.inner, plan.of_items, plan.of_users)
        groups = torch.bincount(every.keys // cases.n_items)
        with torch.enable_grad():
            columns = _columns(every, known, query)
            self.ranker.fit(columns, labels.float(), groups[groups > 0])
        self._second(columns[:1])  # scores of a wrong form are an error before the models are fitted anew
        self.is_taught.fill_(True)

    def _some(self, cases: Cases) -> Cases:
        """The cases that teach."""
        most = self.config.max_users
        if most is None or len(cases) <= most:
            return cases
        return cases.take(torch.randperm(len(cases), generator=self._generator("users"))[:most].sort().values)

    def _generator(self, name: str) -> torch.Generator:
        assert self.seed is not None
        return torch.Generator().manual_seed(derive(self.seed, "two-stage", name))

    def _found(self, model: Model, member: Member, query: Query) -> Found:
        """The candidates of one model for all rows of a query, by blocks of them."""
        assert self.space is not None
        n_items, like, parts = self.space.n_items, torch.empty(0, device=query.users.device), []
        with evaluating(model):
            for rows in row_blocks(len(query), n_items, like):
                part = query.rows(rows.start, rows.stop)
                parts.append(self._best(model, member, part, model.score(part)).shifted(rows.start, n_items))
        empty = torch.zeros(0, dtype=torch.int64, device=like.device)
        return Found.cat([*parts, Found(empty, like, like)])

    def _best(self, model: Model, member: Member, query: Query, scores: Tensor) -> Found:
        try:
            return best_of(scores, query, member.n_candidates, model.can_rank(query), self.config.repeats)
        except ValueError as error:
            raise ValueError(f"models: {member.name}: {error}") from None

    def _drawn(self, rows: Tensor, labels: Tensor, n_rows: int) -> Tensor:
        """[U] bool: the candidates that teach, those of rows with a right one: it, and some of the wrong ones."""
        n_right = torch.bincount(rows[labels], minlength=n_rows)
        keep_mask = n_right[rows] > 0
        if self.config.negatives is None:
            return keep_mask
        draws = torch.rand(len(rows), generator=self._generator("negatives")).to(rows.device)
        # each row in an order of its own, right candidates first
        order = draws.masked_fill(labels, -1.0).argsort(stable=True)
        order = order[rows[order].argsort(stable=True)]
        lengths = torch.bincount(rows, minlength=n_rows)
        place = torch.empty_like(rows)
        place[order] = torch.arange(len(rows), device=rows.device) - (lengths.cumsum(0) - lengths)[rows[order]]
        is_drawn: Tensor = place < n_right[rows] + self.config.negatives
        return keep_mask & is_drawn

    def score(self, query: Query) -> Tensor:
        found, first = [], None
        for member, model in zip(self.members, self._models, strict=True):
            scores = model.score(query)
            first = scores if first is None else first
            found.append(self._best(model, member, query, scores))
        assert first is not None
        every = Candidates.union(found)
        taught = bool(self.is_taught)
        second = self._second(_columns(every, self.features, query)) if taught else every.ranks.sum(1)
        return above_the_rest(first, every.keys, second)

    def _second(self, columns: Tensor) -> Tensor:
        """[U]: the scores of the second stage, which may be anyone's."""
        second: object = self.ranker.score(columns)
        expected, name = columns.shape[:1], type(self.ranker).__name__
        if not isinstance(second, Tensor) or second.shape != expected:
            found = list(second.shape) if isinstance(second, Tensor) else f"a {type(second).__name__}"
            raise ValueError(f"{name}.score returned {found}; it must be a tensor {list(expected)}, a number a row")
        if not bool(second.isfinite().all()):
            raise ValueError(f"{name}.score returned NaN or infinite scores; features are NaN where a value is missing")
        return second


def _columns(every: Candidates, known: Features, query: Query) -> Tensor:
    """[U, F] float32: what a second stage reads."""
    return torch.cat([every.scores.float(), every.ranks.float(), known(every.keys, query)], 1)
