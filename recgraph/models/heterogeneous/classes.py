"""Models of nodes that learn classes from few labels beside their contrast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import Field
from torch import Tensor

from recgraph.config import Added, Search
from recgraph.contrast.pseudo_labels import PseudoLabels
from recgraph.models.base import ModelConfig, Phase, Terms
from recgraph.models.heterogeneous.base import GraphBatch, GraphModel

__all__ = ["ClassesConfig", "LearnsClasses"]


class ClassesConfig(ModelConfig):
    n_classes: Annotated[
        int,
        Field(
            ge=0,
            description="classes that are learned from the labels that training is given (labels), those without a "
            "labelled node among them; 0: no labels are read",
        ),
        Added(),
    ] = 0
    pseudo_weight: Annotated[
        float,
        Field(ge=0, description="with n_classes: of labels and pseudo-labels"),
        Search(0.01, 10.0, log=True),
        Added(),
    ] = 1.0
    pseudo_temperature: Annotated[
        float,
        Field(gt=0, description="with n_classes: of the similarities of nodes and classes"),
        Search(0.05, 1.0, log=True),
        Added(),
    ] = 0.1


class LearnsClasses(GraphModel):
    """Base of contrastive models of nodes. With ``n_classes`` they have the term ``pseudo`` (:class:`PseudoLabels`), of
    the labels of train nodes alone; without, nothing is added."""

    def _make_classes(self, dim: int) -> None:
        """Make the prototypes of classes, where the settings have some.

        Args:
            dim: width of the views that are compared with them.
        """
        config = self.config
        self.pseudo: PseudoLabels | None = None
        if config.n_classes:
            self.pseudo = PseudoLabels(dim, config.n_classes, config.pseudo_temperature)

    @property
    def phases(self) -> tuple[Phase, ...]:
        (phase,) = super().phases
        pseudo = self.config.pseudo_weight if self.config.n_classes else 0.0
        return (Phase(phase.name, phase.groups, {**phase.terms, "pseudo": pseudo}),)

    def pseudo_terms(self, batch: GraphBatch, views: Callable[[], tuple[Tensor, Tensor]]) -> Terms:
        """``pseudo``; nothing without ``n_classes``.

        Args:
            views: gives two views [N, D] of the nodes of the batch, first that which embeds them.
        """
        if self.pseudo is None:
            return {}
        if self.known_labels is None:
            raise ValueError(
                f"n_classes = {self.config.n_classes} learns classes from labels: give rg.fit_graph(..., task=..., "
                "labels='a split of the task')"
            )
        self.known_labels = self.known_labels.to(self.pseudo.prototypes.device)
        labels, pseudo = self.known_labels, self.pseudo
        of_batch = labels if batch.nodes is None else labels[batch.nodes]

        def loss() -> Tensor:
            value: Tensor = pseudo(*views(), of_batch, batch.generators["pseudo_labels"])
            return value

        return {"pseudo": loss}
