"""Random entries of the rows of a sparse matrix, for neighbour samplers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recgraph.sparse.csr import Csr
from recgraph.sparse.ragged import Ragged, consecutive


@dataclass(frozen=True)
class RowSample:
    """What was drawn of K rows.

    Attributes:
        entries: K rows of places in the matrix's ``indices``, ascending.
        scale: [K] float64, entries a row has for each that was drawn; 1 where all were. Sums over the drawn entries
            times this are unbiased estimates of sums over the row.
    """

    entries: Ragged
    scale: Tensor


def sample_rows(
    adj: Csr, rows: Tensor, fan_out: int | None, generator: torch.Generator | None, replace: bool = False
) -> RowSample:
    """Draw at most ``fan_out`` entries of each row, uniformly. Costs the entries drawn, not those of the rows.

    Without replacement a row of no more entries is taken whole, from any other all subsets are equally likely (Floyd's
    algorithm, Communications of the ACM 30, 1987, for all rows at once). With replacement each row with entries gives
    ``fan_out`` independent ones.

    Args:
        adj: [R, C].
        rows: [K] int64, repeats allowed: each draws by itself.
        fan_out: at least 1; None takes all entries and draws nothing.
        generator: on any device.
        replace: draw with replacement.
    """
    starts = adj.indptr[rows]
    degrees = adj.indptr[rows + 1] - starts
    if fan_out is None:
        return RowSample(consecutive(starts, degrees), degrees.new_ones(len(degrees), dtype=torch.float64))
    assert generator is not None
    if replace:
        counts = torch.where(degrees > 0, fan_out, 0)
        picks = _uniform(degrees.clamp(min=1)[:, None].expand(-1, fan_out), generator).sort(1).values
    else:
        counts = degrees.clamp(max=fan_out)
        picks = torch.arange(fan_out, device=adj.device).repeat(len(rows), 1)
        long = torch.nonzero(degrees > fan_out).squeeze(1)
        picks[long] = _distinct(degrees[long], fan_out, generator)
    drawn = (picks + starts[:, None])[torch.arange(fan_out, device=adj.device) < counts[:, None]]
    scale = degrees.clamp(min=1).to(torch.float64) / counts.clamp(min=1)
    return RowSample(Ragged.from_lengths(drawn, counts), scale)


def _uniform(below: Tensor, generator: torch.Generator) -> Tensor:
    """One integer for each entry, uniform on ``0 ... below - 1``."""
    draw = torch.rand(below.shape, generator=generator, device=generator.device, dtype=torch.float64)
    return torch.minimum((draw.to(below.device) * below).to(torch.int64), below - 1)


def _distinct(degrees: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """[K, k] int64: k different numbers below each degree (all above k), ascending."""
    tops = degrees[:, None] - k + torch.arange(k, device=degrees.device)
    draws = _uniform(tops + 1, generator)
    # the c-th is drawn from 0 ... top_c; one that is taken already gives way to top_c itself, which cannot be
    for c in range(1, k):
        taken = (draws[:, :c] == draws[:, c, None]).any(1)
        draws[:, c] = torch.where(taken, tops[:, c], draws[:, c])
    return draws.sort(1).values
