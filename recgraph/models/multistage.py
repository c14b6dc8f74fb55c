"""Multistage contrast: a model trained again and again, each time on what it could not tell apart before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from recgraph import registry
from recgraph.config import ConfigError, Search
from recgraph.contrast.clustering import kmeans
from recgraph.contrast.same_cluster import SameCluster
from recgraph.contrast.term import ContrastiveTerm
from recgraph.data.batches import Batches, Query
from recgraph.data.item_features import FeatureWish
from recgraph.data.part import Part
from recgraph.models.base import Model, ModelConfig, PathKey, Phase, Space, Terms, TrainableModel
from recgraph.models.collaborative.base import CollaborativeModel
from recgraph.models.contrast import ContrastConfig
from recgraph.models.heterogeneous.base import GraphConfig, GraphModel, evaluating
from recgraph.models.heterogeneous.recommender import MetaPathRecommender
from recgraph.models.members import models_in
from recgraph.models.reading import Reading, StagesReading
from recgraph.models.sequence.base import SequenceModel
from recgraph.models.sequence.contrastive import token_terms
from recgraph.ranks import stacked
from recgraph.rng import Generators, derive
from recgraph.unit_length import unit_length

__all__ = ["Multistage", "MultistageNodes"]

_Stages = Annotated[
    int, Field(ge=2, le=10, description="how many models are trained, one after the other"), Search(2, 4)
]
_Epochs = Annotated[
    int, Field(ge=1, description="epochs of each stage but the last, which has those that are left of max_epochs")
]
_Clusters = Annotated[
    int,
    Field(ge=2, description="clusters of a stage's embeddings, in which the later ones contrast"),
    Search(2, 50, log=True),
]
_Options = Annotated[dict[str, Any], Field(default_factory=dict, description="settings of the base model")]


class MultistageConfig(ModelConfig):
    base: Annotated[str, Field(description="the model of each stage, a contrastive one of the registry")] = "SimGCL"
    base_options: _Options
    stages: _Stages = 3
    stage_epochs: _Epochs = 20
    stage_clusters: _Clusters = 5


class _Staged(TrainableModel):
    """What multistage models share: the stages, their clusters, and which of them trains.

    Attributes:
        stage: int64 scalar, the stage that trains, from 0; part of the state, with the clusters of those before.
    """

    stage: Tensor
    stages: nn.ModuleList

    def __init__(self, config: ModelConfig | None = None, /, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.template = self._stage(first=True)
        # what the base is built with and asked for
        self.reads_graph = self.template.reads_graph  # type: ignore[misc]
        self.ranks_in_threads = self.template.ranks_in_threads  # type: ignore[misc]
        self.diagnostics = self.template.diagnostics  # type: ignore[misc]
        self.revision = self.revision_of({"base": self.config.base})  # type: ignore[misc]
        self._kept: int | None = None

    @property
    def changing_epochs(self) -> int:
        """Epochs of all stages but the last, and those of the last in which its loss changes."""
        last = self.template if self.space is None else self.of_stage(self.config.stages - 1)
        epochs: int = self.config.stage_epochs * (self.config.stages - 1) + last.changing_epochs
        return epochs

    @classmethod
    def revision_of(cls, settings: Mapping[str, Any]) -> int:
        base: type[Model] = registry.load("model", settings.get("base", cls.Config.model_fields["base"].default))
        return cls.revision + base.revision - 1

    @classmethod
    def models_of(cls, settings: Mapping[str, Any]) -> tuple[str, ...]:
        base = settings.get("base", cls.Config.model_fields["base"].default)
        return models_in([{**settings.get("base_options", {}), "name": base}])

    def _base_settings(self) -> dict[str, Any]:
        return dict(self.config.base_options)

    def _base(self) -> type[TrainableModel]:
        cls = registry.load("model", self.config.base)
        if not issubclass(cls.Config, ContrastConfig) or not issubclass(cls, self._bases()):
            raise ValueError(
                f"base = {self.config.base!r} is no model that {type(self).__name__} trains in stages; use "
                f"{self._examples()}"
            )
        found: type[TrainableModel] = cls
        return found

    @staticmethod
    def _bases() -> tuple[type[TrainableModel], ...]:
        return CollaborativeModel, SequenceModel

    @staticmethod
    def _examples() -> str:
        return "a contrastive one, such as 'SimGCL', 'CL4SRec' or 'MEOWRec'"

    def _stage(self, first: bool) -> TrainableModel:
        """A model of a stage, not built: the first has the weight of its settings, the others that of the stages."""
        settings = self._base_settings()
        if settings.get("teacher") is not None:
            raise ConfigError(
                f"base_options: teacher = {settings['teacher']!r}: stages learn from no teacher; leave it out"
            )
        if not first:
            settings |= {"weight": "same_cluster", "weight_options": {}}
        return self._base()(**settings)

    def _build(self, space: Space) -> None:
        assert self.seed is not None
        # the weights of each stage are drawn with a seed of its own
        self.stages = nn.ModuleList(
            self._stage(first=number == 0).build(space, derive(self.seed, "stage", number))
            for number in range(self.config.stages)
        )
        del self.template
        self.register_buffer("stage", torch.zeros((), dtype=torch.int64))
        for name, n_rows in self._sizes(space).items():
            shape = self.config.stages - 1, n_rows
            self.register_buffer(f"clusters_{name}", torch.zeros(shape, dtype=torch.int64))

    def _sizes(self, space: Space) -> dict[str, int]:
        """Kind of ids -> how many there are, of all that the base contrasts."""
        return {name: _n_ids(name, space) for name in _terms_of(self.of_stage(0))}

    def of_stage(self, number: int) -> TrainableModel:
        """The model of a stage, from 0."""
        model = self.stages[number]
        assert isinstance(model, TrainableModel)
        return model

    def trained(self) -> list[Any]:
        """The models of the stages up to the one that trains."""
        return list(self.stages[: int(self.stage) + 1])

    def stage_of(self, epoch: int) -> int:
        """The stage that trains in an epoch, both from 0."""
        return int(min(epoch // self.config.stage_epochs, self.config.stages - 1))

    @property
    def phases(self) -> tuple[Phase, ...]:
        return self.of_stage(0).phases

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        groups: dict[str, list[nn.Parameter]] = {}
        for model in self.stages:
            assert isinstance(model, TrainableModel)
            for name, parameters in model.parameter_groups().items():
                groups.setdefault(name, []).extend(parameters)
        return groups

    def batches(self, train: Part, batch_size: int, generators: Generators) -> Batches:
        for model in self.stages[1:]:
            if not isinstance(model, GraphModel):
                model.setup(train)  # type: ignore[operator]
        return self.of_stage(0).batches(train, batch_size, generators)

    def _in_stage(self, batch: Any) -> Any:
        """A batch as its stage counts epochs, from 0: a stage warms up and schedules its temperature anew."""
        return replace(batch, epoch=batch.epoch - self.stage_of(batch.epoch) * self.config.stage_epochs)

    def prepare(self, batch: Any) -> None:
        self.of_stage(self.stage_of(batch.epoch)).prepare(self._in_stage(batch))

    def compile_parts(self, backend: str = "inductor") -> None:
        for number in range(self.config.stages):
            self.of_stage(number).compile_parts(backend)

    def end_step(self) -> None:
        if self._kept is not None:
            self.of_stage(self._kept).end_step()

    def forward(self, batch: Any, terms: Iterable[str]) -> dict[str, Tensor]:
        number = self.stage_of(batch.epoch)
        self._begin(number)
        found: dict[str, Tensor] = self.of_stage(number)(self._in_stage(batch), terms)
        return found

    def terms(self, batch: Any, asked: frozenset[str]) -> Terms:
        return self.of_stage(self.stage_of(batch.epoch)).terms(self._in_stage(batch), asked)

    def _begin(self, number: int) -> None:
        """Have a stage contrast within the clusters of those before; the first call of a stage makes the last ones."""
        if self._kept == number:
            return
        for before in range(int(self.stage), number):
            for name, rows in _rows_of(self.of_stage(before)).items():
                self.get_buffer(f"clusters_{name}")[before] = self._cluster(rows, before)
            self.stage.fill_(before + 1)
        for name, terms in _terms_of(self.of_stage(number)).items():
            for term in terms:
                if number and isinstance(term.weight, SameCluster):
                    term.weight.keep(self.get_buffer(f"clusters_{name}")[:number])
        self._kept = number

    def _cluster(self, rows: Tensor, stage: int) -> Tensor:
        units = unit_length(rows)
        found = kmeans(
            units, min(self.config.stage_clusters, len(units)), seed=derive(self.seed or 0, "clusters", stage)
        )
        # equal on all ranks, also where sums on a device are not the same each time
        return stacked(found.assignments)[0]


class Multistage(_Staged):
    """Stages of one recommender: each contrasts within the clusters of those before, and all rank together.

    Stage t is a new ``base`` model whose negatives are those of :class:`SameCluster`: candidates in the anchor's
    cluster in every stage before, by k-means of the directions of users and of items (of the items that sequences are
    told apart by). Vectors are concatenated, ``score_ui = sum_t u_t . v_t``, of the stages that have begun to train.
    One run trains all: stage t has the epochs ``[t stage_epochs, (t + 1) stage_epochs)``, the last one those that are
    left. A stopped run goes on within its stage. The metric may fall where a stage begins: let ``patience`` be longer
    than a stage. Where the best epoch lies before the last stage, the run keeps the stages until then.

    Source: Zhang et al., "Learning the Unlearned: Mitigating Feature Suppression in Contrastive Learning" (ECCV 2024).
    Departures: each stage trains the recommendation loss besides, and vectors are not normalised before they are
    concatenated.
    """

    Config: ClassVar[type[ModelConfig]] = MultistageConfig

    @property
    def wanted_features(self) -> FeatureWish:
        return (self.template if self.space is None else self.of_stage(0)).wanted_features

    @property
    def reads_times(self) -> bool:
        return self.of_stage(0).reads_times

    def can_rank(self, query: Query) -> Tensor:
        return self.of_stage(0).can_rank(query)

    def encode_users(self, query: Query) -> Tensor:
        return torch.cat([model.encode_users(query) for model in self.trained()], 1)

    def path_weights(self) -> dict[PathKey, float]:
        """Those of the stage that was trained last."""
        return self.of_stage(int(self.stage)).path_weights()

    def score_parts(self, query: Query, items: Tensor) -> dict[PathKey, Tensor]:
        # the score is the sum of those of the stages, which have the same paths
        first, *others = (model.score_parts(query, items) for model in self.trained())
        return {key: sum((parts[key] for parts in others), part) for key, part in first.items()}

    def reading(self, query: Query) -> Reading:
        return StagesReading(self, [model.reading(query) for model in self.trained()])

    def encode_items(self) -> Tensor:
        rows = [model.encode_items() for model in self.trained()]
        return torch.cat(rows, 1)


class MultistageNodesConfig(GraphConfig):
    base: Annotated[str, Field(description="the model of each stage, one of the registry that embeds nodes")] = "MEOW"
    base_options: _Options
    stages: _Stages = 3
    stage_epochs: _Epochs = 100
    stage_clusters: _Clusters = 5


class MultistageNodes(_Staged, GraphModel):  # type: ignore[misc]  # batches need no training part
    """Stages of one model of nodes, as :class:`Multistage` has them of a recommender; embeddings are concatenated.

    Each stage's embeddings have unit length in the concatenation, as published, so that none outweighs another in a
    probe. Of the last stage the epoch of the lowest loss is kept, or with ``metric="last"`` the last one, and
    ``patience`` counts from where that stage begins: stages have other candidates, and losses that do not compare.

    Source: Zhang et al., "Learning the Unlearned: Mitigating Feature Suppression in Contrastive Learning" (ECCV 2024).
    """

    Config: ClassVar[type[ModelConfig]] = MultistageNodesConfig

    @property
    def labels_config(self) -> ModelConfig:
        config: ModelConfig = (self.template if self.space is None else self.of_stage(0)).config
        return config

    def _build(self, space: Space) -> None:
        super()._build(space)
        for number in range(self.config.stages):
            self.of_stage(number).known_labels = self.known_labels  # type: ignore[assignment]

    def _base_settings(self) -> dict[str, Any]:
        own = {name: getattr(self.config, name) for name in GraphConfig.model_fields}
        for name, value in self.config.base_options.items():
            if name in own and _as_tuples(value) != _as_tuples(own[name]):
                raise ConfigError(
                    f"base_options: {name} = {value!r} is a setting of {type(self).__name__} itself, which has "
                    f"{own[name]!r}; give it there"
                )
        return {**own, **self.config.base_options}

    @staticmethod
    def _bases() -> tuple[type[TrainableModel], ...]:
        return (GraphModel,)

    @staticmethod
    def _examples() -> str:
        return "'MEOW', 'AdaMEOW' or 'HeCo'"

    @property
    def embedding_dim(self) -> int:
        """D, the width of the embeddings, once all stages have begun."""
        width: int = self.config.embedding_dim or self.config.hidden_dim
        return width * int(self.config.stages)

    def embed(self) -> Tensor:
        return torch.cat([unit_length(model.embed()) for model in self.trained()], 1)

    def path_weights(self) -> dict[PathKey, float]:
        """Those of the stage that was trained last."""
        return self.of_stage(int(self.stage)).path_weights()


def _terms_of(model: nn.Module) -> dict[str, list[ContrastiveTerm]]:
    """Kind of ids -> the terms that tell their rows apart by them."""
    if isinstance(model, SequenceModel):
        return {"tokens": token_terms(model)}
    if isinstance(model, GraphModel):
        named = {"nodes": model.contrast}
    elif isinstance(model, MetaPathRecommender):
        named = dict(zip(("users", "items"), model.contrasts, strict=True))
    else:
        named = {"users": model.contrast_users, "items": model.contrast_items}
    return {name: [term] for name, term in named.items() if isinstance(term, ContrastiveTerm)}


def _n_ids(name: str, space: Space) -> int:
    return {"users": space.n_users, "tokens": space.n_items + 1}.get(name, space.n_items)


@torch.no_grad()
def _rows_of(model: TrainableModel) -> dict[str, Tensor]:
    """Kind of ids -> [n, D], the embeddings of all of them, in evaluation mode."""
    with evaluating(model):
        if isinstance(model, GraphModel):
            return {"nodes": model.embed()}
        if isinstance(model, SequenceModel):
            return {"tokens": F.pad(model.encode_items(), (0, 0, 1, 0))}
        assert isinstance(model, CollaborativeModel)
        assert model.space is not None
        users, items = torch.split(model.nodes(), [model.space.n_users, model.space.n_items])
        return {"users": users, "items": items}


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value
