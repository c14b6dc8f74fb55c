"""What a recommender of meta-paths reads of a user: the edges of the user's row, and the paths that begin with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recgraph.blocks import row_blocks
from recgraph.data.samples import Query
from recgraph.graph.frames import INTERACTS
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath
from recgraph.graph.pathsim import divide_hubs, halves, steps_of
from recgraph.graph.route import Route, Step
from recgraph.models.collaborative.reading import EdgeReading, Row, row_of
from recgraph.models.heterogeneous.base import GraphSpace
from recgraph.sparse.csr import Csr
from recgraph.sparse.hubs import groups_of_hubs
from recgraph.sparse.operators import power
from recgraph.sparse.products import compose
from recgraph.sparse.spmm import Layered, Operator, spmm

__all__ = ["MetaPathReading"]

#: how the scale of a user's row of a path follows the row's sum
_EXPONENTS = {"row": -1.0, "symmetric": -0.5, "column": 0.0, "meow": 0.0}


@dataclass(frozen=True)
class _View:
    """The user's row of a path's adjacency, or of its masked twin.

    Attributes:
        attention: of the view.
        entries: [E], as they were fitted, of the path's ends; 0 where there is none.
        is_twin: entries are binary, and the user's own is a self-loop.
    """

    attention: Tensor
    entries: Tensor
    is_twin: bool


@dataclass(frozen=True)
class _Path:
    """A path of users whose first step is the edge to an item.

    Attributes:
        ends: [E] int64, the users that a view's row leads to.
        is_self: [E], 1 at the user.
        counts: [E], the paths from the user to each end; 1 where there are none.
        weights: [n_items], of the first step to each item; the mean of the user's own where the user has no edge.
        steps: the matrices behind the first step, by which counts were composed, times ``weights``.
        source: [E, D], what the path's convolution reads of each end; of the user without its context.
        contexts: for each step but the last, the matrices behind the first one that lead to its nodes, and the vectors
            of all nodes of its type.
        views: one or two.
        binary: entries are there or not, and have no counts.
        exponent: of the row's sum in its scale.
    """

    ends: Tensor
    is_self: Tensor
    counts: Tensor
    weights: Tensor
    steps: tuple[Csr, ...]
    source: Tensor
    contexts: tuple[tuple[tuple[Csr, ...], Tensor], ...]
    views: tuple[_View, ...]
    binary: bool
    exponent: float


class MetaPathReading(EdgeReading):
    """A user's row of the fitted graph, as :class:`recgraph.models.heterogeneous.recommender.MetaPathRecommender` reads
    it: by propagation (:class:`EdgeReading`) and through its meta-paths.

    **What is computed anew**, besides the propagated row. A meta-path of users whose first step is the interaction
    (``user-item-user``) counts c(v) paths from the user to v, each through one item of the row: as the path was
    composed, with weights, repeated edges and the groups of hubs (``hub_cap``). An item that does not stand in the row
    has an edge of the row's mean weight, and of a hub a share of each group. For a set S of items, with c_S(v) of them
    through S:

    - an entry of the user's row is multiplied by ``c_S(v) / c(v)``; of binary counts, and of a masked twin, it stays as
      long as c_S(v) > 0, and a twin's self-loop stays. Which users the top-k chose stays, and which edges a twin masks.
    - the row's scale follows: by ``sum_S ** -1/2`` (``normalisation="symmetric"``) or ``sum_S ** -1``
      (``"row"``); ``"column"`` and ``"meow"`` keep it.
    - the user's context is the mean over what S reaches.

    Attention over views, all vectors that were learned, and the rows of all other nodes stay as they are; so does what
    paths through other types (``user-occupation-user``) say of the user. The inputs are what passes through each item
    with the scales held: what it sends over its edge, its share of the user's context, and the shares
    ``c_i(v) / c(v)`` of the entries of other users that are counts; entries that are binary, and contexts further out,
    stay with the constant.

    Raises:
        ValueError: ``view_encoder`` is not ``"light"``, or ``twin`` is ``"latent"``.
    """

    _begin: Tensor

    def __init__(self, model: Any, query: Query) -> None:
        config = model.config
        reads_views = config.recommend_by != "interactions"
        if reads_views and (config.view_encoder != "light" or config.twin == "latent"):
            name, value = ("twin", "latent") if config.twin == "latent" else ("view_encoder", config.view_encoder)
            raise ValueError(
                f"attribution: {name} = {value!r} mixes the rows of all users by layers that are not linear, so that "
                "one row cannot be computed alone; use view_encoder = 'light' with twin = 'masked' or 'none'"
            )
        self._paths: tuple[_Path, ...] = ()
        self._begin = own = model.own_vectors()
        if reads_views:
            fine = model.fine_vectors(own, None)
            self._begin = fine if config.recommend_by == "fine" else own + fine
        super().__init__(model, query)
        if reads_views:
            self._paths = tuple(self._paths_of_user(model, own))
        full_mask = torch.ones(1, len(self.items), dtype=torch.bool, device=self.items.device)
        # what stays of the vector that propagation begins with
        self._still = self.start[self.user] - self._moving(row_of(self.items, full_mask, None, own.dtype))[0]

    @property
    def attends_paths(self) -> bool:
        return bool(self.model.config.recommend_by != "interactions")

    def begin(self) -> Tensor:
        return self._begin

    def own(self, row: Row) -> Tensor:
        return self._still + self._moving(row)

    def own_inputs(self, items: Tensor) -> Tensor | None:
        found = self._begin.new_zeros(len(items), self._begin.shape[1])
        for path in self._paths:
            for view in path.views:
                (_, vectors), *_ = path.contexts
                loop = (view.entries * path.is_self).sum()
                # an edge of weight 0 leads nowhere
                there = path.weights.sign()
                share = there[items] / there[self.items].sum().clamp(min=1)
                found += view.attention * loop * share[:, None] * vectors[items]
                if not (view.is_twin or path.binary):
                    for rows, through in _blocks(path.steps, items, path.ends):
                        shares = through.to(found.dtype) / path.counts * (1 - path.is_self)
                        found[rows] += view.attention * (shares * view.entries) @ path.source
        return found

    def _moving(self, row: Row) -> Tensor:
        """[V, D]: the sum of the user's views along the paths that begin with an edge to an item."""
        total = self._begin.new_zeros(len(row.marks), self._begin.shape[1])
        for path in self._paths:
            left = _reached(path.steps, row, path.ends)
            context = self._context(path, row)
            for view in path.views:
                ratio = left / path.counts
                if view.is_twin or path.binary:
                    ratio = (left > 0).to(left.dtype)
                if view.is_twin:
                    ratio = torch.where(path.is_self > 0, 1.0, ratio)
                sums = torch.ones_like(path.counts) if view.is_twin or path.binary else path.counts
                sums = sums * (view.entries != 0)
                scale = power(ratio @ sums * power(sums.sum(), -1), path.exponent)
                entries = scale[:, None] * ratio * view.entries
                total += view.attention * (entries @ path.source + (entries @ path.is_self)[:, None] * context)
        return total

    def _context(self, path: _Path, row: Row) -> Tensor:
        """[V, D]: the user's context, the mean over the distinct nodes that each variant reaches in each step."""
        total = row.marks.new_zeros(len(row.marks), path.source.shape[1])
        for steps, vectors in path.contexts:
            marks, of_nodes = row.marks * path.weights[row.items].sign(), vectors[row.items] if not steps else vectors
            if steps:
                every = torch.arange(steps[-1].shape[1], device=row.items.device)
                marks = (_reached(steps, row, every) > 0).to(marks.dtype)
            total += power(marks.sum(1), -1)[:, None] * (marks @ of_nodes)
        return total

    def _paths_of_user(self, model: Any, own: Tensor) -> Iterator[_Path]:
        space, config = model.space, model.config
        assert isinstance(space, GraphSpace)
        views, inputs, hidden, _ = next(model.read_views(own, None))
        attention = views.weights_of_views()
        each = len(attention) // len(inputs.paths)
        contexts = views.contexts(inputs, hidden)
        for number, (path, context) in enumerate(zip(inputs.paths, contexts, strict=True)):
            route = MetaPath(path.name).route(space.graph)
            if route[0] != Step(INTERACTS):
                continue
            adjacencies = [path.adjacency, path.masked][:each]
            rows = torch.stack([_row(one, self.user, own) for one in adjacencies])
            ends = torch.unique(torch.cat([rows.any(0).nonzero()[:, 0], self.items.new_tensor([self.user])]))
            is_self = (ends == self.user).to(own.dtype)
            patterns = tuple(step.matrix(space.graph).pattern().to(own.device) for step in route)
            weights, steps = self._composition(route, space.graph, config)
            source = hidden["user"][ends] + context[ends] * (1 - is_self)[:, None]
            made = _Path(
                ends=ends,
                is_self=is_self,
                counts=torch.ones_like(is_self),
                weights=weights.to(own),
                steps=tuple(step.to(own.device) for step in steps),
                source=source,
                contexts=tuple((patterns[1:hop], hidden[step.end]) for hop, step in enumerate(route[:-1], 1)),
                views=tuple(
                    _View(attention[number * each + place], rows[place, ends], place > 0)
                    for place in range(len(adjacencies))
                ),
                binary=config.counts == "binary",
                exponent=_EXPONENTS[config.normalisation],
            )
            row = Row(self.items, torch.ones(1, len(self.items), dtype=own.dtype, device=own.device))
            counts = _reached(made.steps, row, ends)[0]
            yield replace(made, counts=counts.masked_fill(counts == 0, 1))

    def _composition(self, route: Route, graph: HeteroGraph, config: Any) -> tuple[Tensor, tuple[Csr, ...]]:
        """The weights of the first step, and the matrices behind it, as :class:`_Path` has them."""
        steps = [
            step.pattern() if config.counts == "binary" else step.coalesce()
            for step in steps_of(route, graph, weights=True, counts=config.counts)
        ]
        user, items = (x.to(graph.device) for x in (self.items.new_tensor([self.user]), self.items))
        row = steps[0].take_rows(user)
        values = row.values(torch.float64)
        weights = (values.sum() / max(row.nnz, 1)).repeat(row.shape[1])
        weights[items] = 0
        weights[row.indices] = values
        behind = steps[1:]
        # no node has more entries than there are users
        if config.top_k is not None and config.hub_cap is not None and graph.count("user") > config.hub_cap:
            middle = len(steps) // 2
            left, right = halves(route, steps, config.counts)
            behind = [*steps[1:middle], *_between_groups(left, right, config.hub_cap, user)]
        return weights, (behind[0].scale(left=weights), *behind[1:])


def _between_groups(left: Csr, right: Csr, cap: int, row: Tensor) -> tuple[Csr, Csr]:
    """Two matrices whose product counts the paths from a row of ``left`` to the columns in its groups of hubs.

    The first leads from each middle node to the group that the row belongs to, or evenly to all its groups where the
    row does not reach the node.
    """
    n_groups = groups_of_hubs(right, cap)
    whole = torch.repeat_interleave(torch.arange(len(n_groups), device=row.device), n_groups)
    shares = n_groups.to(torch.float64).reciprocal()[whole]
    split, groups = divide_hubs(left, right, cap)
    shares[torch.isin(whole, left.take_rows(row).indices)] = 0
    shares[split.take_rows(row).indices] = 1
    every = torch.arange(len(whole), device=row.device)
    return Csr.from_coo(whole, every, shares, shape=(left.shape[1], len(whole))), groups


def _row(adjacency: Operator | Layered, row: int, like: Tensor) -> Tensor:
    """[C]: a row of an adjacency [R, C]."""
    assert not isinstance(adjacency, Layered)
    marked = like.new_zeros(adjacency.shape[0], 1)
    marked[row] = 1
    return spmm(adjacency.t(), marked)[:, 0]


def _composed(steps: tuple[Csr, ...], starts: Tensor) -> Csr:
    """Rows of the product of matrices, with the number of paths."""
    rows = steps[0].take_rows(starts)
    for step in steps[1:]:
        rows = compose(rows, step, dtype=torch.float64)
    return rows


def _blocks(steps: tuple[Csr, ...], items: Tensor, columns: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The number of paths from some of the items at a time to some of the nodes that they end at, [n, K] float64."""
    like = torch.empty(0, dtype=torch.float64, device=items.device)
    for rows in row_blocks(len(items), steps[-1].shape[1], like):
        yield rows, _columns(_composed(steps, items[rows]), columns)


def _reached(steps: tuple[Csr, ...], row: Row, columns: Tensor) -> Tensor:
    """[V, K]: the number of paths from the items of each variant to some of the nodes that they end at."""
    total = row.marks.new_zeros(len(row.marks), len(columns))
    for rows, through in _blocks(steps, row.items, columns):
        total += row.marks[:, rows] @ through.to(total.dtype)
    return total


def _columns(rows: Csr, columns: Tensor) -> Tensor:
    """[R, K] float64: some columns of a matrix."""
    place = torch.full((rows.shape[1],), -1, device=columns.device)
    place[columns] = torch.arange(len(columns), device=columns.device)
    kept_mask = place[rows.indices] >= 0
    dense = torch.zeros(rows.shape[0], len(columns), dtype=torch.float64, device=columns.device)
    dense[rows.rows[kept_mask], place[rows.indices[kept_mask]]] = rows.values(torch.float64)[kept_mask]
    return dense
