"""Metrics by groups of users: by the length of their history, by the popularity of what they ask for, by attribute."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recgraph.data.part import Cases
from recgraph.evaluate.results import Result


def by_group(result: Result, labels: Sequence[str] | pl.Series) -> pl.DataFrame:
    """The metrics of each group.

    Args:
        labels: [U], the group of each user of the result: an attribute, or from :func:`history_groups` or
            :func:`popularity_groups`.

    Returns:
        one row a group, in order of first appearance: ``group``, ``n_users``, and a column a metric: the mean over the
        users that have a value (null if none has). Metrics without values of users are left out.

    Raises:
        ValueError: not a label for each user.
    """
    if len(labels) != len(result.users):
        raise ValueError(f"labels has {len(labels)} entries; give one for each of the {len(result.users)} users")
    table = pl.DataFrame({"group": labels, **result.per_user}).with_columns(
        pl.col(name).fill_nan(None) for name in result.per_user
    )
    means = [pl.col(name).mean() for name in result.per_user]
    return table.group_by("group", maintain_order=True).agg(pl.len().alias("n_users"), *means)


def history_groups(cases: Cases, edges: Sequence[int] = (1, 5, 20)) -> list[str]:
    """[U] labels by the number of interactions that are known of a user.

    Args:
        edges: ascending, at least 1: each opens a group; below the first one the user is cold: ``"0"`` with 1 as the
            first edge.

    Returns:
        e.g. ``"0"``, ``"1-4"``, ``"5-19"``, ``"20+"``.
    """
    if not edges or list(edges) != sorted(set(edges)) or edges[0] < 1:
        raise ValueError(f"edges = {tuple(edges)!r} must ascend and be at least 1")
    starts = [0, *edges]
    names = [str(low) if high == low + 1 else f"{low}-{high - 1}" for low, high in pairwise(starts)]
    names.append(f"{starts[-1]}+")
    place = np.searchsorted(np.asarray(edges), cases.history.lengths.numpy(force=True), side="right")
    return [names[at] for at in place]


def popularity_groups(cases: Cases, counts: Tensor, head: float = 0.2) -> list[str]:
    """[U] labels by the items that a user should be recommended.

    Args:
        counts: [n_items] int64, interactions in the data the model was fitted on.
        head: the share of the items with an interaction that is the head, the most popular ones (at least one item,
            equally popular ones in the order of their indices).

    Returns:
        ``"head"``, ``"tail"`` or ``"cold"`` (no interaction) where all relevant items of a user are so, else
        ``"mixed"``.

    Raises:
        ValueError: ``head`` outside (0, 1).
    """
    if not 0 < head < 1:
        raise ValueError(f"head = {head} must lie between 0 and 1")
    kinds = np.array(["cold", "tail", "head", "mixed"])
    kind = (counts > 0).long()
    popular = counts.argsort(descending=True, stable=True)
    kind[popular[: max(int(head * int((counts > 0).sum())), 1)]] *= 2
    of_items = kind[cases.truth.values]
    low, high = torch.full((len(cases),), 2), torch.zeros(len(cases), dtype=torch.int64)
    low = low.scatter_reduce(0, cases.truth.rows, of_items, "amin")
    high = high.scatter_reduce(0, cases.truth.rows, of_items, "amax")
    labels: list[str] = kinds[torch.where(low == high, low, 3).numpy(force=True)].tolist()
    return labels
