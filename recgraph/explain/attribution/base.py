"""What every attribution is: values for the events of a history, one row a recommended item."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from recgraph.config import Config, configure
from recgraph.explain.attribution.subject import Subject

__all__ = ["Attribution", "AttributionConfig"]


class AttributionConfig(Config):
    """Settings of an attribution."""


class Attribution:
    """Base of attributions: each event of the history gets the part that it has in the value of a recommended item.

    A subclass sets ``Config`` and defines :meth:`attribute`. It calls the model in evaluation mode, leaves its mode,
    parameters and gradients as they were, and draws from the generator that it is given alone, so that the same
    generator gives the same values, whatever the subject's ``block_rows``.

    Args:
        config: the settings as a value, or
        settings: the settings by name.

    Raises:
        ConfigError: a setting that does not exist, or its value is not allowed.
    """

    Config: ClassVar[type[AttributionConfig]] = AttributionConfig
    #: whether values may be below 0, for what speaks against an item
    signed: ClassVar[bool] = True

    def __init__(self, config: AttributionConfig | None = None, /, **settings: Any) -> None:
        self.config: Any = configure(self, self.Config, config, settings)

    def attribute(self, subject: Subject, generator: torch.Generator) -> Tensor:
        """[K, H] of the subject's K targets and H events, on the host.

        Args:
            subject: what is attributed.
            generator: on the host.

        Raises:
            ValueError: the method does not apply to the model; the message says why and what does.
        """
        raise TypeError(f"{type(self).__name__} must define attribute(subject, generator)")
