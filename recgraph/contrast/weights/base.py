"""What a weight is: how much each candidate counts against an anchor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from recgraph.config import Config, configure

__all__ = ["Pairs", "Weight", "WeightConfig"]


@dataclass(frozen=True)
class Pairs:
    """A block of anchors against all candidates. Which candidate is the positive is not told.

    Attributes:
        anchor_ids: [n] int64, who the anchors are (node, user or target), as the caller of the term says; by
            default an embedding's row number.
        candidate_ids: [M] int64.
        anchors: [n, D], embeddings as the caller gave them: before similarity and temperature.
        candidates: [M, D].
    """

    anchor_ids: Tensor
    candidate_ids: Tensor
    anchors: Tensor
    candidates: Tensor


class WeightConfig(Config):
    """Settings of a weight."""


class Weight(nn.Module):
    """Base of all weights. A subclass sets ``Config`` and fills :meth:`log_w`.

    A weight speaks about candidates in general; whether the positive is one of them, and whether it is weighted, is
    the objective's to say. It may have parameters, and may depend on the embeddings: gradients flow into both.

    Args:
        config: the settings as a value, or
        settings: the settings by name.

    Raises:
        ConfigError: a setting that does not exist, or its value is not allowed.
    """

    Config: ClassVar[type[WeightConfig]] = WeightConfig

    def __init__(self, config: WeightConfig | None = None, /, **settings: Any) -> None:
        super().__init__()
        self.config: Any = configure(self, self.Config, config, settings)

    def log_w(self, pairs: Pairs) -> Tensor:
        """[n, M] log-weights in the type of the embeddings; ``-inf`` takes a candidate out.

        Each row must depend on its own anchor and the candidates alone: it is called on blocks of any size.
        """
        raise TypeError(f"{type(self).__name__} must define log_w(pairs)")

    def factor(self, pairs: Pairs) -> Tensor | None:
        """[n, M] the weights themselves, where they are at hand; None: take :meth:`log_w`.

        For weights without gradient, between 0 and 256. They spare a logarithm and two passes for each pair: an eighth
        of the time of MEOW's loss.
        """
        return None
