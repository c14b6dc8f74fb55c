"""A run notices that features which it was made with have changed, as it notices a changed log: files and frames.

The hash of a split does not cover them. Where the model reads them, opening the run and going on with its
training are refused; elsewhere a word is said.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import recgraph as rg
from recgraph.data.split import Split
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.sequence.sasrec import SASRec
from recgraph.runs.changed_features import fingerprints_in_memory
from recgraph.runs.fit import train
from recgraph.runs.record import RunRecord
from recgraph.runs.run import Run
from recgraph.runs.source import features_of, source_of
from recgraph.tuning.report import command

SMALL = {"hidden_dim": 8, "n_heads": 1, "n_layers": 1, "inner_dim": 8, "max_len": 8}
TRAINING: dict[str, Any] = {"seed": 0, "device": "cpu", "batch_size": 16, "patience": None}
N_ITEMS = 9


def write_features(path: Path, step: int = 1) -> Path:
    rows = [{"item": item, "kind": f"k{item // step % 2}"} for item in range(N_ITEMS)]
    pl.DataFrame(rows).write_csv(path)
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    rows = [(user, (user + step * step) % N_ITEMS, step) for user in range(12) for step in range(6)]
    path = tmp_path / "log.csv"
    pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row").write_csv(path)
    write_features(tmp_path / "items.csv")
    return path


def split_of(log: Path) -> Split:
    return rg.load_data(log, item_features=log.with_name("items.csv")).split("leave-one-out")


def reader(**settings: Any) -> SASRec:
    return SASRec(**SMALL, item_features=("kind",), **settings)


def opened(folder: Path, data: Any = None) -> Run:
    run = Run.open(folder, data)
    assert isinstance(run, Run)
    return run


def without_features(folder: Path) -> None:
    """Make the files of a run those of a version that recorded no features."""
    for name in ("config.json", "record.json"):
        values = json.loads((folder / name).read_text())
        values.pop("imprint", None)
        del values["data"]["features"]
        (folder / name).write_text(json.dumps(values))


def assert_names_all(text: str, file: Path) -> None:
    """The file, both hashes, and what can be done."""
    assert f"{file} is not the file of item features that the run" in text
    assert "sha256 is" in text
    assert "and was" in text
    assert "again on the new file" in text or "another folder" in text


def test_the_record_has_the_fingerprints(log: Path, tmp_path: Path) -> None:
    run = rg.fit("popularity", split_of(log), seed=0, out=tmp_path / "run")
    kept = RunRecord.read(tmp_path / "run").data
    assert kept.features is not None
    assert kept.features.keys() == {"item_features"}
    assert kept.features["item_features"]["path"] == str(tmp_path / "items.csv")
    assert len(kept.features["item_features"]["sha256"]) == 64
    assert run.record.data.features == kept.features
    bare = rg.fit("popularity", rg.load_data(log).split(), seed=0, out=tmp_path / "bare")
    assert "features" not in bare.record.data.to_json()
    assert "features" not in json.loads((tmp_path / "bare" / "config.json").read_text())["data"]


def test_a_run_of_a_model_that_reads_the_file_is_not_opened(log: Path, tmp_path: Path) -> None:
    folder, items = tmp_path / "run", tmp_path / "items.csv"
    rg.fit(reader(), split_of(log), out=folder, max_epochs=1, **TRAINING)
    before = opened(folder).evaluate("valid").to_dict()
    items.rename(tmp_path / "kept.csv")
    write_features(items, 2)
    for data in (None, log, split_of(log)):
        with pytest.raises(ValueError, match="SASRec reads it") as told:
            Run.open(folder, data)
        assert_names_all(str(told.value), items)
        assert "--item-features FILE" in str(told.value)
    # the way out
    assert opened(folder, {"item_features": tmp_path / "kept.csv"}).evaluate("valid").to_dict() == before
    assert opened(folder, {"train": log, "item_features": tmp_path / "kept.csv"}).split is not None
    with pytest.raises(ValueError, match=r"user_features = .*without such a file"):
        Run.open(folder, {"user_features": tmp_path / "kept.csv"})
    # a copy of the same content will do, and features that are not from a file are not known
    write_features(items)
    items.touch()
    assert opened(folder).evaluate("valid").to_dict() == before
    frame = pl.read_csv(write_features(items, 2))
    assert opened(folder, rg.load_data(log, item_features=frame).split("leave-one-out")).split is not None
    items.write_text("item,kind\n1\n,,,,\n")
    with pytest.raises(ValueError, match=r"is not the file of item features .* cannot be read now"):
        Run.open(folder)


def test_a_training_does_not_go_on_with_other_features(log: Path, tmp_path: Path) -> None:
    folder, items = tmp_path / "run", tmp_path / "items.csv"
    rg.fit(reader(), split_of(log), out=folder, max_epochs=1, **TRAINING)
    write_features(items, 2)
    with pytest.raises(ValueError, match="SASRec reads it") as told:
        rg.fit(reader(), split_of(log), out=folder, max_epochs=2, resume=True, **TRAINING)
    assert_names_all(str(told.value), items)
    assert str(folder) in str(told.value)
    write_features(items)
    longer = rg.fit(reader(), split_of(log), out=folder, max_epochs=2, resume=True, **TRAINING)
    assert len(longer.history) == 2


def test_a_model_that_reads_no_features_goes_on_and_says_so(
    log: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, items = tmp_path / "run", tmp_path / "items.csv"
    picks = {"name": "mmr", "columns": ["kind"]}
    rg.fit(SASRec(**SMALL), split_of(log), out=folder, max_epochs=1, **TRAINING)
    before = opened(folder).evaluate("valid").to_dict()
    assert not [record for record in caplog.records if "item features" in record.message]
    write_features(items, 2)
    with caplog.at_level(logging.WARNING):
        run = opened(folder)
    (said,) = [record.message for record in caplog.records if "item features" in record.message]
    assert str(items) in said
    assert "SASRec does not read it" in said
    assert run.evaluate("valid").to_dict() == before
    with pytest.raises(ValueError, match=r"columns = \['kind'\] .*items\.csv is not the file of item features"):
        run.evaluate("valid", rerank=picks)
    longer = rg.fit(SASRec(**SMALL), split_of(log), out=folder, max_epochs=2, resume=True, **TRAINING)
    assert len(longer.history) == 2
    assert opened(folder).evaluate("valid", rerank=picks)  # the record has the new file


def test_records_of_earlier_versions_are_accepted(log: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    rg.fit(reader(), split_of(log), out=folder, max_epochs=1, **TRAINING)
    without_features(folder)
    write_features(tmp_path / "items.csv", 2)
    assert opened(folder).split is not None
    assert opened(folder, {"item_features": write_features(tmp_path / "moved.csv")}).split is not None
    longer = rg.fit(reader(), split_of(log), out=folder, max_epochs=2, resume=True, **TRAINING)
    assert len(longer.history) == 2


def test_an_update_reads_no_file_of_features(log: Path, tmp_path: Path) -> None:
    """It goes on from the features in the bundle; those of a new log follow them."""
    folder = tmp_path / "run"
    rg.fit(reader(), split_of(log), out=folder, max_epochs=1, **TRAINING)
    run = opened(folder)
    write_features(tmp_path / "items.csv", 2)
    new = pl.DataFrame({"user": [0, 1, 2, 3], "item": [1, 2, 3, 4], "timestamp": [100, 101, 102, 103]})
    made = run.update(new, epochs=1, force=True, progress=False)
    features = made.recommender.item_features
    assert features is not None
    assert features["kind"].n_unique() == 2


def test_a_card_of_files_of_ones_own(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))
    card, items = tmp_path / "shop.toml", tmp_path / "items.csv"
    card.write_text('name = "shop"\n[data]\nfile = "log.csv"\nitem_features = "items.csv"\n')
    settings = {**SMALL, "item_features": ["kind"], "max_epochs": 1, "batch_size": 16}
    train("sasrec", str(card), tmp_path / "run", settings=settings, seed=0, device="cpu", progress=False)
    assert opened(tmp_path / "run").split is not None
    write_features(items, 2)
    with pytest.raises(ValueError, match="give it its content back") as told:
        Run.open(tmp_path / "run")
    assert_names_all(str(told.value), items)
    more = {**settings, "max_epochs": 2}
    with pytest.raises(ValueError, match=r"items\.csv is not the file of item features that the run in"):
        train("sasrec", str(card), tmp_path / "run", settings=more, seed=0, device="cpu", progress=False, resume=True)


def test_features_beside_a_log_of_recbole(tmp_path: Path) -> None:
    folder, rows = tmp_path / "shop", [(user, (user + step) % N_ITEMS, step) for user in range(9) for step in range(5)]
    folder.mkdir()
    lines = ["user_id:token\titem_id:token\ttimestamp:float", *("\t".join(map(str, row)) for row in rows)]
    (folder / "shop.inter").write_text("\n".join(lines) + "\n")

    def write(n_kinds: int) -> None:
        kinds = [f"{item}\tk{item % n_kinds}" for item in range(N_ITEMS)]
        (folder / "shop.item").write_text("\n".join(["item_id:token\tkind:token", *kinds]) + "\n")

    write(2)
    rg.fit(reader(), rg.load_data(folder).split(), out=tmp_path / "run", max_epochs=1, **TRAINING)
    assert opened(tmp_path / "run").split is not None
    write(3)
    with pytest.raises(ValueError, match=r"shop\.item is not the file of item features"):
        Run.open(tmp_path / "run")


def test_a_study_does_not_go_on_with_other_features(log: Path, tmp_path: Path) -> None:
    """Its trials have the features that it saved with its split, and its last trainings would have others."""
    from recgraph.runs.settings import DataConfig

    def tuned(n_trials: int) -> None:
        split = split_of(log)
        assert split.interactions.files is not None
        data = DataConfig.of(reading=split.interactions.files.reading)
        space, more = {"normalise": [True, False]}, {"out": tmp_path / "study", "source": data.source_of(str(log))}
        rg.tune("itemknn", split, space, n_trials, test_seeds=0, sampler="random", progress=False, **more)  # type: ignore[arg-type]

    tuned(1)
    write_features(tmp_path / "items.csv", 2)
    with pytest.raises(ValueError, match=r"items\.csv is not the file of item features that study .*--study"):
        tuned(2)
    write_features(tmp_path / "items.csv")
    tuned(2)


def in_memory(log: Path, step: int = 1) -> Split:
    rows = [{"item": item, "kind": f"k{item // step % 2}"} for item in range(N_ITEMS)]
    return rg.load_data(log, item_features=pl.DataFrame(rows)).split("leave-one-out")


def test_frames_have_fingerprints_of_their_values(log: Path, tmp_path: Path) -> None:
    rg.fit("popularity", in_memory(log), seed=0, out=tmp_path / "run")
    kept = RunRecord.read(tmp_path / "run").data
    assert kept.dataset is None
    assert kept.features is not None
    (own,) = kept.features.values()
    assert (own["path"], own["rows"]) == (None, N_ITEMS)
    given = in_memory(log).interactions.item_features
    assert given is not None

    def hashed(frame: pl.DataFrame) -> Any:
        data = rg.load_data(log, item_features=frame)
        return fingerprints_in_memory(data)["item_features"]["sha256"]

    assert hashed(given) == own["sha256"]
    assert hashed(given.reverse()) == own["sha256"]  # the order of the rows may be chance
    assert hashed(given.with_columns(pl.col("item").cast(pl.Int32))) == own["sha256"]
    others = (
        given.rename({"kind": "sort"}),
        given.head(8),
        given.with_columns(pl.when(pl.col("item") == 3).then(None).otherwise("kind").alias("kind")),
        given.with_columns(pl.lit(b"\xff").alias("bytes")),
    )
    assert len({own["sha256"], *map(hashed, others)}) == 1 + len(others)
    assert source_of(rg.load_data(log.with_name("log.csv")).split().sealed()) == {}


def test_frames_that_have_changed_are_noticed(log: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    rg.fit(reader(), in_memory(log), out=folder, max_epochs=1, **TRAINING)
    assert opened(folder).split is None
    assert opened(folder, in_memory(log)).split is not None
    # the same features may come from a file, whose hash is of its bytes
    assert opened(folder, split_of(log)).split is not None
    with pytest.raises(ValueError, match=r"^item_features is not the frame that the run .*again on the new frame"):
        Run.open(folder, in_memory(log, 2))
    with pytest.raises(ValueError, match=r"item_features is not the frame that the run in .*another folder"):
        rg.fit(reader(), in_memory(log, 2), out=folder, max_epochs=2, resume=True, **TRAINING)
    longer = rg.fit(reader(), in_memory(log), out=folder, max_epochs=2, resume=True, **TRAINING)
    assert len(longer.history) == 2


def with_friends(log: Path, step: int = 1) -> Split:
    users = list(range(12))
    friends = pl.DataFrame({"user": users, "friend": [(user + step) % 12 for user in users]})
    graph = HeteroGraph.from_frames({("user", "knows", "user"): friends})
    return rg.load_data(log).with_features(graph=graph).split("leave-one-out")


def test_graphs_have_fingerprints_and_are_noticed_when_they_have_changed(
    log: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {"user_metapaths": ["user>knows>user"], "item_metapaths": ["item-user-item"]}
    folder, training = tmp_path / "run", {**TRAINING, "max_epochs": 1}
    rg.fit(rg.models.MEOWRec(hidden_dim=8, n_clusters=(2,), **settings), with_friends(log), out=folder, **training)
    graph = with_friends(log).interactions.graph
    assert graph is not None
    assert RunRecord.read(folder).data.features == {"graph": {"path": None, "sha256": graph.hash}}
    assert opened(folder, with_friends(log)).split is not None
    with pytest.raises(ValueError, match=r"^graph is not the graph that the run .* MEOWRec reads it, .* the new graph"):
        Run.open(folder, with_friends(log, 2))
    model = rg.models.MEOWRec(hidden_dim=8, n_clusters=(2,), **settings)
    with pytest.raises(ValueError, match=r"graph is not the graph that the run in .*another folder"):
        rg.fit(model, with_friends(log, 2), out=folder, resume=True, **{**training, "max_epochs": 2})
    # a model that does not read it
    rg.fit("popularity", with_friends(log), seed=0, out=tmp_path / "popularity")
    with caplog.at_level(logging.WARNING, "recgraph"):
        opened(tmp_path / "popularity", with_friends(log, 2))
    assert "Popularity does not read it" in caplog.text


def test_a_source_that_is_given_by_hand_gets_the_fingerprints(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))
    card = tmp_path / "mine.toml"
    card.write_text('name = "mine"\n[data]\nfile = "log.csv"\nitem_features = "items.csv"\n')
    source = {"dataset": str(card), "settings": {"split": "leave-one-out"}}
    for name, split in (("frames", in_memory(log)), ("files", split_of(log))):
        rg.fit(reader(), split, out=tmp_path / name, max_epochs=1, source=source, **TRAINING)
        kept = RunRecord.read(tmp_path / name).data
        assert (kept.dataset, kept.features) == (str(card), features_of(split))
        assert opened(tmp_path / name).split is not None
    named = {**source, "features": {}}
    assert source_of(in_memory(log), named) == named
    write_features(tmp_path / "items.csv", 2)
    for name, told in (("frames", "item_features is not the frame"), ("files", r"items\.csv is not the file")):
        with pytest.raises(ValueError, match=told):
            Run.open(tmp_path / name)


def test_a_study_without_a_source_does_not_go_on_with_other_features(log: Path, tmp_path: Path) -> None:
    def tuned(split: Split, n_trials: int, name: str) -> Any:
        space = {"normalise": [True, False]}
        more: dict[str, Any] = {"out": tmp_path / name, "test_seeds": 1, "sampler": "random", "progress": False}
        return rg.tune("itemknn", split, space, n_trials, **more)

    found = tuned(in_memory(log), 1, "frames")
    kept = [RunRecord.read(path.parent).data.features for path in (tmp_path / "frames").rglob("record.json")]
    assert kept
    assert kept == [fingerprints_in_memory(in_memory(log).interactions)] * len(kept)
    assert "--dataset DATASET" in command(found, found.best_trial)
    with pytest.raises(ValueError, match=r"item_features is not the frame that study .*--study"):
        tuned(in_memory(log, 2), 2, "frames")
    tuned(in_memory(log), 2, "frames")
    # what was read from files says which: its runs are opened without the data
    found = tuned(split_of(log), 1, "files")
    (path,) = (tmp_path / "files").rglob("final/trial-0000/seed-0/record.json")
    assert opened(path.parent).split is not None
    assert f"--dataset {log}" in command(found, found.best_trial)
    write_features(tmp_path / "items.csv", 2)
    with pytest.raises(ValueError, match=r"items\.csv is not the file of item features that study .*--study"):
        tuned(split_of(log), 2, "files")
