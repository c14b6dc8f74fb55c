"""Saving into a folder: what was saved there before goes, what others have put there stays, and a mix is not read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

import recgraph as rg
from recgraph.data.errors import CorruptFileError
from recgraph.data.imprint import load_json, replace_json
from recgraph.data.interactions import Interactions
from recgraph.data.saved import listed
from recgraph.data.split import SealedSplit, Split
from recgraph.graph.hetero import HeteroGraph

TAGGED = ("item", "has", "tag")


def log(last: int = 6, features: bool = False, tags: int = 0) -> Interactions:
    rows = [(user, (user * step) % 7, step) for user in range(5) for step in range(last)]
    frame = pl.DataFrame(rows, schema=["u", "i", "t"], orient="row")
    data = Interactions.from_frame(frame, user="u", item="i", timestamp="t")
    if features:
        data = data.with_features(item_features=pl.DataFrame({"i": [0, 1], "what": ["a", "b"]}))
    if tags:
        edges = {TAGGED: ([0], [0])} | {("item", f"has{n}", "tag"): ([0], [0]) for n in range(1, tags)}
        data = data.with_features(graph=HeteroGraph.from_edge_lists({"item": 3, "tag": 1}, edges))
    return data


def there(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_split_saved_over_a_log_leaves_no_rows_of_it(tmp_path: Path) -> None:
    log(features=True, tags=2).save(tmp_path)
    split = log(4).split()
    split.save(tmp_path)
    assert there(tmp_path) == {
        *("split.json", "open.parquet", "test/test.parquet"),
        *("interactions.json", "users.parquet", "items.parquet"),
    }
    assert Split.load(tmp_path, "a test").hash == split.hash
    with pytest.raises(FileNotFoundError, match=r"holds a saved split, no log; read it with SealedSplit\.load"):
        Interactions.load(tmp_path)
    with pytest.raises(FileExistsError, match="holds a saved split, which needs its own ids; choose another folder"):
        log().save(tmp_path)
    assert Split.load(tmp_path, "a test").hash == split.hash


def test_rows_of_a_log_that_its_description_does_not_list_are_not_read(tmp_path: Path) -> None:
    log().save(tmp_path)
    rows = (tmp_path / "log.parquet").read_bytes()
    log(4).split().save(tmp_path)
    (tmp_path / "log.parquet").write_bytes(rows)  # as an earlier version left it
    with pytest.raises(FileNotFoundError, match="holds a saved split, no log"):
        Interactions.load(tmp_path)
    SealedSplit.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("log.parquet", lambda folder: log().save(folder)),
        ("item_features.parquet", lambda folder: log(features=True).save(folder)),
        ("interactions.json", lambda folder: log().save(folder)),
        ("graph/graph.json", lambda folder: log(tags=1).save(folder)),
        ("graph", lambda folder: log(tags=1).save(folder)),
        ("open.parquet", lambda folder: log().split().save(folder)),
        ("test/test.parquet", lambda folder: log().split().save(folder)),
        ("test", lambda folder: log().split().save(folder)),
        ("split.json", lambda folder: log().split().sealed().save(folder)),
        ("graph.json", lambda folder: log(tags=1).graph.save(folder)),  # type: ignore[union-attr]
    ],
)
def test_files_of_others_are_not_written_over(name: str, save: Callable[[Path], None], tmp_path: Path) -> None:
    own = tmp_path / name
    own.parent.mkdir(exist_ok=True)
    own.write_text(json.dumps({"nodes": [], "files": {"notes.txt": "mine"}}))
    (tmp_path / "notes.txt").write_text("mine")
    before = {each: (tmp_path / each).read_bytes() for each in there(tmp_path)}
    with pytest.raises(FileExistsError, match=rf"{name} exists, is not of what was saved .*choose another folder"):
        save(tmp_path)
    assert {each: (tmp_path / each).read_bytes() for each in there(tmp_path)} == before


def test_files_of_others_beside_what_is_saved_stay(tmp_path: Path) -> None:
    kept = {"item_features.parquet", "open/rows.parquet", "graph/edges_7.parquet", "notes.txt"}
    for name in kept:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    log().split().save(tmp_path)
    log(4).split().sealed().save(tmp_path)
    assert there(tmp_path) >= kept
    graph = log(tags=1).graph
    assert graph is not None
    graph.save(tmp_path / "other" / "graph")
    log().save(tmp_path / "other")
    assert HeteroGraph.load(tmp_path / "other" / "graph").hash == graph.hash
    with pytest.raises(FileExistsError, match=r"graph/edges_0\.parquet exists"):
        log(tags=2).save(tmp_path / "other")
    assert Interactions.load(tmp_path / "other").graph is None


def test_a_log_shop_folder_of_ones_own_is_not_saved_into(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": [1, 2], "item_id": [3, 4]})
    frame.write_parquet(tmp_path / "log.parquet")
    with pytest.raises(FileExistsError, match=r"log\.parquet exists"):
        rg.load_data(tmp_path / "log.parquet").save(tmp_path)
    assert pl.read_parquet(tmp_path / "log.parquet").equals(frame)
    assert there(tmp_path) == {"log.parquet"}


def test_what_was_saved_before_goes(tmp_path: Path) -> None:
    log(features=True, tags=3).save(tmp_path)
    log(tags=1).save(tmp_path)
    assert "graph/edges_2.parquet" not in there(tmp_path)
    assert listed(tmp_path, "interactions.json") == there(tmp_path)
    log().save(tmp_path)
    assert there(tmp_path) == {"interactions.json", "log.parquet", "users.parquet", "items.parquet"}
    assert not (tmp_path / "graph").exists()


def test_a_description_does_not_reach_out_of_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    log().save(folder)
    (tmp_path / "notes.txt").write_text("mine")
    told = load_json(folder / "interactions.json")
    for name in ("../notes.txt", str(tmp_path / "notes.txt")):
        replace_json({**told, "files": {**told["files"], name: "0" * 8}}, folder / "interactions.json")
        assert listed(folder, "interactions.json") == set()
        with pytest.raises(FileExistsError, match=r"interactions\.json exists"):
            log(4).save(folder)
    replace_json({**told, "files": {**told["files"], "interactions.json": "0" * 8}}, folder / "interactions.json")
    assert listed(folder, "interactions.json") == {"interactions.json", *told["files"]}
    assert (tmp_path / "notes.txt").exists()


def test_places_that_hold_no_saved_log_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere holds no saved log: there is no such folder"):
        Interactions.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no saved log: it has no interactions\.json"):
        Interactions.load(tmp_path)
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "inner"):
        for value in (log(), log().split()):
            with pytest.raises(FileExistsError, match="file is a file, where a folder is to be; give another place"):
                value.save(place)


def test_a_damaged_folder_is_written_again(tmp_path: Path) -> None:
    log().save(tmp_path)
    (tmp_path / "users.parquet").write_bytes(b"damaged")
    (tmp_path / "items.parquet").unlink()
    with pytest.raises(CorruptFileError):
        Interactions.load(tmp_path)
    log().save(tmp_path)
    assert len(Interactions.load(tmp_path)) == len(log())
