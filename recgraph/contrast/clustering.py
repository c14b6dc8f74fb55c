"""k-means of embeddings, and how concentrated each cluster is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from recgraph.rng import derive
from recgraph.sparse.blocks import group_sizes, group_sums, row_blocks, work_type
from recgraph.sparse.device import full_precision, is_accelerated

Method = Literal["published", "scikit-learn"]

# Products of rows and centroids in a block: on the host 1 MiB of float32, so that their maximum is
# found in a core's cache (half the time at 4,000 rows and 700 centroids).
_CELLS_HOST, _CELLS_ACCELERATOR = 1 << 18, 1 << 24
# From this many columns numpy's argmax takes two thirds of torch's time (one thread).
_WIDE = 96


@dataclass(frozen=True)
class Clustering:
    """One k-means solution.

    Attributes:
        assignments: [N] int64.
        centroids: [k, D], means of the members (not normalised).
        objective: [], decides between restarts; higher is better.
    """

    assignments: Tensor
    centroids: Tensor
    objective: Tensor


def nearest(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[N] three times: the greatest inner product of each row, the index of its centroid (of equal
    ones the first), and the next greatest."""
    cells = _CELLS_HOST if x.is_cpu else _CELLS_ACCELERATOR
    if len(x) * len(centroids) <= 2 * cells:
        return _two_best(x @ centroids.t())
    values, rivals = x.new_empty(len(x)), x.new_empty(len(x))
    indices = torch.empty(len(x), dtype=torch.int64, device=x.device)
    for rows in row_blocks(len(x), len(centroids), x, max(cells // len(centroids), 32)):
        values[rows], indices[rows], rivals[rows] = _two_best(x[rows] @ centroids.t())
    return values, indices, rivals


def _two_best(products: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The greatest of each row, its column (of equal ones the first) and the next; the products are
    overwritten.
    """
    # numpy knows neither gradients nor bfloat16
    known_to_numpy = products.is_cpu and products.dtype in (torch.float32, torch.float64)
    if known_to_numpy and products.shape[1] >= _WIDE:
        index = torch.from_numpy(np.asarray(products.detach()).argmax(1))
        value = products.gather(1, index[:, None]).squeeze(1)
    else:
        value, index = products.max(1)
    return value, index, products.scatter_(1, index[:, None], -torch.inf).amax(1)


@torch.no_grad()
def kmeans(
    x: Tensor,
    k: int,
    *,
    seed: int = 0,
    iterations: int = 20,
    restarts: int = 5,
    start: Tensor | None = None,
    method: Method = "published",
) -> Clustering:
    """k-means of the rows of x, in float32 at least; the same for the same seed.

    ``"published"`` (MEOW through faiss): members go to the centroid with the greatest inner
    product, centroids are plain means, so that tight clusters, whose means are long, attract more;
    the first centroids are k different rows; the restart with the greatest sum of inner products
    wins. On the host a restart ends early where no member moves: further iterations would change
    nothing; an accelerator makes all of them, of all restarts at once. Departures: the draws are
    not faiss's, and an empty cluster begins again at the row that fits its centroid worst, where
    faiss splits another cluster. ``"scikit-learn"``: Lloyd's, Euclidean, from k-means++, on the
    host.

    Args:
        x: [N, D].
        k: clusters, at most N.
        iterations: at most, of each restart.
        restarts: runs from other first centroids.
        start: [k, D] first centroids of the only restart (a warm start).
    """
    if not 1 <= k <= len(x):
        raise ValueError(f"k = {k} must be from 1 to {len(x)}, the number of rows")
    x = x.detach().to(work_type(x))
    if method == "scikit-learn":
        return _by_scikit_learn(x, k, seed, iterations, restarts, start)
    firsts = []
    if start is not None:
        firsts.append(start.to(x.dtype))
    else:  # k different rows for each restart
        generator = torch.Generator(x.device).manual_seed(derive(seed, "kmeans", k))
        for _ in range(restarts):
            order = torch.randperm(len(x), generator=generator, device=x.device)
            firsts.append(x[order[:k]])
    with full_precision(x):
        if is_accelerated(x):
            return _all_at_once(x, torch.stack(firsts), iterations)
        clusterings = [_restart(x, first, iterations) for first in firsts]
    return max(clusterings, key=lambda clustering: float(clustering.objective))


def _all_at_once(x: Tensor, centroids: Tensor, iterations: int) -> Clustering:
    """The best of R restarts from centroids [R, k, D], for an accelerator: few kernels, and nothing
    is read.

    All iterations are made: those after no member moves change nothing.
    """
    n_restarts, k, width = centroids.shape
    first = torch.arange(n_restarts, device=x.device)[:, None] * k
    rows = x.repeat(n_restarts, 1)
    value, own = _nearest_of_each(x, centroids)
    for _ in range(iterations):
        members = (own + first).flatten()
        sizes = group_sizes(members, n_restarts * k).view(n_restarts, k)
        sums = group_sums(rows, members, n_restarts * k).view(n_restarts, k, width)
        # the place of an empty cluster among the empty ones of its restart chooses its row
        worst, empty_mask = value.topk(k, dim=1, largest=False).indices, sizes == 0
        fills = x[worst.gather(1, (empty_mask.cumsum(1) - 1).clamp(min=0))]
        centroids = torch.where(
            empty_mask[:, :, None], fills, sums / sizes.clamp(min=1)[:, :, None]
        )
        value, own = _nearest_of_each(x, centroids)
    objectives = value.sum(1)
    best = objectives.argmax()[None]
    return Clustering(
        assignments=own.index_select(0, best).squeeze(0),
        centroids=centroids.index_select(0, best).squeeze(0),
        objective=objectives.index_select(0, best).squeeze(0),
    )


def _nearest_of_each(x: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """[R, N] twice: the greatest inner product of each row with the k centroids of each restart,
    and its index.
    """
    n_restarts, k, _ = centroids.shape
    of_all = centroids.flatten(0, 1)
    block_rows = max(_CELLS_ACCELERATOR // (n_restarts * k), 32)
    values, indices = [], []
    for rows in row_blocks(len(x), n_restarts * k, x, block_rows):
        value, index = (of_all @ x[rows].t()).view(n_restarts, k, -1).max(1)
        values.append(value)
        indices.append(index)
    return torch.cat(values, 1), torch.cat(indices, 1)


def _restart(x: Tensor, centroids: Tensor, iterations: int) -> Clustering:
    k, near = len(centroids), nearest(x, centroids)
    for _ in range(iterations):
        value, assignments, _ = near
        last = centroids
        sizes = group_sizes(assignments, k)
        centroids = group_sums(x, assignments, k) / sizes.clamp(min=1)[:, None]
        empty = torch.nonzero(sizes == 0).squeeze(1)
        if empty.numel():
            fills = x[value.topk(empty.numel(), largest=False).indices]
            centroids = centroids.index_copy(0, empty, fills)
        near = _nearest_again(x, centroids, (centroids != last).any(1), near)
        if torch.equal(assignments, near[1]):
            break
    return Clustering(near[1], centroids, near[0].sum())


def _nearest_again(
    x: Tensor, centroids: Tensor, moved_mask: Tensor, near: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`nearest` after some centroids moved, updated from its last result: few move after the
    first iterations.

    Rows are compared with the moved centroids alone. This suffices unless a row's own centroid
    moved and the best of the moved ones is below the row's rival, an upper bound on the products
    with centroids that stayed; such rows are compared with all.
    """
    moved = torch.nonzero(moved_mask).squeeze(1)
    if 2 * len(moved) > len(centroids):
        return nearest(x, centroids)
    if not len(moved):
        return near
    value, own, rival = near
    best, which, second = nearest(x, centroids[moved])
    which = moved[which]
    own_moved = moved_mask[own]
    stayed = torch.where(own_moved, torch.minimum(rival, value), value)
    better = (best > stayed) | own_moved | ((best == stayed) & (which < own))
    again = torch.nonzero(own_moved & (best <= stayed)).squeeze(1)
    rival_of_stayed = torch.where(own_moved, stayed, torch.maximum(rival, value))
    rival = torch.where(better, torch.maximum(second, rival_of_stayed), torch.maximum(rival, best))
    value, own = torch.where(better, best, value), torch.where(better, which, own)
    if len(again):
        value[again], own[again], rival[again] = nearest(x[again], centroids)
    return value, own, rival


def _by_scikit_learn(
    x: Tensor, k: int, seed: int, iterations: int, restarts: int, start: Tensor | None
) -> Clustering:
    from sklearn.cluster import KMeans

    init: Any = "k-means++"
    if start is not None:
        init, restarts = np.asarray(start.to("cpu", x.dtype)), 1
    state = derive(seed, "kmeans", k) % 2**32
    model = KMeans(k, init=init, n_init=restarts, max_iter=iterations, random_state=state)
    model.fit(np.asarray(x.to("cpu")))
    assignments = torch.as_tensor(model.labels_, dtype=torch.int64, device=x.device)
    centroids = torch.as_tensor(model.cluster_centers_, dtype=x.dtype, device=x.device)
    return Clustering(assignments, centroids, x.new_tensor(-float(model.inertia_)))


@torch.no_grad()
def concentration(x: Tensor, clustering: Clustering, temperature: float) -> Tensor:
    """[k]: phi_c, the temperature of each prototype; their mean is ``temperature``.

    ``phi_c = mean over members of sqrt(x . c) / ln(n_c + 5)`` with c the plain centroid; clusters
    of fewer than two members take the greatest; clipped to the 10th and the 90th percentile; scaled
    to the mean ``temperature``.

    Source: MEOW's published code, after PCL (Li et al., ICLR 2021), which has a distance instead of
    the inner product. Departure: negative inner products count as 0 where the published root is
    NaN.
    """
    work = work_type(x, clustering.centroids)
    x, centroids, members = x.to(work), clustering.centroids.to(work), clustering.assignments
    with full_precision(x):
        closeness = torch.linalg.vecdot(x, centroids[members]).clamp(min=0).sqrt()
    k = len(centroids)
    sizes = group_sizes(members, k)
    phi = group_sums(closeness, members, k) / sizes.clamp(min=1) / (sizes + 5).to(work).log()
    phi = torch.where(sizes > 1, phi, 0)
    phi = torch.where(sizes > 1, phi, phi.max())
    low, high = torch.quantile(phi, 0.1), torch.quantile(phi, 0.9)
    phi = torch.minimum(torch.maximum(phi, low), high)
    mean = phi.mean()
    # it is 0 where every member is orthogonal to its centroid
    return torch.where(mean > 0, phi * (temperature / mean), temperature)
