"""A model of a user's own that waits in its fifth epoch, as long as the file is there that the variable HELD names."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from holding import Held
from torch import Tensor

import recgraph as rg
from recgraph.models.sequence.sasrec import SASRec

#: of the training part of the synthetic log, by the batches of ``small_study``
_BATCHES_OF_FOUR_EPOCHS = 4 * 3


@rg.register("model", "held")
class Waiting(SASRec):
    """SASRec, which waits."""

    n_steps = 0
    held: Held | None = None

    def forward(self, batch: Any, terms: Iterable[str]) -> dict[str, Tensor]:
        if self.training:
            self.n_steps += 1
            self.held = self.held or Held()  # from the first step on: SIGINT may come before the one that waits
            if self.n_steps > _BATCHES_OF_FOUR_EPOCHS:
                self.held.by(Path(os.environ["HELD"]))
        return super().forward(batch, terms)
