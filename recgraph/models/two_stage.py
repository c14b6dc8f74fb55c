"""Two stages: the candidates of several models, ranked by a second model that learns from which of
them were right.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
        table: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
        name = table.pop("name", None)
        n_candidates = table.pop("candidates", n_candidates)
        if name is None or not isinstance(n_candidates, int) or n_candidates < 1:
            raise ConfigError(
                f"models: {spec!r}: give a name, and as candidates a number of at least 1"
            )
        model: type[Model] = registry.load("model", name)
        fields = model.Config.model_fields.keys()
        settings = {key: table[key] for key in sorted(table.keys() & fields)}
        training = {key: table[key] for key in sorted(table.keys() - fields)}
        if training and not issubclass(model, TrainableModel):
            raise ConfigError(f"models: {name}: {unknown_key(min(training), model.Config)}")
        try:
            model.Config.of(settings)
        except ConfigError as error:
            raise ConfigError(f"models: {name}: {error}") from None
        return cls(model, settings, training, n_candidates)


def last_held_out(train: Part) -> tuple[Part, Cases]:
    """The part without the last interaction of each user who has another one before it, and these
    as cases.
    """
    items = train.items
    has_others = items.lengths >= 2
    is_last = (items.positions == items.lengths[items.rows] - 1) & has_others[items.rows]
    inner = train.filter(~is_last)
    users = torch.nonzero(has_others).flatten()
    truth = Ragged.from_lengths(items.values[is_last], torch.ones_like(users))
    cases = Cases(users, inner.items.take(users), truth, train.n_items)
    if inner.times is not None:
        assert train.times is not None
        times = inner.items.with_values(inner.times).take(users)
        cases = replace(cases, times=times, at=train.times[is_last])
    return inner, cases


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

    def select(self, keep_mask: Tensor) -> Found:
        """The candidates where ``keep_mask`` [C] is True."""
        return Found(self.keys[keep_mask], self.scores[keep_mask], self.ranks[keep_mask])


def best_of(scores: Tensor, query: Query, k: int, able: Tensor, repeats: bool) -> Found:
    """The ``k`` best items of each row.

    Args:
        scores: [B, n_items].
        able: [B] bool, the rows that the model can rank for; the others get no candidate.
        repeats: whether items of the history may be candidates.
    """
    n_rows, n_items = scores.shape
    allowed = scores.clone()
    if not repeats:
        allowed[query.history.rows, query.history.values] = -torch.inf
    allowed[~able] = -torch.inf
    values, items = allowed.topk(min(k, n_items), dim=1)
    keys = n_items * torch.arange(n_rows, device=scores.device)[:, None] + items
    ranks = 1 / torch.arange(1, values.shape[1] + 1, device=scores.device, dtype=scores.dtype)
    return Found(keys, values, ranks.expand_as(values)).select(values > -torch.inf)


def union(parts: Sequence[Found]) -> Found:
    """The candidates of M models."""
    keys = torch.unique(torch.cat([candidates.keys for candidates in parts]))
    scores = parts[0].scores.new_full((len(keys), len(parts)), torch.nan)
    ranks = torch.zeros_like(scores)
    for column, candidates in enumerate(parts):
        rows = torch.searchsorted(keys, candidates.keys)
        scores[rows, column] = candidates.scores.to(scores.dtype)
        ranks[rows, column] = candidates.ranks.to(scores.dtype)
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
        self.knows_times.fill_(False)
        if train.times is not None and len(items):
            self.knows_times.fill_(True)
            latest = torch.full((train.n_items,), torch.iinfo(torch.int64).min, device=items.device)
            self.latest.copy_(latest.scatter_reduce(0, items, train.times, "amax"))
            self.newest.copy_(train.times.max())
        return self

    def forward(self, keys: Tensor, query: Query) -> Tensor:
        """[U, F] float32 for keys ``row * n_items + item`` [U] of the rows of a query."""
        rows, items = keys // self.n_items, keys % self.n_items
        history = query.history
        columns = [self.counts[items].float(), history.lengths[rows].float()]
        if self.repeats:
            history_keys = (self.n_items * history.rows + history.values).sort().values
            end = torch.searchsorted(history_keys, keys, right=True)
            columns.append((end - torch.searchsorted(history_keys, keys)).float())
        if self.knows_times:
            ages = torch.where(self.counts > 0, (self.newest - self.latest).float(), torch.nan)
            columns += [ages[items], self._ages_of_users(query)[rows]]
        return torch.stack(columns, 1).log1p()

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

        config = self.config
        # scikit-learn refuses a column without a number, which no tree can ask for anyway
        x = _on_host(features.masked_fill(features.isnan().all(0), 0.0))
        classifier = HistGradientBoostingClassifier(
            learning_rate=config.learning_rate,
            max_iter=config.max_iter,
            max_leaf_nodes=config.max_leaf_nodes,
            min_samples_leaf=config.min_samples_leaf,
            l2_regularization=config.l2,
            early_stopping=False,
            random_state=config.seed % 2**32,
        ).fit(x, _on_host(labels) > 0)
        self._copy_trees(classifier)
        return self

    def _copy_trees(self, classifier: Any) -> None:
        """Copy the trees of a fitted classifier."""
        self.start.fill_(float(classifier._baseline_prediction.item()))
        limit = np.finfo(np.float64).max
        for number, (tree,) in enumerate(classifier._predictors):
            nodes = tree.nodes
            is_leaf = nodes["is_leaf"].astype(bool)
            itself = np.arange(len(nodes))
            columns = {
                "column": np.where(is_leaf, 0, nodes["feature_idx"]),
                "threshold": np.where(is_leaf, 0, np.clip(nodes["num_threshold"], -limit, limit)),
                "missing_left": nodes["missing_go_to_left"].astype(bool),
                "left": np.where(is_leaf, itself, nodes["left"]),
                "right": np.where(is_leaf, itself, nodes["right"]),
                "value": np.where(is_leaf, nodes["value"], 0),
            }
            for name, values in columns.items():
                self.get_buffer(name)[number, : len(nodes)] = torch.as_tensor(values)

    def score(self, features: Tensor) -> Tensor:
        # numbers that are read for each node are lists: reading a tensor costs more
        columns = self.column.tolist()
        missing_left = self.missing_left.tolist()
        left = self.left.tolist()
        right = self.right.tolist()
        thresholds = self.threshold.tolist()
        scores = []
        for rows in torch.split(features, _ROWS):
            x = rows.double().T.contiguous()
            # a missing value is above every threshold, or where it goes to the left below
            x_of = {False: x, True: x.masked_fill(x.isnan(), -torch.inf)}
            total = self.start.expand(len(rows)).clone()
            for tree, values in enumerate(self.value):
                outputs = list(values)
                # from the leaves up: a node comes before its children
                for node in range(len(outputs) - 1, -1, -1):
                    if left[tree][node] != node:
                        column = x_of[missing_left[tree][node]][columns[tree][node]]
                        outputs[node] = torch.where(
                            column <= thresholds[tree][node],
                            outputs[left[tree][node]],
                            outputs[right[tree][node]],
                        )
                total += outputs[0]
            scores.append(total)
        return torch.cat(scores)


def _on_host(values: Tensor) -> npt.NDArray[Any]:
    # scikit-learn runs there
    return np.asarray(values.to("cpu"))


# --- the whole


def _specified(models: Any) -> Any:
    """Models that are given as objects, by their specifications."""
    if not isinstance(models, list | tuple):
        return models
    specs = list(models)
    for place, model in enumerate(specs):
        if isinstance(model, Model):
            specs[place] = {"name": model.key(), **model.config.model_dump(mode="json")}
    return specs


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
        for member in self.members:
            model = member.cls(**member.settings)
            self.reads_graph |= model.reads_graph  # type: ignore[misc]
            self.ranks_in_threads &= model.ranks_in_threads  # type: ignore[misc]
            self.wanted_features = self.wanted_features or model.wanted_features

    def _build(self, space: Space) -> None:
        self.stages = nn.ModuleList(self._fresh(member, space) for member in self.members)
        self.features = Features(space.n_items, self.config.repeats)
        self.ranker = self.config.ranker.build(seed=derive(self.seed, "ranker"))
        self.register_buffer("is_taught", torch.zeros((), dtype=torch.bool))

    def _fresh(self, member: Member, space: Space) -> Model:
        # with the seed of the two stages: each is what it would be alone
        return member.cls(**member.settings).build(space, self.seed)

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
        device = self.is_taught.device
        cases = self._teaching_cases(plan.cases)
        query = Query(cases.users, cases.history, cases.times, cases.at).to(device)
        candidates = self._inner_candidates(plan, query)
        truth = cases.truth.to(device)
        targets = truth.rows * cases.n_items + truth.values
        labels = torch.isin(candidates.keys, targets)
        _log.info(
            "second stage: %d of %d targets of %d users are among their candidates",
            int(labels.sum()),
            len(targets),
            len(cases),
        )
        rows = candidates.keys // cases.n_items
        has_target = torch.bincount(rows[labels], minlength=len(cases)) > 0
        keep_mask = has_target[rows]
        candidates = candidates.select(keep_mask)
        labels = labels[keep_mask]
        if len(torch.unique(labels)) < 2:
            warnings.warn(
                f"{type(self).__name__}: no user of the inner split has a right and a wrong candidate, so that the "
                "second stage learns nothing; ranked by the sum of 1 / rank. Give more candidates, or more data",
                stacklevel=3,
            )
            return
        features = Features(cases.n_items, self.config.repeats).to(device).fit(plan.inner)
        groups = torch.bincount(candidates.keys // cases.n_items)
        with torch.enable_grad():
            columns = _columns(candidates, features, query)
            self.ranker.fit(columns, labels.float(), groups[groups > 0])
        self.is_taught.fill_(True)

    def _teaching_cases(self, cases: Cases) -> Cases:
        """At most ``max_users`` of the cases, drawn by the seed."""
        most = self.config.max_users
        if most is None or len(cases) <= most:
            return cases
        draw = torch.Generator().manual_seed(derive(self.seed, "two-stage", "users"))
        return cases.take(torch.randperm(len(cases), generator=draw)[:most].sort().values)

    def _inner_candidates(self, plan: Plan, query: Query) -> Found:
        """The candidates of models that are fitted to the inner part; one at a time is in
        memory.
        """
        space = plan.space(plan.inner)
        parts = []
        for member in self.members:
            model = self._fresh(member, space).to(query.users.device)
            with torch.enable_grad():
                plan.fit(model, plan.inner, member)
            parts.append(self._candidates(model, member, query))
        return union(parts)

    def _candidates(self, model: Model, member: Member, query: Query) -> Found:
        """The candidates of one model for all rows of a query, by blocks of them."""
        n_items = self.space.n_items
        like = torch.empty(0, device=query.users.device)
        blocks = [Found(like.long(), like, like)]
        with evaluating(model):
            for rows in row_blocks(len(query), n_items, like):
                part = query.rows(rows.start, rows.stop)
                best = self._best(model, member, part, model.score(part))
                blocks.append(best._replace(keys=best.keys + rows.start * n_items))
        return Found(*map(torch.cat, zip(*blocks, strict=True)))

    def _best(self, model: Model, member: Member, query: Query, scores: Tensor) -> Found:
        return best_of(
            scores, query, member.n_candidates, model.can_rank(query), self.config.repeats
        )

    def score(self, query: Query) -> Tensor:
        parts: list[Found] = []
        for member, model in zip(self.members, self._models, strict=True):
            scores = model.score(query)
            if not parts:
                first = scores
            parts.append(self._best(model, member, query, scores))
        candidates = union(parts)
        if self.is_taught:
            second = self.ranker.score(_columns(candidates, self.features, query))
        else:
            second = candidates.ranks.sum(1)
        return above_the_rest(first, candidates.keys, second)


def _columns(candidates: Found, features: Features, query: Query) -> Tensor:
    """[U, F] float32: what a second stage reads."""
    return torch.cat(
        [
            candidates.scores.float(),
            candidates.ranks.float(),
            features(candidates.keys, query),
        ],
        1,
    )
