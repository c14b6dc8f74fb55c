"""Two stages: the candidates of several models, ranked by a second model that learns from which of
them were right.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from recgraph import registry
from recgraph.config import Config, ConfigError, PartConfig, Search, configure, unknown_key
from recgraph.data.batches import Query
from recgraph.data.part import Cases, Part
from recgraph.encoders.items import SizedByState
from recgraph.models.base import ClosedFormModel, Model, ModelConfig, Space, TrainableModel
from recgraph.models.heterogeneous.base import evaluating
from recgraph.registry import part, part_class
from recgraph.rng import derive
from recgraph.sparse.blocks import row_blocks
from recgraph.sparse.ragged import Ragged

_log = logging.getLogger(__name__)
#: candidates that go through the trees at a time, so that what is made of them stays in a core's
#: cache
_ROWS = 2**14


@dataclass(frozen=True)
class Member:
    """A model that gives candidates: its class, its own settings, those of its training, and how
    many items it gives for each user."""

    cls: type[Model]
    settings: Mapping[str, Any]
    training: Mapping[str, Any]
    n_candidates: int

    @classmethod
    def of(cls, spec: str | Mapping[str, Any], n_candidates: int) -> Self:
        """Read a specification: a name, or a name with settings of the model, of its training, and
        ``candidates``.

        Raises:
            ConfigError: a setting that there is not, or of a value that is not allowed.
            ValueError: no such model.
        """
        given = {"name": spec} if isinstance(spec, str) else dict(spec)
        name, wanted = given.pop("name", None), given.pop("candidates", n_candidates)
        if name is None or not isinstance(wanted, int) or wanted < 1:
            raise ConfigError(
                f"models: {spec!r}: give a name, and as candidates a number of at least 1"
            )
        model: type[Model] = registry.load("model", name)
        own = {key: value for key, value in given.items() if key in model.Config.model_fields}
        rest = {key: value for key, value in given.items() if key not in own}
        if rest and not issubclass(model, TrainableModel):
            raise ConfigError(f"models: {name}: {unknown_key(next(iter(rest)), model.Config)}")
        try:
            model.Config.of(own)
        except ConfigError as error:
            raise ConfigError(f"models: {name}: {error}") from None
        return cls(model, own, rest, wanted)


def last_held_out(train: Part) -> tuple[Part, Cases]:
    """The part without the last interaction of each user who has another one before it, and these
    as cases.
    """
    lengths = train.items.lengths
    asked = lengths >= 2
    is_last = (train.items.positions == lengths[train.items.rows] - 1) & asked[train.items.rows]
    inner, users = train.filter(~is_last), torch.nonzero(asked).flatten()
    truth = Ragged.from_lengths(train.items.values[is_last], torch.ones_like(users))
    times = None if inner.times is None else inner.items.with_values(inner.times).take(users)
    at = None if train.times is None else train.times[is_last]
    return inner, Cases(users, inner.items.take(users), truth, train.n_items, times=times, at=at)


def _fit_in_one_step(model: Model, part: Part, member: Member) -> None:
    if not isinstance(model, ClosedFormModel):
        raise ValueError(
            f"models: {member.cls.key()} is trained, and rg.fit alone trains: fit the whole by it"
        )
    model.fit(part)


@dataclass(frozen=True)
class Plan:
    """How a run fits a model of several.

    Attributes:
        inner: what of the training part the models that label candidates are fitted to.
        cases: the rest of it, as cases: what followed the histories of ``inner``.
        space: what models are built with for a part.
        fit: fits a built model to a part, by the settings of its member.
    """

    inner: Part
    cases: Cases
    space: Callable[[Part], Space]
    fit: Callable[[Model, Part, Member], object] = _fit_in_one_step


# --- candidates, and what is known of them
# ----------------------------------------------------------


class Found(NamedTuple):
    """The candidates of one model, or of M.

    Attributes:
        keys: [C] int64, ``row * n_items + item``; of M models ascending.
        scores: [C], the model's; of M models [C, M], NaN where an item is no candidate of one.
        ranks: [C], 1 / place in the row's list; of M models [C, M], 0 where it is none.
    """

    keys: Tensor
    scores: Tensor
    ranks: Tensor


def best_of(scores: Tensor, query: Query, k: int, able: Tensor, repeats: bool) -> Found:
    """The ``k`` best items of each row.

    Args:
        scores: [B, n_items].
        able: [B] bool, the rows that the model can rank for; the others get no candidate.
        repeats: whether items of the history may be candidates.
    """
    n_rows, n_items = scores.shape
    open_to = scores.clone()
    if not repeats:
        open_to[query.history.rows, query.history.values] = -torch.inf
    open_to[~able] = -torch.inf
    values, items = open_to.topk(min(k, n_items), dim=1)
    there = values > -torch.inf
    first = n_items * torch.arange(n_rows, device=scores.device)[:, None]
    ranks = 1 / torch.arange(1, values.shape[1] + 1, device=scores.device, dtype=scores.dtype)
    return Found((first + items)[there], values[there], ranks.expand_as(values)[there])


def union(found: Sequence[Found]) -> Found:
    """The candidates of M models."""
    keys = torch.unique(torch.cat([each.keys for each in found]))
    scores = found[0].scores.new_full((len(keys), len(found)), torch.nan)
    ranks = torch.zeros_like(scores)
    for column, each in enumerate(found):
        at = torch.searchsorted(keys, each.keys)
        scores[at, column], ranks[at, column] = (
            each.scores.to(scores.dtype),
            each.ranks.to(scores.dtype),
        )
    return Found(keys, scores, ranks)


def above_the_rest(first: Tensor, keys: Tensor, second: Tensor) -> Tensor:
    """[B, n_items]: the scores of the second stage for candidates; below them all other items, as
    the first model orders them.

    Args:
        first: [B, n_items], scores of the first model.
        keys: [U] int64, of the candidates.
        second: [U].
    """
    n_items = first.shape[1]
    rows = keys // n_items
    lowest = first.new_full((len(first),), torch.inf)
    lowest = lowest.scatter_reduce(0, rows, second.to(first.dtype), "amin")[:, None]
    lowest = torch.where(lowest.isinf(), 0.0, lowest)
    low, high = first.amin(1, keepdim=True), first.amax(1, keepdim=True)
    # between -2 and -1, in units that scores as large as the lowest one can tell apart
    place = (first - low) / (high - low).clamp(min=torch.finfo(first.dtype).tiny) - 2
    scores = (lowest + lowest.abs().clamp(min=1) * place).contiguous()
    scores.view(-1)[keys] = second.to(first.dtype)
    return scores


class Features(nn.Module):
    """Columns of pairs of user and item, from the part that is fitted to and the query alone.

    They are ``log(1 + x)`` of: the interactions of the item; the length of the user's history; with
    ``repeats`` how often the item is in it; and, where times are known, the times from the item's
    last interaction, and from the user's, to the newest of the part (NaN where one is not known).

    Args:
        n_items: the size.
        repeats: see above.

    Attributes:
        counts: [n_items] int64, interactions.
        latest: [n_items] int64, the time of the last one.
        newest: int64 scalar, that of all.
        knows_times: bool scalar.
    """

    counts: Tensor
    latest: Tensor
    newest: Tensor
    knows_times: Tensor

    def __init__(self, n_items: int, repeats: bool = False) -> None:
        super().__init__()
        self.n_items, self.repeats = n_items, repeats
        self.register_buffer("counts", torch.zeros(n_items, dtype=torch.int64))
        self.register_buffer("latest", torch.zeros(n_items, dtype=torch.int64))
        self.register_buffer("newest", torch.zeros((), dtype=torch.int64))
        self.register_buffer("knows_times", torch.zeros((), dtype=torch.bool))

    def fit(self, train: Part) -> Self:
        """Learn from a part."""
        items = train.items.values
        self.counts.copy_(train.item_counts())
        self.knows_times.fill_(train.times is not None and len(items) > 0)
        if train.times is not None and len(items):
            latest = torch.full((train.n_items,), torch.iinfo(torch.int64).min, device=items.device)
            self.latest.copy_(latest.scatter_reduce(0, items, train.times, "amax"))
            self.newest.copy_(train.times.max())
        return self

    def forward(self, keys: Tensor, query: Query) -> Tensor:
        """[U, F] float32 for keys ``row * n_items + item`` [U] of the rows of a query."""
        rows, items = keys // self.n_items, keys % self.n_items
        lengths = query.history.lengths
        columns = [self.counts[items].float().log1p(), lengths[rows].float().log1p()]
        if self.repeats:
            had = (self.n_items * query.history.rows + query.history.values).sort().values
            counts = torch.searchsorted(had, keys, right=True) - torch.searchsorted(had, keys)
            columns.append(counts.float().log1p())
        if self.knows_times:
            age = torch.where(self.counts > 0, (self.newest - self.latest).float(), torch.nan)
            columns += [age[items].log1p(), self._ages_of_users(query)[rows].log1p()]
        return torch.stack(columns, 1)

    def _ages_of_users(self, query: Query) -> Tensor:
        """[B]: the time from the user's last interaction to the newest; 0 after it, NaN where it is
        not known.
        """
        ages = torch.full((len(query),), torch.nan, device=self.newest.device)
        if query.times is None:
            return ages
        known = query.times.lengths > 0
        last = query.times.values[query.times.offsets[1:][known] - 1]
        ages[known] = (self.newest - last).clamp(min=0).to(ages.dtype)
        return ages


# --- second stages
# ----------------------------------------------------------------------------------


#: within a class, ``Config`` is its own
BaseConfig = Config


class Ranker(SizedByState):
    """Base of second stages: a subclass defines ``fit`` and ``score``.

    What it learns is buffers, so that it is saved and loaded with the model and no code is; those
    whose length the settings do not say are named in ``sized_by_state``, and have one dimension.
    Settings are a ``Config``; a setting ``seed`` is filled in by the model.

    A ranker of another library keeps its text or bytes as a buffer of uint8: see the documentation,
    "Two stages".
    """

    Config: ClassVar[type[Config]] = Config

    def __init__(self, config: BaseConfig | None = None, /, **settings: Any) -> None:
        super().__init__()
        self.config: Any = configure(self, self.Config, config, settings)

    def fit(self, features: Tensor, labels: Tensor, groups: Tensor) -> object:
        """Learn from labelled candidates.

        Args:
            features: [R, F] float32, NaN where a value is missing; the rows of a user are one after
                another.
            labels: [R] float32, 1 for a candidate that the user chose next, else 0; both are there.
            groups: [G] int64, the rows of each user; they sum to R.
        """
        raise TypeError(f"{type(self).__name__} must define fit(features, labels, groups)")

    def score(self, features: Tensor) -> Tensor:
        """[R]: the scores of candidates, higher is better; of a row alone what it is among others.

        They are compared in float32, as the scores of other models: subtract a constant from all
        where they are large.
        """
        raise TypeError(f"{type(self).__name__} must define score(features)")


class BoostedTreesConfig(Config):
    max_iter: Annotated[
        int, Field(ge=1, le=10_000, description="trees"), Search(50, 400, log=True)
    ] = 100
    learning_rate: Annotated[
        float, Field(gt=0, description="share of each tree in the sum"), Search(0.01, 0.3, log=True)
    ] = 0.05
    max_leaf_nodes: Annotated[
        int, Field(ge=2, le=1000, description="leaves of a tree"), Search(4, 63, log=True)
    ] = 7
    min_samples_leaf: Annotated[
        int,
        Field(ge=1, description="candidates that a leaf holds, at least"),
        Search(5, 200, log=True),
    ] = 50
    l2: Annotated[
        float,
        Field(ge=0, description="penalty of the leaves' squares"),
        Search(1e-3, 100.0, log=True),
    ] = 1.0
    seed: Annotated[
        int,
        Field(
            exclude=True, description="of the rows that the bounds of the histograms are read from"
        ),
    ] = 0


class BoostedTrees(Ranker):
    """Gradient-boosted trees of the logistic loss: scikit-learn's
    ``HistGradientBoostingClassifier``, on the host.

    The trees are kept as arrays, and walked here; nothing of scikit-learn is saved. Missing values
    go the way that each split has learnt for them. Source: Ke et al., LightGBM: A Highly Efficient
    Gradient Boosting Decision Tree (NeurIPS 2017).

    Attributes:
        column: [T, N] int64, the feature that a node of a tree asks for; T is ``max_iter``, N the
            most nodes.
        threshold: [T, N] float64; values up to it go to the left.
        missing_left: [T, N] bool, whether a missing one does.
        left, right: [T, N] int64, the next node of the tree; of a leaf itself.
        value: [T, N] float64, of leaves.
        start: float64 scalar, the score before any tree.
    """

    Config = BoostedTreesConfig
    column: Tensor
    threshold: Tensor
    missing_left: Tensor
    left: Tensor
    right: Tensor
    value: Tensor
    start: Tensor

    def __init__(self, config: BaseConfig | None = None, /, **settings: Any) -> None:
        super().__init__(config, **settings)
        shape = self.config.max_iter, 2 * self.config.max_leaf_nodes - 1
        itself = torch.arange(shape[1]).expand(shape)
        self.register_buffer("column", torch.zeros(shape, dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("missing_left", torch.zeros(shape, dtype=torch.bool))
        self.register_buffer("left", itself.clone())
        self.register_buffer("right", itself.clone())
        self.register_buffer("value", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("start", torch.zeros((), dtype=torch.float64))

    def fit(self, features: Tensor, labels: Tensor, groups: Tensor) -> object:
        from sklearn.ensemble import HistGradientBoostingClassifier

        # scikit-learn refuses a column without a number, which no tree can ask for anyway
        config, x = self.config, _on_host(features.masked_fill(features.isnan().all(0), 0.0))
        made = HistGradientBoostingClassifier(
            learning_rate=config.learning_rate,
            max_iter=config.max_iter,
            max_leaf_nodes=config.max_leaf_nodes,
            min_samples_leaf=config.min_samples_leaf,
            l2_regularization=config.l2,
            early_stopping=False,
            random_state=config.seed % 2**32,
        ).fit(x, _on_host(labels) > 0)
        self._take(made)
        return self

    def _take(self, made: Any) -> None:
        """Copy the trees of a fitted classifier."""
        self.start.fill_(float(made._baseline_prediction.item()))
        limit = np.finfo(np.float64).max
        for number, (tree,) in enumerate(made._predictors):
            nodes, itself = tree.nodes, np.arange(len(tree.nodes))
            is_leaf = nodes["is_leaf"].astype(bool)
            for name, values in (
                ("column", np.where(is_leaf, 0, nodes["feature_idx"])),
                ("threshold", np.where(is_leaf, 0, np.clip(nodes["num_threshold"], -limit, limit))),
                ("missing_left", nodes["missing_go_to_left"].astype(bool)),
                ("left", np.where(is_leaf, itself, nodes["left"])),
                ("right", np.where(is_leaf, itself, nodes["right"])),
                ("value", np.where(is_leaf, nodes["value"], 0)),
            ):
                buffer = self.get_buffer(name)
                buffer[number, : len(nodes)] = torch.as_tensor(
                    values, dtype=buffer.dtype, device=buffer.device
                )

    def score(self, features: Tensor) -> Tensor:
        names = ("column", "missing_left", "left", "right")
        trees = [*zip(*(self.get_buffer(name).tolist() for name in names), strict=True)]
        limits, values = (
            [tree.unbind() for tree in table.unbind()] for table in (self.threshold, self.value)
        )
        found = [features.new_zeros(0, dtype=torch.float64)]
        for rows in torch.split(features, _ROWS):
            given = rows.double().T.contiguous()
            # a missing value is above every threshold, or where it goes to the left below
            below = (given, given.masked_fill(given.isnan(), -torch.inf))
            total = self.start.expand(len(rows)).clone()
            for (column, missing_left, left, right), limit, value in zip(
                trees, limits, values, strict=True
            ):
                made = [*value]
                # from the leaves up: a node comes before its children
                for node in range(len(made) - 1, -1, -1):
                    if left[node] != node:
                        goes_left = below[missing_left[node]][column[node]] <= limit[node]
                        made[node] = torch.where(goes_left, made[left[node]], made[right[node]])
                total += made[0]
            found.append(total)
        return torch.cat(found)


def _on_host(values: Tensor) -> npt.NDArray[Any]:
    # scikit-learn runs there
    return np.asarray(values.to("cpu"))


# --- the whole
# --------------------------------------------------------------------------------------


def _specified(models: Any) -> Any:
    """Models that are given as objects, by their specifications."""
    if not isinstance(models, list | tuple):
        raise ValueError("give a list of models, by name or as {name = ..., and settings}")
    return [
        {"name": each.key(), **each.config.model_dump(mode="json")}
        if isinstance(each, Model)
        else each
        for each in models
    ]


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
        int,
        Field(ge=1, description="items that each model gives for a user"),
        Search(20, 500, log=True),
    ] = 100
    ranker: Annotated[PartConfig, part("ranker"), Field(description="the second stage")] = (
        part_class("ranker", "boosted_trees")()
    )
    max_users: Annotated[
        int | None,
        Field(ge=1, description="users whose candidates teach, drawn by the seed; none: all"),
    ] = 10_000
    repeats: Annotated[
        bool,
        Field(
            description="whether items of the history are candidates, for users who come back to items"
        ),
    ] = False


class TwoStage(ClosedFormModel):
    """Candidates of several models, ranked by a second model of their scores, ranks and plain
    facts.

    The training part is split once more, as the data set is. Models that are fitted to what comes
    first give the candidates of a user, the ``candidates`` best of each; those that the user chose
    next are labelled 1, all others 0, and the second stage learns from them, of users with at least
    one 1. Then the models are fitted anew, to all of the training part, and rank. Valid and test
    are in neither.

    The second stage reads of a candidate the score and 1 / rank of each model (missing and 0 where
    it is no candidate of that one), the item's popularity, the length of the history, and ages
    where times are known. All candidates come before all other items, which the first model orders.

    Source: Covington, Adams and Sargin, Deep Neural Networks for YouTube Recommendations (RecSys
    2016), for the two stages; the second is gradient-boosted trees.

    Attributes:
        plan: how a run fits it; None: alone, to what comes before each user's last interaction.
        stages: the models, as they rank.
        features: what the second stage knows beside their scores.
        ranker: the second stage.
        is_taught: bool scalar; without a label the sum of the reciprocal ranks takes its place.
    """

    Config = TwoStageConfig
    reads_weights = True  # its models do, or are refused where they are fitted
    updated_by = None
    plan: Plan | None = None
    stages: nn.ModuleList
    features: Features
    ranker: Ranker
    is_taught: Tensor

    def __init__(self, config: ModelConfig | None = None, /, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.members = [Member.of(spec, self.config.candidates) for spec in self.config.models]
        made = [member.cls(**member.settings) for member in self.members]
        self.reads_graph = any(each.reads_graph for each in made)  # type: ignore[misc]
        self.ranks_in_threads = all(each.ranks_in_threads for each in made)  # type: ignore[misc]
        self.wanted_features = next(
            (each.wanted_features for each in made if each.wanted_features), ()
        )

    def _build(self, space: Space) -> None:
        self.stages = nn.ModuleList(self._fresh(member, space) for member in self.members)
        self.features = Features(space.n_items, self.config.repeats)
        self.ranker = self.config.ranker.build(seed=derive(self.seed, "ranker"))
        self.register_buffer("is_taught", torch.zeros((), dtype=torch.bool))

    def _fresh(self, member: Member, space: Space) -> Model:
        made = member.cls(**member.settings)
        if not (made.wanted_features or made.reads_graph):
            space = Space(n_users=space.n_users, n_items=space.n_items)
        return made.build(
            space, self.seed
        )  # with the seed of the whole: each is what it would be alone

    @property
    def reads_times(self) -> bool:  # type: ignore[override]
        return bool(self.features.knows_times) or any(model.reads_times for model in self._models)

    @property
    def _models(self) -> list[Any]:
        return list(self.stages)

    def can_rank(self, query: Query) -> Tensor:
        return torch.stack([model.can_rank(query) for model in self._models]).any(0)

    def fit(self, train: Part) -> Self:
        space = self.space
        plan = self.plan or Plan(*last_held_out(train), lambda part: space)
        self._teach(plan)
        for member, model in zip(self.members, self._models, strict=True):
            plan.fit(model, train, member)
        self.features.fit(train)
        self.plan = None  # its parts are of no use any more
        return self

    @torch.no_grad()
    def _teach(self, plan: Plan) -> None:
        """Fit the second stage: candidates of models of the inner part, labelled by what is asked
        for after it.
        """
        self.is_taught.fill_(False)
        device, cases = self.is_taught.device, self._some(plan.cases)
        query = Query(cases.users, cases.history, cases.times, cases.at).to(device)
        space, found = plan.space(plan.inner), []
        for member in self.members:  # one at a time is in memory
            model = self._fresh(member, space).to(device)
            with torch.enable_grad():
                plan.fit(model, plan.inner, member)
            found.append(self._found(model, member, query))
        every = union(found)
        truth = cases.truth.to(device)
        asked = truth.rows * cases.n_items + truth.values
        labels = torch.isin(every.keys, asked)
        found_of = int(labels.sum()), len(asked), len(cases)
        _log.info(
            "second stage: %d of %d targets of %d users are among their candidates", *found_of
        )
        rows = every.keys // cases.n_items
        keep_mask = (
            torch.bincount(rows[labels], minlength=len(cases))[rows] > 0
        )  # of users with a right candidate
        every, labels = Found(*(each[keep_mask] for each in every)), labels[keep_mask]
        if not bool(labels.any()) or bool(labels.all()):
            warnings.warn(
                f"{type(self).__name__}: no user of the inner split has a right and a wrong candidate, so that the "
                "second stage learns nothing; ranked by the sum of 1 / rank. Give more candidates, or more data",
                stacklevel=3,
            )
            return
        known = Features(cases.n_items, self.config.repeats).to(device)
        known.fit(plan.inner)
        groups = torch.bincount(every.keys // cases.n_items)
        with torch.enable_grad():
            columns = _columns(every, known, query)
            self.ranker.fit(columns, labels.float(), groups[groups > 0])
        self.is_taught.fill_(True)

    def _some(self, cases: Cases) -> Cases:
        """The cases that teach."""
        most = self.config.max_users
        if most is None or len(cases) <= most:
            return cases
        draw = torch.Generator().manual_seed(derive(self.seed, "two-stage", "users"))
        return cases.take(torch.randperm(len(cases), generator=draw)[:most].sort().values)

    def _found(self, model: Model, member: Member, query: Query) -> Found:
        """The candidates of one model for all rows of a query, by blocks of them."""
        n_items, like, parts = self.space.n_items, torch.empty(0, device=query.users.device), []
        with evaluating(model):
            for rows in row_blocks(len(query), n_items, like):
                part = query.rows(rows.start, rows.stop)
                best = self._best(model, member, part, model.score(part))
                parts.append(Found(best.keys + rows.start * n_items, best.scores, best.ranks))
        empty = Found(torch.zeros(0, dtype=torch.int64, device=like.device), like, like)
        return Found(*map(torch.cat, zip(*parts, empty, strict=True)))

    def _best(self, model: Model, member: Member, query: Query, scores: Tensor) -> Found:
        return best_of(
            scores, query, member.n_candidates, model.can_rank(query), self.config.repeats
        )

    def score(self, query: Query) -> Tensor:
        found, first = [], None
        for member, model in zip(self.members, self._models, strict=True):
            scores = model.score(query)
            first = scores if first is None else first
            found.append(self._best(model, member, query, scores))
        assert first is not None
        every = union(found)
        taught = bool(self.is_taught)
        second = (
            self.ranker.score(_columns(every, self.features, query))
            if taught
            else every.ranks.sum(1)
        )
        return above_the_rest(first, every.keys, second)


def _columns(every: Found, known: Features, query: Query) -> Tensor:
    """[U, F] float32: what a second stage reads."""
    return torch.cat([every.scores.float(), every.ranks.float(), known(every.keys, query)], 1)
