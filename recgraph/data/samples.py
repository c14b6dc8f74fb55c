"""The inputs of models: the samples of a training batch, of pairs and of sequences, and the queries of a ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from recgraph.accelerated import to_device
from recgraph.blocks import even_bounds, of_groups
from recgraph.ranks import WHOLE, Share
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged

__all__ = ["PairBatch", "Query", "SequenceBatch", "WholeBatch"]


@dataclass(frozen=True)
class Query:
    """The users to rank items for.

    Attributes:
        users: [B] int64 user indices; -1 for a user never seen in training.
        history: B rows of item indices (0-based), oldest first; may be empty.
        times: the times of ``history``, row by row, for models that read them; None: not known.
    """

    users: Tensor
    history: Ragged
    times: Ragged | None = None

    def to(self, device: torch.device | str) -> Query:
        times = None if self.times is None else self.times.to(device)
        return Query(self.users.to(device), self.history.to(device), times)

    def take(self, rows: Tensor) -> Query:
        """Some of the rows ([K] int64)."""
        times = None if self.times is None else self.times.take(rows)
        return Query(self.users[rows], self.history.take(rows), times)

    def rows(self, start: int, end: int) -> Query:
        """The rows from ``start`` to ``end``; nothing is copied."""
        parts = [None if part is None else part.part(start, end) for part in (self.history, self.times)]
        history, times = parts
        assert history is not None
        return Query(self.users[start:end], history, times)

    def __len__(self) -> int:
        return self.users.numel()


@dataclass(frozen=True)
class WholeBatch:
    """What a rank knows of a batch of which it computes a share.

    Attributes:
        share: which of the batch's B rows are the rank's.
        lengths: [B], the targets of each row.
        n_targets: the targets of all rows.
        contrast: B rows of tokens of which all ranks draw the same views; None where no views are drawn.
    """

    share: Share
    lengths: Tensor
    n_targets: int
    contrast: Ragged | None = None

    def to(self, device: torch.device | str) -> WholeBatch:
        contrast = None if self.contrast is None else self.contrast.mirrored(device)
        return replace(self, lengths=to_device(self.lengths, device), contrast=contrast)


@dataclass(frozen=True)
class SequenceBatch:
    """Training samples of a sequence model. A token is ``item_idx + 1``; token 0 is a masked item.

    With time gaps the rows of ``sequences``, ``contrast`` and ``partners`` hold pairs: [T, 2], a token and the bucket
    of the gap before it (:mod:`recgraph.data.gaps`). For an encoder that reads times they hold triples, its time third.

    Where several ranks train together, each has the rows of its share; ``contrast_targets`` and ``whole`` concern the
    whole batch.

    Attributes:
        users: [B] int64.
        sequences: B rows of input tokens, oldest first, at most ``max_len``.
        targets: tokens to predict: [B] after each row (``regime="prefix"``), or [T] after each input token
            (``"causal"``, aligned with ``sequences.values``), or [M] those of masked items (``"cloze"``).
        contrast: B rows of tokens that are augmented into the views of the contrast.
        contrast_targets: the token that follows each row of ``contrast``, for the rows of all ranks.
        causal: whether there is a target after each input token.
        generators: the run's random streams, on the batch's device.
        partners: B rows of tokens with the same next token as ``contrast``'s rows, others where there are any
            (DuoRec); None where not used.
        drawn: what a model draws once for all phases of the batch (its augmented inputs): name -> several sets of rows.
        contrasted: the contrastive terms (their ``id``) that this step has contrasted the batch by already: of several
            phases and pairs of views the first is new to a term.
        whole: the batch of which this is a rank's share; None where it is all of it.
        epoch: from 0.
        labels: [B] float, the ratings of the interactions with ``contrast_targets``, NaN where one has none; None where
            the log has none.
        masked: B rows of the M places among ``sequences.values`` of the masked items that are the targets; None: the
            targets follow what is read.
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
    contrasted: set[int] = field(default_factory=set, compare=False)
    whole: WholeBatch | None = None
    epoch: int = 0
    labels: Tensor | None = None
    masked: Ragged | None = None

    @property
    def n_targets(self) -> int:
        """How many recommendation targets the batch holds on all ranks (the unit of training speed)."""
        return self.targets.numel() if self.whole is None else self.whole.n_targets

    @property
    def share(self) -> Share:
        return WHOLE if self.whole is None else self.whole.share

    @property
    def weight(self) -> float:
        """What a mean over this rank's targets is multiplied by, so that the mean over ranks is that of the batch."""
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
        """Where this rank's targets of each of G even groups of the batch's targets begin and end, [G + 1]."""
        places = self.target_places()
        if n_groups == 1 or isinstance(places, slice):
            return even_bounds(len(self.targets), n_groups)
        bounds = torch.tensor(even_bounds(self.n_targets, n_groups), device=places.device)
        found: list[int] = torch.searchsorted(places, bounds).tolist()
        return found

    def to(self, device: torch.device | str) -> SequenceBatch:
        return replace(
            self,
            users=to_device(self.users, device),
            sequences=self.sequences.mirrored(device),
            targets=to_device(self.targets, device),
            contrast=self.contrast.mirrored(device),
            contrast_targets=to_device(self.contrast_targets, device),
            partners=None if self.partners is None else self.partners.mirrored(device),
            drawn={name: [rows.mirrored(device) for rows in drawn] for name, drawn in self.drawn.items()},
            whole=None if self.whole is None else self.whole.to(device),
            labels=None if self.labels is None else to_device(self.labels, device),
            masked=None if self.masked is None else self.masked.mirrored(device),
        )


@dataclass(frozen=True)
class PairBatch:
    """Training samples of a user-item model; where several ranks train together, each has those of its share.

    Attributes:
        users: [B] int64.
        items: [B] int64, 0-based: an item that the user chose.
        negatives: [B, K] int64, 0-based: items to rank below it; K = 0 where the loss needs none. [G, K] where the
            samples of each of G groups share them.
        generators: the run's random streams.
        epoch: from 0; what is drawn once an epoch depends on it, so that a resumed run draws the same.
        share: which samples of the batch these are.
        all_pairs: the users and the items of all ranks' samples; None: they are these.
        drawn: what a model makes of the batch on the host, before it moves: name -> tensors.
        excluded: [2, E] int64, the sample and the column of each shared negative that does not count for the sample;
            None where each sample has negatives of its own.
        bounds: of the groups that share negatives (:func:`recgraph.blocks.even_bounds`), among these samples; None
            where each sample has its own.
    """

    users: Tensor
    items: Tensor
    negatives: Tensor
    generators: Generators
    epoch: int = 0
    share: Share = WHOLE
    all_pairs: tuple[Tensor, Tensor] | None = None
    drawn: dict[str, list[Tensor]] = field(default_factory=dict, compare=False)
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
        """Values of the negatives, in their shape -> those of each sample's, [B, K]; [1, K] where all share them."""
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
        return self.drawn.get("distinct") or [torch.unique(self.all_users), torch.unique(self.all_items)]

    def keep_distinct(self) -> None:
        """Keep :meth:`distinct` before the batch moves to an accelerator, which would have to tell their number."""
        self.drawn["distinct"] = self.distinct()

    @property
    def weight(self) -> float:
        """What a mean over this rank's samples is multiplied by, so that the mean over ranks is that of the batch."""
        return self.share.weight

    def to(self, device: torch.device | str) -> PairBatch:
        users, items, negatives = (to_device(part, device) for part in (self.users, self.items, self.negatives))
        pairs = None
        if self.all_pairs is not None:
            pairs = to_device(self.all_users, device), to_device(self.all_items, device)
        drawn = {name: [to_device(part, device) for part in parts] for name, parts in self.drawn.items()}
        moved = replace(self, users=users, items=items, negatives=negatives, all_pairs=pairs, drawn=drawn)
        return moved if self.excluded is None else replace(moved, excluded=to_device(self.excluded, device))
