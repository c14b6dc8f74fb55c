"""Weights of candidates: how much each counts against an anchor."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from recgraph.blocks import FEWEST_ROWS
from recgraph.config import Config
from recgraph.contrast.clustering import assign, kmeans
from recgraph.contrast.hidden_units import tanh_sums
from recgraph.contrast.part import Part
from recgraph.contrast.views import Pairs

__all__ = ["Pairs", "Weight", "WeightConfig"]


class WeightConfig(Config):
    """Settings of a weight."""


class Weight(Part):
    """Base of all weights. A subclass sets ``Config`` and fills :meth:`log_w`.

    A weight speaks about candidates in general; whether the positive is one of them, and whether it is weighted, is
    the objective's to say. It may have parameters, and may depend on the embeddings: gradients flow into both.
    """

    Config: ClassVar[type[WeightConfig]] = WeightConfig
    #: whether it depends on embeddings that no gradient reaches through it
    detached: ClassVar[bool] = False

    def trained(self) -> list[nn.Parameter]:
        """Its parameters that are trained."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def prepare(self, clusterings: Callable[[], Tensor], ids: Tensor | None = None) -> None:
        """Called before use by models that cluster what they contrast; a weight that reads clusterings takes them.

        Args:
            clusterings: makes [T, N] int64, the cluster of each id in each of T clusterings.
            ids: [N] int64, ascending, whose columns these are; None: 0 ... N - 1.
        """

    def log_w(self, pairs: Pairs) -> Tensor:
        """[n, M] log-weights in the type of the embeddings; ``-inf`` takes a candidate out.

        Each row must depend on its own anchor and the candidates alone: it is called on blocks of any size.
        """
        raise TypeError(f"{type(self).__name__} must define log_w(pairs)")

    def log_w_beside(self, pairs: Pairs, ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """[n, M] as :meth:`log_w`, and [n], the log-weight of one more candidate of each anchor.

        For objectives that draw candidates beside the positive. A weight that looks at candidates together (normalises
        or clusters them) overrides it and looks at those of ``pairs`` alone.

        Args:
            ids: [n] int64, of the further candidates.
            rows: [n, D], their embeddings.
        """
        tiles = [slice(start, start + FEWEST_ROWS) for start in range(0, len(ids), FEWEST_ROWS)]
        beside = [
            self.log_w(Pairs(pairs.anchor_ids[tile], ids[tile], pairs.anchors[tile], rows[tile])).diagonal()
            for tile in tiles
        ]
        return self.log_w(pairs), torch.cat(beside)

    def factor(self, pairs: Pairs) -> Tensor | None:
        """[n, M] the weights themselves, where they are at hand; None: take :meth:`log_w`.

        For weights between 0 and 256, the greatest of a row 0 or at least e^-10. They spare a logarithm and two passes
        for each pair: an eighth of the time of MEOW's loss.
        """
        return None


class SelfMask(Weight):
    """Weight 0 where anchor and candidate have the same id, else 1.

    With the default ids this is the other view of the same row, which the objective puts back where it counts the
    positive; with users as ids, also the user's other samples in the batch.
    """

    def log_w(self, pairs: Pairs) -> Tensor:
        same = pairs.anchor_ids[:, None] == pairs.candidate_ids
        return pairs.anchors.new_zeros(same.shape).masked_fill_(same, -math.inf)


class SameTarget(SelfMask):
    """The self mask where the ids are the samples' target items: DuoRec's mask of false negatives.

    Source: Qiu et al., "Contrastive Learning for Representation Degeneration Problem in Sequential Recommendation",
    WSDM 2022.
    """


def _tell_apart(n_clusters: tuple[int, ...]) -> tuple[int, ...]:
    """Refuse clusters that hold all rows: no row would be a candidate of another."""
    if max(n_clusters) < 2:
        raise ValueError("one cluster holds all rows; give at least 2 clusters in one of the granularities")
    return n_clusters


ClusterCounts = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...],
    Field(min_length=1, description="clusters of each granularity, at most one a row"),
    AfterValidator(_tell_apart),
]


class ClusterConfig(WeightConfig):
    n_clusters: ClusterCounts = (10, 30)
    iterations: Annotated[int, Field(ge=1, description="of k-means, where none are given")] = 10


class Cluster(Weight):
    """``w_ij = T - (number of the T clusterings in which i and j share a cluster)``.

    Source: MEOW (SDM 2023). A candidate in all of the anchor's clusters is out (weight 0), one that shares none counts
    T times. The clusterings are those given to :meth:`prepare`, looked up by id. Where none were given, the candidates
    at hand are clustered (k-means of their directions, without gradient) and an anchor belongs to the nearest centroid,
    so that the weight serves any contrastive model whatever its rows are.

    Attributes:
        assignments: [T, N] int64, the cluster of each id in each clustering, or None. Not part of the state: they
            are made anew in each epoch.
    """

    Config = ClusterConfig
    assignments: Tensor | None
    ids: Tensor | None
    #: whether :meth:`prepare` leaves the clusterings as they are
    kept: bool = False

    def __init__(self, config: ClusterConfig | None = None, /, **settings: object) -> None:
        super().__init__(config, **settings)
        self.register_buffer("assignments", None, persistent=False)
        self.register_buffer("ids", None, persistent=False)
        self._made: tuple[weakref.ref[Tensor], list[Tensor], Tensor] | None = None

    def prepare(self, clusterings: Callable[[], Tensor], ids: Tensor | None = None) -> None:
        self.set_assignments(clusterings(), ids)

    def set_assignments(self, assignments: Tensor | None, ids: Tensor | None = None) -> None:
        """Use these clusterings; None: cluster the candidates at hand.

        Args:
            assignments: [T, N] integers.
            ids: [N] int64, ascending, whose columns these are; None: 0 ... N - 1.

        Raises:
            ValueError: not of that shape.
        """
        if assignments is not None and (assignments.dim() != 2 or not assignments.shape[0]):
            raise ValueError(f"assignments have shape {tuple(assignments.shape)}; they must be [T, N] with T >= 1")
        self.assignments, self.ids = assignments, ids

    def log_w(self, pairs: Pairs) -> Tensor:
        return self._apart(pairs).to(pairs.anchors.dtype).log_()

    def log_w_beside(self, pairs: Pairs, ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.log_w(pairs), self._apart_beside(pairs, ids, rows).to(pairs.anchors.dtype).log_()

    def _apart_beside(self, pairs: Pairs, ids: Tensor, rows: Tensor) -> Tensor:
        """[n]: T - shared, of each anchor and one further row."""
        if self.assignments is not None:
            ours, theirs = (self.assignments[:, self._columns(of)] for of in (pairs.anchor_ids, ids))
        else:
            ours, _ = self._cluster(pairs)
            theirs, _ = self._cluster(Pairs(ids, pairs.candidate_ids, rows, pairs.candidates))
        return (ours != theirs).sum(0)

    def factor(self, pairs: Pairs) -> Tensor | None:
        apart = self._apart(pairs)
        return apart.to(pairs.anchors.dtype) if apart.dtype == torch.uint8 else None

    def _apart(self, pairs: Pairs) -> Tensor:
        """[n, M]: T - shared, counted in bytes: these are passes over all pairs."""
        if self.assignments is not None:
            ours, theirs = (self.assignments[:, self._columns(of)] for of in (pairs.anchor_ids, pairs.candidate_ids))
        else:
            ours, theirs = self._cluster(pairs)
        count = torch.uint8 if len(ours) < 256 else torch.int32
        apart = _differ(ours[0], theirs[0], count)
        for mine, other in zip(ours[1:], theirs[1:], strict=True):
            apart += _differ(mine, other, count)
        return apart

    def _columns(self, ids: Tensor) -> Tensor:
        return ids if self.ids is None else torch.searchsorted(self.ids, ids)

    @torch.no_grad()
    def _cluster(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """[T, n] and [T, M]: the clusters of anchors and candidates, made once for all blocks."""
        candidates = pairs.candidates
        if self._made is None or self._made[0]() is not candidates:
            units = torch.nn.functional.normalize(candidates.detach(), dim=1)
            found = [
                kmeans(units, min(k, len(units)), seed=seed, iterations=self.config.iterations, restarts=1)
                for seed, k in enumerate(self.config.n_clusters)
            ]
            of_candidates = torch.stack([clustering.assignments for clustering in found])
            self._made = weakref.ref(candidates), [clustering.centroids for clustering in found], of_candidates
        _, centroids, of_candidates = self._made
        units = torch.nn.functional.normalize(pairs.anchors.detach(), dim=1)
        return torch.stack([assign(units, centroid) for centroid in centroids]), of_candidates


def _differ(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> Tensor:
    """[n, M]: 1 where the clusters differ, else 0."""
    return (ours.to(torch.int32)[:, None] != theirs.to(torch.int32)).view(torch.uint8).to(dtype)


# sums of smaller weights might leave the range of numbers
_MOST_LOGIT = 10.0


class LearnedConfig(WeightConfig):
    dim: Annotated[int, Field(ge=1, description="width of the embeddings; models set it")] = 64
    inner_dim: Annotated[int, Field(ge=1, description="hidden units of the network")] = 16
    normalise: Annotated[
        bool, Field(description="mean weight 1 for each anchor, so that weights cannot shrink everywhere")
    ] = False


class Learned(Weight):
    """``w_ij = sigmoid(b + v . tanh(W (z_i + z_j) + c))``; normalised: ``w_ij / mean_j w_ij``.

    Source: AdaMEOW (TKDE 2024, arXiv 2212.13847). Nothing stops the published weights from shrinking everywhere: the
    loss falls with them. ``normalise`` takes that way out. The first layer is linear, so that it is applied to rows,
    ``W z_i + W z_j``; no n x M x ``inner_dim`` tensor is made (:func:`recgraph.contrast.hidden_units.tanh_sums`).
    Differentiable once.
    """

    Config = LearnedConfig

    def __init__(self, config: LearnedConfig | None = None, /, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.first = nn.Linear(self.config.dim, self.config.inner_dim)
        self.second = nn.Linear(self.config.inner_dim, 1)

    def log_w(self, pairs: Pairs) -> Tensor:
        log_w = F.logsigmoid(self._logits(pairs))
        if self.config.normalise:
            log_w = log_w - (log_w.logsumexp(1, keepdim=True) - math.log(log_w.shape[1]))
        return log_w.to(pairs.anchors.dtype)

    def factor(self, pairs: Pairs) -> Tensor | None:
        _, _, v, b = self._layers(pairs.anchors)
        # tanh is at most 1
        if self.config.normalise or float(v.detach().abs().sum() + b.detach().abs()) > _MOST_LOGIT:
            return None
        return torch.sigmoid(self._logits(pairs)).to(pairs.anchors.dtype)

    def _logits(self, pairs: Pairs) -> Tensor:
        dim = pairs.anchors.shape[1]
        if dim != self.config.dim:
            raise ValueError(f"the embeddings have width {dim}, dim = {self.config.dim}; give dim={dim}")
        w, c, v, b = self._layers(pairs.anchors)
        x, y = F.linear(pairs.anchors.to(w.dtype), w, c), F.linear(pairs.candidates.to(w.dtype), w)
        return tanh_sums(x, y.t().contiguous(), v[0]).add_(b)

    def log_w_beside(self, pairs: Pairs, ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        log_w = self.log_w(pairs)
        of_rows = self._of_rows(pairs.anchors, rows)
        if self.config.normalise:
            # the same mean, found from one candidate: log_w is its logarithm less that of the mean
            of_rows = of_rows + (log_w[:, 0] - self._of_rows(pairs.anchors, pairs.candidates[:1]))
        return log_w, of_rows.to(pairs.anchors.dtype)

    def _layers(self, like: Tensor) -> tuple[Tensor, ...]:
        work = torch.promote_types(like.dtype, self.first.weight.dtype)
        return tuple(p.to(work) for p in (self.first.weight, self.first.bias, self.second.weight, self.second.bias))

    def _of_rows(self, anchors: Tensor, rows: Tensor) -> Tensor:
        """[n]: the log-weights of rows in pairs, [n, D] and [n, D] or [1, D], not normalised."""
        w, c, v, b = self._layers(anchors)
        hidden = torch.tanh(F.linear(anchors.to(w.dtype), w, c) + F.linear(rows.to(w.dtype), w))
        return F.logsigmoid(hidden @ v[0] + b)
