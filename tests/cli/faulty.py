"""A model of a user's own that fails on one of several processes, where the variable FAULT says so (KIND:RANK:STEP)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from typing import Any

from torch import Tensor

import recgraph as rg
from recgraph.models.sequence.sasrec import SASRec


@rg.register("model", "faulty")
class Faulty(SASRec):
    """SASRec, until it fails."""

    n_steps = 0

    def forward(self, batch: Any, terms: Iterable[str]) -> dict[str, Tensor]:
        found = super().forward(batch, terms)
        kind, rank, step = os.environ.get("FAULT", "none:0:0").split(":")
        if not self.training:
            return found
        type(self).n_steps += 1
        if type(self).n_steps != int(step) or os.environ.get("RANK") != rank:
            return found
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return found
