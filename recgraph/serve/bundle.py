"""Bundles: a folder with a model and what belongs to it, without pickle, with one manifest of
checksums.

    SHA256SUMS             the SHA-256 of each file (:mod:`recgraph.files`)
    config.json            format, library version, ``holds``, the model (name, settings, sizes, seed), a record
    model.safetensors      parameters and buffers
    graph/                 of a model that was built for a typed graph (:meth:`HeteroGraph.save`)
    features.safetensors   of a model with item features: the encoded columns; what was learnt of them, vocabularies
                           and scales, is in ``config.json``

of a recommender (:class:`recgraph.serve.recommender.Recommender`) also

    users.parquet          ids in the order of their indices, in their own type
    items.parquet
    seen.safetensors       what each user did: ``values``, ``offsets``; of a model that reads times also ``times``
                           (their ``time_unit`` is in ``config.json``, as is the ``time_format`` of
                           texts, if any)
    item_features.parquet  where there are some

and of an :class:`Embedder` ``embeddings.parquet``.

A bundle appears whole or not at all. Reading it executes nothing in it: the registry gives the
model's class by name, and where a user's own part is missing an error names the files of
``model.imported``, which registered such parts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import polars as pl
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recgraph import __version__, registry
from recgraph.data.item_features import FeatureSchema, ItemFeatures
from recgraph.files import MANIFEST, check_manifest, read_bytes, read_object, replacing_folder
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.base import FeatureSpace, Model, Space, check_weights
from recgraph.models.heterogeneous.base import GraphSpace, NodeModel
from recgraph.pages import block

#: raised when a change makes older readers misread newer bundles
FORMAT = 2
Holds = Literal["recommender", "embedder"]
_CONFIG, _MODEL, _FEATURES, _TABLE = (
    "config.json",
    "model.safetensors",
    "features.safetensors",
    "embeddings.parquet",
)
T = TypeVar("T")


class BundleError(ValueError):
    """A folder is no bundle, is damaged, or was written by another version."""


def bundle_of(folder: str | Path) -> Path:
    """The folder of the bundle: that of a run which has one, else the given one."""
    folder = Path(folder)
    if (folder / "bundle" / _CONFIG).is_file():
        return folder / "bundle"
    return folder


def write(
    folder: Path, what: Holds, model: Model, fill: Callable[[Path], None], more: Mapping[str, Any]
) -> None:
    """Write a bundle, with the files that ``fill`` makes and ``more`` entries of
    ``config.json``.
    """
    check_weights(model.state_dict(), type(model).__name__)
    with replacing_folder(folder) as into:
        save_file(unshared(model.state_dict()), into / _MODEL)
        described = _describe(model, into)
        fill(into)
        config = {
            "format": FORMAT,
            "recgraph": __version__,
            "holds": what,
            "model": described,
            **more,
        }
        (into / _CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")


def unshared(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the host that share no memory, as those of tied weights do, which safetensors
    refuses; one that shares none is not copied."""
    tensors = {}
    taken: set[int] = set()
    for name, value in state.items():
        tensor = value.detach().to("cpu").contiguous()
        storage = tensor.untyped_storage()
        # a part of a larger tensor, which another one may overlap, is copied too
        if storage.nbytes() != tensor.nbytes or storage.data_ptr() in taken:
            tensor = tensor.clone()
        taken.add(storage.data_ptr())
        tensors[name] = tensor
    return tensors


def _describe(model: Model, folder: Path) -> dict[str, Any]:
    """The model in ``config.json``; its graph and features become files."""
    described = {
        "key": model.key(),
        "config": model.config.model_dump(mode="json"),
        "space": model.space.model_dump(mode="json"),
        "seed": model.seed,
        "imported": sorted({Path(each).name for each in registry.to_import()}),
    }
    if isinstance(model.space, GraphSpace):
        model.space.graph.save(folder / "graph")
    if isinstance(model.space, FeatureSpace):
        save_file(model.space.features.tensors(), folder / _FEATURES)
        described["item_features"] = model.space.features.schema.model_dump(mode="json")
    return described


def load_model(folder: Path, config: Mapping[str, Any]) -> Model:
    """The model of a bundle with this ``config.json``, in evaluation mode; within :func:`read`."""
    described = config["model"]
    try:
        cls: type[Model] = registry.load("model", described["key"])
        # the seed matters to what a model draws from its graph when it is built
        model = cls(cls.Config.of(described["config"])).build(
            _read_space(folder, described), described["seed"] or 0
        )
    except ValueError as error:
        if not described["imported"]:
            raise
        files = ", ".join(described["imported"])
        raise BundleError(
            f"{folder}: {error}; it was written beside {files}: --import what it needs"
        ) from error
    model.load_state_dict(load_file(folder / _MODEL))
    return model.eval()


def _read_space(folder: Path, described: Mapping[str, Any]) -> Space:
    sizes = described["space"]
    if "item_features" in described:
        schema = FeatureSchema.of(described["item_features"])
        return FeatureSpace.of(
            sizes, features=ItemFeatures.from_tensors(schema, load_file(folder / _FEATURES))
        )
    if (folder / "graph").is_dir():
        return GraphSpace.of(sizes, graph=HeteroGraph.load(folder / "graph"))
    return Space.of(sizes)


def digest(folder: Path) -> str:
    """The SHA-256 of a bundle's manifest, and so of all its files; empty where there is none."""
    try:
        return hashlib.sha256(read_bytes(folder / MANIFEST)).hexdigest()
    except OSError:
        return ""


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a bundle of this format; its ``holds`` says what is in it."""
    try:
        config = read_object(folder / _CONFIG)
        number, _ = config["format"], config["holds"]
    except (OSError, ValueError, KeyError) as error:
        raise BundleError(
            f"{folder} is no bundle: {_CONFIG}: {error}; give a bundle or a finished run"
        ) from None
    if number != FORMAT:
        written = f"format {number} (recgraph {config.get('recgraph')})"
        raise BundleError(
            f"{folder} has {written}, this version reads {FORMAT}; save the model again"
        )
    return config


def read(folder: Path, what: Holds, make: Callable[[dict[str, Any]], T]) -> T:
    """What ``make`` reads of a bundle's files, given its ``config.json``, once these are those of
    the manifest; a BundleError where that fails, or another bundle has taken the folder's place
    meanwhile."""
    before = digest(folder)
    try:
        config = read_config(folder)
        check_manifest(folder)
        if config["holds"] != what:
            raise BundleError(
                f"{folder}: {config['holds']}, not {what}; see recgraph.load or recgraph inspect RUN --node ID"
            )
        content = make(config)
    except Exception as error:
        check_same(folder, before)  # files of two bundles fail in many ways
        if isinstance(error, BundleError | ImportError | MemoryError):
            raise
        raise BundleError(
            f"{folder} cannot be read: {error}; copy or save the bundle again"
        ) from error
    check_same(folder, before)
    return content


def check_same(folder: Path, before: str) -> None:
    """Refuse what was read where the folder's digest differs: some of it may be of another
    bundle.
    """
    if digest(folder) != before:
        raise BundleError(
            f"another bundle has taken the place of {folder} while it was read; load it again"
        )


class Embedder:
    """The embeddings of the nodes of one type, by their ids, and the model that made them, built
    when it is read.

    Args:
        table: [N] rows, the column ``target`` with the nodes' ids (their indices where the graph
            has no ids) and the column ``embedding`` of arrays, in the order of the indices.
        record: anything that can be written as JSON and belongs to them.
    """

    def __init__(
        self,
        target: str,
        table: pl.DataFrame,
        model: Callable[[], Model],
        record: Mapping[str, Any] | None = None,
    ) -> None:
        self.target, self._table, self._model = target, table, model
        self.record = dict(record or {})

    @classmethod
    def of(cls, model: NodeModel, target: str, record: Mapping[str, Any] | None = None) -> Self:
        """Embed the nodes of type ``target`` of the graph that a model was built for and fitted
        to.
        """
        assert isinstance(model.space, GraphSpace), "the model is not built for a graph"
        nodes = model.space.graph.nodes[target]
        with torch.no_grad():
            vectors = model.eval().embed().float().cpu()
        ids = pl.Series(range(nodes.count), dtype=pl.Int64)
        if nodes.ids is not None:
            ids = nodes.ids.values
        embeddings = pl.Series(
            "embedding", vectors.numpy(), dtype=pl.Array(pl.Float32, vectors.shape[1])
        )
        return cls(target, pl.DataFrame([ids.alias(target), embeddings]), lambda: model, record)

    @cached_property
    def model(self) -> Model:
        """The model, in evaluation mode."""
        return self._model()

    @property
    def vectors(self) -> Tensor:
        """[N, D] float32, in the order of the graph's indices."""
        return torch.from_numpy(self._table["embedding"].to_numpy().copy())

    def embeddings(self) -> pl.DataFrame:
        """One row a node: its id in a column that is called like the node type, and
        ``embedding``.
        """
        return self._table

    def save(self, folder: str | Path) -> None:
        """Write a bundle: it appears whole or not at all; a folder with something else is
        refused.
        """

        def fill(into: Path) -> None:
            self._table.write_parquet(into / _TABLE)

        write(
            Path(folder),
            "embedder",
            self.model,
            fill,
            {"target": self.target, "record": self.record},
        )

    @classmethod
    def load(cls, folder: str | Path, device: torch.device | str = "cpu") -> Embedder:
        """Read a bundle that :meth:`save` wrote, or that of a run's folder; BundleError where it
        cannot be read, or, of :attr:`model`, where another bundle lies there by then."""
        place = bundle_of(folder)
        before = digest(place)

        def model() -> Model:
            check_same(place, before)
            return read(place, "embedder", partial(load_model, place)).to(device)

        def make(config: dict[str, Any]) -> Embedder:
            table = pl.read_parquet(place / _TABLE, memory_map=False)
            return cls(config["target"], table, model, config["record"])

        return read(place, "embedder", make)

    def __repr__(self) -> str:
        return f"Embedder({self._table.height:,} {self.target}, {self._table.schema['embedding']})"

    def _repr_html_(self) -> str:
        facts = {
            "nodes": f"{self._table.height:,} {self.target}",
            "embeddings": self._table.schema["embedding"],
        }
        return block("Embedder", facts)
