"""Prototypes: clusterings of embeddings at several granularities, kept between batches, and
ProtoNCE.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from recgraph.config import Config, Search, configure
from recgraph.contrast.clustering import Clustering, Method, concentration, kmeans
from recgraph.contrast.term import ContrastiveTerm
from recgraph.ranks import stacked
from recgraph.sparse.blocks import unit_length


class PrototypesConfig(Config):
    n_clusters: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...],
        Field(min_length=1, description="clusters of each granularity, at most one a row"),
        Search(
            choices=(
                [5, 15],
                [10, 30],
                [20, 60],
                [50, 150],
                [100],
                [100, 300],
                [200, 700],
                [500, 1200],
            )
        ),
    ] = (100, 300)
    iterations: Annotated[int, Field(ge=1, description="of k-means, at most")] = 20
    restarts: Annotated[int, Field(ge=1, description="of k-means; the best is taken")] = 5
    method: Annotated[
        Method, Field(description="inner-product k-means as published, or scikit-learn's")
    ] = "published"
    warm_start: Annotated[
        bool, Field(description="begin at the last call's centroids, one restart, instead of anew")
    ] = False


class Prototypes(nn.Module):
    """Clusterings of embeddings at several granularities, without gradient.

    Granularity t has the seed t, as published. With ``warm_start`` the last centroids are buffers,
    so that a resumed training goes on from them.

    Args:
        config: the settings as a value, or
        dim: D, the width of the embeddings; needed with ``warm_start`` alone.
        settings: the settings by name.
    """

    def __init__(
        self, config: PrototypesConfig | None = None, /, dim: int | None = None, **settings: Any
    ) -> None:
        super().__init__()
        self.config = configure(self, PrototypesConfig, config, settings)
        if self.config.warm_start:
            assert dim is not None
            for t, k in enumerate(self.config.n_clusters):
                self.register_buffer(f"last_{t}", torch.zeros(k, dim))

    def forward(self, x: Tensor) -> list[Clustering]:
        """The clusterings of x [N, D], one a granularity."""
        config = self.config
        settings: dict[str, Any] = config.model_dump(include={"iterations", "restarts", "method"})
        clusterings = []
        for t, n_clusters in enumerate(config.n_clusters):
            k = min(n_clusters, len(x))
            last, start = None, None
            if config.warm_start and k == n_clusters:
                last = getattr(self, f"last_{t}")
                if bool(last.any()):
                    start = last
            clustering = kmeans(x, k, seed=t, start=start, **settings)
            clusterings.append(clustering)
            if last is not None:
                last.copy_(clustering.centroids)
        return clusterings


@dataclass(frozen=True)
class PrototypeSet:
    """The prototypes of one clustering of N rows into k clusters; none has a gradient.

    Attributes:
        assignments: [N] int64, the cluster of each row.
        directions: [k, D], the centroids, of unit length.
        temperatures: [k], phi_c, by the concentration of each cluster.
    """

    assignments: Tensor
    directions: Tensor
    temperatures: Tensor


def prototypes_of(
    clusterings: Sequence[Clustering], members: Tensor, temperature: float
) -> list[PrototypeSet]:
    """The prototypes of each clustering of ``members`` [N, D]; ``temperature`` is the mean of
    phi.
    """
    members = members.detach()
    prototypes = []
    for clustering in clusterings:
        directions = unit_length(clustering.centroids)
        temperatures = concentration(members, clustering, temperature)
        prototypes.append(PrototypeSet(clustering.assignments, directions, temperatures))
    return prototypes


def offer(
    term: ContrastiveTerm,
    prototypes: Callable[[], Sequence[PrototypeSet]],
    ids: Tensor | None = None,
) -> None:
    """Offer the clusters of its candidates to the weight of a contrast; see
    :meth:`Weight.prepare`.
    """

    def assignments() -> Tensor:
        return torch.stack([of_one.assignments for of_one in prototypes()])

    if term.weight is not None:
        term.weight.prepare(assignments, ids)


def proto_nce(
    term: ContrastiveTerm,
    anchors: Tensor,
    prototypes: Sequence[PrototypeSet],
    ids: Tensor | None = None,
    concentration: bool = True,
    **how: Any,
) -> Tensor:
    """``mean_t mean_i -log(e^{z_i . p_c(i) / phi_c(i)} / sum_c e^{z_i . p_c / phi_c})`` over T
    clusterings.

    Args:
        term: with ``objective="info_nce"`` and no weight for this formula; others that take
            ``positives`` fit too.
        anchors: [B, D], z.
        prototypes: of each clustering.
        ids: [B] int64, which of the clustered rows the anchors are; None: they are all of them.
        concentration: whether each prototype has its own temperature phi, or all the term's (NCL).
        how: what else the term is called with.

    Source: PCL (ICLR 2021), MEOW (SDM 2023), NCL (WWW 2022). Departure: MEOW's published code takes
    a mean over N where the formula has one over the prototypes, which adds the constant ``log(N /
    k)``.
    """
    losses = []
    for clusters in prototypes:
        own = clusters.assignments
        if ids is not None:
            own = own[ids]
        temperatures = clusters.temperatures if concentration else None
        # an anchor goes by its cluster's number, as the prototypes do
        loss = term(
            anchors, clusters.directions, own, positives=own, temperatures=temperatures, **how
        )
        losses.append(loss)
    return torch.stack(losses).mean()


class PrototypeMemory(nn.Module):
    """The prototypes of clusterings of all N rows, kept for an epoch.

    They are part of the state, so that a training that is resumed within an epoch goes on with
    them.

    Source: the E-step of PCL (Li et al., ICLR 2021).

    Args:
        n: N.
        dim: D, the width of the rows.
        n_clusters: of each of the T granularities (at most N are made).

    Attributes:
        assignments: [T, N] int64, the cluster of each row in each clustering.
    """

    assignments: Tensor
    epoch: Tensor

    def __init__(self, n: int, dim: int, n_clusters: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("epoch", torch.full((), -1, dtype=torch.int64))
        self.register_buffer("assignments", torch.zeros(len(n_clusters), n, dtype=torch.int64))
        for t, wanted in enumerate(n_clusters):
            self.register_buffer(f"directions_{t}", torch.zeros(min(wanted, n), dim))
            self.register_buffer(f"temperatures_{t}", torch.ones(min(wanted, n)))
        #: ``epoch`` on the host, which would wait for it on an accelerator at every step; None: not
        #: read yet
        self._epoch: int | None = None

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._epoch = None

    def forget(self) -> None:
        """Hold the prototypes of no epoch, before a training begins."""
        self.epoch.fill_(-1)
        self._epoch = -1

    def of_epoch(
        self, epoch: int, make: Callable[[], Sequence[PrototypeSet]]
    ) -> list[PrototypeSet]:
        """The prototypes of an epoch, made in its first step."""
        if self._epoch is None:
            self._epoch = int(self.epoch)
        if self._epoch != epoch:
            for own, new in zip(self._sets(), make(), strict=True):
                # those of the first rank, also where sums on a device are not the same each time
                own.assignments.copy_(stacked(new.assignments)[0])
                own.directions.copy_(stacked(new.directions)[0])
                own.temperatures.copy_(stacked(new.temperatures)[0])
            self.epoch.fill_(epoch)
            self._epoch = epoch
        return self._sets()

    def _sets(self) -> list[PrototypeSet]:
        sets = []
        for t, assignments in enumerate(self.assignments):
            directions, temperatures = f"directions_{t}", f"temperatures_{t}"
            one = PrototypeSet(assignments, getattr(self, directions), getattr(self, temperatures))
            sets.append(one)
        return sets
