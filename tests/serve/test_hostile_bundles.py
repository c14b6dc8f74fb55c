"""Bundles that a stranger made: signed with right checksums, and wrong or harmful in what they hold."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forging
import forked
import polars as pl
import pytest
import safetensors.torch
import torch
from test_bundle import RECOMMENDERS, served

import recgraph
from recgraph.bounded import files
from recgraph.memory import MemoryLimitError
from recgraph.models.heterogeneous.base import GraphModel
from recgraph.registry import load, names
from recgraph.serve.bundle import BundleError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "bundle"
    served().save(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def _refused(folder: Path, *messages: str) -> str:
    with pytest.raises(BundleError) as refused:
        recgraph.load(folder)
    assert str(folder) in str(refused.value)
    for message in messages:
        assert message in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (("model", "config", "hidden_dim"), 8192),
        (("model", "config", "hidden_dim"), 10**6),
        (("model", "config", "hidden_dim"), 10**30),
        (("model", "config", "n_layers"), 10**9),
        (("model", "config", "max_len"), 10**9),
        (("model", "space", "n_items"), 10**12),
        (("model", "space", "n_items"), 19),
        (("model", "space", "n_users"), 3),
        (("model", "seed"), 10**40),
        (("model", "seed"), "1"),
        (("model", "revision"), "1"),
        (("model", "key"), "os.system"),
        (("model", "key"), "../x"),
        (("model", "key"), ["sasrec"]),
        (("model", "config"), []),
        (("model", "config", "loss"), "os.system"),
        (("model", "config", "loss"), {"name": ["x"]}),
        (("model", "needs"), [{"kind": "model"}]),
        (("model",), None),
        (("files",), {"x": None}),
        (("holds",), ["recommender"]),
        (("kind",), "pickle"),
        (("columns",), {"user": 1}),
        (("record",), "x"),
        (("time_unit",), "years"),
        (("time_format",), 5),
    ],
)
def test_settings_that_no_bundle_has(at: tuple[str, ...], value: Any, folder: Path) -> None:
    _refused(forging.with_config(folder, at, value))


@pytest.mark.parametrize("name", ["trap", "trap:Trap", "trap.Trap", "trap.py", "{0}/trap.py"])
@pytest.mark.usefixtures("trap")
def test_names_that_lead_to_a_module_import_none(name: str, tmp_path: Path) -> None:
    """Of the model, of its parts and of what it needs; other files: tests/test_hostile_names.py."""
    name, folder = name.format(tmp_path), tmp_path / "bundle"
    served(name="mclrec").save(folder)
    whole = (folder / "config.json").read_text()
    need = {"kind": "model", "name": name, "module": "trap", "file": "trap.py", "sha256": None}
    changes: list[tuple[str, Any]] = [("key", name), ("needs", [need]), ("needs", [{**need, "kind": name}])]
    settings = ("encoder", "objective", "loss", "augmenter", "augmentations", "weights")
    changes += [
        ("config", {setting: made}) for setting in settings for made in (name, {"name": name}, [{"name": name}])
    ]
    for entry, value in changes:
        (folder / "config.json").write_text(whole)
        _refused(forging.with_config(folder, ("model", entry), value))


_MEASURED = """
import resource, sys, recgraph
from recgraph.serve.bundle import BundleError
try:
    recgraph.load(sys.argv[1])
except BundleError:
    pass
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    recgraph.load(sys.argv[2])
except BundleError as error:
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10, error)
"""


@pytest.mark.parametrize("what", ["hidden_dim", "max_len", "seen"])
def test_what_is_refused_takes_no_memory(what: str, folder: Path, tmp_path: Path) -> None:
    """In a process of its own, which has loaded a refused bundle before: the peak grows by a few MiB."""
    small = forging.with_config(
        Path(shutil.copytree(folder, tmp_path / "small")), ("model", "config", "hidden_dim"), 16
    )
    if what == "seen":
        _seen(folder, lambda seen: seen["values"].__setitem__(0, 8 * 10**8))
    elif what == "hidden_dim":
        forging.with_config(folder, ("model", "config", "hidden_dim"), 400_000)
    else:
        filtered = served(name="bsarec")
        shutil.rmtree(folder)
        filtered.save(folder)
        forging.with_config(folder, ("model", "config", "max_len"), 20_000)
    grown, _, message = forked.code(_MEASURED, small, folder).partition(" ")
    assert str(folder) in message
    assert int(grown) < 60


@pytest.mark.parametrize("name", [name for name in names("model") if not load("model", name).reads_graph])
def test_a_model_registers_no_more_than_it_saves(name: str, tmp_path: Path) -> None:
    """What the guard rests on; every model is loaded under it."""
    if issubclass(load("model", name), GraphModel) or name not in RECOMMENDERS:
        pytest.skip("its bundles are tested with its graphs")
    served(name=name).save(tmp_path / "bundle")
    recgraph.load(tmp_path / "bundle")


def _seen(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = folder / "seen.safetensors"
    tensors = safetensors.torch.load(path.read_bytes())
    change(tensors)
    safetensors.torch.save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    forging.signed(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda seen: seen["values"].__setitem__(0, 8 * 10**8), "item 800000000 does not exist"),
        (lambda seen: seen["values"].__setitem__(0, -1), "item -1 does not exist"),
        (lambda seen: seen["offsets"].__setitem__(1, 10**9), "do not cut"),
        (lambda seen: seen["offsets"].__setitem__(0, 1), "do not cut"),
        (lambda seen: seen.update(offsets=seen["offsets"][:-1]), "rows, but users has"),
        (lambda seen: seen.update(values=seen["values"].float()), "torch.float32"),
        (lambda seen: seen.update(times=torch.zeros(3, dtype=torch.int64)), "times"),
        (lambda seen: seen.pop("values"), "lists of numbers"),
    ],
)
def test_rows_that_no_user_has(change: Callable[[dict[str, torch.Tensor]], Any], message: str, folder: Path) -> None:
    _seen(folder, change)
    _refused(folder, "seen.safetensors", message)


@pytest.mark.parametrize("name", ["users.parquet", "items.parquet"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids: pl.concat([ids[:-1], ids[:1]]), "repeated"),
        (lambda ids: pl.concat([ids[:-1], ids[:1].clear(1)]), "missing"),
        (lambda ids: ids[:-1], ""),
        (lambda ids: pl.Series("id", [[1]] * len(ids)), "List"),
        (lambda ids: pl.Series("id", [{"a": 1}] * len(ids)), "Struct"),
        (lambda ids: pl.Series("id", [float("nan"), *range(len(ids) - 1)], dtype=pl.Float64), "missing"),
        (lambda ids: pl.Series("uuid", [f"{n}" for n in range(len(ids))]), "no UUIDs"),
        (lambda ids: pl.DataFrame({"a": ids, "b": ids}), "2 columns"),
    ],
)
def test_ids_that_are_none(name: str, change: Callable[[pl.Series], Any], message: str, folder: Path) -> None:
    changed = change(pl.read_parquet(folder / name).to_series())
    (changed if isinstance(changed, pl.DataFrame) else changed.to_frame()).write_parquet(folder / name)
    _refused(forging.signed(folder), message)


def test_weights_of_another_model(folder: Path, tmp_path: Path) -> None:
    served(name="lightgcn").save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", folder)
    _refused(forging.signed(folder), "does not fit SASRec")


def test_weights_of_another_type_or_shape(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load(path.read_bytes())
    name = next(name for name, value in tensors.items() if value.dim() == 2)
    safetensors.torch.save_file({**tensors, name: tensors[name].flatten()}, path)
    _refused(forging.signed(folder), "does not fit SASRec")


class Pickled:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["model.safetensors", "seen.safetensors", "users.parquet", "config.json"])
@pytest.mark.parametrize("dump", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_pickles_in_place_of_files(name: str, dump: Callable[[Any, Path], Any], folder: Path, tmp_path: Path) -> None:
    dump({"x": Pickled(tmp_path / "run")}, folder / name)
    _refused(forging.signed(folder) if name != "config.json" else folder)
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_a_link_or_a_pipe(folder: Path, tmp_path: Path) -> None:
    import os

    outside = Path(shutil.move(folder / "items.parquet", tmp_path / "outside.parquet"))
    (folder / "items.parquet").symlink_to(outside)
    _refused(folder, "outside of the bundle")
    (folder / "items.parquet").unlink()
    os.mkfifo(folder / "items.parquet")
    _refused(folder)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a\\b", "C:x", "a/../../b"])
def test_names_that_lead_out_of_the_bundle(name: str, folder: Path) -> None:
    _refused(forging.with_config(folder, ("files", name), "0" * 64), "outside of the bundle")


@pytest.mark.parametrize("name", ["x" * 5000, "a/" * 3000 + "x"])
def test_names_that_are_too_long(name: str, folder: Path) -> None:
    assert len(_refused(forging.with_config(folder, ("files", name), "0" * 64))) < 600


def test_layers_without_weights_are_bounded(tmp_path: Path) -> None:
    """Else a query would go on for years."""
    served(name="lightgcn").save(tmp_path / "bundle")
    _refused(forging.with_config(tmp_path / "bundle", ("model", "config", "n_layers"), 10**9), "n_layers", "100")


def test_a_bundle_that_was_changed_by_hand(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace("recommender", "embedder"))
    _refused(folder, "changed after it was written")


def test_a_graph_that_is_not_listed(folder: Path) -> None:
    (folder / "graph").mkdir()
    (folder / "graph" / "graph.json").write_text('{"format": 2, "nodes": [], "edges": []}')
    _refused(folder, "graph.json", "is not one of the files")


def test_a_command_in_a_message_is_quoted(folder: Path) -> None:
    need = {"kind": "model", "name": "mine", "module": "mine", "file": "x.py; touch y", "sha256": "0" * 64}
    message = _refused(forging.with_config(folder, ("model", "needs"), [need]))
    assert "--import 'x.py; touch y'" in message


def test_loading_keeps_to_the_limit_of_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECGRAPH_MEMORY_LIMIT", "1MiB")
    recgraph.load(folder)  # what is small is no reason to refuse
    monkeypatch.setattr(files, "FLOOR", 0)
    with pytest.raises(MemoryLimitError, match="reading"):
        recgraph.load(folder)
