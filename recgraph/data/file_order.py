"""Logs without times, which are in the order of their file: whether that is an order in time."""

from __future__ import annotations

import logging

import torch

from recgraph.data.log import InteractionLog

__all__ = ["is_sorted_by_item", "warn_if_sorted"]

_log = logging.getLogger(__name__)
#: a user of so many items has them in the order of their ids by chance once in 120 times
_LEAST = 5
#: the share of such users above which the file is sorted, and how many there must be to tell
_SHARE, _USERS = 0.9, 20


def is_sorted_by_item(interactions: InteractionLog) -> bool:
    """Whether nearly all users of five interactions or more have them in the order of the items' ids."""
    items = interactions.ordered.items
    asked = items.lengths >= _LEAST
    if int(asked.sum()) < _USERS:
        return False
    ranks = torch.from_numpy(interactions.items.values.rank("ordinal").to_numpy().astype("int64"))
    of_places, rows = ranks[items.values], items.rows
    falls = (of_places[1:] < of_places[:-1]) & (rows[1:] == rows[:-1])
    falling = torch.zeros(len(asked), dtype=torch.bool)
    falling[rows[1:][falls]] = True
    return bool((~falling[asked]).double().mean() >= _SHARE)


def warn_if_sorted(interactions: InteractionLog) -> None:
    """Warn where a split by the order of a file would hold out the largest ids, not the latest interactions."""
    if interactions.columns.timestamp is None and is_sorted_by_item(interactions):
        _log.warning(
            "split: the log has no times, and its file is sorted by item, so that the largest ids of each user are "
            "held out, not the latest interactions; name the column of times when reading, or split at random: "
            "'ratio' with order='random' (rg.load_split(NAME) splits a data set of the catalogue as its card says)"
        )
