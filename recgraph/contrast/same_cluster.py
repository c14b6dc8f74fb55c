"""The weight of multistage contrast: only what an earlier stage could not tell apart is contrasted."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from recgraph.contrast.weights import Cluster, ClusterConfig, ClusterCounts, Pairs

__all__ = ["SameCluster", "SameClusterConfig"]


class SameClusterConfig(ClusterConfig):
    n_clusters: ClusterCounts = (10,)


class SameCluster(Cluster):
    """``w_ij = prod_t [k_t(i) = k_t(j)]``: 1 in the anchor's cluster of each of the T clusterings, 0 elsewhere.

    Source: Zhang et al., "Learning the Unlearned: Mitigating Feature Suppression in Contrastive Learning" (ECCV 2024):
    the negatives of a stage come from the anchor's cluster in every earlier stage, so that the features by which these
    tell rows apart no longer lower the loss, and others must be learned. The stages are those of :class:`Multistage`
    (:meth:`keep`). Without them it is the complement of :class:`Cluster`, on the same clusterings: those given to
    :meth:`prepare`, else of the candidates at hand.
    """

    Config = SameClusterConfig

    def keep(self, assignments: Tensor | None, ids: Tensor | None = None) -> None:
        """Use these clusterings, whatever :meth:`prepare` offers later; None: none again. See :meth:`set_assignments`.

        Args:
            assignments: [T, N] integers.
            ids: [N] int64, ascending, whose columns these are; None: 0 ... N - 1.
        """
        self.set_assignments(assignments, ids)
        self.kept = assignments is not None

    def prepare(self, clusterings: Callable[[], Tensor], ids: Tensor | None = None) -> None:
        if not self.kept:
            super().prepare(clusterings, ids)

    def log_w(self, pairs: Pairs) -> Tensor:
        return (self._apart(pairs) == 0).to(pairs.anchors.dtype).log_()

    def log_w_beside(self, pairs: Pairs, ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        apart = self._apart_beside(pairs, ids, rows)
        return self.log_w(pairs), (apart == 0).to(pairs.anchors.dtype).log_()

    def factor(self, pairs: Pairs) -> Tensor | None:
        return (self._apart(pairs) == 0).to(pairs.anchors.dtype)
