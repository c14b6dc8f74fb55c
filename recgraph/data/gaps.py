"""Times as inputs: how long before an interaction its user's one before it was, and when it was."""

from __future__ import annotations

import torch
from torch import Tensor

from recgraph.sparse.ragged import Ragged

#: buckets: unknown, no gap, then one for each number of binary digits
N_GAPS = 65


def gap_buckets(times: Ragged) -> Ragged:
    """The bucket of the gap before each interaction.

    0: unknown, of the first interaction of a row; 1: none, both at one time; ``2 + floor(log2 gap)``: a gap of that
    length in the unit of the times. Another unit moves all buckets, and no scale has to be learnt.

    Args:
        times: R rows of int64, ascending.

    Returns:
        R rows of int64 in ``0 ... N_GAPS - 1``.
    """
    values = times.values
    gaps = torch.diff(values, prepend=values[:1]).clamp(min=0)
    # 2 ** (e - 1) <= gap < 2 ** e, and e = 0 where there is none
    buckets = 1 + torch.frexp(gaps.double()).exponent.to(torch.int64)
    buckets = buckets.clamp(max=N_GAPS - 1)  # the double above the largest int64 has one digit more
    return times.with_values(buckets.masked_fill(times.positions == 0, 0))


def with_gaps(tokens: Ragged, times: Tensor | None, with_times: bool = False) -> Ragged:
    """Rows of pairs [T, 2]: each token and the bucket of the gap before it.

    Args:
        with_times: of triples [T, 3]: and its time, counted on by 1 from 0 on, so that 0 is an unknown one.

    Raises:
        ValueError: there are no times.
    """
    if times is None:
        setting = "time_bias" if with_times else "time_gaps"
        raise ValueError(
            f"{setting} = True needs the times of interactions, and the log has none: name their column when reading "
            f"(timestamp=..., --time), or leave {setting} out"
        )
    columns = [tokens.values, gap_buckets(tokens.with_values(times)).values]
    return tokens.with_values(torch.stack([*columns, times + (times >= 0)] if with_times else columns, 1))


def times_of(rows: Ragged) -> Ragged | None:
    """The times of rows of triples of :func:`with_gaps`; None: the rows hold none."""
    if rows.values.ndim == 1 or rows.values.shape[1] < 3:
        return None
    counted = rows.values[:, 2]
    return rows.with_values(counted - (counted > 0).to(counted.dtype))
