"""The embedder: the embeddings of a typed graph's nodes with their ids, and the model that made them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import polars as pl
import torch
from torch import Tensor

from recgraph.models.base import Model
from recgraph.models.heterogeneous.base import GraphModel, GraphSpace
from recgraph.pages import block
from recgraph.serve import bundle

_TABLE = "embeddings.parquet"
_COLUMN = "embedding"


class Embedder:
    """The embeddings of the nodes of one type, by their ids, and the model that made them.

    A bundle holds the vectors, ``embeddings.parquet``, beside the model and its graph; the model is built again only
    when :attr:`model` is read.

    Args:
        target: the node type.
        table: [N] rows, the column ``target`` with the nodes' ids (their indices where the graph has no ids) and the
            column ``embedding`` of arrays, in the order of the indices.
        model: returns the model that made them.
        record: anything that can be written as JSON and belongs to them.
    """

    def __init__(
        self, target: str, table: pl.DataFrame, model: Callable[[], Model], record: Mapping[str, Any] | None = None
    ) -> None:
        self.target, self._table, self._model = target, table, model
        self.record = dict(record or {})

    @classmethod
    def of(cls, model: GraphModel, target: str, record: Mapping[str, Any] | None = None) -> Self:
        """Embed the graph that a model was built for.

        Args:
            model: built and fitted; it is put into evaluation mode.
            target: the node type that it embeds.
        """
        assert isinstance(model.space, GraphSpace), "the model is not built for a graph"
        nodes = model.space.graph.nodes[target]
        with torch.no_grad():
            vectors = model.eval().embed().float().cpu()
        ids = pl.Series(range(nodes.count), dtype=pl.Int64) if nodes.ids is None else nodes.ids.values
        shape = pl.Array(pl.Float32, vectors.shape[1])
        table = pl.DataFrame([ids.alias(target), pl.Series(_COLUMN, vectors.numpy(), dtype=shape)])
        return cls(target, table, lambda: model, record)

    @cached_property
    def model(self) -> Model:
        """The model, in evaluation mode."""
        return self._model()

    @property
    def vectors(self) -> Tensor:
        """[N, D] float32, in the order of the graph's indices."""
        return torch.from_numpy(self._table[_COLUMN].to_numpy().copy())

    def embeddings(self) -> pl.DataFrame:
        """One row a node: its id in a column that is called like the node type, and ``embedding``."""
        return self._table

    def save(self, folder: str | Path) -> None:
        """Write a bundle: it appears whole or not at all.

        Raises:
            FileExistsError: the folder holds something that is no bundle.
        """

        def fill(into: Path) -> None:
            self._table.write_parquet(into / _TABLE)

        bundle.write(Path(folder), "embedder", self.model, fill, {"target": self.target, "record": self.record})

    @classmethod
    def load(cls, folder: str | Path, device: torch.device | str = "cpu") -> Embedder:
        """Read a bundle that :meth:`save` wrote, or that of a run's folder.

        Raises:
            BundleError: no bundle of embeddings, a file is missing or damaged, or this version cannot read it. Where
                the model alone cannot be built again, or another bundle lies in the folder by then, reading
                :attr:`model` raises it.
        """
        place, at = bundle.bundle_of(folder), bundle.device_here(device)
        before = bundle.digest(place)

        def model() -> Model:
            bundle.check_same(place, before)
            return bundle.read(place, "embedder", partial(bundle.load_model, place, device=at))

        def make(config: dict[str, Any]) -> Embedder:
            table = pl.read_parquet(place / _TABLE, memory_map=False)
            return cls(config["target"], table, model, config["record"])

        return bundle.read(place, "embedder", make)

    def __repr__(self) -> str:
        return f"Embedder({self._table.height:,} {self.target}, {self._table.schema[_COLUMN]})"

    def _repr_html_(self) -> str:
        facts = {"nodes": f"{self._table.height:,} {self.target}", "embeddings": self._table.schema[_COLUMN]}
        return block("Embedder", facts)
