"""Calls of the public functions with arguments of any kind: each works, or raises the library's error for it."""

from __future__ import annotations

import datetime as dt
import sys
import traceback
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from campaign import minutes
from campaign import seed as of_cases
from hypothesis import HealthCheck, assume, example, given, seed, settings
from hypothesis import strategies as st

import recgraph as rg

ROOT = str(Path(rg.__file__).parent)
FRAME = pl.DataFrame(
    {"user": [1, 1, 1, 2, 2, 2, 3, 3, 3], "item": [1, 2, 3, 2, 3, 4, 1, 3, 4], "time": [*range(9)], "stars": [3.0] * 9}
)
LISTED = FRAME.unique(["user", "item"])
LOG = rg.Interactions.from_frame(FRAME, user="user", item="item", timestamp="time", rating="stars").with_features(
    item_features=pl.DataFrame({"item": [1, 2, 3, 4], "title": ["a", "b", "c", "d"]})
)
SPLIT = LOG.split()
RUN = rg.fit("popularity", SPLIT, seed=0, progress=False)
VECTORS = rg.fit("ease", SPLIT, seed=0, progress=False)


class Odd:
    """A class that the library does not know."""


ODD: tuple[Any, ...] = (
    *(None, True, np.bool_(True), Odd(), Odd, len, object(), b"x", 1 + 2j, range(3), {1}, ()),
    *(dt.date(2020, 1, 1), uuid.UUID(int=1), np.int64(2), np.float32(0.5), np.array(3), np.arange(3)),
    *(torch.arange(3), torch.tensor(2.5), pd.NA, pd.NaT, pd.Series([1, 2]), pd.DataFrame([[1, 2]])),
    *(pd.DataFrame([[1, 2]], columns=["user", "user"]), pl.DataFrame(), FRAME.clear()),
    *(FRAME, FRAME.lazy(), FRAME["user"], FRAME.to_pandas(), FRAME.to_arrow()),
    *(Path("there-is-none"), Path("x" * 300), "x" * 300, "\0", "\ud800", "", "none", "all", "cpu", "ndcg@10", "sasrec"),
    *(LOG, SPLIT, SPLIT.sealed(), RUN, RUN.recommender, rg.models.SASRec(), rg.models.SASRec, rg.Rules()),
    *([[1]], [None], [Odd()], [LOG], {1: [2]}, {1: 2}, {"user": [1], "item": [2]}, [{}], {"name": "mmr"}, [1, "a"]),
)
# no path of these leads out of the folder, or is a pattern
TEXTS = st.text(st.characters(exclude_characters="/\\*?[.~"), max_size=12)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.binary(max_size=4) | st.datetimes()
VALUES = (
    st.sampled_from(ODD)
    | PLAIN
    | st.lists(PLAIN, max_size=3)
    | st.dictionaries(TEXTS | st.integers(), PLAIN | st.lists(PLAIN, max_size=2), max_size=2)
    | TEXTS.map(Path)
)


@dataclass(frozen=True)
class Call:
    """A function of the library, with arguments with which it works or says what is missing.

    Attributes:
        function: the function.
        given: its arguments.
        changed: those that get a value of any kind, one at a time.
        small: those of them that are how much there is to do.
    """

    function: Callable[..., Any]
    given: Mapping[str, Any]
    changed: tuple[str, ...]
    small: tuple[str, ...] = ()


def _streamed(**given: Any) -> list[Any]:
    return list(RUN.recommender.stream(**given))


COLUMNS = ("user", "item", "timestamp", "rating", "weight", "time_format", "missing_ids")
SIDES = ("user_features", "item_features")
FILES = ("format", "separator", "names", "encoding")
OF_FRAME = {"frame": FRAME, "user": "user", "item": "item", "timestamp": "time"}
LISTS = ("k", "batch_size", "exclude_seen", "allow", "block", "rules", "fallback", "item_columns")
CALLS: dict[str, Call] = {
    "load_data": Call(rg.load_data, {"path": FRAME}, ("path", *COLUMNS, *FILES, *SIDES)),
    "from_frame": Call(rg.Interactions.from_frame, OF_FRAME, ("frame", *COLUMNS, *SIDES)),
    "read": Call(rg.Interactions.read, {"path": "there-is-none.csv"}, ("path", "format", *COLUMNS, "encoding")),
    "from_csv": Call(rg.Interactions.from_csv, {"path": "there-is-none.csv"}, ("path", *COLUMNS, "separator", "names")),
    "from_sequences": Call(rg.Interactions.from_sequences, {"path": "there-is-none"}, ("path", "user", "item")),
    "load_split": Call(rg.load_split, {"name": "there-is-none"}, ("name",)),
    "load_dataset": Call(rg.load_dataset, {"name": "there-is-none"}, ("name", "reading")),
    "with_features": Call(LOG.with_features, {}, (*SIDES, "graph")),
    "with_ids": Call(LOG.with_ids, {}, ("users", "items")),
    "k_core": Call(LOG.k_core, {}, ("users", "items")),
    "min_rating": Call(LOG.min_rating, {"threshold": 1}, ("threshold", "negative")),
    "deduplicate": Call(LOG.deduplicate, {}, ("policy",)),
    "split": Call(LOG.split, {}, ("strategy", "seed", "valid", "test", "short_users", "new_users", "minimum")),
    "split by time": Call(LOG.split, {"strategy": "time"}, ("valid", "test", "valid_from", "test_from", "new_users")),
    "split by ratio": Call(LOG.split, {"strategy": "ratio"}, ("seed", "valid", "test", "order")),
    "fit": Call(
        rg.fit,
        {"model": "popularity", "data": SPLIT, "seed": 0, "progress": False},
        *[("model", "data", "seed", "resume", "fit_on", "refit", "observers", "source", "memory_limit", "init_items")],
    ),
    "fit a model that is trained": Call(
        rg.fit,
        {"model": rg.models.BPRMF(hidden_dim=2), "data": SPLIT, "seed": 0, "progress": False, "max_epochs": 0},
        *[("device", "init_items", "init_items_scale", "max_epochs", "batch_size", "learning_rate", "metric")],
        *[("max_epochs",)],
    ),
    "fit_graph": Call(
        rg.fit_graph,
        {"model": rg.models.MEOW(metapaths=("a-b-a",)), "graph": None, "seed": 0},
        ("model", "graph", "seed", "task", "labels"),
    ),
    "tune": Call(
        rg.tune,
        {"model": "itemknn", "split": SPLIT, "n_trials": 1, "test_seeds": 0, "progress": False},
        *[("model", "split", "space", "n_trials", "metric", "settings", "sampler", "pruner", "study", "source")],
        *[("n_trials",)],
    ),
    "evaluate": Call(
        RUN.evaluate,
        {"part": "valid"},
        ("part", "seen", "cutoffs", "memory_mib", "metrics", "allow_fitted", "memory_limit", "rerank"),
    ),
    "recommend": Call(RUN.recommender.recommend, {"users": [1], "k": 2}, ("users", *LISTS)),
    "recommend to new users": Call(RUN.recommender.recommend, {"histories": {9: [1]}}, ("histories", *LISTS)),
    "stream": Call(_streamed, {"users": [1]}, ("users", "histories", *LISTS)),
    "user_vectors": Call(VECTORS.user_vectors, {}, ("users", "histories")),
    "similar": Call(
        VECTORS.similar, {"items": [1]}, ("items", "k", "by", "allow", "block", "item_columns", "batch_size")
    ),
    "plot": Call(RUN.plot, {"kind": "groups"}, ("kind", "part", "metric")),
    "update": Call(
        RUN.update,
        {"new_log": FRAME, "force": True, "progress": False},
        *[("new_log", "epochs", "replay", "learning_rate", "valid", "fold_in", "seed", "device", "memory_limit")],
        *[("epochs",)],
    ),
    "load": Call(rg.load, {"folder": "there-is-none"}, ("folder", "device")),
    "Run.open": Call(rg.Run.open, {"folder": "there-is-none"}, ("folder", "data")),
    "Split.load": Call(rg.Split.load, {"folder": "there-is-none", "reason": "a test"}, ("folder", "reason")),
    "unseal": Call(SPLIT.sealed().unseal, {"reason": "a test"}, ("reason",)),
    "from_parts": Call(
        rg.Split.from_parts,
        {"train": FRAME, "test": FRAME, "user": "user", "item": "item"},
        ("train", "valid", "test", "seed", *SIDES, *COLUMNS, "split"),
    ),
    "Rules": Call(rg.Rules, {}, tuple(rg.Rules.model_fields)),
    "Rules.of": Call(rg.Rules.of, {}, tuple(rg.Rules.model_fields)),
    "Rules.read": Call(rg.Rules.read, {"path": "there-is-none"}, ("path",)),
    "SASRec": Call(rg.models.SASRec, {}, ("config", "hidden_dim", "dropout", "loss")),
    "import_file": Call(rg.import_file, {"what": "there-is-none"}, ("what", "folder")),
    "register": Call(rg.register, {"kind": "model"}, ("kind", "name")),
    "table": Call(rg.evaluate.table, {"results": {"a": []}}, ("results", "metrics", "test", "alpha", "n_draws")),
    "frame": Call(
        rg.evaluate.frame,
        {"recommendations": LISTED, "truth": FRAME, "user": "user", "item": "item"},
        *[("recommendations", "truth", "user", "item", "score", "rank", "grade", "train", "features", "n_items")],
    ),
    "explain": Call(rg.explain.explain, {"run": RUN, "user": 1, "k": 1}, ("run", "user", "k", "n_near", "attribution")),
    "load_board": Call(rg.leaderboard.load_board, {"name": "there-is-none"}, ("name",)),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_works_or_says_what_is_wrong(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = CALLS[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    @seed(of_cases())
    @settings(max_examples=int((5 if call.small else 15) + 3000 * minutes()), suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(call.changed), VALUES)
    @example(call.changed[0], FRAME)
    @example(call.changed[0], None)
    def check(argument: str, value: Any) -> None:
        assume(argument not in call.small or not isinstance(value, int | float | np.number) or value < 3)
        try:
            call.function(**{**call.given, argument: value})
        except (ValueError, FileNotFoundError, ImportError) as error:
            raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
            if not raised_in.startswith(ROOT):
                raise AssertionError(f"an error of {raised_in}") from error

    check()
    capsys.readouterr()


def test_a_log_is_read_from_a_frame_as_from_a_file(tmp_path: Path) -> None:
    titles = pl.DataFrame({"item": [1, 2, 3, 4], "title": ["a", "b", "c", "d"]})
    FRAME.write_csv(tmp_path / "log.csv")
    titles.write_csv(tmp_path / "titles.csv")
    written = rg.load_data(tmp_path / "log.csv", item_features=tmp_path / "titles.csv")
    for frame in (FRAME, FRAME.lazy(), FRAME.to_pandas(), FRAME.to_arrow()):
        for features in (titles, titles.to_pandas(), tmp_path / "titles.csv"):
            data = rg.load_data(frame, item_features=features)
            assert data.columns == written.columns
            assert data.split().hash == written.split().hash
            assert data.item_features is not None
            assert data.item_features.equals(titles)
    assert rg.load_data(FRAME, timestamp="none").columns.timestamp is None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rg.load_data({"user": [1], "item": [1]}), ["path is a dict", "polars", "'logs/*.csv'"]),
        (lambda: rg.load_data(FRAME, separator=";"), ["separator = ';' says how files are read", "leave it out"]),
        (lambda: rg.load_data("x" * 5000), ["path = 'xxx", "longer than a path"]),
        (lambda: rg.load_data("a\0b"), ["path = 'a\\x00b' holds a NUL character"]),
        (
            lambda: rg.fit("popularity", FRAME, seed=0),
            ["data = ", "DataFrame must be", "rg.load_data(a file or a frame)"],
        ),
        (lambda: rg.fit("popularity", SPLIT, seed="0"), ["seed = '0' must be a whole number"]),
        (
            lambda: RUN.evaluate("valid", metrics="ndcg@10"),
            ["metrics = 'ndcg@10' must be a list of names, as metrics=('ndcg@10',)"],
        ),
        (lambda: RUN.recommend([1], k=2.5), ["k = 2.5 must be a whole number"]),
        (lambda: RUN.recommend(FRAME), ["users = ", "must be a list, an array or a series of ids"]),
        (
            lambda: RUN.recommend([1], item_columns="title"),
            ["item_columns = 'title' must be a list of names, as item_co"],
        ),
        (lambda: rg.load(None), ["folder = None must be a text or a path"]),
        # found by long runs
        (lambda: rg.load_data(FRAME, time_format="\ud800"), ["has not the form time_format='\\ud800'"]),
        (lambda: rg.load_data(pd.DataFrame([[1, 2]])), ["no column looks like the user", "'0', '1'"]),
        (lambda: rg.load_dataset("x" * 300), ["dataset 'xxx"]),
        (lambda: LOG.with_features(graph=LOG), ["graph = Interactions(", "e.g. HeteroGraph.from_frames"]),
        (lambda: LOG.min_rating(2**127), ["leaves none of 9 interactions"]),
        (lambda: LOG.split("time", valid_from=pd.NaT, test_from=1), ["valid_from = NaT: it is no moment"]),
        (lambda: RUN.evaluate("valid", cutoffs=[2**64]), ["cut-off must be at most 2,147,483,647"]),
        (lambda: RUN.recommend(np.array(["\ud800"])), ["users of type str cannot be ids"]),
        (lambda: RUN.update("x" * 300, force=True), ["new_log = 'xxx", "longer than a path"]),
        (
            lambda: rg.evaluate.frame(LISTED, FRAME, user="user", item="item", n_items=2**62),
            ["items that a catalogue may have"],
        ),
        (lambda: rg.explain.explain(RUN, -(2**127) - 1), ["ids of type int cannot be ids"]),
        (lambda: rg.explain.explain("x" * 300, 1), ["run = 'xxx", "longer than a path"]),
        (lambda: rg.fit(rg.models.BPRMF(), SPLIT, seed=0, init_items=pd.DataFrame([[1, 2]])), ["has the columns 0"]),
        (lambda: rg.evaluate.frame(FRAME, FRAME, user="user", item="item", grade=""), ["truth has no column ''"]),
    ],
)
def test_errors_name_the_argument_its_value_and_what_may_be_given(call: Callable[[], Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    for part in words:
        assert part in str(caught.value)


def test_numbers_and_arrays_of_numpy_are_taken_as_pythons() -> None:
    run = rg.fit("popularity", SPLIT, seed=np.int64(3), progress=False)  # type: ignore[arg-type]
    assert type(run.record.seed) is int
    listed = run.evaluate("valid", cutoffs=[1, 2])
    assert run.evaluate("valid", cutoffs=np.array([1, 2])).to_dict() == listed.to_dict()  # type: ignore[arg-type]
    assert len(run.recommend([1], k=np.int32(1))) == 1
