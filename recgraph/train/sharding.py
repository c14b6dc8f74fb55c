"""Which tables of a training are sharded over the ranks, and their way into checkpoints and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path

import torch
from torch import Tensor, nn

from recgraph.config import ConfigError
from recgraph.models.base import TrainableModel
from recgraph.ranks import Ranks
from recgraph.shards import Rows, local_rows, own_rows, own_state, shard, unshard
from recgraph.train import checkpoint as checkpoints
from recgraph.train.config import TrainConfig

__all__ = ["TOUCHES_ROWS", "Sharding", "check_sharding"]

#: what a model needs for steps that touch some rows of its tables, for messages
TOUCHES_ROWS = (
    "a loss that draws negatives (loss = 'sampled_softmax', 'bce', 'bpr') over a table that no propagation, item "
    "graph or item features are computed from"
)


def check_sharding(model: TrainableModel, config: TrainConfig) -> None:
    """Refuse to shard the tables of a model that has none which can be; before anything of it is told to other ranks.

    Raises:
        ValueError: the model has no table that can be sharded.
    """
    if not config.shard_tables:
        return
    if not model.row_sparse_tables:
        raise ConfigError(
            f"shard_tables = True: every step of this {type(model).__name__} reads all rows of its tables; use "
            f"{TOUCHES_ROWS}"
        )
    if config.metric not in ("last", "loss") and "index" not in signature(model.encode_items).parameters:
        raise ValueError(
            f"shard_tables = True: {type(model).__name__}.encode_items gives all items alone, which no validation "
            "over shards can hold: define encode_items(index=None), which reads those of an index by "
            "recgraph.rows.lookup, or use metric = 'last'"
        )


class Sharding:
    """The sharded tables of a training; none where one process trains, or ``config.shard_tables`` is False.

    A state, such as the best weights so far, has this rank's rows of a sharded table in its place.

    Args:
        model: on its device, the same on all ranks. Its tables with row-sparse gradients are replaced by sharded ones.
        config: of the training.
        ranks: that train the model together.

    Attributes:
        tables: name -> parameter.

    Raises:
        ValueError: the model has no table that can be sharded.
    """

    def __init__(self, model: TrainableModel, config: TrainConfig, ranks: Ranks) -> None:
        self.model, self.ranks = model, ranks
        self.tables: dict[str, nn.Parameter] = {}
        self._is_gathered = False
        check_sharding(model, config)
        if config.shard_tables and ranks.count > 1:
            self.tables = {name: shard(model, name) for name in model.row_sparse_tables}

    def state(self) -> dict[str, Tensor]:
        """Weights and buffers by name, of sharded tables the rows of this rank; memory is shared with the model."""
        return own_state(self.model)

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of :meth:`state`."""
        rest = self.rest(state)
        if not self.tables:
            self.model.load_state_dict(rest)
            return
        for name, table in self.tables.items():
            local_rows(table).copy_(state[name])
        missing = set(self.model.load_state_dict(rest, strict=False).missing_keys) - set(self.tables)
        if missing:
            raise ValueError(f"state: {', '.join(sorted(missing))} of the model is missing; give a whole state")

    def gather(self) -> None:
        """Give every rank whole tables, as parameters like any other; the training must be over."""
        for name in self.tables:
            unshard(self.model, name)
        self._is_gathered, self.tables = bool(self.tables), {}

    def write(self, folder: Path, best: Mapping[str, Tensor] | None, optimisers: Mapping[str, Tensor]) -> Path | None:
        """Write this rank's rows for a checkpoint; every rank calls it -> the file, None where nothing is sharded.

        Raises:
            ValueError: the tables were gathered, and what is left of the training is no checkpoint.
        """
        if self._is_gathered:
            raise ValueError("shard_tables = True: tables that were gathered have no checkpoint; save before that")
        if not self.tables:
            return None
        rows = {f"model/{name}": local_rows(table) for name, table in self.tables.items()}
        rows |= {f"best/{name}": best[name] for name in self.tables if best is not None}
        rows |= {f"optimisers/{name}": value for name, value in optimisers.items() if self._table_of(name, value.shape)}
        path = folder / checkpoints.rows_name(self.ranks.index, self.ranks.count)
        checkpoints.save_tensors(rows, path)
        return path

    def rest(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state without the rows of sharded tables."""
        return {name: value for name, value in state.items() if name not in self.tables}

    def rest_of_optimisers(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state of optimisers without the rows of sharded tables."""
        return {name: value for name, value in tensors.items() if not self._table_of(name, value.shape)}

    @property
    def wanted(self) -> checkpoints.WantedRows | None:
        """What this rank reads of a checkpoint; None: all of it."""
        return self._wanted_rows if self.tables else None

    def _wanted_rows(self, kind: str, name: str, shape: Sequence[int]) -> Rows | None:
        if kind == "generators":
            return None
        table = self.tables.get((self._table_of(name, shape) or "") if kind == "optimisers" else name)
        return None if table is None else own_rows(table)

    def _table_of(self, name: str, shape: Sequence[int]) -> str | None:
        """The sharded table that an optimiser's ``group/index/entry`` has rows for."""
        if not self.tables or not len(shape):
            return None
        group, index, _ = name.rsplit("/", 2)
        parameter = self.model.parameter_groups()[group][int(index)]
        return next((name for name, table in self.tables.items() if table is parameter), None)
