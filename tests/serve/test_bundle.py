"""Bundles: complete, without pickle, whole or not at all, and clear about what is wrong."""

from __future__ import annotations

import json
import os
import pickletools
import shutil
from pathlib import Path
from typing import Any

import forked
import polars as pl
import pytest
import torch

import recgraph
from recgraph import registry
from recgraph.data.imprint import load_json
from recgraph.data.interactions import Interactions
from recgraph.models.base import ClosedFormModel, Space
from recgraph.models.heterogeneous.base import GraphModel
from recgraph.serve import bundle, state_file
from recgraph.serve.bundle import BundleError
from recgraph.serve.recommender import Recommender

SMALL = {"hidden_dim": 8, "n_heads": 2, "n_layers": 1, "max_len": 5}
# of a log alone: the others have their bundles tested with their graphs
NAMES = [name for name in registry.names("model") if not registry.load("model", name).reads_graph]
RECOMMENDERS = [name for name in NAMES if not issubclass(registry.load("model", name), GraphModel)]


def served(seed: int = 1, name: str = "sasrec") -> Recommender:
    generator = torch.Generator().manual_seed(0)
    rows = [(f"u{u}", i) for u in range(12) for i in torch.randperm(20, generator=generator)[:6].tolist()]
    frame = pl.DataFrame(rows, schema={"user_id": pl.String, "movie_id": pl.Int16}, orient="row")
    data = Interactions.from_frame(
        frame,
        user="user_id",
        item="movie_id",
        item_features=pl.DataFrame({"movie_id": list(range(20)), "title": [f"film {n}" for n in range(20)]}),
    )
    cls, split = registry.load("model", name), data.split("leave-one-out")
    small = SMALL | ({"n_layers": 2} if name == "xsimgcl" else {})  # it contrasts two layers
    model = cls(**{setting: value for setting, value in small.items() if setting in cls.Config.model_fields})
    model.build(Space(n_users=data.n_users, n_items=data.n_items), seed)
    if isinstance(model, ClosedFormModel):
        model.fit(split.train)
    return Recommender.for_split(model, split, {"metrics": {"ndcg@10": 0.5}})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    served().save(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.mark.parametrize(("mask", "file", "place"), [(0o022, 0o644, 0o755), (0o027, 0o640, 0o750)])
def test_all_files_have_the_mode_that_the_mask_leaves(mask: int, file: int, place: int, tmp_path: Path) -> None:
    """A service under an account of its own can read what a training wrote."""
    before = os.umask(mask)
    try:
        served().save(tmp_path / "bundle")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "bundle").iterdir()}
    assert {"model.safetensors", "seen.safetensors", "config.json", "items.parquet"} <= set(modes)
    assert set(modes.values()) == {file}
    assert (tmp_path / "bundle").stat().st_mode & 0o777 == place


def test_files_that_are_cut_while_they_are_served(folder: Path) -> None:
    """As a copy over the old files does it: a file that is only mapped would end the process."""
    code = f"""
import pathlib
from recgraph.serve.recommender import Recommender
served = Recommender.load({str(folder)!r})
for path in pathlib.Path({str(folder)!r}).iterdir():
    path.write_bytes(b"")
print(len(served.recommend(users=["u1", "u2"], k=3, item_columns=["title"])))
"""
    assert forked.code(code) == "6\n"


def test_round_trip(folder: Path) -> None:
    one, other = served(), recgraph.load(folder)
    users = one.users.values
    first = one.recommend(users=users, item_columns=["title"])
    assert first.equals(other.recommend(users=users, item_columns=["title"]))
    assert first.schema["movie_id"] == pl.Int16
    assert other.record == {"metrics": {"ndcg@10": 0.5}}
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name])


@pytest.mark.parametrize("name", RECOMMENDERS)
def test_every_recommender_of_a_log_recommends_the_same_from_its_bundle(name: str, tmp_path: Path) -> None:
    one = served(name=name)
    one.save(tmp_path / "bundle")
    other = recgraph.load(tmp_path / "bundle")
    users = one.users.values
    assert one.recommend(users=users).equals(other.recommend(users=users))
    histories = {"someone": [3, 7, 11], "another": [5]}
    assert one.recommend(histories=histories).equals(other.recommend(histories=histories))


def test_a_model_is_written_and_read_without_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix of items by items may be half of what a machine has."""
    one, written = served(name="ease"), dict[str, torch.Tensor]()
    save = state_file.save_file

    def kept(tensors: dict[str, torch.Tensor], path: Path) -> None:
        written.update(tensors)
        save(tensors, path)

    monkeypatch.setattr(state_file, "save_file", kept)
    one.save(tmp_path / "bundle")
    assert written["weights"].data_ptr() == one.model.state_dict()["weights"].data_ptr()
    monkeypatch.setattr(bundle, "read_tensors", lambda path: pytest.fail(f"{path} is read as a whole"))
    described = bundle.read_config(tmp_path / "bundle", "recommender", (), ())
    read = bundle.load_model(tmp_path / "bundle", described, torch.device("cpu"))
    assert torch.equal(read.state_dict()["weights"], one.model.state_dict()["weights"])


def test_tied_and_partial_tensors_are_written_apart() -> None:
    whole = torch.arange(12.0).view(3, 4)
    apart = state_file.apart({"one": whole, "same": whole, "part": whole[:2], "turned": whole.T})
    assert apart["one"].data_ptr() == whole.data_ptr()
    assert len({value.untyped_storage().data_ptr() for value in apart.values()}) == 4
    for value, wanted in zip(apart.values(), (whole, whole, whole[:2], whole.T), strict=True):
        assert torch.equal(value, wanted)


def test_a_model_is_found_under_the_name_that_it_was_registered_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    library = registry.load("model", "popularity")
    registry.register("model", "my-popularity")(type("Popularity", (library,), {}))
    one = served(name="my-popularity")
    one.save(tmp_path / "bundle")
    assert type(recgraph.load(tmp_path / "bundle").model) is type(one.model)
    assert one.model.key() == "mypopularity"


def test_no_file_is_pickle(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "item_features.parquet",
        "items.parquet",
        "model.safetensors",
        "seen.safetensors",
        "users.parquet",
    ]
    for path in folder.iterdir():
        with pytest.raises(ValueError):
            list(pickletools.genops(path.read_bytes()))


def test_saving_replaces_a_bundle_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    served(seed=2).save(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    other = tmp_path / "work"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(BundleError, match="is no bundle"):
        served().save(other)
    assert (other / "thesis.txt").exists()


@pytest.mark.parametrize("name", ["notes.txt", "graph/notes.txt", "deep/er/config.json"])
def test_what_others_have_put_into_a_bundle_is_not_deleted(folder: Path, name: str) -> None:
    before = (folder / "config.json").read_bytes()
    own = folder / name
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text("mine")
    with pytest.raises(BundleError, match=rf"{name} is no part of the bundle in .* move it out of there, or choose"):
        served(seed=2).save(folder)
    assert own.read_text() == "mine"
    assert (folder / "config.json").read_bytes() == before
    own.unlink()
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_bytes(b"")
    served(seed=2).save(folder)
    assert not (folder / "__pycache__").exists()


def test_what_a_link_in_a_bundle_names_is_not_deleted(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=r"link is no part of the bundle"):
        served(seed=2).save(folder)
    assert (folder / "link").is_symlink()


@pytest.mark.parametrize("config", ["{}", '{"model": "sasrec", "seed": 3}', '["format", "files"]', "not JSON"])
def test_a_folder_with_the_config_of_something_else_is_not_replaced(config: str, tmp_path: Path) -> None:
    other = tmp_path / "run"
    other.mkdir()
    (other / "config.json").write_text(config)
    (other / "record.json").write_text("mine")
    with pytest.raises(BundleError, match="is no bundle; choose another folder"):
        served().save(other)
    assert {path.name: path.read_text() for path in other.iterdir()} == {"config.json": config, "record.json": "mine"}


def test_a_bundle_of_another_format_is_replaced(folder: Path) -> None:
    change(folder, format=bundle.FORMAT + 1)
    served(seed=2).save(folder)
    recgraph.load(folder)


def test_a_failed_save_leaves_the_old_bundle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "config.json").read_bytes()
    new = served(seed=2)
    new.record = {"not": {1, 2}}  # a set is not JSON
    with pytest.raises(TypeError):
        new.save(folder)
    assert (folder / "config.json").read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]
    recgraph.load(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "users.parquet", "items.parquet", "seen.safetensors"])
def test_missing_and_damaged_files_are_named(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleError, match=f"{name} is damaged"):
        recgraph.load(folder)
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        recgraph.load(folder)


def change(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    config = load_json(path)
    for name, value in values.items():
        if isinstance(value, dict):
            config[name].update(value)
        else:
            config[name] = value
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": bundle.FORMAT + 1}, "reads format"),
        ({"model": {"key": "nosuch"}}, "import the module that registers it"),
        ({"model": {"revision": 99}}, "revision 99 of SASRec"),
        ({"model": {"config": {"hidden_dim": 16, "n_heads": 2}}}, "does not fit SASRec"),
        ({"model": {"config": {"hidden_dims": 16}}}, "hidden_dims"),
    ],
)
def test_other_versions_are_refused(folder: Path, values: dict[str, Any], message: str) -> None:
    change(folder, **values)
    with pytest.raises(BundleError, match=message):
        recgraph.load(folder)


def test_what_is_no_bundle(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(BundleError, match="nothing is no bundle: there is no such folder; give a bundle"):
        recgraph.load(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=r"empty is no bundle: it has no config\.json; give a bundle"):
        recgraph.load(tmp_path / "empty")
    (folder / "config.json").write_text("{")
    with pytest.raises(BundleError, match="damaged"):
        recgraph.load(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(BundleError, match="no bundle"):
        recgraph.load(folder)
    shutil.rmtree(folder)


def test_a_bundle_that_is_replaced_while_it_is_read_is_no_mixture_of_two(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = bundle.read_heads

    def late(path: Path) -> Any:
        served(seed=2).save(folder)  # ids and histories are read already
        return read(path)

    monkeypatch.setattr(bundle, "read_heads", late)
    with pytest.raises(BundleError, match="another bundle has taken the place of"):
        Recommender.load(folder)
    monkeypatch.undo()
    Recommender.load(folder)
