"""The bundle format: a directory with a model and what belongs to it, without pickle, with a checksum of each file.

    config.json            format, library version, ``holds``, the model (name, revision, settings, sizes, seed), a
                           record, and the SHA-256 of all files
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
What it declares is checked before anything is built by it (:mod:`recgraph.bounded`, :mod:`recgraph.serve.checks`), and
only files that ``config.json`` lists are read.
Where the model or a part of it is a user's own, ``model.needs`` names the module and the file that register it, with
the file's SHA-256; they are not imported, and an error names them where they are missing.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors.torch import save_file

from recgraph import __version__, registry
from recgraph.bounded.files import sha256_of, within
from recgraph.bounded.tensors import Tensors, read_heads, read_tensors
from recgraph.data.errors import CorruptFileError
from recgraph.data.files import recover, replacing_folder, why_kept, why_without
from recgraph.data.imprint import json_text, load_json
from recgraph.data.item_features import FeatureSchema, ItemFeatures
from recgraph.finite import check_weights
from recgraph.graph.hetero import HeteroGraph
from recgraph.imports import source_of
from recgraph.memory import lacks_memory
from recgraph.models.base import FeatureSpace, Model, Space
from recgraph.models.heterogeneous.base import GraphSpace
from recgraph.serve.checks import check_entries
from recgraph.serve.memory import check_large
from recgraph.serve.state_file import read_into, write_state
from recgraph.serve.weights import no_more_than

__all__ = [
    "FORMAT",
    "BundleError",
    "digest_and_size",
    "guard",
    "holds",
    "is_bundle",
    "load_model",
    "read_config",
    "write",
]

#: raised when a change makes older readers misread newer bundles
FORMAT = 1
Holds = Literal["recommender", "embedder"]
_MODEL = "model.safetensors"
_FEATURES = "features.safetensors"
#: what to do about a folder without a bundle
_INSTEAD = "give a bundle or a finished run; a run that was stopped goes on with the command that made it"
T = TypeVar("T")


class BundleError(ValueError):
    """A folder is no bundle, is damaged, or was written by another version."""


def write(folder: Path, what: Holds, model: Model, fill: Callable[[Path], None], more: Mapping[str, Any]) -> None:
    """Write a bundle under a temporary name, then rename it; a bundle that was there is replaced.

    Args:
        folder: of the bundle.
        what: ``"recommender"`` or ``"embedder"``.
        model: built.
        fill: writes further files into a folder.
        more: further entries of ``config.json``.

    Raises:
        BundleError: the folder holds something that is no bundle, or no file of the bundle in it.
        NonFiniteWeights: the model has weights that are NaN or infinite.
    """
    if reason := why_kept(folder, "bundle", "config.json", _parse_config):
        raise BundleError(reason)
    check_weights(
        model.state_dict(), f"{type(model).__name__}, which {folder} should keep,", "train or check the model"
    )
    with replacing_folder(folder) as temporary:
        described = _write_model(model, temporary)
        fill(temporary)
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        config = {
            "format": FORMAT,
            "recgraph": __version__,
            "holds": what,
            "model": described,
            **more,
            "files": {path.relative_to(temporary).as_posix(): sha256_of(path) for path in files},
        }
        (temporary / "config.json").write_text(json_text(config), encoding="utf-8")


def is_bundle(folder: Path) -> bool:
    """Whether a folder is a bundle, of whatever format; a run, for one, has a config.json too."""
    try:
        _parse_config(folder)
    except BundleError:
        return False
    return True


def _write_model(model: Model, folder: Path) -> dict[str, Any]:
    assert model.space is not None
    write_state(model, folder / _MODEL)
    if isinstance(model.space, GraphSpace):
        model.space.graph.save(folder / "graph")
    config = model.config.model_dump(mode="json")
    needs = [*_needs(model, config)]
    learnt = {}
    if isinstance(model.space, FeatureSpace):
        features = model.space.features
        save_file(features.tensors(), folder / _FEATURES)
        learnt = {"item_features": features.schema.model_dump(mode="json")}
    return {
        "key": model.key(),
        "revision": model.revision,
        "config": config,
        "space": model.space.model_dump(mode="json"),
        "seed": model.seed,
        **({"needs": needs} if needs else {}),
        **learnt,
    }


def _needs(model: Model, config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The user's own classes that the model is made of, each with what registers it."""
    named, models = ({registry.key(text) for text in of} for of in (_texts(config), model.models_of(config)))
    if type(model).__module__.partition(".")[0] != "recgraph":
        yield {"kind": "model", "name": model.key(), **source_of(type(model)).to_dict()}
    for kind, name, cls in registry.registered():
        if kind != "metric" and name in (models if kind == "model" else named):
            yield {"kind": kind, "name": name, **source_of(cls).to_dict()}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


def holds(folder: Path) -> Holds:
    """Whether a bundle holds a recommender or an embedder.

    Raises:
        BundleError: the folder is no bundle of this format.
    """
    found: Holds = _read_head(folder).get("holds", "recommender")
    return found


def digest_and_size(folder: Path) -> tuple[str, int]:
    """The SHA-256 of a bundle's settings and of the checksums of its files, and the bytes of these, which are not read.

    Raises:
        BundleError: the folder is no bundle of this format, or a file is missing.
    """
    config = _read_head(folder)
    said = json.dumps({"model": config.get("model"), "files": config["files"]}, sort_keys=True)
    n_bytes = sum(_listed(folder, name).stat().st_size for name in config["files"])
    return hashlib.sha256(said.encode()).hexdigest(), n_bytes


def read_config(folder: Path, what: Holds, files: Sequence[str], entries: Sequence[str]) -> dict[str, Any]:
    """Check the files of a bundle -> its ``config.json``.

    Args:
        what: what it must hold.
        files: those that it must have beside the model.
        entries: those that ``config.json`` must have.

    Raises:
        BundleError: no bundle, another kind or format, a file is missing or damaged.
    """
    config = _read_head(folder)
    try:
        check_entries(config)
    except ValueError as error:
        raise BundleError(f"{folder / 'config.json'} is damaged: {error}") from None
    there = config.get("holds", "recommender")
    if there != what:
        kinds = {"embedder": "embeddings of nodes", "recommender": "a recommender"}
        raise BundleError(f"{folder} holds no {what}: it holds {kinds.get(there, there)}; see recgraph.load(folder)")
    missing = [name for name in ("model", *entries) if config.get(name) is None]
    missing += [name for name in (_MODEL, *files) if name not in config["files"]]
    if missing:
        raise BundleError(f"{folder / 'config.json'} is damaged: it does not mention {', '.join(missing)}")
    paths = {name: _listed(folder, name) for name in config["files"]}
    _check_room(folder, paths)
    for name, path in paths.items():
        if sha256_of(path) != config["files"][name]:
            raise BundleError(f"{path} is damaged: its checksum differs; copy or save the bundle again")
    unlisted = [path for path in _graph_files(folder) if path.relative_to(folder).as_posix() not in config["files"]]
    if unlisted:
        raise BundleError(f"{unlisted[0]} is not one of the files that {folder / 'config.json'} lists; remove it")
    return config


def _check_room(folder: Path, paths: Mapping[str, Path]) -> None:
    """Refuse a bundle that does not fit into memory: weights as they are, what is packed or widened several times."""
    sizes = {name: path.stat().st_size for name, path in paths.items()}
    n_bytes = sum(size if name == _MODEL else 4 * size for name, size in sizes.items())
    check_large(n_bytes, f"the bundle {folder}", "load it where there is more memory, or fit a smaller model")


def _graph_files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "graph").rglob("*") if not path.is_dir())


def _read_head(folder: Path) -> dict[str, Any]:
    config = _parse_config(folder)
    if config["format"] != FORMAT:
        raise BundleError(
            f"{folder} has bundle format {config['format']} (recgraph {config.get('recgraph')}), this is recgraph "
            f"{__version__} and reads format {FORMAT}; use the version that wrote it, or save the model again"
        )
    return config


def _parse_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    recover(folder)
    if not path.is_file():
        raise BundleError(f"{folder} is no bundle: {why_without(folder, 'config.json')}; {_INSTEAD}")
    try:
        config = load_json(path)
    except (OSError, CorruptFileError) as error:
        raise BundleError(f"the bundle is damaged: {error}; copy or save the bundle again") from None
    if "format" not in config or not isinstance(config.get("files"), dict):
        raise BundleError(f"{folder} is no bundle: its config.json has no 'format' and 'files'; {_INSTEAD}")
    return config


def _listed(folder: Path, name: str) -> Path:
    """A file that ``config.json`` lists."""
    try:
        path = within(folder, name)
    except CorruptFileError as error:
        what = f"{name[:300]!r} lies outside of the bundle, or no file can have this name"
        raise BundleError(f"{folder / 'config.json'} is damaged: file {what}") from error
    if not path.is_file():
        raise BundleError(f"{folder} is incomplete: {name[:300]} is missing; copy or save the bundle again")
    return path


def load_model(folder: Path, head: Mapping[str, Any], device: torch.device) -> Model:
    """The model of a bundle, in evaluation mode. It is read after everything else.

    Args:
        head: the bundle's ``config.json``, as it was when the first of its files was read.

    Raises:
        BundleError: the model's class or a part of it is not here, is another revision, or the weights do not fit it;
            or another bundle has taken the folder's place meanwhile.
    """
    try:
        model = _read_model(folder, head["model"], device)
    except BundleError:
        _check_same(folder, head)  # files of two bundles fail in many ways
        raise
    _check_same(folder, head)
    return model


def _check_same(folder: Path, head: Mapping[str, Any]) -> None:
    """Refuse what was read where the folder holds another bundle than before: some of it may be of either."""
    # as texts: a record may hold NaN, which equals nothing
    before, now = (json.dumps(each, sort_keys=True) for each in (head, _parse_config(folder)))
    if before != now:
        raise BundleError(f"another bundle has taken the place of {folder} while it was read; load it again")


def _read_model(folder: Path, config: Mapping[str, Any], device: torch.device) -> Model:
    _check_needs(folder, config.get("needs", ()))
    try:
        cls: type[Model] = registry.load("model", config["key"])
        revision = cls.revision_of(config["config"])
    except ValueError as error:
        raise BundleError(
            f"{folder} holds a model that is not here; import the module that registers it: {error}"
        ) from None
    if revision != config["revision"]:
        raise BundleError(
            f"{folder} holds revision {config['revision']} of {cls.__name__}, here it is revision {revision} and "
            "would give other numbers; train again, or use the version of recgraph that wrote the bundle"
        )
    heads = guard(folder / _MODEL, read_heads)
    try:
        space = _load_space(folder, config)
        model = _build(cls, config, space, heads, folder / _MODEL)
    except (BundleError, ImportError):
        raise
    except Exception as error:  # sizes that are out of all range have errors of many types
        if lacks_memory(error):
            raise
        raise BundleError(f"{folder / 'config.json'} does not fit {cls.__name__}: {error}") from error
    if not guard(folder / _MODEL, partial(read_into, model, heads)):
        try:
            model.load_state_dict(guard(folder / _MODEL, read_tensors))
        except RuntimeError as error:
            raise BundleError(f"{folder / _MODEL} does not fit {cls.__name__}: {error}") from None
    return model.to(device).eval()


def _build(cls: type[Model], config: Mapping[str, Any], space: Space, heads: Tensors, path: Path) -> Model:
    """Build a model by the settings of a bundle, which may ask for no more than the weights beside them have."""
    settings = cls.Config.of(config["config"])
    # the seed matters to what a model draws from its graph when it is built
    seed = config.get("seed") or 0
    with no_more_than(heads, path):
        if not isinstance(space, GraphSpace):
            # without values at first: what is computed of sizes alone takes no memory then
            with suppress(NotImplementedError), torch.device("meta"):
                cls(settings).build(space, seed)
    with no_more_than(heads, path):
        return cls(settings).build(space, seed)


def _check_needs(folder: Path, needs: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a model whose own classes are not known here, and warn where their file is another one."""
    for need in needs:
        what, file = f"{need['kind']} {need['name']!r}", need["file"]
        if need["kind"] not in registry.kinds():
            raise BundleError(f"{folder / 'config.json'}: needs: kind {need['kind']!r} is none of the registry's")
        if registry.key(need["name"]) not in registry.names(need["kind"]):
            source = need["module"] if file is None else f"{file} (SHA-256 {str(need['sha256'])[:12]}...)"
            give = file or need["module"]
            option = f"--import {shlex.quote(give)}"
            raise BundleError(
                f"{folder} needs the {what} of {source}, which is not imported: add {option}, or call "
                f"rg.import_file({give!r}) before; a bundle imports nothing by itself"
            )
        here = source_of(registry.load(need["kind"], need["name"]))
        if need["sha256"] not in (None, here.sha256):
            warnings.warn(
                f"{folder} was written with another {file}: the {what} here may give other numbers", stacklevel=2
            )


def _load_space(folder: Path, config: Mapping[str, Any]) -> Space:
    sizes = config["space"]
    if "item_features" in config:
        schema = FeatureSchema.of(config["item_features"])
        return FeatureSpace.of(
            sizes, features=ItemFeatures.from_tensors(schema, guard(folder / _FEATURES, read_tensors))
        )
    if not (folder / "graph").is_dir():
        return Space.of(sizes)
    return GraphSpace.of(sizes, graph=guard(folder / "graph", HeteroGraph.load))


def guard(path: Path, read: Callable[[Path], T]) -> T:
    """Read a file; any error becomes a :class:`BundleError` that names the file."""
    try:
        return read(path)
    except Exception as error:  # each format raises types of its own for damaged files
        if lacks_memory(error):
            raise
        raise BundleError(f"{path} cannot be read: {error}; copy or save the bundle again") from error
