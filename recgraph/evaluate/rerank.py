"""Re-rankers: lists are picked from the best items of a ranking, its pool, one item after the
other, under limits too.

The similarities of one kind are a matrix without negative eigenvalues, 1 of an item with itself, so
that a determinant of them is a volume.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from recgraph import registry
from recgraph.config import Config, Search, configure
from recgraph.data.item_features import ItemColumns
from recgraph.sparse.csr import Csr
from recgraph.sparse.products import co_occurrence, distinct, presence
from recgraph.sparse.ragged import Ragged

#: by the model's item vectors, or by the users who had both
SimilarBy = Literal["vectors", "co_occurrence"]
#: other items [R] -> their similarities [R, P] with the candidates of each row
Compare = Callable[[Tensor], Tensor]
#: unit vectors are rounded to multiples of 2^-24 (which float32 holds): products of two then add up
#: without rounding in float64, so that equal vectors are equally similar, in every order of the
#: sum, in blocks and on every machine
_GRID = float(1 << 24)
#: vectors that are rounded at a time, and candidates of lists that are picked at the same time
_ROWS, _CANDIDATES = 4096, 1 << 16
#: a volume below it counts as none: similarities of float32 vectors are known to about 1e-7
_LEAST_VOLUME = 1e-6


class Similarity(ABC):
    """What re-rankers compare items by."""

    @abstractmethod
    def of(self, items: Tensor) -> Compare:
        """Prepare candidates, [R, P] int64 item indices, to be compared with others: what is given
        for an item and itself is not read."""


class Cosine(Similarity):
    """The cosine of item vectors [n_items, D]; 0 where a vector is all zeros. ``unit`` [n_items, D]
    float32 are the directions, rounded to multiples of 2^-24."""

    def __init__(self, vectors: Tensor) -> None:
        vectors = vectors.detach()
        self.unit = torch.empty_like(vectors, dtype=torch.float32)
        for start in range(0, len(vectors), _ROWS):
            part = vectors[start : start + _ROWS]
            if (bad := (~part.isfinite().all(1)).nonzero()).numel():
                raise ValueError(
                    f"vectors: that of item index {start + int(bad[0])} is not finite; check the model"
                )
            unit = torch.nn.functional.normalize(part.double())
            self.unit[start : start + _ROWS] = unit.mul_(_GRID).round_().div_(_GRID)

    def of(self, items: Tensor) -> Compare:
        rows = self.unit[items].double()
        return lambda other: (rows @ self.unit[other].double()[:, :, None]).squeeze(2)


class Jaccard(Similarity):
    """The common values of two items over all their values; 0 where neither has one. ``columns``
    are codes [n_items, m] of each item feature, -1 behind the last value of an item."""

    def __init__(self, columns: Sequence[Tensor]) -> None:
        self._columns = tuple(columns)

    def of(self, items: Tensor) -> Compare:
        of_candidates = [codes[items] for codes in self._columns]
        sizes = self._sizes(items)

        def compare(other: Tensor) -> Tensor:
            both = torch.zeros(items.shape, dtype=torch.float64, device=items.device)
            for values, codes in zip(of_candidates, self._columns, strict=True):
                both += shared_values(values, codes[other][:, None]).any(3).sum(2)
            return both / (sizes + self._sizes(other)[:, None] - both).clamp(min=1)

        return compare

    def _sizes(self, items: Tensor) -> Tensor:
        """How many values each of the items has, of any shape."""
        return torch.stack([(codes[items] >= 0).sum(-1) for codes in self._columns]).sum(0)


class CoOccurrence(Similarity):
    """The cosine of the sets of users who have two items, ``|U_i and U_j| / sqrt(|U_i| |U_j|)``; 0
    where one has none. ``rows`` are the items of each user, repeats allowed."""

    def __init__(self, rows: Ragged, n_items: int) -> None:
        self._rows, self.n_items = rows, n_items

    @cached_property
    def _counted(self) -> tuple[Csr, Tensor]:
        """The items of each user, each once; how many users each item has."""
        users = presence(distinct(self._rows, self.n_items), self.n_items)
        return users, users.t().degrees.double()

    def of(self, items: Tensor) -> Compare:
        users, counts = self._counted
        sizes = counts[items]

        def compare(other: Tensor) -> Tensor:
            # lists that are picked at the same time often hold the same items: each is counted once
            wanted, which = torch.unique(other, return_inverse=True)
            order = which.argsort(stable=True)
            ends = [0, *torch.bincount(which, minlength=len(wanted)).cumsum(0).tolist()]
            both = torch.empty(items.shape, dtype=torch.float64, device=items.device)
            for first, block in co_occurrence(users, wanted):
                rows = order[ends[first] : ends[first + len(block)]]
                both[rows] = block[which[rows] - first].gather(1, items[rows])
            return both / (sizes * counts[other][:, None]).sqrt().clamp(min=1)

        return compare

    def rows(self, items: Tensor) -> Tensor:
        """[R, n_items] float64: the similarities of items [R] with all."""
        users, counts = self._counted
        similarities = torch.empty(len(items), self.n_items, dtype=torch.float64)
        for first, block in co_occurrence(users, items):
            rows = slice(first, first + len(block))
            lengths = (counts[items[rows], None] * counts).sqrt_().clamp_(min=1)
            torch.div(block, lengths, out=similarities[rows])
        return similarities


def shared_values(rows: Tensor, one: Tensor) -> Tensor:
    """[R, P, m, m]: which values of the items [R, P, m] are values of the items [R, 1, m]."""
    return (rows[..., :, None] == one[..., None, :]) & (rows >= 0)[..., :, None]


class RerankerConfig(Config):
    """Settings that every re-ranker has."""

    strength: Annotated[
        float,
        Field(ge=0, le=1, description="0: the ranking, 1: differences alone"),
        Search(0.01, 0.9, log=True),
    ] = 0.3
    pool: Annotated[
        int,
        Field(
            ge=1,
            description="the best items among which is picked; the list goes on by rank below them",
        ),
    ] = 100
    similarity: Annotated[
        SimilarBy,
        Field(
            description="of items: cosine of the model's vectors, or of the sets of users who have them"
        ),
    ] = "vectors"
    columns: Annotated[
        tuple[str, ...],
        Field(description="item features whose common values are the similarity instead"),
    ] = ()
    separator: Annotated[
        str | None,
        Field(min_length=1, description="between the values of a text column; lists need none"),
    ] = None
    relevance: Annotated[
        Literal["min_max", "probability"],
        Field(
            description="of scores: their place between the pool's least and greatest, or the softmax over the pool"
        ),
    ] = "min_max"


#: what :meth:`Reranker.gains` makes
Gains = Generator[Tensor, tuple[Tensor, Tensor], None]


class Reranker(ABC):
    """Base of all re-rankers. A subclass sets ``Config`` and fills :meth:`gains`.

    A list of k items is the beginning of one of more. With ``strength = 0`` gains fall with the
    rank. Settings are given as a value of ``Config``, or by name.
    """

    Config: ClassVar[type[RerankerConfig]] = RerankerConfig

    def __init__(self, config: RerankerConfig | None = None, /, **settings: Any) -> None:
        self.config: Any = configure(self, self.Config, config, settings)

    @abstractmethod
    def gains(self, relevance: Tensor, k: int) -> Gains:
        """Begin R lists of at most ``k`` items; relevance [R, P] is in [0, 1] and falls with rank.

        Yields before each of at most ``k`` picks the gains [R, P] of the candidates, float64 and
        finite: the next item is the one with the greatest gain of those that may be picked, of
        equal ones the better ranked. It is then sent the places [R] that were picked, and the
        similarities [R, P] of the candidates with them.
        """

    def relevance(self, scores: Tensor, pool_mask: Tensor) -> Tensor:
        """Scores [R, P], best first, brought to the scale of similarities, in [0, 1]; 0 outside the
        pool.
        """
        finite_mask = pool_mask & scores.isfinite()
        has_mask = finite_mask.any(1, keepdim=True)
        most = scores.masked_fill(~finite_mask, -torch.inf).amax(1, keepdim=True)
        most = torch.where(has_mask, most, 0.0)
        least = scores.masked_fill(~finite_mask, torch.inf).amin(1, keepdim=True)
        least = torch.where(has_mask, least, 0.0)
        known = torch.where(pool_mask, scores, -torch.inf).clamp(max=most)
        if self.config.relevance == "probability":
            share = (known - most).exp()
            share = share / share.sum(1, keepdim=True).clamp(min=1.0)
        else:
            span = most - least
            place = (known - least) / torch.where(span > 0, span, 1.0)
            share = torch.where(span > 0, place, 1.0).clamp(0, 1)
        # rounding must not raise an item above one that is ranked before it
        return torch.where(pool_mask, share, 0.0).cummin(1).values

    @property
    def specification(self) -> dict[str, Any]:
        """The name and every setting."""
        return {
            "name": registry.name_of("reranker", type(self)),
            **self.config.model_dump(mode="json"),
        }

    def __str__(self) -> str:
        """The specification as text, the same for equal re-rankers: what a protocol holds."""
        return json.dumps(self.specification, sort_keys=True)


def reranker_of(specification: str | Mapping[str, Any] | Reranker) -> Reranker:
    """A re-ranker from its name, its specification, the text of one, or itself."""
    if isinstance(specification, Reranker):
        return specification
    if isinstance(specification, str) and specification.startswith("{"):
        specification = json.loads(specification)
    reranker: Reranker = registry.make("reranker", specification)
    return reranker


class MMR(Reranker):
    """Maximal marginal relevance: the next item is the one of the pool that maximises

    ``(1 - strength) relevance_i - strength max_j similarity_ij``, j the items picked before.

    Source: Carbonell and Goldstein, SIGIR 1998, whose lambda is ``1 - strength``. Departures:
    relevance is the score brought to [0, 1] over the pool, so that one strength suits any model;
    the first item has no penalty.
    """

    def gains(self, relevance: Tensor, k: int) -> Gains:
        gain = (1 - self.config.strength) * relevance
        _, nearest = yield gain
        while True:
            _, similarity = yield gain - self.config.strength * nearest
            nearest = torch.maximum(nearest, similarity)


class DPP(Reranker):
    """Greedy MAP inference of a determinantal point process: the next item maximises

    ``(1 - strength) relevance_i + strength log det(S_{Y + i}) - strength log det(S_Y)``,

    S the similarities, Y the items picked before: the volume that the vectors of a list span. An
    incremental Cholesky factor gives every gain of a pool of M items in O(M k) a step, O(M k^2) for
    a list.

    Source: Chen, Zhang and Zhou, Fast Greedy MAP Inference for Determinantal Point Process to
    Improve Recommendation Diversity, NeurIPS 2018, algorithm 1 and section 4.2 (theta is ``1 -
    strength``; the kernel ``q_i S_ij q_j`` with ``q = exp(alpha relevance)``, ``alpha = theta / (2
    (1 - theta))``, has the same maxima). Departures: relevance is brought to [0, 1] over the pool;
    an item whose volume is below 1e-6 counts as 1e-6 and adds no direction, where the published
    algorithm ends the list.
    """

    def gains(self, relevance: Tensor, k: int) -> Gains:
        gain = (1 - self.config.strength) * relevance
        # rows of the Cholesky factor of each candidate beside the items picked
        factors = relevance.new_zeros(*relevance.shape, k)
        # what is left of its diagonal
        volume = torch.ones_like(relevance)
        for step in range(k):
            place, rest = yield gain + self.config.strength * volume.clamp(min=_LEAST_VOLUME).log()
            if step:
                picked = factors[torch.arange(len(place), device=place.device), place, :step]
                # added in one order, whatever the shape: equal candidates stay equal
                rest = rest - (factors[:, :, :step] * picked[:, None]).cumsum(2)[:, :, -1]
            left = volume.gather(1, place[:, None])
            factor = rest / left.clamp(min=_LEAST_VOLUME).sqrt()
            factor = torch.where(left > _LEAST_VOLUME, factor, 0.0)
            factors[:, :, step] = factor
            volume = (volume - factor.square()).clamp(min=0)


@dataclass(frozen=True)
class Reranking:
    """A re-ranker with what it compares items by."""

    reranker: Reranker
    similarity: Similarity


def bind(
    reranker: Reranker,
    setting: str,
    model: object,
    *,
    by_vectors: Callable[[], Cosine] | None,
    in_common: CoOccurrence | None,
    columns: ItemColumns | None,
    separator: str | None = None,
) -> Reranking:
    """Find the similarity that the settings of a re-ranker name; ``setting`` and ``model`` are for
    errors.

    What is None is not known here. ``separator`` serves where the re-ranker has none.
    """
    config = reranker.config
    if config.columns:
        if columns is None:
            raise ValueError(
                f"{setting}: columns = {list(config.columns)}: the item features are not known here"
            )
        separator = config.separator or separator
        setting = f"{setting}.columns"
        codes = [columns.codes(name, setting, separator) for name in config.columns]
        return Reranking(reranker, Jaccard(codes))
    if config.similarity == "co_occurrence":
        if in_common is None:
            raise ValueError(
                f"{setting}: similarity = 'co_occurrence' needs the log that the model was fitted on"
            )
        return Reranking(reranker, in_common)
    if by_vectors is None:
        name = type(model).__name__
        raise ValueError(
            f"{setting}: {name} has no item vectors; give columns, or similarity = 'co_occurrence'"
        )
    return Reranking(reranker, by_vectors())


@dataclass(frozen=True)
class Limit:
    """At most ``most`` items of a list share a value; ``codes`` [n_items, m] are those of each
    item, -1 behind.
    """

    codes: Tensor
    most: int


def pick(
    items: Tensor,
    scores: Tensor,
    k: int,
    limits: Sequence[Limit] = (),
    reranking: Reranking | None = None,
) -> tuple[Tensor, Tensor]:
    """Choose at most ``k`` items from rankings [R, P] int64, best first, -1 behind the last; one
    after the other.

    An item that breaks a limit is passed over. Among the first ``pool`` items ``reranking``
    chooses, below them (and where it is None) the rank.

    Returns:
        places [R, k] int64 in the rankings, in the order of the choice, -1 behind the last; and [R]
        bool, the rows that
        were searched to their end without ``k`` items: a longer ranking may hold more.
    """
    bad = (scores.isnan() & (items >= 0)).nonzero()
    if len(bad):
        raise ValueError(f"scores: row {int(bad[0, 0])} holds NaN; train or check the model")
    places = [torch.empty(0, k, dtype=torch.int64)]
    step = max(_CANDIDATES // max(items.shape[1], 1), 1)
    for start in range(0, len(items), step):
        rows = slice(start, start + step)
        places.append(_pick(items[rows], scores[rows], k, limits, reranking))
    picked = torch.cat(places)
    return picked, (picked[:, -1] < 0) & (items[:, -1] >= 0)


def _pick(
    items: Tensor, scores: Tensor, k: int, limits: Sequence[Limit], reranking: Reranking | None
) -> Tensor:
    n_rows, width = items.shape
    free_mask, known = items >= 0, items.clamp(min=0)
    of_limits = [limit.codes[known] for limit in limits]
    counts = list(map(torch.zeros_like, of_limits))
    by_rank = -torch.arange(width, device=items.device, dtype=torch.float64).expand(n_rows, -1)
    size = 0
    if reranking is not None:
        size = min(reranking.reranker.config.pool, width)
        compare = reranking.similarity.of(known[:, :size])
        relevance = reranking.reranker.relevance(scores[:, :size].double(), free_mask[:, :size])
        gains = reranking.reranker.gains(relevance, min(k, size))
        of_pool = next(gains)
    places = torch.full((n_rows, k), -1, device=items.device)
    rows = torch.arange(n_rows, device=items.device)
    for step in range(min(k, width)):
        open_mask = free_mask
        for limit, codes, count in zip(limits, of_limits, counts, strict=True):
            open_mask = open_mask & ((count < limit.most) | (codes < 0)).all(2)
        value = by_rank.masked_fill(~open_mask, float("-inf"))
        if reranking is not None:  # by gain where the pool has an item that may be picked
            in_pool = open_mask[:, :size].any(1, keepdim=True)
            value = value.masked_fill(in_pool, float("-inf"))
            gained = of_pool.masked_fill(~open_mask[:, :size], float("-inf"))
            value[:, :size] = torch.where(in_pool, gained, value[:, :size])
        # the first of equal values: the better ranked
        place = value.argmax(1)
        found_mask = open_mask.gather(1, place[:, None])[:, 0]
        if not bool(found_mask.any()):
            break
        places[:, step] = place.masked_fill(~found_mask, -1)
        free_mask[rows[found_mask], place[found_mask]] = False
        for codes, count in zip(of_limits, counts, strict=True):
            # a row without a choice is finished: what is counted for it is never read
            count += shared_values(codes, codes[rows, place][:, None]).any(3)
        # after as many steps as the pool has items, none of it can be picked any more
        if reranking is not None and step + 1 < min(k, size):
            inside = place.clamp(max=size - 1)
            of_pool = gains.send((inside, compare(known.gather(1, inside[:, None])[:, 0])))
    return places
