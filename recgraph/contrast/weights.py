"""Weights of candidates, and the sums over hidden units that a learned one is made of."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from recgraph.config import Config, Search
from recgraph.contrast.clustering import kmeans, nearest
from recgraph.contrast.parts import Component, Pairs
from recgraph.sparse.blocks import (
    EXPONENT_LIMIT,
    FEWEST_ROWS,
    refuse_second_derivative,
    row_blocks,
    unit_length,
)
from recgraph.sparse.device import is_accelerated

# Rows of a tile: it and its hidden unit stay in a core's cache. On an accelerator few and large
# kernels are better.
_ROWS_HOST, _ROWS_ACCELERATOR = 32, 4096
# More terms take longer than quotients, and so do the powers of columns where they serve fewer
# rows.
_MOST_TERMS, _FEWEST_ROWS = 15, 48


def tanh_sums(x: Tensor, y: Tensor, v: Tensor) -> Tensor:
    """[n, M]: ``sum_h v_h tanh(x_ih + y_hj)`` of x [n, H], y [H, M], v [H]; differentiable once."""
    return _TanhSums.apply(x, y, v)  # type: ignore[no-untyped-call, no-any-return]


class _TanhSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        ctx.way, parts = _way(x, y, v)
        ctx.save_for_backward(*parts)
        return ctx.way(*parts).sums()  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        refuse_second_derivative("a learned weight")
        return ctx.way(*ctx.saved_tensors).gradients(grad)  # type: ignore[no-any-return]


def _way(
    x: Tensor, y: Tensor, v: Tensor
) -> tuple[Callable[..., _Units | _Series], tuple[Tensor, ...]]:
    """The fastest of those that are exact to rounding for x and y as large as these, and what it is
    made of.

    An accelerator is not asked how large: the host would wait, and tanh costs no more there than a
    quotient.
    """
    if is_accelerated(x):
        return _Units, (x, y, v)
    most_x, most_y = x.abs().amax(0), y.abs().amax(1)
    scale = torch.tanh(most_y)
    q = torch.tanh(most_x) * scale
    ratio, widest = float((q / (1 + (1 - q * q).sqrt())).amax()), float(scale.amax())
    eps = torch.finfo(x.dtype).eps
    if len(x) >= _FEWEST_ROWS:
        for n_terms in range(1, _MOST_TERMS + 1):
            # what the others add to a slope, which is more than they add to a value
            if widest**2 / 2 * n_terms * ratio ** (n_terms - 1) <= 2 * eps:
                scale = scale.clamp(min=eps)
                return partial(_Series, n_terms), (
                    torch.tanh(x),
                    torch.tanh(y).div_(scale[:, None]),
                    v,
                    scale,
                )
    # e^-2x + e^2y and the inverse of its square are far from overflow and from subnormal numbers
    bounded = bool(torch.maximum(most_x, most_y).amax() <= EXPONENT_LIMIT[x.dtype] / 8)
    return _Quotients if bounded else _Units, (x, y, v)


class _Units:
    """One unit after the other, of x and y of any size."""

    def __init__(self, x: Tensor, y: Tensor, v: Tensor) -> None:
        self.x, self.y, self.v = x, y, v

    def sums(self) -> Tensor:
        """[n, M]."""
        x, y = self.x, self.y
        out = x.new_zeros(len(x), y.shape[1])
        for rows in _tiles(x):
            unit = torch.empty_like(out[rows])
            for h in range(len(y)):
                torch.add(x[rows, h, None], y[h], out=unit).tanh_()
                out[rows].addcmul_(unit, self.v[h])
        return out

    def gradients(self, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """By x, y and v, given those by the sums."""
        x, y = self.x, self.y
        grad_x, grad_y, grad_v = torch.empty_like(x), torch.zeros_like(y), x.new_zeros(len(y))
        for rows in _tiles(x):
            part = grad[rows].contiguous()
            unit, slope = torch.empty_like(part), torch.empty_like(part)
            of_row, of_column = part.new_ones(part.shape[0]), part.new_ones(part.shape[1])
            for h in range(len(y)):
                torch.add(x[rows, h, None], y[h], out=unit).tanh_()
                grad_v[h] += torch.dot(unit.view(-1), part.view(-1))
                # the derivative of tanh is 1 - tanh^2
                torch.addcmul(part, torch.mul(unit, part, out=slope), unit, value=-1, out=slope)
                grad_x[rows, h] = slope @ of_column
                grad_y[h] += of_row @ slope
        return grad_x * self.v, grad_y * self.v[:, None], grad_v


class _Quotients(_Units):
    """As ``tanh(x + y) = 1 - 2 g / (f + g)`` with ``g = e^-2x`` and ``f = e^2y``: a pair takes a
    sum and a quotient.

    Exponentials are of rows and columns alone: a ninth of tanh's time.
    """

    def sums(self) -> Tensor:
        f, g = torch.exp(2 * self.y), torch.exp(-2 * self.x)
        out = f.new_empty(len(g), f.shape[1]).fill_(self.v.sum())
        scaled = -2 * self.v * g
        for rows in _tiles(g):
            unit = torch.empty_like(out[rows])
            for h in range(len(f)):
                torch.add(f[h], g[rows, h, None], out=unit)
                out[rows].addcdiv_(scaled[rows, h, None], unit)
        return out

    def gradients(self, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # with s = grad / (f + g)^2 and q = g / (f + g): grad q (1 - q) = s f g and grad q = s f g +
        # s g^2
        f, g = torch.exp(2 * self.y), torch.exp(-2 * self.x)
        along = g.t().contiguous()
        by_f, by_one, grad_y = torch.empty_like(g), torch.empty_like(g), torch.zeros_like(f)
        for rows in _tiles(g):
            part = grad[rows].contiguous()
            unit, of_column = torch.empty_like(part), part.new_ones(part.shape[1])
            for h in range(len(f)):
                torch.add(f[h], g[rows, h, None], out=unit).square_()
                torch.div(part, unit, out=unit)
                by_f[rows, h], by_one[rows, h] = unit @ f[h], unit @ of_column
                grad_y[h].addmv_(unit.t(), along[h, rows])
        by_f *= g
        grad_v = grad.sum() - 2 * (by_f + by_one * g * g).sum(0)
        return 4 * self.v * by_f, 4 * self.v[:, None] * f * grad_y, grad_v


class _Series:
    """As a product of two matrices, L [n, 1 + K H] of x and R [1 + K H, M] of y, where x and y are
    small.

    With ``r = tanh x``, ``t = tanh y / scale`` in [-1, 1], ``q = scale r``, ``s = sqrt(1 - q^2)``
    and ``z = -q / (1 + s)``

        ``tanh(x + y) = (r + scale t) / (1 + q t) = c + 2 scale (1 - r^2) / (s + s^2) sum_{k >= 1}
        z^(k - 1) T_k(t)``,

    T_k the Chebyshev polynomials, of which the first K are enough: about 6 in float32 for rows of
    length 1 and a first layer as torch draws it. R has the powers of t, and L their coefficients;
    that of the power 0 is r, as y = 0 shows.
    """

    def __init__(self, n_terms: int, r: Tensor, t: Tensor, v: Tensor, scale: Tensor) -> None:
        self.r, self.t, self.v = r, t, v
        self.q = r * scale
        self.s = (1 - self.q * self.q).sqrt_()
        z = -self.q / (1 + self.s)
        self.terms = r.new_empty(n_terms, *r.shape)
        torch.div(2 * scale * (1 - r * r), self.s + self.s * self.s, out=self.terms[0])
        for k in range(1, n_terms):
            torch.mul(self.terms[k - 1], z, out=self.terms[k])
        # the coefficients of the powers 1, 2, ... in the polynomials T_1, T_2, ...
        polynomials = torch.eye(1 + n_terms, dtype=torch.float64)
        for k in range(2, 1 + n_terms):
            polynomials[k] = 2 * polynomials[k - 1].roll(1) - polynomials[k - 2]
        self.chebyshev = polynomials[1:, 1:].t().to(r)
        self.by_power = self._by_power(self.terms)

    def sums(self) -> Tensor:
        left = torch.cat([(self.r @ self.v)[:, None], *(self.by_power * self.v)], 1)
        out = left.new_empty(len(left), self.t.shape[1])
        for columns in self._tiles():
            torch.mm(left, self._right(columns), out=out[:, columns])
        return out

    def gradients(self, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n_units = len(self.v)
        # the derivatives of the coefficients by x; that of tanh by y is the same as by x
        slopes = self.terms * (self.terms[0] * self.q * (0.5 / self.s + 1) - 2 * self.r)
        for k in range(1, len(slopes)):
            slopes[k].addcmul_(self.terms[0], self.terms[k - 1], value=-k / 2)
        left = torch.cat([(1 - self.r * self.r) * self.v, *(self._by_power(slopes) * self.v)], 1)
        sums = torch.zeros_like(left[:, n_units - 1 :])
        grad_y = torch.empty_like(self.t)
        for columns in self._tiles():
            right, part = self._right(columns), grad[:, columns]
            sums.addmm_(part, right.t())
            of_powers = torch.mm(left.t(), part)
            of_powers[n_units:] *= right[1:]
            torch.sum(of_powers.view(-1, n_units, right.shape[1]), 0, out=grad_y[:, columns])
        of_all, of_powers = sums[:, :1], sums[:, 1:].view(len(left), -1, n_units).transpose(0, 1)
        slopes = left.view(len(left), -1, n_units).transpose(0, 1)
        grad_x = slopes[0] * of_all + (slopes[1:] * of_powers).sum(0)
        return grad_x, grad_y, (self.r * of_all).sum(0) + (self.by_power * of_powers).sum((0, 1))

    def _by_power(self, terms: Tensor) -> Tensor:
        """[K, n, H]: the coefficients of the powers from 1 on, of those of the polynomials."""
        return (self.chebyshev @ terms.flatten(1)).view(terms.shape)

    def _right(self, columns: slice) -> Tensor:
        t = self.t[:, columns]
        right = t.new_empty(1 + len(self.terms) * len(t), t.shape[1])
        right[0] = 1
        powers = right[1:].view(-1, *t.shape)
        powers[0] = t
        for k in range(1, len(powers)):
            torch.mul(powers[k - 1], t, out=powers[k])
        return right

    def _tiles(self) -> Iterator[slice]:
        """Columns whose powers take the memory of a block."""
        return row_blocks(self.t.shape[1], (1 + len(self.terms)) * len(self.t), self.t)


def _tiles(x: Tensor) -> list[slice]:
    step = _ROWS_HOST if x.is_cpu else _ROWS_ACCELERATOR
    return [slice(start, min(start + step, len(x))) for start in range(0, len(x), step)]


__all__ = ["Pairs", "Weight", "WeightConfig"]


class WeightConfig(Config):
    """Settings of a weight."""


class Weight(Component):
    """Base of all weights. A subclass sets ``Config`` and fills :meth:`log_w`.

    A weight speaks about candidates in general; whether the positive is one of them, and whether it
    is weighted, is the objective's to say. It may have parameters, and may depend on the
    embeddings: gradients flow into both.
    """

    Config: ClassVar[type[WeightConfig]] = WeightConfig

    def prepare(self, clusterings: Callable[[], Tensor], ids: Tensor | None = None) -> None:
        """Called before use by models that cluster what they contrast; a weight that reads
        clusterings takes them.

        Args:
            clusterings: makes [T, N] int64, the cluster of each id in each of T clusterings.
            ids: [N] int64, ascending, whose columns these are; None: 0 ... N - 1.
        """

    def log_w(self, pairs: Pairs) -> Tensor:
        """[n, M] log-weights in the type of the embeddings; ``-inf`` takes a candidate out.

        Each row must depend on its own anchor and the candidates alone: it is called on blocks of
        any size.
        """
        raise NotImplementedError

    def log_w_beside(self, pairs: Pairs, ids: Tensor, rows: Tensor) -> Tensor:
        """[n], the log-weight of one more candidate of each anchor.

        For objectives that draw candidates beside the positive. A weight that looks at candidates
        together (normalises or clusters them) overrides it and looks at those of ``pairs`` alone.

        Args:
            ids: [n] int64, of the further candidates.
            rows: [n, D], their embeddings.
        """
        log_w = []
        for start in range(0, len(ids), FEWEST_ROWS):
            tile = slice(start, start + FEWEST_ROWS)
            of_tile = Pairs(pairs.anchor_ids[tile], ids[tile], pairs.anchors[tile], rows[tile])
            log_w.append(self.log_w(of_tile).diagonal())
        return torch.cat(log_w)

    def factor(self, pairs: Pairs) -> Tensor | None:
        """[n, M] the weights themselves, where they are at hand; None: take :meth:`log_w`.

        For weights between 0 and 256, the greatest of a row 0 or at least e^-10. They spare a
        logarithm and two passes for each pair: an eighth of the time of MEOW's loss.
        """
        return None


class SelfMask(Weight):
    """Weight 0 where anchor and candidate have the same id, else 1.

    With the default ids this is the other view of the same row, which the objective puts back where
    it counts the positive; with users as ids, also the user's other samples in the batch.
    """

    def log_w(self, pairs: Pairs) -> Tensor:
        same = pairs.anchor_ids[:, None] == pairs.candidate_ids
        return pairs.anchors.new_zeros(same.shape).masked_fill_(same, -math.inf)


class SameTarget(SelfMask):
    """The self mask where the ids are the samples' target items: DuoRec's mask of false negatives.

    Source: Qiu et al., "Contrastive Learning for Representation Degeneration Problem in Sequential
    Recommendation", WSDM 2022.
    """


class ClusterConfig(WeightConfig):
    n_clusters: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...],
        Field(min_length=1, description="clusters of each granularity, at most one a row"),
    ] = (10, 30)
    iterations: Annotated[int, Field(ge=1, description="of k-means, where none are given")] = 10


class Cluster(Weight):
    """``w_ij = T - (number of the T clusterings in which i and j share a cluster)``.

    Source: MEOW (SDM 2023). A candidate in all of the anchor's clusters is out (weight 0), one that
    shares none counts T times. The clusterings are those given to :meth:`prepare`, looked up by id.
    Where none were given, the candidates at hand are clustered (k-means of their directions,
    without gradient; granularity t has the seed t) and an anchor belongs to the nearest centroid,
    so that the weight serves any contrastive model whatever its rows are.

    Attributes:
        assignments: [T, N] int64, the cluster of each id in each clustering, or None. Not part of
            the state: they are made anew in each epoch.
    """

    Config = ClusterConfig
    assignments: Tensor | None
    ids: Tensor | None

    def __init__(self, config: ClusterConfig | None = None, /, **settings: object) -> None:
        super().__init__(config, **settings)
        self.register_buffer("assignments", None, persistent=False)
        self.register_buffer("ids", None, persistent=False)
        self._made: tuple[weakref.ref[Tensor], list[Tensor], Tensor] | None = None

    def prepare(self, clusterings: Callable[[], Tensor], ids: Tensor | None = None) -> None:
        self.assignments, self.ids = clusterings(), ids

    def log_w(self, pairs: Pairs) -> Tensor:
        return self._apart(pairs).to(pairs.anchors.dtype).log_()

    def log_w_beside(self, pairs: Pairs, ids: Tensor, rows: Tensor) -> Tensor:
        ours, _ = self._clusters(pairs)
        theirs, _ = self._clusters(Pairs(ids, pairs.candidate_ids, rows, pairs.candidates))
        return (ours != theirs).sum(0).to(pairs.anchors.dtype).log_()

    def factor(self, pairs: Pairs) -> Tensor | None:
        apart = self._apart(pairs)
        return apart.to(pairs.anchors.dtype) if apart.dtype == torch.uint8 else None

    def _apart(self, pairs: Pairs) -> Tensor:
        """[n, M]: T - shared, counted in bytes: these are passes over all pairs."""
        ours, theirs = self._clusters(pairs)
        ours, theirs = ours.to(torch.int32), theirs.to(torch.int32)
        count = torch.uint8 if len(ours) < 256 else torch.int32
        apart = (ours[0][:, None] != theirs[0]).view(torch.uint8).to(count)
        for mine, other in zip(ours[1:], theirs[1:], strict=True):
            apart += (mine[:, None] != other).view(torch.uint8).to(count)
        return apart

    @torch.no_grad()
    def _clusters(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """[T, n] and [T, M]: the clusters of anchors and candidates; where none were given made
        once for all blocks.
        """
        if self.assignments is not None:
            ours, theirs = pairs.anchor_ids, pairs.candidate_ids
            if self.ids is not None:
                ours = torch.searchsorted(self.ids, ours)
                theirs = torch.searchsorted(self.ids, theirs)
            return self.assignments[:, ours], self.assignments[:, theirs]
        if self._made is None or self._made[0]() is not pairs.candidates:
            self._made = self._cluster(pairs.candidates)
        _, centroids, of_candidates = self._made
        units = F.normalize(pairs.anchors.detach(), dim=1)
        return torch.stack([nearest(units, of_one)[1] for of_one in centroids]), of_candidates

    def _cluster(self, candidates: Tensor) -> tuple[weakref.ref[Tensor], list[Tensor], Tensor]:
        """Whose clusters they are, the centroids [k, D] of each clustering, and [T, M] the clusters
        of the candidates.
        """
        units = F.normalize(candidates.detach(), dim=1)
        iterations = self.config.iterations
        centroids, assignments = [], []
        for seed, n_clusters in enumerate(self.config.n_clusters):
            k = min(n_clusters, len(units))
            clustering = kmeans(units, k, seed=seed, iterations=iterations, restarts=1)
            centroids.append(clustering.centroids)
            assignments.append(clustering.assignments)
        return weakref.ref(candidates), centroids, torch.stack(assignments)


# sums of smaller weights might leave the range of numbers
_MOST_LOGIT = 10.0


class LearnedConfig(WeightConfig):
    dim: Annotated[int, Field(ge=1, exclude=True, description="width of the embeddings")] = 64
    inner_dim: Annotated[int, Field(ge=1, description="hidden units of the network")] = 16
    normalise: Annotated[
        bool,
        Field(
            description="mean weight 1 for each anchor, so that weights cannot shrink everywhere"
        ),
    ] = False


class Learned(Weight):
    """``w_ij = sigmoid(b + v . tanh(W (z_i + z_j) + c))``; normalised: ``w_ij / mean_j w_ij``.

    Source: AdaMEOW (TKDE 2024, arXiv 2212.13847). Nothing stops the published weights from
    shrinking everywhere: the loss falls with them. ``normalise`` takes that way out. The first
    layer is linear, so that it is applied to rows, ``W z_i + W z_j``; no n x M x ``inner_dim``
    tensor is made (:func:`recgraph.contrast.weights.tanh_sums`). Differentiable once.
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
        w, c, v, b = self._layers(pairs.anchors)
        x, y = F.linear(pairs.anchors.to(w.dtype), w, c), F.linear(pairs.candidates.to(w.dtype), w)
        return tanh_sums(x, y.t().contiguous(), v[0]).add_(b)

    def log_w_beside(self, pairs: Pairs, ids: Tensor, rows: Tensor) -> Tensor:
        of_rows = self._of_rows(pairs.anchors, rows)
        if self.config.normalise:
            # the same mean, found from one candidate: log_w is its logarithm less that of the mean
            of_rows = of_rows + (
                self.log_w(pairs)[:, 0] - self._of_rows(pairs.anchors, pairs.candidates[:1])
            )
        return of_rows.to(pairs.anchors.dtype)

    def _layers(self, like: Tensor) -> tuple[Tensor, ...]:
        work = torch.promote_types(like.dtype, self.first.weight.dtype)
        return tuple(
            p.to(work)
            for p in (self.first.weight, self.first.bias, self.second.weight, self.second.bias)
        )

    def _of_rows(self, anchors: Tensor, rows: Tensor) -> Tensor:
        """[n]: the log-weights of rows in pairs, [n, D] and [n, D] or [1, D], not normalised."""
        w, c, v, b = self._layers(anchors)
        hidden = torch.tanh(F.linear(anchors.to(w.dtype), w, c) + F.linear(rows.to(w.dtype), w))
        return F.logsigmoid(hidden @ v[0] + b)


# taken off the exponent of a candidate that is not in K_i: its share of the sum is 0, and so is its
# gradient
_FAR = 1e4
# no cosine is as great, rounded as it may be
_MOST = 1.1


class HardnessConfig(WeightConfig):
    beta: Annotated[
        float,
        Field(ge=0, le=100, description="how much similar candidates are preferred; 0: all alike"),
        Search(0.1, 10.0, log=True),
    ] = 1.0
    hardest: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="share of the candidates that count, the most similar ones; 1: all",
        ),
        Search(0.05, 1.0, log=True),
    ] = 1.0


class Hardness(Weight):
    """``w_ij = e^{beta c_ij} / mean_k e^{beta c_ik}`` over the candidates k in K_i, 0 outside; c is
    the cosine.

    K_i are, of the candidates of other ids, the share ``hardest`` of greatest c_ik. A candidate of
    the anchor's own id, among them its positive and itself, has weight 1.

    Sources: with ``hardest=1`` the importance of Robinson et al., "Contrastive Learning with Hard
    Negative Samples" (ICLR 2021); with ``beta=0`` the explicit hard loss of Wang and Liu,
    "Understanding the Behaviour of Contrastive Loss" (CVPR 2021), whose interval ends at 1. The
    loss itself is aware of hardness: its gradient by ``s_ij`` is proportional to ``w_ij e^{s_ij}``,
    so that ``beta`` acts on the candidates as a temperature ``1 / (1 / tau + beta)`` does, but on
    the positive not at all. As in the code of Robinson et al. gradients flow through the weights;
    thresholds have none.

    Departures: ``beta`` is of cosines, the authors' code has one of ``c / tau`` (theirs is ``tau``
    times ours). Their correction for false negatives is the objectives' (``debiased_nt_xent``).
    """

    Config = HardnessConfig

    def log_w(self, pairs: Pairs) -> Tensor:
        c, own, out, _ = self._compared(pairs)
        kept, n_kept = self._kept(c, out)
        # own and out are overwritten: each matrix more would drive others from the cache 0, and
        # -inf where it is out but not of the anchor's id; of numbers, as a mask takes several times
        # as long
        barred = None
        if out is not own:
            barred = out.sub_(own).neg_().add_(0.5).mul_(math.inf).clamp_(max=0)
        log_w = (kept.log_softmax(1) + n_kept.clamp(min=1).log()).mul_(own.neg_().add_(1))
        if barred is not None:
            log_w = log_w.add_(barred)
        return log_w

    def log_w_beside(self, pairs: Pairs, ids: Tensor, rows: Tensor) -> Tensor:
        c, _, out, lowest = self._compared(pairs)
        kept, n_kept = self._kept(c, out)
        of_rows = torch.linalg.vecdot(unit_length(pairs.anchors), unit_length(rows))[:, None]
        beside = self.config.beta * of_rows - kept.logsumexp(1, keepdim=True) + n_kept.log()
        # where K_i is empty it is the only candidate
        beside = torch.where(n_kept > 0, beside, 0)
        beside = beside.masked_fill(of_rows < lowest, -math.inf)
        return beside.masked_fill((pairs.anchor_ids == ids)[:, None], 0)[:, 0]

    def _compared(self, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """[n, M] each: cosines, 1 where a candidate is of the anchor's own id, 1 where it is out of
        K_i; [n, 1]: the least cosine in K_i."""
        c = pairs.cosines()
        out = own = pairs.same()
        lowest = c.new_full((len(c), 1), -math.inf)
        if self.config.hardest < 1:
            with torch.no_grad():
                among = torch.sub(c, own, alpha=_FAR)
                lowest = self._threshold(among, c.shape[1] - own.sum(1, keepdim=True))
                out = torch.maximum(own, torch.lt(c, lowest, out=among))
        return c, own, out, lowest

    def _kept(self, c: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """[n, M]: ``beta c`` over K_i, far less outside, in the memory of c; [n, 1]: how many are
        in it.
        """
        return c.mul_(self.config.beta).sub_(out, alpha=_FAR), c.shape[1] - out.sum(1, keepdim=True)

    def _threshold(self, among: Tensor, n_among: Tensor) -> Tensor:
        """[n, 1]: the least of the greatest cosines of each row, a share ``hardest`` of the
        ``n_among`` [n, 1].

        By halving the interval that it is in: to count takes a hundredth of the time that sorting
        does. Cosines that differ by less than they are rounded count as the same.
        """
        n_hard, eps = n_among.mul(self.config.hardest).ceil_(), torch.finfo(among.dtype).eps
        low, high = torch.full_like(n_hard, -_MOST), torch.full_like(n_hard, _MOST)
        buffer = torch.empty_like(among)
        for _ in range(math.ceil(math.log2(2 * _MOST / eps))):
            middle = (low + high) / 2
            surplus = torch.ge(among, middle, out=buffer).sum(1, keepdim=True) - n_hard
            low = torch.where(surplus < 0, low, middle)
            high = torch.where(surplus > 0, high, middle)
            if not is_accelerated(among) and bool((low == high).all()):
                break
        lowest = torch.lt(among, low, out=buffer).mul_(2 * _FAR).add_(among).amin(1, keepdim=True)
        # what another product rounds otherwise is still the same candidate
        return torch.where(n_among > 0, lowest - 8 * eps, -math.inf)
