"""Cluster weights: candidates that share the anchor's clusters count less."""

from __future__ import annotations

import weakref
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from recgraph.contrast.prototypes import assign, kmeans
from recgraph.contrast.weights.base import Pairs, Weight, WeightConfig


class ClusterConfig(WeightConfig):
    n_clusters: Annotated[
        tuple[int, ...],
        Field(min_length=1, description="clusters of each granularity, where none are given"),
    ] = (10, 30)
    iterations: Annotated[int, Field(ge=1, description="of k-means, where none are given")] = 10


class Cluster(Weight):
    """``w_ij = T - (number of the T clusterings in which i and j share a cluster)``.

    Source: MEOW (SDM 2023). A candidate in all of the anchor's clusters is out (weight 0), one that shares none counts
    T times. The clusterings are those given to :meth:`set_assignments`, looked up by id. Where none were given, the
    candidates at hand are clustered (k-means of their directions, without gradient) and an anchor belongs to the
    nearest centroid, so that the weight serves any contrastive model whatever its rows are.

    Attributes:
        assignments: [T, N] int64, the cluster of each id in each clustering, or None. Not part of the state: they
            are made anew in each epoch.
    """

    Config = ClusterConfig
    assignments: Tensor | None

    def __init__(self, config: ClusterConfig | None = None, /, **settings: object) -> None:
        super().__init__(config, **settings)
        self.register_buffer("assignments", None, persistent=False)
        self._made: tuple[weakref.ref[Tensor], list[Tensor], Tensor] | None = None

    def set_assignments(self, assignments: Tensor | None) -> None:
        """Use these clusterings; None: cluster the candidates at hand.

        Args:
            assignments: [T, N] integers, ids being columns.

        Raises:
            ValueError: not of that shape.
        """
        if assignments is not None and (assignments.dim() != 2 or not assignments.shape[0]):
            raise ValueError(f"assignments have shape {tuple(assignments.shape)}; they must be [T, N] with T >= 1")
        self.assignments = assignments

    def log_w(self, pairs: Pairs) -> Tensor:
        return self._apart(pairs).to(pairs.anchors.dtype).log_()

    def factor(self, pairs: Pairs) -> Tensor | None:
        apart = self._apart(pairs)
        return apart.to(pairs.anchors.dtype) if apart.dtype == torch.uint8 else None

    def _apart(self, pairs: Pairs) -> Tensor:
        """[n, M]: T - shared, counted in bytes: these are passes over all pairs."""
        if self.assignments is not None:
            ours, theirs = self.assignments[:, pairs.anchor_ids], self.assignments[:, pairs.candidate_ids]
        else:
            ours, theirs = self._cluster(pairs)
        count = torch.uint8 if len(ours) < 256 else torch.int32
        apart = _differ(ours[0], theirs[0], count)
        for mine, other in zip(ours[1:], theirs[1:], strict=True):
            apart += _differ(mine, other, count)
        return apart

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
