"""Attribute recommended items to a history by several methods, compare these, and say it in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from recgraph import registry
from recgraph.explain.attribution.agreement import kendall, ordered, overlap, spearman
from recgraph.explain.attribution.base import Attribution
from recgraph.explain.attribution.faithfulness import Faithfulness, faithfulness, random_orders
from recgraph.explain.attribution.result import Attributed, MethodAttribution, MethodPair, Removal
from recgraph.explain.attribution.sentence import sentence_of
from recgraph.explain.attribution.subject import Subject
from recgraph.explain.item import Item, Node
from recgraph.rng import derive

__all__ = ["Method", "attribute_to_history", "make_methods"]

#: a name of the registry's kind 'attribution', a mapping with name and settings, or an attribution
Method = str | Mapping[str, Any] | Attribution
#: events that the sentence names, at most
_MOST_NAMED = 3


def make_methods(specs: Sequence[Method]) -> dict[str, Attribution]:
    """Name -> attribution, in the order given.

    Raises:
        ValueError: there is none, one does not exist, or two have the same name.
    """
    if not specs or isinstance(specs, str):
        there = registry.written("attribution")
        raise ValueError(f"methods = {specs!r} must be a list of at least one of {', '.join(there)}")
    made: dict[str, Attribution] = {}
    for spec in specs:
        method = spec if isinstance(spec, Attribution) else registry.make("attribution", spec)
        (name,) = registry.written("attribution", registry.key_of("attribution", type(method)))
        if name in made:
            raise ValueError(f"methods: {name} stands there twice; name each once")
        made[name] = method
    return made


def attribute_to_history(
    subject: Subject,
    methods: Mapping[str, Attribution],
    item: Callable[[int], Item],
    *,
    k: int,
    n_first: int,
    n_random: int,
    seed: int,
) -> tuple[Attributed, ...]:
    """The subject's targets with their attributions.

    Args:
        subject: what is attributed.
        methods: from :func:`make_methods`.
        item: an item by its index.
        k: the length of the list of recommendations.
        n_first: first events that are compared between methods.
        n_random: random orders that faithfulness is compared with.
        seed: of what methods draw and of random orders.

    Raises:
        ValueError: a method does not apply to the model, or gives a value that is not finite.
    """
    values = {name: _values(subject, name, method, seed) for name, method in methods.items()}
    events = tuple(_node(item(index)) for index in subject.items.tolist())
    full_ranks = subject.ranks(subject.full_mask())[0]
    found = []
    for target, index in enumerate(subject.targets.tolist()):
        of_methods = [each[target].tolist() for each in values.values()]
        orders = torch.tensor([ordered(each) for each in of_methods])
        by_chance = random_orders(subject.n_events, n_random, _generator(seed, subject, "random orders", index))
        judged = faithfulness(subject, target, torch.cat([orders, by_chance]))
        each = tuple(
            _of_method(name, one, order.tolist(), faithful)
            for name, one, order, faithful in zip(values, of_methods, orders, judged, strict=False)
        )
        made = Attributed(
            item=item(index),
            of=subject.of,
            value=float(subject.full[target]),
            events=events,
            n_unread=subject.reading.n_unread,
            methods=each,
            agreement=tuple(_pair(a, b, n_first) for a, b in combinations(each, 2)),
            by_chance=Faithfulness.mean(judged[len(each) :]),
            removal=_removal(subject, target, each[0], int(full_ranks[target])),
            k=k,
        )
        found.append(replace(made, sentence=sentence_of(made)))
    return tuple(found)


def _node(item: Item) -> Node:
    return Node("item", item.id, item.title)


def _generator(seed: int, subject: Subject, *purpose: str | int) -> torch.Generator:
    return torch.Generator().manual_seed(derive(seed, "attribution", subject.user, *purpose))


def _values(subject: Subject, name: str, method: Attribution, seed: int) -> Tensor:
    given: Any = method.attribute(subject, _generator(seed, subject, name))
    wanted = [len(subject.targets), subject.n_events]
    if not isinstance(given, Tensor) or list(given.shape) != wanted:
        what = list(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise ValueError(
            f"attribution {name}: attribute gave {what} for {wanted[0]} items and {wanted[1]} events; give a tensor "
            f"{wanted}"
        )
    values = given.to(torch.float64)
    if not bool(values.isfinite().all()):
        raise ValueError(
            f"attribution {name}: a value is not finite; the scores of {type(subject.model).__name__} are not, or "
            "differ by too much for a softmax (of='score' has none)"
        )
    return values


def _of_method(name: str, values: list[float], order: list[int], faithful: Faithfulness) -> MethodAttribution:
    above = sum(value for value in values if value > 0)
    shares = tuple(max(value, 0.0) / above if above else 0.0 for value in values)
    held, n_half = 0.0, 0
    while above and held < 0.5 - 1e-9:
        held += shares[order[n_half]]
        n_half += 1
    return MethodAttribution(name, tuple(values), shares, tuple(order), n_half, faithful)


def _pair(a: MethodAttribution, b: MethodAttribution, n_first: int) -> MethodPair:
    shared = overlap(a.values, b.values, n_first)
    return MethodPair(a.method, b.method, spearman(a.values, b.values), kendall(a.values, b.values), shared, n_first)


def _removal(subject: Subject, target: int, lead: MethodAttribution, rank: int) -> Removal | None:
    places = lead.order[: min(lead.n_half, _MOST_NAMED)]
    if not places:
        return None
    keep_mask = subject.full_mask()
    keep_mask[0, list(places)] = False
    return Removal(tuple(places), rank, int(subject.ranks(keep_mask)[0, target]))
