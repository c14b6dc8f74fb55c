"""Training samples with masked items: sequences of which some items are hidden, which are the targets."""

from __future__ import annotations

import torch
from torch import Tensor

from recgraph.data.batches import SequenceBatch, SequenceBatches, WholeBatch
from recgraph.data.part import Part
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged, consecutive


def draw_masks(lengths: Tensor, ratio: float, last_share: float, drawn: torch.Generator) -> Ragged:
    """Which items of sequences are masked.

    Of a sequence of n items ``round(ratio * n)`` are, at least one and at most all but one, every choice of these
    equally likely; of a share of the sequences the last item alone.

    Args:
        lengths: [B] int64, at least 2, on the host.
        ratio: see above.
        last_share: the probability with which the last item alone is masked.
        drawn: draws on the host.

    Returns:
        B rows of bool.
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
    """Whole sequences with masked items, which are drawn anew each epoch, as :func:`draw_masks` says.

    What is read beside the recommendation loss (``contrast``) is each sequence without its last item.

    Args:
        train: users with fewer than two interactions give no sample.
        batch_size: samples a batch.
        max_len: samples have at most ``max_len + 1`` items, as a history that is read with a masked item behind it.
        generators: of the run.
        mask_ratio, last_share: of :func:`draw_masks`.
        window_step: items between the samples of a longer history, which then cover it; None: its last items alone.
        gaps: rows of inputs also hold the bucket of the time gap before each item, 0 where it is masked.
        times: and the time of each item, 0 where it is masked.

    Raises:
        ValueError: no user has two interactions, or ``gaps`` or ``times`` and the log has no times.
    """

    causal = False

    def __init__(
        self,
        train: Part,
        batch_size: int,
        max_len: int,
        generators: Generators,
        *,
        mask_ratio: float,
        last_share: float,
        window_step: int | None = None,
        gaps: bool = False,
        times: bool = False,
    ) -> None:
        self.mask_ratio, self.last_share, self.window_step = mask_ratio, last_share, window_step
        super().__init__(train, batch_size, max_len, generators, "sequence", False, False, gaps, times, False)

    def _samples(self) -> tuple[Tensor, Tensor]:
        rows = (self.tokens.lengths > 1).nonzero().squeeze(1)
        ends = self.tokens.lengths[rows] - 1
        step = self.window_step
        if step is None:
            return rows, ends
        # as published: windows from the end on, and one at the beginning
        further = (ends - self.max_len).clamp(min=0)
        windows = consecutive(torch.zeros_like(rows), 1 + (further + step - 1) // step)
        of_each = windows.rows
        first = torch.minimum(ends, torch.full_like(ends, self.max_len))
        return rows[of_each], torch.maximum(ends[of_each] - step * windows.values, first[of_each])

    def _batch(self, rows: Tensor, ends: Tensor, drawn: torch.Generator, epoch: int) -> SequenceBatch:
        lengths = (ends + 1).clamp(max=self.max_len + 1)
        masks = draw_masks(lengths, self.mask_ratio, self.last_share, drawn)
        places = self.tokens.offsets[rows] + ends
        share, whole = self.generators.ranks.share_of_batch(len(rows), dealt=True), None
        if not share.is_whole:
            counts = torch.zeros_like(lengths).index_add_(0, masks.rows, masks.values.long())
            whole = WholeBatch(share, counts, int(counts.sum()))
            masks = masks.take(torch.arange(len(rows))[share.rows])
        own = share.rows
        rows, starts, lengths = rows[own], (ends + 1 - lengths)[own], lengths[own]
        inputs, masked = self.inputs.window(rows, starts, lengths), masks.values
        of_tokens = inputs.values if inputs.values.ndim == 1 else inputs.values[:, 0]
        targets = of_tokens[masked]
        hidden = masked if inputs.values.ndim == 1 else masked[:, None]
        return SequenceBatch(
            rows,
            inputs.with_values(inputs.values.masked_fill(hidden, 0)),
            targets,
            inputs.first(lengths - 1),
            self.tokens.values[places],
            causal=False,
            generators=self.generators,
            whole=whole,
            epoch=epoch,
            masked=masks.with_values(torch.arange(len(masked))).filter(masked),
        )
