"""What sequence models share: settings, the item table, the encoder, the recommendation loss, the
batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from recgraph import encoders, losses
from recgraph.config import ConfigError, PartConfig, Search
from recgraph.data.batches import N_GAPS, Query, SequenceBatch, SequenceBatches
from recgraph.data.part import Part
from recgraph.encoders.base import SequenceEncoder, tokens_of_places
from recgraph.encoders.items import ItemTower, Kept
from recgraph.losses.base import NextItemLoss
from recgraph.losses.pairwise import OwnNegatives
from recgraph.models.base import (
    FeatureSpace,
    ModelConfig,
    PaddedForm,
    Phase,
    Space,
    TrainableModel,
    UpdatedBy,
    weighted,
)
from recgraph.models.reading import HistoryReading, SequenceReading, tokens_of
from recgraph.models.sequence.items import ItemTable, ItemTables, RelatedItems
from recgraph.models.sequence.prior import Prior, TransitionPrior
from recgraph.registry import part
from recgraph.rng import Generators
from recgraph.sparse.device import is_accelerated
from recgraph.sparse.ragged import Ragged
from recgraph.sparse.rows import lookup


class SequenceConfig(ModelConfig):
    hidden_dim: Annotated[
        int,
        Field(ge=1, description="width of item vectors and states"),
        Search(choices=(32, 64, 128, 256)),
    ] = 64
    max_len: Annotated[
        int, Field(ge=1, description="the last items of a history that are read")
    ] = 50
    dropout: Annotated[
        float, Field(ge=0, lt=1, description="of embeddings and layers"), Search(0.0, 0.7, step=0.1)
    ] = 0.5
    regime: Annotated[
        Literal["prefix", "causal"],
        Field(
            description="training samples: every prefix with its next item, or every sequence with all its targets"
        ),
    ] = "causal"
    window_step: Annotated[
        float | None,
        Field(
            gt=0,
            le=1,
            description="samples that are whole sequences cover a history longer than max_len, in steps of this share "
            "of it, so that an epoch has every target once; None: its last items alone",
        ),
    ] = 0.5
    encoder: Annotated[PartConfig, part("encoder"), Field(description="of sequences")] = (
        encoders.Transformer()
    )
    loss: Annotated[PartConfig, part("loss"), Field(description="of the next item")] = (
        losses.FullSoftmax()
    )
    items: Annotated[ItemTable, Field(description="what the vectors of items are made of")] = (
        ItemTable()
    )
    prior: Annotated[
        Prior | None, Field(description="transitions that are counted, added to the scores")
    ] = None
    time_gaps: Annotated[
        bool,
        Field(
            description="whether the times since the interaction before and to the next are inputs of an item"
        ),
    ] = False


class SequenceModel(TrainableModel):
    """Base of sequence models: an item table, an encoder and a recommendation loss. Term ``rec``:
    that loss.

    Tokens are ``item_idx + 1``; token 0 is a masked item and stands for no history. With
    ``items.features`` an :class:`recgraph.encoders.items.ItemTower` makes the table anew in each
    step, and the loss scores the items that occur in training.
    """

    Config: ClassVar[type[ModelConfig]] = SequenceConfig
    updated_by: ClassVar[UpdatedBy | None] = "training"
    reads_weights = True
    tables: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "item_embedding.weight": ("padding", "items")
    }
    #: whether training samples come with a sequence of the same target
    needs_partners = False
    #: whether views of the samples are drawn
    draws_views = False
    #: whether the last batch of an epoch is left out where it is not full
    needs_full_batches = False

    def __init__(self, config: ModelConfig | None = None, /, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.wanted_features = self.config.items.features
        if self.config.items.reads_typed_graph:
            self.reads_graph = True  # type: ignore[misc]
            self.updated_by = None  # type: ignore[misc]  # a new log has no relations of its items

    def _build(self, space: Space) -> None:
        config = self.config
        n_vectors = space.n_items if config.items.id_embedding else 0
        self.item_embedding = nn.Embedding(n_vectors + 1, config.hidden_dim)
        nn.init.normal_(self.item_embedding.weight, 0.0, 0.02)
        self.encoder = self._new_encoder(space)
        self.loss: NextItemLoss = config.loss.build()
        self.item_tower: ItemTower | None = None
        if config.items.features:
            self.item_tower = self._new_tower(space)
        self.item_graph: RelatedItems | None = None
        if config.items.graph is not None:
            self.item_graph = RelatedItems(config.items, config.hidden_dim, space)
        self.gap_embedding: nn.Embedding | None = None
        if config.time_gaps:
            # a gap never seen in training adds nothing, as an unknown one
            self.gap_embedding = nn.Embedding(2 * N_GAPS - 1, config.hidden_dim, padding_idx=0)
            nn.init.zeros_(self.gap_embedding.weight)
        self.prior: TransitionPrior | None = None
        if config.prior is not None:
            self.prior = TransitionPrior(config.prior, space)
        self.reads_times = config.time_gaps or self.encoder.reads_times
        self._tables: Kept[ItemTables] = Kept()
        # a tower and a graph read all items, and a loss without draws scores all
        if self.loss.draws and self.item_tower is None and self.item_graph is None:
            self.row_sparse_tables = ("item_embedding.weight",)

    def _new_encoder(self, space: Space) -> SequenceEncoder:
        config = self.config
        encoder, regime = config.encoder, str(config.regime)
        if not issubclass(encoder.member, SequenceEncoder):
            raise ConfigError(
                f"encoder = {encoder.part_name!r} is not one of sequences, but of graphs"
            )
        if (regime == "cloze") != encoder.member.ends_masked and regime != "prefix":
            raise ConfigError(
                f"regime = {regime!r} does not suit encoder = {encoder.part_name!r}, by what places see"
            )
        built: SequenceEncoder = encoder.build(
            hidden_dim=config.hidden_dim,
            max_len=config.max_len + encoder.member.ends_masked,
            dropout=config.dropout,
            causal=regime == "causal",
            n_tokens=space.n_items + 1,
        )
        return built

    def _new_tower(self, space: Space) -> ItemTower:
        items = self.config.items
        if not isinstance(space, FeatureSpace):
            raise ValueError(
                f"items.features = {items.features!r} needs the features of a FeatureSpace"
            )
        return ItemTower(
            self.config.hidden_dim,
            space.features.entries,
            space.features.dense,
            space.features.schema.missing,
            items.id_dropout,
        )

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("model", ("model",), {"rec": 1.0, "items": self.config.items.graph_weight}),)

    @property
    def window_items(self) -> int | None:
        """``window_step`` in items, at least one."""
        config = self.config
        if config.window_step is None:
            return None
        n_items: int = max(round(config.window_step * config.max_len), 1)
        return n_items

    def batches(self, train: Part, batch_size: int, generators: Generators) -> SequenceBatches:
        """Training batches of the configured regime. :meth:`setup` is called with the training
        part.
        """
        self.setup(train)
        return SequenceBatches(
            train,
            self.config.regime,
            batch_size=batch_size,
            max_len=self.config.max_len,
            generators=generators,
            contrast_of=getattr(self.config, "contrast_of", "prefix"),
            partners=self.needs_partners,
            drop_last=self.needs_full_batches,
            gaps=self.config.time_gaps,
            times=self.encoder.reads_times,
            views=self.draws_views,
            window_step=self.window_items,
        )

    def prepare(self, batch: SequenceBatch) -> None:
        if self.item_graph is not None and is_accelerated(self.item_embedding.weight):
            self.item_graph.prepare(batch)

    def setup(self, train: Part) -> None:
        """Show the training part to the loss, the item tower and the item graph."""
        counts = train.item_counts()
        if self.item_graph is not None:
            self.item_graph.setup(train)
        if self.prior is not None:
            self.prior.setup(train)
        if self.item_tower is not None:
            counts = self.item_tower.setup(counts)
        self.loss.setup(counts)

    def forward(self, batch: Any, wanted: Iterable[str]) -> dict[str, Tensor]:
        with self._tables.sharing():  # the table of items is made once
            return self.losses(batch, frozenset(wanted))

    def token_table(self, batch: SequenceBatch | None = None) -> Tensor:
        """[n_items + 1, D]: the vector of each token, for inputs and scores alike.

        Args:
            batch: whose generators draw what is drawn for a table; needed in training mode.
        """
        return self.item_tables(batch).table

    def item_tables(self, batch: SequenceBatch | None) -> ItemTables:
        """The same with what a graph adds to it."""
        return self._tables.get(self.training, self._table_state, partial(self._make_tables, batch))

    def _table_state(self) -> list[Tensor]:
        """All tensors that the table of items is made of."""
        tensors: list[Tensor] = [self.item_embedding.weight]
        for module in (self.item_tower, self.item_graph):
            if module is not None:
                tensors += [*module.parameters(), *module.buffers()]
        return tensors

    def _make_tables(self, batch: SequenceBatch | None) -> ItemTables:
        table: Tensor = self.item_embedding.weight
        if self.item_tower is not None:
            generator = None if batch is None else batch.generators["item_ids"]
            table = self.item_tower(table, generator)
        if self.item_graph is not None:
            return self.item_graph.tables(table, batch)
        return ItemTables(table, table, table[1:])

    def losses(self, batch: SequenceBatch, wanted: frozenset[str]) -> dict[str, Tensor]:
        """``rec``, and ``items``, the contrast of items with their graph.

        Where several ranks train, each computes a term of its own rows, and the mean over ranks
        counts. Multiply a mean over targets by the batch's ``weight`` therefore.
        """
        terms = {}
        if "rec" in wanted:
            last_only = batch.masked is None and not batch.causal
            states = self.encode(batch.sequences, batch, last_only, batch.masked)
            terms["rec"] = self.next_item_loss(batch, states)
        if "items" in wanted and self.item_graph is not None:
            terms["items"] = self.item_graph.loss(batch, self.item_tables(batch))
        return terms

    def next_item_loss(self, batch: SequenceBatch, states: Tensor) -> Tensor:
        """The recommendation loss of the states [n_targets, D] from which the targets are
        predicted.
        """
        table, targets = self.token_table(batch), batch.targets
        if self.item_tower is not None:
            table, targets = self.item_tower.of_candidates(table, targets)
        generator = batch.generators["negatives"]
        dropout = batch.generators.of_rank("dropout")
        kwargs: dict[str, Any] = {}
        if batch.target_weights is not None:
            kwargs["weights"] = batch.target_weights
        if batch.whole is None or not isinstance(self.loss, OwnNegatives):
            loss: Tensor = self.loss(states, targets, table, generator, **kwargs)
            return weighted(loss, batch.weight)
        # of a batch that several ranks share: drawn for all targets, as one process would
        drawn = self.loss.draw(batch.n_targets, len(table) - 1, generator, table.device)
        if self.loss.config.shared:
            kwargs["bounds"] = batch.group_bounds(len(drawn))
        else:
            drawn = drawn[batch.target_places()]
        loss = self.loss.against(drawn, states, targets, table, generator=dropout, **kwargs)
        return weighted(loss, batch.weight)

    def encode(
        self,
        sequences: Ragged,
        batch: SequenceBatch | None = None,
        last_only: bool = True,
        places: Ragged | None = None,
    ) -> Tensor:
        """The encoder's states of B rows, [B, D], [T, D] or [M, D].

        With time gaps each place is a token of its own, ``x_t = v_token(t) + g_before(t) +
        g_behind(t)``; a masked item stays token 0.

        Args:
            sequences: B rows of tokens, or of those of :func:`recgraph.data.batches.with_gaps`
                where times are read.
            batch: whose generators draw dropout; None: of queries, whose rows may be empty, in
                evaluation mode.
            last_only: of each row, closed by the encoder; else of the places that there are, or M
                of these.
        """
        if last_only:
            sequences = self.encoder.closed(sequences)
        generator = None
        if batch is not None:
            generator = batch.generators.of_rank("dropout")
        elif bool((sequences.lengths == 0).any()):
            sequences = sequences.lengthened(sequences.lengths == 0)  # a masked item
        tokens = sequences
        table = self.token_table(batch)
        if sequences.values.ndim > 1:
            tokens = sequences.columns(slice(0, 3) if self.encoder.reads_times else 0)
            if self.gap_embedding is not None:
                items = sequences.values[:, 0]
                gaps = self.gap_embedding(sequences.values[:, -2:]).sum(1)
                vectors = lookup(table, items) + gaps
                masked = lookup(table, items.new_zeros(1))
                tokens, table = tokens_of_places(tokens.on_host, vectors, masked)
        states: Tensor = self.encoder(tokens, table, generator, last_only, places)
        return states

    def encode_users(self, query: Query) -> Tensor:
        tokens = tokens_of(self, query.history, query.times, query.at)
        # cut behind the gaps: the first item that is read has one before it
        return self.encode(tokens.last(self.config.max_len))

    @property
    def has_vectors(self) -> bool:
        return self.prior is None

    def score(self, query: Query) -> Tensor:
        scores = super().score(query)
        if self.prior is not None:
            scores += self.prior.score(query)
        return scores

    def reading(self, query: Query) -> HistoryReading:
        if self.prior is not None:
            return HistoryReading(self, query)
        return SequenceReading(self, query)

    def padded_form(self) -> PaddedForm:
        if type(self.encoder).padded is SequenceEncoder.padded:
            raise ValueError(
                f"encoder = {self.config.encoder.part_name!r} has no padded form, as an export needs"
            )
        if self.encoder.reads_times:
            raise ValueError(
                "encoder: it reads times, which an export has not; set encoder.time_bias=false"
            )
        if self.prior is not None:
            raise ValueError(
                "prior: a table of transitions has no padded form, as an export needs; leave it out"
            )
        longest = self.config.max_len
        return PaddedForm(
            module=PaddedSequences(self.encoder, self.token_table().detach(), self.gap_embedding),
            gives="vectors",
            longest=longest,
            shortest=1 if self.encoder.pads_to_any_length else longest,
            reads_gaps=self.gap_embedding is not None,
        )

    def encode_items(self) -> Tensor:
        return self.loss.as_scored(self.token_table()[1:])


def compile_parts(model: nn.Module, backend: str = "inductor") -> None:
    """Have accelerators compute by compiled graphs, each without a break, what a sequence model's
    encoder, loss and contrasts can compile.

    Args:
        backend: of ``torch.compile``.

    Raises:
        ValueError: it is another model.
    """
    if not isinstance(model, SequenceModel):
        raise ValueError(f"{type(model).__name__} has no part that is compiled; leave compile out")
    for module in model.modules():
        if hasattr(module, "compile_parts"):
            module.compile_parts(backend)  # type: ignore[operator]


class PaddedSequences(nn.Module):
    """User vectors [B, D] of padded rows of tokens; padding is a masked item."""

    table: Tensor

    def __init__(
        self, encoder: SequenceEncoder, table: Tensor, gap_embedding: nn.Embedding | None
    ) -> None:
        super().__init__()
        self.encoder, self.gap_embedding = encoder, gap_embedding
        self.register_buffer("table", table)

    def forward(self, history: Tensor, gaps: Tensor | None = None) -> Tensor:
        """[B, L] tokens and, of a model that reads them, [B, L] buckets of the time gap before each
        -> [B, D].
        """
        lengths = (history != 0).sum(1)
        if self.encoder.ends_masked:
            history = F.pad(history, (0, 1))
            lengths = lengths + 1
        inputs = F.embedding(history, self.table)
        if self.gap_embedding is not None:
            assert gaps is not None
            if self.encoder.ends_masked:
                gaps = F.pad(gaps, (0, 1))
            following = gaps.roll(-1, 1)
            is_known = (following > 0) & (
                torch.arange(gaps.shape[1], device=gaps.device) < lengths[:, None] - 1
            )
            behind = (following + N_GAPS - 1) * is_known
            inputs = inputs + self.gap_embedding(gaps) + self.gap_embedding(behind)
        return self.encoder.padded(inputs, lengths.clamp(min=1))
