"""A contrastive term: similarity + weight + objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from recgraph import registry
from recgraph.contrast.objectives import Objective, Outcome, Similarity, Views
from recgraph.contrast.weights import Weight
from recgraph.ranks import Share
from recgraph.sparse.ragged import Ragged

__all__ = ["ContrastiveTerm", "TermConfig"]


class TermConfig(Similarity):
    """Which parts a term is made of, by their names in the registry."""

    objective: Annotated[str, Field(description="how anchors and candidates are chosen")] = "nt_xent"
    objective_settings: Annotated[dict[str, Any], Field(default_factory=dict, description="settings of the objective")]
    weight: Annotated[str | None, Field(description="how candidates are weighted; None: all alike")] = None
    weight_settings: Annotated[dict[str, Any], Field(default_factory=dict, description="settings of the weight")]


class ContrastiveTerm(nn.Module):
    """``ContrastiveTerm(temperature=0.5, objective="nt_xent")(a, b)`` gives a scalar.

    Args:
        config: the settings as a value, or
        weight: the name of a weight, or a weight that is made already (and may be shared).
        dim: width of the embeddings, for weights that must know it.
        settings: the settings of :class:`TermConfig` by name.

    Attributes:
        outcome: of the last call, detached: the loss, the number of anchors and how many had no candidate.

    Raises:
        ValueError: a setting or a name does not exist, or a value is not allowed.
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
        if config is not None and (named or weight is not None):
            raise ValueError("give ContrastiveTerm a config or settings, not both")
        self.config = config if config is not None else TermConfig.of(named)
        self.objective: Objective = registry.make(
            "objective", {"name": self.config.objective, **self.config.objective_settings}
        )
        self.weight = weight if isinstance(weight, Weight) else self._named_weight(dim)
        self.outcome: Outcome | None = None

    def _named_weight(self, dim: int | None) -> Weight | None:
        if self.config.weight is None:
            return None
        given = {} if dim is None else {"dim": dim}
        weight: Weight = registry.make("weight", {"name": self.config.weight, **self.config.weight_settings}, **given)
        return weight

    def compile_parts(self, backend: str = "inductor") -> None:
        """Have accelerators compute by compiled graphs what can be compiled; see :meth:`Objective.compile_parts`."""
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
        """The mean loss over the anchors.

        Args:
            a: [N, D].
            b: [M, D]; M = N where the rows are in pairs.
            ids_a: [N] int64, who the rows are, for weights; default: the row number.
            ids_b: [M] int64; default: ``ids_a`` where the rows are in pairs, else the row number.
            positives: the rows of ``b`` that belong to each row of ``a``: [N] int64, or N rows where an anchor may have
                several; default: the row of the same number.
            temperatures: [M], one for each row of ``b``; default: the common one.
            generator: required where the objective draws candidates (``n_candidates``); on any device.
            share: the anchors of this rank, where several ranks contrast the same rows. It computes these alone where
                no anchor can be left out of the mean, else all, as every other rank does; in both cases the mean over
                ranks is the loss.

        Raises:
            ValueError: the shapes do not fit, or no anchor has a candidate of positive weight.
        """
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not len(a) or not len(b):
            raise ValueError(f"a {list(a.shape)} and b {list(b.shape)} must be [N, D] and [M, D], neither empty")
        paired = positives is None and len(a) == len(b)
        ids_a = torch.arange(len(a), device=a.device) if ids_a is None else ids_a
        if ids_b is None:
            ids_b = ids_a if paired else torch.arange(len(b), device=b.device)
        one_a_row = (positives.lengths if isinstance(positives, Ragged) else positives, len(a))
        for name, (value, n_rows) in {
            "ids_a": (ids_a, len(a)),
            "ids_b": (ids_b, len(b)),
            "positives": one_a_row,
            "temperatures": (temperatures, len(b)),
        }.items():
            if value is not None and value.shape != (n_rows,):
                raise ValueError(f"{name} {list(value.shape)} must be [{n_rows}], one for each row")
        views = Views(a, b, ids_a, ids_b, positives, temperatures, generator, self._split(share, positives))
        outcome: Outcome = self.objective(views, self.config, self.weight)
        self.outcome = Outcome(outcome.loss.detach(), outcome.n_anchors, outcome.left_out)
        return outcome.loss

    def _split(self, share: Share | None, positives: Tensor | Ragged | None) -> Share | None:
        """The share, where the anchors can be divided: each rank's mean is then over as many as the share says."""
        if share is None or share.is_whole or not self.objective.splits or isinstance(positives, Ragged):
            return None
        config = self.objective.config
        always_has_a_candidate = self.weight is None or (config.count_positive and not config.weigh_positive)
        return share if always_has_a_candidate else None
