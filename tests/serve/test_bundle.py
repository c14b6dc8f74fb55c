"""Bundles: complete, without pickle, whole or not at all, and clear about what is wrong."""

from __future__ import annotations

import hashlib
import pickletools
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from refusing import refused
from small_serving import RECOMMENDERS, of_model

import recgraph
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.heterogeneous.base import GraphSpace
from recgraph.models.heterogeneous.meow import MEOW
from recgraph.serve import bundle
from recgraph.serve.bundle import BundleError, Embedder
from recgraph.serve.recommender import Recommender
from recgraph.serve.service import Limits, Predictor
from recgraph.sparse.csr import Csr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    of_model("sasrec").save(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.mark.parametrize("name", RECOMMENDERS)
def test_every_recommender_recommends_the_same_from_its_bundle(name: str, tmp_path: Path) -> None:
    one = of_model(name)
    one.save(tmp_path / "bundle")
    other = recgraph.load(tmp_path / "bundle")
    assert isinstance(other, Recommender)
    users, histories = one.users.values, {"someone": [3, 7, 11], "another": [5]}
    options: Any = {"fallback": "popularity", "item_columns": ["title"]}
    first = one.recommend(users=users, **options)
    assert first.equals(other.recommend(users=users, **options))
    assert first.schema["what"] == pl.Int16
    assert one.recommend(histories=histories, **options).equals(
        other.recommend(histories=histories, **options)
    )
    assert other.record == {"metrics": {"ndcg@10": 0.5}}
    for key, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[key])


@pytest.mark.parametrize("name", ["sasrec", "meowrec"])
def test_a_bundle_of_links_is_read(name: str, tmp_path: Path) -> None:
    """As in the cache of a hub: files lie under their digests, and the bundle's are links to
    them.
    """
    one, linked = of_model(name), tmp_path / "snapshots" / "main"
    one.save(tmp_path / "bundle")
    for path in list((tmp_path / "bundle").rglob("*")):
        if path.is_file():
            link = linked / path.relative_to(tmp_path / "bundle")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.rename(tmp_path / hashlib.sha256(path.read_bytes()).hexdigest()))
    (linked / "README.md").write_text("a model card")
    (tmp_path / "now").symlink_to(linked)
    for place in (linked, tmp_path / "now"):
        other = recgraph.load(place)
        assert isinstance(other, Recommender)
        assert other.recommend("all").equals(one.recommend("all"))
    Predictor.load(tmp_path / "now", Limits())


def test_no_file_is_pickle(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "SHA256SUMS",
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


@pytest.mark.parametrize(
    "name", ["model.safetensors", "items.parquet", "seen.safetensors", "config.json", "SHA256SUMS"]
)
def test_flipped_bits_are_refused_by_name(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for place in range(20):
        damaged = bytearray(whole)
        damaged[place * (len(whole) - 1) // 19] ^= 1 << place % 8
        (folder / name).write_bytes(damaged)
        with pytest.raises(BundleError) as caught:
            recgraph.load(folder)
        # a digest that was flipped names the file that it is of
        assert name == "SHA256SUMS" or name in str(caught.value)
    (folder / name).unlink()
    with refused(name, by=BundleError):
        recgraph.load(folder)


def test_what_a_bundle_lacks_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with refused("nothing", by=BundleError):
        recgraph.load(tmp_path / "nothing")
    monkeypatch.setattr(bundle, "FORMAT", bundle.FORMAT + 1)
    with refused("format", by=BundleError):
        recgraph.load(folder)


def test_saving_replaces_a_bundle_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    of_model("sasrec", 2).save(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError):
        of_model("sasrec").save(folder)
    assert (folder / "thesis.txt").exists()


def test_a_failed_save_leaves_the_old_bundle(folder: Path) -> None:
    before = (folder / "config.json").read_bytes()
    new = of_model("sasrec", 2)
    new.record = {"not": {1, 2}}  # a set is not JSON
    with pytest.raises(TypeError):
        new.save(folder)
    new.record = {}
    with torch.no_grad():
        next(new.model.parameters()).fill_(torch.nan)
    with refused("NaN"):
        new.save(folder)
    assert (folder / "config.json").read_bytes() == before
    recgraph.load(folder)


def test_a_bundle_that_is_replaced_while_it_is_read_is_no_mixture_of_two(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = bundle.load_file

    def late(path: Path) -> Any:
        of_model("sasrec", 2).save(folder)
        return load(path)

    monkeypatch.setattr(bundle, "load_file", late)
    with refused("another bundle", by=BundleError):
        Recommender.load(folder)


def graph() -> HeteroGraph:
    draw = torch.Generator().manual_seed(0)
    by = torch.arange(24) % 12, torch.randint(6, (24,), generator=draw)
    words = Csr.from_dense((torch.rand(12, 5, generator=draw) > 0.4).float())
    edges = {("paper", "by", "author"): by}
    return HeteroGraph.from_edge_lists({"paper": 12, "author": 6}, edges, features={"paper": words})


def embedder(seed: int = 3) -> Embedder:
    # masks are drawn when the model is built: only the right seed gives them again
    made = MEOW(metapaths=("paper-author-paper",), hidden_dim=4, prototypes={"n_clusters": (2, 3)})
    return Embedder.of(made.build(graph(), seed=seed), "paper", {"seed": seed})


def test_embeddings_of_nodes(tmp_path: Path) -> None:
    embedder().save(tmp_path / "bundle")
    there = recgraph.load(tmp_path / "bundle")
    assert isinstance(there, Embedder)
    assert there.embeddings().schema == {"paper": pl.Int64, "embedding": pl.Array(pl.Float32, 4)}
    assert there.embeddings()["paper"].to_list() == list(range(12))
    assert (there.target, there.record) == ("paper", {"seed": 3})
    assert isinstance(there.model.space, GraphSpace)
    assert torch.equal(Embedder.of(there.model, "paper").vectors, there.vectors)  # type: ignore[arg-type]
    assert not torch.equal(embedder(seed=4).vectors, there.vectors)
    with refused("recommender", by=BundleError):
        Recommender.load(tmp_path / "bundle")
    late = Embedder.load(tmp_path / "bundle")
    embedder(seed=4).save(tmp_path / "bundle")
    with refused("another bundle", by=BundleError):
        _ = late.model
