"""A contrastive term: transform + similarity + weight + objective, and regularisers of the same rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from recgraph import registry
from recgraph.contrast.objectives import Objective
from recgraph.contrast.parts import Outcome, Similarity, Views
from recgraph.contrast.queue import Queue
from recgraph.contrast.transforms import Transform
from recgraph.contrast.weights import Weight
from recgraph.ranks import Share
from recgraph.sparse.blocks import unit_length
from recgraph.sparse.ragged import Ragged


class TermConfig(Similarity):
    """Which parts a term is made of, by their names in the registry."""

    objective: Annotated[str, Field(description="how anchors and candidates are chosen")] = "nt_xent"
    objective_settings: Annotated[dict[str, Any], Field(default_factory=dict, description="settings of the objective")]
    weight: Annotated[str | None, Field(description="how candidates are weighted; None: all alike")] = None
    weight_settings: Annotated[dict[str, Any], Field(default_factory=dict, description="settings of the weight")]
    transform: Annotated[str | None, Field(description="of both sides before similarity; None: as they are")] = None
    transform_settings: Annotated[dict[str, Any], Field(default_factory=dict, description="settings of the transform")]
    regularisers: Annotated[
        dict[str, float | dict[str, Any]],
        Field(default_factory=dict, description="of rows in pairs: name -> coefficient, or its settings"),
    ]
    queue_size: Annotated[
        int, Field(ge=0, description="rows of earlier calls that are candidates beside those of this one")
    ] = 0


class ContrastiveTerm(nn.Module):
    """``ContrastiveTerm(temperature=0.5, objective="nt_xent")(a, b)`` gives a scalar.

    Args:
        config: the settings as a value, or
        weight: the name of a weight, or a weight that is made already (and may be shared).
        dim: width of the embeddings, for parts that must know it.
        settings: the settings of :class:`TermConfig` by name.

    Attributes:
        outcome: of the last call, detached: the loss, the number of anchors and how many had no candidate.
    """

    def __init__(
        self,
        config: TermConfig | None = None,
        /,
        *,
        weight: Weight | str | None = None,
        dim: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        named = {**settings, "weight": weight} if isinstance(weight, str) else settings
        self.config = config if config is not None else TermConfig.of(named)
        self.objective: Objective = self._part("objective", dim)
        self.weight: Weight | None = weight if isinstance(weight, Weight) else self._part("weight", dim)
        self.transform: Transform | None = self._part("transform", dim)
        self.regularisers = nn.ModuleDict()
        self.coefficients: dict[str, float] = {}
        for name, given in self.config.regularisers.items():
            own = given if isinstance(given, dict) else {"coefficient": given}
            part = registry.make("regulariser", {"name": name, **own}, dim=dim)
            self.regularisers[name], self.coefficients[name] = part, part.config.coefficient
        self.queue: Queue | None = None
        if self.config.queue_size:
            if dim is None:
                raise ValueError(f"queue_size = {self.config.queue_size} needs dim, the width of the embeddings")
            self.queue = Queue(self.config.queue_size, dim)
        self.outcome: Outcome | None = None

    def _part(self, kind: str, dim: int | None) -> Any:
        """The part of a kind that the configuration names; None: it names none."""
        name = getattr(self.config, kind)
        if name is None:
            return None
        given = {} if dim is None else {"dim": dim}
        return registry.make(kind, {"name": name, **getattr(self.config, f"{kind}_settings")}, **given)

    @property
    def draws(self) -> bool:
        """Whether it needs a generator."""
        draws_candidates = getattr(self.objective.config, "n_candidates", None) is not None
        return self.transform is not None or self.objective.draws or draws_candidates

    def compile_parts(self, backend: str = "inductor") -> None:
        """See :meth:`Objective.compile_parts`."""
        self.objective.compile_parts(backend)

    def prepare(self, clusterings: Callable[[], Tensor], ids: Tensor | None = None) -> None:
        """Offer clusterings to the weight; see :meth:`Weight.prepare`."""
        if self.weight is not None:
            self.weight.prepare(clusterings, ids)

    def forward(
        self,
        a: Tensor,
        b: Tensor,
        ids_a: Tensor | None = None,
        ids_b: Tensor | None = None,
        positives: Tensor | Ragged | None = None,
        temperatures: Tensor | None = None,
        generator: torch.Generator | None = None,
        share: Share | None = None,
    ) -> Tensor:
        """The mean loss over the anchors, and the regularisers.

        Args:
            a: [N, D].
            b: [M, D]; M = N where the rows are in pairs.
            ids_a: [N] int64, who the rows are, for weights; default: the row number.
            ids_b: [M] int64; default: ``ids_a`` where the rows are in pairs, else the row number.
            positives: the rows of ``b`` that belong to each row of ``a``: [N] int64, or N rows where an anchor may have
                several, at least one; default: the row of the same number.
            temperatures: [M], one for each row of ``b``; default: the common one.
            generator: required by parts that draw (:attr:`draws`); on any device.
            share: the anchors of this rank, where several ranks contrast the same rows. It computes these alone where
                no anchor can be left out of the mean, else all, as every other rank does; in both cases the mean over
                ranks is the loss.
        """
        ids_a = torch.arange(len(a), device=a.device) if ids_a is None else ids_a
        if ids_b is None:
            paired = positives is None and len(a) == len(b)
            ids_b = ids_a if paired else torch.arange(len(b), device=b.device)
        share = self._split(share, positives)
        views = Views(a, b, ids_a, ids_b, positives, temperatures, generator, share)
        joined = views if self.queue is None else self._with_queue(self.queue, views)
        outcome = self._transformed(joined)
        if self.queue is not None and self.training and torch.is_grad_enabled():
            self.queue.push(unit_length(b), ids_b)
        self.outcome = Outcome(outcome.loss.detach(), outcome.n_anchors, outcome.left_out)
        return outcome.loss if not self.regularisers else outcome.loss + self._regularised(views)

    def _with_queue(self, queue: Queue, views: Views) -> Views:
        """The rows of b with those of earlier calls below them, but for those of ids that b has."""
        # queued rows are of length 1: weights and transforms see both sides so
        a = views.a if self.weight is None and self.transform is None else unit_length(views.a)
        rows, ids = queue.join(unit_length(views.b), views.ids_b)
        return replace(views, a=a, b=rows, ids_b=ids, positives=torch.arange(len(a), device=rows.device))

    def _transformed(self, views: Views) -> Outcome:
        if self.transform is None:
            outcome: Outcome = self.objective(views, self.config, self.weight)
            return outcome
        sides = self.transform(views)
        found = [self.objective(replace(views, a=a, b=b), self.config, self.weight) for a, b in sides]
        left_out = torch.stack([one.left_out for one in found]).sum()
        return Outcome(torch.stack([one.loss for one in found]).mean(), sum(one.n_anchors for one in found), left_out)

    def _regularised(self, views: Views) -> Tensor:
        """The sum of the regularisers of each anchor and its positive, times their coefficients; of several positives
        it is the row of the same number."""
        positives = None if isinstance(views.positives, Ragged) else views.positives
        b = views.b if positives is None else views.b.index_select(0, positives)
        return torch.stack(
            [part(views.a, b) * self.coefficients[name] for name, part in self.regularisers.items()]
        ).sum()

    def _split(self, share: Share | None, positives: Tensor | Ragged | None) -> Share | None:
        """The share, where the anchors can be divided: each rank's mean is then over as many as the share says."""
        if share is None or share.is_whole or not self.objective.splits or isinstance(positives, Ragged):
            return None
        config = self.objective.config
        # else an anchor may be left out: its other candidates have weight 0, or are not drawn
        has_others = self.weight is None and config.n_candidates is None
        counts_fully = config.count_positive and (self.weight is None or not config.weigh_positive)
        return share if has_others or counts_fully else None
