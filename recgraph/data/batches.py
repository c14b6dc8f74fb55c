"""The training batches of pairs and of sequences (prefixes or whole ones, packed), and the queries
of a ranking.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from recgraph.config import ConfigError
from recgraph.data.negatives import NegativeSampler
from recgraph.data.part import Part
from recgraph.ranks import WHOLE, Share
from recgraph.rng import Generators
from recgraph.sparse.blocks import even_bounds, of_groups
from recgraph.sparse.device import to_device
from recgraph.sparse.ragged import Ragged, consecutive


@dataclass(frozen=True)
class Query:
    """The users to rank items for.

    Attributes:
        users: [B] int64 user indices; -1 for a user never seen in training.
        history: B rows of item indices (0-based), oldest first; may be empty.
        times: the times of ``history``, row by row, for models that read them; None: not known.
        at: [B] int64, the time of each request, in the unit of ``times``; None: not known, as
            without ``times``.
    """

    users: Tensor
    history: Ragged
    times: Ragged | None = None
    at: Tensor | None = None

    def _of(self, rows: Callable[[Ragged], Ragged], values: Callable[[Tensor], Tensor]) -> Query:
        more: dict[str, Any] = {}
        if self.times is not None:
            more["times"] = rows(self.times)
        if self.at is not None:
            more["at"] = values(self.at)
        return Query(values(self.users), rows(self.history), **more)

    def to(self, device: torch.device | str) -> Query:
        return self._of(lambda rows: rows.to(device), lambda values: values.to(device))

    def take(self, rows: Tensor) -> Query:
        """Some of the rows, by their numbers [K]."""
        return self._of(lambda every: every.take(rows), lambda values: values[rows])

    def rows(self, start: int, end: int) -> Query:
        """The rows from ``start`` to ``end``; nothing is copied."""
        return self._of(lambda rows: rows.part(start, end), lambda values: values[start:end])

    def __len__(self) -> int:
        return self.users.numel()


def moved(value: Any, device: torch.device | str) -> Any:
    """A batch, or what it holds, with its tensors and rows on a device; rows keep copies on the
    host.
    """
    if isinstance(value, Tensor):
        return to_device(value, device)
    if isinstance(value, Ragged):
        return value.mirrored(device)
    if isinstance(value, list | tuple):
        return type(value)(map(moved, value, [device] * len(value)))
    if isinstance(value, dict):
        return {name: moved(entry, device) for name, entry in value.items()}
    if isinstance(value, SequenceBatch | PairBatch | WholeBatch):
        return replace(value, **moved(vars(value), device))
    return value


@dataclass(frozen=True)
class WholeBatch:
    """What a rank knows of a batch of which it computes a share: [B] the targets of each of the
    batch's rows and of all rows, and the B rows of tokens of which all ranks draw the same views,
    if any."""

    lengths: Tensor
    n_targets: int
    contrast: Ragged | None = None


@dataclass(frozen=True)
class SequenceBatch:
    """Training samples of a sequence model. A token is ``item_idx + 1``; token 0 is a masked item.

    Where times are read, rows hold those of :func:`with_gaps`. Of several ranks each has the rows
    of its share.

    Attributes:
        users: [B] int64.
        sequences: B rows of input tokens, oldest first, at most ``max_len``.
        targets: tokens to predict: [B] after each row (``regime="prefix"``), or [T] after each
            input token (``"causal"``, aligned with ``sequences.values``), or [M] those of masked
            items (``"cloze"``).
        contrast: B rows of tokens that are augmented into the views of the contrast.
        contrast_targets: the token that follows each row of ``contrast``, for the rows of all
            ranks.
        causal: whether there is a target after each input token.
        generators: the run's random streams, on the batch's device.
        partners: B rows with the same next token as ``contrast``'s rows, others where there are any
            (DuoRec); or None.
        drawn: what a model draws once for all phases of the batch (its augmented inputs): name ->
            several sets of rows.
        share, whole: which of the rows of a batch these are, and that batch, or None where it is
            all of it.
        epoch: from 0.
        target_weights: [n] float32, aligned with ``targets``: what each counts; None: 1.
        masked: B rows of the M places among ``sequences.values`` from whose states the targets are
            predicted; None: from all. They are those of masked items, or of the targets that no
            earlier window of the history has.
    """

    users: Tensor
    sequences: Ragged
    targets: Tensor
    contrast: Ragged
    contrast_targets: Tensor
    causal: bool
    generators: Generators
    partners: Ragged | None = None
    drawn: dict[str, list[Ragged]] = field(default_factory=dict, compare=False)
    share: Share = WHOLE
    whole: WholeBatch | None = None
    epoch: int = 0
    target_weights: Tensor | None = None
    masked: Ragged | None = None

    @property
    def n_targets(self) -> int:
        """The recommendation targets of the batch on all ranks (the unit of training speed)."""
        return self.targets.numel() if self.whole is None else self.whole.n_targets

    @property
    def weight(self) -> float:
        """What a mean over this rank's targets is multiplied by, so that the mean over ranks is
        that of the batch.
        """
        if self.whole is None:
            return 1.0
        return len(self.share.sizes) * self.targets.numel() / self.whole.n_targets

    def target_places(self) -> Tensor | slice:
        """Which of the batch's targets, as one process has them, this rank's are."""
        if self.whole is None:
            return slice(None)
        every = torch.arange(self.whole.n_targets, device=self.targets.device)
        rows = torch.arange(len(self.whole.lengths), device=self.targets.device)[self.share.rows]
        return Ragged.from_lengths(every, self.whole.lengths).take(rows).values

    def group_bounds(self, n_groups: int) -> list[int]:
        """Where this rank's targets of each of G even groups of the batch's targets begin and end,
        [G + 1].
        """
        places = self.target_places()
        if n_groups == 1 or isinstance(places, slice):
            return even_bounds(len(self.targets), n_groups)
        bounds = torch.tensor(even_bounds(self.n_targets, n_groups), device=places.device)
        own_bounds: list[int] = torch.searchsorted(places, bounds).tolist()
        return own_bounds

    def to(self, device: torch.device | str) -> SequenceBatch:
        batch: SequenceBatch = moved(self, device)
        return batch


@dataclass(frozen=True)
class PairBatch:
    """Training samples of a user-item model; where several ranks train together, each has those of
    its share.

    Attributes:
        users: [B] int64.
        items: [B] int64, 0-based: an item that the user chose.
        negatives: [B, K] int64, 0-based: items to rank below it; K = 0 where the loss needs none.
            [G, K] where the samples of each of G groups share them.
        generators: the run's random streams.
        epoch: from 0; what is drawn once an epoch depends on it, so that a resumed run draws the
            same.
        share, all_pairs: which samples of the batch these are, and the users and items of all;
            None: they are these.
        drawn: what a model makes of the batch on the host, before it moves: name -> tensors.
        sample_weights: [B] float32, what each sample counts; None: 1.
        excluded, bounds: where groups of samples share negatives, [2, E] int64, the sample and the
            column of each that does not count for the sample, and the groups' bounds
            (:func:`recgraph.sparse.blocks.even_bounds`).
    """

    users: Tensor
    items: Tensor
    negatives: Tensor
    generators: Generators
    epoch: int = 0
    share: Share = WHOLE
    all_pairs: tuple[Tensor, Tensor] | None = None
    drawn: dict[str, list[Tensor]] = field(default_factory=dict, compare=False)
    sample_weights: Tensor | None = None
    excluded: Tensor | None = None
    bounds: Sequence[int] | None = None

    @property
    def n_targets(self) -> int:
        """How many samples the batch holds on all ranks."""
        return self.all_users.numel()

    @property
    def all_users(self) -> Tensor:
        """The users of all ranks' samples."""
        return self.users if self.all_pairs is None else self.all_pairs[0]

    @property
    def all_items(self) -> Tensor:
        """The items that the users of all ranks' samples chose."""
        return self.items if self.all_pairs is None else self.all_pairs[1]

    def of_samples(self, values: Tensor) -> Tensor:
        """Values of the negatives, in their shape -> those of each sample's, [B, K]; [1, K] where
        all share them.
        """
        return values if self.bounds is None else of_groups(values, self.bounds)

    def negative_mask(self) -> Tensor:
        """[B, K]: False where a negative does not count for a sample."""
        if self.excluded is None:
            return self.negatives != self.items[:, None]
        n_columns = self.negatives.shape[1]
        keep_mask = self.negatives.new_ones(len(self.items), n_columns, dtype=torch.bool)
        # assigning False would copy a number to the device, and wait for it
        keep_mask.view(-1).index_fill_(0, self.excluded[0] * n_columns + self.excluded[1], False)
        return keep_mask

    def distinct(self) -> list[Tensor]:
        """The users and the items of all ranks' samples, each once, ascending."""
        if "distinct" in self.drawn:
            return self.drawn["distinct"]
        return [torch.unique(self.all_users), torch.unique(self.all_items)]

    def keep_distinct(self) -> None:
        """Keep :meth:`distinct` before the batch moves to an accelerator, which would have to tell
        their number.
        """
        self.drawn["distinct"] = self.distinct()

    @property
    def weight(self) -> float:
        """What a mean over this rank's samples is multiplied by, so that the mean over ranks is
        that of the batch.
        """
        return self.share.weight

    def to(self, device: torch.device | str) -> PairBatch:
        batch: PairBatch = moved(self, device)
        return batch


@runtime_checkable
class Batches(Protocol):
    """The training batches of a run, epoch by epoch.

    ``epoch(n, start)`` yields the batches of epoch ``n`` from batch ``start`` on. Their order
    depends on the seed and on ``n`` alone, so that a resumed run sees what an uninterrupted one
    would have seen. Each of several ranks yields the same number of batches, and of every batch
    either its share or all of it.
    """

    def __len__(self) -> int:
        """Batches an epoch."""

    def epoch(self, number: int, start: int = 0) -> Iterator[Any]:
        """The batches of one epoch."""


class _Samples(ABC):
    """Shuffled batches of samples, each of the item at a place of a user's row."""

    drop_last = False

    def __init__(self, batch_size: int, generators: Generators, rows: Tensor, ends: Tensor) -> None:
        self.batch_size, self.generators = batch_size, generators
        self.sample_rows = rows
        self.sample_ends = ends

    def places(self) -> tuple[Tensor, Tensor]:
        """-> [S] int64 the user of each sample, [S] int64 the place of its last target among the
        user's items.
        """
        return self.sample_rows, self.sample_ends

    def keep(self, keep_mask: Tensor) -> None:
        """Leave all samples out but those of ``keep_mask`` [S]; what is drawn is still of the whole
        part.
        """
        self.sample_rows = self.sample_rows[keep_mask]
        self.sample_ends = self.sample_ends[keep_mask]

    def __len__(self) -> int:
        n_samples = len(self.sample_rows)
        if self.drop_last:
            return n_samples // self.batch_size
        return -(-n_samples // self.batch_size)

    def epoch(self, number: int, start: int = 0) -> Iterator[Any]:
        """The batches of an epoch, from batch ``start`` on."""
        generator = self.generators.fresh("order", number)
        order = torch.randperm(len(self.sample_rows), generator=generator)
        for index in range(start, len(self)):
            chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
            yield self._batch(chosen, number, index)

    @abstractmethod
    def _batch(self, chosen: Tensor, epoch: int, index: int) -> Any:
        """The chosen samples of this rank; draws are made for the whole batch, as one process makes
        them.
        """


class PairBatches(_Samples):
    """Shuffled batches of (user, item, negatives); order and negatives depend on the seed and the
    epoch alone.

    Args:
        train: every interaction is a sample, repeated ones as often as they occur.
        batch_size: samples a batch.
        generators: of the run.
        n_negatives: K negatives a sample; 0 where the loss draws its own.
        popularity_power: negatives ~ popularity ** power; 0 is uniform.
        exclude_own: whether the items that the user has in ``train`` are never drawn.
        shared, n_groups: whether all samples of each of G groups of a batch have the same K
            negatives; ``excluded`` names a user's own items.
    """

    def __init__(
        self,
        train: Part,
        batch_size: int,
        generators: Generators,
        *,
        n_negatives: int = 1,
        popularity_power: float = 0.0,
        exclude_own: bool = True,
        shared: bool = False,
        n_groups: int = 1,
    ) -> None:
        if not train.n_interactions:
            raise ValueError(
                f"train: none of {train.n_users} users has an interaction; nothing to learn"
            )
        super().__init__(batch_size, generators, train.items.rows, train.items.positions)
        self.n_possible = train.n_interactions
        self.items = train.items.values
        self.weights = train.sample_weights()
        self.n_negatives = n_negatives
        self._n_groups = n_groups if shared else None
        self._sampler: NegativeSampler | None = None
        if n_negatives:
            self._sampler = NegativeSampler(train, popularity_power, exclude_own)

    def keep(self, keep_mask: Tensor) -> None:
        super().keep(keep_mask)
        self.items = self.items[keep_mask]
        if self.weights is not None:
            self.weights = self.weights[keep_mask]

    def _batch(self, chosen: Tensor, epoch: int, index: int) -> PairBatch:
        users, items = self.sample_rows[chosen], self.items[chosen]
        share = self.generators.ranks.share_of_batch(len(chosen))
        batch = PairBatch(
            users=users[share.rows],
            items=items[share.rows],
            negatives=items[share.rows].new_empty(len(items[share.rows]), 0),
            generators=self.generators,
            epoch=epoch,
            share=share,
            all_pairs=None if share.is_whole else (users, items),
            sample_weights=None if self.weights is None else self.weights[chosen][share.rows],
        )
        if self._sampler is None:
            return batch
        drawn = self.generators.fresh("negatives", epoch, index)
        if self._n_groups is None:
            negatives = self._sampler.draw(users, self.n_negatives, drawn, share.rows)
            return replace(batch, negatives=negatives)
        bounds = even_bounds(len(chosen), self._n_groups, share.rows)
        negatives, excluded = self._sampler.draw_shared(
            batch.users, batch.items, self.n_negatives, drawn, bounds
        )
        return replace(batch, negatives=negatives, excluded=excluded, bounds=bounds)


Regime = Literal["prefix", "causal", "cloze"]
ContrastOf = Literal["prefix", "sequence"]


class SequenceBatches(_Samples):
    """Shuffled batches whose order depends on the seed and the epoch alone; rows of a batch are
    sorted by length.

    Args:
        train: users with fewer than two interactions give no sample.
        regime: ``"prefix"``: every prefix of a user's items is a sample, its target the next item
            (as published); ``"causal"``: every user is one sample, with a target after each item;
            ``"cloze"``: :class:`ClozeBatches`.
        batch_size: samples a batch.
        max_len: prefixes keep their last ``max_len`` items; causal samples ``max_len + 1``.
        generators: of the run.
        contrast_of: in the causal regime, what is augmented for the contrast: a prefix of random
            length, drawn anew each epoch, or the whole sequence. Prefix samples are taken as they
            are.
        partners: also draw, for each sample, another sequence with the same target (DuoRec's
            semantic positive), its own where there is none.
        drop_last: leave out the last batch of an epoch where it is not full.
        gaps, times: rows of inputs also hold the time gaps before and behind each item, and its
            time.
        views: views are drawn of the rows of ``contrast``: a rank has these rows of the whole
            batch, as what is drawn for a row depends on those before it.
        window_step: items between the samples of a longer history, which then cover it, each with
            the targets that no earlier one has; None: the user's last items are the only sample.

    Attributes:
        n_possible: the interactions that have another one before them, all that could be targets.
    """

    def __init__(
        self,
        train: Part,
        regime: Regime,
        *,
        batch_size: int,
        max_len: int,
        generators: Generators,
        contrast_of: ContrastOf = "prefix",
        partners: bool = False,
        drop_last: bool = False,
        gaps: bool = False,
        times: bool = False,
        views: bool = False,
        window_step: int | None = None,
    ) -> None:
        self.tokens = train.items.with_values(train.items.values + 1)
        #: what models read: the tokens, or those with their gaps and times
        self.inputs = with_gaps(self.tokens, train.times, times) if gaps or times else self.tokens
        self.weights = train.sample_weights()
        self.max_len, self.drop_last, self.views = max_len, drop_last, views
        self.causal = regime == "causal"
        self.contrasts_prefixes = self.causal and contrast_of == "prefix"
        self.n_possible = int((self.tokens.lengths - 1).clamp(min=0).sum())
        if regime == "prefix":
            rows, ends, self.sample_targets = self._prefixes()
        else:
            rows, ends, self.sample_targets = self._windows(window_step)
        super().__init__(batch_size, generators, rows, ends)
        if not len(self):
            settings = f"batch_size = {batch_size}, drop_last = {drop_last}"
            raise ConfigError(
                f"train: {len(self.sample_rows):,} samples make no batch ({settings}); "
                "a sample needs a user with two interactions"
            )
        self._partners = _SameTarget(self.tokens, self.inputs, max_len) if partners else None

    def keep(self, keep_mask: Tensor) -> None:
        super().keep(keep_mask)
        self.sample_targets = self.sample_targets[keep_mask]

    def _prefixes(self) -> tuple[Tensor, Tensor, Tensor]:
        """All prefixes -> [S] int64 each: the row of each sample, the place in the row of its last
        target, how many targets it has."""
        later_mask = self.tokens.positions > 0
        ends = self.tokens.positions[later_mask]
        return self.tokens.rows[later_mask], ends, torch.ones_like(ends)

    def _windows(self, step: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """The last items of each row, and with a ``step`` windows that cover it from its end on,
        the last of them at its beginning -> as :meth:`_prefixes`. The targets of a window are those
        up to the end of the one before it in the row."""
        rows = (self.tokens.lengths > 1).nonzero().squeeze(1)
        ends = self.tokens.lengths[rows] - 1
        n_targets = ends.clamp(max=self.max_len)
        if step is None:
            return rows, ends, n_targets
        n_more = ((ends - self.max_len).clamp(min=0) + step - 1) // step
        windows = consecutive(torch.zeros_like(rows), 1 + n_more)
        first = n_targets[windows.rows]
        ends = torch.maximum(ends[windows.rows] - step * windows.values, first)
        n_targets = torch.where(ends == first, first, ends - ends.roll(-1))
        return rows[windows.rows], ends, n_targets

    def _batch(self, chosen: Tensor, epoch: int, index: int) -> SequenceBatch:
        chosen, rows, ends, drawn = self._by_length(chosen, epoch, index)
        lengths = ends.clamp(max=self.max_len)
        starts = ends - lengths
        contrast_lengths = lengths
        if self.contrasts_prefixes:
            part = torch.rand(lengths.numel(), generator=drawn)
            contrast_lengths = torch.minimum((part * lengths).long() + 1, lengths)
        places = self.tokens.offsets[rows] + starts + contrast_lengths
        # rows are in the order of their lengths: dealt out, all ranks have as much to do
        share = self.generators.ranks.share_of_batch(len(rows), dealt=True)
        own = share.rows
        n_targets = self.sample_targets[chosen]
        whole = None
        if not share.is_whole:
            contrast = self.inputs.take(rows, starts, contrast_lengths) if self.views else None
            whole = WholeBatch(n_targets, int(n_targets.sum()), contrast)
        inputs = self.inputs.take(rows[own], starts[own], lengths[own])
        if self.causal:
            target_places, masked = self._causal_targets(
                rows[own], starts[own], lengths[own], n_targets[own]
            )
        else:
            target_places, masked = places[own], None
        return SequenceBatch(
            users=rows[own],
            sequences=inputs,
            targets=self.tokens.values[target_places],
            contrast=inputs.first(contrast_lengths[own]) if self.contrasts_prefixes else inputs,
            contrast_targets=self.tokens.values[places],
            causal=self.causal,
            generators=self.generators,
            partners=self._partners.draw(places, drawn, own) if self._partners else None,
            share=share,
            whole=whole,
            epoch=epoch,
            target_weights=None if self.weights is None else self.weights[target_places],
            masked=masked,
        )

    def _causal_targets(
        self, rows: Tensor, starts: Tensor, lengths: Tensor, n_targets: Tensor
    ) -> tuple[Tensor, Ragged | None]:
        """Where among all tokens the targets lie that follow the inputs, the last ``n_targets`` [B]
        of each row; and from which of the batch's inputs they are predicted, None: from all."""
        followers = consecutive(self.tokens.offsets[rows] + starts + 1, lengths)
        if bool((n_targets == lengths).all()):
            return followers.values, None
        is_target = followers.positions >= (lengths - n_targets)[followers.rows]
        inputs = followers.with_values(torch.arange(len(is_target)))
        return followers.values[is_target], inputs.filter(is_target)

    def _by_length(
        self, chosen: Tensor, epoch: int, index: int
    ) -> tuple[Tensor, Tensor, Tensor, torch.Generator]:
        """The chosen samples in the order of their lengths, their rows and ends, and what is drawn
        from.
        """
        lengths = self.sample_ends[chosen].clamp(max=self.max_len)
        chosen = chosen[torch.argsort(lengths, stable=True)]
        drawn = self.generators.fresh("samples", epoch, index)
        return chosen, self.sample_rows[chosen], self.sample_ends[chosen], drawn


class _SameTarget:
    """Draws, for a target, a prefix that the same item follows elsewhere, all others equally
    likely; where the item follows no other, the anchor's own (as published)."""

    def __init__(self, tokens: Ragged, inputs: Ragged, max_len: int) -> None:
        later = (tokens.positions > 0).nonzero().squeeze(1)
        later = later[torch.argsort(tokens.values[later], stable=True)]
        self.inputs, self.max_len = inputs, max_len
        self.rows, self.ends = tokens.rows[later], tokens.positions[later]
        self.targets = tokens.values
        # where the place of each target stands among those of the same item, which lie side by side
        self.index = torch.zeros_like(tokens.values).index_copy_(0, later, torch.arange(len(later)))
        counts = torch.bincount(tokens.values[later])
        self.bounds = torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    def draw(self, places: Tensor, drawn: torch.Generator, own: slice) -> Ragged:
        """Draw for the targets at ``places`` [B] of the tokens -> the rows of those in ``own``."""
        part = torch.rand(places.numel(), generator=drawn, dtype=torch.float64)[own]
        targets, anchors = self.targets[places[own]], self.index[places[own]]
        first = self.bounds[targets]
        others = self.bounds[targets + 1] - first - 1
        index = first + torch.minimum((part * others).long(), (others - 1).clamp(min=0))
        index = index + (index >= anchors) * (others > 0)
        lengths = self.ends[index].clamp(max=self.max_len)
        return self.inputs.take(self.rows[index], self.ends[index] - lengths, lengths)


def draw_masks(lengths: Tensor, ratio: float, last_share: float, drawn: torch.Generator) -> Ragged:
    """B rows of bool: which items of sequences of [B] ``lengths`` (at least 2, on the host) are
    masked.

    Of a sequence of n items ``round(ratio * n)`` are, at least one and at most all but one, every
    choice of these equally likely; with the probability ``last_share`` the last item alone.
    """
    rows = Ragged.from_lengths(torch.empty(int(lengths.sum())), lengths)
    # a random order within each row
    order = torch.argsort(torch.rand(len(rows.values), generator=drawn))
    order = order[torch.argsort(rows.rows[order], stable=True)]
    counts = torch.minimum((ratio * lengths).round().long().clamp(min=1), lengths - 1)
    masked = torch.zeros(len(order), dtype=torch.bool)
    masked[order] = rows.positions < counts[rows.rows]
    last_mask = torch.rand(len(lengths), generator=drawn) < last_share
    masked = torch.where(last_mask[rows.rows], rows.positions == (lengths - 1)[rows.rows], masked)
    return rows.with_values(masked)


class ClozeBatches(SequenceBatches):
    """Whole sequences with masked items, which are drawn anew each epoch, as :func:`draw_masks`
    says.

    What is read beside the recommendation loss (``contrast``) is each sequence without its last
    item.

    Args:
        mask_ratio, last_share: of :func:`draw_masks`.
        options: of :class:`SequenceBatches`: gaps and times are 0 where an item is masked; samples
            have at most ``max_len + 1`` items, as a history that is read with a masked item behind
            it.
    """

    def __init__(
        self, train: Part, *, mask_ratio: float, last_share: float, **options: Any
    ) -> None:
        self.mask_ratio, self.last_share = mask_ratio, last_share
        super().__init__(train, "cloze", **options)

    def _batch(self, chosen: Tensor, epoch: int, index: int) -> SequenceBatch:
        _, rows, ends, drawn = self._by_length(chosen, epoch, index)
        lengths = (ends + 1).clamp(max=self.max_len + 1)
        masks = draw_masks(lengths, self.mask_ratio, self.last_share, drawn)
        places = self.tokens.offsets[rows] + ends
        share = self.generators.ranks.share_of_batch(len(rows), dealt=True)
        own = share.rows
        whole = None
        if not share.is_whole:
            n_targets = torch.zeros_like(lengths).index_add_(0, masks.rows, masks.values.long())
            whole = WholeBatch(n_targets, int(n_targets.sum()))
            masks = masks.take(torch.arange(len(rows))[own])
        rows, starts, lengths = rows[own], (ends + 1 - lengths)[own], lengths[own]
        masked = masks.values
        target_places = consecutive(self.tokens.offsets[rows] + starts, lengths).values[masked]
        inputs = self.inputs.take(rows, starts, lengths)
        shown = inputs.values.clone()
        shown[masked] = 0
        return SequenceBatch(
            users=rows,
            sequences=inputs.with_values(shown),
            targets=self.tokens.values[target_places],
            contrast=inputs.first(lengths - 1),
            contrast_targets=self.tokens.values[places],
            causal=False,
            generators=self.generators,
            share=share,
            whole=whole,
            epoch=epoch,
            target_weights=None if self.weights is None else self.weights[target_places],
            masked=masks.with_values(torch.arange(len(masked))).filter(masked),
        )


# -- times as inputs

#: buckets: unknown, no gap, then one for each number of binary digits
N_GAPS = 65


def gap_buckets(gaps: Tensor) -> Tensor:
    """The bucket, 1 to ``N_GAPS - 1``, of time gaps [T] int64; 0 is left for unknown ones.

    1: none, both at one time; ``2 + floor(log2 gap)``: a gap of that length in the unit of the
    times. Another unit moves all buckets, and no scale has to be learnt.
    """
    # 2 ** (e - 1) <= gap < 2 ** e, and e = 0 where there is none
    buckets = 1 + torch.frexp(gaps.clamp(min=0).double()).exponent.to(torch.int64)
    return buckets.clamp(max=N_GAPS - 1)  # the double above the largest int64 has one digit more


def with_gaps(
    tokens: Ragged, times: Tensor | None, with_times: bool = False, at: Tensor | None = None
) -> Ragged:
    """Rows of triples [T, 3]: each token, the bucket of the gap before it (0: it is a row's first)
    and that of the gap behind it, up to the event that is predicted there, counted on by ``N_GAPS -
    1`` (0: unknown, of a row's last).

    Args:
        times: [T] int64, ascending in each row.
        with_times: [T, 5], with the item's time and that of the event behind it (a row's last: its
            own again) between the token and the gaps. Both are counted on by 1 from 0 on, so that 0
            is an unknown one.
        at: [B] int64, the time of the event behind each row's last item, where it is known.
    """
    if times is None:
        setting = "time_bias" if with_times else "time_gaps"
        raise ValueError(
            f"{setting} = True reads times, and the log has none: name a column (timestamp=..., --time)"
        )
    is_last = tokens.positions == tokens.lengths[tokens.rows] - 1
    is_first = tokens.positions == 0
    behind_last = times if at is None else at[tokens.rows]
    following = torch.where(is_last, behind_last, times.roll(-1))
    gaps = gap_buckets(following - times)
    before = gaps.roll(1).masked_fill(is_first, 0)
    behind = gaps + N_GAPS - 1
    if at is None:
        behind = behind.masked_fill(is_last, 0)
    columns = [tokens.values, before, behind]
    if with_times:
        columns[1:1] = [times + (times >= 0), following + (following >= 0)]
    return tokens.with_values(torch.stack(columns, 1))
