"""Models with a vector for each user and item: the table, the losses, unknown users, vectors kept
for ranking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from recgraph import losses
from recgraph.config import PartConfig, Search
from recgraph.data.batches import PairBatch, PairBatches, Query
from recgraph.data.part import Part
from recgraph.encoders.items import Kept
from recgraph.losses.base import NextItemLoss
from recgraph.losses.pairwise import OwnNegatives, PairWeights
from recgraph.losses.scores import own_scores, pair_scores, unit_rows
from recgraph.models.base import ModelConfig, Phase, Space, TrainableModel, UpdatedBy, weighted
from recgraph.models.reading import Reading
from recgraph.registry import part
from recgraph.rng import Generators
from recgraph.sparse.blocks import row_blocks
from recgraph.sparse.device import full_precision, is_accelerated
from recgraph.sparse.rows import is_sparse, lookup, read_once, touched


class CollaborativeConfig(ModelConfig):
    hidden_dim: Annotated[
        int,
        Field(ge=1, description="width of user and item vectors"),
        Search(choices=(32, 64, 128, 256)),
    ] = 64
    loss: Annotated[PartConfig, part("loss"), Field(description="of the recommendations")] = (
        losses.BPR()
    )
    exclude_own: Annotated[
        bool,
        Field(
            description="never draw a user's own items as that user's negatives (pairwise losses)"
        ),
    ] = True
    l2: Annotated[
        float,
        Field(ge=0, description="weight of the squared norms of each sample's vectors"),
        Search(1e-6, 1e-2, log=True),
    ] = 1e-4
    init_std: Annotated[
        float | None,
        Field(
            gt=0,
            description="standard deviation of the first user and item vectors; none: uniform by Xavier",
        ),
        Search(choices=(None, 1e-4, 1e-3, 1e-2, 1e-1)),
    ] = None


class CollaborativeModel(TrainableModel):
    """Base of models that learn a vector for each user and item. Terms: ``rec``, the recommendation
    loss, and ``l2``, half the squared norms of the vectors of a sample's user, item and (mean over)
    negatives, before propagation.

    A node is a user (``user_idx``) or an item (``n_users + item_idx``); a subclass says in
    :meth:`nodes` how the vectors of all nodes come from the table. The table starts uniform by
    Xavier, users and items each by their own size, as in RecBole, or normal (``init_std``).

    The weight of an interaction is that of its sample in ``rec``, which is the weighted mean over
    all samples.

    Scores are inner products; with a loss of cosines, those with item vectors of length 1, which
    rank as cosines do.

    Users without a training interaction (index -1, or empty rows of the training part) are ranked
    for by the mean of the vectors of their history's items, as they are after propagation; without
    a history, by the mean of the trained users' vectors. A known user's history is not read. Items
    without a training interaction have only been negatives: their scores are near 0 and say nothing
    of them (:class:`MEOWRec` embeds them through relations and features).

    In evaluation mode and without gradients the vectors of all nodes are computed once and kept,
    until the weights change or training goes on.
    """

    Config: ClassVar[type[ModelConfig]] = CollaborativeConfig
    # each step of a graph model propagates the vectors of all nodes, whatever its batch
    training_defaults: ClassVar[Mapping[str, tuple[Any, Search]]] = {
        "batch_size": (4096, Search(choices=(1024, 2048, 4096, 8192))),
        "learning_rate": (1e-2, Search(1e-3, 3e-2, log=True)),
    }
    updated_by: ClassVar[UpdatedBy | None] = "training"
    reads_weights = True
    tables: ClassVar[Mapping[str, tuple[str, ...]]] = {"embedding.weight": ("users", "items")}
    #: whether a term reads the distinct users and items of a batch
    reads_distinct: ClassVar[bool] = False
    known_users: Tensor

    def _build(self, space: Space) -> None:
        self.embedding = self._new_table(space.n_users, space.n_items)
        self.register_buffer("known_users", torch.zeros(space.n_users, dtype=torch.bool))
        # no item of a user-item model is padding
        self.loss: NextItemLoss = self.config.loss.build(pad_candidate=False)
        self._made: Kept[tuple[Tensor, Tensor]] = Kept()

    def _new_table(self, *sizes: int) -> nn.Embedding:
        """A table with so many rows of each kind, drawn as the configuration says."""
        table = nn.Embedding(sum(sizes), self.config.hidden_dim)
        for rows in torch.split(table.weight.detach(), list(sizes)):
            if self.config.init_std is None:
                nn.init.xavier_uniform_(rows)
            else:
                rows.normal_(std=self.config.init_std)
        return table

    @property
    def phases(self) -> tuple[Phase, ...]:
        terms = {"rec": 1.0, "l2": self.config.l2}
        return (Phase("model", ("model",), terms),)

    @property
    def trained_users(self) -> Tensor:
        return self.known_users

    def batches(self, train: Part, batch_size: int, generators: Generators) -> PairBatches:
        """Training batches; also shows the training part to the parts that learn from it."""
        self.setup(train)
        if not isinstance(self.loss, OwnNegatives):
            return PairBatches(train, batch_size, generators, n_negatives=0)
        config = self.loss.config
        return PairBatches(
            train,
            batch_size,
            generators,
            n_negatives=config.n_negatives,
            popularity_power=config.popularity_power,
            exclude_own=self.config.exclude_own,
            shared=config.shared,
            n_groups=config.n_groups,
        )

    def prepare(self, batch: PairBatch) -> None:
        if self.reads_distinct and is_accelerated(self.embedding.weight):
            batch.keep_distinct()

    def setup(self, train: Part) -> None:
        """Show the training part to the loss (item popularity), and note whose vectors it trains.

        Raises:
            ValueError: the training part has other sizes than the model was built for.
        """
        sizes = Space(n_users=train.n_users, n_items=train.n_items)
        built = Space(n_users=self.space.n_users, n_items=self.space.n_items)
        if sizes != built:
            raise ValueError(
                f"train has {sizes}, but {type(self).__name__} was built for {built}; build a new one"
            )
        self.loss.setup(train.item_counts())
        self.known_users.copy_(train.items.lengths > 0)

    def nodes(self) -> Tensor:
        """[n_users + n_items, D]: the vectors that scores are inner products of, without any
        noise.
        """
        raise TypeError(f"{type(self).__name__} must define nodes()")

    def nodes_of(self, batch: PairBatch) -> tuple[PairBatch, Tensor]:
        """The vectors that the terms of a batch read, [U + n_items, D], and the batch with its
        users as rows of them.

        By default those of all nodes; a model whose user vectors are made one by one gives those of
        the batch.
        """
        return batch, self.nodes()

    def pair_weights(self, batch: PairBatch) -> PairWeights | None:
        """What the pairs of a batch count in the recommendation loss; None: all 1."""
        w = batch.sample_weights
        if w is None:
            return None
        return PairWeights(w, w[:, None])

    def losses(self, batch: PairBatch, wanted: frozenset[str]) -> dict[str, Tensor]:
        """``l2`` and ``rec``; a subclass adds its own.

        Where several ranks train, each computes a term of its own samples, or the same term of all
        samples, as propagation is the same on all ranks; the mean over ranks counts. Multiply a
        mean over a rank's own samples by the batch's ``weight`` therefore.
        """
        return self._recommendation(batch, wanted, self.nodes_of)

    def _recommendation(
        self,
        batch: PairBatch,
        wanted: frozenset[str],
        nodes_of: Callable[[PairBatch], tuple[PairBatch, Tensor]],
    ) -> dict[str, Tensor]:
        """``l2`` and ``rec``, by :meth:`nodes_of` or what takes its place."""
        terms = {}
        if "l2" in wanted:
            terms["l2"] = self._l2(batch)
        if "rec" in wanted:
            terms["rec"] = self._rec(*nodes_of(batch))
        return terms

    def _rec(self, batch: PairBatch, nodes: Tensor) -> Tensor:
        """The recommendation loss of a batch, whose users are rows of ``nodes`` [U + n_items,
        D].
        """
        if not isinstance(self.loss, OwnNegatives):
            loss = self._listwise(batch, nodes)
        elif self.loss.config.shared:
            loss = self._against_shared(self.loss, batch, nodes)
        else:
            loss = self._against_own(self.loss, batch, nodes)
        return weighted(loss, batch.weight)

    def _listwise(self, batch: PairBatch, nodes: Tensor) -> Tensor:
        """A loss that scores all items, or draws its own."""
        # losses read tokens: row 0 is the padding's
        table = F.pad(nodes[-self.space.n_items :], (0, 0, 1, 0))
        users = lookup(nodes, batch.users)
        kwargs = {}
        if batch.sample_weights is not None:
            kwargs["weights"] = batch.sample_weights
        loss: Tensor = self.loss(
            users, batch.items + 1, table, batch.generators["negatives"], **kwargs
        )
        return loss

    def _against_shared(self, loss: OwnNegatives, batch: PairBatch, nodes: Tensor) -> Tensor:
        """A pairwise loss with negatives that groups of samples share."""
        assert batch.bounds is not None
        n_users = len(nodes) - self.space.n_items
        keep_mask = batch.negative_mask()
        weights = self.pair_weights(batch)
        if self.config.exclude_own and loss.weighs_pairs:
            weights = _weights_of_kept(keep_mask, weights, nodes.dtype)
        part, (users, items, drawn) = read_once(
            nodes, batch.users, batch.items + n_users, batch.negatives + n_users
        )
        return loss.against_shared(
            drawn=drawn,
            bounds=batch.bounds,
            keep_mask=keep_mask,
            hidden=lookup(part, users),
            targets=items,
            table=part,
            n_items=self.space.n_items,
            weights=weights,
            generator=batch.generators.of_rank("dropout"),
        )

    def _against_own(self, loss: OwnNegatives, batch: PairBatch, nodes: Tensor) -> Tensor:
        """A pairwise loss with negatives of each sample's own."""
        n_users = len(nodes) - self.space.n_items
        items = torch.cat([batch.items[:, None], batch.negatives], 1)
        part, places = touched(nodes, torch.cat([batch.users[:, None], items + n_users], 1))
        if loss.cosine:
            part, places = unit_rows(part, places)
        generator = batch.generators.of_rank("dropout")
        if loss.drops:
            users = loss.dropped(lookup(part, places[:, 0]), generator)
            scores = own_scores(users, part, places[:, 1:])
        else:
            scores = pair_scores(part, places[:, 0], places[:, 1:])
        return loss.of_scores(
            positive=scores[:, 0],
            negative=scores[:, 1:],
            keep_mask=batch.negative_mask(),
            n_items=self.space.n_items,
            weights=self.pair_weights(batch),
        )

    def _l2(self, batch: PairBatch) -> Tensor:
        n_users = self.space.n_users
        nodes = (batch.users, batch.items + n_users, batch.negatives + n_users)
        return weighted(half_squared_norms(self.embedding.weight, nodes), batch.weight)

    def _ranked(self) -> tuple[Tensor, Tensor]:
        """:meth:`nodes`, and the vectors of items that scores are made of."""

        def make() -> tuple[Tensor, Tensor]:
            nodes = self.nodes()
            return nodes, self.loss.as_scored(nodes[self.space.n_users :])

        return self._made.get(self.training, lambda: [*self.parameters(), *self.buffers()], make)

    def train(self, mode: bool = True) -> Any:
        if self.is_built:
            self._made.forget()  # a step of a fused optimiser does not count as a change of the weights
        return super().train(mode)

    def encode_users(self, query: Query) -> Tensor:
        return self._user_vectors(query, self._ranked()[0])

    def knows(self, query: Query) -> bool:
        """Whether all users of a query have a trained vector, so that their histories are not
        read.
        """
        return bool(self._known_mask(query).all())

    def _known_mask(self, query: Query) -> Tensor:
        """[B] bool: whose users have a trained vector."""
        known_mask = query.users >= 0
        known_mask[known_mask.clone()] = self.known_users[query.users[known_mask]]
        return known_mask

    def reading(self, query: Query) -> Reading:
        if self.knows(query):
            raise ValueError(
                f"{type(self).__name__} learns a vector for each user and reads no history, so that no recommendation "
                "can be attributed to its items; a model that reads them is LightGCN, MEOWRec or any sequence model"
            )
        return super().reading(query)

    def _user_vectors(self, query: Query, nodes: Tensor) -> Tensor:
        """[B, D]: from vectors of all nodes [n_users + n_items, D]."""
        known_mask = self._known_mask(query)
        if bool(known_mask.all()):
            return lookup(nodes, query.users)
        vectors = self._fold_in(query, nodes)
        vectors[known_mask] = lookup(nodes, query.users[known_mask])
        return vectors

    def _fold_in(self, query: Query, nodes: Tensor) -> Tensor:
        """[B, D]: vectors from histories alone."""
        part, places = touched(nodes, query.history.values + self.space.n_users)
        if self.loss.cosine:
            part, places = unit_rows(part, places)
        vectors = F.embedding_bag(
            places, part, query.history.offsets, mode="mean", include_last_offset=True
        )
        empty_mask = query.history.lengths == 0
        if bool(empty_mask.any()) and bool(self.known_users.any()):
            vectors[empty_mask] = nodes[: len(self.known_users)][self.known_users].mean(0)
        return vectors

    def encode_items(self) -> Tensor:
        return self._ranked()[1]


def _weights_of_kept(
    keep_mask: Tensor, weights: PairWeights | None, dtype: torch.dtype
) -> PairWeights:
    """Weights of pairs with which the shared negatives [B, K] that are not its user's own count as
    K for a sample, as those do that are drawn for it alone."""
    n_kept = keep_mask.sum(1, keepdim=True).clamp(min=1)
    scale = keep_mask.shape[1] / n_kept.to(dtype)
    if weights is None:
        return PairWeights(torch.ones_like(scale[:, 0]), scale)
    return PairWeights(weights.positive, weights.negative * scale)


def half_squared_norms(table: Tensor, places: Sequence[Tensor]) -> Tensor:
    """Half the mean squared norm of the rows at each of the places, summed.

    Args:
        table: [N, D]; of one with sparse gradients the touched rows alone are read.
        places: int64, any shapes; empty ones count nothing.
    """
    # half precision would lose digits, and takes no part in a product with float32
    with full_precision(table):
        if is_sparse(table):
            table, places = read_once(table, *places)
        # how often each row is read: a pass over the table costs less than lookups with gradients
        counts = table.new_zeros(table.shape[0])
        for index in places:
            if index.numel():
                share = counts.new_full((), 1 / index.numel())
                counts.index_add_(0, index.flatten(), share.expand(index.numel()))
        total: Tensor = _HalfWeightedNorms.apply(table, table, counts)  # type: ignore[no-untyped-call]
        return total


class _HalfWeightedNorms(torch.autograd.Function):
    """``1/2 sum_i w_i |x_i|^2``; the gradient takes one pass over x, where that of ``vecdot(x, x)``
    takes three.

    x is passed twice, and each argument gets half of the gradient: autograd then adds to the other
    gradients of x in the order of ``vecdot``, so that no last digit changes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, same: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, weights)
        blocks = row_blocks(len(x), x.shape[1], x)
        squares = [torch.linalg.vecdot(x[rows], x[rows]) for rows in blocks]
        return weights.dot(torch.cat(squares)) / 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weights = ctx.saved_tensors
        half = (grad / 2 * weights)[:, None] * x
        return half, half, None
