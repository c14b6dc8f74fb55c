"""The coarse and the fine view of nodes over meta-paths, shared by MEOW, AdaMEOW and their recommenders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recgraph import registry
from recgraph.encoders.graph import GraphEncoder, SemanticAttention, ViewWeights
from recgraph.graph.contexts import Walked
from recgraph.graph.sampler import Layered
from recgraph.models.base import PathKey
from recgraph.models.heterogeneous.paths import MetaPathInputs, PathInputs
from recgraph.models.heterogeneous.settings import ViewsConfig
from recgraph.rng import dropout
from recgraph.sparse.blocks import unit_length
from recgraph.sparse.csr import Csr
from recgraph.sparse.spmm import Operator, spmm


def make_encoder(name: str, options: Mapping[str, Any], in_dim: int, dim: int, dropout: float) -> GraphEncoder:
    """An encoder of graphs from the registry, from width ``in_dim`` to ``dim``.

    Raises:
        ValueError: it is not one of graphs, it has no such option, an option is a width that the model has, or it
            cannot change the width.
    """
    cls = registry.load("encoder", name)
    if not issubclass(cls, GraphEncoder):
        raise ValueError(f"encoder = {name!r} is not a convolution over graphs, such as 'gcn' or 'propagation'")
    spec = {"name": name, **options}
    given = {"in_dim": in_dim, "hidden_dim": dim, "out_dim": dim}
    encoder: GraphEncoder = registry.make("encoder", spec, dropout=dropout, **given)
    return encoder


@dataclass(frozen=True)
class BothViews:
    """Attributes: ``coarse``, ``fine``, also the embedding; [N, D] each."""

    coarse: Tensor
    fine: Tensor


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
        self.is_separate = config.context_dropout == "separate"
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
        fine = self.fine(inputs, hidden, masked, generator, together)
        adjacencies = tuple(path.adjacency for path in inputs.paths)
        coarse: Tensor = self.encoder(adjacencies, _shared(hidden[inputs.target]), generator)
        return BothViews(coarse, fine)

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
        """[P] or [2 P], each path followed by its twin: the attention that ``"light"`` has learned, for all nodes."""
        assert isinstance(self.attention, ViewWeights)
        return torch.softmax(self.attention.logits, 0)

    def _views(
        self,
        inputs: MetaPathInputs,
        hidden: Mapping[str, Tensor],
        masked: Tensor | None,
        generator: torch.Generator | None,
    ) -> list[Tensor]:
        """[N, D] each: the view of each path, followed by its twin where there is one."""
        h, views = hidden[inputs.target], []
        means: dict[int, Tensor] = {}
        for number, path in enumerate(inputs.paths):
            whole = self._context(number, path, hidden, means)
            context = self._dropped(whole, generator)
            z = self._path(path.adjacency, _of_path(h, number) + context, generator)
            views.append(z)
            if masked is not None:
                context = self._dropped(whole, generator) if self.is_separate else context
                views.append(self._path(path.masked, _of_path(masked, number) + context, generator))
            elif self.augmenters:
                views.append(self.augmenters[number](z, generator=generator))
        return views if self.linear else [unit_length(z) for z in views]

    def _dropped(self, context: Tensor, generator: torch.Generator | None) -> Tensor:
        """A context after dropout; a path that has none draws nothing."""
        return dropout(context, self.dropout, generator if self.training and context.dim() else None)

    def _path(self, adjacency: Operator | Layered, x: Tensor, generator: torch.Generator | None) -> Tensor:
        z: Tensor = self.encoder((adjacency,), x if self.linear else F.elu(x), generator)
        return z

    def _context(self, number: int, path: PathInputs, hidden: Mapping[str, Tensor], means: dict[int, Tensor]) -> Tensor:
        """[N, D]: the context of a path, [] where it has none; ``means`` keeps what paths that begin alike share."""
        total = None
        for step, (node_type, reached) in enumerate(path.contexts):
            if id(reached) not in means:
                means[id(reached)] = _mean(reached, _shared(hidden[node_type]))
            part = means[id(reached)]
            if not self.linear:
                part = part @ self.context_layers[number][step].weight.t()  # type: ignore[index]
            total = part if total is None else total + part
        return next(iter(hidden.values())).new_zeros(()) if total is None else total

    def head(self, z: Tensor) -> Tensor:
        """[N, D]: the projection that the contrast compares."""
        return unit_length(z if self.linear else torch.tanh(self.project(z)))


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
