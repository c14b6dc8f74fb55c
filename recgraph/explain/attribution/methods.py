"""Attributions that leave items out, follow gradients, or read the model's attention."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from recgraph.evaluate.ranking import evaluating
from recgraph.explain.attribution.base import Attribution, AttributionConfig
from recgraph.explain.attribution.subject import Subject
from recgraph.explain.evidence import Walks, evidence_of_items
from recgraph.models.heterogeneous.base import GraphSpace
from recgraph.models.reading import AttentionForm, Baseline

__all__ = ["Attention", "IntegratedGradients", "LeaveOneOut"]

#: numbers of the inputs along a path that are in memory at a time
_MOST_INPUTS = 1 << 22


class LeaveOneOut(Attribution):
    """``a_i = f(S) - f(S without i)``: by how much the value falls without the event, all else as it is.

    The model's reading says what is computed anew without the event: :class:`recgraph.models.reading.SequenceReading`,
    :class:`recgraph.models.reading.EdgeReading`. Two events that say the same cover for each other: each
    alone may be left out at no loss, and both get a value near 0.

    Source: the erasure of Li, Monroe and Jurafsky, Understanding Neural Networks through Representation Erasure (2016),
    one item at a time.
    """

    def attribute(self, subject: Subject, generator: torch.Generator) -> Tensor:
        found = []
        for places in torch.arange(subject.n_events).split(subject.block_rows):  # type: ignore[no-untyped-call]
            keep_mask = subject.full_mask(len(places))
            keep_mask[torch.arange(len(places)), places] = False
            found.append(subject.full - subject.values(keep_mask))
        return torch.cat(found).T.contiguous()


class IntegratedGradientsConfig(AttributionConfig):
    steps: Annotated[int, Field(ge=1, description="points of the path at which gradients are taken")] = 32
    baseline: Annotated[
        Baseline, Field(description="where the path begins: 'padding', nothing known, or 'mean', the mean over items")
    ] = "padding"


class IntegratedGradients(Attribution):
    """``a_i = sum_d (x_id - b_id) mean_s df/dx_id at b + alpha_s (x - b)``: gradients along the straight path.

    x are the vectors by which the events enter the model, b the baseline in the place of each; all events move at once.
    Over the whole path the values sum to ``f(x) - f(b)`` (completeness); the midpoints ``alpha_s = (s - 1/2) / steps``
    leave a difference that falls with the square of the number of steps. What does not enter by the events' vectors
    (positions, how many events there are, for graph models the user's own vector) is on both ends of the path and gets
    nothing.

    Source: Sundararajan, Taly and Yan, Axiomatic Attribution for Deep Networks (ICML 2017). Departure:
    midpoints instead of right ends.
    """

    Config = IntegratedGradientsConfig

    def attribute(self, subject: Subject, generator: torch.Generator) -> Tensor:
        n_steps: int = self.config.steps
        with evaluating(subject.model):
            ends = subject.reading.inputs()
            begin = subject.reading.baseline(self.config.baseline)
        way = (ends - begin).detach()
        total: Tensor = way.new_zeros(len(subject.targets), *way.shape)
        alphas = (torch.arange(n_steps, dtype=way.dtype, device=way.device) + 0.5) / n_steps
        at_once = max(min(subject.block_rows, _MOST_INPUTS // max(way.numel(), 1)), 1)
        for block in alphas.split(at_once):  # type: ignore[no-untyped-call]
            with subject.differentiating():
                inputs = (begin + block[:, None, None] * way).detach().requires_grad_()
                values = subject.value_of(subject.reading.of_inputs(inputs)).sum(0)
                for target, value in enumerate(values):
                    (slopes,) = torch.autograd.grad(value, inputs, retain_graph=target + 1 < len(values))
                    total[target] += slopes.sum(0)
        found: Tensor = (total * way / n_steps).sum(2).to("cpu")
        return found

    def gap(self, subject: Subject, values: Tensor) -> Tensor:
        """[K]: ``f(x) - f(b)`` less the sum of values [K, H]: what too few steps leave."""
        with evaluating(subject.model):
            ends = torch.stack([subject.reading.baseline(self.config.baseline), subject.reading.inputs()])
            found = subject.value_of(subject.reading.of_inputs(ends)).to("cpu")
        return found[1] - found[0] - values.sum(1)


class AttentionConfig(AttributionConfig):
    form: Annotated[
        AttentionForm,
        Field(
            description="of transformers: 'rollout' through all layers with their residual connections, or that of the "
            "'last_layer'"
        ),
    ] = "rollout"


class Attention(Attribution):
    """How much the model attends to each event: not below 0, at most 1 in all.

    Transformers: the attention of the last place, by rollout (Abnar and Zuidema, Quantifying Attention Flow in
    Transformers, ACL 2020) or of the last layer; it is the same for every recommended item
    (:meth:`recgraph.models.reading.SequenceReading.attention`).

    Models whose users' vectors are made of meta-paths attend to paths, not to items. The attention of each path is
    divided among the items of the history by the evidence that leads through them to the recommended item
    (:func:`evidence_of_items <recgraph.explain.evidence.evidence_of_items>`), with beta_P the attention within a side
    and each side counting half: ``a_i = sum_P beta_P / 2 * e_P(i) / sum_j e_P(j)``. Paths that reach the item through
    nothing of the history keep their share, so that the values sum to less than 1. This combination is ours.

    Attention is how the model mixes, not what decides: Jain and Wallace, Attention is not Explanation (NAACL 2019).

    Raises:
        ValueError: of :meth:`attribute`: the model has no attention.
    """

    Config = AttentionConfig
    signed = False

    def attribute(self, subject: Subject, generator: torch.Generator) -> Tensor:
        model = subject.model
        with evaluating(model):
            if not subject.reading.attends_paths:
                of_events = subject.reading.attention(self.config.form).to("cpu")
                return of_events.expand(len(subject.targets), -1).clone()
            weights = model.path_weights()
        assert isinstance(model.space, GraphSpace)
        graph = model.space.graph.to("cpu")
        targets = subject.targets.to("cpu")
        total = torch.zeros(len(targets), subject.n_events, dtype=torch.float64)
        for key, weight in weights.items():
            found = evidence_of_items(Walks(key.path, graph), subject.user, subject.items, targets, graph)
            total += weight / 2 * found / found.sum(1, keepdim=True).clamp(min=1e-300)
        return total
