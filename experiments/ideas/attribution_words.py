"""An attribution in words: ``python experiments/ideas/attribution_words.py RUN --user ID [--k 3]
[-a METHOD ...]``.

Templates are filled from the table of an attribution; no language model takes part. The sentence
names the fewest events that hold half of what the first method finds above 0, three at most, says
whether few or many events carry the item, whether the methods agree, and what becomes of the item
without those events. *Concentrated* is half on at most a fifth of the events (or on one of three or
more), else *spread*; methods *agree* from a mean Spearman correlation of 0.7, *agree in part* from
0.3, else *hardly agree*.

Source: Feldhus et al., Saliency Map Verbalization: Comparing Feature Importance Representations
from Model-free and Instruction-based Methods (2023), the template-based kind. What their search
selects from a map is here the fewest events that hold half of the importance.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from recgraph.explain import Attributed, attribute
from recgraph.explain.nodes import recommender_of
from recgraph.serve.recommender import Recommender

AGREE, AGREE_IN_PART = 0.7, 0.3
_CONCENTRATED, _MOST_NAMED = 0.2, 3


def shares(values: tuple[float, ...]) -> list[float]:
    """Of the sum of the values above 0; 0 of the others."""
    above = sum(value for value in values if value > 0)
    return [max(value, 0.0) / above if above else 0.0 for value in values]


def first_half(found: Attributed) -> list[int]:
    """The fewest places, the highest value of the first method first, that hold half of what is
    above 0.
    """
    lead, held, places = found.methods[0], 0.0, []
    own = shares(lead.values)
    while sum(own) and held < 0.5 - 1e-9:
        places.append(lead.order[len(places)])
        held += own[places[-1]]
    return places


def sentence_of(found: Attributed, rank: int, rank_without: int, k: int) -> str:
    """The sentence.

    Args:
        rank, rank_without: of the item, from the whole history and without the named events.
        k: the length of the list of recommendations.
    """
    return "; ".join(_clauses(found, rank, rank_without, k)) + "."


def _clauses(found: Attributed, rank: int, rank_without: int, k: int) -> Iterator[str]:
    lead, n, half = found.methods[0], len(found.events), first_half(found)
    name, named = lead.method.replace("_", " "), first_half(found)[:_MOST_NAMED]
    if not named:
        yield f"By {name}, nothing in the history speaks for {found.item.title}"
    else:
        titles = list(dict.fromkeys(found.events[place].title for place in named))
        share = sum(shares(lead.values)[place] for place in named)
        who = titles[0] if len(titles) == 1 else f"{', '.join(titles[:-1])} and {titles[-1]}"
        yield f"By {name}, {who} {'carries' if len(titles) == 1 else 'carry'} {share:.0%} of what speaks for it"
        few = len(half) <= _CONCENTRATED * n or (len(half) == 1 and n > 2)
        yield f"half of it lies on {len(half)} of {n} items: it is {'concentrated' if few else 'spread'}"
    known = [value for _, _, value in found.agreement if value is not None]
    if known:
        mean = sum(known) / len(known)
        words = (
            "agree"
            if mean >= AGREE
            else "agree in part"
            if mean >= AGREE_IN_PART
            else "hardly agree"
        )
        yield f"the {len(found.methods)} methods {words} (mean rank correlation {mean:.2f})"
    if named:
        moves = (
            f"stays at rank {rank}"
            if rank == rank_without
            else f"moves from rank {rank} to {rank_without}"
        )
        leaves = f" and leaves the first {k}" if rank <= k < rank_without else ""
        yield f"without {'it' if len(named) == 1 else f'these {len(named)}'} {found.item.title} {moves}{leaves}"


def ranks(recommender: Recommender, user: object, found: Attributed) -> tuple[int, int]:
    """The item's rank among what the user has not had: by what is read of the history, and without
    the named events.
    """
    named = set(first_half(found)[:_MOST_NAMED])
    kept = [event.id for place, event in enumerate(found.events) if place not in named]
    options = {"k": len(recommender.items), "exclude_seen": False, "block": recommender.items.ids(
        recommender.seen.row(int(recommender.users.index([user])[0]))
    ).to_list()}  # fmt: skip
    by_rank = []
    for history in ([event.id for event in found.events], kept):
        lists = recommender.recommend(histories={user: history}, fallback="popularity", **options)
        by_rank.append(1 + lists[lists.columns[1]].to_list().index(found.item.id))
    return by_rank[0], by_rank[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run")
    parser.add_argument("--user", required=True)
    parser.add_argument("--k", type=int, default=3)
    parser.add_argument("-a", "--attribution", nargs="+", default=["leave_one_out"])
    given = parser.parse_args()
    recommender = recommender_of(given.run)
    recommender.kind = "polars"
    user = recommender.users.parse([given.user]).to_list()[0]
    for found in attribute(recommender, user, methods=given.attribution, k=given.k):
        print(
            f"{found.item.title}: {sentence_of(found, *ranks(recommender, user, found), given.k)}"
        )


if __name__ == "__main__":
    main()
