"""A contrastive term: similarity + weight + objective.

A contrast in which an anchor may have several positives.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from recgraph import registry
from recgraph.blocks import work_type
from recgraph.contrast.objectives import Objective, Outcome, Similarity, Views
from recgraph.contrast.weights import Weight

__all__ = ["ContrastiveTerm", "TermConfig", "several_positives"]


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


def several_positives(term: ContrastiveTerm, a: Tensor, b: Tensor, indptr: Tensor, indices: Tensor) -> Tensor:
    """``mean_i -log( sum_{p in P_i} e^{s_ip} / sum_j e^{s_ij} )``, the positives all counted in the denominator.

    Over rows i of ``a`` and rows j of ``b``. The denominator is the one of the library's one objective, so that no
    N x M matrix is made; the numerator is summed over the positives alone.

    Args:
        term: with ``objective="info_nce"``; gives the similarity. A weight of it is that of the denominator.
        a, b: [N, D], in pairs.
        indptr, indices: [N + 1] and [E], the rows of ``b`` that belong to each row of ``a``; each has one at least.

    Source: HeCo (KDD 2021), equation 10.
    """
    loss: Tensor = term(a, b)
    work = work_type(a, b)
    # products under autocast would be rounded to half precision
    with torch.autocast(a.device.type, enabled=False):
        x, y = term.config.shape(a.to(work), b.to(work))
        own = torch.linalg.vecdot(x, y)
        rows = torch.repeat_interleave(torch.arange(len(a), device=a.device), indptr[1:] - indptr[:-1])
        s = torch.linalg.vecdot(x[rows], y[indices])
        # the greatest of each row is taken out first, so that no exponent overflows
        peak = torch.segment_reduce(s.detach(), "max", offsets=indptr)
        total = torch.zeros_like(own).index_add(0, rows, (s - peak[rows]).exp())
        of_positives: Tensor = (own - peak - total.log()).mean()
    return loss + of_positives
