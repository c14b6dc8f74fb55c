"""Item vectors to begin with: matched by id whatever the order, scaled, recorded, refused where
they do not fit.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from refusing import refused

import recgraph as rg
from recgraph.data.catalog.synthetic import Synthetic, generate
from recgraph.data.split import Split
from recgraph.models.base import Space, item_table
from recgraph.train import fit as experiment
from recgraph.train.observers import Observer
from recgraph.train.pretrained import initial_items

TABLES = generate(Synthetic(n_users=60, n_items=40, n_groups=2, max_length=5, min_length=5))
SMALL = {"hidden_dim": 8, "encoder": {"n_layers": 1, "n_heads": 1, "inner_dim": 8}, "max_len": 8}
ONCE: dict[str, Any] = {"max_epochs": 1, "seed": 0, "progress": False}
#: items that the second log has and the first has not
NEW = (901, 902)


def split_of(log: pl.DataFrame) -> Split:
    return rg.Interactions.from_frame(
        log, user="user_id", item="item_id", timestamp="timestamp"
    ).split("leave-one-out")


@pytest.fixture(scope="module")
def earlier() -> Split:
    return split_of(TABLES["interactions"])


@pytest.fixture(scope="module")
def split() -> Split:
    """The same shop later: rows in another order, so that indices differ, some items gone and two
    new ones.
    """
    log = TABLES["interactions"].filter(pl.col("item_id") > 3)
    new = pl.DataFrame({"user_id": [1, 2], "item_id": list(NEW), "timestamp": [10, 10]})
    return split_of(pl.concat([new, log]).sample(fraction=1.0, shuffle=True, seed=3))


class Began(Observer):
    """Keeps the table of items as it is before the first step."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def start_epoch(self, epoch: int, n_batches: int, done: int) -> None:
        self.table = item_table(self.model).detach().clone()


def begun(split: Split, source: Any, **settings: Any) -> tuple[rg.Run, torch.Tensor]:
    model = rg.models.SASRec(**SMALL)
    watch = Began(model)
    return rg.fit(
        model, split, init_items=source, observers=(watch,), **ONCE, **settings
    ), watch.table


def test_a_graph_model_is_where_a_sequence_model_begins(
    earlier: Split, split: Split, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pretrained = rg.fit(rg.models.LightGCN(hidden_dim=8), earlier, out=tmp_path / "graph", **ONCE)
    with torch.no_grad():
        vectors = pretrained.model.encode_items()
    theirs, ours = earlier.items, split.items
    common = [item for item in ours.values if item not in NEW]
    with caplog.at_level(logging.WARNING):
        run, table = begun(split, tmp_path / "graph")
    assert f"vectors of {len(common)} of {len(ours)} items; 2 keep their random ones" in caplog.text
    assert "fitted on another split" in caplog.text
    random = item_table(
        rg.models.SASRec(**SMALL).build(Space(n_users=len(split.users), n_items=len(ours)), 0)
    )
    given = vectors[torch.from_numpy(theirs.index(common))]
    factor = random.std(correction=0) / given.std(correction=0)
    torch.testing.assert_close(table[torch.from_numpy(ours.index(common))], given * factor)
    rows = torch.from_numpy(ours.index(list(NEW)))
    assert torch.equal(table[rows], random[rows])
    kept = run.record["init_items"]
    assert (kept["source"], kept["kind"], kept["n_found"]) == (
        str(tmp_path / "graph"),
        "recommender",
        len(common),
    )
    assert kept["source_record"]["data"]["split_hash"] == earlier.hash
    # the run itself, and its bundle, are the same source
    for same in (pretrained, pretrained.recommender, tmp_path / "graph" / "bundle"):
        assert initial_items(same, split.sealed()).record["digest"] == kept["digest"]


def test_frames_and_mappings_by_id_as_they_are(split: Split) -> None:
    draw = np.random.default_rng(0)
    ids = list(split.items.values)
    vectors = draw.normal(size=(len(ids), 8)).astype(np.float32)
    order = draw.permutation(len(ids))
    pd = pytest.importorskip("pandas")
    shuffled = {"vector": [vectors[i] for i in order], "item_id": [ids[i] for i in order]}
    sources = {
        "mapping": {ids[i]: vectors[i].tolist() for i in order},
        "pandas": pd.DataFrame(shuffled),
        "polars": pl.DataFrame(shuffled),
    }
    for name, source in sources.items():
        model = rg.models.BPRMF(hidden_dim=8).build(Space(n_users=3, n_items=len(ids)))
        initial_items(source, split.sealed(), "given").write(model)
        assert torch.equal(item_table(model), torch.from_numpy(vectors)), name


def test_what_does_not_fit_is_refused(split: Split, tmp_path: Path) -> None:
    ids = list(split.items.values)
    good = {item: [float(n), 1.0, 0.5] for n, item in enumerate(ids)}
    wrong: list[Any] = [
        {-item: v for item, v in good.items()},
        {**good, ids[0]: [1.0, float("nan"), 0.0]},
        7,
        rg.fit("popularity", split, seed=0),
    ]
    for source in wrong:
        with refused("init_items"):
            initial_items(source, split.sealed())
    with refused("init_items", "hidden_dim"):
        rg.fit(rg.models.SASRec(**SMALL), split, init_items=good, out=tmp_path / "run", **ONCE)
    assert not (tmp_path / "run").exists()


def test_it_is_a_setting_and_part_of_what_a_resumed_run_must_agree_in(
    monkeypatch: pytest.MonkeyPatch, split: Split, tmp_path: Path
) -> None:
    rg.fit(rg.models.BPRMF(hidden_dim=8), split, out=tmp_path / "bpr", **ONCE)
    monkeypatch.setattr(experiment.DataConfig, "split_of", lambda self, dataset: split)
    settings = {**SMALL, "max_epochs": 1, "init_items": str(tmp_path / "bpr")}
    run = experiment.train("SASRec", "synthetic", tmp_path / "run", settings=settings, seed=0)
    assert run.record["init_items"]["source"] == str(tmp_path / "bpr")
    again = {"seed": 0, "resume": True}
    assert experiment.train(
        "SASRec", "synthetic", tmp_path / "run", settings=settings, **again
    ).record["init_items"]
    with refused("init_items"):
        without = {**settings, "init_items": None}
        experiment.train("SASRec", "synthetic", tmp_path / "run", settings=without, **again)
