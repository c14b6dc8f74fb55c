"""The weight of multistage contrast: only what is in the anchor's cluster is contrasted with it."""

from __future__ import annotations

from torch import Tensor

import recgraph as rg
from recgraph.contrast.weights import Cluster, ClusterConfig, Pairs


class SameClusterConfig(ClusterConfig):
    n_clusters: tuple[int, ...] = (10,)


@rg.register("weight")
class SameCluster(Cluster):
    """``w_ij = prod_t [k_t(i) = k_t(j)]``: 1 in the anchor's cluster of each of the T clusterings,
    0 elsewhere.

    The complement of ``cluster``, on the same clusterings: those that a model gives, else of the
    candidates at hand.

    Source: after Zhang et al., "Learning the Unlearned: Mitigating Feature Suppression in
    Contrastive Learning" (ECCV 2024), where the clusterings are those of earlier stages of
    training: what these tell apart no longer lowers the loss, and other features must be learned.
    """

    Config = SameClusterConfig

    def log_w(self, pairs: Pairs) -> Tensor:
        return (self._apart(pairs) == 0).to(pairs.anchors.dtype).log_()

    def log_w_beside(self, pairs: Pairs, ids: Tensor, rows: Tensor) -> Tensor:
        differ = super().log_w_beside(pairs, ids, rows).exp()
        return (differ == 0).to(pairs.anchors.dtype).log_()

    def factor(self, pairs: Pairs) -> Tensor | None:
        return (self._apart(pairs) == 0).to(pairs.anchors.dtype)
