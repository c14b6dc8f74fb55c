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

from recgraph.config import Config, ConfigError, checked, is_list
from recgraph.data.batches import Query
from recgraph.data.ids import IdMap, as_series, family, is_missing
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
    def _read_ids(cls, given: Any) -> Any:
        return given if given is None else _ids(given)

    @field_validator("boost", mode="before")
    @classmethod
    def _read_boost(cls, given: Any) -> Any:
        if isinstance(given, Boost) or (isinstance(given, Mapping) and "column" in given):
            return (given,)
        if isinstance(given, Mapping):
            return tuple({"column": name, "weight": weight} for name, weight in given.items())
        return given

    @field_validator("rerank", mode="before")
    @classmethod
    def _read_rerank(cls, given: Any) -> Any:
        return None if given is None else reranker_of(given).specification

    @classmethod
    @checked
    def read(cls, path: str | Path) -> Self:
        """Read a file: TOML, or JSON where its name ends in ``.json``; an error names the file and
        the setting.
        """
        path = Path(path)
        try:
            return cls.of(read_object(path) if path.suffix.lower() == ".json" else read_toml(path))
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from None

    @property
    def reranker(self) -> Reranker | None:
        """How lists are picked from the ranking; None: from the best down."""
        if self.rerank is not None:
            return reranker_of(self.rerank)
        return (
            None
            if self.diversity is None
            else reranker_of({"name": "mmr", "strength": self.diversity})
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """The item features that are read."""
        compared = () if (reranker := self.reranker) is None else reranker.config.columns
        return tuple(
            dict.fromkeys([*(boost.column for boost in self.boost), *self.max_per, *compared])
        )

    @classmethod
    def with_arguments(
        cls, rules: Rules | Mapping[str, Any] | None, allow: Any, block: Any
    ) -> Rules:
        """Rules, and the arguments ``allow`` and ``block``, which win over them."""
        made = rules if isinstance(rules, Rules) else cls.of(rules)
        more = {
            name: given for name, given in (("allow", allow), ("block", block)) if given is not None
        }
        return cls.of({**made.model_dump(exclude_unset=True), **more}) if more else made


def _ids(given: Any) -> Ids:
    """Ids of any list, array or series; a lone id or a missing one is a mistake."""
    read = next((read for read in ("to_list", "tolist", "to_pylist") if hasattr(given, read)), None)
    ids = tuple(given if read is None else getattr(given, read)()) if is_list(given) else (None,)
    if any(map(is_missing, ids)):
        raise ValueError("give a list of item ids, none of them missing")
    return ids


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
            yield (
                rows,
                self.rank_queries(catalogue, queries, None if seen is None else seen.take(rows)),
            )

    def rank_queries(self, catalogue: Catalogue, queries: Tensor, seen: Ragged | None) -> Lists:
        """Rank user vectors [B, D], or scores [B, n_items] in a catalogue without vectors, but for
        items ``seen``.
        """
        queries = catalogue.prepared(queries)
        seen = Ragged.from_lists([[]] * len(queries)) if seen is None else seen
        n_columns = max(catalogue.order.numel(), 1)
        closed = catalogue.seen_columns(seen.to(catalogue.device))
        lists = []
        for rows in torch.arange(len(queries)).split(
            min(max(_BYTES // (8 * n_columns), 1), catalogue.rows)
        ):  # type: ignore[no-untyped-call]
            here = rows.to(catalogue.device)
            lists.append(
                self._lists(catalogue, self._scores(catalogue, queries[here]), closed.take(here))
            )
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
            length = max(length, self.reranking.reranker.config.pool)
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
            ranked = torch.where(columns < 0, columns, catalogue.order[columns.clamp(min=0)]).to(
                host
            )
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
            Limit(columns.codes(name, "max_per", rules.separator), n)
            for name, n in rules.max_per.items()
        ),
        reranking=reranking,
        n_unknown=n_unknown,
    )


def candidates_of(rules: Rules, items: IdMap) -> tuple[Tensor | None, int]:
    """[C] the allowed items that are not blocked, None for all; and how many ids are not known."""
    if rules.allow is None and not rules.block:
        return None, 0
    n_unknown = 0
    mask = torch.full((len(items),), rules.allow is None)
    for name, ids, value in (("allow", rules.allow, True), ("block", rules.block, False)):
        given = as_series(list(ids or ()), name)
        if (
            given.dtype == pl.String and family(items.values.dtype) != "texts"
        ):  # ids of the log's type
            parsed = items.parse(given.to_list())
            if parsed.null_count():
                text = given[int(parsed.is_null().arg_max() or 0)]
                raise ValueError(
                    f"{name}: {text!r} cannot be an item: the log's ids are {family(items.values.dtype)}"
                )
            given = parsed
        index = torch.from_numpy(items.index(given, name))
        n_unknown += int((index < 0).sum())
        mask[index[index >= 0]] = value
    if not bool(mask.any()):
        raise ValueError("allow and block leave no item to recommend")
    return mask.nonzero().flatten(), n_unknown


def _change(boost: Boost, columns: ItemColumns, separator: str | None) -> Tensor:
    """[n_items] float64: what a boost adds to scores, or times what they are taken."""
    neutral = 0.0 if boost.how == "add" else 1.0
    if boost.value is not None:
        has_value = columns.holds(boost.column, boost.value, "boost", separator)
        change = torch.where(has_value, torch.tensor(boost.weight, dtype=torch.float64), neutral)
    else:
        numbers = columns.numbers(boost.column, "boost")
        change = torch.where(numbers.isnan(), neutral, numbers * boost.weight)
    if boost.how == "multiply" and not bool((change > 0).all()):
        raise ValueError(
            f"boost: column {boost.column!r} times weight must be above 0 to multiply; take how='add'"
        )
    return change
