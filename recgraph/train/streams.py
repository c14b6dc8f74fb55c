"""The random streams of a training that goes on, perhaps on another number of ranks or another kind of device."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from torch import Tensor

from recgraph.ranks import Ranks
from recgraph.rng import Generators
from recgraph.train import checkpoint as checkpoints

__all__ = ["load_streams"]

_log = logging.getLogger(__name__)


def load_streams(generators: Generators, saved: Mapping[str, Tensor], n_ranks: int, ranks: Ranks, step: int) -> None:
    """Set the streams to the states of a checkpoint; a warning names those that begin anew.

    Args:
        generators: the streams of the run.
        saved: name of a stream -> its state in the checkpoint.
        n_ranks: how many processes made it.
        ranks: the processes that go on.
        step: at which the checkpoint was made.
    """
    shared, of_ranks = checkpoints.streams_of_ranks(saved)
    anew = generators.load_state_dict(shared, step)
    if anew and ranks.is_first:
        _log.warning(
            "a training goes on on another kind of device, %s: what it draws there (%s) is not what it would have been",
            generators.device.type,
            ", ".join(anew),
        )
    index, count = ranks.index, ranks.count
    goes_on = count > 1 and n_ranks > 1 and index < n_ranks
    generators.load_rank_state(of_ranks.get(index, {}) if goes_on else None, step)
    if n_ranks != count and ranks.is_first:
        _log.warning(
            "a training of %d processes goes on with %d: what each draws for its own rows (dropout) is not what it "
            "would have been; all else is",
            n_ranks,
            count,
        )
