"""The coarse and the fine view of nodes over meta-paths, shared by MEOW, AdaMEOW and their recommenders."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from recgraph import registry
from recgraph.augment.graph import make_augmentation
from recgraph.config import Added, Search
from recgraph.contrast.objectives import InfoNCE
from recgraph.contrast.term import ContrastiveTerm
from recgraph.encoders.graph import GraphEncoder, SemanticAttention, ViewWeights
from recgraph.graph.contexts import Walked
from recgraph.graph.metapath import MetaPath
from recgraph.models.base import PathKey
from recgraph.models.contrast import AugmentationSpec, ContrastConfig, contrastive_term
from recgraph.models.heterogeneous.paths import Masks, MetaPathInputs, PathInputs
from recgraph.ranks import WHOLE
from recgraph.rng import dropout
from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import Normalisation
from recgraph.sparse.products import Counts
from recgraph.sparse.spmm import Layered, Operator, spmm

__all__ = ["BothViews", "MetaPathViews", "ViewsConfig", "make_contrast", "make_encoder", "make_masks", "make_paths"]


Ratio = Annotated[float, Field(ge=0, lt=1)]


class ViewsConfig(ContrastConfig):
    """Settings of meta-paths, of their twins (a second view of each path), and of the contrast."""

    top_k: Annotated[
        int | tuple[int | None, ...] | None,
        Field(description="keep the k nodes most similar to each by PathSim: one k for all paths, or one a path"),
    ] = None
    ties: Annotated[
        Literal["index", "cosine"],
        Field(
            description="equally similar nodes: keep those of the highest index, or of the greatest cosine of features"
        ),
    ] = "index"
    hub_cap: Annotated[
        int | None,
        Field(
            ge=1,
            description="of top_k: a node in the middle of a path that leads to more nodes than this is divided into "
            "random groups of so many, whose nodes alone are compared through it; none: all, at the cost of the square",
        ),
        Added(),
    ] = 4096
    counts: Annotated[Counts, Field(description="numbers of paths, or only whether there is one")] = "full"
    form: Annotated[
        Literal["composed", "factorised"],
        Field(description="'factorised' never makes a path's matrix; without top_k, with full counts"),
    ] = "composed"
    normalisation: Annotated[Normalisation, Field(description="of adjacencies; see recgraph.sparse.operators")] = "meow"
    max_memory_mib: Annotated[float, Field(gt=0, description="a path or context that needs more is refused")] = 4096
    twin: Annotated[
        Literal["masked", "latent", "none"],
        Field(description="second view of each path: from masked features and edges, from a latent augmenter, or none"),
    ] = "masked"
    feature_mask: Annotated[
        float, Field(ge=0, lt=1, description="share of the target's features that are masked"), Search(0.0, 0.6)
    ] = 0.3
    edge_mask: Annotated[
        Ratio | tuple[Ratio, ...],
        Field(
            description="share of each path's edges that are masked: for all paths, or one a path (of recommenders: "
            "the users' paths, then the items')"
        ),
    ] = 0.3
    augmentations: Annotated[
        tuple[AugmentationSpec, ...] | None,
        Field(
            description="of masked twins, one after the other: names of the registry, or mappings with name and "
            "settings; none: feature_mask and edge_drop. A ratio that is not given is feature_mask or edge_mask"
        ),
        Added(),
    ] = None
    redraw_masks: Annotated[bool, Field(description="draw masks at every step; False: once, as published")] = False
    augmenter: Annotated[str, Field(description="of latent twins, a name of the registry's kind 'augmenter'")] = "mlp"
    augmenter_options: Annotated[
        dict[str, Any], Field(default_factory=dict, description="further settings of the augmenter"), Added()
    ]
    encoder_options: Annotated[
        dict[str, Any], Field(default_factory=dict, description="settings of the views' encoder"), Added()
    ]
    objective: Annotated[
        str,
        Field(description="how anchors and candidates are chosen, a name of the registry's kind 'objective'"),
        Added(),
    ] = "info_nce"
    similarity: Annotated[
        Literal["dot", "cosine"], Field(description="of the contrastive term, between projections of length 1"), Added()
    ] = "dot"
    temperature: Annotated[
        float, Field(gt=0, description="tau, of the contrastive similarities"), Search(0.1, 2.0, log=True)
    ] = 0.5
    block_rows: Annotated[
        int | None, Field(ge=1, description="anchors of the contrast in memory at once; none: by the cache")
    ] = None
    projection_dim: Annotated[
        int | None, Field(ge=1, description="width of the projection; none: that of the embeddings")
    ] = None


def make_paths(metapaths: tuple[str, ...], config: ViewsConfig) -> tuple[MetaPath, ...]:
    """The paths with the settings' form, counts and top-k.

    Raises:
        ValueError: another number of values than paths.
    """
    names = ("counts", "ties", "hub_cap", "form", "normalisation", "max_memory_mib")
    shared = {name: getattr(config, name) for name in names}
    each = _each("top_k", config.top_k, len(metapaths))
    return tuple(MetaPath(path, top_k=k, **shared) for path, k in zip(metapaths, each, strict=True))


def make_masks(paths: Sequence[MetaPath], config: ViewsConfig, sampled: bool = False) -> Masks:
    """The augmentations that make masked twins.

    Args:
        sampled: the twins are for batches of nodes.

    Raises:
        ValueError: another number of values than paths, or an augmentation that is not one of graphs.
    """
    specs = ("feature_mask", "edge_drop") if config.augmentations is None else config.augmentations
    redraw = config.redraw_masks
    of_features = [make_augmentation(spec, ratio=config.feature_mask, redraw=redraw) for spec in specs]
    edges = []
    for path, ratio in zip(paths, _each("edge_mask", config.edge_mask, len(paths)), strict=True):
        # a factorised path has no entries of its own: its factors lose theirs, and keep their weights
        composed = path.config.form != "factorised"
        given = {"ratio": ratio, "redraw": redraw, "binary": composed, "self_loops": composed}
        made = [make_augmentation(spec, **given) for spec in specs]
        edges.append(tuple(one for one in made if one.reads == "adjacency"))
    features = tuple(one for one in of_features if one.reads == "features")
    return Masks(features, tuple(edges), config.normalisation, sampled)


def make_contrast(config: ViewsConfig, dim: int, info_nce: Mapping[str, Any], **other: Any) -> ContrastiveTerm:
    """The contrast of the projected views.

    Args:
        dim: D, the width of the projections.
        info_nce: the model's settings of the objective where that is InfoNCE, or one made of it.
        other: settings of the term that differ from the model's.
    """
    own = info_nce if issubclass(registry.load("objective", config.objective), InfoNCE) else {}
    return contrastive_term(config, dim, {"block_rows": config.block_rows, **own}, **other)


def make_encoder(name: str, options: Mapping[str, Any], in_dim: int, dim: int, dropout: float) -> GraphEncoder:
    """An encoder of graphs from the registry, from width ``in_dim`` to ``dim``.

    Raises:
        ValueError: it is not one of graphs, it has no such option, or it cannot change the width.
    """
    cls = registry.load("encoder", name)
    if not issubclass(cls, GraphEncoder):
        raise ValueError(f"encoder = {name!r} is not a convolution over graphs, such as 'gcn' or 'propagation'")
    if in_dim != dim and "out_dim" not in inspect.signature(cls).parameters:
        raise ValueError(f"encoder = {name!r} keeps the width: embedding_dim = {dim} must be hidden_dim = {in_dim}")
    spec = {"name": name, **options}
    encoder: GraphEncoder = registry.make("encoder", spec, in_dim=in_dim, hidden_dim=dim, out_dim=dim, dropout=dropout)
    return encoder


def _each(name: str, value: Any, n_paths: int) -> tuple[Any, ...]:
    """One value a path."""
    if not isinstance(value, tuple):
        return (value,) * n_paths
    if len(value) != n_paths:
        raise ValueError(f"{name} = {value} has {len(value)} values for {n_paths} meta-paths; give one, or one a path")
    return value


@dataclass(frozen=True)
class BothViews:
    """Attributes: ``coarse``, ``fine``, also the embedding, and ``paths``, one a path without its twin; [N, D] each."""

    coarse: Tensor
    fine: Tensor
    paths: tuple[Tensor, ...] = ()


class MetaPathViews(nn.Module):
    """The coarse and the fine view of the nodes of one type, from vectors h of all types.

    - coarse: ``GCN(h_target)`` over the mean of the paths' normalised adjacencies;
    - fine: for each path P, ``x_P = ELU(h_target + dropout(sum_t W_{P,t} mean_{t reached along P} h))`` goes through
      the same GCN over P's own adjacency. Semantic attention joins these views and their twins, each of unit length.

    :meth:`head`, shared by both: ``L2(tanh(W z + b))``.

    Source: MEOW (SDM 2023), section 4; initial weights and the dropout of the attention as in its published code.

    ``encoder="light"`` is for vectors that are themselves learned, as in LightGCN: ``x_P = h_target + sum_t mean_t h``
    and one product with each adjacency, without activations; the head is L2 alone, and attention is the softmax of one
    learned weight a view.

    Args:
        inputs: gives the number of paths and their contexts.
        hidden_dim: width of h.
        dim: D; with ``"light"`` the width of h.
        dropout: of contexts, GCN and attention.
        config: of the twins, the encoder's options and the head.
        encoder: a name of the registry's graph encoders, or ``"light"``.
    """

    def __init__(
        self,
        inputs: MetaPathInputs,
        hidden_dim: int,
        dim: int,
        dropout: float,
        config: ViewsConfig,
        encoder: str = "gcn",
    ) -> None:
        super().__init__()
        linear = encoder == "light"
        self.dropout, self.linear = dropout, linear
        if not linear:
            self.context_layers = nn.ModuleList(
                nn.ModuleList(nn.Linear(hidden_dim, hidden_dim, bias=False) for _ in path.contexts)
                for path in inputs.paths
            )
        name = "propagation" if linear else encoder
        self.encoder = make_encoder(name, config.encoder_options, hidden_dim, dim, dropout)
        n_views = len(inputs.paths) * (1 if config.twin == "none" else 2)
        self.attention = ViewWeights(n_views) if linear else SemanticAttention(dim, dropout=dropout)
        if not linear:
            self.project = nn.Linear(dim, config.projection_dim or dim)
        spec = {"name": config.augmenter, **config.augmenter_options}
        latent = inputs.paths if config.twin == "latent" else ()
        self.augmenters = nn.ModuleList(registry.make("augmenter", spec, hidden_dim=dim) for _ in latent)

    def forward(
        self,
        inputs: MetaPathInputs,
        hidden: Mapping[str, Tensor],
        masked: Tensor | None,
        generator: torch.Generator | None = None,
        together: torch.Generator | None = None,
    ) -> BothViews:
        """Both views, before the head.

        Args:
            inputs: P paths.
            hidden: node type -> [N_type, hidden_dim]; the target may have [P, N, hidden_dim], one for each path: the
                coarse view and contexts take their mean.
            masked: the target's vectors from masked features, in the same shape; None without masked twins.
            generator: draws dropout; required in training mode where dropout is above 0.
            together: draws the dropout of the attention, behind which ranks compute the same; default: ``generator``.
        """
        views = self._views(inputs, hidden, masked, generator)
        fine = self.attention(views, generator if together is None else together)
        adjacencies = tuple(path.adjacency for path in inputs.paths)
        coarse = self._encoded(adjacencies, _shared(hidden[inputs.target]), generator)
        return BothViews(coarse, fine, tuple(views[:: len(views) // len(inputs.paths)]))

    def fine(
        self,
        inputs: MetaPathInputs,
        hidden: Mapping[str, Tensor],
        masked: Tensor | None,
        generator: torch.Generator | None = None,
        together: torch.Generator | None = None,
    ) -> Tensor:
        """[N, D]: the fine view alone; the arguments are those of :meth:`forward`."""
        views = self._views(inputs, hidden, masked, generator)
        fine: Tensor = self.attention(views, generator if together is None else together)
        return fine

    def addends(
        self, inputs: MetaPathInputs, hidden: Mapping[str, Tensor], masked: Tensor | None
    ) -> dict[PathKey, tuple[float, Tensor]]:
        """Meta-path -> (its attention, [N, D] its addend of the fine view), its twin's included.

        For evaluation mode; the arguments are those of :meth:`forward`.
        """
        views = self._views(inputs, hidden, masked, None)
        self.attention(views)
        betas = self.attention.last
        assert isinstance(betas, Tensor)
        each = len(views) // len(inputs.paths)
        found = {}
        for number, path in enumerate(inputs.paths):
            chosen = range(number * each, (number + 1) * each)
            total = sum(betas[place] * views[place] for place in chosen)
            found[PathKey(inputs.target, path.name)] = float(betas[list(chosen)].sum()), torch.as_tensor(total)
        return found

    def weights_of_views(self) -> Tensor:
        """[P] or [2 P], each path followed by its twin: the attention that ``"light"`` has learned, for all nodes.

        Raises:
            ValueError: another encoder, whose attention looks at the nodes.
        """
        if not isinstance(self.attention, ViewWeights):
            raise ValueError("weights_of_views: the attention follows from the nodes; use addends()")
        return torch.softmax(self.attention.logits, 0)

    def _views(
        self,
        inputs: MetaPathInputs,
        hidden: Mapping[str, Tensor],
        masked: Tensor | None,
        generator: torch.Generator | None,
    ) -> list[Tensor]:
        """[N, D] each: the view of each path, followed by its twin where there is one."""
        h = hidden[inputs.target]
        views: list[Tensor] = []
        contexts = self.contexts(inputs, hidden, generator)
        for number, (path, context) in enumerate(zip(inputs.paths, contexts, strict=True)):
            z = self._path(path.adjacency, _of_path(h, number) + context, generator)
            views.append(z)
            if masked is not None:
                views.append(self._path(path.masked, _of_path(masked, number) + context, generator))
            elif self.augmenters:
                views.append(self.augmenters[number](z, generator=generator))
        return views if self.linear else [F.normalize(z, dim=1) for z in views]

    def contexts(
        self, inputs: MetaPathInputs, hidden: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> Iterator[Tensor]:
        """[N, D] each: the context of each path, which is added to the target's own vectors; [] where it has none."""
        means: dict[int, Tensor] = {}
        for number, path in enumerate(inputs.paths):
            yield self._context(number, path, hidden, means, generator)

    def _path(self, adjacency: Operator | Layered, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return self._encoded((adjacency,), x if self.linear else F.elu(x), generator)

    def _encoded(
        self, adjacencies: tuple[Operator | Layered, ...], x: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """[N, D]: what the encoder makes of x, of all ranks' rows."""
        z: Tensor = self.encoder(adjacencies, x, generator)
        share = adjacencies[0].share if isinstance(adjacencies[0], Layered) else WHOLE
        if not share.is_whole and len(z) != (n := sum(share.sizes)):
            raise ValueError(
                f"{type(self.encoder).__name__} gives {len(z)} rows of a batch of {n} that ranks divide: gather those "
                "of all ranks behind the last layer, x = adj.share.gathered(x), or train in one process"
            )
        return z

    def _context(
        self,
        number: int,
        path: PathInputs,
        hidden: Mapping[str, Tensor],
        means: dict[int, Tensor],
        generator: torch.Generator | None,
    ) -> Tensor:
        """[N, D]: the context of a path."""
        total = None
        for step, (node_type, reached) in enumerate(path.contexts):
            # paths that begin alike share what they reach
            if id(reached) not in means:
                means[id(reached)] = _mean(reached, _shared(hidden[node_type]))
            part = means[id(reached)]
            if not self.linear:
                part = part @ self.context_layers[number][step].weight.t()  # type: ignore[index]
            total = part if total is None else total + part
        if total is None:
            return next(iter(hidden.values())).new_zeros(())
        return dropout(total, self.dropout, generator if self.training else None)

    def head(self, z: Tensor) -> Tensor:
        """[N, D]: the projection that the contrast compares."""
        return F.normalize(z if self.linear else torch.tanh(self.project(z)), dim=1)


def _of_path(h: Tensor, number: int) -> Tensor:
    """[N, D]: the vectors for one path, of [N, D] (shared by all paths) or [P, N, D]."""
    return h if h.dim() == 2 else h[number]


def _shared(h: Tensor) -> Tensor:
    """[N, D]: one vector a node, of [N, D] or [P, N, D]."""
    return h if h.dim() == 2 else h.mean(0)


def _mean(reached: Csr | Walked, h: Tensor) -> Tensor:
    """[N, D]: the mean over the distinct nodes reached, 0 where there are none."""
    if isinstance(reached, Walked):
        return reached.mean(h)
    return spmm(reached, h) / reached.degrees.clamp(min=1)[:, None].to(h.dtype)
