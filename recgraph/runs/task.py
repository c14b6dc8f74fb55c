"""Which models fit which data: those that recommend need interactions, those that embed nodes a graph."""

from __future__ import annotations

from recgraph import registry
from recgraph.config import ConfigError
from recgraph.models.base import Model
from recgraph.models.heterogeneous.base import GraphModel

__all__ = ["check_task", "models_for"]


def check_task(cls: type[Model], dataset: str, of_nodes: bool) -> None:
    """Refuse a model that recommends where there are classes of nodes, and the other way round.

    Args:
        dataset: its name.
        of_nodes: whether it has classes of nodes.

    Raises:
        ConfigError: names the models to use instead.
    """
    if of_nodes == issubclass(cls, GraphModel):
        return
    others = ", ".join(models_for(of_nodes))
    if of_nodes:
        raise ConfigError(
            f"dataset {dataset!r} is a graph with classes of nodes and {cls.__name__} recommends items; use one of "
            f"{others}, or a data set with interactions (recgraph data list)"
        )
    raise ConfigError(
        f"dataset {dataset!r} is for recommendation and {cls.__name__} embeds the nodes of a graph; use one of "
        f"{others}, or a data set with classes of nodes, such as acm (recgraph data list). A graph of your own is "
        "fitted by rg.fit_graph(model, HeteroGraph.from_frames(...), seed=0), or by a card with tables [nodes.TYPE], "
        "[[edges]] and [task]"
    )


def models_for(of_nodes: bool) -> list[str]:
    """The names of the models that embed the nodes of a graph, or of those that recommend."""
    return [name for name, cls in registry.classes("model") if issubclass(cls, GraphModel) == of_nodes]
