"""Rows of different lengths in one flat tensor: how histories, sequences and packed batches are
held.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain, pairwise

import torch
from torch import Tensor

from recgraph.sparse.device import to_device, to_host


class Ragged:
    """``values[offsets[r]:offsets[r + 1]]`` is row ``r``.

    Args:
        values: [T] or [T, ...], the rows one after the other.
        offsets: [R + 1] int64, ``offsets[0] == 0`` and ``offsets[-1] == T``.
        host_values, host_offsets: copies on the host of rows on a device, where they are known
            (:meth:`mirrored`).
    """

    def __init__(
        self,
        values: Tensor,
        offsets: Tensor,
        host_values: Tensor | None = None,
        host_offsets: Tensor | None = None,
    ) -> None:
        self.values, self.offsets = values, offsets
        self.host_values, self.host_offsets = host_values, host_offsets
        self.n_rows, self.device = offsets.numel() - 1, offsets.device

    @classmethod
    def from_lists(
        cls, rows: Iterable[Sequence[int]], device: torch.device | None = None
    ) -> Ragged:
        rows = list(rows)
        values = torch.tensor([*chain.from_iterable(rows)], dtype=torch.int64, device=device)
        lengths = torch.tensor([*map(len, rows)], dtype=torch.int64, device=device)
        return cls.from_lengths(values, lengths)

    @classmethod
    def from_lengths(cls, values: Tensor, lengths: Tensor) -> Ragged:
        return cls(values, offsets_of(lengths))

    @classmethod
    def from_padded(cls, padded: Tensor, lengths: Tensor) -> Ragged:
        """Rows of a right-padded [R, L] tensor, of which the first ``lengths[r]`` entries count."""
        mask = torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]
        return cls.from_lengths(padded[mask], lengths)

    @classmethod
    def cat(cls, parts: Sequence[Ragged]) -> Ragged:
        """The rows of all parts, one part under the other; of parts that are mirrored on a device,
        mirrored there.
        """
        if parts[0].host_values is not None:
            return cls.cat([part.on_host for part in parts]).mirrored(parts[0].device)
        values = torch.cat([part.values for part in parts])
        return cls.from_lengths(values, torch.cat([part.lengths for part in parts]))

    @cached_property
    def lengths(self) -> Tensor:
        """[R] int64."""
        return self.offsets[1:] - self.offsets[:-1]

    @cached_property
    def rows(self) -> Tensor:
        """[T] int64: the row of each value."""
        index = torch.arange(self.n_rows, device=self.device)
        return torch.repeat_interleave(index, self.lengths, output_size=self.values.shape[0])

    @cached_property
    def positions(self) -> Tensor:
        """[T] int64: the place of each value in its row, from 0."""
        return torch.arange(self.values.shape[0], device=self.device) - self.offsets[:-1][self.rows]

    @property
    def on_host(self) -> Ragged:
        """The rows on the host. Rows on a device that are not mirrored are copied, and the device
        is waited for.
        """
        if self.values.is_cpu:
            return self
        values, offsets = self.host_values, self.host_offsets
        if offsets is None:
            offsets = to_host(self.offsets)
        if values is None:
            values = to_host(self.values)
        return Ragged(values, offsets)

    @property
    def longest(self) -> int:
        """The length of the longest row, by the host's offsets where they are known; 0 where there
        is no row.
        """
        if not self.n_rows:
            return 0
        lengths = self.lengths if self.host_offsets is None else self.host_offsets.diff()
        return int(lengths.max())

    def __len__(self) -> int:
        return self.n_rows

    def row(self, index: int) -> Tensor:
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def with_values(self, values: Tensor) -> Ragged:
        """The same rows with other values ([T] or [T, ...])."""
        return Ragged(values, self.offsets, host_offsets=self.host_offsets)

    def columns(self, which: int | slice) -> Ragged:
        """The same rows with some columns of their values [T, C], mirrored where they are."""
        host = None if self.host_values is None else self.host_values[:, which]
        return Ragged(self.values[:, which], self.offsets, host, self.host_offsets)

    def take(
        self, rows: Tensor | slice, starts: Tensor | int = 0, lengths: Tensor | None = None
    ) -> Ragged:
        """The given rows ([K] int64, repeats allowed, or a slice), or parts of them of ``lengths``
        [K] from the places ``starts`` [K] on, which must lie inside the rows."""
        if lengths is None:
            lengths = self.lengths[rows]
        index = consecutive(self.offsets[:-1][rows] + starts, lengths)
        return Ragged(self.values[index.values], index.offsets)

    def part(self, start: int, end: int) -> Ragged:
        """The rows from ``start`` to ``end``; the values are not copied."""
        offsets = self.offsets[start : end + 1]
        return Ragged(self.values[int(offsets[0]) : int(offsets[-1])], offsets - offsets[0])

    def last(self, n: int) -> Ragged:
        """At most the last ``n`` values of each row."""
        lengths = self.lengths.clamp(max=n)
        if torch.equal(lengths, self.lengths):
            return self
        return self.take(slice(None), self.lengths - lengths, lengths)

    def first(self, lengths: Tensor) -> Ragged:
        """The first ``lengths[r]`` values of each row."""
        return self.take(slice(None), lengths=lengths)

    def lengthened(self, which_mask: Tensor | None = None) -> Ragged:
        """The rows with a zero behind each, mirrored where they are; or behind those of
        ``which_mask`` [R].
        """
        n_more = self.n_rows
        lengths = self.lengths + 1
        if which_mask is not None:
            n_more = int(which_mask.sum())
            lengths = self.lengths + which_mask
        elif self.host_values is not None:
            return self.on_host.lengthened().mirrored(self.device)
        n_values, *shape = self.values.shape
        longer = Ragged.from_lengths(self.values.new_zeros(n_values + n_more, *shape), lengths)
        shift = (longer.offsets - self.offsets)[self.rows]
        places = torch.arange(n_values, device=self.device) + shift
        longer.values.index_copy_(0, places, self.values)
        return longer

    def neighbours(self) -> tuple[Tensor, Tensor]:
        """[P] int64 each: the places of the values that are followed in their row, and those of
        their followers.
        """
        before = (self.positions < self.lengths[self.rows] - 1).nonzero()[:, 0]
        return before, before + 1

    def filter(self, keep_mask: Tensor) -> Ragged:
        """Only the values where ``keep_mask`` [T] is True; rows may become empty."""
        # sums over the mask, and not over the rows: these would be kept, as large as the values of
        # a whole log
        return Ragged(self.values[keep_mask], offsets_of(keep_mask)[self.offsets])

    def to_padded(self, fill: float = 0, width: int | None = None) -> Tensor:
        """[R, width] (default: the longest row), right-padded with ``fill``."""
        if width is None:
            width = self.longest
        padded = self.values.new_full((self.n_rows, width, *self.values.shape[1:]), fill)
        padded[self.rows, self.positions] = self.values
        return padded

    def to_lists(self) -> list[list[int]]:
        flat = self.values.tolist()
        return [flat[start:end] for start, end in pairwise(self.offsets.tolist())]

    def to(self, device: torch.device | str) -> Ragged:
        return Ragged(self.values.to(device), self.offsets.to(device))

    def mirrored(self, device: torch.device | str) -> Ragged:
        """The rows on a device, copied without a wait; they remember the host's, whose memory they
        keep.
        """
        values, offsets = to_device(self.values, device), to_device(self.offsets, device)
        if values.is_cpu:
            return Ragged(values, offsets)
        if self.values.is_cpu:
            return Ragged(values, offsets, self.values, self.offsets)
        return Ragged(values, offsets, self.host_values, self.host_offsets)


def offsets_of(lengths: Tensor) -> Tensor:
    """[n + 1] int64: the sum of all lengths before each, and that of all."""
    offsets = lengths.new_zeros(lengths.numel() + 1, dtype=torch.int64)
    torch.cumsum(lengths, 0, out=offsets[1:])
    return offsets


def consecutive(starts: Tensor, lengths: Tensor, total: int | None = None) -> Ragged:
    """K rows of ``lengths[i]`` numbers from ``starts[i]`` on; without their sum ``total`` the
    device is waited for.
    """
    offsets = offsets_of(lengths)
    if total is None:
        total = int(offsets[-1])
    first = torch.repeat_interleave(starts - offsets[:-1], lengths, output_size=total)
    return Ragged(first.add_(torch.arange(total, device=starts.device)), offsets)


def row_softmax(
    scores: Tensor, offsets: Tensor, rows: Tensor, n_zeros: Tensor | None = None
) -> Tensor:
    """[T]: the softmax of scores [T] within each row of a :class:`Ragged` with such offsets and
    rows, ``exp(s_t) / (z_r + sum of exp(s_u) over the values u of t's row r)``: z [R], ``n_zeros``,
    are further values of score 0, none of which is returned."""
    # the greatest of each row is taken out first, so that no exponential overflows; it takes no
    # gradient
    peak = torch.segment_reduce(scores.detach(), "max", offsets=offsets, initial=-torch.inf)
    if n_zeros is not None:
        peak = torch.where(n_zeros > 0, peak.clamp(min=0), peak)
    raised = (scores - peak[rows]).exp()
    total = torch.zeros_like(peak).index_add(0, rows, raised)
    if n_zeros is not None:
        total = total + n_zeros * (-peak.clamp(min=0)).exp()
    return raised / total[rows]
