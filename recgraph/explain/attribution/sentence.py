"""An attribution in words: templates, filled from its table."""

from __future__ import annotations

from collections.abc import Iterator

from recgraph.explain.attribution.result import Attributed, mean

__all__ = ["AGREE", "AGREE_IN_PART", "sentence_of"]

#: mean rank correlations from which methods agree, or do so in part
AGREE, AGREE_IN_PART = 0.7, 0.3
#: half of the importance on at most this share of the events is concentrated
_CONCENTRATED = 0.2


def sentence_of(found: Attributed) -> str:
    """One sentence: which events carry the item, whether few or many do, whether methods agree, and what follows
    without those events.

    Every claim is one of the table: shares and their half from the first method, correlations from the pairs, ranks
    from the removal. Words stand for numbers by fixed limits: *concentrated*, half on at most a fifth of the events (or
    on one of three or more), else *spread*; methods *agree* from a mean Spearman correlation of 0.7, *agree in part*
    from 0.3, else *hardly agree*.

    Source: Feldhus et al., Saliency Map Verbalization: Comparing Feature Importance Representations from Model-free and
    Instruction-based Methods (2023), the template-based kind. What their search selects from a map is here the fewest
    events that hold half of the importance, three at most. No language model takes part.
    """
    return "; ".join(_clauses(found)) + "."


def _clauses(found: Attributed) -> Iterator[str]:
    lead, n = found.methods[0], len(found.events)
    name = lead.method.replace("_", " ")
    removal = found.removal
    if removal is None:
        yield f"By {name}, nothing in the history speaks for {found.item.title}"
    else:
        titles = list(dict.fromkeys(found.events[place].title for place in removal.places))
        share = sum(lead.shares[place] for place in removal.places)
        carry = "carries" if len(titles) == 1 else "carry"
        yield f"By {name}, {_listed(titles)} {carry} {share:.0%} of what speaks for {found.item.title}"
        if n > 1:
            few = lead.n_half <= _CONCENTRATED * n or (lead.n_half == 1 and n > 2)
            yield f"half of it lies on {lead.n_half} of {n} items: it is {'concentrated' if few else 'spread'}"
    if found.agreement:
        correlation = mean([pair.spearman for pair in found.agreement])
        first = {one.order[0] for one in found.methods}
        tops = "they put different items first"
        if len(first) == 1:
            tops = f"all put {found.events[first.pop()].title} first"
        yield f"the {len(found.methods)} methods {_agreement(correlation)}, and {tops}"
    if removal is not None:
        without = "without it" if len(removal.places) == 1 else f"without these {len(removal.places)}"
        yield f"{without} {found.item.title} {_moved(removal.rank, removal.rank_without, found.k)}"


def _listed(titles: list[str]) -> str:
    return titles[0] if len(titles) == 1 else f"{', '.join(titles[:-1])} and {titles[-1]}"


def _agreement(correlation: float | None) -> str:
    if correlation is None:
        return "cannot be compared, as one gives all items the same"
    words = "agree" if correlation >= AGREE else "agree in part" if correlation >= AGREE_IN_PART else "hardly agree"
    return f"{words} (mean rank correlation {correlation:.2f})"


def _moved(before: int, after: int, k: int) -> str:
    if after == before:
        return f"stays at rank {before:,}"
    moves = f"moves from rank {before:,} to {after:,}"
    if before <= k < after:
        return f"{moves} and leaves the first {k}"
    if after <= k:
        return f"{moves} and {'stays among' if before <= k else 'enters'} the first {k}"
    return moves
