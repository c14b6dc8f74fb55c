"""Breakdowns: the entries' metrics on groups of users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recgraph.leaderboard.stat import Stat
from recgraph.leaderboard.store import Record

__all__ = ["GROUPS", "Groups", "groups_of"]

#: how users are grouped, and what it is called
GROUPS = {"history": "Interactions known of a user", "popularity": "Popularity of what is looked for"}


@dataclass(frozen=True)
class Groups:
    """One metric under one protocol on one kind of groups.

    Attributes:
        kind: ``history`` or ``popularity``.
        label: what the groups are, for people.
        title: of the protocol.
        metric: which.
        sizes: group -> its users, in order.
        rows: name of an entry -> group -> the metric over seeds; a group that an entry has no users of is left out.
    """

    kind: str
    label: str
    title: str
    metric: str
    sizes: Mapping[str, int]
    rows: Mapping[str, Mapping[str, Stat]]


def groups_of(records: Mapping[str, Mapping[int, Record]], titles: Sequence[str], metric: str) -> tuple[Groups, ...]:
    """The breakdowns of the records of a data set, for each kind and protocol.

    Args:
        records: name of an entry -> seed -> record.
    """
    there = [record["groups"] for own in records.values() for record in own.values() if "groups" in record]
    kinds = list(dict.fromkeys(kind for groups in there for kind in groups))
    return tuple(_table(records, kind, title, metric) for kind in kinds for title in titles)


def _table(records: Mapping[str, Mapping[int, Record]], kind: str, title: str, metric: str) -> Groups:
    sizes: dict[str, int] = {}
    rows: dict[str, dict[str, Stat]] = {}
    for name, own in records.items():
        found: dict[str, dict[int, float]] = {}
        for seed, record in own.items():
            groups: Mapping[str, Mapping[str, Any]] = record.get("groups", {}).get(kind, {}).get(title, {})
            for group, values in groups.items():
                sizes.setdefault(group, int(values["n_users"]))
                if metric in values:
                    found.setdefault(group, {})[seed] = float(values[metric])
        if found:
            rows[name] = {group: Stat(values) for group, values in found.items()}
    return Groups(kind, GROUPS.get(kind, kind), title, metric, sizes, rows)
