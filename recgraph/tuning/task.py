"""What can be tuned: models that recommend, on data with a validation part to select on and a test part to seal."""

from __future__ import annotations

from recgraph.config import ConfigError
from recgraph.data.graph_card import NodeTaskFiles, find_graph_card
from recgraph.models.base import Model
from recgraph.models.base_graph import GraphModel

__all__ = ["check_dataset", "check_model"]

_INSTEAD = "settings on graphs are given by hand (recgraph train ... --set key=value)"


def check_model(cls: type[Model]) -> None:
    """Refuse a model that embeds the nodes of a graph.

    Raises:
        ConfigError: names what to use instead.
    """
    if issubclass(cls, GraphModel):
        raise ConfigError(
            f"model {cls.__name__} embeds the nodes of a graph, selected by its loss: there is no validation metric to "
            f"tune it for; tune a model that recommends (recgraph models); {_INSTEAD}"
        )


def check_dataset(name: str) -> None:
    """Refuse a data set with classes of nodes.

    Raises:
        ConfigError: names what to use instead.
    """
    card = find_graph_card(name)
    if card is not None and isinstance(card.task, NodeTaskFiles):
        raise ConfigError(
            f"dataset {name!r} is a graph with classes of nodes: it has no validation part of interactions to tune on "
            f"and no test part to keep sealed; take a data set with interactions (recgraph data list); {_INSTEAD}"
        )
