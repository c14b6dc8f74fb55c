"""ReAGent, an attribution: ``recgraph inspect RUN --user ID --import experiments/ideas/reagent.py
-a reagent``.

Replace a random subset R of the events by similar items, and read the change of the item's
probability. With p the probability (softmax over all scores) and p' that with R replaced, after
each draw

    s_i += logit((1 + delta) / 2) for i in R, s_i -= logit((1 + delta) / 2) for all others,
    delta = (p - p') / max(p, p').

It stops when the ``n_kept`` events of the highest s keep the item among the first ``top_k``, all
others replaced. The values are softmax(s): the importance among the events, not parts of the item's
value.

Source: Zhao and Shan, ReAGent: Towards A Model-agnostic Feature Attribution Method for Generative
Language Models (2024), algorithm 1, and its published code. Departures: plausible replacements are
the items nearest by the model's vectors, where a masked language model fills gaps of a text; delta
is relative, as the probability of one item of thousands hardly changes in absolute terms; s begins
at 0, not at random; whether to stop is asked after every ``round_size`` draws, which are computed
together.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

import recgraph as rg
from recgraph.explain.attribution import Attribution, AttributionConfig, Subject
from recgraph.explain.nodes import nearest


class ReagentConfig(AttributionConfig):
    n_similar: Annotated[
        int, Field(ge=1, description="a replacement is one of so many most similar items")
    ] = 20
    ratio: Annotated[
        float, Field(gt=0, lt=1, description="the share of the events that is replaced at a time")
    ] = 0.3
    n_kept: Annotated[
        int, Field(ge=1, description="events that must suffice to keep the item among the first")
    ] = 5
    top_k: Annotated[int, Field(ge=1, description="what counts as the first")] = 10
    round_size: Annotated[
        int, Field(ge=1, description="replacements between two looks at whether to stop")
    ] = 32
    max_rounds: Annotated[int, Field(ge=1, description="rounds at most")] = 8


@rg.register("attribution")
class Reagent(Attribution):
    """See the module."""

    Config = ReagentConfig

    def attribute(self, subject: Subject, generator: torch.Generator) -> Tensor:
        if subject.item_vectors is None:
            raise ValueError(
                f"attribution reagent: {type(subject.model).__name__} has no item vectors"
            )
        similar = similar_items(subject, self.config.n_similar)
        return torch.stack(
            [self._importance(subject, k, similar, generator) for k in range(len(subject.targets))]
        )

    def _importance(
        self, subject: Subject, target: int, similar: Tensor, generator: torch.Generator
    ) -> Tensor:
        config, n = self.config, subject.n_events
        importance = torch.zeros(n, dtype=torch.float64)
        if n == 1:
            return torch.ones(1, dtype=torch.float64)
        n_replaced = min(max(round(config.ratio * n), 1), n - 1)
        before = self._probabilities(subject, subject.items[None])[0, target]
        for _ in range(config.max_rounds):
            order = torch.rand(config.round_size, n, generator=generator).argsort(1)
            replaced_mask = torch.zeros(config.round_size, n, dtype=torch.bool)
            replaced_mask.scatter_(1, order[:, :n_replaced], True)
            variants = replaced(subject.items, replaced_mask, similar, generator)
            after = self._probabilities(subject, variants)[:, target]
            delta = (before - after) / torch.maximum(before, after).clamp(min=1e-300)
            # a probability that vanishes would decide alone
            move = torch.logit((1 + delta) / 2, eps=1e-3)[:, None]
            importance += torch.where(replaced_mask, move, -move).sum(0)
            others_mask = torch.ones(1, n, dtype=torch.bool)
            others_mask[
                0, torch.argsort(importance, descending=True, stable=True)[: config.n_kept]
            ] = False
            alone = replaced(subject.items, others_mask, similar, generator)
            own = self._probabilities(subject, alone)[0, target]
            if int(self._above(subject, alone, own)) < config.top_k:
                break
        return torch.softmax(importance, 0)

    @staticmethod
    def _probabilities(subject: Subject, variants: Tensor) -> Tensor:
        """[V, K]: the targets' share of the softmax of all scores, by items [V, H] in the events'
        places.
        """

        def of(represented: Tensor) -> Tensor:
            return torch.softmax(subject.scores_of(represented), 1)[:, subject.targets]

        return subject.by_blocks(of, subject.full_mask(len(variants)), variants).to(torch.float64)

    @staticmethod
    def _above(subject: Subject, variants: Tensor, own: Tensor) -> Tensor:
        """How many items have a higher probability than a target."""

        def of(represented: Tensor) -> Tensor:
            return (torch.softmax(subject.scores_of(represented), 1).to(torch.float64) > own).sum(1)

        return subject.by_blocks(of, subject.full_mask(len(variants)), variants)[0]


def similar_items(subject: Subject, n: int) -> Tensor:
    """[H, n] int64: the items nearest to each event's by the model's vectors, without those of
    history and targets.
    """
    assert subject.item_vectors is not None
    allowed_mask = torch.ones(subject.n_items, dtype=torch.bool)
    allowed_mask[subject.items] = allowed_mask[subject.targets.to("cpu")] = False
    among = allowed_mask.nonzero()[:, 0]
    found = torch.full((subject.n_events, n), -1)
    for place, row in enumerate(nearest(subject.item_vectors.to("cpu"), subject.items, n, among)):
        found[place, : len(row)] = torch.tensor([item for item, _ in row], dtype=torch.int64)
    return found


def replaced(
    items: Tensor, replaced_mask: Tensor, similar: Tensor, generator: torch.Generator
) -> Tensor:
    """[V, H] int64: the items, a similar one in the place of those that are replaced (or
    itself).
    """
    known = (similar >= 0).sum(1)
    draw = torch.rand(replaced_mask.shape, generator=generator, dtype=torch.float64)
    chosen = (draw * known).to(torch.int64).clamp(max=similar.shape[1] - 1)
    return torch.where(
        replaced_mask & (known > 0), similar[torch.arange(len(known)), chosen], items
    )
