"""The split within a training part by which models of several learn to rank: as the data set itself is split."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl
import torch
from torch import Tensor

from recgraph.config import ConfigError
from recgraph.data.errors import DataError
from recgraph.data.ids import IdMap
from recgraph.data.item_features import FeatureWish, ItemFeatures
from recgraph.data.log import InteractionLog
from recgraph.data.part import Cases, Part
from recgraph.data.split import FitPart, SealedSplit, Split
from recgraph.data.strategies import GROUPS, Label, Ratio, Shares, Strategy
from recgraph.models.base import Model, Space
from recgraph.models.two_stage import Member, Plan, TwoStage, last_held_out
from recgraph.ranks import refuse_launched
from recgraph.rng import derive

#: columns of side information that the second stage takes, at most
_WIDEST = 256
#: what becomes of the labels of a split: what it tests is asked for, what it validates on is known
_INNER = {
    Label.TRAIN: Label.TRAIN,
    Label.VALID: Label.TRAIN,
    Label.TEST: Label.VALID,
    Label.VALID_HISTORY: Label.TRAIN,
    Label.TEST_HISTORY: Label.VALID_HISTORY,
    Label.VALID_LEFT: Label.TRAIN,
    Label.TEST_LEFT: Label.VALID_LEFT,
}


def inner_split(log: InteractionLog, strategy: Strategy, seed: int) -> tuple[Part, Cases]:
    """A training part, split once more: what models are fitted to, and what followed.

    The rule is that of the data set, with the share that it tests, a tenth where it says none; of parts that were
    given, a tenth of each user's interactions, drawn as they say; of leave-one-out, and of a log that is not split, the
    last one of each user.
    """
    if (rule := _rule(strategy)) is None:
        return last_held_out(log.ordered.part)
    labels = rule.labels(log, seed)
    becomes = torch.tensor([_INNER[label] for label in Label], dtype=labels.dtype)
    split = Split(log, becomes[labels.long()], rule, "inner", seed)
    return split.train, split.valid


def _rule(strategy: Strategy) -> Strategy | None:
    """None: the last interaction of each user is held out."""
    found = strategy.model_dump()
    given = {
        name: found[name] for name in ("new_users", "order", "fold_in", "targets", "unknown_items") if name in found
    }
    share = found.get("test") or 0.1
    if isinstance(strategy, Shares):
        return type(strategy)(**given, valid=0.0, test=share)
    if "order" in given:  # of parts that are given
        return Ratio(order=given["order"], valid=0.0, test=share)
    return None


def give_plan(
    model: TwoStage,
    split: Split | SealedSplit,
    fit_on: FitPart,
    seed: int,
    space: Callable[[Part], Space],
    fit: Callable[[Model, Part, Member], object],
) -> None:
    """Tell a model of several how it is fitted to a part of a split.

    Args:
        split: with the rows of the part; whole where that is more than train.
        seed: of what the inner split draws.
        space, fit: see :class:`recgraph.models.two_stage.Plan`.
    """
    refuse_launched(type(model).__name__, "give the same command without torchrun")
    wanted = {"train": GROUPS["train"], "train+valid": (*GROUPS["train"], *GROUPS["valid"]), "all": tuple(Label)}
    there = torch.isin(split.labels, torch.tensor([int(label) for label in wanted[fit_on]], dtype=split.labels.dtype))
    log = split.interactions.masked(there.numpy())
    inner, cases = inner_split(log, split.strategy, derive(seed, "inner split"))
    rows, config = log.ordered.items, model.config
    known_items, known_users = torch.bincount(rows.values, minlength=log.n_items) > 0, rows.lengths > 0
    model.plan = Plan(
        inner,
        cases,
        space,
        fit,
        _side("item", log.item_features, log.columns.item, log.items, known_items, config.item_features),
        _side("user", log.user_features, log.columns.user, log.users, known_users, config.user_features),
    )


def _side(
    what: str, features: pl.DataFrame | None, key: str, ids: IdMap, known: Tensor, wish: FeatureWish
) -> Tensor | None:
    """[n, F] side information as dense columns, learnt from the ids of the part; None where none is wanted."""
    if not wish:
        return None
    name = f"{what}_features"
    if features is None:
        raise DataError(f"{name} = {wish!r}: the log has no {what} features; give them with with_features({name}=...)")
    found = ItemFeatures.learn(features, key, ids, known, wish)
    width = found.schema.n_entries + found.schema.width
    if width > _WIDEST:
        raise ConfigError(f"{name} = {wish!r}: these are {width:,} columns, above {_WIDEST}; name others")
    rows = torch.cat([found.dense, torch.zeros(len(ids), found.schema.n_entries)], 1)
    entries = found.entries
    of = torch.arange(len(ids)).repeat_interleave(torch.diff(entries.indptr))
    rows[of, found.schema.width + entries.indices] = entries.values()
    return rows
