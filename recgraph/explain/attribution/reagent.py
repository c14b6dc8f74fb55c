"""Attribution by replacing items with similar ones, again and again."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from recgraph.explain.attribution.base import Attribution, AttributionConfig
from recgraph.explain.attribution.similar import SimilarBy, similar_items
from recgraph.explain.attribution.subject import Subject

__all__ = ["Reagent"]


class ReagentConfig(AttributionConfig):
    similar: Annotated[
        Literal["auto"] | SimilarBy,
        Field(
            description="replacements: nearest by the model's item 'vectors', or by 'co_occurrence' in histories; "
            "'auto': by vectors where the model has them"
        ),
    ] = "auto"
    n_similar: Annotated[int, Field(ge=1, description="a replacement is one of so many most similar items")] = 20
    ratio: Annotated[float, Field(gt=0, lt=1, description="the share of the events that is replaced at a time")] = 0.3
    n_kept: Annotated[int, Field(ge=1, description="events that must suffice to keep the item among the first")] = 5
    top_k: Annotated[int, Field(ge=1, description="what counts as the first")] = 10
    comprehensive: Annotated[
        bool,
        Field(description="go on, too, until the item is not among the first once the kept events are replaced"),
    ] = False
    round_size: Annotated[int, Field(ge=1, description="replacements between two looks at whether to stop")] = 32
    max_rounds: Annotated[int, Field(ge=1, description="rounds at most")] = 8


class Reagent(Attribution):
    """ReAGent: replace a random subset R of the events by similar items, and read the change of the probability.

    With p the probability of the item (softmax over all scores) and p' that with R replaced, after each draw

        ``s_i += logit((1 + delta) / 2)`` for i in R, ``s_i -= logit((1 + delta) / 2)`` for all others,
        ``delta = (p - p') / max(p, p')``.

    It stops when the ``n_kept`` events of the highest s keep the item among the first ``top_k``, all others replaced.
    The values are softmax(s); they are the importance among the events, not parts of the item's value.

    Source: Zhao and Shan, ReAGent: Towards A Model-agnostic Feature Attribution Method for Generative Language Models
    (2024), algorithm 1, and its published code. Departures: plausible replacements are similar items, where a masked
    language model fills gaps of a text; delta is relative, as the probability of one item of thousands hardly changes
    in absolute terms; s begins at 0, not at random; whether to stop is asked after every ``round_size`` draws, which
    are computed together. Language models' soft measures and several targets of a text do not carry over.

    ``comprehensive`` adds a second condition: what remains without the kept events must not recommend the same. It is
    the idea of Comprehensive Attribution (a feature detector that punishes discriminative features left outside the
    selection) as a rule for stopping; selector and detector are no networks here and nothing is trained.
    """

    Config = ReagentConfig
    signed = False

    def attribute(self, subject: Subject, generator: torch.Generator) -> Tensor:
        by = self.config.similar
        if by == "auto":
            by = "co_occurrence" if subject.item_vectors is None else "vectors"
        candidates = similar_items(subject, self.config.n_similar, by)
        return torch.stack(
            [self._importance(subject, place, candidates, generator) for place in range(len(subject.targets))]
        )

    def _importance(self, subject: Subject, target: int, candidates: Tensor, generator: torch.Generator) -> Tensor:
        config, n_events = self.config, subject.n_events
        logits = torch.zeros(n_events, dtype=torch.float64)
        if n_events == 1:
            return torch.ones(1, dtype=torch.float64)
        n_replaced = min(max(round(config.ratio * n_events), 1), n_events - 1)
        before = subject.probabilities(subject.full_mask())[0, target].to(torch.float64)
        for _ in range(config.max_rounds):
            order = torch.rand(config.round_size, n_events, generator=generator).argsort(1)
            replaced_mask = torch.zeros(config.round_size, n_events, dtype=torch.bool)
            replaced_mask.scatter_(1, order[:, :n_replaced], True)
            instead = self._replaced(subject, replaced_mask, candidates, generator)
            after = subject.probabilities(subject.full_mask(config.round_size), instead)[:, target].to(torch.float64)
            logits += self._moves(before, after, replaced_mask).sum(0)
            if self._is_enough(subject, target, logits, candidates, generator):
                break
        return torch.softmax(logits, 0)

    def _moves(self, before: Tensor, after: Tensor, replaced_mask: Tensor) -> Tensor:
        """[R, H]: what each draw adds to the logits."""
        delta = (before - after) / torch.maximum(before, after).clamp(min=1e-300)
        # a probability that vanishes would decide alone
        move = torch.logit((1 + delta) / 2, eps=1e-3)
        return torch.where(replaced_mask, move[:, None], -move[:, None])

    def _is_enough(
        self, subject: Subject, target: int, logits: Tensor, candidates: Tensor, generator: torch.Generator
    ) -> bool:
        """Whether the events of the highest logits suffice, and with ``comprehensive`` none does without them."""
        kept = torch.argsort(logits, descending=True, stable=True)[: self.config.n_kept]
        others_mask = subject.full_mask()
        others_mask[0, kept] = False
        masks = torch.cat([others_mask, ~others_mask])
        ranks = subject.ranks(subject.full_mask(2), self._replaced(subject, masks, candidates, generator))[:, target]
        suffices = int(ranks[0]) <= self.config.top_k
        return suffices and (not self.config.comprehensive or int(ranks[1]) > self.config.top_k)

    def _replaced(
        self, subject: Subject, replaced_mask: Tensor, candidates: Tensor, generator: torch.Generator
    ) -> Tensor:
        """[V, H] int64: the items, a similar one in the place of those that are replaced (or itself)."""
        known = (candidates >= 0).sum(1)
        draw = torch.rand(replaced_mask.shape, generator=generator, dtype=torch.float64)
        chosen = (draw * known).to(torch.int64).clamp(max=candidates.shape[1] - 1)
        similar = candidates[torch.arange(len(known)), chosen]
        return torch.where(replaced_mask & (known > 0), similar, subject.items)
