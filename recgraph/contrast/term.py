"""A contrastive term: similarity + weight + objective."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from recgraph import registry
from recgraph.contrast.objectives.base import Objective, Outcome, Views
from recgraph.contrast.similarity import Similarity
from recgraph.contrast.weights.base import Weight

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
        self.objective: Objective = registry.load("objective", self.config.objective)(**self.config.objective_settings)
        self.weight = weight if isinstance(weight, Weight) else self._named_weight(dim)
        self.outcome: Outcome | None = None

    def _named_weight(self, dim: int | None) -> Weight | None:
        if self.config.weight is None:
            return None
        cls = registry.load("weight", self.config.weight)
        given = {"dim": dim} if dim is not None and "dim" in cls.Config.model_fields else {}
        weight: Weight = cls(**{**given, **self.config.weight_settings})
        return weight

    def forward(
        self,
        a: Tensor,
        b: Tensor,
        ids_a: Tensor | None = None,
        ids_b: Tensor | None = None,
        positives: Tensor | None = None,
        temperatures: Tensor | None = None,
    ) -> Tensor:
        """The mean loss over the anchors.

        Args:
            a: [N, D].
            b: [M, D]; M = N where the rows are in pairs.
            ids_a: [N] int64, who the rows are, for weights; default: the row number.
            ids_b: [M] int64; default: ``ids_a`` where the rows are in pairs, else the row number.
            positives: [N] int64, the row of ``b`` that belongs to each row of ``a``; default: the same number.
            temperatures: [M], one for each row of ``b``; default: the common one.

        Raises:
            ValueError: the shapes do not fit, or no anchor has a candidate of positive weight.
        """
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not len(a) or not len(b):
            raise ValueError(f"a {list(a.shape)} and b {list(b.shape)} must be [N, D] and [M, D], neither empty")
        paired = positives is None and len(a) == len(b)
        ids_a = torch.arange(len(a), device=a.device) if ids_a is None else ids_a
        if ids_b is None:
            ids_b = ids_a if paired else torch.arange(len(b), device=b.device)
        for name, value, rows in (
            ("ids_a", ids_a, a),
            ("ids_b", ids_b, b),
            ("positives", positives, a),
            ("temperatures", temperatures, b),
        ):
            if value is not None and value.shape != rows.shape[:1]:
                raise ValueError(f"{name} {list(value.shape)} must be [{rows.shape[0]}], one for each row")
        views = Views(a, b, ids_a, ids_b, positives, temperatures)
        outcome: Outcome = self.objective(views, self.config, self.weight)
        self.outcome = Outcome(outcome.loss.detach(), outcome.n_anchors, outcome.left_out)
        return outcome.loss
