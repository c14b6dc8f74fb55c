"""Initial item vectors from another run, a bundle, a graph's nodes or a frame, matched by the
items' ids.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import torch
from pydantic import Field
from torch import Tensor

from recgraph.config import Config
from recgraph.data.dataframe import frame_kind, from_native
from recgraph.data.ids import IdMap, as_series
from recgraph.data.split import SealedSplit
from recgraph.data.strategies import FITTED_ON
from recgraph.models.base import Model, item_table
from recgraph.serve.bundle import BundleError, Embedder, bundle_of, digest
from recgraph.serve.recommender import Recommender, load
from recgraph.train.fitting import Scale
from recgraph.train.run import NodeRun, Run

#: the fields of the source's record that the record of the new run has, too
_OF_SOURCE = ("model", "config", "training", "seed", "fitted_on", "data", "init_items")
_log = logging.getLogger(__name__)


class InitItemsConfig(Config):
    """The initial values of a model's table of item vectors."""

    init_items: Annotated[
        str | None,
        Field(
            description="folder of a run or bundle: its item vectors or node embeddings, by id; none: random"
        ),
    ] = None
    init_items_scale: Annotated[
        Scale,
        Field(
            description="'initial': with the random table's standard deviation; 'given': as they are"
        ),
    ] = "initial"


@dataclass(frozen=True)
class InitItems:
    """Initial vectors for some of the items of a model.

    With ``scale="initial"`` all vectors are multiplied by one number, so that their entries have
    the standard deviation of the table that they replace; directions and relative lengths stay. The
    table is also the output layer, and items that the source does not have keep the random scale:
    longer vectors would rank by their length alone.

    Attributes:
        items: [K] int64, different item indices.
        vectors: [K, D] float32, one each.
        scale: see above.
        record: where the vectors came from, as JSON values.
    """

    items: Tensor
    vectors: Tensor
    scale: Scale
    record: dict[str, Any]

    @torch.no_grad()
    def write(self, model: Model) -> None:
        """Put the vectors into the table of a built model; the rows of all other items stay as they
        are.
        """
        table = item_table(model)
        vectors, width = self.vectors, self.vectors.shape[1]
        if table.shape[1] != width:
            raise ValueError(
                f"init_items has vectors of width {width}; give hidden_dim={width}, not {table.shape[1]}"
            )
        if self.scale == "initial":
            factor = float(table.std(correction=0)) / float(vectors.std(correction=0))
            _log.info("item vectors of init_items are multiplied by %.4g", factor)
            vectors = vectors * factor
        table.index_copy_(0, self.items.to(table.device), vectors.to(table.device, table.dtype))


def initial_items(
    source: Any, split: SealedSplit, scale: Scale = "initial", fit_on: str = "train"
) -> InitItems:
    """Match vectors with the items of a split by the items' own ids.

    ``source`` is a :class:`Run` or :class:`NodeRun`, a :class:`Recommender` or :class:`Embedder`,
    the folder of one of these, a frame of two columns (ids; vectors as lists or arrays), or a
    mapping id -> vector. One that may know what is held out where a model is fitted to ``fit_on``
    is logged as a warning.
    """
    ids, vectors, origin = _read(source)
    if ids.n_unique() != len(ids) or not vectors.isfinite().all():
        raise ValueError("init_items: an id is there twice, or a vector is not finite")
    index = torch.from_numpy(split.items.index(ids))
    known_mask = index >= 0
    n_known, n_items = int(known_mask.sum()), len(split.items)
    if not n_known:
        here, there = ids.head(3).to_list(), split.items.values.head(3).to_list()
        raise ValueError(f"init_items: none of its ids ({here}, ...) is an item's ({there}, ...)")
    _log.log(
        logging.INFO if n_known == n_items else logging.WARNING,
        "init_items: vectors of %d of %d items; %d keep their random ones",
        n_known,
        n_items,
        n_items - n_known,
    )
    _warn_of_held_out(origin.get("source_record", {}), split, fit_on)
    state = hashlib.sha256(IdMap(ids).digest())
    state.update(vectors.contiguous().numpy().tobytes())
    record = {
        **origin,
        "digest": state.hexdigest(),
        "scale": scale,
        "n_found": n_known,
        "n_items": n_items,
    }
    return InitItems(index[known_mask], vectors[known_mask], scale, record)


def _warn_of_held_out(source: Mapping[str, Any], split: SealedSplit, fit_on: str) -> None:
    """Warn where the run that vectors come from was fitted on more than a new one will be."""
    split_hash = source.get("data", {}).get("split_hash")
    if split_hash is None:
        return
    parts: list[str] = [*FITTED_ON]  # the least first
    if split_hash != split.hash:
        _log.warning(
            "init_items was fitted on another split: it may know what is asked for in validation or test"
        )
    elif parts.index(source["fitted_on"]) > parts.index(fit_on):
        _log.warning(
            "init_items was fitted on %s: it knows what is asked for in validation",
            source["fitted_on"],
        )


def _read(source: Any) -> tuple[pl.Series, Tensor, dict[str, Any]]:
    """Ids, vectors [N, D], and the source as JSON values."""
    if isinstance(source, str | Path):
        return _of_served(load(source), source)
    if isinstance(source, Run):
        return _of_served(source.recommender, source.folder)
    if isinstance(source, NodeRun):
        return _of_served(source.embedder, source.folder)
    if isinstance(source, Recommender | Embedder):
        return _of_served(source, None)
    if isinstance(source, Mapping):
        ids, vectors = as_series(source.keys(), "init_items"), _stack(list(source.values()))
        return ids, vectors, {"source": None, "kind": "mapping"}
    # cells of a pandas frame may be arrays, a type that narwhals does not know
    if frame_kind(source, "init_items") == "pandas":
        return _of_frame(pl.DataFrame({str(name): source[name].tolist() for name in source}))
    return _of_frame(from_native(source, "init_items"))


def _of_served(
    source: Recommender | Embedder, folder: str | Path | None
) -> tuple[pl.Series, Tensor, dict[str, Any]]:
    origin = {
        "source": None if folder is None else str(folder),
        "kind": type(source).__name__.lower(),
        "source_record": {
            name: source.record[name] for name in _OF_SOURCE if name in source.record
        },
    }
    if isinstance(source, Embedder):
        return source.embeddings()[source.target], source.vectors, origin
    if not source.model.has_vectors:
        raise ValueError(f"init_items: {type(source.model).__name__} has no vectors of items")
    with torch.no_grad():
        vectors = source.model.encode_items().detach().float().cpu()
    return source.items.values, vectors, origin


def _of_frame(frame: pl.DataFrame) -> tuple[pl.Series, Tensor, dict[str, Any]]:
    ids, vectors = sorted(frame.columns, key=lambda name: frame.schema[name].is_nested())
    rows = _stack(frame[vectors].to_list())
    return as_series(frame[ids], "init_items"), rows, {"source": None, "kind": "frame"}


def _stack(vectors: list[Any]) -> Tensor:
    rows = [torch.as_tensor(row, dtype=torch.float32).detach().cpu() for row in vectors]
    return torch.stack([*map(torch.flatten, rows)])


def input_digests(settings: Mapping[str, Any]) -> dict[str, str]:
    """Setting and folder, or folders to choose from -> digest of the bundle there: paths alone do
    not tell that it has been trained anew. A folder without a bundle is refused where it is read.
    """
    folders = settings.get("init_items")
    if not isinstance(folders, list | tuple):
        folders = [folders]
    digests = {}
    for folder in folders:
        if isinstance(folder, str):
            with suppress(BundleError, OSError):
                digests[f"init_items {folder}"] = digest(bundle_of(folder))
    return digests
