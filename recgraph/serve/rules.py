"""Business rules: which items may be recommended, what raises a score, how many of a kind a list
holds.

``Rules`` is a value that recommenders, the command line (``--rules FILE``) and the service read;
``resolve`` looks its ids and item features up; a ``ResolvedRules`` ranks. Scores are those of the
ranking without rules to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import polars as pl
import torch
from pydantic import Field, field_validator
from torch import Tensor

from recgraph.config import Config, ConfigError, checked
from recgraph.data.batches import Query
from recgraph.data.ids import IdMap, as_series, family
from recgraph.data.item_features import ItemColumns
from recgraph.evaluate.ranking import GROUP, evaluating
from recgraph.evaluate.rerank import Limit, Reranker, Reranking, pick, reranker_of
from recgraph.evaluate.topk import BLOCK, NO_SCORE, Catalogue, Lists, best_columns
from recgraph.files import read_object, read_toml
from recgraph.models.base import Model
from recgraph.sparse.ragged import Ragged

Ids = tuple[Any, ...]
Most = Annotated[int, Field(ge=1, le=2**31 - 1)]
#: bytes of the scores that are changed and sorted at a time
_BYTES = 1 << 27
#: a ranking of which items may be passed over is read to so many times k first
_FURTHER = 4


class Boost(Config):
    """What an item feature does to scores.

    With ``value`` the items whose column holds it are raised by ``weight``; without it the column
    holds numbers, and an item's number times ``weight`` counts. ``multiply`` multiplies scores
    above 0 by that, which must be above 0, and divides those below: above 1 it raises every item.
    """

    column: Annotated[str, Field(description="of the item features")]
    weight: Annotated[
        float, Field(description="what is added, or times what the score is taken")
    ] = 1.0
    how: Literal["add", "multiply"] = "add"
    value: Annotated[
        bool | int | float | str | None, Field(description="raise the items that have it")
    ] = None


class Rules(Config):
    """Business rules for a recommendation.

    They hold over the whole ranking: a list is shorter than k only where fewer items remain.

    1. ``allow``, ``block`` and what the user has seen say which items remain.
    2. ``boost`` changes their scores, one after the other; answers hold the changed scores.
    3. The list is filled from the best down, or by a re-ranker (``rerank``); an item one of whose
       values would come up more often than ``max_per`` says is passed over. An item without a value
       is never passed over.

    ``Rules.of({...})`` reads a mapping, ``Rules.read(path)`` a file. Ids may be texts whatever the
    log's are.
    """

    allow: Annotated[Ids | None, Field(description="items to which lists are restricted")] = None
    block: Annotated[Ids, Field(description="items that are in no list")] = ()
    boost: Annotated[tuple[Boost, ...], Field(description="what item features do to scores")] = ()
    max_per: dict[str, Most] = Field(
        {}, description="column -> how many items of a list may share a value"
    )
    diversity: Annotated[
        float | None, Field(ge=0, le=1, description="strength of the re-ranker mmr")
    ] = None
    rerank: Annotated[
        dict[str, Any] | None, Field(description="a re-ranker, by name or with its settings")
    ] = None
    separator: Annotated[
        str | None, Field(min_length=1, description="between the values of a text column")
    ] = None

    @field_validator("allow", "block", mode="before")
    @classmethod
    def _read_ids(cls, ids: Any) -> Any:
        if ids is None:
            return None
        values = as_series(ids, "ids")
        if values.null_count():
            raise ValueError("give a list of item ids, none of them missing")
        return tuple(values.to_list())

    @field_validator("boost", mode="before")
    @classmethod
    def _read_boost(cls, boost: Any) -> Any:
        if isinstance(boost, Boost):
            return (boost,)
        if not isinstance(boost, Mapping):
            return boost
        if "column" in boost:
            return (boost,)
        return tuple({"column": name, "weight": weight} for name, weight in boost.items())

    @field_validator("rerank", mode="before")
    @classmethod
    def _read_rerank(cls, rerank: Any) -> Any:
        if rerank is None:
            return None
        return reranker_of(rerank).specification

    @classmethod
    @checked
    def read(cls, path: str | Path) -> Self:
        """Read a file: TOML, or JSON where its name ends in ``.json``; an error names the file and
        the setting.
        """
        path = Path(path)
        read_file = read_object if path.suffix.lower() == ".json" else read_toml
        try:
            return cls.of(read_file(path))
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from None

    @property
    def reranker(self) -> Reranker | None:
        """How lists are picked from the ranking; None: from the best down."""
        if self.rerank is not None:
            return reranker_of(self.rerank)
        if self.diversity is not None:
            return reranker_of({"name": "mmr", "strength": self.diversity})
        return None

    @property
    def columns(self) -> tuple[str, ...]:
        """The item features that are read."""
        names = [*(boost.column for boost in self.boost), *self.max_per]
        if self.reranker is not None:
            names += self.reranker.config.columns
        return tuple(dict.fromkeys(names))

    @classmethod
    def with_arguments(
        cls, rules: Rules | Mapping[str, Any] | None, allow: Any, block: Any
    ) -> Rules:
        """Rules, and the arguments ``allow`` and ``block``, which win over them."""
        if not isinstance(rules, Rules):
            rules = cls.of(rules)
        arguments = {"allow": allow, "block": block}
        stronger = cls.of({name: ids for name, ids in arguments.items() if ids is not None})
        return rules.model_copy(update=stronger.model_dump(exclude_unset=True))


@dataclass(frozen=True)
class ResolvedRules:
    """Rules in the model's indices.

    Attributes:
        candidates: [C] int64, ascending: the items that everyone may be recommended; None for all.
        changes: boosts with [n_items] float64 each: what is added, or times what the score is
            taken.
        n_unknown: ids in the rules that the model does not know; they are skipped.
    """

    candidates: Tensor | None = None
    changes: tuple[tuple[Boost, Tensor], ...] = ()
    limits: tuple[Limit, ...] = ()
    reranking: Reranking | None = None
    n_unknown: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether all that it does is to name the candidates."""
        return not (self.changes or self.limits or self.reranking)

    def rank(
        self, model: Model, catalogue: Catalogue, query: Query, seen: Ragged | None
    ) -> Iterator[tuple[Tensor, Lists]]:
        """Rank for all users of a query, without the items of ``seen`` -> rows [G] of the query and
        their lists.
        """
        for rows in torch.split(query.history.lengths.argsort(stable=True), GROUP):
            part = query.take(rows).to(catalogue.device)
            with evaluating(model):
                queries = model.encode_users(part) if model.has_vectors else model.score(part)
            part_seen = None
            if seen is not None:
                part_seen = seen.take(rows)
            yield rows, self.rank_queries(catalogue, queries, part_seen)

    def rank_queries(self, catalogue: Catalogue, queries: Tensor, seen: Ragged | None) -> Lists:
        """Rank user vectors [B, D], or scores [B, n_items] in a catalogue without vectors, but for
        items ``seen``.
        """
        queries = catalogue.prepared(queries)
        if seen is None:
            seen = Ragged.from_lists([[]] * len(queries))
        closed = catalogue.seen_columns(seen.to(catalogue.device))
        rows_that_fit = _BYTES // (8 * max(catalogue.order.numel(), 1))
        n_rows = min(max(rows_that_fit, 1), catalogue.rows)
        lists = []
        for rows in torch.arange(len(queries), device=catalogue.device).split(n_rows):  # type: ignore[no-untyped-call]
            scores = self._scores(catalogue, queries[rows])
            lists.append(self._lists(catalogue, scores, closed.take(rows)))
        return Lists.cat(lists)

    def _scores(self, catalogue: Catalogue, queries: Tensor) -> Tensor:
        """[R, W]: the changed scores, columns in the catalogue's order; then -inf, one or more, to
        a multiple of 64.
        """
        count = catalogue.order.numel()
        dtype = torch.float64 if self.changes else queries.dtype
        scores = queries.new_empty(len(queries), (count // BLOCK + 1) * BLOCK, dtype=dtype)
        for start, block, filled in catalogue.blocks(queries):
            scores[:, start : start + filled] = block[:, :filled]
        scores[:, count:] = NO_SCORE
        for boost, values in self.changes:
            change = values.to(scores.device)[catalogue.order]
            changed = scores[:, :count]
            if boost.how == "add":
                changed += change
            else:
                changed.copy_(torch.where(changed > 0, changed * change, changed / change))
        return scores

    def _lists(self, catalogue: Catalogue, scores: Tensor, closed: Ragged) -> Lists:
        """The best of the columns that are not closed, under limits and re-ranked."""
        k = catalogue.k
        width = catalogue.order.numel()
        items = torch.full((len(scores), k), -1)
        values = torch.full((len(scores), k), NO_SCORE, dtype=torch.float64)
        if not self.limits and self.reranking is None:
            length = min(k, width)
            ranking = _ranking(catalogue, scores, closed, length)
            items[:, :length] = ranking.items
            values[:, :length] = ranking.scores
            return Lists(items, values)
        length = max(_FURTHER * k, BLOCK)
        if self.reranking is not None:
            length = max(length, self.reranking.reranker.config.pool)
        rows = torch.arange(len(scores))
        while len(rows):
            length = min(length, width)
            ranking = _ranking(catalogue, scores, closed, length)
            # choosing one item after the other is many small steps: work of the host
            places, short_mask = pick(ranking.items, ranking.scores, k, self.limits, self.reranking)
            chosen = places.clamp(min=0)
            items[rows] = torch.where(places < 0, places, ranking.items.gather(1, chosen))
            values[rows] = torch.where(places < 0, NO_SCORE, ranking.scores.gather(1, chosen))
            if length == width:
                break
            short = short_mask.nonzero().flatten()
            rows = rows[short]
            scores = scores[short.to(scores.device)]
            closed = closed.take(short.to(scores.device))
            length *= _FURTHER
        return Lists(items, values)


def _ranking(catalogue: Catalogue, scores: Tensor, closed: Ragged, length: int) -> Lists:
    """The first items of rankings by scores [R, W], without the columns that are closed, on the
    host, with float64 scores.
    """
    excluded = closed.rows * scores.shape[1] + closed.values
    scores.view(-1)[excluded] = NO_SCORE
    values, columns = best_columns(scores, length, catalogue.order.numel(), excluded)
    return Lists(catalogue.items_of(columns).to("cpu"), values.to("cpu").double())


def resolve(
    rules: Rules, items: IdMap, columns: ItemColumns, reranking: Reranking | None = None
) -> ResolvedRules:
    """Look ids and item features up; ``reranking`` is the rules' re-ranker with the similarity that
    it compares by.
    """
    candidates, n_unknown = candidates_of(rules, items)
    return ResolvedRules(
        candidates,
        changes=tuple((boost, _change(boost, columns, rules.separator)) for boost in rules.boost),
        limits=tuple(
            Limit(columns.codes(name, "max_per", rules.separator), most)
            for name, most in rules.max_per.items()
        ),
        reranking=reranking,
        n_unknown=n_unknown,
    )


def candidates_of(rules: Rules, items: IdMap) -> tuple[Tensor | None, int]:
    """[C] the allowed items that are not blocked, None for all; and how many ids are not known."""
    if rules.allow is None and not rules.block:
        return None, 0
    allowed = torch.arange(len(items))
    if rules.allow is not None:
        allowed = _index(rules.allow, items, "allow")
    blocked = _index(rules.block, items, "block")
    mask = torch.zeros(len(items), dtype=torch.bool)
    mask[allowed[allowed >= 0]] = True
    mask[blocked[blocked >= 0]] = False
    if not bool(mask.any()):
        raise ValueError("allow and block leave no item to recommend")
    n_unknown = (allowed < 0).sum() + (blocked < 0).sum()
    return mask.nonzero().flatten(), int(n_unknown)


def _index(ids: Ids, items: IdMap, name: str) -> Tensor:
    """The index of each id, -1 where it is not known; texts are read as ids of the log's type."""
    values = as_series(list(ids), name)
    if values.dtype == pl.String and family(items.values.dtype) != "texts":
        parsed = items.parse(values.to_list())
        other = values.filter(parsed.is_null())
        if len(other):
            raise ValueError(
                f"{name}: {other[0]!r} cannot be an item: the log's ids are {family(items.values.dtype)}"
            )
        values = parsed
    return torch.from_numpy(items.index(values, name))


def _change(boost: Boost, columns: ItemColumns, separator: str | None) -> Tensor:
    """[n_items] float64: what a boost adds to scores, or times what they are taken."""
    neutral = {"add": 0.0, "multiply": 1.0}[boost.how]
    if boost.value is None:
        numbers = columns.numbers(boost.column, "boost")
        change = torch.where(numbers.isnan(), neutral, numbers * boost.weight)
    else:
        has_value = columns.holds(boost.column, boost.value, "boost", separator)
        change = torch.where(has_value, torch.tensor(boost.weight, dtype=torch.float64), neutral)
    if boost.how == "multiply" and not bool((change > 0).all()):
        raise ValueError(
            f"boost: column {boost.column!r} times weight must be above 0 to multiply; take how='add'"
        )
    return change
