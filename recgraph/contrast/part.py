"""What the parts of a contrast have in common: settings, and what they are told before training."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from recgraph import config as configuration
from recgraph.contrast.views import About

__all__ = ["Part"]


class Part(nn.Module):
    """Base of weights, mixtures, transforms, objectives and regularisers. A subclass sets ``Config``.

    Args:
        config: the settings as a value, or
        settings: the settings by name.

    Raises:
        ConfigError: a setting that does not exist, or its value is not allowed.
    """

    Config: ClassVar[type[configuration.Config]]
    #: whether it reads an ordered label of each row
    reads_labels: ClassVar[bool] = False

    def __init__(self, config: configuration.Config | None = None, /, **settings: Any) -> None:
        super().__init__()
        self.config: Any = configuration.configure(self, self.Config, config, settings)

    @property
    def reads_ids(self) -> bool:
        """Whether it reads what :meth:`setup` tells of the ids."""
        return type(self).setup is not Part.setup

    def setup(self, about: About) -> None:
        """Called before training with what is known of the ids."""
