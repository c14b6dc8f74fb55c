"""What a model is: a frozen configuration, parameters built for a data set, scores for queries, and
training terms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from recgraph import registry
from recgraph.config import Config, Search, configure
from recgraph.data.batches import Batches, Query
from recgraph.data.item_features import FeatureWish, ItemFeatures
from recgraph.data.part import Part
from recgraph.models.reading import HistoryReading, Reading
from recgraph.rng import Generators, seeded_init

UpdatedBy = Literal["training", "fitting"]


class NonFinite(ValueError):
    """Numbers, or weights, became NaN or infinite."""


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors that hold NaN or infinite values; the least or the greatest value
    shows both.
    """
    names = []
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel():
            bounds = torch.stack(tensor.detach().aminmax())
            if not bool(bounds.isfinite().all()):
                names.append(name)
    return names


def check_weights(state: Mapping[str, Tensor], what: str) -> None:
    """Refuse weights that are not all finite; ``what`` they are of, for the message."""
    if names := not_finite(state):
        raise NonFinite(f"{what} holds NaN or infinite values in {names[0]}")


class PathKey(NamedTuple):
    """What a path weight or a part of a score belongs to: a meta-path, or the nodes' own vectors.

    Attributes:
        node_type: the type; empty for the nodes' own vectors.
        path: the meta-path; empty likewise.
    """

    node_type: str = ""
    path: str = ""


@dataclass(frozen=True)
class PaddedForm:
    """How a model ranks padded histories: what can be exported.

    Attributes:
        module: takes [B, L] int64 tokens ``item_idx + 1``, oldest first, right-padded with 0 (a row
            of zeros: nothing known). All shapes in it follow from that of its input.
        gives: ``"vectors"``, [B, D] as of :meth:`Model.encode_users`, or ``"scores"``, [B,
            n_items].
        longest: the greatest L, None: any. Of a longer history the last items count.
        shortest: the least L; ``longest`` where it is fixed.
        reads_gaps: whether it takes a second input of the same shape, the bucket of the time gap
            before each token (:func:`recgraph.data.batches.gap_buckets`), 0 at the padding.
    """

    module: nn.Module
    gives: Literal["vectors", "scores"]
    longest: int | None = None
    shortest: int = 1
    reads_gaps: bool = False


class ModelConfig(Config):
    """Settings of a model. Fields that models share have the same name everywhere."""


class Space(Config):
    """The sizes that a model is built for."""

    n_users: Annotated[int, Field(ge=0)]
    n_items: Annotated[int, Field(ge=1)]


class FeatureSpace(Space):
    """The sizes, and the encoded features of the items."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    features: Annotated[ItemFeatures, Field(exclude=True)]


@dataclass(frozen=True)
class Phase:
    """One optimisation step that is made on each batch.

    Attributes:
        name: shown in logs.
        groups: the parameter groups that are trainable and step; all others are frozen and get no
            gradient.
        terms: term name -> its coefficient in the loss. Only these terms are computed, and none of
            coefficient 0.
    """

    name: str
    groups: tuple[str, ...]
    terms: Mapping[str, float]

    def __post_init__(self) -> None:
        terms = {name: weight for name, weight in self.terms.items() if weight}
        object.__setattr__(self, "terms", terms)


class Model(nn.Module):
    """Base of all models. Models know indices only; ids live in
    :class:`recgraph.serve.Recommender`.

    ``MCLRec(hidden_dim=64)`` checks the settings and holds no parameters yet; :meth:`build` creates
    them for a data set. A subclass sets ``Config`` and fills ``_build`` and either ``score`` or
    ``encode_users`` and ``encode_items``.
    """

    Config: ClassVar[type[ModelConfig]] = ModelConfig
    #: whether it is built with a typed graph of the training part, a
    #: :class:`recgraph.models.heterogeneous.base.GraphSpace`
    reads_graph: ClassVar[bool] = False
    #: how a fitted model takes in a new log (:mod:`recgraph.train.update`): ``"training"`` goes on
    #: from its weights, ``"fitting"`` fits it again, exactly; None: it cannot
    updated_by: ClassVar[UpdatedBy | None] = None
    #: whether several threads may ask for scores at a time; a model that keeps notes of a call in
    #: itself says False
    ranks_in_threads: ClassVar[bool] = True
    #: whether an item that stands twice in a history counts twice; a model that reads a set says
    #: False
    reads_repeats: ClassVar[bool] = True
    #: whether the weights of interactions act in it; where not, a log with weights is refused
    reads_weights: ClassVar[bool] = False
    #: parameter or buffer with a row for each user or item -> what its rows stand for, in their
    #: order: ``"users"``, ``"items"``, ``"padding"`` (one row)
    tables: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    #: the columns of the item features that it is built with, as part of a :class:`FeatureSpace`
    wanted_features: FeatureWish = ()
    #: whether a query should say when its histories happened
    #: (:attr:`recgraph.data.batches.Query.times`)
    reads_times: bool = False

    def __init__(self, config: ModelConfig | None = None, /, **settings: Any) -> None:
        super().__init__()
        self.config: Any = configure(self, self.Config, config, settings)
        # None until the model is built; what reads them runs later
        self.space: Space = None  # type: ignore[assignment]
        self.seed: int = None  # type: ignore[assignment]
        #: settings that the data decided when the model was built, with what they became
        self.resolved: dict[str, Any] = {}

    @classmethod
    def key(cls) -> str:
        """The name under which the registry finds the model."""
        return registry.key(registry.name_of("model", cls))

    @property
    def is_built(self) -> bool:
        return self.__dict__.get("space") is not None

    def build(self, space: Space, seed: int = 0) -> Self:
        """Create the parameters.

        Args:
            space: the sizes of the data set.
            seed: of the initial weights.

        Raises:
            ValueError: the model is built already.
        """
        if self.is_built:
            raise ValueError(
                f"{type(self).__name__} is built already; make a new one for another data set"
            )
        self.space, self.seed = space, seed
        with seeded_init(seed):
            self._build(space)
        return self

    def _build(self, space: Space) -> None:
        raise TypeError(f"{type(self).__name__} must define _build(space)")

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError as error:
            if not self.is_built:
                error.add_note(
                    "The model is not built: rg.fit builds it, or call build(Space(...))."
                )
            raise

    def encode_users(self, query: Query) -> Tensor:
        """[B, D]: a vector for each query."""
        raise TypeError(f"{type(self).__name__} ranks by score() alone and has no user vectors")

    def encode_items(self) -> Tensor:
        """[n_items, D]: a vector for each item, such that scores are inner products with user
        vectors.
        """
        raise TypeError(f"{type(self).__name__} ranks by score() alone and has no item vectors")

    @property
    def has_vectors(self) -> bool:
        """Whether scores are inner products of :meth:`encode_users` and :meth:`encode_items`."""
        return type(self).encode_users is not Model.encode_users

    def can_rank(self, query: Query) -> Tensor:
        """[B] bool: of which users enough is known to rank for them; by default of those with a
        history.
        """
        return query.history.lengths > 0

    def score(self, query: Query) -> Tensor:
        """[B, n_items]: the scores of all items, higher is better."""
        return self.encode_users(query) @ self.encode_items().T

    def padded_form(self) -> PaddedForm | None:
        """How it ranks histories, in a form that can be exported, sharing the parameters; None: it
        has no such form.
        """
        return None

    def reading(self, query: Query) -> Reading:
        """What it reads of one user's history, open to changes; call it in evaluation mode, without
        gradients.

        A model whose scores do not follow from ``query.history`` alone says here what they follow
        from; one whose scores do not depend on it refuses. The query holds one user.
        """
        return HistoryReading(self, query)


class ClosedFormModel(Model):
    """A model that is fitted in one call; what it learns is buffers, so that it is saved like any
    other.
    """

    updated_by: ClassVar[UpdatedBy | None] = "fitting"

    def fit(self, train: Part) -> Self:
        """Fit a built model to the training part."""
        raise TypeError(f"{type(self).__name__} must define fit(train)")


class TrainableModel(Model):
    """A model trained by gradients: it names its terms, its phases and its batches."""

    #: terms that are in no loss but logged once an epoch
    diagnostics: ClassVar[tuple[str, ...]] = ()
    #: where the defaults of training do not suit these models, setting -> their own default and
    #: search range
    training_defaults: ClassVar[Mapping[str, tuple[Any, Search]]] = {}
    #: the parameters of which a step touches the rows of its batch and of what it draws alone, by
    #: name: they are read by :mod:`recgraph.sparse.rows`, and with ``sparse_tables`` an optimiser
    #: steps these rows alone
    row_sparse_tables: tuple[str, ...] = ()

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The steps made on each batch, in order."""
        raise TypeError(f"{type(self).__name__} must define phases")

    @property
    def trained_users(self) -> Tensor | None:
        """[n_users] bool, a buffer: which users have a trained vector of their own; None: users
        have none.
        """
        return None

    @property
    def changing_epochs(self) -> int:
        """Epochs at the start whose loss is another function than that of later ones: in a warm-up
        a lower loss does not mean better weights."""
        return 0

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Group name -> parameters; each has an optimiser of its own. By default one group,
        ``model``.
        """
        return {"model": list(self.parameters())}

    def batches(self, train: Part, batch_size: int, generators: Generators) -> Batches:
        """The training batches for a training part."""
        raise TypeError(f"{type(self).__name__} must define batches(train, batch_size, generators)")

    def prepare(self, batch: Any) -> None:
        """Draw what is drawn on the host for a batch, before it goes to a device; an accelerator
        has it done ahead.

        It may draw from :meth:`recgraph.rng.Generators.on_host` alone and read no parameter. Most
        models draw nothing.
        """

    def forward(self, batch: Any, wanted: Iterable[str]) -> dict[str, Tensor]:
        """:meth:`losses` of these terms."""
        return self.losses(batch, frozenset(wanted))

    def losses(self, batch: Any, wanted: frozenset[str]) -> dict[str, Tensor]:
        """Term name -> its value, a scalar, of the terms that are wanted.

        Args:
            batch: one of :meth:`batches`.
            wanted: names of terms; what none of them reads is not computed.
        """
        raise TypeError(f"{type(self).__name__} must define losses(batch, wanted)")


def weighted(mean: Tensor, weight: float) -> Tensor:
    """A mean over a rank's own samples by its weight among all ranks; with one rank nothing is
    launched for it.
    """
    if weight == 1:
        return mean
    return mean * weight


def item_table(model: Model) -> Tensor:
    """[n_items, D]: the trainable vectors that the items of a model begin with, as a view of the
    parameter.

    Raises:
        ValueError: the model has none.
    """
    for name, parts in model.tables.items():
        if parts[-1] == "items" and model.is_built:
            rows = model.get_parameter(name)[-model.space.n_items :]
            if len(rows) == model.space.n_items:
                return rows
    raise ValueError(
        f"{type(model).__name__} has no table of item vectors, so that init_items has no place in it"
    )
