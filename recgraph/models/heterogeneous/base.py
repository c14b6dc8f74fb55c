"""Models that embed the nodes of a typed graph: layers for each node type, batches of nodes,
embeddings.
"""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from recgraph.config import Search
from recgraph.data.part import Part
from recgraph.encoders.base import dropout_generator
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath, offered_paths, types_of
from recgraph.graph.spectral import coordinates
from recgraph.models.base import (
    ClosedFormModel,
    Model,
    ModelConfig,
    PathKey,
    Phase,
    Space,
    TrainableModel,
    UpdatedBy,
)
from recgraph.ranks import WHOLE, Share
from recgraph.rng import Generators, derive, dropout
from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import row_shares
from recgraph.sparse.spmm import spmm

_log = logging.getLogger(__name__)


class GraphSpace(Space):
    """The sizes, and a typed graph; in the node task there are no users, and the items are the
    target nodes.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    graph: Annotated[HeteroGraph, Field(exclude=True)]


@dataclass(frozen=True)
class GraphBatch:
    """A step on the whole graph, or on some of its target nodes.

    Attributes:
        n_targets: target nodes (the unit of training speed).
        epoch: from 0.
        generators: the run's random streams.
        nodes: [B] int64, the target nodes of the step; None: all of them.
        number: of the batch in its epoch, from 0.
        share: which of the nodes this rank computes, where several train together.
    """

    n_targets: int
    epoch: int
    generators: Generators
    nodes: Tensor | None = None
    number: int = 0
    share: Share = WHOLE

    def fresh(self, name: str) -> torch.Generator:
        """A generator of this step, on the host: it depends on seed, name, epoch and number
        alone.
        """
        return self.generators.fresh(name, self.epoch, self.number)

    def to(self, device: torch.device | str) -> GraphBatch:
        """The batch with its nodes on a device; the graph is the model's."""
        if self.nodes is None:
            return self
        return replace(self, nodes=self.nodes.to(device))


class NodeBatches:
    """Batches of target nodes, each node once an epoch, in an order that depends on the seed and
    the epoch alone.

    Args:
        n_targets: N.
        batch_size: nodes of a batch at most; all batches of an epoch have the same size, or one
            node less. None: one step an epoch on the whole graph.
        generators: the run's random streams; of several ranks, each computes a share of every
            batch.
    """

    def __init__(self, n_targets: int, batch_size: int | None, generators: Generators) -> None:
        self.n_targets, self.batch_size, self.generators = n_targets, batch_size, generators

    def __len__(self) -> int:
        if self.batch_size is None:
            return 1
        return math.ceil(self.n_targets / self.batch_size)

    def epoch(self, number: int, start: int = 0) -> Iterator[GraphBatch]:
        if self.batch_size is None:
            if start == 0:
                yield GraphBatch(self.n_targets, number, self.generators)
            return
        order = torch.randperm(self.n_targets, generator=self.generators.fresh("nodes", number))
        batches = enumerate(order.tensor_split(len(self)))
        for place, nodes in islice(batches, start, None):
            yield GraphBatch(
                n_targets=len(nodes),
                epoch=number,
                generators=self.generators,
                nodes=nodes,
                number=place,
                share=self.generators.ranks.share_of_batch(len(nodes)),
            )


# -- layers of node types


def tables_of(graph: HeteroGraph, types: Iterable[str], dim: int) -> nn.ModuleDict:
    """Type -> a table with a vector of width ``dim`` for each of its nodes."""
    tables = nn.ModuleDict({name: nn.Embedding(graph.count(name), dim) for name in sorted(types)})
    for table in tables.values():
        nn.init.xavier_uniform_(table.weight)  # type: ignore[arg-type]
    return tables


class TypeLayer(nn.Module):
    """``ELU(dropout(W x + b))`` of the features of one node type; without features x is one-hot.

    Source: HeCo (KDD 2021), MEOW (SDM 2023).
    """

    def __init__(self, n_features: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(n_features, hidden_dim)
        self.dropout = dropout

    def forward(self, x: Tensor | Csr | None, generator: torch.Generator | None) -> Tensor:
        """[N, D] of features [N, F], dense or sparse; None: the identity; [N] int64: these rows of
        the identity.
        """
        weight = self.linear.weight.t()
        if x is None:
            product = weight
        elif isinstance(x, Csr):
            product = spmm(x, weight)
        elif x.dtype == torch.int64:
            product = weight[x]
        else:
            product = x @ weight
        generator = dropout_generator(self, self.dropout, generator)
        return F.elu(dropout(product + self.linear.bias, self.dropout, generator))

    @torch.no_grad()
    def begin_at(self, rows: Tensor) -> None:
        """Begin with these vectors [N, D] of nodes without features, and without bias."""
        self.linear.weight.copy_(rows.t())
        self.linear.bias.zero_()


def path_weights(model: nn.Module) -> dict[PathKey, float]:
    """The attention of each meta-path of a model, or of its graph of items, a twin's included;
    those of a node type sum to 1. Empty: it has no meta-paths."""
    owner: Any
    for owner in (model, getattr(model, "item_graph", None)):
        if hasattr(owner, "path_weights"):
            weights: dict[PathKey, float] = owner.path_weights()
            return weights
    return {}


# -- models


class NodeConfig(ModelConfig):
    metapaths: Annotated[
        tuple[str, ...],
        Field(
            description="paths from the target type to itself, e.g. 'paper-author-paper'; at least one to build"
        ),
    ] = ()
    hidden_dim: Annotated[
        int, Field(ge=1, description="width of nodes' vectors"), Search(choices=(32, 64, 128, 256))
    ] = 64


class GraphConfig(NodeConfig):
    dropout: Annotated[
        float, Field(ge=0, lt=1, description="of features and layers"), Search(0.0, 0.6, step=0.1)
    ] = 0.2
    features: Annotated[
        dict[str, Literal["one-hot"]],
        Field(
            default_factory=dict,
            description="node type -> 'one-hot': a row of weights for each node, whatever features the type has",
        ),
    ]
    raw_features: Annotated[
        tuple[str, ...],
        Field(description="node types whose features are not divided by their row sums"),
    ] = ()
    rows: Annotated[
        Literal["auto", "random", "spectral"],
        Field(
            description="how the rows of weights of types without features begin: drawn, or at the nodes' spectral "
            "coordinates; auto: spectral where the target has no features"
        ),
    ] = "auto"


class HoldsGraph(nn.Module):
    """Base of models that hold inputs read from a graph: they move with the parameters and are no
    part of the state.
    """

    #: (identity of inputs, device, type) -> the inputs, and what they are there
    _moved: Mapping[tuple[int, torch.device, torch.dtype], tuple[Any, Any]] = {}

    def _placed(self, inputs: Any) -> Any:
        """The inputs on the device and in the type of the parameters."""
        like = next(self.parameters())
        key = (id(inputs), like.device, like.dtype)
        if key in self._moved:
            return self._moved[key][1]
        # made under inference mode it could not be trained on
        with torch.inference_mode(False):
            moved = inputs.to(like.device, like.dtype)
        # what was elsewhere goes; a new mapping, as another thread may read the old one
        there = {old: pair for old, pair in self._moved.items() if old[1:] == key[1:]}
        self._moved = {**there, key: (inputs, moved)}
        return moved


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode within the block, and back in its mode after it."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


class NodeModel(HoldsGraph, Model):
    """Base of models that embed the nodes of one type of a typed graph.

    ``MEOW(metapaths=("paper-author-paper",)).build(graph, seed=0)``; :meth:`embed` gives the
    embeddings. The target type is the one that the meta-paths begin and end with. Inputs made from
    the graph are no part of the state: they follow from the graph, the settings and the seed.
    """

    Config: ClassVar[type[ModelConfig]] = NodeConfig

    def build(self, space: Space | HeteroGraph, seed: int = 0) -> Self:
        """Create the parameters, and read the inputs from the graph.

        Args:
            space: a typed graph, or a space with one.
            seed: of the initial weights and of masks that are drawn once.

        Raises:
            ValueError: the model is built already, there is no graph, or the graph has not the
                meta-paths or a type that the settings name.
        """
        if isinstance(space, HeteroGraph):
            space = GraphSpace(
                n_users=0, n_items=max(space.count(self.target_of(space)), 1), graph=space
            )
        if not isinstance(space, GraphSpace):
            raise ValueError(
                f"{type(self).__name__} needs a typed graph: build(graph) or build(GraphSpace(...))"
            )
        self._seed = derive(seed, "graph views")
        return super().build(space, seed)

    def target_of(self, graph: HeteroGraph) -> str:
        """The node type that the meta-paths begin and end with, which is embedded."""
        paths = self.config.metapaths
        if not paths:
            raise ValueError(
                f"metapaths = () must name at least one path; this graph has {offered_paths(graph)}"
            )
        ends: set[str] = set()
        for path in paths:
            types = types_of(MetaPath(path).route(graph))
            ends |= {types[0], types[-1]}
        if len(ends) > 1:
            raise ValueError(
                f"metapaths = {paths} have ends of several types: {', '.join(sorted(ends))}"
            )
        return ends.pop()

    @property
    def embedding_dim(self) -> int:
        """D, the width of the embeddings."""
        return int(self.config.hidden_dim)

    @abstractmethod
    def embed(self) -> Tensor:
        """[N, D]: the embeddings of the target nodes; make it in evaluation mode and without
        gradients.
        """


class Spectral(NodeModel, ClosedFormModel):
    """What the graph alone says of its nodes, untrained: their spectral coordinates, for others to
    be compared with.

    They are the leading eigenvectors of all edge types together, each normalised by its degrees
    (:func:`recgraph.graph.spectral.coordinates`): the singular vectors of the joined incidence
    matrices where all edges are between the target and other types. No feature is read;
    ``metapaths`` only say which type the target is.

    Source: Qin and Rohe, Regularized Spectral Clustering under the Degree-Corrected Stochastic
    Blockmodel (NIPS 2013).
    """

    updated_by: ClassVar[UpdatedBy | None] = None
    rows: Tensor

    def _build(self, space: Space) -> None:
        self.register_buffer("rows", torch.zeros(space.n_items, self.embedding_dim))

    def fit(self, train: Part | None = None) -> Self:
        """Find the coordinates; no part is read."""
        assert isinstance(self.space, GraphSpace)
        graph = self.space.graph.to(self.rows.device)
        generator = Generators(self._seed).fresh("rows")
        self.rows.copy_(coordinates(graph, self.embedding_dim, generator)[self.target_of(graph)])
        return self

    def embed(self) -> Tensor:
        return self.rows


class GraphModel(NodeModel, TrainableModel):
    """Base of trained models of nodes. A subclass sets ``Config`` and defines ``_build``,
    :meth:`losses` and :meth:`embed`."""

    Config: ClassVar[type[ModelConfig]] = GraphConfig
    #: deviation of rows that begin at spectral coordinates; a hundred steps of Adam at the usual
    #: rate move a weight by .1, so that training starts from the coordinates and can leave them
    rows_std: ClassVar[float] = 0.1

    def target_of(self, graph: HeteroGraph) -> str:
        for node_type in (*self.config.features, *self.config.raw_features):
            graph.count(node_type)
        return super().target_of(graph)

    def features_of(self, graph: HeteroGraph, node_type: str) -> Tensor | Csr | None:
        """[N, F]: the features that the model reads of a type; None: none, so that nodes are
        one-hot.
        """
        features = graph.features(node_type)
        if node_type in self.config.features:
            return None
        return features

    def _features(self, graph: HeteroGraph, node_type: str) -> Tensor | Csr | None:
        """[N, F]: the features of a type, divided by their row sums; as they are where
        ``raw_features`` names the type, or where they hold a negative value, as embeddings do."""
        features = self.features_of(graph, node_type)
        raw = self.resolved.get("raw_features", self.config.raw_features)
        if features is None or node_type in raw:
            return features
        values = features.values() if isinstance(features, Csr) else features
        if bool((values < 0).any()):
            _log.info(
                "features of %r hold negative values: they are not divided by their row sums",
                node_type,
            )
            self.resolved["raw_features"] = (*raw, node_type)
            return features
        return row_shares(
            features, f"features of {node_type!r}", f"add {node_type!r} to raw_features"
        )

    def _type_layer(
        self, graph: HeteroGraph, node_type: str, dropout: float | None = None
    ) -> TypeLayer:
        """The layer of a type; without a dropout with that of the settings."""
        features = self.features_of(graph, node_type)
        width = graph.count(node_type) if features is None else features.shape[1]
        if dropout is None:
            dropout = self.config.dropout
        return TypeLayer(width, self.config.hidden_dim, dropout)

    def _begin_rows(self, graph: HeteroGraph, target: str, layers: Mapping[str, nn.Module]) -> None:
        """Begin the rows of weights of types without features at spectral coordinates, where the
        settings say so.

        Their biases begin at 0. Call it when all layers, given by node type, have their first
        weights.
        """
        bare = [name for name in layers if self.features_of(graph, name) is None]
        if not bare:
            return
        start = self.config.rows
        if start == "auto":
            start = "spectral" if target in bare else "random"
        self.resolved["rows"] = start
        if start == "random":
            return
        rows = coordinates(graph, self.config.hidden_dim, Generators(self._seed).fresh("rows"))
        for name in bare:
            layers[name].begin_at(self.rows_std * rows[name])  # type: ignore[operator]

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("model", ("model",), {"info": 1.0}),)

    def batches(self, train: Part | None, batch_size: int, generators: Generators) -> NodeBatches:
        """One step an epoch on the whole graph, whatever the batch size; no part is read."""
        return NodeBatches(self.space.n_items, None, generators)
