"""What a graph view is: a random variation of an adjacency or of features, once or drawn anew."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from recgraph.config import Config, configure
from recgraph.rng import Generators

__all__ = ["GraphView", "GraphViewConfig", "keep_some"]


class GraphViewConfig(Config):
    redraw: Annotated[
        bool,
        Field(description="draw anew at each call; False (as published) draws the same at every call"),
    ] = False


class GraphView:
    """Base of the random views of a graph. A subclass sets ``Config`` and defines ``__call__(value, generator)``.

    Args:
        config: the settings as a value, or
        settings: the settings by name.

    Raises:
        ConfigError: a setting that does not exist, or its value is not allowed.
    """

    #: what the view varies; views of sequences say ``"sequence"``
    target: ClassVar[str] = "graph"
    Config: ClassVar[type[GraphViewConfig]] = GraphViewConfig

    def __init__(self, config: GraphViewConfig | None = None, /, **settings: Any) -> None:
        self.config: Any = configure(self, self.Config, config, settings)

    def stream(self, generators: Generators, name: str) -> torch.Generator:
        """The generator for this view of something, by a name that tells it from others (a path, a node type).

        One that starts afresh at every call, so that the same is drawn however often it is asked for, also after a
        run is resumed; with ``redraw`` a stream that goes on.
        """
        purpose = f"view/{type(self).__name__}/{name}"
        return generators[purpose] if self.config.redraw else generators.fresh(purpose)


def keep_some(n: int, ratio: float, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    """[n] bool: False for ``floor(ratio * n)`` places, uniform without replacement.

    Args:
        generator: may live on another device than the result, so that all devices draw the same.
    """
    keep_mask = torch.ones(n, dtype=torch.bool, device=generator.device)
    order = torch.randperm(n, generator=generator, device=generator.device)
    keep_mask[order[: int(ratio * n)]] = False
    return keep_mask.to(device)
