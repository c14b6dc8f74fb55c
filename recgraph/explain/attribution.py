"""Which events of a history a recommendation comes from, by several methods, and whether these are
faithful.

The faithfulness of an attribution is judged by leaving events out. A method by another notion of
absence (a baseline vector) is judged by a question that it did not ask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import combinations
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from scipy import stats
from torch import Tensor

from recgraph import registry
from recgraph.config import Config, configure
from recgraph.data.batches import Query
from recgraph.evaluate.ranking import device_of, evaluating
from recgraph.explain.explanation import Attributed, Faithfulness, MethodAttribution
from recgraph.explain.nodes import Items
from recgraph.explain.paths import Walks, evidence_of_items
from recgraph.models.base import Model
from recgraph.models.heterogeneous.base import GraphSpace, path_weights
from recgraph.models.reading import Reading
from recgraph.rng import derive

#: what an attribution divides among the events: the model's score, or ``score - logsumexp`` over
#: all items
Quantity = Literal["score", "log_probability"]
#: numbers of variants that are in memory at a time: scores, or what a model makes them of
_MOST_CELLS = 1 << 22
_BLOCK_ROWS = 256
#: shares of the events that go, or stay alone, as in ERASER
_SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
#: random orders that faithfulness is compared with
_N_RANDOM = 20


class Subject:
    """A user's history of H events, and K items whose values for the user are attributed to it.

    Args:
        query: one user with the history.
        targets: [K] int64, the items.
        of: the quantity f that is attributed.

    Attributes:
        items: [H] int64, the items that the model reads, oldest first.
        block_rows: variants that are computed at a time.
    """

    def __init__(
        self, model: Model, query: Query, targets: Tensor, of: Quantity = "log_probability"
    ) -> None:
        self.model = model
        self.of = of
        self.n_items = model.space.n_items
        self.device = device_of(model)
        self.user = int(query.users[0])
        self.targets = targets.to(self.device)
        with evaluating(model):
            self.reading: Reading = model.reading(query.to(self.device))
        self.items = self.reading.items.to("cpu")
        self.n_events = len(self.items)
        rows_that_fit = _MOST_CELLS // max(self.n_items, self.reading.n_cells)
        self.block_rows = max(min(_BLOCK_ROWS, rows_that_fit), 1)

    @cached_property
    def item_vectors(self) -> Tensor | None:
        """[n_items, D]; None of a model without."""
        if not self.model.has_vectors:
            return None
        with evaluating(self.model):
            return self.model.encode_items().detach()

    def full_mask(self, n_variants: int = 1) -> Tensor:
        """[n_variants, H] bool: everything is kept."""
        return torch.ones(n_variants, self.n_events, dtype=torch.bool)

    @cached_property
    def full(self) -> Tensor:
        """[K]: the values with the whole history."""
        return self.values(self.full_mask())[0]

    def values(self, keep_mask: Tensor) -> Tensor:
        """[V, K]: the values of the targets by variants, [V, H] which events stay, on the host."""
        return self.by_blocks(self.value_of, keep_mask)

    def by_blocks(
        self, of: Callable[[Tensor], Tensor], keep_mask: Tensor, instead: Tensor | None = None
    ) -> Tensor:
        """A function of what the model makes of variants
        (:class:`recgraph.models.reading.Reading`), [V, D] or [V, n_items], a block of them at a
        time; ``instead``: [V, H] int64 items in the events' places."""
        values = []
        items = None
        with evaluating(self.model):
            for start in range(0, len(keep_mask), self.block_rows):
                rows = slice(start, start + self.block_rows)
                if instead is not None:
                    items = instead[rows].to(self.device)
                represented = self.reading.represent(keep_mask[rows].to(self.device), items)
                values.append(of(represented).to("cpu"))
        return torch.cat(values)

    def scores_of(self, represented: Tensor) -> Tensor:
        """[V, n_items] of user vectors [V, D], or of scores of a model without."""
        if self.item_vectors is None:
            return represented
        return represented @ self.item_vectors.T

    def value_of(self, represented: Tensor) -> Tensor:
        """[V, K] of the same: differentiable."""
        scores = self.scores_of(represented)
        if self.of == "log_probability":
            scores = torch.log_softmax(scores, 1)
        return scores[:, self.targets]


class AttributionConfig(Config):
    """Settings of an attribution."""


class Attribution:
    """Base of attributions: each event of the history gets the part that it has in the value of a
    recommended item.

    A subclass sets ``Config`` and defines :meth:`attribute`. It calls the model in evaluation mode,
    leaves its mode, parameters and gradients as they were, and draws from the generator that it is
    given alone. Settings are given as a value (``config``) or by name.
    """

    Config: ClassVar[type[AttributionConfig]] = AttributionConfig

    def __init__(self, config: AttributionConfig | None = None, /, **settings: Any) -> None:
        self.config: Any = configure(self, self.Config, config, settings)

    def attribute(self, subject: Subject, generator: torch.Generator) -> Tensor:
        """[K, H] of the subject's K targets and H events, on the host; ValueError where the method
        does not apply.
        """
        raise TypeError(f"{type(self).__name__} must define attribute(subject, generator)")


class LeaveOneOut(Attribution):
    """``a_i = f(S) - f(S without i)``: by how much the value falls without the event, all else as
    it is.

    The model's reading (:mod:`recgraph.models.reading`) says what is computed anew without the
    event. Two events that say the same cover for each other: each alone may be left out at no loss,
    and both get a value near 0.

    Source: the erasure of Li, Monroe and Jurafsky, Understanding Neural Networks through
    Representation Erasure (2016), one item at a time. All items share the variants, where captum's
    ``FeatureAblation`` computes them for each.
    """

    def attribute(self, subject: Subject, generator: torch.Generator) -> Tensor:
        without = subject.values(~torch.eye(subject.n_events, dtype=torch.bool))
        return (subject.full - without).T.contiguous()


class IntegratedGradientsConfig(AttributionConfig):
    steps: Annotated[
        int, Field(ge=1, description="points of the path at which gradients are taken")
    ] = 32


class IntegratedGradients(Attribution):
    """``a_i = sum_d (x_id - b_id) mean_s df/dx_id at b + alpha_s (x - b)``: gradients along the
    straight path.

    x are the vectors by which the events enter the model, b those of padding in their places; all
    events move at once. Over the whole path the values sum to ``f(x) - f(b)`` (completeness); the
    midpoints ``alpha_s = (s - 1/2) / steps`` leave a difference that falls with the square of the
    number of steps. What does not enter by the events' vectors (positions, the user's own vector)
    is on both ends of the path and gets nothing.

    Source: Sundararajan, Taly and Yan, Axiomatic Attribution for Deep Networks (ICML 2017), by
    captum (the extra ``explain``). Departure: midpoints instead of right ends.
    """

    Config = IntegratedGradientsConfig

    def attribute(self, subject: Subject, generator: torch.Generator) -> Tensor:
        try:
            from captum.attr import IntegratedGradients as OfCaptum
        except ImportError:
            raise ImportError("captum is not installed; pip install 'recgraph[explain]'") from None
        with evaluating(subject.model):
            ends = subject.reading.inputs().detach()[None]
            begin = subject.reading.baseline().detach().expand_as(ends[0])[None]
        method = OfCaptum(lambda inputs: subject.value_of(subject.reading.of_inputs(inputs)))
        rows = max(min(subject.block_rows, _MOST_CELLS // max(ends.numel(), 1)), 1)
        path = {
            "n_steps": self.config.steps,
            "method": "riemann_middle",
            "internal_batch_size": rows,
        }
        _ = subject.item_vectors  # made before, so that they are constants of the derivative
        with evaluating(subject.model), torch.enable_grad():
            parts = [
                method.attribute(ends, begin, target=k, **path) for k in range(len(subject.targets))
            ]
        return torch.cat(parts).detach().sum(2).to("cpu")


class Attention(Attribution):
    """How much the model attends to each event: not below 0, at most 1 in all.

    Transformers: the attention of the last place, by rollout (Abnar and Zuidema, Quantifying
    Attention Flow in Transformers, ACL 2020); it is the same for every recommended item
    (:meth:`recgraph.models.reading.SequenceReading.attention`).

    Models whose users' vectors are made of meta-paths attend to paths, not to items. The attention
    of each path is divided among the items of the history by the evidence that leads through them
    to the recommended item, with beta_P the attention within a side and each side counting half:
    ``a_i = sum_P beta_P / 2 * e_P(i) / sum_j e_P(j)``. Paths that lead through nothing of the
    history keep their share, so that the sum is below 1. This combination is ours.

    Attention is how the model mixes, not what decides: Jain and Wallace, Attention is not
    Explanation (NAACL 2019).
    """

    def attribute(self, subject: Subject, generator: torch.Generator) -> Tensor:
        model = subject.model
        with evaluating(model):
            if not subject.reading.attends_paths:
                attention = subject.reading.attention().to("cpu")
                return attention.expand(len(subject.targets), -1).clone()
            weights = path_weights(model)
        assert isinstance(model.space, GraphSpace)
        graph = model.space.graph.to("cpu")
        targets = subject.targets.to("cpu")
        total = torch.zeros(len(targets), subject.n_events, dtype=torch.float64)
        for key, weight in weights.items():
            walks = Walks(key.path, graph)
            evidence = evidence_of_items(walks, subject.user, subject.items, targets, graph)
            total += weight / 2 * evidence / evidence.sum(1, keepdim=True).clamp(min=1e-300)
        return total


#: a name of the registry's kind 'attribution', a mapping with name and settings, or an attribution
Method = str | Mapping[str, Any] | Attribution


def make_methods(specs: Sequence[Method]) -> dict[str, Attribution]:
    """Name -> attribution, in the order given."""
    methods = {}
    for spec in specs:
        if isinstance(spec, Attribution):
            method = spec
        else:
            method = registry.make("attribution", spec)
        methods[registry.name_of("attribution", type(method))] = method
    return methods


def attribute_to_history(
    subject: Subject, methods: Mapping[str, Attribution], items: Items, seed: int
) -> list[Attributed]:
    """The subject's targets with their attributions.

    Args:
        items: the recommender's items.
        seed: of what methods draw and of random orders.
    """
    parts = []
    for name, method in methods.items():
        generator = _generator(seed, subject, name)
        parts.append(method.attribute(subject, generator).to(torch.float64))
    values = torch.stack(parts, 1)  # [K, M, H]
    # the highest first; among equal ones the last place (the newest event)
    newest_first = values.flip(2)
    highest_first = newest_first.argsort(dim=2, descending=True, stable=True)
    orders = subject.n_events - 1 - highest_first
    events = tuple(map(items.node, subject.items.tolist()))
    attributed = []
    for target, index in enumerate(subject.targets.tolist()):
        generator = _generator(seed, subject, "random orders", index)
        by_chance = torch.rand(_N_RANDOM, subject.n_events, generator=generator).argsort(1)
        faithfulness = _faithfulness(subject, target, torch.cat([orders[target], by_chance]))
        by_method = []
        for row, name in enumerate(methods):
            by_method.append(
                MethodAttribution(
                    method=name,
                    values=tuple(values[target, row].tolist()),
                    order=tuple(orders[target, row].tolist()),
                    faithfulness=faithfulness[row],
                )
            )
        attributed.append(
            Attributed(
                item=items.item(index),
                of=subject.of,
                value=float(subject.full[target]),
                events=events,
                n_unread=subject.reading.n_unread,
                methods=tuple(by_method),
                agreement=_agreement(by_method),
                by_chance=Faithfulness.mean(faithfulness[len(methods) :]),
            )
        )
    return attributed


def _generator(seed: int, subject: Subject, *purpose: str | int) -> torch.Generator:
    return torch.Generator().manual_seed(derive(seed, "attribution", subject.user, *purpose))


def _agreement(
    methods: Sequence[MethodAttribution],
) -> tuple[tuple[str, str, float | None], ...]:
    """Pairs of methods with the rank correlation of their values."""
    agreement = []
    for a, b in combinations(methods, 2):
        agreement.append((a.method, b.method, _spearman(a.values, b.values)))
    return tuple(agreement)


def _spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rank correlation, equal values with their mean rank; None where one is
    constant.
    """
    if min(np.ptp(a), np.ptp(b)) == 0:
        return None
    return float(stats.spearmanr(a, b).statistic)


def _faithfulness(subject: Subject, target: int, orders: Tensor) -> list[Faithfulness]:
    """How faithful orders [R, H] of the events, what matters most first, are for one of the
    targets.
    """
    numbers = (torch.tensor(_SHARES, dtype=torch.float64) * subject.n_events).ceil()
    gone_mask = torch.argsort(orders, 1)[:, None] < numbers[None, :, None]
    masks = torch.stack([~gone_mask, gone_mask])
    values = subject.values(masks.flatten(0, 2))[:, target].to(torch.float64)
    means = values.view(2, len(orders), len(numbers)).mean(2)
    comprehensiveness, sufficiency = float(subject.full[target]) - means
    return list(map(Faithfulness, comprehensiveness.tolist(), sufficiency.tolist()))
