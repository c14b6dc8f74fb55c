"""``rg.fit`` and the record: what is refused before a run has a folder, what a finished run is, and
what it tells.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from refusing import refused

import recgraph as rg
from recgraph import registry
from recgraph.data.split import Interactions, Split
from recgraph.files import LOCK, InUse, locked
from recgraph.models.sequence.sasrec import SASRec
from recgraph.train.config import TrainConfig
from recgraph.train.fit import parts_of
from recgraph.train.record import RunRecord


@pytest.fixture(scope="module")
def split() -> Split:
    rows = [(user, (user + step) % 9, step) for user in range(12) for step in range(6)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    return Interactions.from_frame(frame, user="user", item="item", timestamp="time").split(
        "leave-one-out"
    )


def fitted(split: Split, out: Path | None = None, **more: Any) -> Any:
    model = rg.models.SASRec(hidden_dim=8, encoder={"n_heads": 1, "n_layers": 1})
    return rg.fit(model, split, **{"seed": 0, "out": out, "device": "cpu", "max_epochs": 1, **more})


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        ({"metric": "ndgc@10"}, "ndgc"),
        ({"metric": "gini@10"}, "gini@10"),
        ({"fit_on": "train+valid", "metric": "ndcg@10"}, "metric"),
        ({"device": "abacus"}, "device"),
        ({"batch_size": 0}, "batch_size"),
        ({"init_items": 7}, "init_items"),
    ],
)
def test_a_mistake_leaves_no_folder(
    mistake: dict[str, Any], named: str, split: Split, tmp_path: Path
) -> None:
    with refused(named):
        fitted(split, tmp_path / "run", **mistake)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("library", ["polars", "pandas", "pyarrow"])
def test_a_frame_in_the_place_of_a_log_is_refused_on_one_line(library: str) -> None:
    frame: Any = pl.DataFrame({"user": [1, 1, 2], "item": [1, 2, 1], "time": [0, 1, 2]})
    if library != "polars":
        frame = frame.to_pandas() if library == "pandas" else frame.to_arrow()
    kind = f"{library}.{type(frame).__name__}"
    with refused("data", kind, "Interactions", "Split", "rg.load_data") as caught:
        rg.fit("sasrec", frame, seed=0)  # type: ignore[arg-type]
    assert len(str(caught.value).splitlines()) == 1
    rg.fit("popularity", rg.load_data(frame), seed=0)


def test_a_run_warns_once_of_held_out_events(split: Split, caplog: Any) -> None:
    run = rg.fit("popularity", split, seed=0)
    assert "refit=True" not in caplog.text
    run.recommend([0], k=2)
    run.recommend([1], k=2)
    assert caplog.text.count("refit=True") == 1
    caplog.clear()
    rg.fit("popularity", split, seed=0, fit_on="all").recommend([0], k=2)
    rg.fit("popularity", split.interactions, seed=0).recommend([0], k=2)
    assert "refit=True" not in caplog.text


def test_an_evaluation_takes_all_orders_of_equal_scores() -> None:
    # in training each item occurs as often as the others; what is asked for is item 0
    rows = [(user, (user + step) % 9, step) for user in range(9) for step in range(4)]
    rows += [(user, 0, 4) for user in range(9)]
    log = rg.load_data(pl.DataFrame(rows, schema=["user", "item", "time"], orient="row"))
    run = rg.fit("popularity", log.split("leave-one-out"), seed=0)
    asked: dict[str, Any] = {"seen": "keep", "cutoffs": (3,), "metrics": ("recall",)}
    drawn = run.evaluate("test", **asked)[0]
    expected = run.evaluate("test", **asked, ties="expectation")[0]
    assert drawn["recall@3"] != expected["recall@3"]
    assert drawn.hash != expected.hash
    (recorded,) = run.record.results["test"]
    assert recorded["protocol"]["ties"] == "expectation"
    assert expected["recall@3"] == pytest.approx(3 / 9)


@pytest.mark.parametrize("model", ["sasrec", "ease"])
def test_a_finished_run_is_given_back_as_it_is(model: str, split: Split, tmp_path: Path) -> None:
    training = {"max_epochs": 1} if model == "sasrec" else {}

    def fit(seed: int = 0, **more: Any) -> Any:
        return rg.fit(
            model, split, seed=seed, out=tmp_path / "run", device="cpu", **training, **more
        )

    fit().evaluate("test")
    before = RunRecord.read(tmp_path / "run")
    assert before.unsealed
    assert before.results
    again = fit(resume=True)
    assert RunRecord.read(tmp_path / "run") == again.record == before
    assert again.evaluate("test").to_dict() == before.results["test"]
    assert RunRecord.read(tmp_path / "run").unsealed == before.unsealed * 2, (
        "every opening of the test part"
    )
    with refused("resume=True"):
        fit()
    with refused("seed"):
        fit(seed=1, resume=True)


def test_another_process_in_the_folder_is_refused(split: Split, tmp_path: Path) -> None:
    with locked(tmp_path / "run" / LOCK), refused("run", by=InUse):
        fitted(split, tmp_path / "run")
    fitted(split, tmp_path / "run")


def test_a_folder_of_something_else_is_refused(split: Split, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with refused("out"):
        fitted(split, tmp_path)


def test_where_a_split_is_from_does_not_make_another_run(split: Split, tmp_path: Path) -> None:
    fitted(split, tmp_path / "run")
    fitted(
        split,
        tmp_path / "run",
        resume=True,
        source={"dataset": "mine", "settings": {"split": None}},
    )
    with refused("data"):
        fitted(Split.of(split.interactions, "ratio"), tmp_path / "run", resume=True)
    with refused("data"):
        rg.Run.open(tmp_path / "run", Split.of(split.interactions, "ratio"))


def test_what_is_given_comes_before_the_models_own_defaults_of_training(split: Split) -> None:
    own = parts_of(registry.load("model", "lightgcn"))["training"]()
    assert (own.batch_size, own.learning_rate) == (4096, 0.01)  # type: ignore[attr-defined]
    assert parts_of(registry.load("model", "sasrec"))["training"]() == TrainConfig()
    run = rg.fit("lightgcn", split, seed=0, device="cpu", max_epochs=1, batch_size=16)
    assert (run.record["training"]["batch_size"], run.record["training"]["learning_rate"]) == (
        16,
        0.01,
    )


SMALL = {"hidden_dim": 8, "encoder": {"n_heads": 1, "n_layers": 1}}


TRAINING: dict[str, Any] = {"seed": 0, "device": "cpu", "batch_size": 16, "patience": None}


N_KINDS = 9


def write_features(path: Path, step: int = 1) -> Path:
    rows = [{"item": item, "kind": f"k{item // step % 2}"} for item in range(N_KINDS)]
    pl.DataFrame(rows).write_csv(path)
    return path


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    rows = [(user, (user + step * step) % N_KINDS, step) for user in range(12) for step in range(6)]
    path = tmp_path / "log.csv"
    pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row").write_csv(path)
    write_features(tmp_path / "items.csv")
    return path


def split_of(csv: Path) -> Split:
    return rg.load_data(csv, item_features=csv.with_name("items.csv")).split("leave-one-out")


def in_memory(csv: Path, step: int = 1) -> Split:
    rows = [{"item": item, "kind": f"k{item // step % 2}"} for item in range(N_KINDS)]
    return rg.load_data(csv, item_features=pl.DataFrame(rows)).split("leave-one-out")


def reader() -> SASRec:
    return SASRec(**SMALL, items={"features": ("kind",)})


@pytest.mark.parametrize("is_trained", [False, True])
def test_the_entries_of_a_record(is_trained: bool, csv: Path, tmp_path: Path) -> None:
    model: Any = SASRec(**SMALL) if is_trained else rg.models.EASE()
    run = rg.fit(
        model,
        split_of(csv),
        seed=0,
        out=tmp_path / "run",
        **({"max_epochs": 1} if is_trained else {}),
    )
    names = ["model", "config", "training", "seed", "fitted_on", "data", "init_items", "history"]
    names += [*(["targets_per_epoch", "targets"] if is_trained else []), "results", "unsealed"]
    names += [
        "preparation",
        *(["best_epoch", "best"] if is_trained else []),
        "cost",
        "n_parameters",
        "provenance",
    ]
    written = json.loads((tmp_path / "run" / "record.json").read_text())
    assert list(written) == names
    assert run.record == RunRecord.read(tmp_path / "run")
    assert run.record["seed"] == 0
    assert run.record.get("update") is None
    assert "on" in repr(run)
    assert "<table" in run._repr_html_() or "recgraph" in run._repr_html_()
    assert len(written["data"]["features"]["item_features"]["sha256"]) == 64


def test_a_folder_without_a_record_is_no_run(csv: Path, tmp_path: Path) -> None:
    run = rg.fit("ease", split_of(csv), seed=0, out=tmp_path / "run")
    for folder in (tmp_path / "run" / "bundle", tmp_path / "nope"):
        with refused(str(folder)):
            rg.Run.open(folder)
    (tmp_path / "run" / "record.json").write_text(json.dumps({**run.record.to_json(), "seed": "x"}))
    with refused("record.json", "seed"):
        rg.Run.open(tmp_path / "run")


@pytest.mark.parametrize("made", [split_of, in_memory])
def test_a_run_is_not_opened_or_gone_on_with_with_other_features_where_its_model_reads_them(
    made: Any, csv: Path, tmp_path: Path
) -> None:
    folder, items = tmp_path / "run", tmp_path / "items.csv"
    rg.fit(reader(), made(csv), out=folder, max_epochs=1, **TRAINING)
    before = rg.Run.open(folder, made(csv)).evaluate("valid").to_dict()
    items.rename(tmp_path / "kept.csv")
    write_features(items, 2)
    other = split_of(csv) if made is split_of else in_memory(csv, 2)
    with refused("item_features", "SASRec"):
        rg.Run.open(folder, other)
    with refused("item_features", "SASRec"):
        rg.fit(reader(), other, out=folder, max_epochs=2, resume=True, **TRAINING)
    if made is split_of:  # the way out
        moved = rg.Run.open(folder, {"item_features": tmp_path / "kept.csv"})
        assert moved.evaluate("valid").to_dict() == before
