"""Rank under business rules: rules resolved against a recommender's ids and features, and the lists that they give.

Rules hold over the whole ranking: all scores of some users are computed (in the tiles of the ranking without rules, so
that they are the same to the last bit), changed and sorted, and a ranking that rules cut too short is read on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import polars as pl
import torch
from torch import Tensor

from recgraph.data.batches import Query
from recgraph.data.columns import Columns
from recgraph.data.ids import IdMap, as_series, family
from recgraph.data.item_features import ItemColumns
from recgraph.evaluate.ranking import GROUP, evaluating
from recgraph.evaluate.rerank import CoOccurrence, Cosine, Limit, Reranking, bind, pick
from recgraph.evaluate.topk import BLOCK, NO_SCORE, Catalogue, Lists, best_columns
from recgraph.models.base import Model
from recgraph.serve.request import own_lists, take
from recgraph.serve.rules import Boost, Rules
from recgraph.sparse.ragged import Ragged

#: bytes of the scores that are changed and sorted at a time
_BYTES = 1 << 27
#: a ranking of which items may be passed over is read to so many times k first
_FURTHER = 4


@dataclass(frozen=True)
class OwnItems:
    """Lists of items that belong to some users.

    Attributes:
        places: user, by the text of the id -> row.
        rows: the lists of item indices; the last is empty.
    """

    places: Mapping[str, int]
    rows: Ragged

    def of(self, labels: pl.Series) -> tuple[Ragged, Tensor]:
        """The lists of B users (empty where one has none), and [B] bool: who has one."""
        index = torch.tensor([self.places.get(_text(label), -1) for label in labels.to_list()])
        return self.rows.take(torch.where(index >= 0, index, self.rows.n_rows - 1)), index >= 0


def _text(user: Any) -> str:
    """A user's id as text, as the keys of JSON and TOML are; a whole float, as pandas makes of an integer, is one."""
    return str(int(user)) if isinstance(user, float) and user.is_integer() else str(user)


@dataclass(frozen=True)
class Ruling:
    """Rules in the model's indices.

    Attributes:
        candidates: [C] int64, ascending: the items that everyone may be recommended; None for all.
        allow_for, block_for: lists of single users, or None.
        changes: boosts with [n_items] float64 each: what is added, or times what the score is taken.
        limits: of values in a list.
        reranking: how lists are picked from the ranking, or None.
        n_unknown: ids in the rules that the model does not know; they are skipped.
    """

    candidates: Tensor | None = None
    allow_for: OwnItems | None = None
    block_for: OwnItems | None = None
    changes: tuple[tuple[Boost, Tensor], ...] = ()
    limits: tuple[Limit, ...] = ()
    reranking: Reranking | None = None
    n_unknown: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether all that it does is to name the candidates."""
        return not (self.allow_for or self.block_for or self.changes or self.limits or self.reranking)

    def rank(
        self, model: Model, catalogue: Catalogue, query: Query, labels: pl.Series, seen: Ragged | None
    ) -> Iterator[tuple[Tensor, Lists]]:
        """Rank for all users of a query, without the items of ``seen`` -> rows [G] of the query and their lists."""
        for rows in torch.split(query.history.lengths.argsort(stable=True), GROUP):
            part = query.take(rows).to(catalogue.device)
            with evaluating(model):
                queries = model.encode_users(part) if model.has_vectors else model.score(part)
            own_seen = None if seen is None else seen.take(rows)
            yield rows, self.rank_queries(catalogue, queries, take(labels, rows), own_seen)

    def rank_queries(self, catalogue: Catalogue, queries: Tensor, labels: pl.Series, seen: Ragged | None) -> Lists:
        """Rank user vectors [B, D], or scores [B, n_items] in a catalogue without vectors.

        Args:
            seen: B rows of items to leave out.
        """
        queries = catalogue.prepared(queries)
        barred = [] if seen is None else [seen]
        if self.block_for is not None:
            barred.append(self.block_for.of(labels)[0])
        allowed = None if self.allow_for is None else self.allow_for.of(labels)
        size = max(_BYTES // (8 * max(catalogue.order.numel(), 1)), 1)
        lists = []
        for rows in torch.arange(len(queries)).split(min(size, catalogue.rows)):  # type: ignore[no-untyped-call]
            scores = self._scores(catalogue, queries[rows.to(queries.device)])
            own = None if allowed is None else (allowed[0].take(rows), allowed[1][rows])
            closed = _closed(len(rows), [bar.take(rows) for bar in barred], own, catalogue)
            lists.append(self._lists(catalogue, scores, closed))
        return Lists.cat(lists)

    def _scores(self, catalogue: Catalogue, queries: Tensor) -> Tensor:
        """[R, W]: the changed scores, columns in the catalogue's order; then -inf, one or more, to a multiple of 64."""
        count = catalogue.order.numel()
        dtype = torch.float64 if self.changes else queries.dtype
        scores = queries.new_empty(len(queries), (count // BLOCK + 1) * BLOCK, dtype=dtype)
        for start, block, filled in catalogue.blocks(queries):
            scores[:, start : start + filled] = block[:, :filled]
        scores[:, count:] = NO_SCORE
        for boost, values in self.changes:
            of_columns, own = values.to(scores.device)[catalogue.order], scores[:, :count]
            if boost.how == "add":
                own += of_columns
            else:
                own.copy_(torch.where(own > 0, own * of_columns, own / of_columns))
        return scores

    def _lists(self, catalogue: Catalogue, scores: Tensor, closed: Ragged) -> Lists:
        """The best of the columns that are not closed, under limits and re-ranked."""
        k, width = catalogue.k, catalogue.order.numel()
        length = max(_FURTHER * k, BLOCK) if self.limits else k
        if self.reranking is not None:
            length = max(length, self.reranking.pool)
        scores.view(-1)[closed.rows * scores.shape[1] + closed.values] = NO_SCORE
        # choosing one item after the other is many small steps: work of the host
        host = torch.device("cpu")
        items = torch.full((len(scores), k), -1)
        values = torch.full((len(scores), k), NO_SCORE, dtype=torch.float64)
        left = torch.arange(len(scores))
        while left.numel():
            length = min(length, max(width, 1))
            of_left = closed.take(left.to(closed.device))
            at = of_left.rows * scores.shape[1] + of_left.values
            own = scores if len(left) == len(scores) else scores[left.to(scores.device)]
            best, columns = best_columns(own, length, width, at)
            if bool(best[:, 0].isnan().any()):
                raise ValueError("the model scores an item with NaN; train or check the model")
            ranked = torch.where(columns < 0, columns, catalogue.order[columns.clamp(min=0)]).to(host)
            best = best.to(host).double()
            if not self.limits and self.reranking is None:
                items[left, :length], values[left, :length] = ranked, best
                break
            places, short_mask = pick(ranked, best, k, self.limits, self.reranking)
            known = places.clamp(min=0)
            items[left] = torch.where(places < 0, places, ranked.gather(1, known))
            values[left] = torch.where(places < 0, NO_SCORE, best.gather(1, known))
            if length >= width:
                break
            left, length = left[short_mask], length * _FURTHER
        return Lists(items, values)


def _closed(n_rows: int, barred: list[Ragged], allowed: tuple[Ragged, Tensor] | None, catalogue: Catalogue) -> Ragged:
    """The columns that each of R rows may not have, each once.

    ``barred``: R rows of items each, which are closed; ``allowed``: R rows of items to which those of [R] bool are
    restricted.
    """
    width, device = max(catalogue.order.numel(), 1), catalogue.device
    keys = [torch.empty(0, dtype=torch.int64, device=device)]
    keys += [_keys(rows.to(device), catalogue, width) for rows in barred]
    if allowed is not None:
        open_mask = torch.ones(n_rows, catalogue.order.numel(), dtype=torch.bool, device=device)
        open_mask[allowed[1].to(device)] = False
        open_mask.view(-1)[_keys(allowed[0].to(device), catalogue, width)] = True
        keys.append((~open_mask).flatten().nonzero().flatten())
    every = torch.unique(torch.cat(keys))
    return Ragged.from_lengths(every % width, torch.bincount(every // width, minlength=n_rows))


def _keys(rows: Ragged, catalogue: Catalogue, width: int) -> Tensor:
    """``row * width + column`` of the items that the catalogue has."""
    columns = catalogue.position[rows.values]
    return (rows.rows * width + columns)[columns >= 0]


def with_arguments(rules: Rules | Mapping[str, Any] | None, allow: Any, block: Any, columns: Columns) -> Rules:
    """Rules, and what was given as the arguments ``allow`` and ``block`` beside them.

    Args:
        allow, block: a list of item ids, for everyone; or lists of single users: a mapping user -> list of items or a
            frame with the columns of the log (or ``user`` and ``item``); or None.

    Raises:
        ValueError: an argument is none of these, or the rules say the same already.
    """
    made = rules if isinstance(rules, Rules) else Rules.of(rules)
    more: dict[str, Any] = {}
    for name, given in (("allow", allow), ("block", block)):
        if given is None:
            continue
        if not isinstance(given, Mapping) and hasattr(given, "columns"):
            given = own_lists(given, columns, name)
        setting = f"{name}_for" if isinstance(given, Mapping) else name
        if getattr(made, setting):
            raise ValueError(f"{name} is given twice: as an argument and as {setting} of rules; give one of them")
        more[setting] = given
    return Rules.of({**made.model_dump(exclude_unset=True), **more}) if more else made


class _Known(Protocol):
    """What rules are resolved against; a recommender is one."""

    model: Model
    items: IdMap
    item_columns: ItemColumns
    in_common: CoOccurrence


def resolve(rules: Rules, known: _Known, by_vectors: Callable[[], Cosine]) -> Ruling:
    """Look ids and item features up.

    Args:
        by_vectors: gives the similarity of items by the model's vectors; called where a rule reads it.

    Raises:
        ValueError: an id is of another type, no item remains, or an item feature does not exist or fit.
    """
    columns, separator = known.item_columns, rules.separator
    candidates, n_unknown = candidates_of(rules, known.items)
    own = [_own(getattr(rules, name), known.items, name) for name in ("allow_for", "block_for")]
    reranking = None
    if (reranker := rules.reranker) is not None:
        reranking = bind(
            reranker,
            "rerank",
            known.model,
            by_vectors=by_vectors if known.model.has_vectors else None,
            in_common=known.in_common,
            columns=columns,
            separator=separator,
        )
    return Ruling(
        candidates,
        own[0][0],
        own[1][0],
        tuple((boost, _change(boost, columns, separator)) for boost in rules.boost),
        tuple(Limit(columns.codes(name, "max_per", separator), most) for name, most in rules.max_per.items()),
        reranking,
        n_unknown + own[0][1] + own[1][1],
    )


def candidates_of(rules: Rules, items: IdMap) -> tuple[Tensor | None, int]:
    """The allowed items that are not blocked, None for all; and how many ids are not known."""
    if rules.allow is None and not rules.block:
        return None, 0
    n_unknown = 0
    mask = torch.full((len(items),), rules.allow is None)
    for name, ids, value in (("allow", rules.allow, True), ("block", rules.block, False)):
        index = _index(ids or (), items, name)
        n_unknown += int((index < 0).sum())
        mask[index[index >= 0]] = value
    if not bool(mask.any()):
        raise ValueError("allow and block leave no item to recommend")
    return mask.nonzero().flatten(), n_unknown


def _own(lists: Mapping[Any, tuple[Any, ...]], items: IdMap, setting: str) -> tuple[OwnItems | None, int]:
    if not lists:
        return None, 0
    index = _index([item for row in lists.values() for item in row], items, setting)
    rows = Ragged.from_lengths(index, torch.tensor([*(len(row) for row in lists.values()), 0]))
    places = {_text(user): row for row, user in enumerate(lists)}
    return OwnItems(places, rows.filter(index >= 0)), int((index < 0).sum())


def _index(ids: Any, items: IdMap, setting: str) -> Tensor:
    """[N] int64, -1 for an unknown id; texts are read as ids of the log's type."""
    given = as_series(list(ids), setting)
    if given.dtype == pl.String and not items.as_uuid and family(items.values.dtype) != "texts":
        parsed = items.parse(given.to_list())
        if parsed.null_count():
            text = given[int(parsed.is_null().arg_max() or 0)]
            raise ValueError(f"{setting}: {text!r} cannot be an item: the log's ids are {family(items.values.dtype)}")
        given = parsed
    return torch.from_numpy(items.index(given, setting))


def _change(boost: Boost, columns: ItemColumns, separator: str | None) -> Tensor:
    """[n_items] float64: what a boost adds to scores, or times what they are taken."""
    neutral = 0.0 if boost.how == "add" else 1.0
    if boost.value is not None:
        held = columns.holds(boost.column, boost.value, "boost", separator)
        change = torch.where(held, torch.tensor(boost.weight, dtype=torch.float64), neutral)
    else:
        numbers = columns.numbers(boost.column, "boost")
        change = torch.where(numbers.isnan(), neutral, numbers * boost.weight)
    if boost.how == "multiply" and not bool((change > 0).all()):
        raise ValueError(f"boost: column {boost.column!r} times weight must be above 0 to multiply; take how='add'")
    return change
