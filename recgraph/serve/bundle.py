"""The bundle format: a folder with a model and what belongs to it, without pickle, with one manifest of checksums.

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
                           (their ``time_unit`` is in ``config.json``, as is the ``time_format`` of texts, if any)
    item_features.parquet  where there are some

and of an embedder (:class:`recgraph.serve.embedder.Embedder`) ``embeddings.parquet``.

A bundle appears whole or not at all. Reading it executes nothing in it: the registry gives the model's class by name.
``model.imported`` names the files that registered a user's own parts; they are not imported, and an error names them
where a part is missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recgraph import __version__, registry
from recgraph.data.item_features import FeatureSchema, ItemFeatures
from recgraph.files import MANIFEST, check_manifest, check_weights, read_bytes, read_object, replacing_folder
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.base import FeatureSpace, Model, Space
from recgraph.models.heterogeneous.base import GraphSpace

#: raised when a change makes older readers misread newer bundles
FORMAT = 2
Holds = Literal["recommender", "embedder"]
_CONFIG, _MODEL, _FEATURES = "config.json", "model.safetensors", "features.safetensors"
T = TypeVar("T")


class BundleError(ValueError):
    """A folder is no bundle, is damaged, or was written by another version."""


def bundle_of(folder: str | Path) -> Path:
    """The folder of the bundle: that of a run which has one, else the given one."""
    folder = Path(folder)
    return folder / "bundle" if (folder / "bundle" / _CONFIG).is_file() else folder


def write(folder: Path, what: Holds, model: Model, fill: Callable[[Path], None], more: Mapping[str, Any]) -> None:
    """Write a bundle, with the files that ``fill`` makes and ``more`` entries of ``config.json``.

    Raises:
        FileExistsError: the folder holds something that is no bundle.
        NonFinite: the model has weights that are NaN or infinite.
    """
    check_weights(model.state_dict(), f"{type(model).__name__}")
    with replacing_folder(folder) as into:
        save_file(apart(model.state_dict()), into / _MODEL)
        described = _describe(model, into)
        fill(into)
        config = {"format": FORMAT, "recgraph": __version__, "holds": what, "model": described, **more}
        (into / _CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")


def apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the host that share no memory, as those of tied weights do, which safetensors refuses.

    A tensor that shares none is not copied: it may take half of the machine's memory.
    """
    found: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, value in state.items():
        given = value.detach().to("cpu").contiguous()
        place = given.untyped_storage().data_ptr()
        # a part of a larger tensor, which another one may overlap, is copied too
        whole = given.untyped_storage().nbytes() == given.nbytes
        found[name] = given if whole and place not in taken else given.clone()
        taken.add(place)
    return found


def _describe(model: Model, folder: Path) -> dict[str, Any]:
    """The model in ``config.json``; its graph and features become files."""
    assert model.space is not None
    if isinstance(model.space, GraphSpace):
        model.space.graph.save(folder / "graph")
    described = {
        "key": model.key(),
        "config": model.config.model_dump(mode="json"),
        "space": model.space.model_dump(mode="json"),
        "seed": model.seed,
        "imported": registry.own_files(),
    }
    if isinstance(model.space, FeatureSpace):
        save_file(model.space.features.tensors(), folder / _FEATURES)
        described["item_features"] = model.space.features.schema.model_dump(mode="json")
    return described


def holds(folder: Path) -> Holds:
    """Whether a bundle holds a recommender or an embedder.

    Raises:
        BundleError: the folder is no bundle of this format.
    """
    found: Holds = _read_config(folder)["holds"]
    return found


def digest(folder: Path) -> str:
    """The SHA-256 of a bundle's manifest, and so of all its files.

    Raises:
        BundleError: the folder is no bundle.
    """
    try:
        return hashlib.sha256(read_bytes(folder / MANIFEST)).hexdigest()
    except OSError:
        raise BundleError(f"{folder} is no bundle: it has no {MANIFEST}; give a bundle or a finished run") from None


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / _CONFIG
    if not path.is_file():
        raise BundleError(f"{folder} is no bundle: it has no {_CONFIG}; give a bundle or a finished run")
    try:
        config = read_object(path)
    except ValueError as error:
        raise BundleError(f"{error}; copy or save the bundle again") from None
    if "holds" not in config or "format" not in config:
        raise BundleError(f"{folder} is no bundle: its {_CONFIG} says no format; give a bundle or a finished run")
    if config["format"] != FORMAT:
        written = f"format {config['format']} (recgraph {config.get('recgraph')})"
        raise BundleError(f"{folder} has {written}, this version reads {FORMAT}; save the model again")
    return config


def read(folder: Path, what: Holds, make: Callable[[dict[str, Any]], T]) -> T:
    """What a function makes of a bundle whose files are those of its manifest.

    Args:
        what: what it must hold.
        make: reads files of the bundle, given its ``config.json``; any error in it is the bundle's.

    Raises:
        BundleError: no bundle, another kind or format, a file is missing or damaged, the model is not here, or another
            bundle has taken the folder's place meanwhile.
    """
    before = digest(folder)
    try:
        config = _read_config(folder)
        check_manifest(folder)
        if config["holds"] != what:
            raise BundleError(f"{folder} holds no {what}, but a {config['holds']}; see recgraph.load(folder)")
        made = make(config)
    except (BundleError, ImportError, MemoryError):
        check_same(folder, before)  # files of two bundles fail in many ways
        raise
    except Exception as error:  # each format raises types of its own
        check_same(folder, before)
        raise BundleError(f"{folder} cannot be read: {error}; copy or save the bundle again") from error
    check_same(folder, before)
    return made


def check_same(folder: Path, before: str) -> None:
    """Refuse what was read where the folder holds another bundle than before: some of it may be of either."""
    if digest(folder) != before:
        raise BundleError(f"another bundle has taken the place of {folder} while it was read; load it again")


def load_model(folder: Path, config: Mapping[str, Any], device: torch.device) -> Model:
    """The model of a bundle, in evaluation mode; within :func:`read`.

    Args:
        config: the bundle's ``config.json``.

    Raises:
        BundleError: the model's class or a part of it is not here.
    """
    described = config["model"]
    try:
        cls: type[Model] = registry.load("model", described["key"])
        # the seed matters to what a model draws from its graph when it is built
        model = cls(cls.Config.of(described["config"])).build(_read_space(folder, described), described["seed"] or 0)
    except ValueError as error:
        if not (own := described["imported"]):
            raise
        raise BundleError(
            f"{folder}: {error}; it was written beside {', '.join(own)}: --import what it needs"
        ) from error
    model.load_state_dict(load_file(folder / _MODEL))
    return model.to(device).eval()


def _read_space(folder: Path, described: Mapping[str, Any]) -> Space:
    sizes = described["space"]
    if "item_features" in described:
        schema = FeatureSchema.of(described["item_features"])
        features = ItemFeatures.from_tensors(schema, load_file(folder / _FEATURES))
        return FeatureSpace.of(sizes, features=features)
    if (folder / "graph").is_dir():
        return GraphSpace.of(sizes, graph=HeteroGraph.load(folder / "graph"))
    return Space.of(sizes)


def device_here(device: torch.device | str) -> torch.device:
    """The device with a name.

    Raises:
        ValueError: this machine, or this build of torch, does not have it.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        why = str(error).partition("\n")[0]
        raise ValueError(f"device = {str(device)!r} is not there: {why}; take 'cpu'") from None
