"""What follows what, counted beforehand, as a prior of what a sequence model learns."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from recgraph.config import Search
from recgraph.data.batches import Query
from recgraph.data.part import Part
from recgraph.models.base import Space
from recgraph.models.closed_form.transitions import TableConfig, Transitions


class Prior(TableConfig):
    """The table of transitions of a prior, and how much it counts."""

    weight: Annotated[
        float,
        Field(ge=0, description="lambda, of the logarithm of transitions"),
        Search(0.0, 3.0, step=0.1),
    ] = 1.5
    eps: Annotated[
        float, Field(gt=0, description="added to the transitions; one that was never seen has it")
    ] = 1e-3


class TransitionPrior(nn.Module):
    """``lambda log(1 + t_j / eps)``, added to the score of each item j in ranking.

    t are the scores of :class:`recgraph.models.closed_form.transitions.Transitions`; an item to
    which no transition leads keeps its score. The loss does not have the sum: on valid parts that
    gained nothing. Source: ours.
    """

    def __init__(self, config: Prior, space: Space) -> None:
        super().__init__()
        self.config = config
        fields = TableConfig.model_fields
        self.table = Transitions(**{name: getattr(config, name) for name in fields}).build(space)

    def setup(self, train: Part) -> None:
        self.table.fit(train)

    def score(self, query: Query) -> Tensor:
        """[B, n_items]: what it adds to the scores."""
        return self.config.weight * (self.table.score(query) / self.config.eps).log1p_()
